//! The catalog's immutable views, one per revision.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_model::{AccountId, KeyId, Sink, SinkId, Subscription, SubscriptionId};
use serde::{Deserialize, Serialize};

use crate::{Account, ApiKey, ClusterView, EventType, RequestRecord, Schema};

/// One account and its objects: immutable, shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountView {
    pub account: Account,
    pub event_types: BTreeMap<String, Arc<EventType>>,
    pub schemas: BTreeMap<String, Arc<Schema>>,
    pub sinks: BTreeMap<SinkId, Arc<Sink>>,
    pub subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>,
    pub keys: BTreeMap<KeyId, Arc<ApiKey>>,
    /// Carried-out requests by the ids that their callers chose.
    #[serde(default)]
    pub requests: BTreeMap<String, Arc<RequestRecord>>,
}

impl AccountView {
    pub(crate) fn new(account: Account) -> Self {
        Self {
            account,
            event_types: BTreeMap::new(),
            schemas: BTreeMap::new(),
            sinks: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            keys: BTreeMap::new(),
            requests: BTreeMap::new(),
        }
    }

    /// True if the account and all its objects name `id` as theirs.
    pub(crate) fn is_of(&self, id: AccountId) -> bool {
        let mut owners = (self.sinks.values().map(|sink| sink.account))
            .chain(self.subscriptions.values().map(|subscription| subscription.account))
            .chain(self.keys.values().map(|key| key.account));
        self.account.id == id && owners.all(|owner| owner == id)
    }
}

/// The whole catalog at one revision: immutable, shared, cheap to hold. A change copies one account's maps at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Rises with every applied change.
    pub revision: u64,
    pub accounts: BTreeMap<AccountId, Arc<AccountView>>,
    /// The keys of all accounts.
    pub keys: Arc<BTreeMap<KeyId, AccountId>>,
    pub cluster: Arc<ClusterView>,
}

impl View {
    #[must_use]
    pub fn account(&self, id: AccountId) -> Option<&Arc<AccountView>> {
        self.accounts.get(&id)
    }

    /// A view of `accounts`, its index of keys derived from them.
    pub(crate) fn of(
        revision: u64,
        cluster: Arc<ClusterView>,
        accounts: BTreeMap<AccountId, Arc<AccountView>>,
    ) -> Self {
        let keys = accounts
            .iter()
            .flat_map(|(account, view)| view.keys.keys().map(|key| (*key, *account)))
            .collect();
        Self { revision, accounts, keys: Arc::new(keys), cluster }
    }
}
