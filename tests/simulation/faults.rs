//! The faults that happened, for the report: a fault that was drawn and hit nothing is not in it.

use std::collections::BTreeMap;

pub(crate) const DISK_FULL: &str = "a write found the disk full";

#[derive(Debug, Default)]
pub(crate) struct FaultCounts(BTreeMap<&'static str, u64>);

impl FaultCounts {
    pub(crate) fn add(&mut self, fault: &'static str) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub(crate) fn has(&self, fault: &'static str) -> bool {
        self.0.contains_key(fault)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(fault, count)| (*fault, *count))
    }
}
