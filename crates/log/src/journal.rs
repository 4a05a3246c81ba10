//! The hard-state journal, one per data directory: votes, purge points, truncations and synced ends of all logs.
//!
//! A file of fixed size whose blocks are written once at creation; records are appended and it is replaced by a
//! compacted one when full, and at each start. Each record says up to which byte the journal was synced before
//! it, so that a bad record below some later one's word is corruption, and only what nothing vouches for is torn.
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use fanfare_environment::Environment;

use crate::{
    codec::{Fields, to_u32, to_usize},
    error::{Fatal, OpenError},
    fs::{File, FileSystem},
    store::sealed_file::{self, TEMPORARY_SUFFIX},
    written::DirtyFile,
};
use record::Record;
pub(crate) use record::{LogFacts, SyncMark, Truncation};

const FILE_NAME: &str = "journal";
const MAGIC: &[u8; 8] = b"FANFHARD";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 24;
const RECORD_ALIGN: usize = 8;
const RECORD_BYTES_MAX: usize = 1024 * 1024;
const SIZE_BYTES_MIN: u64 = 16 * 1024;
const SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(crate) struct Journal {
    environment: Environment,
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    file: Arc<dyn File>,
    nonce: u64,
    size_bytes: u64,
    end_byte: u64,
    synced_byte: u64,
    sequence: u64,
    logs: BTreeMap<u32, LogFacts>,
    /// Logs whose marks are their very ends once the flusher has stopped.
    clean: BTreeSet<u32>,
}

/// What the journal held at some moment: its file, and up to where a sync of that vouches for it.
pub(crate) struct PendingSync {
    pub(crate) dirty: DirtyFile,
    pub(crate) nonce: u64,
    pub(crate) end_byte: u64,
}

/// What an earlier run left.
#[derive(Default)]
struct JournalContents {
    logs: BTreeMap<u32, LogFacts>,
    clean: BTreeSet<u32>,
}

impl Journal {
    /// An empty journal; durable at return.
    pub(crate) fn create(
        environment: &Environment,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<Self, Fatal> {
        Self::write(environment.clone(), fs, dir, size_bytes(segment_bytes), JournalContents::default())
    }

    /// Reads what is there and replaces it by a compacted journal.
    pub(crate) fn open(
        environment: &Environment,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<Self, OpenError> {
        let path = dir.join(FILE_NAME);
        let bytes =
            sealed_file::read(&*fs, &path)?.ok_or_else(|| OpenError::corrupt(&path, 0, "file is missing"))?;
        let left = read(&path, &bytes)?;
        Ok(Self::write(environment.clone(), fs, dir, size_bytes(segment_bytes), left)?)
    }

    pub(crate) fn log(&self, name: &str) -> Option<&LogFacts> {
        self.logs.values().find(|facts| facts.name == name)
    }

    pub(crate) fn facts(&self, id: u32) -> &LogFacts {
        &self.logs[&id]
    }

    pub(crate) fn next_id(&self) -> u32 {
        self.logs.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// Durable after the next `sync`.
    pub(crate) fn record_facts(&mut self, facts: LogFacts) -> Result<(), Fatal> {
        self.logs.insert(facts.id, facts.clone());
        self.append(&Record::Log(facts))
    }

    /// Durable after the next `sync`.
    pub(crate) fn record_sync_marks(&mut self, marks: &[(u32, SyncMark)]) -> Result<(), Fatal> {
        for (id, mark) in marks {
            if let Some(facts) = self.logs.get_mut(id) {
                facts.sync_mark = Some(*mark);
            }
        }
        self.append(&Record::Marks(marks.to_vec()))
    }

    /// Whether the log was closed in order and has not been opened since.
    pub(crate) fn was_closed_cleanly(&self, id: u32) -> bool {
        self.clean.contains(&id)
    }

    /// The log was opened and ends at `mark`; durable at return.
    pub(crate) fn record_opened(&mut self, id: u32, mark: Option<SyncMark>) -> Result<(), Fatal> {
        if let Some(mark) = mark.filter(|mark| self.logs[&id].sync_mark != Some(*mark)) {
            self.record_sync_marks(&[(id, mark)])?;
            self.sync()?;
        }
        self.clean.insert(id);
        Ok(())
    }

    /// Durable at return.
    pub(crate) fn record_clean_stop(&mut self) -> Result<(), Fatal> {
        self.sync()?;
        self.append(&Record::CleanStop(self.clean.iter().copied().collect()))?;
        self.sync()
    }

    pub(crate) fn sync(&mut self) -> Result<(), Fatal> {
        self.file.sync().map_err(|error| Fatal::new("sync", &self.path, &error))?;
        self.synced_byte = self.end_byte;
        Ok(())
    }

    /// For a sync together with other files; `note_synced` follows it.
    pub(crate) fn pending_sync(&self) -> PendingSync {
        let dirty = DirtyFile { file: Arc::clone(&self.file), path: self.path.clone() };
        PendingSync { dirty, nonce: self.nonce, end_byte: self.end_byte }
    }

    /// What was written since `written` is not vouched for, and nothing of a journal that has replaced that one.
    pub(crate) fn note_synced(&mut self, nonce: u64, end_byte: u64) {
        if nonce == self.nonce {
            self.synced_byte = self.synced_byte.max(end_byte);
        }
    }

    fn append(&mut self, record: &Record) -> Result<(), Fatal> {
        let bytes = frame(record, self.sequence, self.synced_byte, self.nonce);
        if self.end_byte + bytes.len() as u64 > self.size_bytes {
            let dir = self.path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
            let kept = JournalContents {
                logs: std::mem::take(&mut self.logs),
                clean: std::mem::take(&mut self.clean),
            };
            *self = Self::write(self.environment.clone(), self.fs.clone(), &dir, self.size_bytes, kept)?;
            let bytes = frame(record, self.sequence, self.synced_byte, self.nonce);
            return self.write_record(&bytes);
        }
        self.write_record(&bytes)
    }

    fn write_record(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        self.file
            .write_all_at(bytes, self.end_byte)
            .map_err(|error| Fatal::new("write", &self.path, &error))?;
        self.end_byte += bytes.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// A new journal that holds what is `left`, in place of the one there is.
    fn write(
        environment: Environment,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        size_bytes: u64,
        left: JournalContents,
    ) -> Result<Self, Fatal> {
        let JournalContents { logs, clean } = left;
        let path = dir.join(FILE_NAME);
        let temporary = dir.join(format!("{FILE_NAME}{TEMPORARY_SUFFIX}"));
        let nonce = environment.random().next_u64();
        let mut records = Vec::new();
        for facts in logs.values() {
            let sequence = logs.range(..facts.id).count() as u64;
            records.extend(frame(&Record::Log(facts.clone()), sequence, 0, nonce));
        }
        let end_byte = (HEADER_BYTES + records.len()) as u64;
        let mut bytes = header(nonce, end_byte);
        bytes.extend(records);
        // Room for as much again: many logs may not fit the usual size.
        let size_bytes = size_bytes.max(end_byte * 2);
        bytes.resize(to_usize(size_bytes), 0);
        sealed_file::replace(&*fs, &path, &temporary, &bytes)?;
        let file = fs.open(&path).map_err(|error| Fatal::new("open", &path, &error))?;
        let sequence = logs.len() as u64;
        Ok(Self {
            environment,
            fs,
            path,
            file,
            nonce,
            size_bytes,
            end_byte,
            synced_byte: end_byte,
            sequence,
            logs,
            clean,
        })
    }
}

fn size_bytes(segment_bytes: u64) -> u64 {
    (segment_bytes / 16).clamp(SIZE_BYTES_MIN, SIZE_BYTES_MAX)
}

/// `whole_byte`: up to here the journal was synced before it got its name.
fn header(nonce: u64, whole_byte: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&nonce.to_le_bytes());
    bytes.extend_from_slice(&whole_byte.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Length, checksum, sequence, synced byte, then the record, padded.
fn frame(record: &Record, sequence: u64, synced_byte: u64, nonce: u64) -> Vec<u8> {
    let content = record.encode();
    let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES + content.len() + RECORD_ALIGN);
    bytes.extend_from_slice(&to_u32(content.len()).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&synced_byte.to_le_bytes());
    bytes.extend_from_slice(&content);
    let padded = bytes.len().next_multiple_of(RECORD_ALIGN);
    bytes.resize(padded, 0);
    let checksum = checksum(&bytes, nonce);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn checksum(padded: &[u8], nonce: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&nonce.to_le_bytes());
    hasher.update(&padded[..4]);
    hasher.update(&padded[8..]);
    hasher.finalize()
}

struct Framed {
    record: Record,
    sequence: u64,
    synced_byte: u64,
    length: usize,
}

fn parse(bytes: &[u8], nonce: u64) -> Option<Framed> {
    let mut fields = Fields::new(bytes);
    let content_bytes = fields.u32()? as usize;
    let (found, sequence, synced_byte) = (fields.u32()?, fields.u64()?, fields.u64()?);
    if content_bytes == 0 || content_bytes > RECORD_BYTES_MAX {
        return None;
    }
    let length = (RECORD_HEADER_BYTES + content_bytes).next_multiple_of(RECORD_ALIGN);
    let padded = bytes.get(..length)?;
    if found != checksum(padded, nonce) {
        return None;
    }
    let record = Record::decode(fields.bytes(content_bytes)?)?;
    Some(Framed { record, sequence, synced_byte, length })
}

fn read(path: &Path, bytes: &[u8]) -> Result<JournalContents, OpenError> {
    let (nonce, whole_byte) = read_header(path, bytes)?;
    let mut left = JournalContents::default();
    let mut at = HEADER_BYTES;
    let mut sequence = 0;
    while let Some(framed) = bytes.get(at..).and_then(|rest| parse(rest, nonce)) {
        if framed.sequence != sequence {
            break;
        }
        at += framed.length;
        sequence += 1;
        // Whatever follows a clean stop was written by another run.
        left.clean.clear();
        left.take(framed.record);
    }
    if vouched_byte(bytes, at, nonce, whole_byte) > at as u64 {
        return Err(OpenError::corrupt(path, at as u64, "damaged record that was synced"));
    }
    Ok(left)
}

/// The greatest byte up to which the header or an intact record at or after `from` says that all was synced.
fn vouched_byte(bytes: &[u8], from: usize, nonce: u64, whole_byte: u64) -> u64 {
    let later = (from..bytes.len()).step_by(RECORD_ALIGN);
    let words = later.filter_map(|at| parse(&bytes[at..], nonce)).map(|framed| framed.synced_byte);
    words.fold(whole_byte, u64::max)
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<(u64, u64), OpenError> {
    let damaged = || OpenError::corrupt(path, 0, "journal header is damaged");
    let header = bytes.get(..HEADER_BYTES).ok_or_else(damaged)?;
    let mut fields = Fields::new(header);
    let magic = fields.array();
    let version = fields.u32().ok_or_else(damaged)?;
    if magic == Some(*MAGIC) && version > VERSION {
        return Err(OpenError::Newer { path: path.display().to_string(), version });
    }
    let (sealed, found) = header.split_last_chunk::<4>().ok_or_else(damaged)?;
    if magic != Some(*MAGIC) || crc32fast::hash(sealed) != u32::from_le_bytes(*found) {
        return Err(damaged());
    }
    let parsed = fields.bytes(4).and_then(|_| Some((fields.u64()?, fields.u64()?)));
    parsed.ok_or_else(damaged)
}

impl JournalContents {
    fn take(&mut self, record: Record) {
        match record {
            Record::Log(facts) => {
                self.logs.insert(facts.id, facts);
            }
            Record::Marks(marks) => {
                for (id, mark) in marks {
                    if let Some(facts) = self.logs.get_mut(&id) {
                        facts.sync_mark = Some(mark);
                    }
                }
            }
            Record::CleanStop(ids) => self.clean.extend(ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{MemoryFileSystem, memory::Keep};

    const DIR: &str = "/data";
    const SEGMENT_BYTES: u64 = 2048;

    fn journal() -> (MemoryFileSystem, Journal) {
        let fs = MemoryFileSystem::default();
        fs.create_dir(Path::new(DIR)).expect("create directory");
        let journal =
            Journal::create(&Environment::system(), Arc::new(fs.clone()), Path::new(DIR), SEGMENT_BYTES)
                .expect("create");
        (fs, journal)
    }

    fn facts(id: u32) -> LogFacts {
        LogFacts { id, name: format!("events-{id}"), ..LogFacts::default() }
    }

    /// Of three records the first is synced by the flusher while another thread adds the second; the third tells
    /// what was synced. A crash then leaves the third alone of what was not synced.
    fn reopened(meanwhile: impl FnOnce(&mut Journal)) -> Result<Journal, OpenError> {
        let (fs, mut journal) = journal();
        journal.record_facts(facts(1)).expect("record");
        let PendingSync { dirty, nonce, end_byte } = journal.pending_sync();
        dirty.file.sync().expect("sync");
        meanwhile(&mut journal);
        journal.note_synced(nonce, end_byte);
        journal.record_sync_marks(&[]).expect("mark");
        let mut unsynced = 0;
        fs.crashed(|_| {
            unsynced += 1;
            Keep::Nothing
        });
        let crashed = fs.crashed(|_| {
            unsynced -= 1;
            if unsynced == 0 { Keep::All } else { Keep::Nothing }
        });
        Journal::open(&Environment::system(), Arc::new(crashed), Path::new(DIR), SEGMENT_BYTES)
    }

    #[test]
    fn a_record_added_during_a_sync_is_not_vouched_for() {
        let journal = reopened(|journal| journal.record_facts(facts(2)).expect("record"))
            .expect("a torn end, no damage");
        assert!(journal.log("events-1").is_some() && journal.log("events-2").is_none());
    }

    #[test]
    fn a_sync_of_the_journal_vouches_for_nothing_of_its_successor() {
        let journal = reopened(|journal| {
            let replaced = journal.nonce;
            while journal.nonce == replaced {
                journal.record_facts(facts(2)).expect("record");
            }
        });
        journal.expect("a torn end, no damage");
    }
}
