//! Where the next frame of a log goes. Only the flusher uses it: places frames in segments, rolls, and leaves the
//! syncing of the newest segment to the round.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    background::Chore,
    codec::to_usize,
    error::Fatal,
    flusher::page_cache::Written,
    flusher::sync::Dirty,
    frame::{self, Frame, FrameHeader, Link, Position},
    fs::{File, PAGE_BYTES},
    log::{LogShared, RollPolicy},
    segment::index::{Extent, Placed},
    segment::preallocated::{self, Upcoming},
    segment::write_buffer::Outgoing,
    segment::{Predecessor, SEGMENT_HEADER_BYTES, Segment, SegmentHeader},
    store::Disk,
};

/// From so many pages on they are told to be written.
const TOLD_BYTES: u64 = 1024 * 1024;

/// A round's frames of one log are handed to the kernel in pieces of about this size.
const OUTGOING_BYTES: usize = 4 * 1024 * 1024;

pub(crate) struct Writer {
    pub(crate) active: Option<Active>,
    pub(crate) next_segment: u64,
    /// Of the last frame, or the purge point where there is none.
    pub(crate) previous: Option<Position>,
    outgoing: Outgoing,
    placed: Vec<Placed>,
    /// Of segments that have ended.
    written: Vec<Written>,
    upcoming: Arc<Upcoming>,
}

/// The segment being written.
pub(crate) struct Active {
    sequence: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Where the next frame goes; includes what is still in the buffer.
    end_byte: u64,
    /// Length of the file when it was opened: up to here a write replaces something.
    file_bytes: u64,
    /// Start of the pages that nobody has been told to be written.
    untold_byte: u64,
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
            file_bytes: segment.file_bytes,
            untold_byte: page_start(segment.extent.end_byte),
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

    /// How many zeros to write behind the end. In a recycled file they fill up the last page, which would otherwise
    /// be read from disk in order to keep bytes that mean nothing; zeros never parse.
    fn padding(&self) -> usize {
        let page_end = self.end_byte.next_multiple_of(PAGE_BYTES);
        if page_end <= self.file_bytes { to_usize(page_end - self.end_byte) } else { 0 }
    }

    fn tell_up_to(&mut self, end: u64, bytes_min: u64) -> Option<Written> {
        let start = self.untold_byte;
        if end <= start || end - start < bytes_min {
            return None;
        }
        self.untold_byte = end;
        Some(Written::new(&self.file, start..end))
    }
}

impl Writer {
    pub(crate) fn new(active: Option<Active>, next_segment: u64, previous: Option<Position>) -> Self {
        Self {
            active,
            next_segment,
            previous,
            outgoing: Outgoing::default(),
            placed: Vec::new(),
            written: Vec::new(),
            upcoming: Arc::default(),
        }
    }

    /// Gives the frame its place on disk. Nothing of it is durable before `write_out`, a sync and `publish`.
    pub(crate) fn place(&mut self, disk: &Disk, log: &LogShared, frame: &Frame) -> Result<(), Fatal> {
        let roll = log.roll();
        if !self.active.as_ref().is_some_and(|active| active.takes(&frame.header, roll)) {
            self.roll(disk, log, &frame.header, roll)?;
        }
        let active = self.active.as_mut().expect("a roll leaves an active segment");
        let start = self.outgoing.bytes();
        if active.continuation == Continuation::NewEpoch {
            active.link = frame::encode_epoch(disk.nonce()?, active.link, &mut self.outgoing);
            active.continuation = Continuation::Open;
        }
        let byte = active.end_byte + (self.outgoing.bytes() - start) as u64;
        let before = active.link;
        active.link = frame::encode(frame, before, &mut self.outgoing);
        active.end_byte += (self.outgoing.bytes() - start) as u64;
        active.has_frames = true;
        if frame.header.count > 0 {
            active.first_event_ms.get_or_insert(frame.header.time_ms);
        }
        if active.end_byte > roll.segment_bytes - roll.segment_bytes / 8 && self.upcoming.ask() {
            disk.chores.add(Chore::MakeSegment {
                path: log.dir.join(SegmentHeader::file_name(self.next_segment)),
                segment_bytes: roll.segment_bytes,
                upcoming: Arc::clone(&self.upcoming),
            });
        }
        self.placed.push(Placed { header: frame.header.clone(), byte, before, after: active.link });
        self.previous = Some(frame.header.position);
        if self.outgoing.bytes() >= OUTGOING_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    /// Hands what was placed to the kernel.
    pub(crate) fn write_out(&mut self) -> Result<(), Fatal> {
        let Some(active) = self.active.as_mut().filter(|_| self.outgoing.bytes() > 0) else { return Ok(()) };
        let at = active.end_byte - self.outgoing.bytes() as u64;
        self.outgoing
            .write(&*active.file, at, active.padding())
            .map_err(|error| Fatal::new("write", &active.path, &error))?;
        active.dirty = true;
        self.outgoing.clear(2 * OUTGOING_BYTES);
        Ok(())
    }

    /// The file that must be synced before `publish`.
    pub(crate) fn dirty(&mut self) -> Option<Dirty> {
        let active = self.active.as_mut().filter(|active| active.dirty)?;
        active.dirty = false;
        Some(Dirty { file: Arc::clone(&active.file), path: active.path.clone() })
    }

    /// Takes what was written and synced since the last call, as far as it is worth telling.
    pub(crate) fn take_written(&mut self) -> Vec<Written> {
        let mut written = std::mem::take(&mut self.written);
        if let Some(active) = &mut self.active {
            written.extend(active.tell_up_to(page_start(active.end_byte), TOLD_BYTES));
        }
        written
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
            let path = log.dir.join(SegmentHeader::index_name(header.sequence));
            disk.chores.add(Chore::WriteIndex { path, content });
        }
        if let Some(active) = &mut self.active {
            let end = active.end_byte.next_multiple_of(PAGE_BYTES);
            self.written.extend(active.tell_up_to(end, 0));
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
        let made = self.upcoming.take();
        let is_durable = made.is_none();
        let segment = match made {
            Some(file) => begin(file, log, header)?,
            None => create(disk, log, header, roll.segment_bytes)?,
        };
        self.active = Some(Active { dirty: !is_durable, ..Active::of(&segment, Continuation::Open) });
        log.start_segment(segment);
        Ok(())
    }
}

/// A new segment, durable with its name, in a recycled file if there is one.
fn create(disk: &Disk, log: &LogShared, header: SegmentHeader, segment_bytes: u64) -> Result<Segment, Fatal> {
    let path = log.dir.join(SegmentHeader::file_name(header.sequence));
    let unnamed = preallocated::unnamed(&*disk.fs, &disk.pool, &path, segment_bytes)
        .map_err(|error| Fatal::new("create", &path, &error))?;
    let file_bytes = write_header(&*unnamed.file, &unnamed.path, &header)?;
    unnamed.file.sync().map_err(|error| Fatal::new("sync", &unnamed.path, &error))?;
    disk.fs.rename(&unnamed.path, &path).map_err(|error| Fatal::new("rename", &path, &error))?;
    disk.fs.sync_dir(&log.dir).map_err(|error| Fatal::new("sync directory", &log.dir, &error))?;
    let extent = Extent::empty(&header);
    Ok(Segment { header, path, file: unnamed.file, file_bytes, extent, sealed: false })
}

/// A new segment in a file that has its name. Its header is durable together with its first frames: without the one
/// or the other nobody has been told of them.
fn begin(file: Arc<dyn File>, log: &LogShared, header: SegmentHeader) -> Result<Segment, Fatal> {
    let path = log.dir.join(SegmentHeader::file_name(header.sequence));
    let file_bytes = write_header(&*file, &path, &header)?;
    let extent = Extent::empty(&header);
    Ok(Segment { header, path, file, file_bytes, extent, sealed: false })
}

/// Length of the file before.
fn write_header(file: &dyn File, path: &Path, header: &SegmentHeader) -> Result<u64, Fatal> {
    let write = || {
        let mut bytes = header.encode();
        debug_assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
        let file_bytes = file.length()?;
        bytes.resize(preallocated::header_room(file_bytes), 0);
        file.write_all_at(&bytes, 0)?;
        Ok(file_bytes)
    };
    write().map_err(|error| Fatal::new("write", path, &error))
}

fn page_start(byte: u64) -> u64 {
    byte - byte % PAGE_BYTES
}
