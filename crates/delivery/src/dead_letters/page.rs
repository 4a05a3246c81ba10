//! Consecutive letters of the stream, for a redrive.

use fanfare_model::{KeyHash, Offset};

use super::DeadLetter;

/// A letter of the stream.
pub(crate) struct StoredLetter {
    /// In the stream of dead letters.
    pub(crate) offset: Offset,
    pub(crate) key: KeyHash,
    pub(crate) letter: DeadLetter,
}

/// Consecutive chosen letters.
pub(crate) struct LetterPage {
    pub(crate) letters: Vec<StoredLetter>,
    /// Every chosen letter from the start of the read to here is in `letters`.
    pub(crate) next: Offset,
}
