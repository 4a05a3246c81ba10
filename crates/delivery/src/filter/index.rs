//! Account, then event type, then subscriptions: matching an event costs nothing for other accounts and types.
//!
//! The index is incremental: a subscription's filters are inserted and removed in time proportional to the number of
//! their own patterns, whatever else the account has.

mod prefixes;

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use fanfare_model::{AccountId, Offset, SubscriptionId};

use self::prefixes::PrefixTrie;
use super::{Filter, SchemaPin, TypePattern};

/// Subscriptions of all accounts by their filters. `S` is the caller's handle of a subscription.
#[derive(Debug)]
pub struct FilterIndex<S> {
    accounts: HashMap<AccountId, AccountIndex<S>>,
    /// The keys of `accounts`.
    followed: Arc<HashSet<AccountId>>,
}

/// The filters of one account's subscriptions.
#[derive(Debug)]
pub struct AccountIndex<S> {
    /// None at free slots.
    slots: Vec<Option<Slot<S>>>,
    free_slots: Vec<SlotId>,
    slot_of: HashMap<SubscriptionId, SlotId>,
    exact: HashMap<Box<str>, Vec<TypeMatch>>,
    prefixes: PrefixTrie,
}

/// Index of a subscription within its account. Free slots are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId(u32);

/// One pattern of a subscription's filter.
#[derive(Clone, Debug)]
pub struct TypeMatch {
    pub slot: SlotId,
    /// Index within [`Slot::entries`].
    entry: u32,
    /// The offsets of the events that the filter applies to.
    pub offsets: Range<Offset>,
    pub pin: Option<Arc<SchemaPin>>,
}

#[derive(Debug)]
struct Slot<S> {
    subscription: S,
    entries: Vec<Entry>,
}

/// The place of a subscription's pattern in the index.
#[derive(Debug)]
struct Entry {
    pattern: TypePattern,
    offsets: Range<Offset>,
    /// Index within the pattern's list of matches.
    position: usize,
}

impl<S> Default for FilterIndex<S> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), followed: Arc::default() }
    }
}

impl<S> FilterIndex<S> {
    /// None if no subscription of the account matches any event.
    #[must_use]
    pub fn account(&self, account: AccountId) -> Option<&AccountIndex<S>> {
        self.accounts.get(&account)
    }

    /// The accounts with subscriptions that match events. The set is another object after each change of its members.
    #[must_use]
    pub fn followed(&self) -> &Arc<HashSet<AccountId>> {
        &self.followed
    }

    /// Replaces the filters of the subscription `id`. The ranges of offsets must not overlap.
    pub fn insert<'f>(
        &mut self,
        account: AccountId,
        id: SubscriptionId,
        subscription: S,
        filters: impl IntoIterator<Item = (Range<Offset>, &'f Filter)>,
    ) {
        self.remove(account, id);
        let patterns: Vec<_> = filters
            .into_iter()
            .flat_map(|(offsets, filter)| {
                filter.patterns().map(move |(pattern, pin)| (pattern, offsets.clone(), pin.cloned()))
            })
            .collect();
        if patterns.is_empty() {
            return;
        }
        let index = self.accounts.entry(account).or_insert_with(|| {
            Arc::make_mut(&mut self.followed).insert(account);
            AccountIndex::default()
        });
        let slot = index.occupy(id, subscription);
        for (pattern, offsets, pin) in patterns {
            index.add(slot, pattern, offsets, pin);
        }
    }

    /// Removes the filters of the subscription `id`, if it has any.
    pub fn remove(&mut self, account: AccountId, id: SubscriptionId) {
        let Some(index) = self.accounts.get_mut(&account) else { return };
        index.remove(id);
        if index.slot_of.is_empty() {
            self.accounts.remove(&account);
            Arc::make_mut(&mut self.followed).remove(&account);
        }
    }
}

impl<S> Default for AccountIndex<S> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free_slots: Vec::new(),
            slot_of: HashMap::new(),
            exact: HashMap::new(),
            prefixes: PrefixTrie::default(),
        }
    }
}

impl<S> AccountIndex<S> {
    /// Calls `on_match` once for each subscription that matches an event of this type at `offset`, in no particular
    /// order, with its most specific pattern. Allocates nothing.
    pub fn match_event<'a>(
        &'a self,
        event_type: &str,
        offset: Offset,
        mut on_match: impl FnMut(&'a TypeMatch),
    ) {
        for found in self.exact.get(event_type).into_iter().flatten() {
            if found.offsets.contains(&offset) {
                on_match(found);
            }
        }
        self.prefixes.visit(event_type, |found| {
            if found.offsets.contains(&offset) && !self.is_superseded(found, event_type, offset) {
                on_match(found);
            }
        });
    }

    /// The subscription of a [`TypeMatch`].
    ///
    /// # Panics
    /// If the slot is free: the match is of an earlier state of the index.
    #[must_use]
    pub fn subscription(&self, slot: SlotId) -> &S {
        &self.slot(slot).subscription
    }

    /// True if the same subscription matches the event by a more specific pattern.
    fn is_superseded(&self, found: &TypeMatch, event_type: &str, offset: Offset) -> bool {
        let entries = &self.slot(found.slot).entries;
        let pattern = &entries[found.entry as usize].pattern;
        entries.iter().any(|other| {
            other.offsets.contains(&offset)
                && other.pattern.is_more_specific_than(pattern)
                && other.pattern.matches(event_type)
        })
    }

    fn slot(&self, slot: SlotId) -> &Slot<S> {
        self.slots[slot.0 as usize].as_ref().expect("a match names an occupied slot")
    }

    fn occupy(&mut self, id: SubscriptionId, subscription: S) -> SlotId {
        let occupied = Some(Slot { subscription, entries: Vec::new() });
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = occupied;
                slot
            }
            None => {
                self.slots.push(occupied);
                SlotId(u32::try_from(self.slots.len() - 1).expect("fewer subscriptions than 2^32"))
            }
        };
        let earlier = self.slot_of.insert(id, slot);
        assert!(earlier.is_none(), "invariant violation: subscription {id} has two slots");
        slot
    }

    fn add(
        &mut self,
        slot: SlotId,
        pattern: TypePattern,
        offsets: Range<Offset>,
        pin: Option<Arc<SchemaPin>>,
    ) {
        let entries = &mut self.slots[slot.0 as usize].as_mut().expect("the slot was just occupied").entries;
        let matches = match &pattern {
            TypePattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            TypePattern::Prefix(prefix) => self.prefixes.matches_mut(prefix),
        };
        let entry = u32::try_from(entries.len()).expect("fewer patterns than 2^32");
        matches.push(TypeMatch { slot, entry, offsets: offsets.clone(), pin });
        entries.push(Entry { pattern, offsets, position: matches.len() - 1 });
    }

    fn remove(&mut self, id: SubscriptionId) {
        let Some(slot) = self.slot_of.remove(&id) else { return };
        let Slot { mut entries, .. } =
            self.slots[slot.0 as usize].take().expect("invariant violation: a subscription's slot is free");
        while let Some(Entry { pattern, position, .. }) = entries.pop() {
            let matches = match &pattern {
                TypePattern::Exact(name) => self.exact.get_mut(name),
                TypePattern::Prefix(prefix) => Some(self.prefixes.matches_mut(prefix)),
            };
            let matches = matches.expect("invariant violation: an entry's pattern has no list");
            let removed = matches.swap_remove(position);
            assert_eq!(removed.slot, slot, "invariant violation: a list holds another slot at this position");
            // The last match of the list took the position of the removed one. It may be of the same slot: a type that
            // several filters of one subscription name.
            if let Some(moved) = matches.get(position) {
                let entries = match &mut self.slots[moved.slot.0 as usize] {
                    Some(other) => &mut other.entries,
                    None => &mut entries,
                };
                entries[moved.entry as usize].position = position;
            }
            let is_empty = matches.is_empty();
            match &pattern {
                TypePattern::Exact(name) if is_empty => drop(self.exact.remove(name)),
                TypePattern::Prefix(prefix) if is_empty => self.prefixes.prune(prefix),
                TypePattern::Exact(_) | TypePattern::Prefix(_) => {}
            }
        }
        self.free_slots.push(slot);
    }
}

#[cfg(test)]
mod tests;
