//! Fixtures shared by the tests of several crates: an HTTP receiver, a fake publisher service, conditions with deadlines.
//!
//! A dev-dependency only; nothing of the product uses it.

mod condition;
mod fake_publisher;
mod receiver;

pub use self::{
    condition::eventually,
    fake_publisher::{FakePublisher, FakePublisherState, refusal},
    receiver::{Answer, ReceivedRequest, Receiver, answer_with},
};
