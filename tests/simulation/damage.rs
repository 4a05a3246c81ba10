//! A byte that the disk no longer holds as it was written, found at the last start.

use std::path::{Path, PathBuf};

use fanfare_log::MemoryFileSystem;

use crate::{
    node::PARTITIONS,
    world::{Dice, End},
};

/// Flips a bit of one partition's events; gives the partition. None if nothing can be flipped that was synced for
/// certain.
pub(crate) fn flip(disk: &MemoryFileSystem, dice: &Dice, last_end: &End) -> Option<u16> {
    let partition = u16::try_from(dice.below(PARTITIONS.into())).expect("few partitions");
    let mut segments = segments(disk, partition);
    if *last_end != End::Stop {
        // A crash may leave a torn end in the newest segment, which a flipped bit there cannot be told from.
        segments.pop();
    }
    let index = usize::try_from(dice.below((segments.len() as u64).max(1))).expect("few segments");
    let path = segments.get(index)?;
    let content = disk.content(path).expect("a file has content");
    // What is not written yet is zeros.
    let written = content.iter().rposition(|byte| *byte != 0)? as u64 + 1;
    let mask = 1 << dice.below(8);
    disk.flip(path, dice.below(written), mask);
    Some(partition)
}

/// Oldest first.
fn segments(disk: &MemoryFileSystem, partition: u16) -> Vec<PathBuf> {
    let directory = format!("logs/events-{partition}");
    let is_segment = |path: &Path| {
        path.parent().is_some_and(|parent| parent.ends_with(&directory))
            && path.extension().is_some_and(|extension| extension == "seg")
    };
    let mut paths: Vec<PathBuf> = disk.paths().into_iter().filter(|path| is_segment(path)).collect();
    paths.sort();
    paths
}
