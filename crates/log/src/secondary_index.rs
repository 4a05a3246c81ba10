//! Which frames of a segment carry a tag: a hash by which the log's owner looks for frames. The log computes tags
//! with a function that its owner gives it, and knows nothing else of them.
//!
//! The newest segment's tags are drafted in memory, a little behind its end; when it is sealed they go into a file
//! beside it. All of it can be lost at any time: what has no index is read frame by frame, and built again. An index
//! belongs to one segment with one end, so it never speaks for frames that were cut, nor for a recycled file.
mod builder;
mod draft;
mod file;
mod loaded;
mod postings;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

pub(crate) use builder::{Builder, Job, remove};
pub(crate) use draft::Draft;
pub(crate) use file::TagIndex;
pub(crate) use postings::{Candidates, Postings, Run, candidates, newest_candidate};

use crate::{
    frame::{Frame, Link},
    segment::SegmentHeader,
    segment::index::Entry,
};

/// A frame with this tag is found by every tag: its owner could not tell what is in it.
pub const ANY_TAG: u64 = u64::MAX;

/// The builder is woken when so much has been written to a log, and when a segment is sealed.
const DRAFT_STEP_BYTES: u64 = 1024 * 1024;

/// Says by which tags a frame is found. Pure: files written under one version are valid for ever.
#[derive(Clone, Copy, Debug)]
pub struct Tagger {
    pub version: u32,
    pub tags: fn(&Frame, &mut Vec<u64>),
}

/// Where a frame stands, or where one after the last would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) byte: u64,
    pub(crate) base_offset: u64,
    pub(crate) link: Link,
}

impl Place {
    pub(crate) fn entry(self, index: u64) -> Entry {
        let Self { byte, base_offset, link } = self;
        Entry { index, base_offset, time_ms_before: 0, byte, link }
    }
}

/// The segment that an index speaks for, and its end. A truncated segment is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) sequence: u64,
    pub(crate) nonce: u64,
    pub(crate) first_index: u64,
    /// Index after the last frame.
    pub(crate) next_index: u64,
    pub(crate) end: Place,
}

/// What became of a sealed segment's index.
#[derive(Clone, Copy, Debug)]
struct Settled {
    subject: Subject,
    is_written: bool,
}

/// A log's part of it.
#[derive(Default)]
pub(crate) struct Tags {
    indexing: OnceLock<(Tagger, Arc<Builder>)>,
    published_bytes: AtomicU64,
    /// Of the newest segment, or of one that was the newest until just now.
    pub(crate) draft: Mutex<Option<Draft>>,
    /// Sealed segments that the builder has looked after, by sequence.
    settled: Mutex<BTreeMap<u64, Settled>>,
    /// There may be sealed segments that it has not.
    has_unsettled: AtomicBool,
}

impl Tags {
    pub(crate) fn start(&self, tagger: Tagger, builder: &Arc<Builder>) {
        let (kept, _) = self.indexing.get_or_init(|| (tagger, Arc::clone(builder)));
        assert_eq!(kept.version, tagger.version, "a log has one way to tag its frames");
        self.has_unsettled.store(true, Ordering::Release);
    }

    pub(crate) fn tagger(&self) -> Option<Tagger> {
        self.indexing.get().map(|(tagger, _)| *tagger)
    }

    pub(crate) fn builder(&self) -> Option<&Builder> {
        self.indexing.get().map(|(_, builder)| &**builder)
    }

    /// So many bytes more are readable. Only the flusher calls it.
    pub(crate) fn published(&self, bytes: u64) {
        let Some(builder) = self.builder() else { return };
        let published = self.published_bytes.load(Ordering::Relaxed) + bytes;
        let is_due = published >= DRAFT_STEP_BYTES;
        self.published_bytes.store(if is_due { 0 } else { published }, Ordering::Relaxed);
        if is_due {
            builder.wake();
        }
    }

    /// A segment was sealed, or the index of one was found damaged.
    pub(crate) fn unsettled(&self) {
        if let Some(builder) = self.builder() {
            self.has_unsettled.store(true, Ordering::Release);
            builder.wake();
        }
    }

    pub(crate) fn unsettle(&self, sequence: u64) {
        self.settled.lock().remove(&sequence);
        self.unsettled();
    }

    /// Whether the segment's index has been written.
    pub(crate) fn is_written(&self, subject: &Subject) -> bool {
        let settled = self.settled.lock();
        settled.get(&subject.sequence).is_some_and(|known| known.is_written && known.subject == *subject)
    }

    fn settle(&self, subject: Subject, is_written: bool) {
        self.settled.lock().insert(subject.sequence, Settled { subject, is_written });
    }

    fn take_has_unsettled(&self) -> bool {
        self.has_unsettled.swap(false, Ordering::AcqRel)
    }

    /// Which of `sealed` wait for the builder. The others are all that there is.
    pub(crate) fn unsettled_of(&self, sealed: &[Subject]) -> Vec<u64> {
        let mut settled = self.settled.lock();
        let mut kept = BTreeMap::new();
        let mut unsettled = Vec::new();
        for subject in sealed {
            match settled.get(&subject.sequence).filter(|known| known.subject == *subject) {
                Some(known) => drop(kept.insert(subject.sequence, *known)),
                None => unsettled.push(subject.sequence),
            }
        }
        *settled = kept;
        unsettled
    }
}

impl SegmentHeader {
    pub(crate) fn tags_name(sequence: u64) -> String {
        format!("{sequence:016x}.tag")
    }

    pub(crate) fn sequence_of_tags(file_name: &str) -> Option<u64> {
        u64::from_str_radix(file_name.strip_suffix(".tag")?, 16).ok()
    }
}
