//! Names in a data directory.

pub(crate) const LOCK_NAME: &str = "LOCK";
pub(crate) const LOGS_DIR: &str = "logs";
pub(crate) const POOL_DIR: &str = "pool";
pub(crate) const FILES_DIR: &str = "files";
