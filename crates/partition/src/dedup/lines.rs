//! One line per remembered event, in pages, found by the low bits of its offset.

use std::collections::VecDeque;

use fanfare_model::{EventIdHash, Offset};

use super::seed::{Hash, Seed, halves};

const PAGE_LINES: usize = 1024;

/// What is remembered of an event. 24 bytes: the window is made of little else.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    id: [u64; 2],
    account: u32,
    pub(super) checksum: u32,
}

impl Line {
    pub(super) fn new(id: EventIdHash, account: u32, checksum: u32) -> Self {
        Self { id: halves(id.0), account, checksum }
    }

    pub(super) fn same_identity(&self, other: &Self) -> bool {
        self.id == other.id && self.account == other.account
    }

    pub(super) fn hash(&self, seed: Seed) -> Hash {
        seed.hash(self.id, [self.account.into(), 0])
    }
}

/// The lines of the offsets from `start` to `end`. A place is the low half of an offset.
#[derive(Default)]
pub(super) struct Lines {
    pages: VecDeque<Box<[Line]>>,
    start: u64,
    end: u64,
}

impl Lines {
    /// None yet; the first will be that of `start`.
    pub(super) fn from(start: Offset) -> Self {
        Self { pages: VecDeque::new(), start: start.0, end: start.0 }
    }

    pub(super) fn end(&self) -> Offset {
        Offset(self.end)
    }

    pub(super) fn push(&mut self, line: Line) {
        let (page, at) = self.find(self.end);
        if page == self.pages.len() {
            self.pages.push_back(vec![Line::default(); PAGE_LINES].into());
        }
        self.pages[page][at] = line;
        self.end += 1;
    }

    /// The place must be of a line that is here.
    pub(super) fn at(&self, place: u32) -> &Line {
        let (page, at) = self.find(self.offset(place).0);
        &self.pages[page][at]
    }

    pub(super) fn offset(&self, place: u32) -> Offset {
        Offset(self.start + u64::from(place.wrapping_sub(low(self.start))))
    }

    /// With their places.
    pub(super) fn since(&self, first: Offset) -> impl Iterator<Item = (u32, &Line)> {
        self.run(first.0, self.end)
    }

    /// With their places.
    pub(super) fn oldest(&self, count: u32) -> impl Iterator<Item = (u32, &Line)> {
        self.run(self.start, self.start + u64::from(count))
    }

    fn run(&self, start: u64, end: u64) -> impl Iterator<Item = (u32, &Line)> {
        (start..end).map(|offset| {
            let (page, at) = self.find(offset);
            (low(offset), &self.pages[page][at])
        })
    }

    pub(super) fn drop_oldest(&mut self, count: u32) {
        let (pages, _) = self.find(self.start + u64::from(count));
        self.start += u64::from(count);
        self.pages.drain(..pages);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.pages.len() * PAGE_LINES * size_of::<Line>()
    }

    /// Page and place within it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fewer pages than lines, and these are counted by 32 bits"
    )]
    fn find(&self, offset: u64) -> (usize, usize) {
        let page_lines = PAGE_LINES as u64;
        let page = offset / page_lines - self.start / page_lines;
        (page as usize, (offset % page_lines) as usize)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a place is the low half of an offset")]
fn low(offset: u64) -> u32 {
    offset as u32
}
