//! What was read from disk lately, for whoever reads the same part of the log next.
//!
//! Readers that lag behind stand close together when they fell behind for the same reason. The first one reads, the
//! others find its frames here. Committed frames never change, so nothing here can be out of date.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_log::Frame;
use fanfare_model::Offset;
use parking_lot::Mutex;

const RUNS_MAX: usize = 16;
/// Of the frames' payloads, and a run more.
const BYTES_MAX: u64 = 4 << 20;
/// Memory that nobody has asked for so long is given back.
const IDLE: Duration = Duration::from_secs(10);

/// Consecutive frames, shared.
#[derive(Clone)]
pub(super) struct Run {
    frames: Arc<[Frame]>,
    /// Which of them are asked for.
    first: usize,
}

#[derive(Default)]
pub(crate) struct Shelf {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// The latest used last.
    runs: VecDeque<Run>,
    bytes: u64,
    used_at: Option<Instant>,
    #[cfg(test)]
    puts: usize,
}

/// What the shelf knows of an offset.
pub(super) enum Found {
    Frames(Run),
    /// It begins the frame at this index.
    Index(u64),
    Nothing,
}

impl Run {
    pub(super) fn new(frames: Vec<Frame>) -> Self {
        Self { frames: frames.into(), first: 0 }
    }

    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames[self.first..]
    }

    fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.header.payload_bytes)).sum()
    }

    fn end(&self) -> Option<&Frame> {
        self.frames.last()
    }

    fn holds(&self, offset: Offset) -> bool {
        let begins = self.frames.first().is_some_and(|frame| frame.header.base_offset <= offset.0);
        begins && self.end().is_some_and(|frame| offset < end_of(frame))
    }

    fn from(mut self, offset: Offset) -> Self {
        self.first = self.frames.partition_point(|frame| end_of(frame) <= offset);
        self
    }
}

impl Shelf {
    pub(super) fn find(&self, offset: Offset) -> Found {
        let mut held = self.held.lock();
        if let Some(place) = held.runs.iter().position(|run| run.holds(offset))
            && let Some(run) = held.runs.remove(place)
        {
            held.used_at = Some(Instant::now());
            held.runs.push_back(run.clone());
            return Found::Frames(run.from(offset));
        }
        let ends = |run: &Run| {
            run.end().filter(|last| end_of(last) == offset).map(|last| last.header.position.index)
        };
        held.runs.iter().find_map(ends).map_or(Found::Nothing, |last| Found::Index(last + 1))
    }

    pub(super) fn put(&self, run: &Run) {
        let mut held = self.held.lock();
        held.used_at = Some(Instant::now());
        #[cfg(test)]
        {
            held.puts += 1;
        }
        held.bytes += run.bytes();
        held.runs.push_back(run.clone());
        while held.runs.len() > RUNS_MAX || held.bytes > BYTES_MAX && held.runs.len() > 1 {
            let Some(oldest) = held.runs.pop_front() else { break };
            held.bytes -= oldest.bytes();
        }
    }

    /// What somebody else has read.
    #[cfg(test)]
    pub(crate) fn put_frames(&self, frames: Vec<Frame>) {
        self.put(&Run::new(frames));
    }

    /// How often something was read from disk for the shelf.
    #[cfg(test)]
    pub(crate) fn puts(&self) -> usize {
        self.held.lock().puts
    }

    /// Lets go of everything if nobody has used it for a while.
    pub(super) fn tidy(&self) {
        let mut held = self.held.lock();
        if held.used_at.is_some_and(|used_at| used_at.elapsed() > IDLE) {
            *held = Held::default();
        }
    }
}

fn end_of(frame: &Frame) -> Offset {
    Offset(frame.header.base_offset).plus(frame.header.count.into())
}

#[cfg(test)]
mod tests {
    use fanfare_log::{FrameHeader, Payload, Position};

    use super::*;

    /// Frames of ten events each, `first_index` being the one from offset `first_index * 10`.
    fn run(first_index: u64, frames: u64, payload_bytes: u32) -> Run {
        let frame = |index| Frame {
            header: FrameHeader {
                kind: 1,
                position: Position { term: 1, leader: 1, index },
                base_offset: index * 10,
                count: 10,
                time_ms: 0,
                payload_bytes,
            },
            payload: Payload::new(Vec::new()),
        };
        Run::new((first_index..first_index + frames).map(frame).collect())
    }

    fn indexes(shelf: &Shelf, offset: u64) -> Result<Vec<u64>, Option<u64>> {
        match shelf.find(Offset(offset)) {
            Found::Frames(run) => Ok(run.frames().iter().map(|frame| frame.header.position.index).collect()),
            Found::Index(index) => Err(Some(index)),
            Found::Nothing => Err(None),
        }
    }

    #[test]
    fn a_reader_finds_what_others_read_from_its_offset_on_and_where_that_ends() {
        let shelf = Shelf::default();
        shelf.put(&run(5, 3, 100));
        assert_eq!(indexes(&shelf, 50), Ok(vec![5, 6, 7]));
        assert_eq!(indexes(&shelf, 69), Ok(vec![6, 7]));
        assert_eq!(indexes(&shelf, 80), Err(Some(8)));
        assert_eq!(indexes(&shelf, 49), Err(None));
        assert_eq!(indexes(&shelf, 81), Err(None));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays_longest() {
        let shelf = Shelf::default();
        for place in 0..4 {
            shelf.put(&run(place * 2, 1, 1 << 20));
        }
        assert!(indexes(&shelf, 0).is_ok());
        shelf.put(&run(100, 1, 1 << 20));
        assert!(indexes(&shelf, 0).is_ok() && indexes(&shelf, 20).is_err());
        shelf.put(&run(200, 1, 64 << 20));
        assert!(indexes(&shelf, 2000).is_ok(), "one alone may be larger");
        assert!(indexes(&shelf, 0).is_err() && indexes(&shelf, 1000).is_err());
    }
}
