//! The newest frames of one log, in order and without a gap up to the last one.
//!
//! Removed frames are handed to the caller: freeing their buffers takes long, and a caller that holds a lock drops them
//! after unlocking.

use std::{collections::VecDeque, ops::Range};

use crate::frame::Frame;

#[derive(Default)]
pub(crate) struct TailCache {
    frames: VecDeque<Frame>,
    bytes: u64,
}

/// Memory of a frame beside its payload.
const FRAME_OVERHEAD_BYTES: u64 = 128;

fn cost(frame: &Frame) -> u64 {
    u64::from(frame.header.payload_bytes) + FRAME_OVERHEAD_BYTES
}

impl TailCache {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn first_index(&self) -> Option<u64> {
        self.frames.front().map(|frame| frame.header.position.index)
    }

    pub(crate) fn push(&mut self, frame: Frame) {
        assert!(
            self.frames
                .back()
                .is_none_or(|last| last.header.position.index + 1 == frame.header.position.index),
            "invariant violation: the tail cache has no gaps"
        );
        self.bytes += cost(&frame);
        self.frames.push_back(frame);
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Frame> {
        let number = usize::try_from(index.checked_sub(self.first_index()?)?).ok()?;
        self.frames.get(number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Frames from `from` on and before `end`: at least one, then up to `bytes_max` of payload.
    pub(crate) fn read(&self, from: u64, end: u64, bytes_max: u64) -> Option<Vec<Frame>> {
        self.get(from)?;
        let skipped = usize::try_from(from - self.first_index()?).ok()?;
        let mut frames = Vec::new();
        let mut bytes = 0;
        for frame in self.frames.range(skipped..).take_while(|frame| frame.header.position.index < end) {
            bytes += u64::from(frame.header.payload_bytes);
            if bytes > bytes_max && !frames.is_empty() {
                break;
            }
            frames.push(frame.clone());
        }
        Some(frames)
    }

    /// The frame that holds `offset`.
    pub(crate) fn find_offset(&self, offset: u64) -> Option<&Frame> {
        let above = self.frames.partition_point(|frame| frame.header.end_offset() <= offset);
        self.frames.get(above).filter(|frame| frame.header.base_offset <= offset)
    }

    pub(crate) fn keep_up_to(&mut self, index: u64) -> Vec<Frame> {
        let end = self.frames.partition_point(|frame| frame.header.position.index <= index);
        self.remove(end..self.frames.len())
    }

    pub(crate) fn drop_up_to(&mut self, index: u64) -> Vec<Frame> {
        let end = self.frames.partition_point(|frame| frame.header.position.index <= index);
        self.remove(0..end)
    }

    pub(crate) fn clear(&mut self) -> Vec<Frame> {
        self.remove(0..self.frames.len())
    }

    fn remove(&mut self, numbers: Range<usize>) -> Vec<Frame> {
        let removed: Vec<Frame> = self.frames.drain(numbers).collect();
        self.bytes -= removed.iter().map(cost).sum::<u64>();
        removed
    }
}
