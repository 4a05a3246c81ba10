//! The stream `dead-letters`: events that subscriptions could not deliver, with the reason.

mod page;
mod record;
mod stream;

pub(crate) use self::{
    page::{LetterPage, StoredLetter},
    record::{DeadLetterKey, DeadLetterRecord},
    stream::DeadLetterStream,
};
pub use self::{
    record::DeadLetter,
    stream::{DeadLetterError, DeadLetterPage, DeadLetterQuery},
};
