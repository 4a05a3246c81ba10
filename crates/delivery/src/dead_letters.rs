//! The stream `dead-letters`: events that subscriptions could not deliver, with the reason.

mod record;
mod stream;

pub use self::{
    record::DeadLetter,
    stream::{DeadLetterError, DeadLetterPage, DeadLetterQuery},
};
pub(crate) use self::{
    record::{DeadLetterKey, DeadLetterRecord},
    stream::DeadLetterStream,
};
