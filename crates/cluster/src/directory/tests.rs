use std::sync::Mutex;

use fanfare_model::{AccountId, EventIdHash, KeyHash, Offset};
use fanfare_partition::RecordBatchBuilder;
use futures_util::future::BoxFuture;

use super::*;

const HERE: PartitionId = PartitionId { stream: Stream::DeadLetters, index: 0 };
const GONE: PartitionId = PartitionId { stream: Stream::DeadLetters, index: 1 };

/// A leader elsewhere that commits everything, and remembers it.
#[derive(Default)]
struct Leader {
    appended: Mutex<Vec<RemoteAppend>>,
}

impl AppendForwarder for Leader {
    fn append(&self, append: RemoteAppend) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let mut appended = self.appended.lock().unwrap();
        let base = Offset(appended.len() as u64);
        appended.push(append);
        Box::pin(async move { Ok(Appended { base, duplicates: Vec::new(), conflicts: Vec::new() }) })
    }
}

fn batch() -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(AccountId::from_bytes([1; 16]), 0);
    batch.push(b"an event", EventIdHash(1), KeyHash(7));
    batch.finish()
}

fn remote() -> Arc<Locations> {
    let location = Location::Remote { leader: BrokerId(2), address: "10.0.0.2:7071".to_owned() };
    Arc::new(Locations::from([(HERE, location)]))
}

#[tokio::test]
async fn appends_to_a_remote_partition_go_to_its_leader() {
    let leader = Arc::new(Leader::default());
    let locations = watch::Sender::new(remote());
    let directory = Directory::new(locations.subscribe(), leader.clone());
    assert_eq!(directory.append(HERE, batch()).await.unwrap().base, Offset(0));
    {
        let appended = leader.appended.lock().unwrap();
        let [RemoteAppend { partition, leader, address, batch: sent }] = &appended[..] else {
            panic!("one append: {appended:?}")
        };
        assert_eq!((*partition, *leader, address.as_str()), (HERE, BrokerId(2), "10.0.0.2:7071"));
        assert_eq!(sent.len(), 1);
    }
    let unknown = directory.append(GONE, batch()).await.unwrap_err();
    assert!(matches!(unknown, AppendError::NotLeader { partition: GONE, .. }), "{unknown}");
    assert_eq!(
        leader.appended.lock().unwrap().len(),
        1,
        "nobody is asked for a partition that does not exist"
    );

    locations.send_replace(Arc::default());
    assert!(directory.append(HERE, batch()).await.is_err(), "the directory follows the watch");
}

#[tokio::test]
async fn without_peers_an_append_to_a_remote_partition_is_refused_and_may_be_repeated() {
    let directory = Directory::new(watch::Sender::new(remote()).subscribe(), Arc::new(NoForwarder));
    let refused = directory.append(HERE, batch()).await.unwrap_err();
    assert!(matches!(refused, AppendError::NotLeader { partition: HERE, .. }), "{refused}");
    assert!(refused.is_retryable());
    assert_eq!(
        directory.local(HERE).map(drop),
        Err(RouteError::NotLocal { partition: HERE, leader: BrokerId(2) })
    );
    assert_eq!(directory.partitions_of(Stream::DeadLetters), [HERE]);
    assert!(directory.watch().borrow().values().all(|location| location.local().is_none()));
}
