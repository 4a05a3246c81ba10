//! The format version of the cluster: what all of its members can read.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// A version of everything that members read of each other: entries, states, messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FormatVersion(pub u32);

impl FormatVersion {
    /// Every program reads it.
    pub const FIRST: Self = Self(1);
}

/// The version that the cluster is at, as this node knows it. Only ever rises, so an old value is a safe one.
#[derive(Clone)]
pub(crate) struct ClusterFormat(Arc<AtomicU32>);

impl ClusterFormat {
    pub(crate) fn current(&self) -> FormatVersion {
        FormatVersion(self.0.load(Ordering::Acquire))
    }

    pub(crate) fn raise(&self, version: FormatVersion) {
        self.0.fetch_max(version.0, Ordering::AcqRel);
    }
}

impl Default for ClusterFormat {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(FormatVersion::FIRST.0)))
    }
}
