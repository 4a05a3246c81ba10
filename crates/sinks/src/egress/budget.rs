//! Connections and name look-ups that all sinks of a node share: each account has its part, and waits for no other's.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use fanfare_environment::{Environment, Next, Worker};
use fanfare_fairness::{FairLimiter, FairPermit};
use fanfare_model::AccountId;
use tokio::{sync::oneshot, time::timeout};

use crate::Failure;

/// Longest wait for a connection; longer than most requests, whose end gives one back.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(30);
/// Look-ups at once, a thread each: the system's resolver blocks, for many seconds where a server does not answer.
const LOOKUPS_MAX: usize = 32;

/// Connections that sinks may have open at once. Each takes a file descriptor.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections of all accounts.
    pub connections_max: usize,
    /// Connections of one account; never more than are free for others.
    pub account_connections_max: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections_max: 1024, account_connections_max: 256 }
    }
}

/// The node's budget of connections and look-ups. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EgressBudget {
    connections: FairLimiter<AccountId>,
    lookups: FairLimiter<AccountId>,
    wait_max: Duration,
    environment: Environment,
}

impl EgressBudget {
    /// `environment` gives threads.
    pub(crate) fn new(limits: ConnectionLimits, environment: Environment) -> Self {
        Self {
            environment,
            connections: FairLimiter::new(limits.connections_max, limits.account_connections_max),
            lookups: FairLimiter::new(LOOKUPS_MAX, LOOKUPS_MAX),
            wait_max: CONNECTION_WAIT_MAX,
        }
    }

    #[cfg(test)]
    pub(crate) fn with_wait_max(self, wait_max: Duration) -> Self {
        Self { wait_max, ..self }
    }

    /// The part that the sinks of `account` may use.
    pub(crate) fn of(&self, account: AccountId) -> AccountBudget {
        AccountBudget { budget: self.clone(), account }
    }
}

/// The part of the budget that one account has. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AccountBudget {
    budget: EgressBudget,
    account: AccountId,
}

/// The right to one open connection.
pub(crate) type ConnectionPermit = FairPermit<AccountId>;

impl AccountBudget {
    /// Waits while the account has its share.
    ///
    /// # Errors
    /// If that takes longer than half a minute. No event is at fault then.
    pub(crate) async fn connection(&self) -> Result<ConnectionPermit, Failure> {
        let permit = self.budget.connections.acquire(self.account);
        timeout(self.budget.wait_max, permit).await.map_err(|_| {
            Failure::new(
                Failure::CONNECTION_BUDGET,
                "the account's sinks have as many connections open as they may: shorten the timeouts of sinks that hang",
            )
        })
    }

    /// True while a request of the account waits for a connection.
    pub(crate) fn is_awaited(&self) -> bool {
        self.budget.connections.is_awaited(self.account)
    }

    /// The addresses of `host`, as the system's resolver knows them. The thread that asks holds its place until it has
    /// an answer, even if nobody waits any more.
    pub(crate) async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = self.budget.lookups.acquire(self.account).await;
        let (answer, answered) = oneshot::channel();
        let lookup = NameLookup { host: host.to_owned(), port, held: Some((permit, answer)) };
        self.budget.environment.start_worker("dns", Box::new(lookup))?;
        answered.await.map_err(|_| io::Error::other("the look-up ended without an answer"))?
    }
}

/// One look-up, on a thread of its own.
struct NameLookup {
    host: String,
    port: u16,
    held: Option<(ConnectionPermit, oneshot::Sender<io::Result<Vec<SocketAddr>>>)>,
}

impl Worker for NameLookup {
    fn run_round(&mut self) -> Next {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs().map(Iterator::collect);
        if let Some((permit, answer)) = self.held.take() {
            drop(permit);
            // Nobody waits any more: the attempt has timed out.
            drop(answer.send(addresses));
        }
        Next::End
    }
}

impl fmt::Debug for AccountBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountBudget").field("account", &self.account).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[tokio::test]
    async fn names_are_resolved_within_the_budget() {
        let budget = EgressBudget::new(ConnectionLimits::default(), Environment::system());
        let addresses =
            budget.of(fixture::ACCOUNT).look_up("localhost", 80).await.expect("a name of every machine");
        assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{addresses:?}");
        assert_eq!(budget.lookups.used(), 0);
    }

    #[tokio::test]
    async fn black_hole_of_one_account_leaves_lookups_for_others() {
        let budget = EgressBudget::new(ConnectionLimits::default(), Environment::system());
        let hanging: Vec<_> =
            std::iter::from_fn(|| budget.lookups.try_acquire(fixture::ACCOUNT, 1)).collect();
        assert_eq!(hanging.len(), LOOKUPS_MAX / 2);
        let other = AccountId::from_bytes([9; 16]);
        budget.of(other).look_up("localhost", 80).await.expect("another account is not delayed");
    }
}
