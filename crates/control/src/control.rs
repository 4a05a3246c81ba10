//! The handle that every noun's functions are methods of.

use std::{fmt::Display, str::FromStr, sync::Arc};

use fanfare_catalog::{AccountView, Catalog, ChangeError, Tenant};
use fanfare_delivery::Delivery;
use fanfare_environment::Environment;
use fanfare_sinks::Factory;

use crate::error::{ControlError, FieldViolation};

/// Controls the catalog and what follows it. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) catalog: Catalog,
    pub(crate) delivery: Delivery,
    pub(crate) sinks: Factory,
    pub(crate) environment: Environment,
}

impl Control {
    #[must_use]
    pub fn new(catalog: Catalog, delivery: Delivery, sinks: Factory, environment: Environment) -> Self {
        Self { catalog, delivery, sinks, environment }
    }

    /// The tenant behind an API key; none for anything that is not a live key. Takes the same time for every wrong
    /// secret.
    #[must_use]
    pub fn authenticate(&self, key: &str) -> Option<Tenant> {
        self.catalog.authenticate(key)
    }

    /// The tenant's part of the newest catalog.
    pub(crate) fn account(&self, tenant: Tenant) -> Result<Arc<AccountView>, ControlError> {
        // A tenant exists as long as its key; an account that is gone has no key any more.
        self.catalog.view().account(tenant.account()).cloned().ok_or(ControlError::AccountGone)
    }
}

/// Longest name or id that anything has.
const NAME_BYTES_MAX: usize = 256;

/// Refuses a name or an id that is longer than any, before anybody repeats it.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), FieldViolation> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let problem = format!("has {} bytes; names and ids have at most {NAME_BYTES_MAX}", name.len());
    Err(FieldViolation::new(field, problem))
}

/// Rounds of an update that is made of what is stored: others may change the same object in between.
const UPDATE_ROUNDS_MAX: u32 = 16;

/// Rounds of one update. Each reads the newest state, merges the change into it and replaces exactly what it read.
pub(crate) struct UpdateRounds {
    /// Revision that the caller read; none lets each round take the newest.
    expected_revision: Option<u64>,
    left: u32,
}

impl UpdateRounds {
    pub(crate) fn new(expected_revision: Option<u64>) -> Self {
        Self { expected_revision, left: UPDATE_ROUNDS_MAX - 1 }
    }

    /// Revision that this round may replace, where the newest is `stored`.
    pub(crate) fn expected(&self, stored: u64) -> u64 {
        self.expected_revision.unwrap_or(stored)
    }

    /// True if `error` is answered by another round.
    pub(crate) fn goes_on_after(&mut self, error: &ChangeError) -> bool {
        if !matches!(error, ChangeError::Stale { .. }) || self.expected_revision.is_some() || self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

/// Reads an identifier of a request.
pub(crate) fn parse_id<I: FromStr<Err: Display>>(
    field: &'static str,
    text: &str,
) -> Result<I, FieldViolation> {
    if text.is_empty() {
        return Err(FieldViolation::required(field));
    }
    text.parse().map_err(|error| FieldViolation::new(field, format!("is not an id: {error}")))
}

#[cfg(test)]
mod tests {
    use fanfare_catalog::ObjectKind;

    use super::*;

    fn stale() -> ChangeError {
        ChangeError::Stale { kind: ObjectKind::Sink, name: String::new(), revision: 9 }
    }

    #[test]
    fn an_update_merges_anew_while_others_change_the_object_and_not_for_ever() {
        let mut rounds = UpdateRounds::new(None);
        assert_eq!(rounds.expected(7), 7);
        let repeats =
            std::iter::repeat_with(|| rounds.goes_on_after(&stale())).take_while(|goes_on| *goes_on);
        assert_eq!(repeats.count(), 15);
        assert!(!UpdateRounds::new(None).goes_on_after(&ChangeError::Unknown));
    }

    #[test]
    fn an_update_of_what_was_read_is_tried_once() {
        let mut rounds = UpdateRounds::new(Some(5));
        assert_eq!(rounds.expected(7), 5);
        assert!(!rounds.goes_on_after(&stale()));
    }
}
