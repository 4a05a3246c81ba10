//! A small disk of a test's own: in memory, in a mount namespace that nobody else sees.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// Gone when it is dropped. What uses it must have ended before.
pub struct Disk {
    holder: Child,
    path: PathBuf,
    mount_point: TempDir,
}

impl Disk {
    /// A disk of this size. Linux, as root.
    ///
    /// # Errors
    /// If this process may not mount anything.
    pub fn new(mebibytes: u32) -> anyhow::Result<Self> {
        let mount_point = tempfile::tempdir()?;
        let mount = format!(
            "mount -t tmpfs -o size={mebibytes}m tmpfs \"$1\" && echo mounted && exec sleep infinity"
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", &mount, "sh"])
            .arg(mount_point.path())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare (util-linux)")?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().context("stdout is piped")?).read_line(&mut said)?;
        let inside = mount_point.path().strip_prefix("/")?;
        let path = Path::new("/proc").join(holder.id().to_string()).join("root").join(inside);
        let disk = Self { holder, path, mount_point };
        ensure!(
            said == "mounted\n",
            "a small disk cannot be mounted: run this suite as root, with CAP_SYS_ADMIN"
        );
        Ok(disk)
    }

    /// Path for every process of this user.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path for processes of the disk's namespace.
    #[must_use]
    pub fn inside(&self) -> &Path {
        self.mount_point.path()
    }

    /// Starts `program` in its namespace, under the process id of the command itself.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target"]).arg(self.holder.id().to_string()).arg("--").arg(program);
        command
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may have ended by itself.
        if self.holder.kill().is_ok() {
            self.holder.wait().ok();
        }
    }
}
