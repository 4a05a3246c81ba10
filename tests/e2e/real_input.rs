//! Real payloads, real schemas, real verifiers, a real Python client: see `real_input/account.py`.
//!
//! Installs what it needs (a Python environment, two npm packages) below the build folder, and fails loudly
//! if it cannot.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use fanfare_tests::node::program;

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// A Python with the packages of `requirements.txt`, made once per build folder.
fn python(suite: &Path, tools: &Path) -> anyhow::Result<PathBuf> {
    let (environment, wanted) = (tools.join("python"), suite.join("requirements.txt"));
    let (python, installed) = (environment.join("bin/python"), environment.join("requirements.txt"));
    if std::fs::read(&installed).ok() != Some(std::fs::read(&wanted)?) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&wanted))?;
        std::fs::copy(&wanted, &installed)?;
    }
    Ok(python)
}

/// The folder of the npm packages of `package.json`, filled once per build folder.
fn node_modules(suite: &Path, tools: &Path) -> anyhow::Result<PathBuf> {
    let folder = tools.join("npm");
    let (wanted, installed) = (suite.join("package.json"), folder.join("package.json"));
    if std::fs::read(&installed).ok() != Some(std::fs::read(&wanted)?)
        || !folder.join("node_modules").exists()
    {
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(&wanted, &installed)?;
        run(Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund"])
            .current_dir(&folder))?;
    }
    Ok(folder.join("node_modules"))
}

#[test]
fn every_real_payload_is_accounted_for_across_a_kill() -> anyhow::Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ lies in the root")?;
    let suite = project.join("tests/e2e/real_input");
    let program = program()?;
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real-input");
    let work = tempfile::tempdir()?;
    run(Command::new(python(&suite, &tools)?)
        .arg(suite.join("account.py"))
        .arg(program)
        .arg(project.join("proto"))
        .arg(node_modules(&suite, &tools)?)
        .arg(work.path()))
}
