//! Everything that can happen to a subscription, and the actions that may follow.

use fanfare_model::{KeyHash, Offset};
use fanfare_partition::Reason;
use fanfare_sinks::{Abilities, Outcome};

use super::buffered_event::{AttemptItem, BufferedEvent, DeadLetterRequest, SchemaCheck};
use crate::{RetryPolicy, judgement::CircuitBreaker};

/// Something that happened.
#[derive(Debug)]
pub(crate) enum SubscriptionEvent {
    /// The fan-out matched an event that the subscription takes: see [`super::state::SubscriptionState::takes`].
    Matched(BufferedEvent),
    /// The fan-out matched an event that the subscription reads by itself.
    MatchedBehind(Offset),
    /// The sink has capacity for one attempt.
    PermitGranted(Abilities),
    /// An attempt ended, with one outcome for each event, in order.
    AttemptFinished {
        results: Vec<AttemptResult>,
        atomic: bool,
    },
    /// [`ReadAction::Backlog`] is done: matching events up to `end`.
    BacklogRead {
        events: Vec<BufferedEvent>,
        end: Offset,
    },
    /// [`ReadAction::Reload`] is done.
    EventsReloaded(Vec<ReloadedEvent>),
    /// [`ReadAction::ScanKeys`] is done.
    KeysScanned(Vec<ScannedKey>),
    /// [`Action::CheckSchemas`] is done.
    SchemasChecked(Vec<CheckedEvent>),
    /// A read failed and nothing of it is used.
    ReadFailed(ReadAction),
    /// The dead letter is committed.
    DeadLetterWritten(DeadLetterRequest),
    /// The dead letter could not be written; another try may succeed.
    DeadLetterFailed {
        request: DeadLetterRequest,
        why: DeadLetterFailure,
    },
    PauseChanged {
        paused: bool,
    },
    /// The sink is another one, or is configured anew.
    SinkChanged,
    /// Retention wants everything below the offset settled: unsettled events become dead letters.
    ExpireBelow(Offset),
    /// The subscription is deleted: nothing starts any more.
    Detached,
    /// The progress proposed last is applied.
    Advanced,
    /// Time passed, or an earlier event may have made something possible.
    Tick,
}

impl SubscriptionEvent {
    /// The event changes the replicated part of the state.
    pub(super) fn is_progress(&self) -> bool {
        match self {
            Self::Matched(_)
            | Self::MatchedBehind(_)
            | Self::AttemptFinished { .. }
            | Self::BacklogRead { .. }
            | Self::EventsReloaded(_)
            | Self::KeysScanned(_)
            | Self::ReadFailed(_)
            | Self::DeadLetterWritten(_)
            | Self::DeadLetterFailed { .. } => true,
            Self::PermitGranted(_)
            | Self::SchemasChecked(_)
            | Self::PauseChanged { .. }
            | Self::SinkChanged
            | Self::ExpireBelow(_)
            | Self::Detached
            | Self::Advanced
            | Self::Tick => false,
        }
    }
}

/// An event of an attempt and its outcome.
#[derive(Debug)]
pub(crate) struct AttemptResult {
    pub(crate) item: AttemptItem,
    pub(crate) outcome: Outcome,
}

/// Reason why a dead letter was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadLetterFailure {
    /// The dead letters of the account, or of all accounts, are at their limit.
    OverQuota,
    DiskFull,
    /// No leader, an overload, an unknown outcome.
    Unavailable,
}

impl DeadLetterFailure {
    /// The reason to expire an event that retention overtakes; none if the event goes on to be held.
    pub(super) fn reason_to_expire(self) -> Option<Reason> {
        match self {
            Self::OverQuota => Some(Reason::DeadLetterBudget),
            Self::DiskFull => Some(Reason::Retention),
            Self::Unavailable => None,
        }
    }
}

/// An event of the window read again; none if the event is not matched as it was.
#[derive(Debug)]
pub(crate) struct ReloadedEvent {
    pub(crate) offset: Offset,
    pub(crate) event: Option<BufferedEvent>,
}

/// A key's part of a scan.
#[derive(Debug)]
pub(crate) struct ScannedKey {
    pub(crate) key: KeyHash,
    /// The next events of the key below `scanned_to`; a key that got no turn has none, and is where it was.
    pub(crate) events: Vec<BufferedEvent>,
    pub(crate) scanned_to: Offset,
    /// The log could not be read at `scanned_to`.
    pub(crate) failed: bool,
}

#[derive(Debug)]
pub(crate) struct CheckedEvent {
    pub(crate) offset: Offset,
    pub(crate) schema: SchemaCheck,
}

/// Values from outside that a decision depends on.
pub(crate) struct Inputs<'a> {
    /// Monotonic.
    pub(crate) now_ms: u64,
    /// Exclusive end of the events that the fan-out has read or is handing over.
    pub(crate) fan_out_offset: Offset,
    pub(crate) random: u64,
    /// Circuit breaker of the sink, shared with its other subscriptions.
    pub(crate) breaker: &'a mut CircuitBreaker,
    /// The sink's, or the node's while there is no sink.
    pub(crate) retry: &'a RetryPolicy,
}

/// Work that the subscription's worker does; each ends with an event.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send the events to the sink. `probe` numbers the attempt if it is a probe of the circuit breaker.
    StartAttempt {
        items: Vec<AttemptItem>,
        probe: Option<u64>,
    },
    Read(ReadAction),
    /// Check the events against the pinned schema versions.
    CheckSchemas(Vec<BufferedEvent>),
    WriteDeadLetter(DeadLetterRequest),
}

/// A read of the partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadAction {
    /// Read matching events within `from..end`.
    Backlog { from: Offset, end: Offset },
    /// Read these events, ascending.
    Reload(Vec<Offset>),
    /// Read the next matching events of these keys below `end`, about `bytes_max` of them in all. The keys ascend by
    /// offset, but that the oldest may follow the newest.
    ScanKeys { keys: Vec<KeyScan>, end: Offset, bytes_max: usize },
}

/// A key whose events are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyScan {
    pub(crate) key: KeyHash,
    pub(crate) from: Offset,
    /// Only the event at `from`: there is no use for the others before it is delivered.
    pub(crate) first_only: bool,
}

/// Output of the state machine; the caller reuses the buffer.
#[derive(Debug, Default)]
pub(crate) struct Actions {
    pub(crate) work: Vec<Action>,
    /// The worker has to run: it sends [`SubscriptionEvent::Tick`].
    pub(crate) run_worker: bool,
    /// Progress has to be replicated, soon.
    pub(crate) progressed: bool,
    /// Time of the next tick if nothing happens before. Set by a tick.
    pub(crate) wake_at_ms: Option<u64>,
}
