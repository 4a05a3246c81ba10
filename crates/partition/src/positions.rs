//! The three positions of a partition that readers and delivery follow.

use fanfare_model::Offset;

/// `log_start <= frontier <= high_watermark`; `log_start..high_watermark` is readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// First offset that the log keeps.
    pub log_start: Offset,
    /// First offset that is not committed and applied yet.
    pub high_watermark: Offset,
    /// First offset that was not matched against every attached subscription yet.
    pub frontier: Offset,
}
