//! Account, then event type, then subscriptions: matching an event costs nothing for other accounts and types.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use fanfare_model::AccountId;

/// Subscriptions `S` of all accounts by what they choose; `W` is what they want of a type beyond its name.
#[derive(Debug)]
pub struct MatchIndex<S, W> {
    accounts: HashMap<AccountId, Choices<S, W>>,
    /// The keys of `accounts`.
    followed: Arc<HashSet<AccountId>>,
}

/// What one account's subscriptions choose.
#[derive(Debug)]
pub struct Choices<S, W> {
    subscriptions: Vec<S>,
    by_type: HashMap<String, Vec<Target<W>>>,
}

/// A subscription that wants events of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<W> {
    /// Of the subscription within [`Choices`].
    pub place: usize,
    pub wish: W,
}

impl<S, W> Default for MatchIndex<S, W> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), followed: Arc::default() }
    }
}

impl<S, W> MatchIndex<S, W> {
    /// None if nothing is chosen.
    #[must_use]
    pub fn account(&self, account: AccountId) -> Option<&Choices<S, W>> {
        self.accounts.get(&account)
    }

    /// The accounts that choose anything: another set whenever one is added or removed.
    #[must_use]
    pub fn followed(&self) -> &Arc<HashSet<AccountId>> {
        &self.followed
    }

    /// Replaces the account's part by each of its subscriptions with the types that it chooses.
    pub fn replace<T>(&mut self, account: AccountId, chosen: impl IntoIterator<Item = (S, T)>)
    where
        T: IntoIterator<Item = (String, W)>,
    {
        let mut choices = Choices { subscriptions: Vec::new(), by_type: HashMap::new() };
        for (subscription, types) in chosen {
            let place = choices.subscriptions.len();
            choices.subscriptions.push(subscription);
            for (event_type, wish) in types {
                choices.by_type.entry(event_type).or_default().push(Target { place, wish });
            }
        }
        if choices.by_type.is_empty() {
            if self.accounts.remove(&account).is_some() {
                Arc::make_mut(&mut self.followed).remove(&account);
            }
        } else if self.accounts.insert(account, choices).is_none() {
            Arc::make_mut(&mut self.followed).insert(account);
        }
    }
}

impl<S, W> Choices<S, W> {
    /// By place.
    #[must_use]
    pub fn subscriptions(&self) -> &[S] {
        &self.subscriptions
    }

    /// Who wants events of this type, ascending by place.
    #[must_use]
    pub fn targets(&self, event_type: &str) -> &[Target<W>] {
        self.by_type.get(event_type).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: AccountId = AccountId::from_bytes([1; 16]);
    const OTHER: AccountId = AccountId::from_bytes([2; 16]);

    fn types(names: &[&str]) -> Vec<(String, ())> {
        names.iter().map(|name| ((*name).to_owned(), ())).collect()
    }

    fn wanting(
        index: &MatchIndex<&'static str, ()>,
        account: AccountId,
        event_type: &str,
    ) -> Vec<&'static str> {
        let Some(choices) = index.account(account) else { return Vec::new() };
        choices.targets(event_type).iter().map(|target| choices.subscriptions()[target.place]).collect()
    }

    #[test]
    fn an_event_finds_the_subscriptions_of_its_account_that_choose_its_type() {
        let mut index = MatchIndex::default();
        index.replace(ONE, [("a", types(&["x", "y"])), ("b", types(&["y"]))]);
        index.replace(OTHER, [("c", types(&["x"]))]);
        assert_eq!(wanting(&index, ONE, "x"), ["a"]);
        assert_eq!(wanting(&index, ONE, "y"), ["a", "b"]);
        assert_eq!(wanting(&index, OTHER, "x"), ["c"]);
        assert!(wanting(&index, OTHER, "y").is_empty());
        index.replace(ONE, [("b", types(&["x"]))]);
        assert_eq!(wanting(&index, ONE, "x"), ["b"]);
        assert!(wanting(&index, ONE, "y").is_empty());
    }

    #[test]
    fn who_reads_for_a_set_of_accounts_can_tell_that_it_is_another_one() {
        let mut index = MatchIndex::default();
        index.replace(ONE, [("a", types(&["x"]))]);
        let reading = index.followed().clone();
        index.replace(ONE, [("a", types(&["y"]))]);
        assert!(Arc::ptr_eq(&reading, index.followed()));
        index.replace(OTHER, [("b", types(&["x"]))]);
        assert!(!Arc::ptr_eq(&reading, index.followed()));
        assert_eq!((reading.len(), index.followed().len()), (1, 2));
        index.replace(OTHER, [("b", types(&[]))]);
        assert_eq!(**index.followed(), HashSet::from([ONE]));
    }
}
