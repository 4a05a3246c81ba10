//! Which crate may know which: the architecture's arrows, read from the manifests.

use std::{collections::BTreeSet, fs};

use toml::Table;

use crate::source::{root, sources};

/// The leaves that everybody may use: seams of the machine, fields of formats, and limits that accounts share.
const EVERYBODY_MAY_USE: &[&str] = &["codec", "environment", "fairness"];

/// Allowed dependencies of each crate on ours, besides those and `model`, which all but `log` and `proto` may.
const MAY_USE: &[(&str, &[&str])] = &[
    ("codec", &[]),
    ("environment", &[]),
    ("fairness", &[]),
    ("model", &[]),
    ("proto", &[]),
    ("log", &[]),
    ("raft", &["log"]),
    ("partition", &["raft", "log"]),
    ("catalog", &["raft", "log"]),
    ("cluster", &["partition", "catalog", "raft", "log"]),
    ("ingest", &["catalog", "cluster", "partition"]),
    ("sinks", &[]),
    ("delivery", &["cluster", "partition", "catalog", "sinks"]),
    ("control", &["catalog", "sinks", "delivery"]),
    ("edge", &["control", "ingest", "proto"]),
    ("client", &["proto"]),
    ("testkit", &["client", "proto"]),
    ("cli", &["client", "proto"]),
    (
        "server",
        &[
            "edge",
            "ingest",
            "cluster",
            "partition",
            "raft",
            "log",
            "delivery",
            "sinks",
            "catalog",
            "control",
            "proto",
            "client",
            "cli",
        ],
    ),
];

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let mut wrong = Vec::new();
    let mut listed = BTreeSet::new();
    for (name, allowed) in MAY_USE {
        listed.insert((*name).to_owned());
        let manifest =
            fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).expect("a manifest");
        let manifest: Table = toml::from_str(&manifest).expect("a manifest is TOML");
        let Some(dependencies) = manifest["dependencies"].as_table() else { continue };
        for used in dependencies.keys().filter_map(|key| key.strip_prefix("fanfare-")) {
            let vocabulary = used == "model" && !["log", "proto"].contains(name);
            if !vocabulary && !EVERYBODY_MAY_USE.contains(&used) && !allowed.contains(&used) {
                wrong.push(format!("crates/{name} may not use {used}"));
            }
        }
    }
    for entry in
        fs::read_dir(root().join("crates")).expect("crates/").flatten().filter(|entry| entry.path().is_dir())
    {
        let name = entry.file_name().into_string().expect("UTF-8");
        if !listed.contains(&name) {
            wrong.push(format!("crates/{name} is not in the list of allowed edges"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn openraft_is_named_in_raft_alone() {
    let leaks: Vec<String> = sources()
        .iter()
        .filter(|source| !["raft"].contains(&source.crate_name().unwrap_or_default()))
        .filter(|source| !source.path.starts_with("tests/tidy/"))
        .flat_map(|source| {
            let named = source
                .product()
                .filter(|(_, line)| line.contains("openraft::") || line.contains("use openraft"));
            named.map(|(number, _)| format!("{}:{number}", source.path)).collect::<Vec<_>>()
        })
        .collect();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

#[test]
fn partitions_are_looked_up_in_the_directory() {
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|source| !source.is_test() && source.crate_name() != Some("cluster"))
    {
        let holds = source
            .product()
            .any(|(_, line)| [": Vec<Partition>", "&[Partition]"].iter().any(|held| line.contains(held)));
        if holds {
            wrong.push(format!("{} holds partitions: ask fanfare_cluster::Directory", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
