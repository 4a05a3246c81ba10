//! Files that hold a secret: readable by their owner only, written whole or not at all.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;

/// Writes `secret` and a newline to `path` with mode 0600, replacing what was there; durable at return.
///
/// # Errors
/// If the file cannot be written; the old one is then still whole.
pub(crate) fn write(path: &Path, secret: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    let attempt = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    attempt().with_context(|| format!("write the secret file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write(&path, "first").unwrap();
        write(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
