//! Seeds repeat bit for bit, hold what the product promises, and see planted bugs.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const SIMULATE: &str = env!("CARGO_BIN_EXE_simulate");
/// Seeds of an ordinary run.
const SEEDS: &str = "200";
/// Known seeds that catch the planted bugs; `simulate sweep` finds them.
const CAUGHT: [(&str, u64); 8] = [
    ("AckBeforeSync", 0),
    ("NoDirectorySync", 0),
    ("DedupForgotten", 0),
    ("CursorAheadOfOutcome", 0),
    ("TrimOverUnsettled", 5),
    ("TornTailServed", 58),
    ("KeyOutOfOrder", 7),
    ("AppliedAheadOfFlush", 4),
];

fn simulate(arguments: &[&str]) -> Output {
    Command::new(SIMULATE).args(arguments).output().expect("the program starts")
}

fn verdict(arguments: &[&str]) -> Value {
    let output = simulate(arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("a verdict")
}

#[test]
fn a_seed_is_the_same_in_two_processes() {
    for seed in ["1000", "1001", "1002", "1003"] {
        let (first, second) = (verdict(&["seed", seed]), verdict(&["seed", seed]));
        assert!(first["lines"].as_u64() > Some(1_000), "{first}");
        assert_eq!(first, second);
    }
    assert_ne!(verdict(&["seed", "1000"])["hash"], verdict(&["seed", "1001"])["hash"]);
}

#[test]
fn ordinary_seeds_hold() {
    let output = simulate(&["run", "0", SEEDS]);
    let report = String::from_utf8_lossy(&output.stdout);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulation.txt");
    fs::write(path, report.as_bytes()).expect("the build's directory can be written");
    assert!(output.status.success(), "{report}");
}

#[test]
fn planted_bugs_are_caught() {
    for (bug, seed) in CAUGHT {
        // As a run, which ends a seed that takes too long.
        let output = simulate(&["run", &seed.to_string(), &(seed + 1).to_string(), bug]);
        let report = String::from_utf8_lossy(&output.stdout);
        let is_caught = report.contains(&format!("seed {seed} failed")) && !report.contains("no verdict");
        assert!(is_caught, "{bug} was not caught by seed {seed}: {report}");
    }
}
