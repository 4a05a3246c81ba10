//! Brokers, and the replicas placed on them.
//!
//! Ids come from the log: a replica's id is the index of the command that placed it, a joining broker's id the index
//! of the command that registered it. Indexes never repeat, so no id does, even after its owner was removed.

use std::sync::Arc;

use fanfare_model::{BrokerId, PartitionId, ReplicaId};

use super::{Draft, Object};
use crate::{AccountLimits, Broker, ChangeError, ClusterView, ObjectKind, PlacedReplica, command::NewBroker};

/// Ids up to this one belong to the first members of group 0.
const FOUNDERS_MAX: u64 = 5;

impl Draft<'_> {
    /// Answers with the broker of this incarnation, registered now or before.
    pub(super) fn register_broker(&mut self, new: NewBroker) -> Result<Object, ChangeError> {
        if let Some(registered) = self.view.cluster.broker_of(new.incarnation) {
            return Ok(Object::Broker(registered.clone()));
        }
        let id = match new.founder {
            Some(founder) if (1..=FOUNDERS_MAX).contains(&founder.0) => founder,
            Some(founder) => {
                let problem = format!("is {founder}; founders are 1 to {FOUNDERS_MAX}");
                return Err(ChangeError::invalid("broker.founder", problem));
            }
            // The index could become a founder's id: a later one cannot.
            None if self.index <= FOUNDERS_MAX => return Err(ChangeError::Unavailable),
            None => BrokerId(self.index),
        };
        if self.view.cluster.brokers.contains_key(&id) {
            return Err(ChangeError::Exists { kind: ObjectKind::Broker, name: id.to_string() });
        }
        let NewBroker { incarnation, address, founder: _ } = new;
        let broker = Broker { id, incarnation, address, registered: self.now };
        self.edit_cluster().brokers.insert(id, broker.clone());
        Ok(Object::Broker(broker))
    }

    /// Places replicas of those `partitions` that have none on the broker yet.
    pub(super) fn assign_replicas(
        &mut self,
        broker: BrokerId,
        partitions: Vec<PartitionId>,
    ) -> Result<Object, ChangeError> {
        if !self.view.cluster.brokers.contains_key(&broker) {
            return Err(ChangeError::NotFound { kind: ObjectKind::Broker, name: broker.to_string() });
        }
        let id = ReplicaId(self.index);
        for partition in partitions {
            if let Err(place) = self.view.cluster.find(partition, broker) {
                self.edit_cluster().replicas.insert(place, PlacedReplica { partition, broker, id });
            }
        }
        Ok(Object::Nothing)
    }

    /// Removes the replicas of `partitions` from the broker; those that are not there are skipped.
    pub(super) fn remove_replicas(
        &mut self,
        broker: BrokerId,
        partitions: Vec<PartitionId>,
    ) -> Result<Object, ChangeError> {
        for partition in partitions {
            if let Ok(place) = self.view.cluster.find(partition, broker) {
                self.edit_cluster().replicas.remove(place);
            }
        }
        Ok(Object::Nothing)
    }

    pub(super) fn set_limits(&mut self, limits: AccountLimits) -> Result<Object, ChangeError> {
        if self.view.cluster.limits != limits {
            self.edit_cluster().limits = limits;
        }
        Ok(Object::Nothing)
    }

    fn edit_cluster(&mut self) -> &mut ClusterView {
        self.changed = true;
        Arc::make_mut(&mut self.view.cluster)
    }
}
