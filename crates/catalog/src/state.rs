//! The replicated state and how a command changes it. Pure: the same commands at the same positions give the same
//! bytes on every replica, and a refused command changes nothing but the position and the time.

mod accounts;
mod brokers;
mod changed;
mod document;
mod event_types;
mod requests;
mod schemas;
mod sinks;
mod subscriptions;

use std::sync::Arc;

use fanfare_log::Position;
use fanfare_model::{AccountId, Sink, Subscription, Timestamp};

use crate::{
    Account, AccountView, Broker, ChangeError, EventType, ObjectKind, Schema, View,
    command::{Change, Command, CommandError, Conditions},
};

pub(crate) use document::{DocumentError, PositionRecord, StateHeader};

/// Everything applied up to one position. Cheap to clone: the view is shared until one of the two changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Position of the last command applied or refused; none before the first.
    pub(crate) applied: Option<Position>,
    /// The latest time that any command carried.
    pub(crate) time: Timestamp,
    pub(crate) view: Arc<View>,
}

/// Result of an accepted command.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    /// The catalog's revision that shows it.
    pub(crate) revision: u64,
    pub(crate) object: Object,
}

#[derive(Clone, Debug)]
pub(crate) enum Object {
    Account(Arc<Account>),
    Broker(Broker),
    EventType(Arc<EventType>),
    Schema(Arc<Schema>),
    /// A version that was added to a schema.
    SchemaVersion {
        schema: Arc<Schema>,
        number: u32,
    },
    Sink(Arc<Sink>),
    Subscription(Arc<Subscription>),
    /// The caller has all there is, or the object is deleted.
    Nothing,
}

pub(crate) type Reply = Result<Changed, ChangeError>;

impl State {
    /// Applies the command stored at `position`, which must follow what is applied.
    pub(crate) fn apply(&mut self, position: Position, stored: &[u8]) -> Result<Reply, CommandError> {
        let command = Command::decode(stored)?;
        self.applied = Some(position);
        Ok(self.change(position.index, command))
    }

    /// The reply that `command` would get now. Changes nothing.
    pub(crate) fn dry_run(&self, command: &Command) -> Reply {
        self.clone().change(self.applied_index() + 1, command.clone())
    }

    /// `index` is the command's place in the log.
    fn change(&mut self, index: u64, command: Command) -> Reply {
        self.time = self.time.max(command.time);
        // A copy is made only while somebody holds the view; a change that is refused has touched nothing.
        let (now, view) = (self.time, Arc::make_mut(&mut self.view));
        let mut draft = Draft { now, index, view, changed: false, expected_revision: None };
        let object = draft.conditional_change(command.change, command.conditions)?;
        if draft.changed {
            draft.view.revision += 1;
        }
        Ok(Changed { revision: self.view.revision, object })
    }

    /// The index of the last command, 0 before the first.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |position| position.index)
    }

    /// SHA-256 of the encoded state: equal on two replicas that applied the same commands.
    #[cfg(test)]
    pub(crate) fn hash(&self) -> [u8; 32] {
        <sha2::Sha256 as sha2::Digest>::digest(self.encode()).into()
    }
}

/// A view under change. Every change checks all it needs before it touches anything.
struct Draft<'a> {
    now: Timestamp,
    /// The command's place in the log.
    index: u64,
    view: &'a mut View,
    changed: bool,
    /// Revision of the object that is deleted, paused or resumed; none takes any.
    expected_revision: Option<u64>,
}

impl Draft<'_> {
    /// A repeat of a request that was carried out changes nothing, whatever has become of its conditions.
    fn conditional_change(
        &mut self,
        change: Change,
        conditions: Option<Conditions>,
    ) -> Result<Object, ChangeError> {
        let Some(Conditions { account, expected_revision, request }) = conditions else {
            return self.change(change);
        };
        self.expected_revision = expected_revision;
        let Some(request) = request else { return self.change(change) };
        if let Some(object) = requests::repeated(self, account, &request)? {
            return Ok(object);
        }
        let object = self.change(change)?;
        requests::keep(self, account, request, &object)?;
        Ok(object)
    }

    fn change(&mut self, change: Change) -> Result<Object, ChangeError> {
        match change {
            Change::CreateAccount(account) => self.create_account(account),
            Change::Bootstrap { account, key } => self.bootstrap(account, key),
            Change::CreateKey { account, key } => self.create_key(account, key),
            Change::CreateEventType { account, event_type } => self.create_event_type(account, event_type),
            Change::UpdateEventType { account, event_type, expected_revision } => {
                self.update_event_type(account, event_type, expected_revision)
            }
            Change::DeleteEventType { account, name } => self.delete_event_type(account, name),
            Change::CreateSchema { account, id, description, document } => {
                let schema = self.new_schema(id, description, document);
                self.create_schema(account, schema)
            }
            Change::CreateSchemaVersion { account, id, document } => {
                self.create_schema_version(account, id, document)
            }
            Change::UpdateSchema { account, id, description, expected_revision } => {
                self.update_schema(account, id, description, expected_revision)
            }
            Change::DeleteSchema { account, id } => self.delete_schema(account, id),
            Change::CreateSink { account, id, sink } => self.create_sink(account, id, sink),
            Change::UpdateSink { account, id, sink, expected_revision } => {
                self.update_sink(account, id, sink, expected_revision)
            }
            Change::DeleteSink { account, id } => self.delete_sink(account, id),
            Change::CreateSubscription { account, subscription } => {
                self.create_subscription(account, subscription)
            }
            Change::UpdateSubscription { account, id, spec, expected_revision } => {
                self.update_subscription(account, id, spec, expected_revision)
            }
            Change::DeleteSubscription { account, id } => self.delete_subscription(account, id),
            Change::PauseSubscription { account, id } => self.pause(account, id),
            Change::ResumeSubscription { account, id } => self.resume(account, id),
            Change::RegisterBroker(broker) => self.register_broker(broker),
            Change::AssignReplicas { broker, partitions } => self.assign_replicas(broker, partitions),
            Change::RemoveReplicas { broker, partitions } => self.remove_replicas(broker, partitions),
            Change::SetLimits(limits) => self.set_limits(limits),
        }
    }

    /// The revision that this change will have.
    fn revision(&self) -> u64 {
        self.view.revision + 1
    }

    fn account(&self, id: AccountId) -> Result<&AccountView, ChangeError> {
        self.view.account(id).map(AsRef::as_ref).ok_or_else(|| no_account(id))
    }

    /// The account to change. From here on the change may not be refused.
    fn edit(&mut self, id: AccountId) -> Result<&mut AccountView, ChangeError> {
        let account = self.view.accounts.get_mut(&id).ok_or_else(|| no_account(id))?;
        self.changed = true;
        Ok(Arc::make_mut(account))
    }
}

fn no_account(id: AccountId) -> ChangeError {
    ChangeError::NotFound { kind: ObjectKind::Account, name: id.to_string() }
}

/// Refuses an update of what is not at the revision that its author read.
fn check_revision(
    kind: ObjectKind,
    name: &str,
    expected_revision: Option<u64>,
    revision: u64,
) -> Result<(), ChangeError> {
    match expected_revision {
        Some(expected) if expected != revision => {
            Err(ChangeError::Stale { kind, name: name.to_owned(), revision })
        }
        Some(_) | None => Ok(()),
    }
}

/// Refuses one more of `kind` where there are `count` already.
fn check_limit(kind: ObjectKind, count: usize, limit: u64) -> Result<(), ChangeError> {
    if count as u64 >= limit { Err(ChangeError::Limit { kind, limit }) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests;
