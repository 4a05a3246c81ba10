//! Taking frames away: truncation from the end, purge from the start, and starting anew behind a snapshot. The
//! journal says so durably before a file is touched, so no crash brings the frames back or leaves a hole.
use crate::{
    background::Chore,
    error::Fatal,
    frame::Position,
    journal::{LogFacts, SyncMark, Truncation},
    log::LogShared,
    segment::index::Extent,
    segment::pool::Spare,
    segment::recovery,
    segment::writer::Continuation,
    segment::{Segment, SegmentHeader},
    store::Disk,
};

/// Ends the log after `index`; everything asked for earlier has been published.
pub(crate) fn truncate(disk: &Disk, log: &LogShared, index: Option<u64>) -> Result<(), Fatal> {
    let mut writer = log.writer.lock();
    let dead = match log.newest_with(index) {
        None => {
            let cut = Truncation { segment: 0, byte: 0, next_segment: writer.next_segment };
            record(disk, log, |facts| (facts.truncation, facts.sync_mark) = (Some(cut), None))?;
            writer.active = None;
            log.empty()
        }
        Some(found) if found.next_index == index.unwrap_or_default() + 1 && found.is_newest => Vec::new(),
        Some(found) => {
            let extent = recovery::extent_up_to(&found.file, &found.header, found.end_byte, index)
                .map_err(|error| error.fatal(&found.path))?;
            let next_segment = writer.next_segment;
            let cut = Truncation { segment: found.header.sequence, byte: extent.end_byte, next_segment };
            record(disk, log, |facts| {
                (facts.truncation, facts.sync_mark) = (Some(cut), mark(cut.segment, &extent))
            })?;
            let dead = log.cut_segments(found.header.sequence, extent);
            writer.active = log.newest_active(Continuation::Cut);
            dead
        }
    };
    let purged = disk.journal.lock().facts(log.id).purged;
    writer.previous = log.reset_done(purged);
    drop(writer);
    // Newest first: what is left after a crash in between is a log without a gap.
    recycle(disk, log, dead.into_iter().rev())
}

/// Frees segments wholly at or below `position`, but never the newest.
pub(crate) fn purge(
    disk: &Disk,
    log: &LogShared,
    position: Position,
    start_offset: u64,
) -> Result<(), Fatal> {
    record(disk, log, |facts| (facts.purged, facts.start_offset) = (Some(position), start_offset))?;
    let dead = log.free_up_to(position.index);
    recycle(disk, log, dead.into_iter())
}

/// Empties the log and continues after `position`.
pub(crate) fn restart(
    disk: &Disk,
    log: &LogShared,
    position: Position,
    start_offset: u64,
) -> Result<(), Fatal> {
    let mut writer = log.writer.lock();
    let cut = Truncation { segment: 0, byte: 0, next_segment: writer.next_segment };
    record(disk, log, |facts| {
        (facts.purged, facts.start_offset) = (Some(position), start_offset);
        (facts.truncation, facts.sync_mark) = (Some(cut), None);
    })?;
    writer.active = None;
    let dead = log.empty();
    writer.previous = log.reset_done(Some(position));
    drop(writer);
    recycle(disk, log, dead.into_iter().rev())
}

pub(crate) fn mark(segment: u64, extent: &Extent) -> Option<SyncMark> {
    let index = extent.last?.index;
    Some(SyncMark { index, segment, byte: extent.end_byte, end_offset: extent.end_offset })
}

fn record(disk: &Disk, log: &LogShared, change: impl FnOnce(&mut LogFacts)) -> Result<(), Fatal> {
    let mut journal = disk.journal.lock();
    let mut facts = journal.facts(log.id).clone();
    change(&mut facts);
    journal.record_facts(facts)?;
    journal.sync()
}

fn recycle(disk: &Disk, log: &LogShared, dead: impl Iterator<Item = Segment>) -> Result<(), Fatal> {
    for segment in dead {
        let path = log.dir.join(SegmentHeader::index_name(segment.header.sequence));
        disk.chores.add(Chore::RemoveIndex { path });
        if let Some(path) = log.forget_index(segment.header.sequence) {
            disk.chores.add(Chore::RemoveIndex { path });
        }
        let Segment { path, file, .. } = segment;
        let named = path.clone();
        disk.pool
            .give(&*disk.fs, Spare { path, file })
            .map_err(|error| Fatal::new("recycle", &named, &error))?;
    }
    Ok(())
}
