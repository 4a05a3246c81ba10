//! Keys of the view's store: every object's key begins with the account that owns the object.

use fanfare_model::AccountId;

/// Keys of the records that belong to no account. Shorter than any object's key.
pub(super) const HEADER: &[u8] = b"header";
pub(super) const CLUSTER: &[u8] = b"cluster";

/// Kind of the object under a key. The numbers are stored; an account sorts before its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Account = 1,
    ApiKey = 2,
    EventType = 3,
    Schema = 4,
    Sink = 5,
    Subscription = 6,
    Request = 7,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        let kinds = [
            Self::Account,
            Self::ApiKey,
            Self::EventType,
            Self::Schema,
            Self::Sink,
            Self::Subscription,
            Self::Request,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The account's 16 bytes, the kind, and the object's own name or id.
pub(super) fn encode(account: AccountId, kind: Kind, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(17 + name.len());
    key.extend_from_slice(account.as_bytes());
    key.push(kind as u8);
    key.extend_from_slice(name);
    key
}

/// Account and kind of a stored key; none if it is no object's key.
pub(super) fn decode(key: &[u8]) -> Option<(AccountId, Kind)> {
    let (account, rest) = key.split_first_chunk::<16>()?;
    Some((AccountId::from_bytes(*account), Kind::from_number(*rest.first()?)?))
}
