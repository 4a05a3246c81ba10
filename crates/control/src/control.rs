//! The handle that every noun's functions are methods of.

use std::{fmt::Display, str::FromStr, sync::Arc};

use fanfare_catalog::{AccountView, Catalog, Tenant};
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
