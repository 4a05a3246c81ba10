//! Finding events and reading for one account, in a log of many accounts that has long left memory. What is read of
//! the disk is counted.

use std::{
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
};

use fanfare_log::{DirectoryLock, File, FileSystem};

use super::*;

/// Counts bytes read from segments.
#[derive(Clone, Default)]
struct Counting {
    files: MemoryFileSystem,
    read_bytes: Arc<AtomicU64>,
}

struct CountingFile {
    file: Arc<dyn File>,
    read_bytes: Option<Arc<AtomicU64>>,
}

impl Counting {
    fn counted(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let is_counted = path.extension().is_none_or(|extension| extension != "keys" && extension != "idx");
        Arc::new(CountingFile { file, read_bytes: is_counted.then(|| self.read_bytes.clone()) })
    }

    fn take(&self) -> u64 {
        self.read_bytes.swap(0, Ordering::Relaxed)
    }
}

impl File for CountingFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, at)?;
        if let Some(read_bytes) = &self.read_bytes {
            read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(read)
    }
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }
    fn write_parts_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.file.write_parts_at(parts, at)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
    fn drop_cached(&self, range: Range<u64>) -> io::Result<()> {
        self.file.drop_cached(range)
    }
}

impl FileSystem for Counting {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.counted(path, self.files.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.counted(path, self.files.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        self.files.lock(path)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.files.free_bytes(dir)
    }
}

const RARE: u8 = 200;
const EVENTS: u64 = 2_000;
const RARE_EVERY: u64 = 100;
const EVENT_BYTES: u64 = 4_000;

/// Events of 4 KiB of two busy accounts, and now and then one of a rare one; opened again, with all segments indexed.
async fn filled(files: &Counting) -> Node {
    let node = open(files).await;
    for event in 0..EVENTS {
        let account = if event % RARE_EVERY == 7 { RARE } else { u8::try_from(event % 2).unwrap() + 1 };
        let padding = "x".repeat(usize::try_from(EVENT_BYTES).unwrap());
        node.append(batch(account, &[&format!("{event}:{padding}")])).await;
        // Half of them leave the dedup window.
        node.pass(10);
    }
    node.partition.shutdown().await;
    node.store.close();
    drop(node);
    let node = open(files).await;
    indexed(&node).await;
    node
}

async fn open(files: &Counting) -> Node {
    let store_options = StoreOptions {
        segment_bytes: options().segment_bytes,
        pool_segments_max: 0,
        cache_bytes: 0,
        queue_bytes_max: 8 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 0,
    };
    let fatal = Box::new(|fatal: &fanfare_log::Fatal| panic!("{fatal}"));
    let store = fanfare_log::Store::open(
        &fanfare_environment::Environment::system(),
        Arc::new(files.clone()),
        Path::new("/data"),
        store_options,
        fatal,
    )
    .unwrap();
    let clock = Arc::new(TestClock(AtomicU64::new(1_000_000)));
    let host = Host::without_peers(store.clone(), Environment::system().with_clock(clock.clone()));
    let budgets = Budgets::new(MEMORY, 1);
    let alone = PartitionReplica::alone(ID, ReplicaId(1), &host);
    let partition = Partition::open(alone, &host, options(), &budgets, TaskTracker::new()).await.unwrap();
    let node = Node { fs: files.files.clone(), store, host, partition, clock };
    node.leads().await;
    node
}

async fn indexed(node: &Node) {
    let open = node.open_backing();
    let all = async {
        while open.group.log().segments_unindexed() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, all).await.expect("all segments are indexed in time");
}

fn sealed_end(node: &Node) -> u64 {
    let open = node.open_backing();
    let spans = open.group.log().segments();
    spans.iter().rfind(|span| span.sealed).map_or(0, |span| span.end_offset)
}

async fn rare_below(node: &Node, end: u64, bytes_max: u64) -> Vec<u64> {
    let (mut next, mut found) = (Offset::ZERO, Vec::new());
    while next < Offset(end) {
        let chunk = node.partition.read(next, AccountFilter::One(account_id(RARE)), bytes_max).await.unwrap();
        assert!(chunk.next > next);
        assert!(chunk.batches.iter().all(|batch| batch.account == account_id(RARE)));
        found.extend(chunk.batches.iter().flat_map(|batch| batch.events().map(|event| event.offset.0)));
        next = chunk.next;
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_of_a_rare_account_skips_entries_of_others() {
    let files = Counting::default();
    let node = filled(&files).await;
    let end = sealed_end(&node);
    assert!(end > EVENTS * 3 / 4, "most of it is in sealed segments");
    for bytes_max in [1, 256 << 10] {
        files.take();
        let found = rare_below(&node, end, bytes_max).await;
        let expected: Vec<u64> =
            (7..).step_by(100).take_while(|offset| *offset < found.len() as u64 * 100).collect();
        assert_eq!(found, expected);
        let read = files.take();
        let (needed, all) = (found.len() as u64 * EVENT_BYTES, end * EVENT_BYTES);
        assert!(read < needed * 2 && read > needed, "{read} bytes for {needed} of {all}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_event_is_found_by_reading_its_entry_alone() {
    let files = Counting::default();
    let node = filled(&files).await;
    let text_of = |event: u64| format!("{event}:{}", "x".repeat(usize::try_from(EVENT_BYTES).unwrap()));
    for event in [7, 107, 500, 501] {
        let account = if event % RARE_EVERY == 7 { RARE } else { u8::try_from(event % 2).unwrap() + 1 };
        files.take();
        let found = node.partition.find(account_id(account), id(&text_of(event))).await.unwrap();
        assert_eq!(found.map(|found| text(&found)), Some((event, text_of(event))));
        let read = files.take();
        assert!(read < 2 * EVENT_BYTES, "{read} bytes for one event of {EVENT_BYTES}");
    }
    files.take();
    let others = node.partition.find(account_id(RARE), id(&text_of(500))).await.unwrap();
    assert!(others.is_none(), "an event of another account is nobody else's");
    assert!(node.partition.find(account_id(1), id("never published")).await.unwrap().is_none());
    assert_eq!(files.take(), 0, "nothing needs to be read to know that there is nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_are_the_same_with_damaged_index_files() {
    let files = Counting::default();
    let node = filled(&files).await;
    let with_index = rare_below(&node, EVENTS, 256 << 10).await;
    let indexes: Vec<PathBuf> = files
        .files
        .paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "keys"))
        .collect();
    assert!(indexes.len() > 5, "{indexes:?}");
    for path in indexes {
        let file = files.files.open(&path).unwrap();
        file.write_all_at(&vec![0xa5; usize::try_from(file.length().unwrap()).unwrap()], 0).unwrap();
    }
    let without = rare_below(&node, EVENTS, 256 << 10).await;
    assert_eq!(with_index, without);
    assert_eq!(without.len() as u64, EVENTS / RARE_EVERY);
    let oldest = format!("7:{}", "x".repeat(usize::try_from(EVENT_BYTES).unwrap()));
    let found = node.partition.find(account_id(RARE), id(&oldest)).await.unwrap();
    assert_eq!(found.map(|found| found.offset), Some(Offset(7)));
}
