//! Repair of a damaged log, for an operator who accepts the loss; never done without one.
//!
//! Every frame that still proves itself is kept, before and behind the damage. A filler replaces each lost entry: an
//! entry of the caller's kind at the same index that takes the same offsets and holds nothing. So no index and no
//! offset ever names something else, and every reference into the log stays valid. The damaged files are kept in
//! `<dir>/quarantine/<log>/`.
//!
//! Each step leaves a log that opens whole or is still damaged, so an interrupted repair is simply repeated.
mod files;
mod segment;

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    error::{Fatal, OpenError},
    frame::Position,
    journal::{LogFacts, SyncMark},
    segment::number::SegmentNumber,
    segment::{HeaderError, Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader, is_unwritten},
    store::{
        Store,
        layout::{FILES_DIR, LOGS_DIR},
        shared::StoreShared,
    },
};
use files::{FileContent, Quarantine, read, replace};
use segment::{ReadLimits, SegmentContents, Slot};

const QUARANTINE_DIR: &str = "quarantine";
const UNREADABLE: &str = "cannot be read from disk";

/// Facts about a log that its owner has from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct RepairHints {
    /// Positions of entries that were flushed. Fillers of lost entries get these positions back.
    pub positions: Vec<Position>,
    /// Every offset below this one was given to an entry.
    pub next_offset: u64,
}

/// A range of entries that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    pub path: String,
    /// Where in the file the damage begins.
    pub byte: u64,
    pub cause: String,
    pub indexes: Range<u64>,
    pub offsets: Range<u64>,
}

/// The damage of a log, and what stays readable.
#[derive(Clone, Debug, Default)]
pub struct DamageReport {
    /// In log order. Empty if every entry is there.
    pub damaged: Vec<DamagedRange>,
    /// The log does not open as it is, even if no entry is lost: the files are damaged, or a repair was interrupted.
    pub needs_repair: bool,
    /// How many offsets stay readable. Offsets of fillers are not.
    pub readable_offsets: u64,
    pub next_offset: u64,
    /// Where the damaged files are kept.
    pub quarantine: PathBuf,
}

impl Store {
    /// The replica that the log belongs to; None if there is no such log.
    #[must_use]
    pub fn log_replica(&self, name: &str) -> Option<u64> {
        self.handle.shared.journal.lock().log(name).map(|facts| facts.replica)
    }

    /// The last purged entry of a log that need not be open, and the offset after it. None if nothing was purged, or
    /// there is no such log.
    #[must_use]
    pub fn log_start(&self, name: &str) -> Option<(Position, u64)> {
        let journal = self.handle.shared.journal.lock();
        let facts = journal.log(name)?;
        facts.purged.map(|purged| (purged, facts.start_offset))
    }

    /// Moves the small file `file`, if there is one, to the quarantine of the log `log`. Durable at return. Blocking.
    ///
    /// # Errors
    /// If the file cannot be moved.
    pub fn quarantine_file(&self, file: &str, log: &str) -> Result<(), Fatal> {
        let disk = &self.handle.shared;
        let quarantine = Quarantine { fs: &*disk.fs, dir: disk.dir.join(QUARANTINE_DIR).join(log) };
        let dir = disk.dir.join(FILES_DIR);
        let names = disk.fs.list(&dir).map_err(|error| Fatal::new("list", &dir, &error))?;
        if names.iter().any(|name| name == file) { quarantine.take(&dir, file) } else { Ok(()) }
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.handle.shared.dir
    }

    /// Reads every frame of a log that is not open, and changes nothing. Blocking.
    ///
    /// # Errors
    /// If the log cannot be read at all, or is of a newer format.
    pub fn inspect_damage(&self, name: &str, hints: &RepairHints) -> Result<DamageReport, OpenError> {
        Repair::new(&self.handle.shared, name, hints, None)?.run()
    }

    /// Puts fillers of `filler_kind` in the place of the entries that [`Store::inspect_damage`] reports. The log opens
    /// after that. Durable at return. Blocking.
    ///
    /// # Errors
    /// If a file cannot be read or written; the repair is then to be repeated.
    pub fn repair_log(
        &self,
        name: &str,
        hints: &RepairHints,
        filler_kind: u8,
    ) -> Result<DamageReport, OpenError> {
        Repair::new(&self.handle.shared, name, hints, Some(filler_kind))?.run()
    }
}

/// One pass over the segments of a log, oldest first.
struct Repair<'a> {
    disk: &'a StoreShared,
    dir: PathBuf,
    facts: LogFacts,
    was_closed_cleanly: bool,
    /// By index.
    hinted_positions: BTreeMap<u64, Position>,
    hinted_offset: u64,
    /// None: inspect only, change nothing.
    filler_kind: Option<u8>,
    report: DamageReport,
}

/// The files of a log: segments in log order, and files without a readable header.
struct SegmentFiles {
    segments: Vec<SegmentHeader>,
    unreadable: Vec<UnreadableFile>,
    next_number: SegmentNumber,
}

#[derive(Clone, Copy)]
struct UnreadableFile {
    number: SegmentNumber,
    cause: &'static str,
}

/// The first damage behind the losses of one segment.
struct Damage {
    number: SegmentNumber,
    byte: u64,
    cause: &'static str,
}

impl<'a> Repair<'a> {
    fn new(
        disk: &'a StoreShared,
        name: &str,
        hints: &RepairHints,
        filler_kind: Option<u8>,
    ) -> Result<Self, OpenError> {
        let dir = disk.dir.join(LOGS_DIR).join(name);
        let journal = disk.journal.lock();
        let unknown = || OpenError::corrupt(&dir, 0, "the journal does not know this log");
        let facts = journal.log(name).cloned().ok_or_else(unknown)?;
        let positions = hints.positions.iter().chain(&facts.purged);
        let quarantine = disk.dir.join(QUARANTINE_DIR).join(name);
        Ok(Self {
            was_closed_cleanly: journal.was_closed_cleanly(facts.id),
            hinted_positions: positions.map(|position| (position.index, *position)).collect(),
            hinted_offset: hints.next_offset.max(facts.start_offset),
            report: DamageReport { quarantine, ..DamageReport::default() },
            disk,
            dir,
            facts,
            filler_kind,
        })
    }

    fn run(mut self) -> Result<DamageReport, OpenError> {
        let mut files = self.files()?;
        self.report.needs_repair = !files.unreadable.is_empty();
        if self.filler_kind.is_some() {
            for UnreadableFile { number, .. } in &files.unreadable {
                self.quarantine().take(&self.dir, &number.segment_file())?;
            }
        }
        if files.segments.is_empty() && self.end_index() == self.first_index() {
            self.report.next_offset = self.end_offset();
            return Ok(self.report);
        }
        let starts_log =
            |header: &SegmentHeader| header.first_index <= self.first_index() || header.predecessor.is_none();
        if !files.segments.first().is_some_and(starts_log) {
            let header = self.missing_start(&files)?;
            files.segments.insert(0, header);
        }
        let mut end = None;
        for (at, header) in files.segments.iter().enumerate() {
            let predecessor = if at == 0 { header.predecessor } else { end };
            end = Some(self.repair_segment(header, predecessor, &files)?);
        }
        Ok(self.report)
    }

    fn first_index(&self) -> u64 {
        self.facts.purged.map_or(0, |purged| purged.index + 1)
    }

    /// Index after the last entry that is known to have been appended.
    fn end_index(&self) -> u64 {
        let marked = self.facts.sync_mark.map_or(0, |mark| mark.index + 1);
        let hinted = self.hinted_positions.last_key_value().map_or(0, |(index, _)| index + 1);
        marked.max(hinted).max(self.first_index())
    }

    fn end_offset(&self) -> u64 {
        self.facts.sync_mark.map_or(0, |mark| mark.end_offset).max(self.hinted_offset)
    }

    fn quarantine(&self) -> Quarantine<'_> {
        Quarantine { fs: &*self.disk.fs, dir: self.report.quarantine.clone() }
    }

    fn path(&self, number: SegmentNumber) -> PathBuf {
        self.dir.join(number.segment_file())
    }

    fn files(&self) -> Result<SegmentFiles, OpenError> {
        let names = self.disk.fs.list(&self.dir).map_err(|error| Fatal::new("list", &self.dir, &error))?;
        let mut numbers: Vec<SegmentNumber> =
            names.iter().filter_map(|name| SegmentNumber::of_segment_file(name)).collect();
        numbers.sort_unstable();
        // A blank file above the marked segment was preallocated. A blank file at the mark has lost its header.
        let marked = self.facts.sync_mark.map(|mark| mark.segment);
        while let Some(newest) = numbers.last().filter(|newest| Some(**newest) > marked) {
            if !self.is_preallocated(*newest)? {
                break;
            }
            numbers.pop();
        }
        let truncation = self.facts.truncation;
        let newest = numbers.last().copied().max(marked).unwrap_or(SegmentNumber::NONE);
        let next_number =
            newest.next().max(truncation.map_or(SegmentNumber::FIRST, |truncation| truncation.next_segment));
        numbers.retain(|number| !truncation.is_some_and(|truncation| truncation.removes(*number)));
        let (mut segments, mut unreadable) = (Vec::new(), Vec::new());
        for number in numbers {
            match self.header(number)? {
                Ok(header) => segments.push(header),
                Err(cause) => unreadable.push(UnreadableFile { number, cause }),
            }
        }
        // Files before the segment of the first entry were purged and only not yet removed.
        let first_index = self.first_index();
        let start = segments.iter().rposition(|header| header.first_index <= first_index).unwrap_or(0);
        segments.drain(..start);
        let oldest = segments.first().filter(|header| header.first_index <= first_index);
        let oldest = oldest.map_or(SegmentNumber::NONE, |header| header.number);
        unreadable.retain(|file| file.number > oldest);
        Ok(SegmentFiles { segments, unreadable, next_number })
    }

    fn is_preallocated(&self, number: SegmentNumber) -> Result<bool, Fatal> {
        let FileContent { bytes, unreadable_byte } =
            read(&*self.disk.fs, &self.path(number), SEGMENT_HEADER_BYTES as u64)?;
        Ok(unreadable_byte.is_none() && bytes.first_chunk().is_some_and(is_unwritten))
    }

    /// The header of a segment file, or the reason for which there is none.
    fn header(&self, number: SegmentNumber) -> Result<Result<SegmentHeader, &'static str>, OpenError> {
        let path = self.path(number);
        let FileContent { bytes, unreadable_byte } =
            read(&*self.disk.fs, &path, SEGMENT_HEADER_BYTES as u64)?;
        if unreadable_byte.is_some() {
            return Ok(Err(UNREADABLE));
        }
        let Some(bytes) = bytes.first_chunk() else { return Ok(Err("segment header is cut short")) };
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(HeaderError::Bad(cause)) => return Ok(Err(cause)),
            Err(HeaderError::Newer(version)) => {
                return Err(OpenError::Newer { path: path.display().to_string(), version });
            }
        };
        let log = crc32fast::hash(self.facts.name.as_bytes());
        let is_own = header.is_of(number, self.facts.replica, log);
        Ok(if is_own { Ok(header) } else { Err("segment of another log") })
    }

    /// A header in the place of the log's first segments, all of which are missing.
    fn missing_start(&self, files: &SegmentFiles) -> Result<SegmentHeader, Fatal> {
        let predecessor = files.segments.first().and_then(|header| header.predecessor);
        Ok(SegmentHeader {
            number: predecessor.map_or(files.next_number, |missing| missing.number),
            nonce: self.disk.nonce(),
            replica: self.facts.replica,
            log: crc32fast::hash(self.facts.name.as_bytes()),
            first_index: self.first_index(),
            base_offset: self.facts.start_offset,
            previous: self.facts.purged,
            predecessor: None,
        })
    }

    /// Inspects one segment and, unless this is an inspection only, repairs it; returns where the segment ends.
    fn repair_segment(
        &mut self,
        header: &SegmentHeader,
        predecessor: Option<Predecessor>,
        files: &SegmentFiles,
    ) -> Result<Predecessor, OpenError> {
        let path = self.path(header.number);
        let is_unreadable = files.unreadable.iter().any(|file| file.number == header.number);
        let length = if is_unreadable { 0 } else { u64::MAX };
        let FileContent { bytes, unreadable_byte } = read(&*self.disk.fs, &path, length)?;
        let bytes = Bytes::from(bytes);
        let next = files.segments.iter().find(|other| other.number > header.number);
        let contents = match next {
            Some(next) => self.sealed_contents(&bytes, header, next),
            None => self.newest_contents(&bytes, header),
        };
        let mut contents = contents.map_err(|cause| OpenError::corrupt(&path, 0, cause))?;
        contents.damage = unreadable_byte.map(|byte| (byte, UNREADABLE)).or(contents.damage);
        self.add_to_report(&contents, header, files);
        self.report.needs_repair |= contents.is_damaged() || header.predecessor != predecessor;
        let Some(filler_kind) = self.filler_kind else { return Ok(contents.end(header.number)) };
        let end = if contents.is_damaged() {
            let name = header.number.segment_file();
            // The damaged file is durable in the quarantine before a repaired one takes its name.
            match unreadable_byte {
                Some(_) => self.quarantine().link(&self.dir, &name)?,
                None if bytes.is_empty() => {}
                None => self.quarantine().copy(&name, &bytes)?,
            }
            let header = SegmentHeader { nonce: self.disk.nonce(), predecessor, ..header.clone() };
            let (rewritten, link) = contents.rewrite(&header, filler_kind);
            replace(&*self.disk.fs, &path, &rewritten)?;
            Predecessor { number: header.number, end_byte: rewritten.len() as u64, chain: link.chain }
        } else {
            // The segment is whole, but the repaired segment before it ends elsewhere now.
            if header.predecessor != predecessor {
                let mut relinked = SegmentHeader { predecessor, ..header.clone() }.encode();
                relinked.extend_from_slice(&bytes[SEGMENT_HEADER_BYTES..]);
                replace(&*self.disk.fs, &path, &relinked)?;
            }
            contents.end(header.number)
        };
        // The journal last: a crash before this leaves a log that is repaired again.
        if next.is_none() {
            self.record_end(&contents, end)?;
        }
        Ok(end)
    }

    fn sealed_contents(
        &self,
        bytes: &Bytes,
        header: &SegmentHeader,
        next: &SegmentHeader,
    ) -> Result<SegmentContents, &'static str> {
        let end = next.predecessor.filter(|end| end.number == header.number);
        let end_byte = end.map_or(u64::MAX, |end| end.end_byte);
        let next_start = Some((next.first_index, next.base_offset));
        let limits = ReadLimits { next: next_start, end_byte, synced_byte: u64::MAX };
        let mut contents = SegmentContents::read(bytes, header, limits);
        let hinted = self.hinted_positions.iter().map(|(index, position)| (*index, *position));
        let positions = hinted.chain(next.previous.map(|previous| (previous.index, previous))).collect();
        contents.lose_up_to(next.first_index, next.base_offset, &positions)?;
        if let Some(end) = end {
            contents.pass_epochs(bytes, end.end_byte);
        }
        Ok(contents)
    }

    fn newest_contents(
        &self,
        bytes: &Bytes,
        header: &SegmentHeader,
    ) -> Result<SegmentContents, &'static str> {
        let truncation = self.facts.truncation.filter(|truncation| truncation.segment == header.number);
        let synced_byte = match self.facts.sync_mark {
            // A newer segment was begun, so this one was synced whole.
            Some(mark) if mark.segment > header.number => u64::MAX,
            Some(mark) if mark.segment == header.number => mark.byte,
            _ => 0,
        };
        let synced_byte = synced_byte.max(truncation.map_or(0, |truncation| truncation.byte));
        let end_byte = match truncation {
            Some(truncation) => truncation.byte,
            None if self.was_closed_cleanly => synced_byte,
            None => u64::MAX,
        };
        let limits = ReadLimits { next: None, end_byte, synced_byte };
        let mut contents = SegmentContents::read(bytes, header, limits);
        let (end_index, end_offset) = (self.end_index(), self.end_offset());
        if contents.next_index < end_index {
            let end_offset = end_offset.max(contents.next_offset);
            contents.lose_up_to(end_index, end_offset, &self.hinted_positions)?;
        }
        Ok(contents)
    }

    fn add_to_report(&mut self, contents: &SegmentContents, header: &SegmentHeader, files: &SegmentFiles) {
        let Damage { number, byte, cause } = self.first_damage(contents, header, files);
        let path = self.path(number).display().to_string();
        let mut follows_lost = false;
        for slot in &contents.slots {
            let header = slot.header();
            let (index, end_offset) = (header.position.index, header.end_offset());
            match slot {
                // A filler of an earlier repair holds nothing.
                Slot::Intact(_) if header.payload_bytes == 0 => {}
                Slot::Intact(_) => self.report.readable_offsets += u64::from(header.count),
                Slot::Lost(_) => match self.report.damaged.last_mut().filter(|_| follows_lost) {
                    Some(range) => (range.indexes.end, range.offsets.end) = (index + 1, end_offset),
                    None => self.report.damaged.push(DamagedRange {
                        path: path.clone(),
                        byte,
                        cause: cause.to_owned(),
                        indexes: index..index + 1,
                        offsets: header.base_offset..end_offset,
                    }),
                },
            }
            follows_lost = matches!(slot, Slot::Lost(_));
        }
        self.report.next_offset = contents.next_offset;
    }

    /// The origin of a segment's losses: its own file, or a file behind it that is no segment any more.
    fn first_damage(
        &self,
        contents: &SegmentContents,
        header: &SegmentHeader,
        files: &SegmentFiles,
    ) -> Damage {
        let next = files.segments.iter().find(|other| other.number > header.number);
        let newest = || self.facts.sync_mark.map_or(header.number, |mark| mark.segment);
        let last =
            next.map_or_else(newest, |next| next.predecessor.map_or(SegmentNumber::NONE, |end| end.number));
        let is_behind = |number: SegmentNumber| number >= header.number && number <= last;
        match (files.unreadable.iter().find(|file| is_behind(file.number)), contents.damage) {
            (Some(UnreadableFile { number, cause }), _) => Damage { number: *number, byte: 0, cause },
            (None, Some((byte, cause))) if last <= header.number => {
                Damage { number: header.number, byte, cause }
            }
            _ => Damage { number: last.max(header.number), byte: 0, cause: "segment file is missing" },
        }
    }

    /// Records that the newest segment ends at `end` now.
    fn record_end(&self, contents: &SegmentContents, end: Predecessor) -> Result<(), Fatal> {
        let Some(index) = contents.next_index.checked_sub(1) else { return Ok(()) };
        let (segment, byte, end_offset) = (end.number, end.end_byte, contents.next_offset);
        let mut facts = self.facts.clone();
        facts.sync_mark = Some(SyncMark { index, segment, byte, end_offset });
        facts.truncation = facts.truncation.map(|mut truncation| {
            if truncation.segment == segment {
                truncation.byte = byte;
            }
            truncation
        });
        if facts == self.facts {
            return Ok(());
        }
        let mut journal = self.disk.journal.lock();
        journal.record_facts(facts)?;
        journal.confirm()
    }
}
