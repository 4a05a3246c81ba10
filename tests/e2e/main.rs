//! Real processes of the release program, driven over the network as their users would.
//!
//! `cargo build --release && FANFARE_BINARY=target/release/fanfare cargo test -p fanfare-tests --features e2e`

mod crash;
mod damage;
mod descriptors;
mod full_disk;
mod real_input;
mod start;
mod unusable_entry;
