//! The state behind a `MemoryFileSystem`: visible content, durable content, and changes that no sync has covered.
//! Every change is an `Operation`, so that replaying a prefix of them gives each state the files ever had.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{faults::Faults, pages::Pages};

const SECTOR_BYTES: usize = 512;
const CAPACITY_BYTES: u64 = 1 << 40;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Something that no sync has covered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// A creation, removal or renaming, of a file or a directory.
    Name,
    Write {
        bytes: usize,
    },
}

/// The part of an unsynced change that a crash keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    All,
    Nothing,
    /// The 512-byte sectors of a write whose number (from the file's start, modulo 64) is set; a change of names whole.
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
    LoseNames { dir: PathBuf },
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
    SetDir { path: PathBuf },
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Set { path, .. } | Self::Unset { path } | Self::SetDir { path } => {
                path.parent() == Some(dir)
            }
            Self::Move { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set { path, number } => {
                names.files.insert(path.clone(), *number);
            }
            Self::Unset { path } => {
                names.files.remove(path);
            }
            Self::Move { from, to, number } => {
                names.files.remove(from);
                names.files.insert(to.clone(), *number);
            }
            Self::SetDir { path } => {
                names.dirs.insert(path.clone());
            }
        }
    }
}

/// Files by path, and directories.
#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
}

impl Names {
    /// Removes whatever lies in a directory that is not there.
    fn drop_unreachable(&mut self) {
        let dirs = self.dirs.clone();
        let is_reachable =
            |path: &Path| path.ancestors().skip(1).all(|dir| is_root(dir) || dirs.contains(dir));
        self.dirs.retain(|path| is_reachable(path));
        self.files.retain(|path, _| is_reachable(path));
    }
}

/// The directory in which absolute paths begin, or relative ones.
fn is_root(dir: &Path) -> bool {
    dir.as_os_str().is_empty() || dir.parent().is_none()
}

#[derive(Clone, Default)]
struct Content {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<(usize, NameChange)>,
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
    /// None: a call moves all that it is asked for.
    pub(super) transfer_bytes_max: Option<usize>,
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
        let transfer_bytes_max = self.transfer_bytes_max;
        let origin = self.origin.clone();
        Self { content, origin, trace, transfer_bytes_max, ..Self::default() }
    }

    pub(super) fn crashed(&self, keep: impl FnMut(Unsynced) -> Keep) -> Self {
        let content = self.content.crashed(keep);
        let transfer_bytes_max = self.transfer_bytes_max;
        let origin = Arc::new(content.clone());
        Self { origin, content, transfer_bytes_max, ..Self::default() }
    }

    pub(super) fn damage(&mut self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let number = self.content.names.files[path];
        let inode = &mut self.content.inodes[number];
        change(&mut inode.view);
        inode.durable.clone_from(&inode.view);
        inode.unsynced.clear();
    }

    pub(super) fn make_unreadable(&mut self, path: &Path, range: Range<u64>) {
        let number = self.content.names.files[path];
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
        self.content.names.files.keys().cloned().collect()
    }

    pub(super) fn number(&self, path: &Path) -> io::Result<usize> {
        self.content.names.files.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    pub(super) fn view(&self, number: usize) -> &[u8] {
        &self.content.inodes[number].view
    }

    /// Ranges that were written to the file and not synced since.
    pub(super) fn unsynced(&self, number: usize) -> Vec<Range<u64>> {
        let writes = &self.content.inodes[number].unsynced;
        writes.iter().map(|(at, _, bytes)| *at..*at + bytes.len() as u64).collect()
    }

    pub(super) fn require_parent(&self, path: &Path) -> io::Result<()> {
        self.require_dir(path.parent().unwrap_or_else(|| Path::new("/")))
    }

    pub(super) fn require_dir(&self, dir: &Path) -> io::Result<()> {
        let exists = is_root(dir) || self.content.names.dirs.contains(dir);
        if exists { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.require_dir(dir)?;
        let paths = self.content.names.files.keys().chain(&self.content.names.dirs);
        let children = paths.filter(|path| path.parent() == Some(dir)).filter_map(|path| path.file_name());
        let mut names: Vec<String> = children.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Bytes of the files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        self.content.names.files.values().map(|number| self.view(*number).len() as u64).sum()
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.unwrap_or(CAPACITY_BYTES).saturating_sub(self.used_bytes())
    }

    /// An error if the disk has no room for the file up to `end`.
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
                let number = self.names.files[from];
                self.change_name(NameChange::Move { from: from.clone(), to: to.clone(), number });
            }
            Operation::Link { from, to } => {
                let number = self.names.files[from];
                self.change_name(NameChange::Set { path: to.clone(), number });
            }
            Operation::Remove { path } => self.change_name(NameChange::Unset { path: path.clone() }),
            Operation::CreateDir { path } => {
                let mut missing: Vec<&Path> = path
                    .ancestors()
                    .take_while(|dir| !is_root(dir) && !self.names.dirs.contains(*dir))
                    .collect();
                // Outermost first, as the system makes them.
                while let Some(dir) = missing.pop() {
                    self.change_name(NameChange::SetDir { path: dir.to_owned() });
                }
            }
            Operation::SyncDir { dir } => self.sync_dir(dir),
            Operation::LoseNames { dir } => self.unsynced_names.retain(|(_, change)| !change.is_in(dir)),
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
        let mut pending: Vec<(usize, Pending<'_>)> = Vec::new();
        for (when, change) in &self.unsynced_names {
            pending.push((*when, Pending::Name(change)));
        }
        for (number, inode) in self.inodes.iter().enumerate() {
            for (at, when, bytes) in &inode.unsynced {
                pending.push((*when, Pending::Write(number, *at, bytes)));
            }
        }
        let mut names = self.durable_names.clone();
        let mut durable: Vec<Vec<u8>> = self.inodes.iter().map(|inode| inode.durable.clone()).collect();
        // One operation may change several names: a stable sort keeps their order.
        pending.sort_by_key(|(when, _)| *when);
        for (_, change) in pending {
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
        names.drop_unreachable();
        let inodes = durable.into_iter().zip(&self.inodes).map(|(durable, inode)| Inode {
            view: durable.clone(),
            durable,
            unsynced: Vec::new(),
            unreadable: inode.unreadable.clone(),
        });
        Self { inodes: inodes.collect(), durable_names: names.clone(), names, ..Self::default() }
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
