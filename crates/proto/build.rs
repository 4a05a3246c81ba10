//! Compiles `proto/` with protox, so that no protoc is needed on the machine.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "io/cloudevents/v1/cloudevents.proto",
    "fanfare/v1/publisher.proto",
    "fanfare/v1/reader.proto",
    "fanfare/v1/event_type.proto",
    "fanfare/v1/schema.proto",
    "fanfare/v1/sink.proto",
    "fanfare/v1/subscription.proto",
    "fanfare/v1/dead_letter.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".io.cloudevents.v1.CloudEvent").compile_fds(descriptors)?;
    Ok(())
}
