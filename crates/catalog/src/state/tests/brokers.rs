//! Ids of brokers and replicas: stable for their owners, and never used twice.

use fanfare_model::{BrokerId, PartitionId, ReplicaId};

use super::*;
use crate::{Broker, ClusterView};

fn register(incarnation: u8, founder: Option<u64>) -> Change {
    let new =
        NewBroker { incarnation: [incarnation; 16], address: String::new(), founder: founder.map(BrokerId) };
    Change::RegisterBroker(new)
}

fn assign(broker: BrokerId, indexes: &[u16]) -> Change {
    Change::AssignReplicas { broker, partitions: indexes.iter().copied().map(PartitionId::events).collect() }
}

impl Replica {
    fn cluster(&self) -> &ClusterView {
        &self.state.view.cluster
    }

    fn broker(&mut self, incarnation: u8, founder: Option<u64>) -> BrokerId {
        match self.apply(register(incarnation, founder)).unwrap().object {
            Object::Broker(Broker { id, .. }) => id,
            object => panic!("{object:?} is no broker"),
        }
    }

    fn id(&self, index: u16, broker: BrokerId) -> Option<ReplicaId> {
        self.cluster().replica(PartitionId::events(index), broker)
    }
}

#[test]
fn a_founder_has_its_number_and_a_joiner_the_index_of_its_command() {
    let mut replica = Replica::new();
    assert_eq!(replica.broker(1, Some(1)), BrokerId(1));
    assert_eq!(replica.broker(2, Some(2)), BrokerId(2));
    let early = replica.apply(register(9, None));
    assert_eq!(early.unwrap_err(), ChangeError::Unavailable, "an index that could be a founder's id");
    replica.next = 17;
    assert_eq!(replica.broker(9, None), BrokerId(17));
    let (again, revision) = (replica.broker(9, None), replica.state.view.revision);
    assert_eq!(again, BrokerId(17), "a broker is registered once");
    assert_eq!(replica.broker(1, Some(1)), BrokerId(1));
    assert_eq!(replica.state.view.revision, revision);
    assert!(matches!(
        replica.apply(register(3, Some(1))),
        Err(ChangeError::Exists { kind: ObjectKind::Broker, .. })
    ));
    assert!(matches!(replica.apply(register(3, Some(6))), Err(ChangeError::Invalid { .. })));
}

#[test]
fn a_replica_keeps_its_id_and_no_id_is_used_again() {
    let mut replica = Replica::new();
    let first = replica.broker(1, Some(1));
    replica.apply(assign(first, &[0, 2])).unwrap();
    assert_eq!((replica.id(0, first), replica.id(2, first)), (Some(ReplicaId(2)), Some(ReplicaId(2))));
    let revision = replica.state.view.revision;
    replica.apply(assign(first, &[2, 0])).unwrap();
    assert_eq!((replica.id(0, first), replica.state.view.revision), (Some(ReplicaId(2)), revision));
    replica.apply(assign(first, &[0, 1])).unwrap();
    assert_eq!((replica.id(0, first), replica.id(1, first)), (Some(ReplicaId(2)), Some(ReplicaId(4))));

    // The same machine with a new data directory is another broker with other replicas.
    replica.next = 20;
    let second = replica.broker(2, None);
    replica.apply(assign(second, &[0])).unwrap();
    assert_eq!((replica.id(0, first), replica.id(0, second)), (Some(ReplicaId(2)), Some(ReplicaId(21))));

    let partitions = vec![PartitionId::events(0), PartitionId::events(7)];
    replica.apply(Change::RemoveReplicas { broker: first, partitions }).unwrap();
    assert_eq!(replica.id(0, first), None);
    replica.apply(assign(first, &[0])).unwrap();
    assert_eq!(replica.id(0, first), Some(ReplicaId(23)));
    let restored = State::decode(&replica.state.encode()).unwrap();
    assert_eq!(restored, replica.state, "ids outlive a restart");
}

#[test]
fn replicas_are_placed_on_known_brokers_only() {
    let mut replica = Replica::new();
    let refused = replica.apply(assign(BrokerId(1), &[0])).unwrap_err();
    assert_eq!(refused, ChangeError::NotFound { kind: ObjectKind::Broker, name: "1".to_owned() });
    assert!(replica.cluster().replicas.is_empty());
}
