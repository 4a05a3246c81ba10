//! Reading the events of one account from disk: entries without a section of the account are skipped unread.

use fanfare_log::{Frame, IndexKey, Log, Peek};
use fanfare_model::{AccountId, Offset};

use super::{
    FramesError, READ_BYTES_MIN, ReadView, Reader,
    read_cache::{FrameRange, Lookup},
};
use crate::index_keys;

/// An account with a section in at most one of this many entries is read alone: other readers mostly need other
/// entries.
const SPARSE_ENTRIES: u64 = 16;
/// Parts of the log looked up before the read yields to its caller.
const PEEKS_MAX: usize = 64;

/// Frames to take events from, and the offset below which the account has no others.
pub(super) struct AccountFrames {
    pub(super) range: FrameRange,
    /// None: only as far as the frames reach.
    pub(super) complete_to: Option<Offset>,
}

/// The cheapest way to go on, by the index of accounts.
enum ReadPlan {
    /// The account has nothing below this offset.
    Skip(Offset),
    /// The account is in few entries: these, and no others below `complete_to`.
    Sparse { frames: Vec<Frame>, complete_to: Offset },
    /// The account is in many entries: read all of them from this one on.
    Sequential { index: u64, offset: Offset },
}

impl Reader {
    pub(super) async fn account_frames(
        &self,
        account: AccountId,
        offset: Offset,
        view: ReadView,
        bytes_max: u64,
    ) -> Result<AccountFrames, FramesError> {
        let all = |range| AccountFrames { range, complete_to: None };
        let is_single = bytes_max < READ_BYTES_MIN;
        if let Some(frames) = self.read_tail(&view, bytes_max.max(READ_BYTES_MIN)) {
            return Ok(all(FrameRange::new(frames)));
        }
        if !is_single && let Lookup::Frames(range) = self.read_cache.lookup(offset) {
            return Ok(all(range));
        }
        let scan = AccountScan {
            log: self.group.log().clone(),
            key: index_keys::account_key(account),
            end: view.end_index,
            bytes_max,
            is_single,
        };
        let start_index = view.index;
        match self.blocking(move || scan.plan(start_index, offset)).await? {
            ReadPlan::Skip(to) => {
                Ok(AccountFrames { range: FrameRange::new(Vec::new()), complete_to: Some(to) })
            }
            ReadPlan::Sparse { frames, complete_to } => {
                Ok(AccountFrames { range: FrameRange::new(frames), complete_to: Some(complete_to) })
            }
            ReadPlan::Sequential { index, offset } if is_single => {
                let frames = self.read_disk(offset, Some(index), view.end_index, READ_BYTES_MIN).await?;
                Ok(all(FrameRange::new(frames)))
            }
            ReadPlan::Sequential { index, offset } => {
                self.read_shared(offset, &ReadView { index: Some(index), ..view }).await.map(all)
            }
        }
    }
}

/// A scan of the index of accounts for the entries with one key.
struct AccountScan {
    log: Log,
    key: IndexKey,
    end: u64,
    bytes_max: u64,
    is_single: bool,
}

impl AccountScan {
    fn plan(&self, start_index: Option<u64>, mut offset: Offset) -> Result<ReadPlan, FramesError> {
        let index =
            start_index.map_or_else(|| self.log.index_of_offset(offset.0), |index| Ok(Some(index)))?;
        let mut index = index.ok_or(FramesError::Absent)?;
        for _ in 0..PEEKS_MAX {
            let Some(peek) = self.log.peek(self.key, index..self.end)? else {
                return Ok(ReadPlan::Sequential { index, offset });
            };
            match peek.first {
                None => (index, offset) = (peek.end.index, Offset(peek.end.base_offset)),
                Some(_) if self.is_single || is_sparse(&peek, index) => return self.read_sparse(index),
                Some(first) => {
                    let offset = offset.max(Offset(first.base_offset));
                    return Ok(ReadPlan::Sequential { index: first.index, offset });
                }
            }
            if index >= self.end {
                break;
            }
        }
        Ok(ReadPlan::Skip(offset))
    }

    fn read_sparse(&self, index: u64) -> Result<ReadPlan, FramesError> {
        let keyed = self.log.read_keyed(self.key, index..self.end, self.bytes_max)?;
        let keyed = keyed.ok_or(FramesError::Absent)?;
        Ok(ReadPlan::Sparse { frames: keyed.frames, complete_to: Offset(keyed.next.base_offset) })
    }
}

fn is_sparse(peek: &Peek, from: u64) -> bool {
    peek.frames * SPARSE_ENTRIES <= peek.end.index - from
}
