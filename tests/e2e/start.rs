//! Starting wrongly: each mistake is named, with the way out, and nothing is touched.

use std::process::{Command, Output};

use fanfare_tests::node::{Node, program};

fn serve(arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(program()?).arg("serve").args(arguments).output()?)
}

fn assert_refused(output: &Output, expected: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it started");
    for words in expected {
        assert!(said.contains(words), "expected {words:?} in: {said}");
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() -> anyhow::Result<()> {
    let node = Node::start(&[]).await?;
    let directory = node.directory().to_str().unwrap();
    let output = serve(&["--listen", "127.0.0.1:0", "--data-dir", directory])?;
    assert_refused(&output, &["in use", directory]);
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named() -> anyhow::Result<()> {
    let node = Node::start(&[]).await?;
    let directory = tempfile::tempdir()?;
    let taken = node.address().unwrap().trim_start_matches("http://");
    let output = serve(&["--listen", taken, "--data-dir", directory.path().to_str().unwrap()])?;
    assert_refused(&output, &[taken, "in use", "--listen"]);
    Ok(())
}

#[test]
fn a_typo_in_the_configuration_is_named_with_its_line() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("fanfare.toml");
    std::fs::write(&file, "[storage]\nretentoin = \"1h\"\n")?;
    let output = serve(&["--config", file.to_str().unwrap()])?;
    assert_refused(&output, &["fanfare.toml:2", "did you mean `retention`?"]);
    Ok(())
}
