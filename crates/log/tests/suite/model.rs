//! What a log should hold after a sequence of steps, kept as simply as possible.
use std::collections::BTreeMap;

use fanfare_log::{Frame, Log, NewFrame, Position};

use crate::support::{append, frame, wait};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Append {
        frames: u64,
        payload_bytes: usize,
    },
    /// Keeps all but this many frames.
    Truncate {
        dropped: u64,
    },
    /// Purges all but this many frames.
    Purge {
        kept: u64,
    },
    /// Continues this far above the end.
    Restart {
        skipped: u64,
    },
    Vote(u8),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    term: u64,
    purged: Option<Position>,
    last: Option<Position>,
    start_offset: u64,
    next_offset: u64,
    vote: Option<Vec<u8>>,
    /// Payload and base offset by index.
    frames: BTreeMap<u64, (Position, u64, Vec<u8>)>,
}

impl Model {
    /// Does the step on `log` and waits until it is durable.
    pub(crate) fn run(&mut self, step: &Step, log: &Log) {
        match *step {
            Step::Append { frames, payload_bytes } => {
                append(log, self.new_frames(frames, payload_bytes)).expect("append");
            }
            Step::Truncate { dropped } => {
                let index = self.truncation(dropped);
                wait(|done| log.truncate_after(index, done)).expect("truncate");
            }
            Step::Purge { kept } => {
                if let Some((position, next_offset)) = self.purge_point(kept) {
                    wait(|done| log.purge(position, next_offset, done)).expect("purge");
                }
            }
            Step::Restart { skipped } => {
                let (position, next_offset) = self.restart_point(skipped);
                wait(|done| log.purge(position, next_offset, done)).expect("restart");
            }
            Step::Vote(vote) => wait(|done| log.save_vote(vec![vote; 3], done)).expect("vote"),
        }
        *self = self.outcomes(step).pop().expect("a step has an outcome");
    }

    /// States that a crash within the step may leave; the last one is that of the whole step.
    pub(crate) fn outcomes(&self, step: &Step) -> Vec<Self> {
        let mut next = self.clone();
        match *step {
            Step::Append { frames, payload_bytes } => {
                let mut outcomes = vec![self.clone()];
                for new in self.new_frames(frames, payload_bytes) {
                    next.append(&new);
                    outcomes.push(next.clone());
                }
                return outcomes;
            }
            Step::Truncate { dropped } => {
                next.term += 1;
                let index = self.truncation(dropped);
                next.frames.retain(|at, _| Some(*at) <= index);
                let kept = next.frames.last_key_value().map(|(_, held)| held.clone());
                next.next_offset = match &kept {
                    Some((position, base, _)) => base + count(position.index),
                    None => self.start_offset,
                };
                next.last = kept.map(|(position, ..)| position).or(self.purged);
            }
            Step::Purge { kept } => {
                if let Some((position, next_offset)) = self.purge_point(kept) {
                    next.purged = Some(position);
                    next.start_offset = next_offset;
                    next.frames.retain(|at, _| *at > position.index);
                }
            }
            Step::Restart { skipped } => {
                let (position, next_offset) = self.restart_point(skipped);
                (next.purged, next.last) = (Some(position), Some(position));
                (next.start_offset, next.next_offset) = (next_offset, next_offset);
                next.frames.clear();
            }
            Step::Vote(vote) => next.vote = Some(vec![vote; 3]),
        }
        vec![self.clone(), next]
    }

    /// What `log` holds, in the same terms.
    pub(crate) fn of(log: &Log, term: u64) -> Self {
        let bounds = log.bounds();
        let first = bounds.purged.map_or(1, |purged| purged.index + 1);
        let frames = log.read(first, u64::MAX, u64::MAX).expect("read");
        Self {
            term,
            purged: bounds.purged,
            last: bounds.last,
            start_offset: bounds.start_offset,
            next_offset: bounds.next_offset,
            vote: log.vote(),
            frames: frames.iter().map(held).collect(),
        }
    }

    /// Every offset is found in the frame that holds it, and every time at the first frame that is not older.
    pub(crate) fn check_lookups(&self, log: &Log) {
        let offset_of = |(position, base, _): &(Position, u64, Vec<u8>)| (position.index, *base);
        for (index, base) in self.frames.values().map(offset_of) {
            for offset in base..base + count(index) {
                assert_eq!(log.index_of_offset(offset).expect("lookup"), Some(index), "offset {offset}");
            }
            let found = log.index_of_time(frame(index, 0, 0).time_ms - 3).expect("lookup");
            assert_eq!(found, Some(index), "time of {index}");
        }
        assert_eq!(log.index_of_offset(self.next_offset).expect("lookup"), None);
    }

    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    fn append(&mut self, new: &NewFrame) {
        let payload = new.payload.slice(0..new.payload.len()).to_vec();
        self.frames.insert(new.position.index, (new.position, self.next_offset, payload));
        self.next_offset += u64::from(new.count);
        self.last = Some(new.position);
    }

    fn new_frames(&self, frames: u64, payload_bytes: usize) -> Vec<NewFrame> {
        let first = self.last.map_or(1, |last| last.index + 1);
        (first..first + frames).map(|index| frame(index, self.term, payload_bytes)).collect()
    }

    fn truncation(&self, dropped: u64) -> Option<u64> {
        self.frames.keys().rev().nth(usize::try_from(dropped).expect("small")).copied()
    }

    fn purge_point(&self, kept: u64) -> Option<(Position, u64)> {
        let held = self.frames.values().rev().nth(usize::try_from(kept).expect("small"));
        held.map(|(position, base, _)| (*position, base + count(position.index)))
    }

    fn restart_point(&self, skipped: u64) -> (Position, u64) {
        let index = self.last.map_or(0, |last| last.index) + 1 + skipped;
        (Position { term: self.term, leader: 9, index }, self.next_offset + 5 * skipped)
    }
}

fn count(index: u64) -> u64 {
    u64::from(frame(index, 0, 0).count)
}

fn held(frame: &Frame) -> (u64, (Position, u64, Vec<u8>)) {
    let header = &frame.header;
    let payload = frame.payload.slice(0..frame.payload.len()).to_vec();
    (header.position.index, (header.position, header.base_offset, payload))
}
