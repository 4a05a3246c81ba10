//! The handle that every noun's functions are methods of.

use std::{fmt::Display, str::FromStr, sync::Arc};

use fanfare_catalog::{AccountView, Catalog, ChangeError, RequestId, Tenant};
use fanfare_delivery::Delivery;
use fanfare_environment::Environment;
use fanfare_sinks::Factory;

use crate::{
    error::{ControlError, FieldViolation},
    etag::Resource,
};

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

    /// A handle whose changes are one request of `tenant`: a repeat makes nothing and is answered with the same object.
    #[must_use]
    pub fn for_request(&self, tenant: Tenant, request: RequestId) -> Self {
        Self { catalog: self.catalog.for_request(tenant, request), ..self.clone() }
    }

    /// The catalog that changes `stored` only as the caller read it. A repeat of a request is not held to an etag that its
    /// own first try has replaced.
    pub(crate) fn catalog_at<R: Resource>(
        &self,
        tenant: Tenant,
        etag: &str,
        stored: &R,
    ) -> Result<Catalog, ControlError> {
        if etag.is_empty() || self.catalog.is_repeat() {
            return Ok(self.catalog.clone());
        }
        check_etag(etag, stored)?;
        Ok(self.catalog.expecting(tenant, stored.revision()))
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
pub(crate) struct UpdateRounds<'a> {
    /// Etag of what the caller read; empty takes the newest.
    etag: &'a str,
    left: u32,
}

impl<'a> UpdateRounds<'a> {
    pub(crate) fn new(etag: &'a str) -> Self {
        Self { etag, left: UPDATE_ROUNDS_MAX - 1 }
    }

    /// Revision that this round may replace, where `stored` is the newest state.
    ///
    /// # Errors
    /// If the caller read another state.
    pub(crate) fn expected<R: Resource>(&self, stored: &R) -> Result<u64, ControlError> {
        check_etag(self.etag, stored)?;
        Ok(stored.revision())
    }

    /// True if `error` is answered by another round, which compares the etag anew.
    pub(crate) fn goes_on_after(&mut self, error: &ChangeError) -> bool {
        if !matches!(error, ChangeError::Stale { .. }) || self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

/// Refuses to change `stored` for a caller that read another state of it; an empty etag takes any.
pub(crate) fn check_etag<R: Resource>(etag: &str, stored: &R) -> Result<(), ControlError> {
    if etag.is_empty() {
        return Ok(());
    }
    let current = stored.etag();
    if etag == current {
        return Ok(());
    }
    Err(ControlError::EtagMismatch { kind: R::KIND, name: stored.name(), current })
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
    use fanfare_model::{AccountId, SinkId, StartAt, Subscription, SubscriptionId, Timestamp};

    use super::*;

    fn stale() -> ChangeError {
        ChangeError::Stale { kind: ObjectKind::Sink, name: String::new(), revision: 9 }
    }

    fn subscription(revision: u64) -> Subscription {
        Subscription {
            id: SubscriptionId::from_bytes([1; 16]),
            account: AccountId::from_bytes([2; 16]),
            description: String::new(),
            sink: SinkId::from_bytes([3; 16]),
            types: Vec::new(),
            paused: false,
            start: StartAt::Next,
            epoch: 1,
            created: Timestamp(1),
            updated: Timestamp(revision),
            revision,
        }
    }

    #[test]
    fn an_update_merges_anew_while_others_change_the_object_and_not_for_ever() {
        let mut rounds = UpdateRounds::new("");
        assert_eq!(rounds.expected(&subscription(7)).unwrap(), 7);
        let repeats =
            std::iter::repeat_with(|| rounds.goes_on_after(&stale())).take_while(|goes_on| *goes_on);
        assert_eq!(repeats.count(), 15);
        assert!(!UpdateRounds::new("").goes_on_after(&ChangeError::Unknown));
    }

    #[test]
    fn an_update_of_what_was_read_replaces_nothing_else() {
        let etag = subscription(5).etag();
        let rounds = UpdateRounds::new(&etag);
        assert_eq!(rounds.expected(&subscription(5)).unwrap(), 5);
        let refused = rounds.expected(&subscription(7)).unwrap_err();
        assert!(
            matches!(&refused, ControlError::EtagMismatch { current, .. } if *current == subscription(7).etag())
        );
    }
}
