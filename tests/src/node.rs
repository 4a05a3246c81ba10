//! One real node: the release program in a process of its own, on a directory that outlives it.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::{sync::oneshot, time::timeout};

use crate::disk::Disk;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// A data directory and, most of the time, a process that serves it.
pub struct Node {
    directory: PathBuf,
    /// Removes the directory when the node is dropped.
    _temporary: Option<TempDir>,
    command: Command,
    running: Option<Running>,
}

struct Running {
    process: Child,
    address: String,
}

/// The program under test.
///
/// # Errors
/// If `FANFARE_BINARY` does not name it.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = env::var("FANFARE_BINARY")
        .context("set FANFARE_BINARY to the program under test, such as target/release/fanfare")?;
    anyhow::ensure!(Path::new(&path).exists(), "FANFARE_BINARY={path} does not exist: build it first");
    Ok(std::path::absolute(path)?)
}

impl Node {
    /// Starts a node on a fresh directory; `settings` are configuration variables such as
    /// `("FANFARE_STORAGE__RETENTION", "10s")`.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        found(Command::new(program()?), directory.path(), settings)?;
        let mut command = Command::new(program()?);
        command.arg("serve").arg("--data-dir").arg(directory.path());
        let mut node = Self::start_with(directory.path().to_owned(), command, settings).await?;
        node._temporary = Some(directory);
        Ok(node)
    }

    /// Starts a node on a fresh directory in a process that may open so many files, by its soft and its hard limit.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start_with_open_files(open_files: u32, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        found(Command::new(program()?), directory.path(), settings)?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {open_files} && exec \"$0\" \"$@\"")).arg(program()?);
        command.arg("serve").arg("--data-dir").arg(directory.path());
        let mut node = Self::start_with(directory.path().to_owned(), command, settings).await?;
        node._temporary = Some(directory);
        Ok(node)
    }

    /// Starts a node that lives on `disk`, with all its data.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start_on(disk: &Disk, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let data = disk.path().join("data");
        found(disk.command(&program()?), &disk.inside().join("data"), settings)?;
        let mut command = disk.command(&program()?);
        command.arg("serve").arg("--data-dir").arg(disk.inside().join("data"));
        Self::start_with(data, command, settings).await
    }

    async fn start_with(
        directory: PathBuf,
        command: Command,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut node = Self { directory, _temporary: None, command, running: None };
        node.command
            .args(["--listen", "127.0.0.1:0"])
            .env("FANFARE_TELEMETRY__LOG_FORMAT", "json")
            .envs(settings.iter().copied())
            .stderr(Stdio::piped());
        node.restart().await?;
        Ok(node)
    }

    /// Starts the process again on the same directory.
    ///
    /// # Errors
    /// If it does not become ready; its log is in the error.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let mut process = self.command.spawn()?;
        let log = process.stderr.take().context("stderr is piped")?;
        let (found, ready) = oneshot::channel();
        tokio::task::spawn_blocking(move || follow(log, found));
        let running = self.running.insert(Running { process, address: String::new() });
        running.address =
            timeout(START_DEADLINE, ready).await.context("the node was not ready in time")???;
        Ok(())
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    ///
    /// # Errors
    /// If it was not running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the node is not running")?;
        running.process.kill()?;
        running.process.wait()?;
        Ok(())
    }

    /// Address at which the running process serves gRPC, such as `http://127.0.0.1:4000`.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.running.as_ref().map(|running| running.address.as_str())
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The first account's key.
    ///
    /// # Errors
    /// If the founding did not write one.
    pub fn key(&self) -> anyhow::Result<String> {
        let path = self.directory.join("first-key");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }
}

/// Founds a node in `directory` by `fanfare init`.
///
/// # Errors
/// If the program refuses.
pub fn found(mut program: Command, directory: &Path, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let output =
        program.arg("init").arg("--data-dir").arg(directory).envs(settings.iter().copied()).output()?;
    anyhow::ensure!(output.status.success(), "init failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Reads the process's log to its end: an unread pipe would stop it. Tells the address of the ready line.
fn follow(log: ChildStderr, found: oneshot::Sender<anyhow::Result<String>>) -> anyhow::Result<()> {
    let mut lines = BufReader::new(log).lines();
    if found.send(ready_address(&mut lines)).is_err() {
        return Ok(());
    }
    for line in lines {
        eprintln!("node: {}", line?);
    }
    Ok(())
}

fn ready_address(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> anyhow::Result<String> {
    let mut log = Vec::new();
    for line in lines {
        let line = line?;
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let fields = &parsed["fields"];
        if fields["message"] == "ready" {
            return Ok(format!(
                "http://{}",
                fields["grpc"].as_str().context("the address in the ready line")?
            ));
        }
        log.push(line);
    }
    bail!("the node stopped before it was ready:\n{}", log.join("\n"))
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended by itself; either way it must not outlive the test.
        if self.process.kill().is_ok() {
            self.process.wait().ok();
        }
    }
}
