//! The control services: protobuf to the requests of `control`, and its results back.

mod dead_letters;
mod event_types;
mod redrives;
mod schemas;
mod sinks;
mod subscriptions;
mod update_mask;

use fanfare_control::{Control, Tenant};
use tonic::{Request, Status};

use crate::{auth, problem::Problem};

/// Implements every control service. Cheap to clone.
#[derive(Clone)]
pub(super) struct ControlServices {
    control: Control,
}

impl ControlServices {
    pub(super) fn new(control: Control) -> Self {
        Self { control }
    }
}

/// A call's caller and message.
fn open<T>(request: Request<T>) -> Result<(Tenant, T), Status> {
    let tenant = auth::tenant(&request)?;
    Ok((tenant, request.into_inner()))
}

/// The object that a request is about.
fn required<T>(field: &str, object: Option<T>) -> Result<T, Problem> {
    object.ok_or_else(|| Problem::field(field, "is required"))
}

/// The revision that an etag stands for; none if it is empty. A text that is no etag matches no revision.
fn revision(etag: &str) -> Option<u64> {
    (!etag.is_empty()).then(|| etag.parse().unwrap_or(u64::MAX))
}

/// Protobuf's empty text as an absent one.
fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
