//! The machine of the tests: a list of entries, derived from the log, and a sum with an anchor, accumulated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fanfare_log::{Frame, Log, Payload, Position};
use tokio::sync::watch;

use crate::{Anchor, ApplyMode, FormatVersion, MachineError, Proposal, RecoveryError, StateMachine};

pub(super) const ADD: u8 = 1;
const TRIM: u8 = 2;
const ANCHOR_BYTES: usize = 32;
/// A kind that the machine does not know, and one whose entries break its invariant.
pub(super) const NEWER: u8 = 77;
pub(super) const BROKEN: u8 = 78;
/// As [`ADD`], and only members of format version 2 know it.
pub(super) const SECOND_FORMAT: u8 = 79;

/// Counts what was asked of a machine, across its restarts.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) live: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) restored: AtomicU64,
    pub(super) recovered: AtomicU64,
}

impl Calls {
    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::SeqCst)
    }

    pub(super) fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::SeqCst)
    }

    pub(super) fn restored(&self) -> u64 {
        self.restored.load(Ordering::SeqCst)
    }

    pub(super) fn recovered(&self) -> u64 {
        self.recovered.load(Ordering::SeqCst)
    }
}

/// An entry that takes offsets, as the log of this replica has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) position: Position,
    pub(super) base_offset: u64,
    pub(super) count: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Ledger {
    pub(super) seen: Vec<Seen>,
    /// Of every payload byte ever applied, trimmed or not.
    pub(super) sum: u64,
    pub(super) anchor: Option<Anchor>,
    /// Makes checkpoints of machines with an anchor as large as a test wants them.
    pub(super) padding: Vec<u8>,
    pub(super) applied: watch::Sender<Position>,
    calls: Arc<Calls>,
}

impl Ledger {
    pub(super) fn anchored(calls: Arc<Calls>) -> Self {
        let anchor = Some(Anchor { position: Position::default(), next_offset: 0 });
        Self { anchor, ..Self::unanchored(calls) }
    }

    pub(super) fn unanchored(calls: Arc<Calls>) -> Self {
        let (seen, padding) = (Vec::new(), Vec::new());
        Self { seen, sum: 0, anchor: None, padding, applied: watch::Sender::default(), calls }
    }

    fn note(&mut self, frame: &Frame) {
        let header = &frame.header;
        if header.kind == ADD {
            let payload = frame.payload.slice(0..frame.payload.len()).to_vec();
            let (position, base_offset, count) = (header.position, header.base_offset, header.count);
            self.seen.push(Seen { position, base_offset, count, payload });
        }
    }
}

impl StateMachine for Ledger {
    type Reply = u64;

    fn apply(&mut self, frame: &Frame, mode: ApplyMode) -> Result<u64, MachineError> {
        match frame.header.kind {
            NEWER => return Err(MachineError::Newer { detail: format!("it is of kind {NEWER}") }),
            BROKEN => {
                // Changes that must not get into a checkpoint.
                self.sum += 1_000_000;
                return Err(MachineError::Invalid { detail: "it breaks an invariant".to_owned() });
            }
            _ => (),
        }
        self.note(frame);
        if mode == ApplyMode::Replay {
            self.calls.replayed.fetch_add(1, Ordering::SeqCst);
            return Ok(self.sum);
        }
        self.calls.live.fetch_add(1, Ordering::SeqCst);
        let payload = frame.payload.slice(0..frame.payload.len());
        match frame.header.kind {
            TRIM => self.anchor = Some(decode_anchor(&payload).expect("tests write whole anchors")),
            _ => self.sum += payload.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
        }
        Ok(self.sum)
    }

    fn format_version(proposal: &Proposal) -> FormatVersion {
        FormatVersion(if proposal.kind == SECOND_FORMAT { 2 } else { 1 })
    }

    fn publish(&self, applied: Position) {
        self.applied.send_replace(applied);
    }

    fn checkpoint(&self) -> Vec<u8> {
        let mut out = self.sum.to_le_bytes().to_vec();
        if let Some(anchor) = self.anchor {
            out.extend(encode_anchor(anchor));
            out.extend(&self.padding);
        }
        out
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        self.calls.restored.fetch_add(1, Ordering::SeqCst);
        let (sum, anchor) = bytes.split_first_chunk().ok_or_else(cut_short)?;
        self.sum = u64::from_le_bytes(*sum);
        self.anchor = if anchor.is_empty() { None } else { Some(decode_anchor(anchor)?) };
        self.padding = anchor.get(ANCHOR_BYTES..).map(<[u8]>::to_vec).unwrap_or_default();
        self.seen.clear();
        Ok(())
    }

    fn anchor(&self) -> Option<Anchor> {
        self.anchor
    }

    fn recover(&mut self, log: &Log, upto: Position) -> Result<(), RecoveryError> {
        self.calls.recovered.fetch_add(1, Ordering::SeqCst);
        let mut from = log.bounds().purged.map_or(0, |purged| purged.index + 1);
        while from <= upto.index {
            let frames = log.read(from, upto.index + 1, 1 << 20)?;
            assert!(!frames.is_empty(), "the log ends before index {}", upto.index);
            frames.iter().for_each(|frame| self.note(frame));
            from += frames.len() as u64;
        }
        Ok(())
    }
}

/// `count` offsets whose payload is `bytes`.
pub(super) fn add(count: u32, bytes: &[u8]) -> Proposal {
    let payload = Payload::new(vec![Bytes::copy_from_slice(bytes)]);
    Proposal { kind: ADD, count, time_ms: 1, payload }
}

/// Drops everything up to and including `entry`.
pub(super) fn trim(entry: &Seen) -> Proposal {
    let next_offset = entry.base_offset + u64::from(entry.count);
    let bytes = encode_anchor(Anchor { position: entry.position, next_offset });
    Proposal { kind: TRIM, count: 0, time_ms: 1, payload: Payload::new(vec![bytes.into()]) }
}

fn encode_anchor(anchor: Anchor) -> Vec<u8> {
    let Position { term, leader, index } = anchor.position;
    [term, leader, index, anchor.next_offset].iter().flat_map(|field| field.to_le_bytes()).collect()
}

fn cut_short() -> MachineError {
    MachineError::Invalid { detail: "cut short".to_owned() }
}

fn decode_anchor(bytes: &[u8]) -> Result<Anchor, MachineError> {
    let mut fields =
        bytes.chunks_exact(8).map(|field| u64::from_le_bytes(field.try_into().expect("8 bytes")));
    let mut next = || fields.next().ok_or_else(cut_short);
    let position = Position { term: next()?, leader: next()?, index: next()? };
    Ok(Anchor { position, next_offset: next()? })
}
