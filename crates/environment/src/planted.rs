//! Bugs that a simulation plants to prove that its judge sees them. Each stands at the line whose ordering it breaks.
//!
//! Without the feature `planted-bugs`, which no shipped program has, nothing can be planted and the branches are gone.

/// One broken ordering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Appends are answered before their sync.
    AckBeforeSync,
    /// A new segment's name is not synced.
    NoDirectorySync,
    /// The dedup window is empty after a restart.
    DedupForgotten,
    /// An event counts as delivered when it is sent.
    CursorAheadOfOutcome,
    /// The log is trimmed over events that are not settled.
    TrimOverUnsettled,
    /// A frame whose payload is torn is kept as the log's end.
    TornTailServed,
    /// The next event of a key goes out while an earlier one waits for its retry.
    KeyOutOfOrder,
    /// A checkpoint says that more was applied than was flushed.
    AppliedAheadOfFlush,
}

impl Bug {
    pub const ALL: [Self; 8] = [
        Self::AckBeforeSync,
        Self::NoDirectorySync,
        Self::DedupForgotten,
        Self::CursorAheadOfOutcome,
        Self::TrimOverUnsettled,
        Self::TornTailServed,
        Self::KeyOutOfOrder,
        Self::AppliedAheadOfFlush,
    ];
}

#[cfg(feature = "planted-bugs")]
static PLANTED: std::sync::OnceLock<Bug> = std::sync::OnceLock::new();

/// Plants `bug` in this process, for good.
///
/// # Panics
/// If a bug is planted already.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Bug) {
    PLANTED.set(bug).expect("one bug per process");
}

/// True if `bug` is planted in this process.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(&bug)
}

/// Always false: the program is built without bugs to plant.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline]
pub const fn planted(_: Bug) -> bool {
    false
}
