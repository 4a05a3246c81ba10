//! The node's disk: one in memory that survives the node, with every operation in the trace and the moment at which the
//! power fails.

use std::{
    io::{self, IoSlice},
    ops::Range,
    path::Path,
    sync::Arc,
};

use fanfare_log::{
    DirectoryLock, File, FileSystem, MemoryFileSystem,
    memory::{Keep, Unsynced},
};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    faults::DISK_FULL,
    world::{Dice, End, Power, World},
};

/// The disk of one life.
#[derive(Clone)]
pub(crate) struct SimulatedDisk {
    shared: Arc<Shared>,
}

struct Shared {
    world: Arc<World>,
    power: Arc<Power>,
    memory: MemoryFileSystem,
    state: Mutex<DiskState>,
}

/// A moment between two operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before the operation that comes after so many.
    Operation(u64),
    /// After so many operations on files whose path has `part` in it.
    After { part: &'static str, passing: u64 },
    /// Before the sync that comes after so many of files or directories whose path has `part` in it: everything that
    /// was written since the last one is at stake.
    BeforeSync { part: &'static str, passing: u64 },
}

impl Moment {
    /// Notes the operation `what` on `path`; true if the life ends before it.
    fn pass(&mut self, what: &str, path: &Path) -> bool {
        let is_at = |part: &str| path.to_string_lossy().contains(part);
        match self {
            Self::Operation(0) | Self::After { passing: 0, .. } => return true,
            Self::Operation(passing) => *passing -= 1,
            Self::After { part, passing } => {
                *passing -= u64::from(is_at(part));
            }
            Self::BeforeSync { part, passing } if what.starts_with("sync") && is_at(part) => {
                if *passing == 0 {
                    return true;
                }
                *passing -= 1;
            }
            Self::BeforeSync { .. } => {}
        }
        false
    }
}

#[derive(Default)]
struct DiskState {
    operations: u64,
    /// How the life ends in the middle of the disk's work.
    ending: Option<(Moment, End)>,
    /// Calls that failed because the simulation wanted them to.
    failures: u64,
    /// The disk as the next life finds it.
    left: Option<MemoryFileSystem>,
}

impl SimulatedDisk {
    pub(crate) fn new(world: Arc<World>, power: Arc<Power>) -> Self {
        let memory = world.disk.lock().clone();
        Self { shared: Arc::new(Shared { world, power, memory, state: Mutex::default() }) }
    }

    pub(crate) fn memory(&self) -> &MemoryFileSystem {
        &self.shared.memory
    }

    /// Ends the life at `moment`, if it comes.
    pub(crate) fn end_at(&self, moment: Moment, end: End) {
        self.shared.state.lock().ending = Some((moment, end));
    }

    /// Calls of this life that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.shared.state.lock().failures
    }

    /// Ends the life now.
    pub(crate) fn end_now(&self, end: End) {
        self.shared.end(&mut self.shared.state.lock(), end);
    }

    /// Hands the disk over to the next life, as the end of this one left it.
    pub(crate) fn hand_over(&self) {
        let left = self.shared.state.lock().left.take();
        // An orderly stop leaves the disk as it is.
        let left = left.unwrap_or_else(|| self.shared.memory.crashed(|_| Keep::All));
        *self.shared.world.disk.lock() = left;
    }
}

impl Shared {
    fn end(&self, state: &mut DiskState, end: End) {
        if state.left.is_some() || self.power.is_off() {
            return;
        }
        let dice = &self.world.dice;
        let mut losses = Losses::default();
        let left = match end {
            End::PowerLoss => {
                self.world.view.crash();
                let style = dice.below(4);
                self.memory.crashed(|unsynced| losses.keep(dice, style, &unsynced))
            }
            End::Kill | End::Stop | End::Exit(_) => self.memory.crashed(|_| Keep::All),
        };
        losses.count(&self.world);
        self.world.trace.add(format_args!("disk ends at operation {}: {end:?} {losses:?}", state.operations));
        state.left = Some(left);
        self.power.cut(end);
    }

    /// Called before each operation.
    fn operate(&self, what: &'static str, path: &Path, detail: u64) {
        let mut state = self.state.lock();
        if self.power.is_off() {
            return;
        }
        if let Some((moment, end)) = state.ending.take_if(|(moment, _)| moment.pass(what, path)) {
            if let Moment::BeforeSync { part, .. } = moment {
                self.world.count(match part {
                    ".seg" => "a life ended right before the sync of a segment",
                    _ => "a life ended right before another sync",
                });
            }
            self.end(&mut state, end);
            return;
        }
        state.operations += 1;
        self.world.trace.add(format_args!("disk {what} {} {detail:x}", path.display()));
    }

    fn result<T>(&self, what: &'static str, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && !self.power.is_off()
        {
            self.world.trace.add(format_args!("disk {what} failed: {error}"));
            let fault = match error.raw_os_error() {
                Some(5) if what.starts_with("sync") => Some("a sync failed with EIO"),
                Some(5) if what == "write" => Some("a write failed with EIO"),
                Some(5) => Some("another call failed with EIO"),
                Some(28) => Some(DISK_FULL),
                _ => None,
            };
            if let Some(fault) = fault {
                self.state.lock().failures += 1;
                self.world.count(fault);
            }
        }
        result
    }

    fn file(self: &Arc<Self>, path: &Path, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(SimulatedFile { disk: self.clone(), path: path.into(), inner })
    }
}

/// The unsynced changes that a power loss kept, lost and tore.
#[derive(Debug, Default)]
struct Losses {
    kept: u64,
    lost_writes: u64,
    lost_names: u64,
    torn: u64,
}

impl Losses {
    fn keep(&mut self, dice: &Dice, style: u64, unsynced: &Unsynced) -> Keep {
        let keep = match style {
            0 => Keep::Nothing,
            1 if dice.chance(90) => Keep::All,
            _ => match dice.below(3) {
                0 => Keep::All,
                1 => Keep::Nothing,
                _ => Keep::Sectors(dice.next()),
            },
        };
        match (keep, unsynced) {
            (Keep::All, _) | (Keep::Sectors(_), Unsynced::Name) => self.kept += 1,
            (Keep::Nothing, Unsynced::Name) => self.lost_names += 1,
            (Keep::Nothing, Unsynced::Write { .. }) => self.lost_writes += 1,
            (Keep::Sectors(_), Unsynced::Write { .. }) => self.torn += 1,
        }
        keep
    }

    fn count(&self, world: &World) {
        for (fault, count) in [
            ("a power loss lost unsynced writes", self.lost_writes),
            ("a power loss lost unsynced names", self.lost_names),
            ("a power loss tore a write", self.torn),
        ] {
            if count > 0 {
                world.count(fault);
            }
        }
    }
}

struct SimulatedFile {
    disk: Arc<Shared>,
    path: Box<Path>,
    inner: Arc<dyn File>,
}

impl File for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.operate("read", &self.path, at);
        self.disk.result("read", self.inner.read_at(buffer, at))
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.disk.operate("write", &self.path, xxh3_64(bytes) ^ at);
        self.disk.result("write", self.inner.write_all_at(bytes, at))
    }

    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_all_at(&bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operate("sync", &self.path, 0);
        self.disk.result("sync", self.inner.sync())
    }

    fn length(&self) -> io::Result<u64> {
        self.disk.operate("length", &self.path, 0);
        self.disk.result("length", self.inner.length())
    }

    fn drop_cached(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.drop_cached(range)
    }
}

impl FileSystem for SimulatedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.shared.operate("create", path, 0);
        let created = self.shared.result("create", self.shared.memory.create(path));
        created.map(|file| self.shared.file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.shared.operate("open", path, 0);
        let opened = self.shared.result("open", self.shared.memory.open(path));
        opened.map(|file| self.shared.file(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.operate("rename", to, 0);
        self.shared.result("rename", self.shared.memory.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.operate("link", to, 0);
        self.shared.result("link", self.shared.memory.link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.operate("remove", path, 0);
        self.shared.result("remove", self.shared.memory.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.operate("create directory", path, 0);
        self.shared.result("create directory", self.shared.memory.create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.shared.operate("list", dir, 0);
        self.shared.result("list", self.shared.memory.list(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.operate("sync directory", dir, 0);
        self.shared.result("sync directory", self.shared.memory.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        self.shared.memory.lock(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.shared.memory.free_bytes(dir)
    }
}
