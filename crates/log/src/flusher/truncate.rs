//! Taking frames away: truncation from the end, purge from the start, and restarting behind a snapshot. The journal
//! says so durably before a file is touched, so no crash brings the frames back or leaves a hole. The files of freed
//! segments are recycled by the background worker.

use std::sync::Arc;

use crate::{
    background::BackgroundJob,
    error::Fatal,
    frame::Position,
    journal::{LogFacts, Truncation},
    log::state::LogShared,
    segment::Segment,
    segment::active::{ActiveSegment, Continuation},
    segment::number::SegmentNumber,
    segment::pool::Spare,
    segment::writer::SegmentWriter,
    store::shared::StoreShared,
};

/// One log that loses frames. Every earlier append of it has been published.
pub(super) struct FrameRemoval<'a> {
    pub(super) store: &'a StoreShared,
    pub(super) log: Arc<LogShared>,
    pub(super) writer: &'a mut SegmentWriter,
}

impl FrameRemoval<'_> {
    /// Ends the log after `index`; None leaves no frame.
    pub(super) fn truncate(self, index: Option<u64>) -> Result<(), Fatal> {
        let next_segment = self.writer.next_segment;
        let freed = match self.log.segment_to_truncate(index) {
            None => {
                let truncation = Truncation { segment: SegmentNumber::NONE, byte: 0, next_segment };
                // The mark goes with the frames: a start that found the mark without them would report a loss.
                self.record(|facts| (facts.truncation, facts.sync_mark) = (Some(truncation), None))?;
                // The next frame rolls into a segment of its own: appended to the old one, it would be dead with that one's number.
                self.writer.active = None;
                self.log.take_segments()
            }
            Some(target) if target.ends_at(index) => Vec::new(),
            Some(target) => {
                let extent = target
                    .extent_up_to(index.unwrap_or_default())
                    .map_err(|error| error.fatal(&target.path))?;
                assert!(
                    extent.last.map(|last| last.index) == index && extent.end_byte <= target.extent.end_byte,
                    "invariant violation: truncation after {index:?} ends at {:?}",
                    extent.last
                );
                let number = target.header.number;
                let truncation = Truncation { segment: number, byte: extent.end_byte, next_segment };
                let mark = extent.mark(number);
                self.record(|facts| (facts.truncation, facts.sync_mark) = (Some(truncation), mark))?;
                let freed = self.log.truncate_segments(number, extent);
                // Bytes behind the end carry the segment's own nonce and chain: frames written over their start could
                // lead into them. So the segment takes no more frames.
                self.writer.active =
                    self.log.with_newest(|newest| ActiveSegment::of(newest, Continuation::Truncated));
                freed
            }
        };
        let purged = self.store.journal.lock().facts(self.log.id).purged;
        self.writer.previous = self.log.reset_done(purged);
        assert!(
            self.writer.previous.map(|previous| previous.index)
                <= index.max(purged.map(|purged| purged.index)),
            "invariant violation: the log goes on after {index:?}"
        );
        self.recycle(freed);
        Ok(())
    }

    /// Frees segments wholly at or below `position`, but never the newest.
    pub(super) fn purge(self, position: Position, start_offset: u64) -> Result<(), Fatal> {
        // Durable before a file goes: a start that missed the files and did not know the purge point would take the log for
        // damaged.
        self.record(|facts| {
            assert!(
                facts.purged.is_none_or(|purged| purged.index <= position.index),
                "invariant violation: the purge point falls from {:?} to {position:?}",
                facts.purged
            );
            (facts.purged, facts.start_offset) = (Some(position), start_offset);
        })?;
        let freed = self.log.free_up_to(position.index);
        self.recycle(freed);
        Ok(())
    }

    /// Empties the log, which goes on after `position`.
    pub(super) fn restart(self, position: Position, start_offset: u64) -> Result<(), Fatal> {
        let truncation =
            Truncation { segment: SegmentNumber::NONE, byte: 0, next_segment: self.writer.next_segment };
        // One record for both: between two, a crash would leave frames below the new start that a start reads as the log.
        self.record(|facts| {
            (facts.purged, facts.start_offset) = (Some(position), start_offset);
            (facts.truncation, facts.sync_mark) = (Some(truncation), None);
        })?;
        self.writer.active = None;
        let freed = self.log.take_segments();
        self.writer.previous = self.log.reset_done(Some(position));
        self.recycle(freed);
        Ok(())
    }

    /// Durable at return, before any file is touched.
    fn record(&self, change: impl FnOnce(&mut LogFacts)) -> Result<(), Fatal> {
        let mut journal = self.store.journal.lock();
        let mut facts = journal.facts(self.log.id).clone();
        change(&mut facts);
        journal.record_facts(facts)?;
        journal.sync()
    }

    /// Hands freed segments to the background worker, one job each, so that freeing many stalls no other log.
    ///
    /// The journal has the truncation or purge durably, and a freed number is never used again. So a segment that
    /// is still there after a crash, whatever the order, is dead to the next start: above the truncated segment and
    /// below `next_segment`, or not reached by the chain of headers that starts from the newest segment and ends at
    /// the purge point. A later truncation cannot revive it: `next_segment` never falls, and what lies below the
    /// segment of a later truncation is reached by the chain or dead.
    fn recycle(&self, freed: Vec<Segment>) {
        for segment in freed {
            let number = segment.header.number;
            assert!(
                number < self.writer.next_segment,
                "invariant violation: segment {number} is yet to come"
            );
            let mut indexes = vec![self.log.dir.join(number.index_file())];
            indexes.extend(self.log.forget_index(number));
            let Segment { path, file, .. } = segment;
            self.store.background.add(BackgroundJob::Recycle { segment: Spare { path, file }, indexes });
        }
    }
}
