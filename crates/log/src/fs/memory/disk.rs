//! The state behind a `MemoryFileSystem`: what is visible, what is durable, and what is neither lost nor kept yet.
//! Every change is an `Operation`, so that replaying a prefix of them gives each state the files ever had.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::pages::Pages;

const SECTOR_BYTES: usize = 512;
const CAPACITY_BYTES: u64 = 1 << 40;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How a write or sync fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Io,
    DiskFull,
}

/// Something that no sync has covered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// A creation, removal or renaming.
    Name,
    Write {
        bytes: usize,
    },
}

/// What a crash leaves of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    All,
    Nothing,
    /// Of a write, the 512-byte sectors whose number (from the file's start, modulo 64) is set; of a name, all.
    Sectors(u64),
}

#[derive(Clone)]
pub(super) enum Operation {
    Create { path: PathBuf },
    Write { number: usize, at: u64, bytes: Bytes },
    Sync { number: usize },
    LoseWrites { number: usize },
    Rename { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    CreateDir { path: PathBuf },
    SyncDir { dir: PathBuf },
}

#[derive(Clone, Default)]
struct Inode {
    view: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(u64, usize, Bytes)>,
    unreadable: Vec<Range<u64>>,
}

#[derive(Clone)]
enum NameChange {
    Set { path: PathBuf, number: usize },
    Unset { path: PathBuf },
    Move { from: PathBuf, to: PathBuf, number: usize },
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Set { path, .. } | Self::Unset { path } => path.parent() == Some(dir),
            Self::Move { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Set { path, number } => {
                names.insert(path.clone(), *number);
            }
            Self::Unset { path } => {
                names.remove(path);
            }
            Self::Move { from, to, number } => {
                names.remove(from);
                names.insert(to.clone(), *number);
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) write: Option<(u64, Failure)>,
    pub(super) sync: Option<(u64, Failure)>,
}

impl Faults {
    pub(super) fn check_write(&mut self) -> io::Result<()> {
        Self::check(&mut self.write)
    }

    pub(super) fn check_sync(&mut self) -> io::Result<()> {
        Self::check(&mut self.sync)
    }

    fn check(fault: &mut Option<(u64, Failure)>) -> io::Result<()> {
        match fault {
            None => Ok(()),
            Some((0, failure)) => {
                let code = if *failure == Failure::Io { EIO } else { ENOSPC };
                *fault = None;
                Err(io::Error::from_raw_os_error(code))
            }
            Some((passing, _)) => {
                *passing -= 1;
                Ok(())
            }
        }
    }
}

#[derive(Clone, Default)]
struct Content {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<(usize, NameChange)>,
    dirs: BTreeSet<PathBuf>,
    performed: usize,
}

#[derive(Default)]
pub(super) struct Disk {
    content: Content,
    origin: Arc<Content>,
    trace: Vec<Operation>,
    pub(super) faults: Faults,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) syncs: u64,
    pub(super) pages: Pages,
    /// None: more than any test writes.
    pub(super) capacity_bytes: Option<u64>,
}

impl Disk {
    pub(super) fn perform(&mut self, operation: Operation) {
        self.content.perform(&operation);
        self.trace.push(operation);
    }

    pub(super) fn operations(&self) -> usize {
        self.trace.len()
    }

    pub(super) fn after(&self, count: usize) -> Self {
        let mut content = Content::clone(&self.origin);
        for operation in &self.trace[..count] {
            content.perform(operation);
        }
        let trace = self.trace[..count].to_vec();
        Self { content, origin: Arc::clone(&self.origin), trace, ..Self::default() }
    }

    pub(super) fn crashed(&self, keep: impl FnMut(Unsynced) -> Keep) -> Self {
        let content = self.content.crashed(keep);
        Self { origin: Arc::new(content.clone()), content, ..Self::default() }
    }

    pub(super) fn damage(&mut self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let number = self.content.names[path];
        let inode = &mut self.content.inodes[number];
        change(&mut inode.view);
        inode.durable.clone_from(&inode.view);
        inode.unsynced.clear();
    }

    pub(super) fn make_unreadable(&mut self, path: &Path, range: Range<u64>) {
        let number = self.content.names[path];
        self.content.inodes[number].unreadable.push(range);
    }

    pub(super) fn check_read(&self, number: usize, range: Range<u64>) -> io::Result<()> {
        let unreadable = &self.content.inodes[number].unreadable;
        if unreadable.iter().any(|bad| bad.start < range.end && range.start < bad.end) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.content.names.keys().cloned().collect()
    }

    pub(super) fn number(&self, path: &Path) -> io::Result<usize> {
        self.content.names.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    pub(super) fn view(&self, number: usize) -> &[u8] {
        &self.content.inodes[number].view
    }

    /// What was written to the file and not synced since.
    pub(super) fn unsynced(&self, number: usize) -> Vec<Range<u64>> {
        let writes = &self.content.inodes[number].unsynced;
        writes.iter().map(|(at, _, bytes)| *at..*at + bytes.len() as u64).collect()
    }

    pub(super) fn require_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(dir) if self.content.dirs.contains(dir) => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.content.dirs.contains(dir) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let paths = self.content.names.keys().chain(&self.content.dirs);
        let children = paths.filter(|path| path.parent() == Some(dir)).filter_map(|path| path.file_name());
        let mut names: Vec<String> = children.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Of the files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        self.content.names.values().map(|number| self.view(*number).len() as u64).sum()
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.unwrap_or(CAPACITY_BYTES).saturating_sub(self.used_bytes())
    }

    /// Whether the file may be written up to `end`.
    pub(super) fn check_room(&self, number: usize, end: u64) -> io::Result<()> {
        let growth = end.saturating_sub(self.view(number).len() as u64);
        if self.capacity_bytes.is_some() && growth > self.free_bytes() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }
}

impl Content {
    fn perform(&mut self, operation: &Operation) {
        self.performed += 1;
        match operation {
            Operation::Create { path } => {
                let number = self.inodes.len();
                self.inodes.push(Inode::default());
                self.change_name(NameChange::Set { path: path.clone(), number });
            }
            Operation::Write { number, at, bytes } => {
                let inode = &mut self.inodes[*number];
                overlay(&mut inode.view, *at, bytes, Keep::All);
                inode.unsynced.push((*at, self.performed, bytes.clone()));
            }
            Operation::Sync { number } => {
                let inode = &mut self.inodes[*number];
                for (at, _, bytes) in inode.unsynced.drain(..) {
                    overlay(&mut inode.durable, at, &bytes, Keep::All);
                }
            }
            Operation::LoseWrites { number } => self.inodes[*number].unsynced.clear(),
            Operation::Rename { from, to } => {
                let number = self.names[from];
                self.change_name(NameChange::Move { from: from.clone(), to: to.clone(), number });
            }
            Operation::Link { from, to } => {
                let number = self.names[from];
                self.change_name(NameChange::Set { path: to.clone(), number });
            }
            Operation::Remove { path } => self.change_name(NameChange::Unset { path: path.clone() }),
            Operation::CreateDir { path } => {
                self.dirs.extend(path.ancestors().map(Path::to_owned));
            }
            Operation::SyncDir { dir } => self.sync_dir(dir),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push((self.performed, change));
    }

    fn sync_dir(&mut self, dir: &Path) {
        for (_, change) in self.unsynced_names.extract_if(.., |(_, change)| change.is_in(dir)) {
            change.apply(&mut self.durable_names);
        }
    }

    fn crashed(&self, mut keep: impl FnMut(Unsynced) -> Keep) -> Self {
        enum Pending<'a> {
            Name(&'a NameChange),
            Write(usize, u64, &'a Bytes),
        }
        let mut pending: BTreeMap<usize, Pending<'_>> = BTreeMap::new();
        for (when, change) in &self.unsynced_names {
            pending.insert(*when, Pending::Name(change));
        }
        for (number, inode) in self.inodes.iter().enumerate() {
            for (at, when, bytes) in &inode.unsynced {
                pending.insert(*when, Pending::Write(number, *at, bytes));
            }
        }
        let mut names = self.durable_names.clone();
        let mut durable: Vec<Vec<u8>> = self.inodes.iter().map(|inode| inode.durable.clone()).collect();
        for change in pending.into_values() {
            match change {
                Pending::Name(change) => {
                    if keep(Unsynced::Name) != Keep::Nothing {
                        change.apply(&mut names);
                    }
                }
                Pending::Write(number, at, bytes) => {
                    let kept = keep(Unsynced::Write { bytes: bytes.len() });
                    overlay(&mut durable[number], at, bytes, kept);
                }
            }
        }
        let inodes = durable.into_iter().zip(&self.inodes).map(|(durable, inode)| Inode {
            view: durable.clone(),
            durable,
            unsynced: Vec::new(),
            unreadable: inode.unreadable.clone(),
        });
        Self {
            inodes: inodes.collect(),
            durable_names: names.clone(),
            names,
            dirs: self.dirs.clone(),
            ..Self::default()
        }
    }
}

fn overlay(content: &mut Vec<u8>, at: u64, bytes: &[u8], keep: Keep) {
    let at = usize::try_from(at).expect("an offset in memory");
    if keep == Keep::Nothing || bytes.is_empty() {
        return;
    }
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    let Keep::Sectors(mask) = keep else {
        content[at..at + bytes.len()].copy_from_slice(bytes);
        return;
    };
    for (place, byte) in bytes.iter().enumerate() {
        if mask >> ((at + place) / SECTOR_BYTES % 64) & 1 == 1 {
            content[at + place] = *byte;
        }
    }
}
