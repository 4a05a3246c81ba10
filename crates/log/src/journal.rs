//! The journal of a data directory: votes, purge points, truncations and synced ends of all its logs.
//!
//! A file of fixed size whose blocks are written once, at creation. Records are appended. A compacted journal replaces
//! a full one, and the old one at each start. Each record carries the journal length that was synced before the record
//! was written: on open, a bad record below any later record's length is corruption, and one above all of them is a
//! torn tail and is dropped.
mod file;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use fanfare_environment::Environment;

use crate::{
    codec::to_usize,
    error::{Fatal, OpenError},
    fs::{File, FileSystem},
    store::sealed_file::{self, TEMPORARY_SUFFIX},
    written::DirtyFile,
};
use record::Record;
pub(crate) use record::{LogFacts, SyncMark, Truncation};

const FILE_NAME: &str = "journal";
const SIZE_BYTES_MIN: u64 = 16 * 1024;
/// A rewrite of the journal writes this much inline. With 64 busy logs a rewrite is due every 3 minutes.
const SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(crate) struct Journal {
    environment: Environment,
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    file: Arc<dyn File>,
    nonce: u64,
    size_bytes: u64,
    end_byte: u64,
    /// Length of the journal that is known to be synced.
    synced_byte: u64,
    /// Length up to which a durable later record, or the header, says that the journal was synced.
    confirmed_byte: u64,
    /// Number of the next record.
    sequence: u64,
    contents: JournalContents,
    /// Logs with a synced end that no record tells yet.
    unrecorded: BTreeSet<u32>,
}

/// The journal's file with the length that a sync of the file makes durable.
pub(crate) struct PendingSync {
    pub(crate) dirty: DirtyFile,
    pub(crate) nonce: u64,
    pub(crate) end_byte: u64,
}

/// All that a journal says.
#[derive(Default)]
struct JournalContents {
    logs: BTreeMap<u32, LogFacts>,
    /// Logs whose sync marks are their very ends once the flusher has stopped.
    clean: BTreeSet<u32>,
}

impl Journal {
    /// An empty journal; durable at return.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn create(
        environment: &Environment,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<Self, Fatal> {
        Self::write(environment.clone(), fs, dir, size_bytes(segment_bytes), JournalContents::default())
    }

    /// Reads the journal and replaces it by a compacted one; durable at return.
    ///
    /// # Errors
    /// If there is no journal, or a synced part of it is damaged.
    pub(crate) fn open(
        environment: &Environment,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<Self, OpenError> {
        let path = dir.join(FILE_NAME);
        let bytes =
            sealed_file::read(&*fs, &path)?.ok_or_else(|| OpenError::corrupt(&path, 0, "file is missing"))?;
        let contents = file::read(&path, &bytes)?;
        Ok(Self::write(environment.clone(), fs, dir, size_bytes(segment_bytes), contents)?)
    }

    pub(crate) fn log(&self, name: &str) -> Option<&LogFacts> {
        self.contents.logs.values().find(|facts| facts.name == name)
    }

    pub(crate) fn facts(&self, id: u32) -> &LogFacts {
        &self.contents.logs[&id]
    }

    pub(crate) fn next_id(&self) -> u32 {
        self.contents.logs.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// True if the log was closed in order and has not been opened since.
    pub(crate) fn was_closed_cleanly(&self, id: u32) -> bool {
        self.contents.clean.contains(&id)
    }

    /// Replaces all that is known of a log. Durable after the next `sync`.
    pub(crate) fn record_facts(&mut self, facts: LogFacts) -> Result<(), Fatal> {
        // The facts carry the log's newest mark, or a lower one after a truncation: a mark noted before must not
        // follow them, or it would raise the synced end over frames that are gone.
        self.unrecorded.remove(&facts.id);
        self.contents.logs.insert(facts.id, facts.clone());
        self.append(&Record::Facts(facts))
    }

    /// Notes how far logs are synced. Recorded together with the next `pending_sync`, `sync` or `confirm`: a record for
    /// each round of the flusher would fill the journal within seconds, and no record is durable earlier anyway.
    ///
    /// # Panics
    /// If a synced end falls.
    pub(crate) fn note_synced_ends(&mut self, marks: &[(u32, SyncMark)]) {
        for (id, mark) in marks {
            let Some(facts) = self.contents.logs.get_mut(id) else { continue };
            let falls =
                facts.sync_mark.is_some_and(|old| (mark.segment, mark.byte) < (old.segment, old.byte));
            assert!(
                !falls,
                "invariant violation: the synced end of {} falls from {:?} to {mark:?}",
                facts.name, facts.sync_mark
            );
            facts.sync_mark = Some(*mark);
            self.unrecorded.insert(*id);
        }
    }

    /// Records that the log was opened and ends at `mark`; durable at return.
    pub(crate) fn record_opened(&mut self, id: u32, mark: Option<SyncMark>) -> Result<(), Fatal> {
        if let Some(facts) = self.contents.logs.get_mut(&id)
            && mark.is_some()
            && facts.sync_mark != mark
        {
            facts.sync_mark = mark;
            self.unrecorded.insert(id);
            // Confirmed before the log is used: the recovered end may be above every earlier mark.
            self.confirm()?;
        }
        self.contents.clean.insert(id);
        Ok(())
    }

    /// Records the synced ends that were noted; not synced.
    pub(crate) fn record_synced_ends(&mut self) -> Result<(), Fatal> {
        let unrecorded = std::mem::take(&mut self.unrecorded);
        let marks: Vec<(u32, SyncMark)> =
            unrecorded.iter().filter_map(|id| Some((*id, self.contents.logs.get(id)?.sync_mark?))).collect();
        if marks.is_empty() { Ok(()) } else { self.append(&Record::SyncMarks(marks)) }
    }

    /// Records a stop in order; durable at return.
    pub(crate) fn record_clean_stop(&mut self) -> Result<(), Fatal> {
        // The marks become the very ends of the logs by the next record, so they are durable before it.
        self.sync()?;
        self.append(&Record::CleanStop(self.contents.clean.iter().copied().collect()))?;
        self.sync()
    }

    /// Makes all records durable.
    pub(crate) fn sync(&mut self) -> Result<(), Fatal> {
        self.record_synced_ends()?;
        // The length is raised after the sync alone: the next record tells it to a start, which takes a bad record below it
        // for damage and refuses to open.
        self.file.sync().map_err(|error| Fatal::new("sync", &self.path, &error))?;
        self.synced_byte = self.end_byte;
        Ok(())
    }

    /// Makes all records durable, and proves to a later start that they were: from now on damage to any of them is
    /// reported and never taken for a torn tail.
    ///
    /// Two syncs: the proof is a record of its own, and only a durable one survives a power loss. Callers are answered
    /// after the first sync of their own and never wait for this, so the second one costs nobody anything; a second
    /// copy of each record would protect from the first moment on, but only against damage of a single sector.
    pub(crate) fn confirm(&mut self) -> Result<(), Fatal> {
        if self.confirmed_byte == self.end_byte && self.unrecorded.is_empty() {
            return Ok(());
        }
        self.sync()?;
        // After the first sync: a confirmation tells the length that was synced before it, and would prove nothing else.
        self.append(&Record::Confirmation)?;
        self.sync()?;
        self.confirmed_byte = self.end_byte;
        Ok(())
    }

    /// The file for a sync together with other files; `note_synced` follows.
    pub(crate) fn pending_sync(&mut self) -> Result<PendingSync, Fatal> {
        self.record_synced_ends()?;
        // The length is taken now: what is appended while the sync runs is not covered by it.
        let dirty = DirtyFile { file: self.file.clone(), path: self.path.clone() };
        Ok(PendingSync { dirty, nonce: self.nonce, end_byte: self.end_byte })
    }

    /// A sync of the journal `nonce` covered it up to `end_byte`. Records written during the sync are not covered, and
    /// nothing is of a journal that has replaced that one.
    pub(crate) fn note_synced(&mut self, nonce: u64, end_byte: u64) {
        if nonce == self.nonce {
            assert!(end_byte <= self.end_byte, "invariant violation: the journal is synced beyond its end");
            self.synced_byte = self.synced_byte.max(end_byte);
        }
    }

    fn append(&mut self, record: &Record) -> Result<(), Fatal> {
        let bytes = self.frame(record);
        if self.end_byte + bytes.len() as u64 <= self.size_bytes {
            return self.write_record(&bytes);
        }
        let dir = self.path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let contents = std::mem::take(&mut self.contents);
        // The compacted journal carries all facts and marks, so nothing of this one is still to be synced.
        *self = Self::write(self.environment.clone(), self.fs.clone(), &dir, self.size_bytes, contents)?;
        let bytes = self.frame(record);
        self.write_record(&bytes)
    }

    fn frame(&self, record: &Record) -> Vec<u8> {
        file::frame(
            record,
            file::Placement { sequence: self.sequence, synced_byte: self.synced_byte },
            self.nonce,
        )
    }

    fn write_record(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let end_byte = self.end_byte + bytes.len() as u64;
        assert!(
            self.synced_byte <= self.end_byte && end_byte <= self.size_bytes,
            "invariant violation: a journal of {} bytes, synced up to {}, grows from {} to {end_byte}",
            self.size_bytes,
            self.synced_byte,
            self.end_byte
        );
        self.file
            .write_all_at(bytes, self.end_byte)
            .map_err(|error| Fatal::new("write", &self.path, &error))?;
        self.end_byte = end_byte;
        self.sequence += 1;
        Ok(())
    }

    /// Replaces the journal of `dir` by one that says `contents`; durable at return.
    fn write(
        environment: Environment,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        size_bytes: u64,
        contents: JournalContents,
    ) -> Result<Self, Fatal> {
        let path = dir.join(FILE_NAME);
        let temporary = dir.join(format!("{FILE_NAME}{TEMPORARY_SUFFIX}"));
        // The nonce is new: records of the replaced journal that the disk shows behind the end do not prove themselves.
        let nonce = environment.random().next_u64();
        // Facts alone: marks are part of them, and a clean stop holds only until the log is opened again.
        let mut records = Vec::new();
        for (sequence, facts) in (0..).zip(contents.logs.values()) {
            let placement = file::Placement { sequence, synced_byte: 0 };
            records.extend(file::frame(&Record::Facts(facts.clone()), placement, nonce));
        }
        let end_byte = (file::HEADER_BYTES + records.len()) as u64;
        let mut bytes = file::header(nonce, end_byte);
        bytes.extend(records);
        assert_eq!(bytes.len() as u64, end_byte, "invariant violation: length of a compacted journal");
        // Room for as much again: the facts of many logs may not fit the usual size.
        let size_bytes = size_bytes.max(end_byte * 2);
        bytes.resize(to_usize(size_bytes), 0);
        // By a rename: a crash leaves the old journal or this one, each whole.
        sealed_file::replace(&*fs, &path, &temporary, &bytes)?;
        let file = fs.open(&path).map_err(|error| Fatal::new("open", &path, &error))?;
        let sequence = contents.logs.len() as u64;
        Ok(Self {
            environment,
            fs,
            path,
            file,
            nonce,
            size_bytes,
            end_byte,
            // The file was synced whole before it got its name, and its header says so.
            synced_byte: end_byte,
            confirmed_byte: end_byte,
            sequence,
            contents,
            unrecorded: BTreeSet::new(),
        })
    }
}

fn size_bytes(segment_bytes: u64) -> u64 {
    (segment_bytes / 16).clamp(SIZE_BYTES_MIN, SIZE_BYTES_MAX)
}

impl JournalContents {
    fn apply(&mut self, record: Record) {
        // Any record behind a clean stop was written by a later run.
        self.clean.clear();
        match record {
            Record::Facts(facts) => {
                self.logs.insert(facts.id, facts);
            }
            Record::SyncMarks(marks) => {
                for (id, mark) in marks {
                    if let Some(facts) = self.logs.get_mut(&id) {
                        facts.sync_mark = Some(mark);
                    }
                }
            }
            Record::CleanStop(ids) => self.clean.extend(ids),
            Record::Confirmation => {}
        }
    }
}

#[cfg(test)]
mod tests;
