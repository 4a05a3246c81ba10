//! `simulate`: whole nodes from one number.
//!
//! A seed decides everything that happens: what is published, what fails, where the node crashes, how the receiver
//! behaves. The node is the product's own, from its log to its webhooks; simulated are the disk, the network, time,
//! randomness and threads. A seed that fails is run again with `simulate replay`.

mod damage;
mod disk;
mod event;
mod faults;
mod life;
mod node;
mod oracle;
mod plan;
mod producer;
mod receiver;
mod retention;
mod runner;
mod seed;
mod setup;
mod trace;
mod world;

use std::process::ExitCode;

use fanfare_environment::Bug;

const USAGE: &str = "usage:
  simulate run FROM TO [BUG]  runs the seeds FROM..TO, each in a process of its own, and reports
  simulate sweep TO           runs seeds below TO with each planted bug until one catches the bug
  simulate seed N [BUG]       runs one seed and prints its verdict
  simulate replay N [BUG]     the same, with all that happens";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["seed", seed, bug @ ..] => planted(bug).and_then(|()| Some(seed::run(number(seed)?, false))),
        ["replay", seed, bug @ ..] => planted(bug).and_then(|()| Some(seed::run(number(seed)?, true))),
        ["run", from, to] => number(from).zip(number(to)).map(|(from, to)| runner::run(from..to, None)),
        ["run", from, to, bug] => number(from)
            .zip(number(to))
            .zip(named(bug))
            .map(|((from, to), bug)| runner::run(from..to, Some(bug))),
        ["sweep", to] => number(to).map(runner::sweep),
        _ => None,
    };
    done.unwrap_or_else(|| {
        eprintln!("{USAGE}\nbugs: {:?}", Bug::ALL);
        ExitCode::from(2)
    })
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn named(text: &str) -> Option<Bug> {
    Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == text)
}

/// Plants the bug that is named, if one is.
fn planted(words: &[&str]) -> Option<()> {
    match words {
        [] => Some(()),
        [bug] => named(bug).map(fanfare_environment::plant),
        _ => None,
    }
}
