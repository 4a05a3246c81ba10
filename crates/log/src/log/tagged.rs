//! Reading by tag: where the log has an index, only frames that may carry the tag are read; elsewhere all are.
use std::{io, ops::Range, path::PathBuf, sync::Arc};

use super::{Log, LogShared, state::State};
use crate::{
    error::ReadError,
    frame::Frame,
    fs::File,
    secondary_index::{self, Candidates, Job, Place, Postings, Run, Subject, TagIndex, Tagger},
    segment::index::Extent,
    segment::scanner::Scanner,
    segment::{Segment, SegmentHeader},
};

/// Frames looked up at once.
const CANDIDATES_MAX: usize = 256;
/// Frames read at once, backwards, where there is no index.
const BACK_FRAMES: u64 = 16;

/// Part of a log: every frame of it that carries the tag, in order, and maybe others.
#[derive(Clone, Debug, Default)]
pub struct Tagged {
    pub frames: Vec<Frame>,
    /// Where to go on: the index after the part, or the first of it for one that was read backwards.
    pub next: u64,
    /// Base offset of `next`.
    pub next_offset: u64,
}

/// What an index says of the frames up to an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Index and base offset of the first frame that may carry the tag.
    pub first: Option<(u64, u64)>,
    /// Frames up to `next` that may.
    pub frames: u64,
    pub next: u64,
    /// Base offset of `next`.
    pub next_offset: u64,
}

/// A range of one segment that is on disk and not in memory. Holds the file, so it stays readable.
struct Stretch {
    subject: Subject,
    sealed: bool,
    file: Arc<dyn File>,
    path: PathBuf,
    range: Range<u64>,
}

enum Located {
    Nothing,
    Memory(Range<u64>),
    Disk(Stretch),
}

impl Log {
    /// Indexes the frames by what `tagger` says of them, from now on and for what is there already; in the
    /// background. A log has one tagger for as long as it is open.
    pub fn index_tags(&self, tagger: Tagger) -> io::Result<()> {
        let disk = &self.handle.disk;
        self.log.tags.start(tagger, &disk.tags);
        disk.tags.add(&self.log, &disk.fs)
    }

    /// Sealed segments that are still to be indexed.
    pub fn segments_unindexed(&self) -> usize {
        self.log.unindexed().len()
    }

    /// Looks for frames of `from..end` with the tag without reading any; up to the end of the segment, or less far.
    /// None where there is no index. Blocking.
    pub fn look_ahead(&self, tag: u64, from: u64, end: u64) -> Result<Option<Ahead>, ReadError> {
        let located = self.log.state.lock().locate_tagged(from, end)?;
        let Located::Disk(stretch) = located else { return Ok(None) };
        let found = self.candidates(&stretch, tag);
        Ok(found.map(|Candidates { runs, upto, upto_offset }| Ahead {
            first: runs.first().map(|run| (run.start.index, run.start.base_offset)),
            frames: runs.iter().map(|run| run.frames).sum(),
            next: upto,
            next_offset: upto_offset,
        }))
    }

    /// Frames of `from..end`, up to about `bytes_max` of payload, or fewer: a look ends with the segment, if not
    /// before. None if there is nothing at `from`. Blocking.
    pub fn read_tagged(
        &self,
        tag: u64,
        from: u64,
        end: u64,
        bytes_max: u64,
    ) -> Result<Option<Tagged>, ReadError> {
        let located = self.log.state.lock().locate_tagged(from, end)?;
        let stretch = match located {
            Located::Nothing => return Ok(None),
            Located::Memory(_) => return self.read_all(from, end, bytes_max),
            Located::Disk(stretch) => stretch,
        };
        match self.candidates(&stretch, tag) {
            Some(candidates) => stretch.read(candidates, bytes_max).map(Some),
            None => self.read_all(from, stretch.range.end, bytes_max),
        }
    }

    /// The newest frames below `end` that may carry the tag; what lies from `next` on has been looked through. None
    /// if there is nothing below `end`. Blocking.
    pub fn read_tagged_back(&self, tag: u64, end: u64) -> Result<Option<Tagged>, ReadError> {
        let located = self.log.state.lock().locate_back(end);
        let (first, end, stretch) = match located {
            Located::Nothing => return Ok(None),
            Located::Memory(range) => (range.start, range.end, None),
            Located::Disk(stretch) => (stretch.range.start, stretch.range.end, Some(stretch)),
        };
        let newest = stretch.as_ref().and_then(|stretch| {
            self.ask(stretch, |postings| {
                secondary_index::newest_candidate(postings, stretch.subject.first_index, tag, first..end)
            })
        });
        let frames = match (stretch, newest) {
            (Some(_), Some(None)) => {
                return Ok(Some(Tagged { frames: Vec::new(), next: first, next_offset: 0 }));
            }
            (Some(stretch), Some(Some(run))) => {
                let mut frames = Vec::new();
                stretch.scan(&run, |frame| {
                    frames.push(frame);
                    true
                })?;
                frames
            }
            _ => self.read_back(end.saturating_sub(BACK_FRAMES).max(first), end)?,
        };
        let oldest = frames.first().map(|frame| (frame.header.position.index, frame.header.base_offset));
        Ok(oldest.map(|(next, next_offset)| Tagged { frames, next, next_offset }))
    }

    fn candidates(&self, stretch: &Stretch, tag: u64) -> Option<Candidates> {
        let (first_index, range) = (stretch.subject.first_index, &stretch.range);
        self.ask(stretch, |postings| {
            secondary_index::candidates(postings, first_index, tag, range.clone(), CANDIDATES_MAX)
        })
    }

    fn read_all(&self, from: u64, end: u64, bytes_max: u64) -> Result<Option<Tagged>, ReadError> {
        let frames = self.log.read(from, end, bytes_max)?;
        let last = frames.last().map(|frame| (frame.header.position.index + 1, frame.header.end_offset()));
        Ok(last.map(|(next, next_offset)| Tagged { frames, next, next_offset }))
    }

    fn read_back(&self, start: u64, end: u64) -> Result<Vec<Frame>, ReadError> {
        let mut frames: Vec<Frame> = Vec::new();
        loop {
            let from = start + frames.len() as u64;
            let more = self.log.read(from, end, u64::MAX)?;
            if more.is_empty() {
                return Ok(frames);
            }
            frames.extend(more);
        }
    }

    /// Where the frame with `offset` is, if an index tells.
    pub(super) fn index_of_offset_indexed(&self, offset: u64) -> Option<u64> {
        let stretch = self.log.state.lock().locate_offset(offset)?;
        let number = self.ask(&stretch, |postings| postings.holding(offset))?;
        let index = stretch.subject.first_index + u64::from(number);
        stretch.range.contains(&index).then_some(index)
    }

    /// None if nothing indexes the stretch, or not enough of it.
    fn ask<T>(
        &self,
        stretch: &Stretch,
        mut question: impl FnMut(&mut dyn Postings) -> io::Result<Option<T>>,
    ) -> Option<T> {
        let (log, subject) = (&self.log, &stretch.subject);
        let tagger = log.tags.tagger()?;
        {
            let draft = log.tags.draft.lock();
            let of_it = draft.as_ref().filter(|draft| draft.is_of(subject) && !draft.given_up());
            if let Some(mut draft) = of_it {
                return question(&mut draft).expect("memory is always readable");
            }
        }
        if !stretch.sealed {
            return None;
        }
        let Some(index) = self.loaded(subject, tagger) else {
            if log.tags.is_written(subject) {
                self.build_again(subject);
            }
            return None;
        };
        question(&mut index.cursor()).unwrap_or_else(|error| {
            tracing::warn!(log = %log.dir.display(), segment = subject.sequence, %error, "use tag index");
            self.build_again(subject);
            None
        })
    }

    /// Of a segment whose index is missing or damaged.
    fn build_again(&self, subject: &Subject) {
        let (log, disk) = (&self.log, &self.handle.disk);
        secondary_index::remove(&*disk.fs, &log.dir.join(SegmentHeader::tags_name(subject.sequence)));
        disk.tags.loaded.lock().remove((log.id, subject.sequence));
        log.tags.unsettle(subject.sequence);
    }

    fn loaded(&self, subject: &Subject, tagger: Tagger) -> Option<Arc<TagIndex>> {
        let (log, disk) = (&self.log, &self.handle.disk);
        let key = (log.id, subject.sequence);
        let known = disk.tags.loaded.lock().get(key, subject);
        known.or_else(|| {
            let path = log.dir.join(SegmentHeader::tags_name(subject.sequence));
            let index = Arc::new(TagIndex::load(&*disk.fs, &path, subject, tagger.version)?);
            disk.tags.loaded.lock().insert(key, Arc::clone(&index));
            Some(index)
        })
    }
}

impl Stretch {
    fn of(segment: &Segment, range: Range<u64>) -> Self {
        Self {
            subject: segment.subject(),
            sealed: segment.sealed,
            file: Arc::clone(&segment.file),
            path: segment.path.clone(),
            range,
        }
    }

    fn read(&self, candidates: Candidates, bytes_max: u64) -> Result<Tagged, ReadError> {
        let Candidates { runs, upto, upto_offset } = candidates;
        let mut tagged = Tagged { frames: Vec::new(), next: upto, next_offset: upto_offset };
        let mut bytes = 0;
        for run in runs {
            let mut left_out = None;
            self.scan(&run, |frame| {
                bytes += u64::from(frame.header.payload_bytes);
                let fits = bytes <= bytes_max || tagged.frames.is_empty();
                match fits {
                    true => tagged.frames.push(frame),
                    false => left_out = Some((frame.header.position.index, frame.header.base_offset)),
                }
                fits
            })?;
            if let Some((next, next_offset)) = left_out {
                return Ok(Tagged { next, next_offset, ..tagged });
            }
        }
        Ok(tagged)
    }

    /// Calls `visit` with each frame in order until it returns false.
    fn scan(&self, run: &Run, mut visit: impl FnMut(Frame) -> bool) -> Result<(), ReadError> {
        let mut scanner = Scanner::new(Arc::clone(&self.file), run.start, run.end_byte);
        for _ in 0..run.frames {
            let next = scanner.next().map_err(|error| error.read_error(&self.path))?;
            let Some((frame, _)) = next else { break };
            if !visit(frame) {
                break;
            }
        }
        Ok(())
    }
}

impl Segment {
    fn subject(&self) -> Subject {
        let Extent { end_byte, link, end_offset, .. } = &self.extent;
        Subject {
            sequence: self.header.sequence,
            nonce: self.header.nonce,
            first_index: self.header.first_index,
            next_index: self.extent.next_index(),
            end: Place { byte: *end_byte, base_offset: *end_offset, link: *link },
        }
    }

    fn job(&self) -> Job {
        Job { header: self.header.clone(), subject: self.subject(), file: Arc::clone(&self.file) }
    }
}

impl State {
    fn locate_tagged(&self, from: u64, end: u64) -> Result<Located, ReadError> {
        if let Some(purged) = self.purged_index().filter(|purged| from <= *purged) {
            return Err(ReadError::Purged { index: from, purged });
        }
        let end = end.min(self.end_index());
        if from >= end {
            return Ok(Located::Nothing);
        }
        if self.cache.first_index().is_some_and(|first| first <= from) {
            return Ok(Located::Memory(from..end));
        }
        let found = self.segment_at(from).map(|segment| {
            let upto = end.min(self.readable_end(segment));
            Stretch::of(segment, from..upto)
        });
        Ok(found.filter(|stretch| !stretch.range.is_empty()).map_or(Located::Nothing, Located::Disk))
    }

    fn locate_back(&self, end: u64) -> Located {
        let first = self.purged_index().map_or(0, |purged| purged + 1);
        let end = end.min(self.end_index());
        let Some(newest) = end.checked_sub(1).filter(|newest| *newest >= first) else {
            return Located::Nothing;
        };
        if let Some(start) = self.cache.first_index().filter(|start| *start <= newest) {
            return Located::Memory(start.max(first)..end);
        }
        let found = self.segment_at(newest).map(|segment| {
            let range = first.max(segment.header.first_index)..end.min(self.readable_end(segment));
            Stretch::of(segment, range)
        });
        found.filter(|stretch| !stretch.range.is_empty()).map_or(Located::Nothing, Located::Disk)
    }

    fn locate_offset(&self, offset: u64) -> Option<Stretch> {
        let is_held = self.start_offset <= offset && offset < self.next_offset;
        if !is_held || self.cache.find_offset(offset).is_some() {
            return None;
        }
        let segment = self.segment_of_offset(offset)?;
        let first = self.purged_index().map_or(0, |purged| purged + 1).max(segment.header.first_index);
        Some(Stretch::of(segment, first..self.readable_end(segment)))
    }
}

impl LogShared {
    /// Sequences of sealed segments that are still to be indexed, oldest first.
    pub(crate) fn unindexed(&self) -> Vec<u64> {
        let state = self.state.lock();
        let sealed: Vec<Subject> =
            state.segments.iter().filter(|segment| segment.sealed).map(Segment::subject).collect();
        drop(state);
        self.tags.unsettled_of(&sealed)
    }

    pub(crate) fn sealed_job(&self, sequence: u64) -> Option<Job> {
        let state = self.state.lock();
        let place = state.segments.binary_search_by_key(&sequence, |segment| segment.header.sequence).ok()?;
        Some(&state.segments[place]).filter(|segment| segment.sealed).map(Segment::job)
    }

    pub(crate) fn newest_job(&self) -> Option<Job> {
        self.state.lock().segments.back().filter(|segment| !segment.sealed).map(Segment::job)
    }

    /// Whether `subject` is a segment of this log as it is.
    pub(crate) fn holds(&self, subject: &Subject) -> bool {
        let state = self.state.lock();
        let place = state.segments.binary_search_by_key(&subject.sequence, |segment| segment.header.sequence);
        place.is_ok_and(|place| state.segments[place].subject() == *subject)
    }

    pub(crate) fn holds_sequence(&self, sequence: u64) -> bool {
        let state = self.state.lock();
        state.segments.binary_search_by_key(&sequence, |segment| segment.header.sequence).is_ok()
    }

    /// The segment is gone: the file of its tags, if it can have one.
    pub(crate) fn forget_tags(&self, sequence: u64) -> Option<PathBuf> {
        self.tags.builder()?.loaded.lock().remove((self.id, sequence));
        Some(self.dir.join(SegmentHeader::tags_name(sequence)))
    }
}
