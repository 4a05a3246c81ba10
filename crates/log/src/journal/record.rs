//! The records of the journal and their bytes.

use fanfare_codec::{Malformed, Reader, Writer};

use crate::{frame::Position, segment::number::SegmentNumber};

/// How far a log is known to be synced. A bad frame below the mark is corruption, above it a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyncMark {
    pub(crate) index: u64,
    pub(crate) segment: SegmentNumber,
    pub(crate) byte: u64,
    pub(crate) end_offset: u64,
}

/// The newest truncation: the log ends at `byte` of `segment` (0: the log is empty), and the segments above that one
/// and below `next_segment` are dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    pub(crate) segment: SegmentNumber,
    pub(crate) byte: u64,
    pub(crate) next_segment: SegmentNumber,
}

impl Truncation {
    /// True if the truncation removed `segment`.
    pub(crate) fn removes(&self, segment: SegmentNumber) -> bool {
        self.segment < segment && segment < self.next_segment
    }
}

/// All that must be known of a log beside its segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogFacts {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) replica: u64,
    pub(crate) vote: Option<Vec<u8>>,
    pub(crate) purged: Option<Position>,
    pub(crate) start_offset: u64,
    pub(crate) truncation: Option<Truncation>,
    pub(crate) sync_mark: Option<SyncMark>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Facts(LogFacts),
    SyncMarks(Vec<(u32, SyncMark)>),
    /// The sync marks of these logs are their very ends.
    CleanStop(Vec<u32>),
    /// Says nothing but what every record's header says: how much was synced before.
    Confirmation,
}

const KIND_FACTS: u8 = 1;
const KIND_SYNC_MARKS: u8 = 2;
const KIND_CLEAN_STOP: u8 = 3;
const KIND_CONFIRMATION: u8 = 4;

const LOG_ID_BYTES: usize = 4;
const SYNC_MARK_BYTES: usize = 32;

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Facts(facts) => {
                out.u8(KIND_FACTS);
                put_facts(&mut out, facts);
            }
            Self::SyncMarks(marks) => {
                out.u8(KIND_SYNC_MARKS).count(marks.len());
                for (id, mark) in marks {
                    out.u32(*id);
                    put_sync_mark(&mut out, mark);
                }
            }
            Self::CleanStop(ids) => {
                out.u8(KIND_CLEAN_STOP).count(ids.len());
                for id in ids {
                    out.u32(*id);
                }
            }
            Self::Confirmation => {
                out.u8(KIND_CONFIRMATION);
            }
        }
        out.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes, "record of the journal");
        let record = match fields.u8()? {
            KIND_FACTS => Self::Facts(take_facts(&mut fields)?),
            KIND_SYNC_MARKS => {
                let count = fields.count(LOG_ID_BYTES + SYNC_MARK_BYTES)?;
                let mut marks = Vec::with_capacity(count);
                for _ in 0..count {
                    marks.push((fields.u32()?, take_sync_mark(&mut fields)?));
                }
                Self::SyncMarks(marks)
            }
            KIND_CLEAN_STOP => {
                let count = fields.count(LOG_ID_BYTES)?;
                Self::CleanStop((0..count).map(|_| fields.u32()).collect::<Result<_, _>>()?)
            }
            KIND_CONFIRMATION => Self::Confirmation,
            _ => return Err(Malformed("kind of a journal record")),
        };
        fields.finish()?;
        Ok(record)
    }
}

fn put_facts(out: &mut Writer, facts: &LogFacts) {
    out.u32(facts.id).u64(facts.replica).u64(facts.start_offset).text(&facts.name);
    out.bool(facts.vote.is_some());
    if let Some(vote) = &facts.vote {
        out.byte_string(vote);
    }
    out.bool(facts.purged.is_some());
    if let Some(Position { term, leader, index }) = facts.purged {
        out.u64(term).u64(leader).u64(index);
    }
    out.bool(facts.truncation.is_some());
    if let Some(Truncation { segment, byte, next_segment }) = facts.truncation {
        out.u64(segment.0).u64(byte).u64(next_segment.0);
    }
    out.bool(facts.sync_mark.is_some());
    if let Some(mark) = &facts.sync_mark {
        put_sync_mark(out, mark);
    }
}

fn take_facts(fields: &mut Reader<'_>) -> Result<LogFacts, Malformed> {
    let (id, replica, start_offset) = (fields.u32()?, fields.u64()?, fields.u64()?);
    let name = fields.text()?.to_owned();
    let mut facts = LogFacts { id, name, replica, start_offset, ..LogFacts::default() };
    if fields.bool()? {
        facts.vote = Some(fields.byte_string()?.to_vec());
    }
    if fields.bool()? {
        facts.purged = Some(Position { term: fields.u64()?, leader: fields.u64()?, index: fields.u64()? });
    }
    if fields.bool()? {
        let (segment, byte) = (SegmentNumber(fields.u64()?), fields.u64()?);
        let next_segment = SegmentNumber(fields.u64()?);
        facts.truncation = Some(Truncation { segment, byte, next_segment });
    }
    if fields.bool()? {
        facts.sync_mark = Some(take_sync_mark(fields)?);
    }
    Ok(facts)
}

fn put_sync_mark(out: &mut Writer, mark: &SyncMark) {
    let SyncMark { index, segment, byte, end_offset } = mark;
    out.u64(*index).u64(segment.0).u64(*byte).u64(*end_offset);
}

fn take_sync_mark(fields: &mut Reader<'_>) -> Result<SyncMark, Malformed> {
    Ok(SyncMark {
        index: fields.u64()?,
        segment: SegmentNumber(fields.u64()?),
        byte: fields.u64()?,
        end_offset: fields.u64()?,
    })
}
