//! Requests that carry an id, so that a repeat is known for one.

use fanfare_control::RequestId;
use fanfare_proto::v1;
use prost::Message;
use sha2::{Digest, Sha256};

/// A request with a field `request_id`.
pub(super) trait Repeatable: Message + Clone {
    /// Name of the message.
    const NAME: &str;

    fn request_id(&mut self) -> &mut String;

    /// The request's id with a hash of its kind and all other fields; none if the id is empty.
    fn request(&self) -> Option<RequestId> {
        let mut arguments = self.clone();
        let id = std::mem::take(arguments.request_id());
        if id.is_empty() {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(Self::NAME);
        hash.update([0]);
        hash.update(arguments.encode_to_vec());
        Some(RequestId { id, arguments: hash.finalize().into() })
    }
}

macro_rules! repeatable {
    ($($message:ident),*) => {
        $(impl Repeatable for v1::$message {
            const NAME: &str = stringify!($message);

            fn request_id(&mut self) -> &mut String {
                &mut self.request_id
            }
        })*
    };
}

repeatable!(
    CreateEventTypeRequest,
    CreateSchemaRequest,
    CreateSchemaVersionRequest,
    CreateSinkRequest,
    RotateSinkSecretRequest,
    CreateSubscriptionRequest,
    PauseSubscriptionRequest,
    ResumeSubscriptionRequest
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_id_and_its_arguments() {
        let pause = |id: &str, request_id: &str| v1::PauseSubscriptionRequest {
            id: id.to_owned(),
            request_id: request_id.to_owned(),
            ..Default::default()
        };
        let one = pause("a", "1").request().unwrap();
        assert_eq!(one.id, "1");
        assert_eq!(pause("a", "2").request().unwrap().arguments, one.arguments);
        assert_ne!(pause("b", "1").request().unwrap().arguments, one.arguments);
        let resume = v1::ResumeSubscriptionRequest { id: "a".to_owned(), ..Default::default() };
        let resume = v1::ResumeSubscriptionRequest { request_id: "1".to_owned(), ..resume };
        assert_ne!(resume.request().unwrap().arguments, one.arguments, "another method");
        assert_eq!(pause("a", "").request(), None);
    }
}
