//! Keeps what the process writes to itself.
//!
//! The log, its checkpoints and the catalog hold events and the secrets of sinks in clear.

use rustix::{fs::Mode, process::umask};

/// From now on new files and directories are for this user alone, whatever the shell or the service manager set.
pub(crate) fn restrict_umask() {
    umask(Mode::RWXG | Mode::RWXO);
}

#[cfg(test)]
mod tests;
