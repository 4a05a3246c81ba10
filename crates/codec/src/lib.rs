//! One reader and one writer of little-endian fields, with one error: the base of every persisted and replicated
//! format of ours.
//!
//! Texts and byte strings carry their length as `u32` before them. A reader never allocates more than its input holds.

/// The bytes do not hold what the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(
    /// Name of the unreadable part, such as "vote" or "text".
    pub &'static str,
);

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Name of the whole, for errors.
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// `what` names the format in errors.
    #[must_use]
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// # Errors
    /// If fewer bytes are left.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// # Errors
    /// If fewer than `N` bytes are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// # Errors
    /// If no byte is left.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// # Errors
    /// If fewer than 2 bytes are left.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// # Errors
    /// If fewer than 4 bytes are left.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// # Errors
    /// If fewer than 8 bytes are left.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// # Errors
    /// If fewer than 16 bytes are left.
    pub fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_le_bytes)
    }

    /// One byte, 0 or 1.
    ///
    /// # Errors
    /// If there is none, or it is another one.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed(self.what)),
        }
    }

    /// A byte string behind its length.
    ///
    /// # Errors
    /// If it is cut short.
    pub fn byte_string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }

    /// A text behind its length.
    ///
    /// # Errors
    /// If it is cut short or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.byte_string()?).map_err(|_| Malformed(self.what))
    }

    /// A count of items that take at least `item_bytes_min` bytes each, so that a forged count reserves no memory.
    ///
    /// # Errors
    /// If what is left cannot hold so many.
    pub fn count(&mut self, item_bytes_min: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        let fits = count.checked_mul(item_bytes_min).is_some_and(|bytes| bytes <= self.rest.len());
        if fits { Ok(count) } else { Err(Malformed(self.what)) }
    }

    /// As many items as [`Self::count`] says.
    ///
    /// # Errors
    /// If what is left cannot hold so many, or one of them cannot be read.
    pub fn list<T, E: From<Malformed>>(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let count = self.count(item_bytes_min)?;
        (0..count).map(|_| item(self)).collect()
    }

    /// A presence byte, 0 or 1, and the value behind a 1.
    ///
    /// # Errors
    /// If there is no such byte, or the value cannot be read.
    pub fn optional<T, E: From<Malformed>>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        if self.bool()? { value(self).map(Some) } else { Ok(None) }
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// # Errors
    /// If bytes are left: the format has no room for what an older program would not read.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed(self.what)) }
    }
}

/// Appends fields to a vector.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// A byte string behind its length.
    ///
    /// # Panics
    /// If it is 4 GiB or longer; no message or file of ours is.
    pub fn byte_string(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).bytes(bytes)
    }

    /// A text behind its length.
    ///
    /// # Panics
    /// As [`Self::byte_string`].
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.byte_string(text.as_bytes())
    }

    /// The count of the items that follow, as `u32`.
    ///
    /// # Panics
    /// If there are 2^32 or more.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).expect("fewer than 2^32 items"))
    }

    /// A presence byte, and the value if there is one.
    pub fn optional<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.bool(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
        self
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Reader, Writer};

    #[test]
    fn fields_come_back_as_written_and_every_cut_is_malformed() {
        let mut writer = Writer::new();
        writer.u8(1).u16(2).u32(3).u64(4).u128(5).bool(true).text("six").byte_string(&[7]).count(0);
        let put = |out: &mut Writer, value| {
            out.u8(value);
        };
        writer.optional(Some(8), put).optional(None, put);
        writer.count(2).u8(9).u8(10);
        let bytes = writer.finish();
        let read = |bytes: &[u8]| -> Result<(), Malformed> {
            let mut reader = Reader::new(bytes, "test");
            assert_eq!(reader.u8()?, 1);
            assert_eq!(reader.u16()?, 2);
            assert_eq!(reader.u32()?, 3);
            assert_eq!(reader.u64()?, 4);
            assert_eq!(reader.u128()?, 5);
            assert!(reader.bool()?);
            assert_eq!(reader.text()?, "six");
            assert_eq!(reader.byte_string()?, [7]);
            assert_eq!(reader.count(1)?, 0);
            assert_eq!(reader.optional(Reader::u8)?, Some(8));
            assert_eq!(reader.optional(Reader::u8)?, None);
            assert_eq!(reader.list(1, Reader::u8)?, [9, 10]);
            reader.finish()
        };
        assert_eq!(read(&bytes), Ok(()));
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), Err(Malformed("test")));
        }
    }

    #[test]
    fn only_0_and_1_say_presence() {
        assert_eq!(Reader::new(&[2, 7], "test").optional(Reader::u8), Err(Malformed("test")));
    }

    #[test]
    fn a_forged_count_is_malformed() {
        let mut writer = Writer::new();
        writer.count(1_000).bytes(&[0; 999]);
        assert_eq!(Reader::new(writer.as_slice(), "test").count(1), Err(Malformed("test")));
        assert_eq!(Reader::new(writer.as_slice(), "test").list(1, Reader::u8), Err(Malformed("test")));
    }
}
