//! What the hard-state journal says, and its bytes.
use crate::{
    codec::{Fields, to_u32},
    frame::Position,
};

/// How far a log is known to be synced. A bad frame below it is corruption, above it a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyncMark {
    pub(crate) index: u64,
    pub(crate) segment: u64,
    pub(crate) byte: u64,
    pub(crate) end_offset: u64,
}

/// A truncation: the log ends at `byte` of `segment` (0: it is empty), and the segments above that one and below
/// `next_segment` are dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    pub(crate) segment: u64,
    pub(crate) byte: u64,
    pub(crate) next_segment: u64,
}

impl Truncation {
    /// Whether the segment is dead.
    pub(crate) fn removes(&self, segment: u64) -> bool {
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
    Log(LogFacts),
    Marks(Vec<(u32, SyncMark)>),
    /// The marks of these logs are their very ends.
    CleanStop(Vec<u32>),
}

const KIND_LOG: u8 = 1;
const KIND_MARKS: u8 = 2;
const KIND_CLEAN_STOP: u8 = 3;

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Log(facts) => encode_facts(facts),
            Self::Marks(marks) => {
                let mut bytes = vec![KIND_MARKS];
                bytes.extend_from_slice(&to_u32(marks.len()).to_le_bytes());
                for (id, mark) in marks {
                    bytes.extend_from_slice(&id.to_le_bytes());
                    put_mark(&mut bytes, mark);
                }
                bytes
            }
            Self::CleanStop(ids) => {
                let mut bytes = vec![KIND_CLEAN_STOP];
                bytes.extend_from_slice(&to_u32(ids.len()).to_le_bytes());
                for id in ids {
                    bytes.extend_from_slice(&id.to_le_bytes());
                }
                bytes
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        match fields.u8()? {
            KIND_LOG => decode_facts(&mut fields).map(Self::Log),
            KIND_MARKS => {
                let count = fields.u32()?;
                let mut marks = Vec::new();
                for _ in 0..count {
                    marks.push((fields.u32()?, take_mark(&mut fields)?));
                }
                Some(Self::Marks(marks))
            }
            KIND_CLEAN_STOP => {
                let count = fields.u32()?;
                (0..count).map(|_| fields.u32()).collect::<Option<Vec<u32>>>().map(Self::CleanStop)
            }
            _ => None,
        }
    }
}

fn encode_facts(facts: &LogFacts) -> Vec<u8> {
    let mut bytes = vec![KIND_LOG];
    let present = u8::from(facts.vote.is_some())
        | u8::from(facts.purged.is_some()) << 1
        | u8::from(facts.truncation.is_some()) << 2
        | u8::from(facts.sync_mark.is_some()) << 3;
    bytes.push(present);
    bytes.extend_from_slice(&facts.id.to_le_bytes());
    bytes.extend_from_slice(&facts.replica.to_le_bytes());
    bytes.extend_from_slice(&facts.start_offset.to_le_bytes());
    for text in [facts.name.as_bytes(), facts.vote.as_deref().unwrap_or_default()] {
        bytes.extend_from_slice(&to_u32(text.len()).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    if let Some(purged) = facts.purged {
        put(&mut bytes, &[purged.term, purged.leader, purged.index]);
    }
    if let Some(cut) = facts.truncation {
        put(&mut bytes, &[cut.segment, cut.byte, cut.next_segment]);
    }
    if let Some(mark) = facts.sync_mark {
        put_mark(&mut bytes, &mark);
    }
    bytes
}

fn decode_facts(fields: &mut Fields<'_>) -> Option<LogFacts> {
    let present = fields.u8()?;
    let (id, replica, start_offset) = (fields.u32()?, fields.u64()?, fields.u64()?);
    let name_bytes = fields.u32()? as usize;
    let name = String::from_utf8(fields.bytes(name_bytes)?.to_vec()).ok()?;
    let vote_bytes = fields.u32()? as usize;
    let vote = fields.bytes(vote_bytes)?.to_vec();
    let mut facts = LogFacts { id, name, replica, start_offset, ..LogFacts::default() };
    facts.vote = (present & 1 != 0).then_some(vote);
    if present & 2 != 0 {
        facts.purged = Some(Position { term: fields.u64()?, leader: fields.u64()?, index: fields.u64()? });
    }
    if present & 4 != 0 {
        facts.truncation =
            Some(Truncation { segment: fields.u64()?, byte: fields.u64()?, next_segment: fields.u64()? });
    }
    if present & 8 != 0 {
        facts.sync_mark = Some(take_mark(fields)?);
    }
    Some(facts)
}

fn put(bytes: &mut Vec<u8>, fields: &[u64]) {
    for field in fields {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
}

fn put_mark(bytes: &mut Vec<u8>, mark: &SyncMark) {
    put(bytes, &[mark.index, mark.segment, mark.byte, mark.end_offset]);
}

fn take_mark(fields: &mut Fields<'_>) -> Option<SyncMark> {
    Some(SyncMark {
        index: fields.u64()?,
        segment: fields.u64()?,
        byte: fields.u64()?,
        end_offset: fields.u64()?,
    })
}
