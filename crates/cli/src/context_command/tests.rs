use super::*;

fn global(addr: Option<&str>, key: Option<&str>) -> GlobalOptions {
    GlobalOptions {
        context: None,
        addr: addr.map(str::to_owned),
        key: key.map(str::to_owned),
        output: crate::terminal::Format::Table,
        timeout_seconds: 30,
    }
}

fn arguments(name: &str) -> AddContextArguments {
    AddContextArguments { name: name.to_owned(), key_file: None, replace: false, select: false }
}

#[test]
fn contexts_are_added_selected_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("context.toml");
    let saved = || context::read(&path).unwrap();
    add(&path, arguments("prod"), &global(Some("http://prod:1"), Some("p"))).unwrap();
    add(&path, arguments("test"), &global(Some("http://test:1"), Some("t"))).unwrap();
    assert_eq!(saved().current.as_deref(), Some("prod"), "the first is selected, and stays so");

    let taken = add(&path, arguments("prod"), &global(Some("http://else:1"), None)).unwrap_err();
    assert!(taken.summary().contains("already"), "{}", taken.summary());
    assert_eq!(saved().named("prod").unwrap().key.as_deref(), Some("p"), "the key is not lost");
    for bad in ["", "a b", "../x", "é"] {
        assert!(add(&path, arguments(bad), &global(Some("http://x:1"), None)).is_err(), "{bad}");
    }
    assert!(add(&path, arguments("x"), &global(None, None)).is_err(), "an address is needed");

    select(&path, "test").unwrap();
    assert!(select(&path, "nope").unwrap_err().summary().contains("prod, test"), "the known ones are told");
    remove(&path, "test").unwrap();
    assert_eq!((saved().current, saved().contexts.len()), (None, 1));
    assert!(remove(&path, "test").is_err());
}

#[test]
fn key_may_come_from_a_file_and_is_shown_by_its_beginning() {
    let home = tempfile::tempdir().unwrap();
    let (path, file) = (home.path().join("context.toml"), home.path().join("key"));
    let key = format!("fanfare_sk_{}_{}", "0123456789abcdef".repeat(2), "s".repeat(64));
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let arguments = AddContextArguments { key_file: Some(file), ..arguments("prod") };
    add(&path, arguments, &global(Some("http://prod:1"), None)).unwrap();
    let saved = context::read(&path).unwrap();
    assert_eq!(saved.named("prod").unwrap().key.as_deref(), Some(key.as_str()));
    assert_eq!(masked(&key), "fanfare_sk_01234567…");
    assert_eq!(masked("short"), "…");
}
