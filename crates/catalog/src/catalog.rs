//! The handle on the replicated catalog: opening, reading, proposing.

mod changes;

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use fanfare_environment::Environment;
use fanfare_log::{Payload, RollPolicy};
use fanfare_model::{BrokerId, ReplicaId, Timestamp};
use fanfare_raft::{FormatVersion, Group, GroupId, GroupOptions, Host, Member, Proposal, ProposeError, Role};
use tokio::{sync::watch, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AccountLimits, ChangeError, OpenError, RequestId, Tenant, View, ViewStart, ViewStorage,
    command::{Change, Command, Conditions},
    key,
    machine::{COMMAND, Machine, MachineWatch},
    state::{Changed, State},
    view_store::{OpenedView, ViewWriter},
};

const GROUP: GroupId = GroupId::Catalog;
/// Replica and broker of the first member: founders have 1 to n in the order of their addresses, and a node without
/// peers is the only one.
const FOUNDER: ReplicaId = ReplicaId(1);
/// A checkpoint is the whole catalog in one piece. The view on disk follows every change at the price of that change,
/// so checkpoints only have to bound how long a start without a view takes.
const CHECKPOINT_INTERVAL_MS: u64 = 600_000;
const SEGMENT_BYTES: u64 = 4 << 20;
const LEADER_WAIT: Duration = Duration::from_secs(30);
const CHANGE_WAIT: Duration = Duration::from_secs(10);

/// The configuration of the catalog. The limits of accounts are replicated at each start that finds others.
#[derive(Clone, Debug)]
pub struct CatalogOptions {
    pub sinks_max: u64,
    pub subscriptions_max: u64,
    pub event_types_max: u64,
    pub schemas_max: u64,
    /// Bytes of the documents of all versions of one account's schemas.
    pub schema_documents_bytes_max: u64,
    /// Size of one version's document.
    pub schema_bytes_max: u64,
    /// Number of partitions of the stream `events`.
    pub partitions: u16,
    /// Entries between ordinary snapshots.
    pub snapshot_entries: u64,
}

impl Default for CatalogOptions {
    fn default() -> Self {
        Self {
            sinks_max: 100,
            subscriptions_max: 100,
            event_types_max: 1000,
            schemas_max: 1000,
            schema_documents_bytes_max: 16 << 20,
            schema_bytes_max: 256 << 10,
            partitions: 12,
            snapshot_entries: 10_000,
        }
    }
}

impl CatalogOptions {
    fn account_limits(&self) -> AccountLimits {
        AccountLimits {
            sinks_max: self.sinks_max,
            subscriptions_max: self.subscriptions_max,
            event_types_max: self.event_types_max,
            schemas_max: self.schemas_max,
            schema_documents_bytes_max: self.schema_documents_bytes_max,
        }
    }
}

/// Origin of the state of this start.
#[derive(Clone, Debug)]
pub(crate) struct StartReport {
    /// Commands applied from the log, without those that checkpoint or view contained.
    entries_replayed: u64,
    view: ViewStart,
}

/// The replicated desired state. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
    /// Conditions of the changes that this handle makes.
    conditions: Option<Conditions>,
}

struct Shared {
    group: Group<Machine>,
    options: CatalogOptions,
    environment: Environment,
    /// This node; set before the catalog is handed out.
    broker: OnceLock<BrokerId>,
    views: watch::Receiver<Arc<View>>,
    #[cfg(test)]
    stored_index: watch::Receiver<u64>,
    #[cfg(test)]
    report: StartReport,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Catalog {
    /// Returns when the group of one leads and every entry is applied. `storage` holds the view, which is built again
    /// whenever it is missing, stale or damaged.
    ///
    /// # Errors
    /// If the log or the group does not open, no leader is there in time, or `storage` cannot be written.
    pub async fn open(host: &Host, storage: ViewStorage, options: CatalogOptions) -> Result<Self, OpenError> {
        let environment = host.environment().clone();
        let identity = host.store().identity();
        let log = {
            let (store, name) = (host.store().clone(), GROUP.to_string());
            let roll = RollPolicy { segment_bytes: SEGMENT_BYTES, age_ms: u64::MAX };
            let opening = environment.run_blocking(move || store.open_log(&name, FOUNDER.0, roll));
            opening.await.map_err(OpenError::Log)?
        };
        let opened = OpenedView::open(storage, &environment, identity, &log).await?;
        let start = opened.start.clone();
        let (machine, watch) = Machine::starting_at(opened.applied());
        let MachineWatch { views, applied, applications } = watch;

        let group = Box::pin(open_group(host, log.clone(), machine, &options)).await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(follow_format_version(host.clone(), views.clone(), stop.clone()));
        let stored_index = watch::Sender::new(opened.stored_index());
        #[cfg(test)]
        let watched_index = stored_index.subscribe();
        let writer = ViewWriter {
            view: opened,
            environment: environment.clone(),
            identity,
            log,
            applied,
            stored_index,
            stop: stop.clone(),
        };
        tasks.spawn(writer.run());
        let report = StartReport { entries_replayed: applications.load(Ordering::Relaxed), view: start };
        match &report.view {
            ViewStart::Used { index } => {
                tracing::info!(index, replayed = report.entries_replayed, "catalog open");
            }
            ViewStart::Rebuilt { reason } => {
                tracing::info!(%reason, replayed = report.entries_replayed, "catalog open, its view is built again");
            }
        }
        let catalog = Self {
            shared: Arc::new(Shared {
                group,
                options,
                environment,
                broker: OnceLock::new(),
                views,
                #[cfg(test)]
                stored_index: watched_index,
                #[cfg(test)]
                report,
                tasks,
                stop,
            }),
            conditions: None,
        };
        catalog.join(identity.incarnation).await.map_err(OpenError::Join)?;
        Ok(catalog)
    }

    /// This node.
    ///
    /// # Panics
    /// Never of a catalog that [`Self::open`] returned.
    #[must_use]
    pub fn broker(&self) -> BrokerId {
        *self.shared.broker.get().expect("opening registers the broker")
    }

    /// The newest view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.views.borrow().clone()
    }

    /// Watches the view. A view that is replaced before the watcher looks is skipped.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.shared.views.clone()
    }

    /// The caller of `Authorization: Bearer KEY`; none for a text that is no live key. Constant-time in the secret.
    #[must_use]
    pub fn authenticate(&self, key: &str) -> Option<Tenant> {
        key::authenticate(&self.shared.views.borrow(), key)
    }

    /// A handle whose changes are one request of `tenant`: with the same request they are made once, within 24 h and the
    /// account's last 1,000 requests; a repeat is answered with the object of the first, as it is then.
    #[must_use]
    pub fn for_request(&self, tenant: Tenant, request: RequestId) -> Self {
        self.with_conditions(tenant, |conditions| conditions.request = Some(request))
    }

    /// A handle that deletes, pauses and resumes only what stands at `revision`.
    #[must_use]
    pub fn expecting(&self, tenant: Tenant, revision: u64) -> Self {
        self.with_conditions(tenant, |conditions| conditions.expected_revision = Some(revision))
    }

    fn with_conditions(&self, tenant: Tenant, set: impl FnOnce(&mut Conditions)) -> Self {
        let account = tenant.account();
        let none = Conditions { account, expected_revision: None, request: None };
        let mut conditions = self.conditions.clone().unwrap_or(none);
        set(&mut conditions);
        Self { shared: self.shared.clone(), conditions: Some(conditions) }
    }

    /// True if this handle's request was carried out before, so that its conditions are not to be looked at again.
    #[must_use]
    pub fn is_repeat(&self) -> bool {
        let Some(Conditions { account, request: Some(request), .. }) = &self.conditions else { return false };
        let now = Timestamp(self.shared.environment.clock().unix_ms());
        let view = self.view();
        let record = view.account(*account).and_then(|account| account.requests.get(&request.id));
        record.is_some_and(|record| record.is_kept(now))
    }

    #[cfg(test)]
    pub(crate) fn start_report(&self) -> &StartReport {
        &self.shared.report
    }

    /// Stops the group and writes the last change to the view.
    pub async fn shutdown(&self) {
        let Shared { group, tasks, stop, .. } = &*self.shared;
        group.shutdown().await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    /// Registers this node, once per data directory, and replicates its configured limits.
    async fn join(&self, incarnation: [u8; 16]) -> Result<(), ChangeError> {
        let broker = self.register(incarnation).await?;
        self.shared.broker.get_or_init(|| broker);
        self.set_limits().await
    }

    fn state(&self) -> State {
        self.shared.group.read(|machine| machine.state.clone())
    }

    /// Makes one change. Answers when the change is applied and `view` shows it.
    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let time = Timestamp(self.shared.environment.clock().unix_ms());
        let command = Command::new(time, change).under(self.conditions.clone());
        // A change that is refused now is not worth an entry. It is checked again when it is applied.
        self.state().dry_run(&command)?;
        let changed = time::timeout(CHANGE_WAIT, self.replicate(&command));
        changed.await.unwrap_or(Err(ChangeError::Unknown))
    }

    async fn replicate(&self, command: &Command) -> Result<Changed, ChangeError> {
        let Role::Leader { term } = *self.shared.group.role().borrow() else {
            return Err(ChangeError::Unavailable);
        };
        let payload = Payload::new(vec![command.encode().into()]);
        let proposal = Proposal { kind: COMMAND, count: 0, time_ms: command.time.0, payload };
        // A proposal that is refused here was not appended.
        let pending = self.shared.group.propose(term, proposal).await;
        let pending = pending.map_err(|_| ChangeError::Unavailable)?;
        let changed = pending.applied().await.map_err(|error| unapplied(&error))?;
        let changed = changed.reply?;
        let mut views = self.shared.views.clone();
        let shown = views.wait_for(|view| view.revision >= changed.revision).await;
        shown.map_err(|_| ChangeError::Unknown)?;
        Ok(changed)
    }
}

/// The error of a change whose command was handed over.
fn unapplied(error: &ProposeError) -> ChangeError {
    match error {
        ProposeError::NotLeader { .. } | ProposeError::TermEnded | ProposeError::AboveFormat { .. } => {
            ChangeError::Unavailable
        }
        ProposeError::Unknown | ProposeError::Stopped => ChangeError::Unknown,
    }
}

/// Tells the node's groups the format version that each view names.
async fn follow_format_version(host: Host, mut views: watch::Receiver<Arc<View>>, stop: CancellationToken) {
    loop {
        let version = views.borrow_and_update().cluster.format_version;
        host.raise_format_version(FormatVersion(version));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}

async fn open_group(
    host: &Host,
    log: fanfare_log::Log,
    machine: Machine,
    options: &CatalogOptions,
) -> Result<Group<Machine>, OpenError> {
    let node = host.store().identity().node;
    let options = GroupOptions {
        checkpoint_interval_ms: CHECKPOINT_INTERVAL_MS,
        snapshot_entries: options.snapshot_entries,
    };
    let group = Group::open(host, GROUP, FOUNDER, log, machine, options).await.map_err(OpenError::Group)?;
    let own = Member { replica: FOUNDER, node, address: String::new() };
    let failed = || OpenError::Failed { reason: failure_of(&group) };
    group.initialize(vec![own]).await.map_err(|_| failed())?;
    let mut role = group.role();
    // A leader has applied the first entry of its term, so every earlier entry too.
    let decided = role.wait_for(|role| matches!(role, Role::Leader { .. } | Role::Failed));
    match time::timeout(LEADER_WAIT, decided).await.map(|role| role.map(|role| *role)) {
        Ok(Ok(Role::Leader { .. })) => Ok(group),
        Ok(_) => Err(failed()),
        Err(_) => Err(OpenError::NoLeader { waited_s: LEADER_WAIT.as_secs() }),
    }
}

fn failure_of(group: &Group<Machine>) -> String {
    match group.failure() {
        Some(failure) => format!("{failure}; {}", failure.remedy()),
        None => "the node's log names the cause".to_owned(),
    }
}

#[cfg(test)]
mod tests;
