//! Starts: whatever became of the view, the state is the same; only how much is replayed differs.

use super::*;
use crate::RebuildReason;

const TYPES: u64 = 40;

/// A node that was told `TYPES` event types after its account: one command each.
async fn furnished() -> (Node, Tenant) {
    let node = Node::new().await;
    let tenant = node.tenant().await;
    node.create_types(tenant, 0..TYPES).await;
    (node, tenant)
}

#[tokio::test]
async fn with_the_view_a_start_after_a_kill_replays_only_the_tail_and_without_it_everything() {
    let (node, tenant) = furnished().await;
    let early = node.view_after_kill().await;
    node.create_types(tenant, TYPES..TYPES + 7).await;
    let late = node.view_after_kill().await;
    let (files, hash, revision) =
        (node.files_after_crash(), node.catalog.state().hash(), node.catalog.view().revision);

    let commands = SETUP_COMMANDS + 1 + TYPES + 7;
    for (dir, replayed) in [(early, 7), (late, 0), (TempDir::new().unwrap(), commands)] {
        let reopened = Node::open(files.crashed(|_| Keep::Nothing), dir, options()).await;
        let report = reopened.catalog.start_report();
        assert_eq!(report.entries_replayed, replayed, "{report:?}");
        assert_eq!(matches!(report.view, ViewStart::Used { .. }), replayed < commands, "{report:?}");
        assert_eq!(reopened.catalog.state().hash(), hash, "{report:?}");
        assert_eq!(reopened.catalog.view().revision, revision);
        reopened.stop().await;
    }
    node.stop().await;
}

#[tokio::test]
async fn an_orderly_restart_replays_nothing_and_a_lost_view_is_made_again() {
    let (node, _) = furnished().await;
    let hash = node.catalog.state().hash();
    let (files, dir) = node.stop().await;

    let node = Node::open(files, dir, options()).await;
    assert!(matches!(node.catalog.start_report().view, ViewStart::Used { .. }));
    assert_eq!((node.catalog.start_report().entries_replayed, node.catalog.state().hash()), (0, hash));
    let (files, dir) = node.stop().await;

    fs::remove_dir_all(dir.path()).unwrap();
    let node = Node::open(files, dir, options()).await;
    assert!(matches!(rebuilt(&node.catalog), RebuildReason::Missing));
    assert_eq!((node.catalog.start_report().entries_replayed, node.catalog.state().hash()), (0, hash));
    let (files, dir) = node.stop().await;

    let node = Node::open(files, dir, options()).await;
    assert!(matches!(node.catalog.start_report().view, ViewStart::Used { .. }), "it was made again");
    assert_eq!(node.catalog.state().hash(), hash);
    node.stop().await;
}

#[tokio::test]
async fn deleting_the_view_under_a_running_catalog_changes_nothing() {
    let (node, tenant) = furnished().await;
    fs::remove_dir_all(node.dir.path()).unwrap();
    node.create_types(tenant, TYPES..TYPES + 5).await;
    let hash = node.catalog.state().hash();
    let files = node.files_after_crash();
    let (_, dir) = node.stop().await;
    let reopened = Node::open(files, dir, options()).await;
    assert_eq!(reopened.catalog.state().hash(), hash);
    assert_eq!(reopened.catalog.start_report().entries_replayed, SETUP_COMMANDS + 1 + TYPES + 5);
    reopened.stop().await;
}

type Damage<'a> = &'a dyn Fn(&Path);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_view_is_set_aside_and_made_again() {
    let (node, _) = furnished().await;
    let (files, hash) = (node.files_after_crash(), node.catalog.state().hash());
    let noise: Vec<u8> = (0..200_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let damages: [(&str, Damage<'_>); 3] = [
        ("noise", &|db| fs::write(db, &noise).unwrap()),
        ("zeros", &|db| {
            let length = fs::metadata(db).unwrap().len();
            fs::write(db, vec![0; usize::try_from(length).unwrap()]).unwrap();
        }),
        ("directory", &|db| {
            fs::remove_file(db).unwrap();
            fs::create_dir(db).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let dir = node.view_after_kill().await;
        damage(&dir.path().join("view").join("db"));
        let reopened = Node::open(files.crashed(|_| Keep::Nothing), dir, options()).await;
        let why = rebuilt(&reopened.catalog);
        let reported = matches!(why, RebuildReason::Damaged(_) | RebuildReason::Missing);
        assert!(reported, "{name}: {why:?}");
        let set_aside = reopened.dir.path().join("bad-1").exists();
        assert_eq!(set_aside, matches!(why, RebuildReason::Damaged(_)), "{name}: {why:?}");
        assert_eq!(reopened.catalog.state().hash(), hash, "{name}");
        assert_eq!(reopened.catalog.start_report().entries_replayed, SETUP_COMMANDS + 1 + TYPES, "{name}");

        let (files, dir) = reopened.stop().await;
        let again = Node::open(files, dir, options()).await;
        assert!(matches!(again.catalog.start_report().view, ViewStart::Used { .. }), "{name}");
        assert_eq!(again.catalog.state().hash(), hash, "{name}");
        again.stop().await;
    }
    node.stop().await;
}

#[tokio::test]
async fn an_interrupted_start_sets_the_view_aside() {
    let (node, _) = furnished().await;
    let (files, hash) = (node.files_after_crash(), node.catalog.state().hash());
    let dir = node.view_after_kill().await;
    fs::write(dir.path().join("opening"), b"").unwrap();
    let reopened = Node::open(files, dir, options()).await;
    assert!(matches!(rebuilt(&reopened.catalog), RebuildReason::Interrupted));
    assert!(reopened.dir.path().join("bad-1").exists() && !reopened.dir.path().join("opening").exists());
    assert_eq!(reopened.catalog.state().hash(), hash);
    reopened.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn only_the_newest_damaged_views_are_kept() {
    let mut dir = TempDir::new().unwrap();
    let mut files = MemoryFileSystem::default();
    for start in 0..5 {
        if start > 0 {
            fs::write(dir.path().join("opening"), b"").unwrap();
        }
        let node = Node::open(files, dir, options()).await;
        (files, dir) = node.stop().await;
    }
    let mut kept: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("bad-"))
        .collect();
    kept.sort();
    assert_eq!(kept, ["bad-3", "bad-4"]);
}

#[tokio::test]
async fn a_view_that_does_not_fit_the_log_is_rebuilt() {
    let (node, tenant) = furnished().await;
    let (files, hash) = (node.files_after_crash(), node.catalog.state().hash());
    node.create_types(tenant, TYPES..TYPES + 5).await;
    let newer = node.view_after_kill().await;
    let reopened = Node::open(files.crashed(|_| Keep::Nothing), newer, options()).await;
    assert!(matches!(rebuilt(&reopened.catalog), RebuildReason::Ahead));
    assert_eq!(reopened.catalog.state().hash(), hash);
    reopened.stop().await;

    // The same directory with another history, as after a backup was restored and used.
    let later = node.view_after_kill().await;
    let other = Node::open(files, TempDir::new().unwrap(), options()).await;
    other.create_types(tenant, 100..120).await;
    let (files, hash) = (other.files_after_crash(), other.catalog.state().hash());
    let reopened = Node::open(files, later, options()).await;
    assert!(matches!(rebuilt(&reopened.catalog), RebuildReason::Foreign));
    assert_eq!(reopened.catalog.state().hash(), hash);
    reopened.stop().await;
    other.stop().await;

    // Another directory.
    let foreign = node.view_after_kill().await;
    let files = MemoryFileSystem::default();
    let other = Node::open(files, foreign, options()).await;
    assert!(matches!(rebuilt(&other.catalog), RebuildReason::Foreign));
    assert!(other.catalog.view().accounts.is_empty());
    other.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_view_older_than_the_checkpoint_costs_nothing_and_one_older_than_the_log_is_made_again() {
    let options = || CatalogOptions { snapshot_entries: 10, ..options() };
    let (node, tenant) = furnished().await;
    let old = node.view_after_kill().await;
    let (files, dir) = node.stop().await;
    let node = Node::open(files, dir, options()).await;
    node.create_types(tenant, TYPES..TYPES + 20).await;
    let hash = node.catalog.state().hash();
    let (files, _) = node.stop().await;

    // The checkpoint of the stop stands above the view, and the log still begins below both.
    let older = TempDir::new().unwrap();
    copy(old.path(), older.path()).unwrap();
    let node = Node::open(files, older, options()).await;
    assert_eq!((node.catalog.start_report().entries_replayed, node.catalog.state().hash()), (0, hash));
    let log = node.catalog.shared.group.log().clone();
    let purged = async {
        let mut look = time::interval(Duration::from_millis(5));
        while log.bounds().purged.is_none_or(|purged| purged.index < TYPES) {
            look.tick().await;
        }
    };
    timeout(DEADLINE, purged).await.expect("the log is purged up to the snapshot in time");
    let (files, _) = node.stop().await;

    let node = Node::open(files, old, options()).await;
    assert!(matches!(rebuilt(&node.catalog), RebuildReason::Behind));
    assert_eq!((node.catalog.start_report().entries_replayed, node.catalog.state().hash()), (0, hash));
    node.view_is_stored().await;
    let (files, dir) = node.stop().await;
    let node = Node::open(files, dir, options()).await;
    assert!(matches!(node.catalog.start_report().view, ViewStart::Used { .. }));
    assert_eq!(node.catalog.state().hash(), hash);
    node.stop().await;
}

#[tokio::test]
async fn the_node_learns_the_format_version_of_each_view() {
    let store = open_store(&MemoryFileSystem::default());
    let host = Host::without_peers(store.clone(), environment());
    let at_version = |version| {
        let mut view = View::default();
        Arc::make_mut(&mut view.cluster).format_version = version;
        Arc::new(view)
    };
    let learns = async |version| {
        let mut look = time::interval(Duration::from_millis(1));
        let learnt = async {
            while host.format_version() != FormatVersion(version) {
                look.tick().await;
            }
        };
        timeout(DEADLINE, learnt).await.expect("it learns in time");
    };
    let (views, watched) = watch::channel(at_version(3));
    let tasks = TaskTracker::new();
    tasks.spawn(follow_format_version(host.clone(), watched, CancellationToken::new()));
    learns(3).await;
    views.send_replace(at_version(4));
    learns(4).await;
    drop(views);
    tasks.close();
    timeout(DEADLINE, tasks.wait()).await.expect("nothing is followed when the catalog is gone");
    store.close();
}
