//! The worker that does the background jobs of a data directory, one per round.

use std::sync::Arc;

use fanfare_environment::{Next, Worker};

use super::{BackgroundJob, NextJob};
use crate::{
    error::Fatal,
    secondary_index,
    segment::index::INDEX_VERSION,
    segment::preallocated,
    store::{sealed_file, shared::StoreShared},
};

pub(crate) struct BackgroundWorker {
    store: Arc<StoreShared>,
}

impl BackgroundWorker {
    pub(crate) fn new(store: Arc<StoreShared>) -> Self {
        Self { store }
    }
}

impl Worker for BackgroundWorker {
    fn run_round(&mut self) -> Next {
        match self.store.background.take() {
            NextJob::Job(job) => {
                perform(&self.store, job);
                Next::Now
            }
            NextJob::Idle => Next::Notified,
            NextJob::Stopped => Next::End,
        }
    }
}

fn perform(store: &StoreShared, job: BackgroundJob) {
    let fs = &*store.fs;
    match job {
        BackgroundJob::DropCached(range) => range.drop_cached(),
        BackgroundJob::WriteIndex { path, content } => {
            let result = fs
                .create(&path)
                .and_then(|file| file.write_all_at(&sealed_file::encode(INDEX_VERSION, &content), 0));
            if let Err(error) = result {
                tracing::warn!(path = %path.display(), %error, "failed to write segment index; the next start rebuilds it");
            }
        }
        BackgroundJob::Recycle { segment, indexes } => {
            // After a failure nothing is written any more. The next start removes what the journal says is freed.
            if store.fatal.get().is_some() {
                return;
            }
            // The indexes first: a crash in between leaves a segment that the next start removes with what belongs to it.
            for path in &indexes {
                secondary_index::remove_file(fs, path);
            }
            let path = segment.path.clone();
            if let Err(error) = store.pool.give(fs, segment) {
                store.fatal.set(Fatal::new("recycle", &path, &error));
            }
        }
        BackgroundJob::Preallocate { path, segment_bytes, segment } => {
            if !segment.begin() {
                return;
            }
            // A file that is not made here is made by the flusher, which reports why that fails.
            let made = match store.fatal.get() {
                Some(_) => None,
                None => preallocated::make(fs, &store.pool, &path, segment_bytes)
                    .inspect_err(|error| {
                        tracing::warn!(path = %path.display(), %error, "failed to preallocate a segment; the flusher makes it when it is needed");
                    })
                    .ok(),
            };
            segment.finish(made);
        }
    }
}
