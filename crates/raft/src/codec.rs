//! Readers of little-endian fields, with one error.
//!
//! Each stored or sent unit starts with a version byte; the pieces inside it have none of their own. A
//! decoder refuses what it does not know and what is cut short, and never panics on bytes from disk or
//! network.

use bytes::{Buf, Bytes};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn expect_version(from: &mut impl Buf, known: u8, what: &'static str) -> Result<(), Malformed> {
    if take_u8(from)? == known { Ok(()) } else { Err(Malformed(what)) }
}

/// Refuses bytes left over: they would be a later version's, or garbage.
pub(crate) fn finish(from: impl Buf, what: &'static str) -> Result<(), Malformed> {
    if from.has_remaining() { Err(Malformed(what)) } else { Ok(()) }
}

pub(crate) fn take_bool(from: &mut impl Buf) -> Result<bool, Malformed> {
    match take_u8(from)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed("flag")),
    }
}

pub(crate) fn take_u8(from: &mut impl Buf) -> Result<u8, Malformed> {
    from.try_get_u8().map_err(|_| CUT_SHORT)
}

pub(crate) fn take_u16(from: &mut impl Buf) -> Result<u16, Malformed> {
    from.try_get_u16_le().map_err(|_| CUT_SHORT)
}

pub(crate) fn take_u32(from: &mut impl Buf) -> Result<u32, Malformed> {
    from.try_get_u32_le().map_err(|_| CUT_SHORT)
}

pub(crate) fn take_u64(from: &mut impl Buf) -> Result<u64, Malformed> {
    from.try_get_u64_le().map_err(|_| CUT_SHORT)
}

/// Shares memory if `from` is a `Bytes`.
pub(crate) fn take_bytes(from: &mut impl Buf, length: usize) -> Result<Bytes, Malformed> {
    if from.remaining() < length { Err(CUT_SHORT) } else { Ok(from.copy_to_bytes(length)) }
}

const CUT_SHORT: Malformed = Malformed("bytes: cut short");
