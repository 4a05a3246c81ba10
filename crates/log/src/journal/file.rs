//! The journal's file: a header, then records, each behind its length, checksum, number and synced length.

use std::path::Path;

use fanfare_codec::{Malformed, Reader, Writer};

use super::{JournalContents, record::Record};
use crate::error::OpenError;

const MAGIC: &[u8; 8] = b"FANFJRNL";
const VERSION: u32 = 2;
pub(super) const HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 24;
const RECORD_ALIGN: usize = 8;
const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// A record's number and the length of the journal that was synced before the record was written.
#[derive(Clone, Copy)]
pub(super) struct Placement {
    pub(super) sequence: u64,
    pub(super) synced_byte: u64,
}

/// A record that proved itself.
struct Framed {
    record: Record,
    placement: Placement,
    length: usize,
}

/// `synced_byte`: length up to which the journal was synced before it got its name.
pub(super) fn header(nonce: u64, synced_byte: u64) -> Vec<u8> {
    let mut out = Writer::with_capacity(HEADER_BYTES);
    out.bytes(MAGIC).u32(VERSION).u32(0).u64(nonce).u64(synced_byte).u32(0);
    let checksum = crc32fast::hash(out.as_slice());
    out.u32(checksum);
    assert_eq!(out.len(), HEADER_BYTES, "invariant violation: length of the journal's header");
    out.finish()
}

/// Length, checksum, number, synced length, then the record, padded.
pub(super) fn frame(record: &Record, placement: Placement, nonce: u64) -> Vec<u8> {
    let content = record.encode();
    assert!(
        !content.is_empty() && content.len() <= RECORD_BYTES_MAX,
        "invariant violation: a journal record of {} bytes",
        content.len()
    );
    let mut out = Writer::with_capacity(RECORD_HEADER_BYTES + content.len() + RECORD_ALIGN);
    out.count(content.len()).u32(0).u64(placement.sequence).u64(placement.synced_byte).bytes(&content);
    let mut bytes = out.finish();
    bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN), 0);
    let checksum = checksum(&bytes, nonce);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn checksum(padded: &[u8], nonce: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&nonce.to_le_bytes());
    hasher.update(&padded[..4]);
    hasher.update(&padded[8..]);
    hasher.finalize()
}

/// The record at the start of `bytes`; None if there is none that proves itself.
fn parse(bytes: &[u8], nonce: u64) -> Option<Framed> {
    let mut fields = Reader::new(bytes, "record of the journal");
    let content_bytes = fields.u32().ok()? as usize;
    let (recorded, sequence, synced_byte) = (fields.u32().ok()?, fields.u64().ok()?, fields.u64().ok()?);
    if content_bytes == 0 || content_bytes > RECORD_BYTES_MAX {
        return None;
    }
    let length = (RECORD_HEADER_BYTES + content_bytes).next_multiple_of(RECORD_ALIGN);
    let padded = bytes.get(..length)?;
    if recorded != checksum(padded, nonce) {
        return None;
    }
    let record = Record::decode(fields.bytes(content_bytes).ok()?).ok()?;
    Some(Framed { record, placement: Placement { sequence, synced_byte }, length })
}

/// All that the journal says.
///
/// # Errors
/// If a record is damaged that was synced.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<JournalContents, OpenError> {
    let Header { nonce, synced_byte } = read_header(path, bytes)?;
    let mut contents = JournalContents::default();
    let mut at = HEADER_BYTES;
    let mut sequence = 0;
    while let Some(framed) = bytes.get(at..).and_then(|rest| parse(rest, nonce)) {
        if framed.placement.sequence != sequence {
            break;
        }
        at += framed.length;
        sequence += 1;
        contents.apply(framed.record);
    }
    // A torn tail has nothing intact behind it that was written after a sync of it.
    if greatest_synced_byte(bytes, at, nonce, synced_byte) > at as u64 {
        return Err(OpenError::corrupt(path, at as u64, "damaged record that was synced"));
    }
    Ok(contents)
}

/// The greatest length up to which the header, or an intact record at or after `from`, says that all was synced.
fn greatest_synced_byte(bytes: &[u8], from: usize, nonce: u64, header_synced_byte: u64) -> u64 {
    let starts = (from..bytes.len()).step_by(RECORD_ALIGN);
    let synced_bytes =
        starts.filter_map(|at| parse(&bytes[at..], nonce)).map(|framed| framed.placement.synced_byte);
    synced_bytes.fold(header_synced_byte, u64::max)
}

struct Header {
    nonce: u64,
    synced_byte: u64,
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<Header, OpenError> {
    let damaged = || OpenError::corrupt(path, 0, "journal header is damaged");
    let header = bytes.get(..HEADER_BYTES).ok_or_else(damaged)?;
    let mut fields = Reader::new(header, "header of the journal");
    let magic = fields.array();
    let version = fields.u32().map_err(|_| damaged())?;
    if magic == Ok(*MAGIC) && version > VERSION {
        return Err(OpenError::Newer { path: path.display().to_string(), version });
    }
    let (sealed, recorded) = header.split_last_chunk::<4>().ok_or_else(damaged)?;
    let is_intact = crc32fast::hash(sealed) == u32::from_le_bytes(*recorded);
    if magic != Ok(*MAGIC) || version != VERSION || !is_intact {
        return Err(damaged());
    }
    let mut decode = || -> Result<Header, Malformed> {
        fields.u32()?;
        Ok(Header { nonce: fields.u64()?, synced_byte: fields.u64()? })
    };
    decode().map_err(|_| damaged())
}
