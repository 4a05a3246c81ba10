//! Reading by key: where a segment has an index only frames that may carry the key are read, elsewhere all are.
use std::{io, ops::Range, path::PathBuf, sync::Arc};

use super::{
    BuildJob, FrameLocation, IndexKey, IndexKeys, SegmentRef,
    file::IndexFile,
    open_files::Key,
    postings::{Candidates, FrameRun, Postings, Query},
    remove_file,
};
use crate::{
    error::ReadError,
    frame::Frame,
    fs::File,
    log::{Log, state::LogShared},
    segment::{Segment, index::Extent, number::SegmentNumber, scanner::Scanner},
};

/// Frames looked up at once.
const CANDIDATES_MAX: usize = 256;
/// Frames read at once, backwards, where there is no index.
const BACKWARD_FRAMES: u64 = 16;

/// Index and base offset of a frame, or of the one after the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameStart {
    pub index: u64,
    pub base_offset: u64,
}

/// Part of a log: every frame of it that carries a key, in order, and maybe others.
#[derive(Clone, Debug, Default)]
pub struct KeyedFrames {
    pub frames: Vec<Frame>,
    /// Where to continue: after the part, or at its first frame for a part that was read backwards.
    pub next: FrameStart,
}

/// The index's answer about a range of frames, without reading any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The first frame that may carry the key.
    pub first: Option<FrameStart>,
    /// How many frames before `end` may carry the key.
    pub frames: u64,
    /// The first frame about which nothing is said.
    pub end: FrameStart,
}

/// A range of one segment's frames that are on disk and not in memory. The open file keeps the range readable
/// whatever is purged.
pub(crate) struct SegmentRange {
    segment: SegmentRef,
    sealed: bool,
    file: Arc<dyn File>,
    path: PathBuf,
    indexes: Range<u64>,
}

/// The source of a range of frames.
pub(crate) enum KeyedSource {
    Nothing,
    Memory(Range<u64>),
    Disk(SegmentRange),
}

impl Log {
    /// Indexes the log's frames by `keys`, those that are there and those to come, in the background. A log has one
    /// kind of keys for as long as it is open.
    ///
    /// # Errors
    /// If the operating system gives no thread; lookups then read all frames.
    ///
    /// # Panics
    /// If the log is indexed by another version of the keys already.
    pub fn start_index(&self, keys: IndexKeys) -> io::Result<()> {
        let disk = &self.handle.shared;
        self.log.secondary_index.start(keys, &disk.index_builder);
        disk.index_builder.add(&self.log, &disk.environment, &disk.fs)
    }

    /// How many sealed segments are still to be indexed.
    #[must_use]
    pub fn segments_unindexed(&self) -> usize {
        self.log.unindexed().len()
    }

    /// Asks the index for frames of `indexes` with the key, and reads no frame. The answer ends with the segment or
    /// earlier. None where there is no index. Blocking.
    ///
    /// # Errors
    /// If the range begins below the log's start.
    pub fn peek(&self, key: IndexKey, indexes: Range<u64>) -> Result<Option<Peek>, ReadError> {
        let KeyedSource::Disk(range) = self.log.locate_keyed(indexes)? else { return Ok(None) };
        let candidates = self.candidates(&range, key);
        Ok(candidates.map(|Candidates { runs, end_index, end_offset }| Peek {
            first: runs
                .first()
                .map(|run| FrameStart { index: run.start.index, base_offset: run.start.base_offset }),
            frames: runs.iter().map(|run| run.frames).sum(),
            end: FrameStart { index: end_index, base_offset: end_offset },
        }))
    }

    /// Frames of `indexes` with the key, up to about `bytes_max` of payload: every such frame before `next`, and maybe
    /// frames without the key. One call ends with the segment or earlier. None if there is no frame at the start of
    /// the range. Blocking.
    ///
    /// # Errors
    /// If the range begins below the log's start, or a frame cannot be read.
    pub fn read_keyed(
        &self,
        key: IndexKey,
        indexes: Range<u64>,
        bytes_max: u64,
    ) -> Result<Option<KeyedFrames>, ReadError> {
        let range = match self.log.locate_keyed(indexes.clone())? {
            KeyedSource::Nothing => return Ok(None),
            KeyedSource::Memory(_) => return self.read_all(indexes, bytes_max),
            KeyedSource::Disk(range) => range,
        };
        match self.candidates(&range, key) {
            Some(candidates) => range.read(candidates, bytes_max).map(Some),
            None => self.read_all(range.indexes, bytes_max),
        }
    }

    /// The newest frames below `end` that may carry the key: every such frame from `next` on. None if there is no
    /// frame below `end`. Blocking.
    ///
    /// # Errors
    /// If a frame cannot be read.
    pub fn read_keyed_backwards(&self, key: IndexKey, end: u64) -> Result<Option<KeyedFrames>, ReadError> {
        let (indexes, range) = match self.log.locate_keyed_backwards(end) {
            KeyedSource::Nothing => return Ok(None),
            KeyedSource::Memory(indexes) => (indexes, None),
            KeyedSource::Disk(range) => (range.indexes.clone(), Some(range)),
        };
        let newest = range
            .as_ref()
            .and_then(|range| self.query(range, key, |query| query.newest_candidate(range.indexes.clone())));
        let frames = match (range, newest) {
            (Some(_), Some(None)) => {
                let next = FrameStart { index: indexes.start, base_offset: 0 };
                return Ok(Some(KeyedFrames { frames: Vec::new(), next }));
            }
            (Some(range), Some(Some(run))) => {
                let mut frames = Vec::new();
                range.scan(&run, |frame| {
                    frames.push(frame);
                    true
                })?;
                frames
            }
            _ => self.read_backwards(
                indexes.end.saturating_sub(BACKWARD_FRAMES).max(indexes.start)..indexes.end,
            )?,
        };
        let oldest = frames.first().map(|frame| FrameStart {
            index: frame.header.position.index,
            base_offset: frame.header.base_offset,
        });
        Ok(oldest.map(|next| KeyedFrames { frames, next }))
    }

    fn candidates(&self, range: &SegmentRange, key: IndexKey) -> Option<Candidates> {
        self.query(range, key, |query| query.candidates(range.indexes.clone(), CANDIDATES_MAX))
    }

    fn read_all(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Option<KeyedFrames>, ReadError> {
        let frames = self.log.read(indexes.start, indexes.end, bytes_max)?;
        let next = frames.last().map(|frame| FrameStart {
            index: frame.header.position.index + 1,
            base_offset: frame.header.end_offset(),
        });
        Ok(next.map(|next| KeyedFrames { frames, next }))
    }

    fn read_backwards(&self, indexes: Range<u64>) -> Result<Vec<Frame>, ReadError> {
        let mut frames: Vec<Frame> = Vec::new();
        loop {
            let from = indexes.start + frames.len() as u64;
            let more = self.log.read(from, indexes.end, u64::MAX)?;
            if more.is_empty() {
                return Ok(frames);
            }
            frames.extend(more);
        }
    }

    /// The frame that holds `offset`, if an index tells.
    pub(crate) fn index_of_offset_indexed(&self, offset: u64) -> Option<u64> {
        let range = self.log.locate_offset(offset)?;
        let number = self.ask(&range, |postings| postings.number_of_offset(offset))?;
        let index = range.segment.first_index + u64::from(number);
        range.indexes.contains(&index).then_some(index)
    }

    fn query<T>(
        &self,
        range: &SegmentRange,
        key: IndexKey,
        mut question: impl FnMut(&mut Query<'_>) -> io::Result<Option<T>>,
    ) -> Option<T> {
        let first_index = range.segment.first_index;
        self.ask(range, |postings| question(&mut Query { postings, first_index, key }))
    }

    /// None if no index covers the range, or not enough of it.
    fn ask<T>(
        &self,
        range: &SegmentRange,
        mut question: impl FnMut(&mut dyn Postings) -> io::Result<Option<T>>,
    ) -> Option<T> {
        let (log, segment) = (&self.log, &range.segment);
        let keys = log.secondary_index.keys()?;
        {
            let draft = log.secondary_index.draft.lock();
            let own = draft.as_ref().filter(|draft| draft.belongs_to(segment) && !draft.is_abandoned());
            if let Some(mut draft) = own {
                return question(&mut draft).expect("memory is always readable");
            }
        }
        if !range.sealed {
            return None;
        }
        let Some(index) = self.index_file(segment, keys) else {
            if log.secondary_index.is_written(segment) {
                self.rebuild(segment);
            }
            return None;
        };
        question(&mut index.cursor()).unwrap_or_else(|error| {
            let number = segment.number;
            tracing::warn!(log = %log.dir.display(), segment = %number, %error, "an index file is damaged; it is rebuilt");
            self.rebuild(segment);
            None
        })
    }

    /// Discards an index that is missing or damaged and has it built again.
    fn rebuild(&self, segment: &SegmentRef) {
        let (log, disk) = (&self.log, &self.handle.shared);
        remove_file(&*disk.fs, &log.dir.join(segment.number.keys_file()));
        disk.index_builder.open_files.lock().remove(Key { log: log.id, number: segment.number });
        log.secondary_index.request_rebuild(segment.number);
    }

    fn index_file(&self, segment: &SegmentRef, keys: IndexKeys) -> Option<Arc<IndexFile>> {
        let (log, disk) = (&self.log, &self.handle.shared);
        let key = Key { log: log.id, number: segment.number };
        let open = disk.index_builder.open_files.lock().get(key, segment);
        open.or_else(|| {
            let path = log.dir.join(segment.number.keys_file());
            let file = Arc::new(IndexFile::load(&*disk.fs, &path, segment, keys.version)?);
            disk.index_builder.open_files.lock().insert(key, file.clone());
            Some(file)
        })
    }
}

impl SegmentRange {
    pub(crate) fn new(segment: &Segment, indexes: Range<u64>) -> Self {
        Self {
            segment: segment.as_ref(),
            sealed: segment.sealed,
            file: segment.file.clone(),
            path: segment.path.clone(),
            indexes,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    fn read(&self, candidates: Candidates, bytes_max: u64) -> Result<KeyedFrames, ReadError> {
        let Candidates { runs, end_index, end_offset } = candidates;
        let mut frames = Vec::new();
        let mut bytes = 0;
        for run in runs {
            let mut left_out = None;
            self.scan(&run, |frame| {
                bytes += u64::from(frame.header.payload_bytes);
                let fits = bytes <= bytes_max || frames.is_empty();
                if fits {
                    frames.push(frame);
                } else {
                    let (index, base_offset) = (frame.header.position.index, frame.header.base_offset);
                    left_out = Some(FrameStart { index, base_offset });
                }
                fits
            })?;
            if let Some(next) = left_out {
                return Ok(KeyedFrames { frames, next });
            }
        }
        Ok(KeyedFrames { frames, next: FrameStart { index: end_index, base_offset: end_offset } })
    }

    /// Calls `visit` with each frame in order until it returns false.
    fn scan(&self, run: &FrameRun, mut visit: impl FnMut(Frame) -> bool) -> Result<(), ReadError> {
        let mut scanner = Scanner::new(self.file.clone(), run.start, run.end_byte);
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
    pub(crate) fn as_ref(&self) -> SegmentRef {
        let Extent { end_byte, link, end_offset, .. } = &self.extent;
        SegmentRef {
            number: self.header.number,
            nonce: self.header.nonce,
            first_index: self.header.first_index,
            next_index: self.extent.next_index(),
            end: FrameLocation { byte: *end_byte, base_offset: *end_offset, link: *link },
        }
    }

    pub(crate) fn build_job(&self) -> BuildJob {
        BuildJob { header: self.header.clone(), segment: self.as_ref(), file: self.file.clone() }
    }
}

impl LogShared {
    /// Forgets the index of a segment that is gone; the path of its index file, if there can be one.
    pub(crate) fn forget_index(&self, number: SegmentNumber) -> Option<PathBuf> {
        let builder = self.secondary_index.builder()?;
        self.secondary_index.forget_build(number);
        builder.open_files.lock().remove(Key { log: self.id, number });
        Some(self.dir.join(number.keys_file()))
    }
}
