//! `fanfare log accept-loss`: what an operator can do about a damaged partition that has no other replica.

use std::path::PathBuf;

use anyhow::{Context, bail};
use fanfare_log::Store;
use fanfare_model::{PartitionId, Stream};
use fanfare_partition::{DamageReport, DamagedRange, accept_loss, survey_damage};

use crate::{serve, stopped_node};

/// Work on the logs of a node that is stopped.
#[derive(Debug, clap::Args)]
pub(crate) struct LogCommand {
    #[command(subcommand)]
    command: LogSubcommand,
}

#[derive(Debug, clap::Subcommand)]
enum LogSubcommand {
    /// Let a damaged partition go on without what cannot be read.
    ///
    /// Reads every entry of the partition and says what is lost. With --yes, empty entries take the place of the
    /// lost ones, so that every other event stays readable at its offset and no offset is given away twice. Damaged
    /// files are kept in the data directory, under quarantine/. The node must be stopped. Refused for a partition
    /// that ever had another replica: a new replica is filled from the others instead.
    AcceptLoss(AcceptLossArguments),
}

#[derive(Debug, clap::Args)]
struct AcceptLossArguments {
    /// Configuration file of the node.
    #[arg(long, env = "FANFARE_CONFIG")]
    config: Option<PathBuf>,
    /// Overrides node.data_dir.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Such as events/0 or dead-letters/0.
    #[arg(long, value_parser = partition)]
    partition: PartitionId,
    /// Do it; otherwise it is only said what would be lost.
    #[arg(long)]
    yes: bool,
}

fn partition(text: &str) -> Result<PartitionId, String> {
    if text.starts_with("catalog") {
        return Err("the catalog's entries build on each other, so it cannot go on without some of them: restore the \
                    data directory from a backup"
            .to_owned());
    }
    let known = || {
        let (stream, index) = text.split_once('/')?;
        let stream = Stream::ALL.into_iter().find(|known| known.name() == stream)?;
        Some(PartitionId { stream, index: index.parse().ok()? })
    };
    let forms = || Stream::ALL.map(|stream| format!("{}/NUMBER", stream.name())).join(" or ");
    known().ok_or_else(|| format!("write {}", forms()))
}

/// # Errors
/// If a node runs on the directory, there is no such partition, or its files cannot be read or written.
pub(crate) async fn run(command: LogCommand) -> anyhow::Result<()> {
    let LogSubcommand::AcceptLoss(asked) = command.command;
    tokio::task::spawn_blocking(move || asked.run()).await?
}

impl AcceptLossArguments {
    fn run(self) -> anyhow::Result<()> {
        let config = serve::configuration(self.config.as_deref(), self.data_dir, None)?;
        let store = stopped_node::open(&config)?;
        let done = repair(&store, self.partition, self.yes);
        store.close();
        done
    }
}

fn repair(store: &Store, id: PartitionId, accept: bool) -> anyhow::Result<()> {
    let found = survey_damage(store, id)?;
    if found.is_empty() {
        println!("Partition {id}: every entry is readable ({} events); nothing is lost.", found.kept_events);
        return Ok(());
    }
    print!("{}", told(id, &found));
    if let Some(members) = &found.members {
        bail!(
            "nothing was changed: partition {id} has had other replicas ({members}), which hold what is lost here. \
             Remove this replica and place a new one on this node, which is filled from the others"
        );
    }
    if !accept {
        println!("Nothing was changed. To accept this loss, run the command again with --yes.");
        return Ok(());
    }
    accept_loss(store, id).context("nothing was deleted; run the command again")?;
    let left = survey_damage(store, id)?;
    if !left.is_empty() {
        bail!("{}it is still damaged; restore the data directory from a backup", told(id, &left));
    }
    println!("Done. The damaged files are kept in {}. Start the node again.", found.quarantine.display());
    Ok(())
}

/// Lost and remaining events, a line each.
fn told(id: PartitionId, report: &DamageReport) -> String {
    let mut lines = vec![format!("Partition {id}:")];
    for DamagedRange { path, byte, detail, offsets } in &report.ranges {
        let events = offsets.end - offsets.start;
        let which = match events {
            0 => "no events, only progress of deliveries".to_owned(),
            1 => format!("1 event, at offset {}", offsets.start),
            _ => format!("{events} events, at offsets {} to {}", offsets.start, offsets.end - 1),
        };
        lines.push(format!("  lost: {which} ({path} is damaged at byte {byte}: {detail})"));
    }
    if let Some(why) = &report.state_loss {
        lines.push(format!(
            "  lost: which subscriptions are attached, and their progress and counts ({why}); they begin at the next \
             event"
        ));
    }
    if report.ranges.is_empty() && report.state_loss.is_none() {
        lines.push(
            "  lost: no more events, but the files do not fit together until this is finished".to_owned(),
        );
    }
    lines.push(format!(
        "  kept: {} events; the next one gets offset {}",
        report.kept_events, report.next_offset
    ));
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_as_in_messages_and_the_catalog_is_refused() {
        for id in [PartitionId::events(0), PartitionId::events(11), PartitionId::dead_letters(0)] {
            assert_eq!(partition(&id.to_string()), Ok(id));
        }
        assert!(partition("catalog").unwrap_err().contains("backup"));
        for wrong in ["events", "events/", "events/x", "letters/0", "events/70000"] {
            assert!(partition(wrong).unwrap_err().contains("events/NUMBER"), "{wrong}");
        }
    }

    #[test]
    fn what_is_lost_is_told_with_file_place_and_offsets() {
        let lost =
            |offsets| DamagedRange { path: "/d/1.seg".into(), byte: 64, detail: "bad".into(), offsets };
        let report = DamageReport {
            ranges: vec![lost(5..9), lost(11..12), lost(12..12)],
            state_loss: Some("gone".into()),
            unfinished: true,
            kept_events: 7,
            next_offset: fanfare_model::Offset(12),
            quarantine: "/d/quarantine/events-0".into(),
            members: None,
        };
        let told = told(PartitionId::events(0), &report);
        for words in [
            "Partition events/0:",
            "lost: 4 events, at offsets 5 to 8 (/d/1.seg is damaged at byte 64: bad)",
            "lost: 1 event, at offset 11 ",
            "lost: no events",
            "their progress and counts (gone)",
            "kept: 7 events; the next one gets offset 12\n",
        ] {
            assert!(told.contains(words), "{words:?} in {told}");
        }
        assert!(!told.contains("fit together"), "{told}");
    }

    #[test]
    fn a_repair_that_was_interrupted_is_told_and_goes_on() {
        let report = DamageReport {
            ranges: Vec::new(),
            state_loss: None,
            unfinished: true,
            kept_events: 7,
            next_offset: fanfare_model::Offset(12),
            quarantine: "/d/quarantine/events-0".into(),
            members: None,
        };
        assert!(!report.is_empty());
        let told = told(PartitionId::events(0), &report);
        assert!(told.contains("lost: no more events, but the files do not fit together"), "{told}");
    }
}
