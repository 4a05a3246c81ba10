//! Placement: which broker should keep which partition. Pure: the same cluster and streams give the same answer.

use std::collections::BTreeMap;

use fanfare_catalog::ClusterView;
use fanfare_model::{BrokerId, PartitionId, Stream};

/// The replicas that the cluster lacks: partitions to place, by broker.
///
/// A partition without a replica goes to the broker that keeps the fewest, the lowest id first. A partition with a
/// replica stays where it is.
pub(crate) fn missing(
    cluster: &ClusterView,
    streams: &[(Stream, u16)],
) -> BTreeMap<BrokerId, Vec<PartitionId>> {
    let mut counts: BTreeMap<BrokerId, usize> = cluster.brokers.keys().map(|broker| (*broker, 0)).collect();
    for placed in &cluster.replicas {
        *counts.entry(placed.broker).or_default() += 1;
    }
    let mut missing: BTreeMap<BrokerId, Vec<PartitionId>> = BTreeMap::new();
    for &(stream, partitions) in streams {
        for index in 0..partitions {
            let partition = PartitionId { stream, index };
            if cluster.replicas.iter().any(|placed| placed.partition == partition) {
                continue;
            }
            let Some((&broker, count)) = counts.iter_mut().min_by_key(|(_, count)| **count) else {
                return missing;
            };
            *count += 1;
            missing.entry(broker).or_default().push(partition);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use fanfare_catalog::{Broker, PlacedReplica};
    use fanfare_model::{ReplicaId, Timestamp};

    use super::*;

    fn cluster(brokers: &[u64], placed: &[(u16, u64)]) -> ClusterView {
        let brokers = brokers.iter().map(|&id| {
            let id = BrokerId(id);
            (id, Broker { id, incarnation: [0; 16], address: String::new(), registered: Timestamp(0) })
        });
        let replicas = placed.iter().map(|&(index, broker)| PlacedReplica {
            partition: PartitionId::events(index),
            broker: BrokerId(broker),
            id: ReplicaId(9),
        });
        ClusterView { brokers: brokers.collect(), replicas: replicas.collect(), ..ClusterView::default() }
    }

    #[test]
    fn each_partition_without_a_replica_goes_to_the_broker_with_the_fewest() {
        type Case<'a> = (&'a [u64], &'a [(u16, u64)], u16, &'a [(u64, &'a [u16])]);
        let cases: &[Case<'_>] = &[
            (&[], &[], 3, &[]),
            (&[1], &[], 0, &[]),
            (&[1], &[], 3, &[(1, &[0, 1, 2])]),
            (&[1], &[(0, 1), (1, 1), (2, 1)], 3, &[]),
            (&[1], &[(0, 1), (2, 1)], 4, &[(1, &[1, 3])]),
            (&[1, 2, 17], &[], 4, &[(1, &[0, 3]), (2, &[1]), (17, &[2])]),
            (&[1, 2], &[(0, 1), (1, 1)], 5, &[(1, &[4]), (2, &[2, 3])]),
            (&[1, 2], &[(0, 1), (5, 1)], 1, &[]),
        ];
        for (brokers, placed, partitions, expected) in cases {
            let expected: BTreeMap<_, Vec<_>> = expected
                .iter()
                .map(|(broker, indexes)| {
                    (BrokerId(*broker), indexes.iter().copied().map(PartitionId::events).collect())
                })
                .collect();
            let missing = missing(&cluster(brokers, placed), &[(Stream::Events, *partitions)]);
            assert_eq!(missing, expected, "{brokers:?} {placed:?} {partitions}");
        }
    }

    #[test]
    fn streams_are_placed_apart() {
        let missing = missing(&cluster(&[1], &[(0, 1)]), &[(Stream::Events, 1), (Stream::DeadLetters, 1)]);
        assert_eq!(missing, BTreeMap::from([(BrokerId(1), vec![PartitionId::dead_letters(0)])]));
    }
}
