//! Keys by which the log's owner finds frames, and the function that computes them.

use crate::frame::Frame;

/// A hash of something that a frame contains. Equal keys lead to frames that may contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexKey(pub u64);

impl IndexKey {
    /// A frame with this key is found by every key: its owner could not read its content.
    pub const ANY: Self = Self(u64::MAX);
}

/// Computes the keys of a frame. The function is pure: index files of one version stay valid for ever.
#[derive(Clone, Copy, Debug)]
pub struct IndexKeys {
    pub version: u32,
    pub keys_of: fn(&Frame, &mut Vec<IndexKey>),
}
