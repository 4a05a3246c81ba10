//! The stream `dead-letters`: events that subscriptions could not deliver, with the reason.

mod quota;
mod record;
mod stream;

pub use self::{
    record::DeadLetter,
    stream::{DeadLetterPage, DeadLetterQuery},
};
pub(crate) use self::{
    record::{DeadLetterKey, DeadLetterRecord},
    stream::{DeadLetterStream, WriteError, keep_trimmed},
};
