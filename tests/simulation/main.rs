//! `simulate`: whole nodes from one number.
//!
//! A seed decides everything that happens: what is published, what fails, where the node crashes, how the receiver
//! behaves. The node is the product's own, from its log to its webhooks; simulated are the disk, the network, time,
//! randomness and threads. A seed that fails is run again with `simulate replay`.

mod disk;
mod event;
mod faults;
mod life;
mod node;
mod oracle;
mod plan;
mod producer;
mod receiver;
mod seed;
mod setup;
mod trace;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["seed", seed] => seed::run(seed.parse().expect("a number"), false),
        ["replay", seed] => seed::run(seed.parse().expect("a number"), true),
        _ => {
            eprintln!("usage: simulate seed N | replay N");
            ExitCode::from(2)
        }
    }
}
