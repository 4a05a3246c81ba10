//! Reading for one account what is on disk: entries in which it has no section are passed over unread.

use fanfare_log::{Frame, IndexKey, Log, Peek};
use fanfare_model::{AccountId, Offset};

use super::{
    FramesError, READ_BYTES_MIN, Reader, View,
    shelf::{Found, Run},
};
use crate::tags;

/// An account in at most one of so many entries is read for alone: what others need is mostly elsewhere.
const SPARSE: u64 = 16;
/// Parts of the log looked up before whoever waits is asked whether to go on.
const LOOKS_MAX: usize = 64;

/// Some entries, and up to where there are no others for the account.
pub(super) struct Part {
    pub(super) run: Run,
    pub(super) upto: Option<Offset>,
}

/// What the index makes of a wish to read.
enum Plan {
    /// Nothing up to there.
    Pass(Offset),
    Read {
        frames: Vec<Frame>,
        upto: Offset,
    },
    /// All entries from this one on.
    Sweep {
        index: u64,
        offset: Offset,
    },
}

impl Reader {
    pub(super) async fn of_account(
        &self,
        account: AccountId,
        offset: Offset,
        view: View,
        bytes_max: u64,
    ) -> Result<Part, FramesError> {
        let is_single = bytes_max < READ_BYTES_MIN;
        if let Some(frames) = self.cached(&view, bytes_max.max(READ_BYTES_MIN)) {
            return Ok(Part { run: Run::new(frames), upto: None });
        }
        if !is_single && let Found::Frames(run) = self.shelf.find(offset) {
            return Ok(Part { run, upto: None });
        }
        let look = Look {
            log: self.group.log().clone(),
            tag: tags::account_tag(account),
            end: view.end_index,
            bytes_max,
            is_single,
        };
        let known = view.index;
        let plan = self.blocking(move || Ok(look.plan(known, offset))).await??;
        match plan {
            Plan::Pass(upto) => Ok(Part { run: Run::new(Vec::new()), upto: Some(upto) }),
            Plan::Read { frames, upto } => Ok(Part { run: Run::new(frames), upto: Some(upto) }),
            Plan::Sweep { index, offset } if is_single => {
                let frames = self.cold(offset, Some(index), view.end_index, READ_BYTES_MIN).await?;
                Ok(Part { run: Run::new(frames), upto: None })
            }
            Plan::Sweep { index, offset } => {
                let run = self.shared(offset, &View { index: Some(index), ..view }).await?;
                Ok(Part { run, upto: None })
            }
        }
    }
}

/// From an offset on, for entries with the tag.
struct Look {
    log: Log,
    tag: IndexKey,
    end: u64,
    bytes_max: u64,
    is_single: bool,
}

impl Look {
    fn plan(&self, known: Option<u64>, mut offset: Offset) -> Result<Plan, FramesError> {
        let index = known.map_or_else(|| self.log.index_of_offset(offset.0), |index| Ok(Some(index)))?;
        let mut index = index.ok_or(FramesError::Absent)?;
        for _ in 0..LOOKS_MAX {
            let Some(ahead) = self.log.peek(self.tag, index..self.end)? else {
                return Ok(Plan::Sweep { index, offset });
            };
            match ahead.first {
                None => (index, offset) = (ahead.end.index, Offset(ahead.end.base_offset)),
                Some(_) if self.is_single || is_sparse(&ahead, index) => return self.read(index),
                Some(first) => {
                    let offset = offset.max(Offset(first.base_offset));
                    return Ok(Plan::Sweep { index: first.index, offset });
                }
            }
            if index >= self.end {
                break;
            }
        }
        Ok(Plan::Pass(offset))
    }

    fn read(&self, index: u64) -> Result<Plan, FramesError> {
        let found = self.log.read_keyed(self.tag, index..self.end, self.bytes_max)?;
        let found = found.ok_or(FramesError::Absent)?;
        Ok(Plan::Read { frames: found.frames, upto: Offset(found.next.base_offset) })
    }
}

fn is_sparse(ahead: &Peek, from: u64) -> bool {
    ahead.frames * SPARSE <= ahead.end.index - from
}
