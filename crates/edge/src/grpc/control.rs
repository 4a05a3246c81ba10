//! The control services: protobuf to the requests of `control`, and its results back.

mod dead_letters;
mod destination;
mod event_types;
mod redrives;
mod repeatable;
mod schemas;
mod sinks;
mod subscriptions;
mod update_mask;

use fanfare_control::{Control, Tenant};
use tonic::{Request, Status};

use self::repeatable::Repeatable;
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

    /// The control that carries out `message` once, however often it comes with its request id.
    fn once<M: Repeatable>(&self, tenant: Tenant, message: &M) -> Control {
        match message.request() {
            Some(request) => self.control.for_request(tenant, request),
            None => self.control.clone(),
        }
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

/// Protobuf's empty text as an absent one.
fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
