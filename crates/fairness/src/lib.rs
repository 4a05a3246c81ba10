//! One limit that many owners share, and nobody takes whole.
//!
//! An owner may take more only while as much is free as the owner has: one owner gets at most a half, two a third each,
//! and there is always room for the next. No owner needs a reservation of its own, so idle owners cost nothing.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::Hash,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Identity of a holder of a part of the limit.
pub trait Owner: Copy + Eq + Hash + Send + Sync + 'static {}

impl<T: Copy + Eq + Hash + Send + Sync + 'static> Owner for T {}

/// A limit shared by its owners. Cheap to clone.
pub struct FairLimiter<O: Owner>(Arc<Mutex<OwnerTable<O>>>);

struct OwnerTable<O: Owner> {
    limit: usize,
    owner_max: usize,
    used: usize,
    owners: HashMap<O, Holding<O>>,
    /// Owners that wait, each once, the one whose turn is next first.
    turns: VecDeque<O>,
}

struct Holding<O: Owner> {
    held: usize,
    waiting: VecDeque<oneshot::Sender<FairPermit<O>>>,
}

/// A part of the limit, given back when dropped.
pub struct FairPermit<O: Owner> {
    limiter: FairLimiter<O>,
    owner: O,
    amount: usize,
}

impl<O: Owner> Clone for FairLimiter<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O: Owner> FairLimiter<O> {
    /// `limit` for all owners together; none holds more than `owner_max`.
    #[must_use]
    pub fn new(limit: usize, owner_max: usize) -> Self {
        let state = OwnerTable { limit, owner_max, used: 0, owners: HashMap::new(), turns: VecDeque::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A permit for `amount`, which may be 0; none if the owner has its share.
    #[must_use]
    pub fn try_acquire(&self, owner: O, amount: usize) -> Option<FairPermit<O>> {
        let taken = self.0.lock().take(owner, amount);
        taken.then(|| self.permit(owner, amount))
    }

    /// A permit for one, when the owner may have it. Owners that wait take turns; within an owner, who waits longest is
    /// first. Cancel-safe.
    pub async fn acquire(&self, owner: O) -> FairPermit<O> {
        let granted = {
            let mut state = self.0.lock();
            let is_first = state.owners.get(&owner).is_none_or(|holding| holding.waiting.is_empty());
            if is_first && state.take(owner, 1) {
                drop(state);
                return self.permit(owner, 1);
            }
            state.wait(owner)
        };
        granted.await.expect("the limiter that this future holds has the other end")
    }

    /// True while somebody waits for a permit of this owner.
    #[must_use]
    pub fn is_awaited(&self, owner: O) -> bool {
        let state = self.0.lock();
        state
            .owners
            .get(&owner)
            .is_some_and(|holding| holding.waiting.iter().any(|waiter| !waiter.is_closed()))
    }

    /// Sum of all permits.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.lock().used
    }

    fn permit(&self, owner: O, amount: usize) -> FairPermit<O> {
        FairPermit { limiter: self.clone(), owner, amount }
    }

    fn release(&self, owner: O, amount: usize) {
        let mut state = self.0.lock();
        state.give_back(owner, amount);
        let granted = state.grant();
        drop(state);
        for (owner, waiter) in granted {
            // A waiter that left meanwhile leaves its permit to the next: dropped here, outside the lock.
            drop(waiter.send(self.permit(owner, 1)));
        }
    }
}

impl<O: Owner> OwnerTable<O> {
    fn take(&mut self, owner: O, amount: usize) -> bool {
        let held = self.owners.get(&owner).map_or(0, |holding| holding.held) + amount;
        if held > self.owner_max || held > self.limit - self.used {
            return false;
        }
        self.used += amount;
        self.holding(owner).held = held;
        true
    }

    fn holding(&mut self, owner: O) -> &mut Holding<O> {
        self.owners.entry(owner).or_insert_with(|| Holding { held: 0, waiting: VecDeque::new() })
    }

    fn give_back(&mut self, owner: O, amount: usize) {
        let holding = self.holding(owner);
        assert!(holding.held >= amount, "invariant violation: {amount} of {} are given back", holding.held);
        holding.held -= amount;
        self.used -= amount;
        self.forget_if_idle(owner);
    }

    fn forget_if_idle(&mut self, owner: O) {
        if self.owners.get(&owner).is_some_and(|holding| holding.held == 0 && holding.waiting.is_empty()) {
            self.owners.remove(&owner);
        }
    }

    fn wait(&mut self, owner: O) -> oneshot::Receiver<FairPermit<O>> {
        let (waiter, granted) = oneshot::channel();
        let holding = self.holding(owner);
        let is_first = holding.waiting.is_empty();
        holding.waiting.retain(|waiter| !waiter.is_closed());
        holding.waiting.push_back(waiter);
        if is_first {
            self.turns.push_back(owner);
        }
        granted
    }

    /// Takes for those that wait, one each in turn, until none of them may have more.
    fn grant(&mut self) -> Vec<(O, oneshot::Sender<FairPermit<O>>)> {
        let mut granted = Vec::new();
        let mut refused = 0;
        while refused < self.turns.len()
            && let Some(owner) = self.turns.pop_front()
        {
            let holding = self.holding(owner);
            while holding.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                holding.waiting.pop_front();
            }
            if holding.waiting.is_empty() {
                self.forget_if_idle(owner);
                continue;
            }
            if !self.take(owner, 1) {
                refused += 1;
                self.turns.push_back(owner);
                continue;
            }
            refused = 0;
            let waiting = &mut self.holding(owner).waiting;
            granted.extend(waiting.pop_front().map(|waiter| (owner, waiter)));
            if !waiting.is_empty() {
                self.turns.push_back(owner);
            }
        }
        granted
    }
}

impl<O: Owner> FairPermit<O> {
    /// Takes `amount` more; false, and nothing taken, if the owner has its share.
    pub fn try_grow(&mut self, amount: usize) -> bool {
        let taken = self.limiter.0.lock().take(self.owner, amount);
        self.amount += if taken { amount } else { 0 };
        taken
    }

    /// Gives `amount` back.
    ///
    /// # Panics
    /// If the permit is smaller.
    pub fn shrink(&mut self, amount: usize) {
        self.amount =
            self.amount.checked_sub(amount).expect("invariant violation: more is given back than taken");
        if amount > 0 {
            self.limiter.release(self.owner, amount);
        }
    }
}

impl<O: Owner> Drop for FairPermit<O> {
    fn drop(&mut self) {
        self.limiter.release(self.owner, self.amount);
    }
}

impl<O: Owner + fmt::Debug> fmt::Debug for FairPermit<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairPermit").field("owner", &self.owner).field("amount", &self.amount).finish()
    }
}

#[cfg(test)]
mod tests;
