//! Seeds repeat bit for bit, hold what the product promises, and see planted bugs.

use std::process::{Command, Output};

use serde_json::Value;

const SIMULATE: &str = env!("CARGO_BIN_EXE_simulate");
/// Seeds of an ordinary run.
const SEEDS: u64 = 200;

fn simulate(arguments: &[&str]) -> Output {
    Command::new(SIMULATE).args(arguments).output().expect("the program starts")
}

fn verdict(seed: &str, bug: &[&str]) -> Value {
    let output = simulate(&[&["seed", seed], bug].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("a verdict")
}

#[test]
fn a_seed_is_the_same_in_two_processes() {
    for seed in ["1000", "1001", "1002", "1003"] {
        let (first, second) = (verdict(seed, &[]), verdict(seed, &[]));
        assert!(first["lines"].as_u64() > Some(1_000), "{first}");
        assert_eq!(first, second);
    }
    assert_ne!(verdict("1000", &[])["hash"], verdict("1001", &[])["hash"]);
}

#[test]
fn ordinary_seeds_hold() {
    let output = simulate(&["run", "0", &SEEDS.to_string()]);
    let report = String::from_utf8_lossy(&output.stdout);
    println!("{report}");
    assert!(output.status.success(), "{report}");
}
