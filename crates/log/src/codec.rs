//! Conversions between the widths of integers in files and in memory.

/// # Panics
/// On machines of less than 64 bits, which the log does not run on.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("the log runs on 64-bit machines")
}

/// For lengths that the writer itself has bounded.
///
/// # Panics
/// From 4 GiB on.
pub(crate) fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("bounded below 4 GiB by the writer")
}
