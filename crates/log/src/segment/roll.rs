//! The end of a segment.

/// A segment ends when the next frame finds no room in it, or when that frame is `age_ms` younger than the oldest
/// one in it that holds events.
#[derive(Clone, Copy, Debug)]
pub struct RollPolicy {
    pub segment_bytes: u64,
    pub age_ms: u64,
}
