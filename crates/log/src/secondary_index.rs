//! The secondary index: which frames of a segment carry a key. Keys are computed by the log's owner; the log knows
//! nothing else of them.
//!
//! The newest segment's keys are drafted in memory, a little behind its end; sealing the segment writes them to a file
//! beside it. All of it may be lost at any time: frames without an index are read one by one, and the index is built
//! again. An index belongs to one segment with one end, so it never speaks for truncated frames or a recycled file.
mod builder;
mod draft;
mod file;
mod keys;
mod lookup;
mod open_files;
mod postings;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

pub(crate) use builder::{BuildJob, Builder, remove_file};
pub use keys::{IndexKey, IndexKeys};
pub use lookup::{FrameStart, KeyedFrames, Peek};
pub(crate) use lookup::{KeyedSource, SegmentRange};

use crate::{
    frame::Link,
    segment::{index::Entry, number::SegmentNumber},
};
use draft::Draft;

/// Bytes written to a log, or one sealed segment, after which the builder is woken.
const DRAFT_STEP_BYTES: u64 = 1024 * 1024;

/// Where a frame starts in its segment file, or where the one after the last would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameLocation {
    pub(crate) byte: u64,
    pub(crate) base_offset: u64,
    pub(crate) link: Link,
}

impl FrameLocation {
    pub(crate) fn entry(self, index: u64) -> Entry {
        let Self { byte, base_offset, link } = self;
        Entry { index, base_offset, time_ms_before: 0, byte, link }
    }
}

/// The segment that an index describes, with its end. After a truncation the same file is another segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRef {
    pub(crate) number: SegmentNumber,
    pub(crate) nonce: u64,
    pub(crate) first_index: u64,
    /// Index after the last frame.
    pub(crate) next_index: u64,
    pub(crate) end: FrameLocation,
}

/// The builder's work on one sealed segment. No entry means that the builder has yet to begin.
#[derive(Clone, Copy, Debug)]
struct Build {
    segment: SegmentRef,
    state: BuildState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BuildState {
    Running,
    Written,
    Failed,
}

/// One log's part of the index.
#[derive(Default)]
pub(crate) struct SecondaryIndex {
    started: OnceLock<(IndexKeys, Arc<Builder>)>,
    published_bytes: AtomicU64,
    /// Keys of the newest segment, or of one that was the newest until just now.
    draft: Mutex<Option<Draft>>,
    /// Sealed segments that the builder works or has worked on, by number.
    builds: Mutex<BTreeMap<SegmentNumber, Build>>,
    /// Set while sealed segments may wait for the builder.
    has_pending: AtomicBool,
}

impl SecondaryIndex {
    /// # Panics
    /// If the log was started with keys of another version.
    fn start(&self, keys: IndexKeys, builder: &Arc<Builder>) {
        let (used, _) = self.started.get_or_init(|| (keys, builder.clone()));
        assert_eq!(used.version, keys.version, "invariant violation: a log has one kind of index keys");
        self.has_pending.store(true, Ordering::Release);
    }

    fn keys(&self) -> Option<IndexKeys> {
        self.started.get().map(|(keys, _)| *keys)
    }

    pub(crate) fn builder(&self) -> Option<&Builder> {
        self.started.get().map(|(_, builder)| &**builder)
    }

    fn draft_bytes(&self) -> u64 {
        self.draft.lock().as_ref().map_or(0, Draft::bytes)
    }

    fn abandon_draft(&self) {
        if let Some(draft) = &mut *self.draft.lock() {
            draft.abandon();
        }
    }

    /// Counts bytes that became readable, and wakes the builder once enough have. Called by the flusher alone.
    pub(crate) fn note_published(&self, bytes: u64) {
        let Some(builder) = self.builder() else { return };
        let published = self.published_bytes.load(Ordering::Relaxed) + bytes;
        let is_due = published >= DRAFT_STEP_BYTES;
        self.published_bytes.store(if is_due { 0 } else { published }, Ordering::Relaxed);
        if is_due {
            builder.wake();
        }
    }

    /// Wakes the builder: a segment was sealed, or an index turned out to be damaged.
    pub(crate) fn note_pending(&self) {
        if let Some(builder) = self.builder() {
            self.has_pending.store(true, Ordering::Release);
            builder.wake();
        }
    }

    /// The index file is gone. A build that runs meanwhile may have looked at that file, so it does not count.
    fn request_rebuild(&self, number: SegmentNumber) {
        self.builds.lock().remove(&number);
        self.note_pending();
    }

    fn is_written(&self, segment: &SegmentRef) -> bool {
        let builds = self.builds.lock();
        builds
            .get(&segment.number)
            .is_some_and(|build| build.state == BuildState::Written && build.segment == *segment)
    }

    /// `finish_build` follows, unless the store closes.
    fn begin_build(&self, segment: SegmentRef) {
        self.builds.lock().insert(segment.number, Build { segment, state: BuildState::Running });
    }

    /// The segment stays pending if a rebuild was requested since `begin_build`.
    fn finish_build(&self, segment: &SegmentRef, is_written: bool) {
        let mut builds = self.builds.lock();
        // Without this check a file that a lookup has removed as damaged would be recorded as written, and lookups
        // would read the whole segment until one of them misses the file.
        if let Some(build) = builds.get_mut(&segment.number)
            && build.state == BuildState::Running
            && build.segment == *segment
        {
            build.state = if is_written { BuildState::Written } else { BuildState::Failed };
        }
    }

    fn take_has_pending(&self) -> bool {
        self.has_pending.swap(false, Ordering::AcqRel)
    }

    /// Sequences of the `sealed` segments that wait for the builder.
    pub(crate) fn pending_of(&self, sealed: &[SegmentRef]) -> Vec<SegmentNumber> {
        let builds = self.builds.lock();
        let is_pending = |segment: &&SegmentRef| {
            let build = builds.get(&segment.number).filter(|build| build.segment == **segment);
            build.is_none_or(|build| build.state == BuildState::Running)
        };
        sealed.iter().filter(is_pending).map(|segment| segment.number).collect()
    }

    /// Forgets the build of a segment that is gone.
    fn forget_build(&self, number: SegmentNumber) {
        self.builds.lock().remove(&number);
    }
}
