//! Generated messages, clients and services. The definitions are in `proto/` at the root.

#[allow(unreachable_pub, clippy::all, clippy::too_many_lines, reason = "generated")]
mod fanfare {
    pub mod v1 {
        tonic::include_proto!("fanfare.v1");
    }
}

#[allow(unreachable_pub, clippy::all, reason = "generated")]
mod io {
    pub mod cloudevents {
        pub mod v1 {
            tonic::include_proto!("io.cloudevents.v1");
        }
    }
}

/// The public API.
pub use fanfare::v1;
/// CloudEvents' own package.
pub use io::cloudevents;

/// Every message and service above, with comments, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
