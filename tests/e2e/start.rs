//! Starting wrongly: each mistake is named, with the way out, and nothing is touched.

use std::process::{Command, Output};

use fanfare_tests::node::{Node, found, program};

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
    found(Command::new(program()?), directory.path(), &[])?;
    let taken = node.address().unwrap().trim_start_matches("http://");
    let output = serve(&["--listen", taken, "--data-dir", directory.path().to_str().unwrap()])?;
    assert_refused(&output, &[taken, "in use", "--listen"]);
    Ok(())
}

#[test]
fn a_directory_without_a_node_is_refused_and_left_as_it_is() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let directory = folder.path().join("data");
    let path = directory.to_str().unwrap();
    assert_refused(&serve(&["--listen", "127.0.0.1:0", "--data-dir", path])?, &["fanfare init", path]);
    assert!(!directory.exists());
    std::fs::create_dir(&directory)?;
    std::fs::write(directory.join("thesis.txt"), "mine")?;
    assert_refused(&serve(&["--listen", "127.0.0.1:0", "--data-dir", path])?, &["thesis.txt"]);
    assert_eq!(std::fs::read_dir(&directory)?.count(), 1);
    Ok(())
}

#[tokio::test]
async fn fewer_partitions_than_the_node_has_are_refused_with_both_numbers() -> anyhow::Result<()> {
    let mut node = Node::start(&[("FANFARE_PUBLISH__PARTITIONS", "3")]).await?;
    node.kill()?;
    let output = Command::new(program()?)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(node.directory())
        .env("FANFARE_PUBLISH__PARTITIONS", "1")
        .output()?;
    assert_refused(&output, &["publish.partitions is 1", "the node has 3", "--config"]);
    Ok(())
}

#[test]
fn a_closed_pipe_ends_dev_in_order_and_leaves_nothing() -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let output = Command::new("sh")
        .args([
            "-c",
            "{ \"$0\" dev --ephemeral --port 0 --receiver-port 0 --rate 50; echo \"rc $?\" >&2; } | head -3",
        ])
        .arg(program()?)
        .env("TMPDIR", temporary.path())
        .env("FANFARE_CONTEXT_FILE", temporary.path().join("client/context.toml"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("rc 0") && !said.contains("panicked"), "{said}");
    let left = std::fs::read_dir(temporary.path())?.map(|entry| entry.map(|entry| entry.file_name()));
    assert_eq!(left.collect::<Result<Vec<_>, _>>()?, ["client"], "the folder of --ephemeral is removed");
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
