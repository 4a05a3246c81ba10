//! The changes of the catalog: each is one replicated command, validated again when it is applied.
//!
//! This module adds to a command all that applying needs beyond the request: fresh identifiers, secrets, limits.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use fanfare_model::{
    AccountId, BrokerId, PartitionId, Secret, Sink, SinkConfig, SinkId, StartAt, Subscription, SubscriptionId,
};

use super::{Catalog, FOUNDER};
use crate::{
    Account, ChangeError, CreatedSchemaVersion, EventType, NewEventType, NewKey, NewSink, NewSubscription,
    Schema, SinkChange, Tenant,
    command::{Change, CreatedSubscription, KeyRecord, NewAccount, NewBroker},
    key::random_bytes,
};

/// Standard Webhooks allows 24 to 64 bytes.
const SIGNING_SECRET_BYTES: usize = 24;

impl Catalog {
    /// Creates an account with `key`, if the catalog has no account yet. The caller stores the key before: no other key
    /// is made for the account later.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn bootstrap(
        &self,
        account_name: &str,
        key: &NewKey,
    ) -> Result<Option<Arc<Account>>, ChangeError> {
        let record = key_record(key, "made at the first start");
        let account = self.new_account(account_name);
        match self.change(Change::Bootstrap { account, key: record }).await {
            Ok(changed) => changed.account().map(Some),
            Err(ChangeError::Exists { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn create_account(&self, name: &str) -> Result<Arc<Account>, ChangeError> {
        self.change(Change::CreateAccount(self.new_account(name))).await?.account()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn create_key(&self, account: AccountId, description: &str) -> Result<NewKey, ChangeError> {
        let key = NewKey::generate(&**self.shared.environment.random());
        let record = key_record(&key, description);
        self.change(Change::CreateKey { account, key: record }).await?;
        Ok(key)
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn create_event_type(
        &self,
        tenant: Tenant,
        new: NewEventType,
    ) -> Result<Arc<EventType>, ChangeError> {
        let account = tenant.account();
        self.change(Change::CreateEventType { account, event_type: new }).await?.event_type()
    }

    /// `expected_revision` is the revision that the caller read; none overwrites any revision.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn update_event_type(
        &self,
        tenant: Tenant,
        new: NewEventType,
        expected_revision: Option<u64>,
    ) -> Result<Arc<EventType>, ChangeError> {
        let account = tenant.account();
        self.change(Change::UpdateEventType { account, event_type: new, expected_revision })
            .await?
            .event_type()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn delete_event_type(&self, tenant: Tenant, name: &str) -> Result<(), ChangeError> {
        let change = Change::DeleteEventType { account: tenant.account(), name: name.to_owned() };
        self.change(change).await.map(drop)
    }

    /// The caller has compiled the document: only its size is checked here.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn create_schema(
        &self,
        tenant: Tenant,
        id: &str,
        description: &str,
        document: &str,
    ) -> Result<Arc<Schema>, ChangeError> {
        self.check_document(document)?;
        let change = Change::CreateSchema {
            account: tenant.account(),
            id: id.to_owned(),
            description: description.to_owned(),
            document: document.to_owned(),
        };
        self.change(change).await?.schema()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn create_schema_version(
        &self,
        tenant: Tenant,
        id: &str,
        document: &str,
    ) -> Result<CreatedSchemaVersion, ChangeError> {
        self.check_document(document)?;
        let (account, id, document) = (tenant.account(), id.to_owned(), document.to_owned());
        let change = Change::CreateSchemaVersion { account, id, document };
        self.change(change).await?.schema_version()
    }

    /// `expected_revision` is the revision that the caller read; none overwrites any revision.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn update_schema(
        &self,
        tenant: Tenant,
        id: &str,
        description: &str,
        expected_revision: Option<u64>,
    ) -> Result<Arc<Schema>, ChangeError> {
        let (account, id, description) = (tenant.account(), id.to_owned(), description.to_owned());
        self.change(Change::UpdateSchema { account, id, description, expected_revision }).await?.schema()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn delete_schema(&self, tenant: Tenant, id: &str) -> Result<(), ChangeError> {
        let change = Change::DeleteSchema { account: tenant.account(), id: id.to_owned() };
        self.change(change).await.map(drop)
    }

    /// A webhook without a signing secret gets a fresh one.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn create_sink(&self, tenant: Tenant, sink: NewSink) -> Result<Arc<Sink>, ChangeError> {
        let sink = NewSink { config: self.complete(sink.config), ..sink };
        let (account, id) = (tenant.account(), SinkId::from_bytes(self.random_id()));
        self.change(Change::CreateSink { account, id, sink }).await?.sink()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn update_sink(
        &self,
        tenant: Tenant,
        id: SinkId,
        change: SinkChange,
    ) -> Result<Arc<Sink>, ChangeError> {
        let SinkChange { sink, expected_revision } = change;
        let account = tenant.account();
        self.change(Change::UpdateSink { account, id, sink, expected_revision }).await?.sink()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn delete_sink(&self, tenant: Tenant, id: SinkId) -> Result<(), ChangeError> {
        self.change(Change::DeleteSink { account: tenant.account(), id }).await.map(drop)
    }

    /// The epoch of a new subscription is the catalog's revision of its creation, which is never used again.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn create_subscription(
        &self,
        tenant: Tenant,
        new: NewSubscription,
        start: StartAt,
    ) -> Result<Arc<Subscription>, ChangeError> {
        let id = SubscriptionId::from_bytes(self.random_id());
        let subscription = CreatedSubscription { id, spec: new, start };
        let account = tenant.account();
        self.change(Change::CreateSubscription { account, subscription }).await?.subscription()
    }

    /// `expected_revision` is the revision that the caller read; none overwrites any revision.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn update_subscription(
        &self,
        tenant: Tenant,
        id: SubscriptionId,
        new: NewSubscription,
        expected_revision: Option<u64>,
    ) -> Result<Arc<Subscription>, ChangeError> {
        let change =
            Change::UpdateSubscription { account: tenant.account(), id, spec: new, expected_revision };
        self.change(change).await?.subscription()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn delete_subscription(&self, tenant: Tenant, id: SubscriptionId) -> Result<(), ChangeError> {
        self.change(Change::DeleteSubscription { account: tenant.account(), id }).await.map(drop)
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn pause_subscription(
        &self,
        tenant: Tenant,
        id: SubscriptionId,
    ) -> Result<Arc<Subscription>, ChangeError> {
        let change = Change::PauseSubscription { account: tenant.account(), id };
        self.change(change).await?.subscription()
    }

    /// # Errors
    /// See [`ChangeError`].
    pub async fn resume_subscription(
        &self,
        tenant: Tenant,
        id: SubscriptionId,
    ) -> Result<Arc<Subscription>, ChangeError> {
        let change = Change::ResumeSubscription { account: tenant.account(), id };
        self.change(change).await?.subscription()
    }

    /// Places a replica of each of `partitions` on `broker`; one that is there stays as it is.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn assign_replicas(
        &self,
        broker: BrokerId,
        partitions: Vec<PartitionId>,
    ) -> Result<(), ChangeError> {
        self.change(Change::AssignReplicas { broker, partitions }).await.map(drop)
    }

    /// Takes the replicas of `partitions` away from `broker`.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove_replicas(
        &self,
        broker: BrokerId,
        partitions: Vec<PartitionId>,
    ) -> Result<(), ChangeError> {
        self.change(Change::RemoveReplicas { broker, partitions }).await.map(drop)
    }

    /// Registers this node as a founder, once per data directory.
    pub(super) async fn register(&self, incarnation: [u8; 16]) -> Result<BrokerId, ChangeError> {
        if let Some(registered) = self.view().cluster.broker_of(incarnation) {
            return Ok(registered.id);
        }
        let new = NewBroker { incarnation, address: String::new(), founder: Some(BrokerId(FOUNDER.0)) };
        let broker = self.change(Change::RegisterBroker(new)).await?.broker()?;
        Ok(broker.id)
    }

    /// Replicates the configured limits, if they changed.
    pub(super) async fn set_limits(&self) -> Result<(), ChangeError> {
        let limits = self.shared.options.account_limits();
        if self.view().cluster.limits == limits {
            return Ok(());
        }
        self.change(Change::SetLimits(limits)).await.map(drop)
    }

    fn random_id(&self) -> [u8; 16] {
        random_bytes(&**self.shared.environment.random())
    }

    fn new_account(&self, name: &str) -> NewAccount {
        let id = AccountId::from_bytes(self.random_id());
        NewAccount { id, name: name.to_owned(), partitions: self.shared.options.partitions }
    }

    /// Adds the secret that a new webhook lacks.
    fn complete(&self, config: SinkConfig) -> SinkConfig {
        match config {
            SinkConfig::Webhook(mut webhook) => {
                if webhook.signing_secret.expose().is_empty() {
                    let secret: [u8; SIGNING_SECRET_BYTES] =
                        random_bytes(&**self.shared.environment.random());
                    webhook.signing_secret = Secret::new(format!("whsec_{}", BASE64_STANDARD.encode(secret)));
                }
                webhook.twilio_auth_token =
                    webhook.twilio_auth_token.filter(|token| !token.expose().is_empty());
                SinkConfig::Webhook(webhook)
            }
            kinesis @ SinkConfig::Kinesis(_) => kinesis,
        }
    }

    fn check_document(&self, document: &str) -> Result<(), ChangeError> {
        let limit = self.shared.options.schema_bytes_max;
        if document.len() as u64 > limit {
            let problem = format!("has {} bytes; a schema may have {limit}", document.len());
            return Err(ChangeError::invalid("document", problem));
        }
        Ok(())
    }
}

fn key_record(key: &NewKey, description: &str) -> KeyRecord {
    KeyRecord { id: key.id, description: description.to_owned(), secret_hash: key.secret_hash }
}
