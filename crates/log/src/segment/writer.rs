//! Writes one log's frames: places them in segments, rolls, and leaves the syncing of the newest segment to the
//! round. The flusher owns one writer per log.

use std::{path::Path, sync::Arc};

use fanfare_environment::{Bug, planted};

use crate::{
    background::BackgroundJob,
    error::Fatal,
    frame::{self, Frame, FrameHeader, Position},
    fs::File,
    log::state::LogShared,
    segment::active::{ActiveSegment, Continuation, LogEnd},
    segment::index::{Extent, Placed},
    segment::number::SegmentNumber,
    segment::preallocated::{self, PreallocatedSegment},
    segment::roll::RollPolicy,
    segment::write_buffer::WriteBuffer,
    segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader},
    store::shared::StoreShared,
    written::{DirtyFile, WrittenRange},
};

/// Smallest synced range worth handing to the page cache for eviction.
const WRITEBACK_BYTES_MIN: u64 = 1024 * 1024;
/// Placed frames that a writer has room for between rounds.
const PLACED_KEPT: usize = 256;

/// Parts that a writer works with in one round.
pub(crate) struct WriteContext<'a> {
    pub(crate) store: &'a StoreShared,
    pub(crate) log: &'a LogShared,
    pub(crate) roll: RollPolicy,
    /// The store's one buffer. Empty whenever another log is written.
    pub(crate) buffer: &'a mut WriteBuffer,
}

pub(crate) struct SegmentWriter {
    pub(crate) active: Option<ActiveSegment>,
    pub(crate) next_segment: SegmentNumber,
    /// Position of the last frame, or the purge point where there is none.
    pub(crate) previous: Option<Position>,
    /// Frames that were placed and are not published.
    placed: Vec<Placed>,
    /// Ranges of segments that have ended.
    written: Vec<WrittenRange>,
    preallocated: Arc<PreallocatedSegment>,
}

impl SegmentWriter {
    pub(crate) fn new(end: LogEnd) -> Self {
        let LogEnd { active, next_segment, previous } = end;
        assert!(
            active.as_ref().is_none_or(|active| active.number < next_segment),
            "invariant violation: the next segment is not newer than the active one"
        );
        let preallocated = Arc::default();
        Self { active, next_segment, previous, placed: Vec::new(), written: Vec::new(), preallocated }
    }

    /// Gives the frame its place on disk. Nothing of it is durable before `write_out`, a sync and `publish`.
    pub(crate) fn place(&mut self, context: &mut WriteContext<'_>, frame: &Frame) -> Result<(), Fatal> {
        let index = frame.header.position.index;
        assert!(
            self.previous.is_none_or(|previous| index == previous.index + 1),
            "invariant violation: frame {index} is placed after {:?}",
            self.previous
        );
        if !self.active.as_ref().is_some_and(|active| active.takes(&frame.header, context.roll)) {
            self.roll(context, &frame.header)?;
        }
        let active = self.active.as_mut().expect("a roll leaves an active segment");
        let start = context.buffer.bytes();
        let mut before = active.link;
        if active.continuation == Continuation::NewEpoch {
            // A crash may have left frames of the same nonce behind the end, chained to a frame that was lost. The
            // mark starts another nonce, so they can never be taken for frames of this run.
            before = frame::encode_epoch(context.store.nonce(), before, context.buffer);
            active.continuation = Continuation::Open;
        }
        let byte = active.end_byte + (context.buffer.bytes() - start) as u64;
        let after = frame::encode(frame, before, context.buffer);
        active.extend(&frame.header, context.buffer.bytes() - start, after);
        let segment_bytes = context.roll.segment_bytes;
        if active.end_byte > segment_bytes - segment_bytes / 8 && self.preallocated.request() {
            context.store.background.add(BackgroundJob::Preallocate {
                path: context.log.dir.join(self.next_segment.segment_file()),
                segment_bytes,
                segment: self.preallocated.clone(),
            });
        }
        // Readers learn of the place only with `publish`, after the sync.
        self.placed.push(Placed { header: frame.header.clone(), byte, before, after });
        self.previous = Some(frame.header.position);
        if context.buffer.is_full() {
            self.write_out(context.buffer)?;
        }
        Ok(())
    }

    /// Hands the placed frames to the kernel.
    pub(crate) fn write_out(&mut self, buffer: &mut WriteBuffer) -> Result<(), Fatal> {
        let Some(active) = self.active.as_mut().filter(|_| buffer.bytes() > 0) else { return Ok(()) };
        let start = active.end_byte.checked_sub(buffer.bytes() as u64);
        let start = start.filter(|start| *start >= SEGMENT_HEADER_BYTES as u64);
        let start = start.expect("invariant violation: more bytes are buffered than the segment has frames");
        buffer
            .write(&*active.file, start, active.padding())
            .map_err(|error| Fatal::new("write", &active.path, &error))?;
        active.is_dirty = true;
        buffer.clear();
        Ok(())
    }

    /// The file that must be synced before `publish`.
    pub(crate) fn take_dirty(&mut self) -> Option<DirtyFile> {
        let active = self.active.as_mut().filter(|active| active.is_dirty)?;
        active.is_dirty = false;
        Some(DirtyFile { file: active.file.clone(), path: active.path.clone() })
    }

    /// Ranges that were written and synced since the last call, once they are large enough.
    pub(crate) fn take_written(&mut self) -> Vec<WrittenRange> {
        let mut written = std::mem::take(&mut self.written);
        if let Some(active) = &mut self.active {
            written.extend(active.take_writeback(WRITEBACK_BYTES_MIN));
        }
        written
    }

    /// The placed frames are durable: readers may find them on disk.
    pub(crate) fn publish(&mut self, log: &LogShared) {
        // An acknowledgement may follow: a frame that no sync covers must not be among them.
        assert!(
            self.active.as_ref().is_none_or(|active| !active.is_dirty),
            "invariant violation: frames are published before they are synced"
        );
        log.publish(self.placed.drain(..));
        self.placed.shrink_to(PLACED_KEPT);
    }

    /// Ends the active segment and starts one that begins with `first`.
    fn roll(&mut self, context: &mut WriteContext<'_>, first: &FrameHeader) -> Result<(), Fatal> {
        // The old segment is durable before the new one has a header: a segment with a successor is never torn.
        self.write_out(context.buffer)?;
        if let Some(dirty) = self.take_dirty() {
            dirty.sync()?;
        }
        // Published before the segment is sealed, so that its index covers all of its frames.
        self.publish(context.log);
        if let Some((header, content)) = context.log.seal_newest() {
            let path = context.log.dir.join(header.number.index_file());
            context.store.background.add(BackgroundJob::WriteIndex { path, content });
        }
        if let Some(active) = &mut self.active {
            // Only now: pages that are not synced are dirty, and the kernel does not drop them.
            self.written.extend(active.take_last_writeback());
        }
        let header = SegmentHeader {
            number: self.next_segment,
            nonce: context.store.nonce(),
            replica: context.log.replica,
            log: context.log.name_checksum,
            first_index: first.position.index,
            base_offset: first.base_offset,
            previous: self.previous,
            predecessor: self.active.take().map(|active| active.predecessor()),
        };
        self.next_segment = self.next_segment.next();
        let preallocated = std::mem::take(&mut self.preallocated).take();
        // A file made ahead has its name but not its header yet: header and first frames share the round's sync.
        let is_dirty = preallocated.is_some();
        let segment = match preallocated {
            Some(file) => begin(file, context.log, header)?,
            None => create(context, header)?,
        };
        let mut active = ActiveSegment::of(&segment, Continuation::Open);
        active.is_dirty = is_dirty;
        self.active = Some(active);
        context.log.start_segment(segment);
        Ok(())
    }
}

/// A new segment, durable with its name, in a recycled file if there is one.
fn create(context: &WriteContext<'_>, header: SegmentHeader) -> Result<Segment, Fatal> {
    let (store, dir) = (context.store, &context.log.dir);
    let path = dir.join(header.number.segment_file());
    let unnamed = preallocated::unnamed(&*store.fs, &store.pool, &path, context.roll.segment_bytes)
        .map_err(|error| Fatal::new("create", &path, &error))?;
    let file_bytes = write_header(&*unnamed.file, &unnamed.path, &header)?;
    // The header is durable before the file has its name: a recycled file never shows an old header under a new name.
    unnamed.file.sync().map_err(|error| Fatal::new("sync", &unnamed.path, &error))?;
    store.fs.rename(&unnamed.path, &path).map_err(|error| Fatal::new("rename", &path, &error))?;
    if !planted(Bug::NoDirectorySync) {
        store.fs.sync_dir(dir).map_err(|error| Fatal::new("sync directory", dir, &error))?;
    }
    let extent = Extent::empty(&header);
    Ok(Segment { header, path, file: unnamed.file, file_bytes, extent, sealed: false })
}

/// A new segment in a file that has its name. Its header becomes durable together with its first frames: before that,
/// neither has been acknowledged.
fn begin(file: Arc<dyn File>, log: &LogShared, header: SegmentHeader) -> Result<Segment, Fatal> {
    let path = log.dir.join(header.number.segment_file());
    let file_bytes = write_header(&*file, &path, &header)?;
    let extent = Extent::empty(&header);
    Ok(Segment { header, path, file, file_bytes, extent, sealed: false })
}

/// Returns the length of the file before.
fn write_header(file: &dyn File, path: &Path, header: &SegmentHeader) -> Result<u64, Fatal> {
    let write = || {
        let mut bytes = header.encode();
        assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES, "invariant violation: a header has its own sectors");
        let file_bytes = file.length()?;
        bytes.resize(preallocated::header_room(file_bytes), 0);
        file.write_all_at(&bytes, 0)?;
        Ok(file_bytes)
    };
    write().map_err(|error| Fatal::new("write", path, &error))
}
