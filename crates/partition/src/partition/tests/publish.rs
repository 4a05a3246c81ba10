//! Appending and reading.

use fanfare_model::KeyHash;

use super::*;
use crate::RecordBatchBuilder;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_events_are_read_back_at_dense_offsets() {
    let node = Node::new().await;
    let first = node.append(batch(1, &["a", "b"])).await;
    let second = node.append(batch(2, &["c"])).await;
    let third = node.append(batch(1, &["d", "e", "f"])).await;
    assert_eq!([first.base, second.base, third.base], [Offset(0), Offset(2), Offset(3)]);
    let all = numbered(0, &["a", "b", "c", "d", "e", "f"]);
    for bytes_max in [1, 3, 1 << 20] {
        assert_eq!(node.events(0, None, bytes_max).await, all);
        assert_eq!(node.events(4, None, bytes_max).await, all[4..]);
        assert_eq!(node.events(1, Some(2), bytes_max).await, all[2..3]);
        assert_eq!(node.events(3, Some(2), bytes_max).await, []);
    }
    assert_eq!(node.events(6, None, 1).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_and_restart_keep_every_committed_event_at_its_offset() {
    let mut node = Node::new().await;
    let mut expected = Vec::new();
    for round in 0..6 {
        for event in 0..5 {
            let text = format!("{round}:{event}");
            node.append(batch(1, &[&text])).await;
            expected.push((expected.len() as u64, text));
        }
        node = if round % 2 == 0 { node.crash().await } else { node.restart().await };
        assert_eq!(node.events(0, None, 100).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_is_answered_with_the_first_offset_even_after_a_crash() {
    let mut node = Node::new().await;
    node.append(batch(1, &["a", "b", "c"])).await;
    for _ in 0..2 {
        let base = node.positions().high_watermark;
        let new = format!("new at {base}");
        let again = node.append(batch(1, &["c", &new, "a", &new])).await;
        let duplicates = vec![(0, Offset(2)), (2, Offset(0)), (3, base)];
        assert_eq!(again, Appended { base, duplicates, conflicts: vec![] });
        let all = node.append(batch(1, &["b", "a"])).await;
        assert_eq!(all.duplicates, [(0, Offset(1)), (1, Offset(0))]);
        // Identities are an account's own.
        assert_eq!(node.append(batch(2, &[&format!("b{base}")])).await.duplicates, []);
        node = node.crash().await;
    }
    assert_eq!(node.positions().high_watermark, Offset(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_body_under_a_committed_identity_is_a_conflict() {
    let node = Node::new().await;
    node.append(batch(1, &["a", "b"])).await;
    let mut builder = RecordBatchBuilder::new(account_id(1), 0);
    builder.push(b"not b", id("b"), KeyHash(1));
    builder.push(b"c", id("c"), KeyHash(1));
    builder.push(b"not c", id("c"), KeyHash(1));
    let appended = node.append(builder.finish()).await;
    assert_eq!(appended.base, Offset(2));
    assert_eq!((appended.duplicates, appended.conflicts), (vec![], vec![(0, Offset(1)), (2, Offset(2))]));
    assert_eq!(node.events(0, None, 100).await, numbered(0, &["a", "b", "c"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_in_flight_commit_once_and_all_get_the_same_offset() {
    let node = Node::new().await;
    let mut appends = Vec::new();
    for round in 0..200 {
        let own = format!("own {round}");
        appends.push(node.partition.append(batch(1, &["same", &own])).unwrap());
    }
    for (pending, round) in appends.into_iter().zip(0..) {
        let appended = pending.committed().await.unwrap();
        let (base, duplicates) = if round == 0 { (0, vec![]) } else { (round + 1, vec![(0, Offset(0))]) };
        assert_eq!(appended, Appended { base: Offset(base), duplicates, conflicts: vec![] });
    }
    assert_eq!(node.positions().high_watermark, Offset(201));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_is_forgotten_after_the_window() {
    let node = Node::new().await;
    node.append(batch(1, &["a"])).await;
    // Without a pause longer than the window, which may be a jump of the clock.
    for id in ["c", "d"] {
        node.pass(5_001);
        node.append(batch(1, &[id])).await;
    }
    node.append(batch(1, &["b"])).await;
    assert_eq!(node.append(batch(1, &["a", "b"])).await.duplicates, [(1, Offset(3))]);
    let node = node.crash().await;
    assert_eq!(node.append(batch(1, &["a", "b"])).await.duplicates, [(0, Offset(4)), (1, Offset(3))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_producers_each_keep_their_order() {
    let node = Node::new().await;
    let tasks = tokio_util::task::TaskTracker::new();
    let running: Vec<_> =
        (0..8_u8).map(|producer| tasks.spawn(produce(node.partition.clone(), producer))).collect();
    let mut bases = Vec::new();
    for producer in running {
        bases.push(producer.await.unwrap());
    }
    let events = node.events(0, None, 1_000).await;
    assert_eq!(events.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..1_200).collect::<Vec<_>>());
    for (producer, bases) in bases.iter().enumerate() {
        let own: Vec<_> =
            events.iter().filter(|(_, text)| text.starts_with(&format!("{producer}:"))).collect();
        let expected: Vec<_> = (0..150).map(|event| format!("{producer}:{event:03}")).collect();
        assert_eq!(own.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>(), expected);
        let first_of_three: Vec<_> = own.iter().step_by(3).map(|(offset, _)| Offset(*offset)).collect();
        assert_eq!(&first_of_three, bases);
    }
}

/// Appends 50 batches of 3 events without waiting between them; answers where each begins.
async fn produce(partition: Partition, producer: u8) -> Vec<Offset> {
    let mut appends = Vec::new();
    for round in 0..50 {
        let events: Vec<String> =
            (0..3).map(|event| format!("{producer}:{:03}", round * 3 + event)).collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        appends.push(partition.append(batch(producer % 3, &events)).unwrap());
    }
    let mut bases = Vec::new();
    for pending in appends {
        bases.push(pending.committed().await.unwrap().base);
    }
    bases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_larger_than_an_entry_is_committed_whole() {
    let fs = MemoryFileSystem::default();
    let node = Node::open(fs, PartitionOptions { entry_bytes_max: 1_000, ..options() }, 1).await;
    let large = "x".repeat(10_000);
    let appends = [
        node.partition.append(batch(1, &["a"])).unwrap(),
        node.partition.append(batch(1, &[&large, "b"])).unwrap(),
        node.partition.append(batch(1, &["c"])).unwrap(),
    ];
    for pending in appends {
        pending.committed().await.unwrap();
    }
    assert_eq!(node.events(0, None, 10).await, numbered(0, &["a", &large, "b", "c"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queue_refuses_with_a_time_to_retry() {
    let fs = MemoryFileSystem::default();
    let node =
        Node::open_with(fs, (ID, MemoryLimits { queue_bytes_max: 10_000, ..MEMORY }), options(), 1).await;
    node.leads().await;
    let large = "x".repeat(4_000);
    let mut appends = Vec::new();
    let refused = loop {
        match node.partition.append(batch(1, &[&format!("{large}{}", appends.len())])) {
            Ok(pending) => appends.push(pending),
            Err(error) => break error,
        }
    };
    let AppendError::Overloaded { retry_after_ms, .. } = refused else { panic!("{refused}") };
    assert!((5..=1_000).contains(&retry_after_ms));
    let taken = appends.len() as u64;
    for pending in appends {
        pending.committed().await.unwrap();
    }
    assert_eq!(node.positions().high_watermark, Offset(taken));
    node.append(batch(1, &["room again"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_events_and_keeps_acknowledged_ones() {
    let node = Node::new().await;
    let mut taken = Vec::new();
    // Half of what is kept free for votes, progress and trims.
    node.fs.leave_free(options().segment_bytes);
    for room in [false, true] {
        let until = async {
            loop {
                let name = taken.len().to_string();
                let pending = node.partition.append(batch(1, &[&name])).expect("it is queued");
                let outcome = pending.committed().await;
                match &outcome {
                    Ok(_) => taken.push(name),
                    Err(error) => assert!(matches!(error, AppendError::DiskFull { .. }), "{error}"),
                }
                assert_eq!(node.positions().high_watermark, Offset(taken.len() as u64));
                if outcome.is_ok() == room {
                    return;
                }
            }
        };
        timeout(DEADLINE, until).await.expect("the disk is looked at again and again");
        node.fs.leave_free(64 << 20);
    }
    node.append(batch(1, &["last"])).await;
    taken.push("last".to_owned());
    let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
    assert_eq!(node.events(0, None, 1_000).await, numbered(0, &taken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_wake_at_the_watermark_and_find_times_and_identities() {
    let node = Node::new().await;
    let mut positions = node.partition.positions();
    node.append(batch(1, &["a", "b"])).await;
    node.pass(100);
    node.append(batch(2, &["a"])).await;
    node.append(batch(1, &["c"])).await;
    let reached = positions.wait_for(|positions| positions.high_watermark == Offset(4));
    timeout(DEADLINE, reached).await.expect("it is published").expect("the group runs");
    let at = async |time| node.partition.offset_at(Timestamp(time)).await.unwrap().0;
    assert_eq!([at(0).await, at(1_000_000).await, at(1_000_001).await, at(1_000_100).await], [0, 0, 2, 2]);
    assert_eq!(at(1_000_101).await, 4);
    // After the window has passed, the log is searched.
    for _ in 0..2 {
        let find = async |account, event| {
            let found = node.partition.find(account_id(account), id(event)).await.unwrap();
            found.map(|event| text(&event))
        };
        assert_eq!(find(1, "a").await, Some((0, "a".to_owned())));
        assert_eq!(find(1, "b").await, Some((1, "b".to_owned())));
        assert_eq!(find(2, "a").await, Some((2, "a".to_owned())));
        assert_eq!(find(1, "c").await, Some((3, "c".to_owned())));
        assert_eq!((find(2, "b").await, find(3, "a").await), (None, None));
        node.pass(20_000);
        node.append(batch(1, &["d"])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_answers_every_queued_append_and_takes_no_more() {
    let node = Node::new().await;
    let mut appends = Vec::new();
    for event in 0..50 {
        appends.push(node.partition.append(batch(1, &[&event.to_string()])).unwrap());
    }
    node.partition.shutdown().await;
    for (pending, event) in appends.into_iter().zip(0..) {
        assert_eq!(pending.committed().await.unwrap().base, Offset(event));
    }
    let refused = node.partition.append(batch(1, &["late"])).map(|_| ()).unwrap_err();
    assert!(matches!(refused, AppendError::Stopped { .. } | AppendError::NotLeader { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_log_opens_as_an_unavailable_partition() {
    let node = Node::new().await;
    for event in 0..20 {
        node.append(batch(1, &[&format!("{event}:{}", "x".repeat(1_000))])).await;
    }
    let fs = node.stop().await;
    let segment = first_segment(&fs);
    fs.flip(&segment, 10_000, 1);
    let before = fs.content(&segment).unwrap();
    let node = Node::open_any(fs.clone(), options(), 1).await;
    assert_eq!(*node.partition.role().borrow(), Role::Failed);
    let lost = node.partition.read(Offset(0), AccountFilter::All, 1).await.unwrap_err().to_string();
    assert!(lost.contains(&segment.display().to_string()) && lost.contains("offsets"), "{lost}");
    assert!(matches!(node.partition.append(batch(1, &["a"])), Err(AppendError::Damaged { .. })));
    let advanced = node.partition.advance(1, Advance::default()).await;
    assert!(matches!(advanced, Err(CommandError::Stopped { .. })));
    node.partition.shutdown().await;
    assert_eq!(fs.content(&segment).unwrap(), before, "nothing is cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_payload_of_a_sealed_segment_is_lost_alone() {
    let small = || PartitionOptions { segment_bytes: 16 << 10, ..options() };
    let node = Node::open(MemoryFileSystem::default(), small(), 1_000_000).await;
    for event in 0..40 {
        node.append(batch(1, &[&format!("{event}:{}", "x".repeat(1_000))])).await;
    }
    let open = node.open_backing();
    assert!(open.group.log().segments().first().unwrap().sealed);
    let fs = node.stop().await;
    let segment = first_segment(&fs);
    fs.flip(&segment, 8_000, 1);
    let before = fs.content(&segment).unwrap();

    // A start reads headers, so the damage is found by whoever reads the events.
    let node = Node::open(fs.clone(), small(), 1_000_000).await;
    let mut next = Offset(0);
    let lost = loop {
        match node.partition.read(next, AccountFilter::All, 1).await {
            Ok(chunk) => {
                assert!(chunk.next > next, "the damage was passed over");
                next = chunk.next;
            }
            Err(lost) => break lost,
        }
    };
    let ReadError::DataLoss { detail, offsets, .. } = &lost else { panic!("{lost}") };
    assert!(detail.contains(&segment.display().to_string()), "{detail}");
    assert_eq!(*offsets, next..next.plus(1));
    assert_eq!(node.append(batch(1, &["a"])).await.base, Offset(40), "no other event is lost");

    let (other, tasks) = (PartitionId { index: 4, ..ID }, tokio_util::task::TaskTracker::new());
    let other = PartitionReplica::alone(other, ReplicaId(1), &node.host);
    let other = Partition::open(other, &node.host, small(), &Budgets::new(MEMORY, 1), tasks).await.unwrap();
    let mut role = other.role();
    let leads = role.wait_for(|role| matches!(role, Role::Leader { .. }));
    timeout(DEADLINE, leads).await.expect("it leads in time").expect("the group runs");
    let appended = other.append(batch(1, &["a"])).unwrap().committed().await.unwrap();
    assert_eq!(appended.base, Offset(0));
    assert_eq!(other.read(Offset(0), AccountFilter::All, 1).await.unwrap().next, Offset(1));
    assert_eq!(fs.content(&segment).unwrap(), before, "nothing is cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_sector_makes_its_partition_unavailable_and_no_other() {
    let node = Node::new().await;
    for event in 0..20 {
        node.append(batch(1, &[&format!("{event}:{}", "x".repeat(1_000))])).await;
    }
    let fs = node.stop().await;
    let segment = first_segment(&fs);
    fs.fail_reads(&segment, 8_192..12_288);
    let node = Node::open_any(fs.clone(), options(), 1).await;
    assert_eq!(*node.partition.role().borrow(), Role::Failed);
    let lost = node.partition.read(Offset(0), AccountFilter::All, 1).await.unwrap_err();
    assert!(matches!(lost, ReadError::DataLoss { .. }), "{lost}");
    let lost = lost.to_string();
    assert!(lost.contains(&segment.display().to_string()) && lost.contains("accept-loss"), "{lost}");
    assert!(matches!(node.partition.append(batch(1, &["a"])), Err(AppendError::Damaged { .. })));

    let other = PartitionId { index: 4, ..ID };
    let tasks = tokio_util::task::TaskTracker::new();
    let other = PartitionReplica::alone(other, ReplicaId(1), &node.host);
    let other = Partition::open(other, &node.host, options(), &Budgets::new(MEMORY, 1), tasks).await.unwrap();
    let mut role = other.role();
    let leads = role.wait_for(|role| matches!(role, Role::Leader { .. }));
    timeout(DEADLINE, leads).await.expect("the other partition leads in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_search_holds_its_permit_until_it_ends() {
    let node = Node::new().await;
    node.append(batch(1, &["a"])).await;
    let open = node.open_backing();
    let reader = &open.reader;
    let search = reader.search_for(account_id(1), id("a"));
    let found = search.run(&CancellationToken::new()).unwrap();
    assert_eq!(found.map(|event| text(&event)), Some((0, "a".to_owned())));

    let ((begin, begun), (go_on, gone_on), (end, ended)) =
        (oneshot::channel(), oneshot::channel::<()>(), oneshot::channel());
    let abandoned = reader.run_search(reader.search_permit().await, move |stop| {
        begin.send(()).unwrap();
        let told = tokio::runtime::Handle::current().block_on(timeout(DEADLINE, stop.cancelled()));
        gone_on.blocking_recv().unwrap();
        let found = search.run(stop);
        end.send((told.is_ok(), matches!(found, Ok(Some(_))))).unwrap();
        found
    });
    tokio::select! {
        found = abandoned => panic!("it ended: {found:?}"),
        begun = begun => begun.unwrap(),
    }
    tokio::select! {
        biased;
        _ = reader.search_permit() => panic!("its scan goes on"),
        () = std::future::ready(()) => (),
    }
    go_on.send(()).unwrap();
    assert_eq!(ended.await.unwrap(), (true, false), "it was told to end, and did");
    node.pass(20_000);
    node.append(batch(1, &["b"])).await;
    let found = timeout(DEADLINE, node.partition.find(account_id(1), id("a"))).await.expect("it takes turns");
    assert_eq!(found.unwrap().map(|event| text(&event)), Some((0, "a".to_owned())));
}
