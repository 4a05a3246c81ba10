//! Numbers of segments, and the names of the files that carry them.

use std::fmt;

/// Place of a segment in the order in which the segments of its log begin. A number is never used again, whatever is
/// truncated or purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentNumber(pub(crate) u64);

impl SegmentNumber {
    pub(crate) const FIRST: Self = Self(1);
    /// Below the number of every segment: stands in formats where there is none.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(crate) fn segment_file(self) -> String {
        format!("{self}.seg")
    }

    pub(crate) fn index_file(self) -> String {
        format!("{self}.idx")
    }

    pub(crate) fn keys_file(self) -> String {
        format!("{self}.keys")
    }

    pub(crate) fn of_segment_file(name: &str) -> Option<Self> {
        Self::of_stem(name.strip_suffix(".seg")?)
    }

    pub(crate) fn of_index_file(name: &str) -> Option<Self> {
        Self::of_stem(name.strip_suffix(".idx")?)
    }

    pub(crate) fn of_keys_file(name: &str) -> Option<Self> {
        Self::of_stem(name.strip_suffix(".keys")?)
    }

    fn of_stem(stem: &str) -> Option<Self> {
        u64::from_str_radix(stem, 16).ok().map(Self)
    }
}

/// As in the names of files.
impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
