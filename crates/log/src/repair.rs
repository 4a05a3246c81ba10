//! Giving a damaged log up to what is left of it: for an operator who accepts the loss, never done by itself.
//!
//! Every frame that still proves itself is kept, before and behind the damage. In the place of each lost entry stands
//! a filler: an entry of the caller's kind at the same index, that takes the same offsets and holds nothing. So no
//! index and no offset ever names something else, and all that points into the log goes on to fit. The damaged
//! files are kept in `<dir>/quarantine/<log>/`.
//!
//! Each step leaves a log that opens whole or is still damaged, so an interrupted repair is simply made again.
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
    journal::{LogFacts, Mark},
    segment::{HeaderError, Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader, is_unwritten},
    store::{Disk, FILES_DIR, LOGS_DIR, Store},
};
use files::{Content, Quarantine, read, replace};
use segment::{Contents, Expected, Found};

const QUARANTINE_DIR: &str = "quarantine";
const UNREADABLE: &str = "cannot be read from disk";

/// What the log's owner knows of it from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Of entries that were flushed; lost ones get these back.
    pub positions: Vec<Position>,
    /// Every offset below it was given to an entry.
    pub next_offset: u64,
}

/// Entries that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub path: String,
    pub at: u64,
    pub what: String,
    pub indexes: Range<u64>,
    pub offsets: Range<u64>,
}

/// What a log has lost, and what of it stays readable.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// In log order. Empty: every entry is there.
    pub lost: Vec<Lost>,
    /// The log does not open as it is, whether or not an entry is lost: to be accepted, maybe once more.
    pub unfinished: bool,
    /// How many offsets stay readable; those of fillers are not.
    pub kept: u64,
    pub next_offset: u64,
    /// Where the damaged files are kept as they are.
    pub quarantine: PathBuf,
}

impl Store {
    /// Replica that the log belongs to; None if there is no such log.
    pub fn log_replica(&self, name: &str) -> Option<u64> {
        self.handle.disk.journal.lock().log(name).map(|facts| facts.replica)
    }

    /// Of an unopened log: the last entry that was purged, and the offset after it. None if nothing was, or if there
    /// is no such log.
    pub fn log_start(&self, name: &str) -> Option<(Position, u64)> {
        let journal = self.handle.disk.journal.lock();
        let facts = journal.log(name)?;
        facts.purged.map(|purged| (purged, facts.start_offset))
    }

    /// Moves a small file to the quarantine of the log `name`; fine if there is none. Durable at return. Blocking.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn set_aside_file(&self, file: &str, name: &str) -> Result<(), Fatal> {
        let disk = &self.handle.disk;
        let quarantine = Quarantine { fs: &*disk.fs, dir: disk.dir.join(QUARANTINE_DIR).join(name) };
        let dir = disk.dir.join(FILES_DIR);
        let names = disk.fs.list(&dir).map_err(|error| Fatal::new("list", &dir, &error))?;
        if names.iter().any(|name| name == file) { quarantine.take(&dir, file) } else { Ok(()) }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.handle.disk.dir
    }

    /// Reads every frame of a log that is not open, and changes nothing. Blocking.
    ///
    /// # Errors
    /// If it cannot be read at all, or is of a newer format.
    pub fn survey_loss(&self, name: &str, known: &Known) -> Result<Survey, OpenError> {
        Walk::new(&self.handle.disk, name, known, None)?.run()
    }

    /// Puts fillers of `filler_kind` in the place of what [`Store::survey_loss`] reports; the log opens after that.
    /// Durable at return. Blocking.
    ///
    /// # Errors
    /// If a file cannot be read or written; to be made again.
    pub fn accept_loss(&self, name: &str, known: &Known, filler_kind: u8) -> Result<Survey, OpenError> {
        Walk::new(&self.handle.disk, name, known, Some(filler_kind))?.run()
    }
}

/// One walk through the segments of a log, oldest first.
struct Walk<'a> {
    disk: &'a Disk,
    dir: PathBuf,
    facts: LogFacts,
    closed: bool,
    known: BTreeMap<u64, Position>,
    known_offset: u64,
    /// None: nothing is changed.
    filler_kind: Option<u8>,
    survey: Survey,
}

/// Segments in log order, and files that are none.
struct Files {
    segments: Vec<SegmentHeader>,
    unreadable: Vec<(u64, &'static str)>,
    next_sequence: u64,
}

impl<'a> Walk<'a> {
    fn new(disk: &'a Disk, name: &str, known: &Known, filler_kind: Option<u8>) -> Result<Self, OpenError> {
        let dir = disk.dir.join(LOGS_DIR).join(name);
        let journal = disk.journal.lock();
        let unknown = || OpenError::corrupt(&dir, 0, "the hard state does not know this log");
        let facts = journal.log(name).cloned().ok_or_else(unknown)?;
        let positions = known.positions.iter().chain(&facts.purged);
        let quarantine = disk.dir.join(QUARANTINE_DIR).join(name);
        Ok(Self {
            closed: journal.was_closed(facts.id),
            known: positions.map(|position| (position.index, *position)).collect(),
            known_offset: known.next_offset.max(facts.start_offset),
            survey: Survey { quarantine, ..Survey::default() },
            disk,
            dir,
            facts,
            filler_kind,
        })
    }

    fn run(mut self) -> Result<Survey, OpenError> {
        let mut files = self.files()?;
        self.survey.unfinished = !files.unreadable.is_empty();
        if self.filler_kind.is_some() {
            for (sequence, _) in &files.unreadable {
                self.quarantine().take(&self.dir, &SegmentHeader::file_name(*sequence))?;
            }
        }
        if files.segments.is_empty() && self.end_index() == self.first_index() {
            self.survey.next_offset = self.end_offset();
            return Ok(self.survey);
        }
        let starts =
            |header: &SegmentHeader| header.first_index <= self.first_index() || header.predecessor.is_none();
        if !files.segments.first().is_some_and(starts) {
            let header = self.missing_start(&files)?;
            files.segments.insert(0, header);
        }
        let mut end = None;
        for (at, header) in files.segments.iter().enumerate() {
            let before = if at == 0 { header.predecessor } else { end };
            end = Some(self.segment(header, before, &files)?);
        }
        Ok(self.survey)
    }

    fn first_index(&self) -> u64 {
        self.facts.purged.map_or(0, |purged| purged.index + 1)
    }

    /// After the last entry that is known to have been there.
    fn end_index(&self) -> u64 {
        let marked = self.facts.mark.map_or(0, |mark| mark.index + 1);
        let known = self.known.last_key_value().map_or(0, |(index, _)| index + 1);
        marked.max(known).max(self.first_index())
    }

    fn end_offset(&self) -> u64 {
        self.facts.mark.map_or(0, |mark| mark.end_offset).max(self.known_offset)
    }

    fn quarantine(&self) -> Quarantine<'_> {
        Quarantine { fs: &*self.disk.fs, dir: self.survey.quarantine.clone() }
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.dir.join(SegmentHeader::file_name(sequence))
    }

    fn files(&self) -> Result<Files, OpenError> {
        let names = self.disk.fs.list(&self.dir).map_err(|error| Fatal::new("list", &self.dir, &error))?;
        let mut sequences: Vec<u64> =
            names.iter().filter_map(|name| SegmentHeader::sequence_of(name)).collect();
        sequences.sort_unstable();
        // Those above the one that was marked may be made ahead of need; that one has lost its header.
        let marked = self.facts.mark.map(|mark| mark.segment);
        while let Some(newest) = sequences.last().filter(|newest| Some(**newest) > marked) {
            if !self.is_made_ahead(*newest)? {
                break;
            }
            sequences.pop();
        }
        let cut = self.facts.cut;
        let next_sequence = sequences.last().copied().max(self.facts.mark.map(|mark| mark.segment));
        let next_sequence = (next_sequence.unwrap_or(0) + 1).max(cut.map_or(1, |cut| cut.next_segment));
        sequences.retain(|sequence| !cut.is_some_and(|cut| cut.removes(*sequence)));
        let (mut segments, mut unreadable) = (Vec::new(), Vec::new());
        for sequence in sequences {
            match self.header(sequence)? {
                Ok(header) => segments.push(header),
                Err(what) => unreadable.push((sequence, what)),
            }
        }
        // What lies before the segment of the first entry was purged, and only not removed yet.
        let first_index = self.first_index();
        let start = segments.iter().rposition(|header| header.first_index <= first_index).unwrap_or(0);
        segments.drain(..start);
        let oldest = segments.first().filter(|header| header.first_index <= first_index);
        let oldest = oldest.map_or(0, |header| header.sequence);
        unreadable.retain(|(sequence, _)| *sequence > oldest);
        Ok(Files { segments, unreadable, next_sequence })
    }

    fn is_made_ahead(&self, sequence: u64) -> Result<bool, Fatal> {
        let Content { bytes, unreadable } =
            read(&*self.disk.fs, &self.path(sequence), SEGMENT_HEADER_BYTES as u64)?;
        Ok(unreadable.is_none() && bytes.first_chunk().is_some_and(is_unwritten))
    }

    fn header(&self, sequence: u64) -> Result<Result<SegmentHeader, &'static str>, OpenError> {
        let path = self.path(sequence);
        let Content { bytes, unreadable } = read(&*self.disk.fs, &path, SEGMENT_HEADER_BYTES as u64)?;
        if unreadable.is_some() {
            return Ok(Err(UNREADABLE));
        }
        let Some(bytes) = bytes.first_chunk() else { return Ok(Err("segment header is cut short")) };
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(HeaderError::Bad(what)) => return Ok(Err(what)),
            Err(HeaderError::Newer(version)) => {
                return Err(OpenError::Newer { path: path.display().to_string(), version });
            }
        };
        let log = crc32fast::hash(self.facts.name.as_bytes());
        let is_own = header.is_of(sequence, self.facts.replica, log);
        Ok(if is_own { Ok(header) } else { Err("segment of another log") })
    }

    /// Stands for a start that is gone as a whole.
    fn missing_start(&self, files: &Files) -> Result<SegmentHeader, Fatal> {
        let next = files.segments.first().and_then(|header| header.predecessor);
        Ok(SegmentHeader {
            sequence: next.map_or(files.next_sequence, |before| before.sequence),
            nonce: self.disk.nonce()?,
            replica: self.facts.replica,
            log: crc32fast::hash(self.facts.name.as_bytes()),
            first_index: self.first_index(),
            base_offset: self.facts.start_offset,
            previous: self.facts.purged,
            predecessor: None,
        })
    }

    /// Looks through one segment and, if asked to, repairs it; returns where it ends.
    fn segment(
        &mut self,
        header: &SegmentHeader,
        before: Option<Predecessor>,
        files: &Files,
    ) -> Result<Predecessor, OpenError> {
        let path = self.path(header.sequence);
        let is_unreadable = files.unreadable.iter().any(|(sequence, _)| *sequence == header.sequence);
        let length = if is_unreadable { 0 } else { u64::MAX };
        let Content { bytes, unreadable } = read(&*self.disk.fs, &path, length)?;
        let bytes = Bytes::from(bytes);
        let next = files.segments.iter().find(|other| other.sequence > header.sequence);
        let contents = match next {
            Some(next) => self.sealed(&bytes, header, next),
            None => self.newest(&bytes, header),
        };
        let mut contents = contents.map_err(|what| OpenError::corrupt(&path, 0, what))?;
        contents.damage = unreadable.map(|at| (at, UNREADABLE)).or(contents.damage);
        self.report(&contents, header, files);
        self.survey.unfinished |= contents.is_damaged() || header.predecessor != before;
        let Some(filler_kind) = self.filler_kind else { return Ok(contents.end(header.sequence)) };
        let end = if contents.is_damaged() {
            let name = SegmentHeader::file_name(header.sequence);
            match unreadable {
                Some(_) => self.quarantine().link(&self.dir, &name)?,
                None if bytes.is_empty() => {}
                None => self.quarantine().copy(&name, &bytes)?,
            }
            let header = SegmentHeader { nonce: self.disk.nonce()?, predecessor: before, ..header.clone() };
            let (rewritten, link) = contents.rewrite(&header, filler_kind);
            replace(&*self.disk.fs, &path, &rewritten)?;
            Predecessor { sequence: header.sequence, end_byte: rewritten.len() as u64, chain: link.chain }
        } else {
            if header.predecessor != before {
                let mut relinked = SegmentHeader { predecessor: before, ..header.clone() }.encode();
                relinked.extend_from_slice(&bytes[SEGMENT_HEADER_BYTES..]);
                replace(&*self.disk.fs, &path, &relinked)?;
            }
            contents.end(header.sequence)
        };
        if next.is_none() {
            self.record_end(&contents, end)?;
        }
        Ok(end)
    }

    fn sealed(
        &self,
        bytes: &Bytes,
        header: &SegmentHeader,
        next: &SegmentHeader,
    ) -> Result<Contents, &'static str> {
        let before = next.predecessor.filter(|before| before.sequence == header.sequence);
        let end_byte = before.map_or(u64::MAX, |before| before.end_byte);
        let next_start = Some((next.first_index, next.base_offset));
        let expected = Expected { next: next_start, end_byte, synced_byte: u64::MAX };
        let mut contents = Contents::read(bytes, header, expected);
        let known = self.known.iter().map(|(index, position)| (*index, *position));
        let known = known.chain(next.previous.map(|previous| (previous.index, previous))).collect();
        contents.lose_up_to(next.first_index, next.base_offset, &known)?;
        if let Some(before) = before {
            contents.pass_epochs(bytes, before.end_byte);
        }
        Ok(contents)
    }

    fn newest(&self, bytes: &Bytes, header: &SegmentHeader) -> Result<Contents, &'static str> {
        let cut = self.facts.cut.filter(|cut| cut.segment == header.sequence);
        let synced_byte = match self.facts.mark {
            // A newer one was there: this one was whole.
            Some(mark) if mark.segment > header.sequence => u64::MAX,
            Some(mark) if mark.segment == header.sequence => mark.byte,
            _ => 0,
        };
        let synced_byte = synced_byte.max(cut.map_or(0, |cut| cut.byte));
        let end_byte = match cut {
            Some(cut) => cut.byte,
            None if self.closed => synced_byte,
            None => u64::MAX,
        };
        let mut contents = Contents::read(bytes, header, Expected { next: None, end_byte, synced_byte });
        let (end_index, end_offset) = (self.end_index(), self.end_offset());
        if contents.next_index < end_index {
            let end_offset = end_offset.max(contents.next_offset);
            contents.lose_up_to(end_index, end_offset, &self.known)?;
        }
        Ok(contents)
    }

    fn report(&mut self, contents: &Contents, header: &SegmentHeader, files: &Files) {
        let (sequence, at, what) = self.cause(contents, header, files);
        let path = self.path(sequence).display().to_string();
        let mut is_run = false;
        for found in &contents.frames {
            let header = found.header();
            let (index, end_offset) = (header.position.index, header.end_offset());
            match found {
                // A filler of an earlier loss holds nothing.
                Found::Kept(_) if header.payload_bytes == 0 => {}
                Found::Kept(_) => self.survey.kept += u64::from(header.count),
                Found::Lost(_) => match self.survey.lost.last_mut().filter(|_| is_run) {
                    Some(lost) => (lost.indexes.end, lost.offsets.end) = (index + 1, end_offset),
                    None => self.survey.lost.push(Lost {
                        path: path.clone(),
                        at,
                        what: what.to_owned(),
                        indexes: index..index + 1,
                        offsets: header.base_offset..end_offset,
                    }),
                },
            }
            is_run = matches!(found, Found::Lost(_));
        }
        self.survey.next_offset = contents.next_offset;
    }

    /// Where the losses of a segment come from: its own file, or one behind it that is no segment any more.
    fn cause(&self, contents: &Contents, header: &SegmentHeader, files: &Files) -> (u64, u64, &'static str) {
        let next = files.segments.iter().find(|other| other.sequence > header.sequence);
        let newest = || self.facts.mark.map_or(header.sequence, |mark| mark.segment);
        let before = next.map_or_else(newest, |next| next.predecessor.map_or(0, |before| before.sequence));
        let is_behind = |sequence: u64| sequence >= header.sequence && sequence <= before;
        match (files.unreadable.iter().find(|(sequence, _)| is_behind(*sequence)), contents.damage) {
            (Some((sequence, what)), _) => (*sequence, 0, what),
            (None, Some((at, what))) if before <= header.sequence => (header.sequence, at, what),
            _ => (before.max(header.sequence), 0, "segment file is missing"),
        }
    }

    /// The newest segment ends here now.
    fn record_end(&self, contents: &Contents, end: Predecessor) -> Result<(), Fatal> {
        let Some(last) = contents.next_index.checked_sub(1) else { return Ok(()) };
        let mark =
            Mark { index: last, segment: end.sequence, byte: end.end_byte, end_offset: contents.next_offset };
        let mut facts = self.facts.clone();
        facts.mark = Some(mark);
        facts.cut = facts.cut.map(|mut cut| {
            if cut.segment == end.sequence {
                cut.byte = end.end_byte;
            }
            cut
        });
        if facts == self.facts {
            return Ok(());
        }
        let mut journal = self.disk.journal.lock();
        journal.record(facts)?;
        journal.sync()
    }
}
