//! Account, then event type, then subscriptions: matching an event costs nothing for other accounts and types.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use fanfare_model::{AccountId, Offset, SubscriptionId};

use crate::{cell::Cell, schema_pin::Pin};

/// A subscription that wants events of one type, among those of a part of the log.
pub(crate) struct Target {
    pub(crate) cell: Arc<Cell>,
    pub(crate) pin: Option<Arc<Pin>>,
    pub(crate) span: Range<Offset>,
}

#[derive(Default)]
pub(crate) struct Index {
    accounts: HashMap<AccountId, ByType>,
}

pub(crate) type ByType = HashMap<String, Vec<Target>>;

impl Index {
    /// What the account's subscriptions choose; None if nothing.
    pub(crate) fn account(&self, account: AccountId) -> Option<&ByType> {
        self.accounts.get(&account)
    }

    /// Replaces the account's part for events from `front` on; `cells` are all its subscriptions that are attached.
    pub(crate) fn rebuild(
        &mut self,
        account: AccountId,
        cells: &BTreeMap<SubscriptionId, Arc<Cell>>,
        front: Offset,
    ) {
        let mut by_type = ByType::new();
        for cell in cells.values() {
            let state = cell.lock();
            let Some(specs) = state.specs.as_ref().filter(|_| !state.gone) else { continue };
            for (span, spec) in specs.from(front) {
                for (event_type, pin) in spec.types() {
                    let target = Target { cell: cell.clone(), pin: pin.cloned(), span: span.clone() };
                    by_type.entry(event_type.to_owned()).or_default().push(target);
                }
            }
        }
        if by_type.is_empty() {
            self.accounts.remove(&account);
        } else {
            self.accounts.insert(account, by_type);
        }
    }
}
