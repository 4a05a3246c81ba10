//! The entries of a sole voter above its checkpoint, applied before the engine starts.
//!
//! Each of them is committed by the election that follows, and no other replica can have one cut. The engine would
//! elect itself and write a blank entry first, and read them only then. So they are read here, while the log is still
//! as the last run left it: a log that cannot be read is not written to. The engine finds them applied.

use std::{collections::BTreeSet, io, ops::ControlFlow, ops::Range, sync::Arc};

use fanfare_environment::Environment;
use fanfare_log::{Frame, Log, ReadError};

use crate::{
    apply::{Applier, RUN_ENTRIES_MAX},
    entry::{Entry, EntryPayload, voters},
    failure::GroupFailure,
    id::ReplicaId,
    log_storage::{APPLY_BYTES_MAX, LogStorage},
    machine::KIND_MEMBERSHIP,
};

pub(crate) struct Replay<'a> {
    pub(crate) replica: ReplicaId,
    pub(crate) applier: &'a Arc<Applier>,
    pub(crate) storage: &'a LogStorage,
    pub(crate) environment: &'a Environment,
}

impl Replay<'_> {
    /// Applies what the log holds above what is applied, if this replica is the only voter.
    ///
    /// # Errors
    /// If an entry cannot be read. An entry that the machine refuses is no error: the group opens, serves what comes
    /// before it, and fails of it, as at any later moment.
    pub(crate) async fn run(&self) -> io::Result<()> {
        let next = self.applier.progress.lock().applied.map_or(0, |applied| applied.index + 1);
        let (mut next, end) = self.storage.held(next..);
        if next >= end || !self.is_sole_voter(next..end).await? {
            return Ok(());
        }
        while next < end {
            let applier = self.applier.clone();
            match self.environment.run_blocking(move || apply_piece(&applier, next..end)).await {
                Ok(after) => next = after,
                Err(_) if matches!(self.applier.failure.get(), Some(GroupFailure::Entry { .. })) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// True if this replica is the only voter of the last membership, committed or not: the one that Raft goes by.
    async fn is_sole_voter(&self, unapplied: Range<u64>) -> io::Result<bool> {
        let log = self.applier.log.clone();
        let newest = self.environment.run_blocking(move || newest_membership(&log, unapplied)).await;
        let voters = match self.storage.noted(newest)? {
            None => voters(self.applier.progress.lock().membership().membership()),
            Some(frame) => match Entry::from_frame(frame).map_err(io::Error::other)?.payload {
                EntryPayload::Membership(membership) => voters(&membership),
                _ => BTreeSet::new(),
            },
        };
        Ok(voters == BTreeSet::from([self.replica.0]))
    }
}

/// The newest membership among `indexes`, found by the headers of the entries. Blocking.
fn newest_membership(log: &Log, indexes: Range<u64>) -> Result<Option<Frame>, ReadError> {
    let mut newest = None;
    log.scan_headers(
        indexes,
        |_| 0,
        |header, _| {
            if header.kind == KIND_MEMBERSHIP {
                newest = Some(header.position.index);
            }
            ControlFlow::Continue(())
        },
    )?;
    let Some(index) = newest else { return Ok(None) };
    Ok(log.read(index, index + 1, 0)?.into_iter().next())
}

/// Applies the first entries of `indexes`, 4 MiB at most; returns the index that follows them. Blocking.
fn apply_piece(applier: &Applier, indexes: Range<u64>) -> io::Result<u64> {
    let read = applier.log.read(indexes.start, indexes.end, APPLY_BYTES_MAX);
    let frames = read.map_err(|error| applier.fail(GroupFailure::damaged(error)))?;
    let Some(last) = frames.last() else {
        let detail = format!("the log ends before entry {}, and was said to hold it", indexes.start);
        return Err(applier.fail(GroupFailure::damaged(detail)));
    };
    let next = last.header.position.index + 1;
    let mut frames = frames.into_iter();
    while frames.len() > 0 {
        let run = frames.by_ref().take(RUN_ENTRIES_MAX).map(|frame| Ok((Entry::from_frame(frame)?, None)));
        let run = run.collect::<Result<_, crate::codec::Malformed>>();
        applier.apply_run(run.map_err(|error| applier.fail(GroupFailure::damaged(error)))?)?;
    }
    Ok(next)
}
