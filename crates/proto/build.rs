//! Compiles `proto/` with protox, so that no protoc is needed on the machine.

use std::{env, error::Error, fs, path::PathBuf};

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
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    // Encoded by the compiler: the messages that it returns have lost the options of extensions, such as
    // google.api.field_behavior.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), encoded)?;
    let descriptors = compiler.file_descriptor_set();
    tonic_prost_build::configure().bytes(".io.cloudevents.v1.CloudEvent").compile_fds(descriptors)?;
    Ok(())
}
