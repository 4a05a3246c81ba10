//! Where the next frame of a log goes. Only the flusher uses it: places frames in segments, rolls, and leaves the
//! syncing of the newest segment to the round.
use std::{path::PathBuf, sync::Arc};

use crate::{
    error::Fatal,
    frame::{self, Frame, FrameHeader, Link, Position},
    fs::File,
    index::{Extent, INDEX_VERSION, Placed},
    log::{LogShared, RollPolicy},
    pool::Spare,
    sealed_file::{self, TEMPORARY_SUFFIX},
    segment::{Predecessor, SEGMENT_HEADER_BYTES, Segment, SegmentHeader},
    store::Disk,
    sync::Dirty,
};

/// A round's frames of one log are handed to the kernel in pieces of about this size.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

pub(crate) struct Writer {
    pub(crate) active: Option<Active>,
    pub(crate) next_segment: u64,
    /// Of the last frame, or the purge point where there is none.
    pub(crate) previous: Option<Position>,
    buffer: Vec<u8>,
    placed: Vec<Placed>,
}

/// The segment being written.
pub(crate) struct Active {
    sequence: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Where the next frame goes; includes what is still in the buffer.
    end_byte: u64,
    link: Link,
    first_event_ms: Option<u64>,
    has_frames: bool,
    continuation: Continuation,
    dirty: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuation {
    /// The link was drawn in this run.
    Open,
    /// What lies behind the end may be of the same nonce: draw a new one first.
    NewEpoch,
    /// Frames behind the end were cut: only another segment may continue.
    Cut,
}

impl Active {
    pub(crate) fn of(segment: &Segment, continuation: Continuation) -> Self {
        Self {
            sequence: segment.header.sequence,
            path: segment.path.clone(),
            file: Arc::clone(&segment.file),
            end_byte: segment.extent.end_byte,
            link: segment.extent.link,
            first_event_ms: segment.extent.first_event_ms,
            has_frames: segment.extent.last.is_some(),
            continuation,
            dirty: false,
        }
    }

    fn takes(&self, header: &FrameHeader, roll: RollPolicy) -> bool {
        let full = self.end_byte + header.disk_bytes() > roll.segment_bytes;
        let oldest_ms = self.first_event_ms.unwrap_or(header.time_ms);
        let old = header.time_ms.saturating_sub(oldest_ms) >= roll.age_ms && self.first_event_ms.is_some();
        self.continuation != Continuation::Cut && !(self.has_frames && (full || old))
    }
}

impl Writer {
    pub(crate) fn new(active: Option<Active>, next_segment: u64, previous: Option<Position>) -> Self {
        Self { active, next_segment, previous, buffer: Vec::new(), placed: Vec::new() }
    }

    /// Gives the frame its place on disk. Nothing of it is durable before `write_out`, a sync and `publish`.
    pub(crate) fn place(&mut self, disk: &Disk, log: &LogShared, frame: &Frame) -> Result<(), Fatal> {
        let roll = log.roll();
        if !self.active.as_ref().is_some_and(|active| active.takes(&frame.header, roll)) {
            self.roll(disk, log, &frame.header, roll)?;
        }
        let active = self.active.as_mut().expect("a roll leaves an active segment");
        let start = self.buffer.len();
        if active.continuation == Continuation::NewEpoch {
            active.link = frame::encode_epoch(disk.nonce()?, active.link, &mut self.buffer);
            active.continuation = Continuation::Open;
        }
        let byte = active.end_byte + (self.buffer.len() - start) as u64;
        let before = active.link;
        active.link = frame::encode(frame, before, &mut self.buffer);
        active.end_byte += (self.buffer.len() - start) as u64;
        active.has_frames = true;
        if frame.header.count > 0 {
            active.first_event_ms.get_or_insert(frame.header.time_ms);
        }
        self.placed.push(Placed { header: frame.header.clone(), byte, before, after: active.link });
        self.previous = Some(frame.header.position);
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    /// Hands what was placed to the kernel.
    pub(crate) fn write_out(&mut self) -> Result<(), Fatal> {
        let Some(active) = self.active.as_mut().filter(|_| !self.buffer.is_empty()) else { return Ok(()) };
        let at = active.end_byte - self.buffer.len() as u64;
        active
            .file
            .write_all_at(&self.buffer, at)
            .map_err(|error| Fatal::new("write", &active.path, &error))?;
        active.dirty = true;
        self.buffer.clear();
        self.buffer.shrink_to(2 * BUFFER_BYTES);
        Ok(())
    }

    /// The file that must be synced before `publish`.
    pub(crate) fn dirty(&mut self) -> Option<Dirty> {
        let active = self.active.as_mut().filter(|active| active.dirty)?;
        active.dirty = false;
        Some(Dirty { file: Arc::clone(&active.file), path: active.path.clone() })
    }

    /// What was placed is durable: readers may find it on disk.
    pub(crate) fn publish(&mut self, log: &LogShared) {
        log.publish(self.placed.drain(..));
    }

    /// Ends the active segment and starts one that begins with `first`.
    fn roll(
        &mut self,
        disk: &Disk,
        log: &LogShared,
        first: &FrameHeader,
        roll: RollPolicy,
    ) -> Result<(), Fatal> {
        // The old segment is durable before the new one has a name: a segment with a successor is never torn.
        self.write_out()?;
        if let Some(dirty) = self.dirty() {
            dirty.file.sync().map_err(|error| Fatal::new("sync", &dirty.path, &error))?;
        }
        self.publish(log);
        if let Some((header, content)) = log.seal_newest() {
            write_index(disk, log, &header, &content)?;
        }
        let predecessor = self.active.take().map(|active| Predecessor {
            sequence: active.sequence,
            end_byte: active.end_byte,
            chain: active.link.chain,
        });
        let header = SegmentHeader {
            sequence: self.next_segment,
            nonce: disk.nonce()?,
            replica: log.replica,
            log: log.name_checksum,
            first_index: first.position.index,
            base_offset: first.base_offset,
            previous: self.previous,
            predecessor,
        };
        self.next_segment += 1;
        let segment = create(disk, log, header, roll.segment_bytes)?;
        self.active = Some(Active::of(&segment, Continuation::Open));
        log.start_segment(segment);
        Ok(())
    }
}

/// A new segment, durable with its name, in a recycled file if there is one.
fn create(disk: &Disk, log: &LogShared, header: SegmentHeader, segment_bytes: u64) -> Result<Segment, Fatal> {
    let path = log.dir.join(SegmentHeader::file_name(header.sequence));
    let unnamed = match disk.pool.take(segment_bytes) {
        Some(spare) => spare,
        None => {
            let path = path.with_extension(&TEMPORARY_SUFFIX[1..]);
            let file = disk.fs.create(&path).map_err(|error| Fatal::new("create", &path, &error))?;
            Spare { path, file }
        }
    };
    let bytes = header.encode();
    debug_assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
    unnamed.file.write_all_at(&bytes, 0).map_err(|error| Fatal::new("write", &unnamed.path, &error))?;
    unnamed.file.sync().map_err(|error| Fatal::new("sync", &unnamed.path, &error))?;
    disk.fs.rename(&unnamed.path, &path).map_err(|error| Fatal::new("rename", &path, &error))?;
    disk.fs.sync_dir(&log.dir).map_err(|error| Fatal::new("sync directory", &log.dir, &error))?;
    let extent = Extent::empty(&header);
    Ok(Segment { header, path, file: unnamed.file, extent, sealed: false })
}

/// Not synced: a lost or torn index is rebuilt.
fn write_index(disk: &Disk, log: &LogShared, header: &SegmentHeader, content: &[u8]) -> Result<(), Fatal> {
    let path = log.dir.join(SegmentHeader::index_name(header.sequence));
    let file = disk.fs.create(&path).map_err(|error| Fatal::new("create", &path, &error))?;
    file.write_all_at(&sealed_file::encode(INDEX_VERSION, content), 0)
        .map_err(|error| Fatal::new("write", &path, &error))
}
