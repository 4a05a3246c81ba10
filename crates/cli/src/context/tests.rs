use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt};

use super::*;

fn environment(entries: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let entries: HashMap<_, _> =
        entries.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    move |name| entries.get(name).cloned()
}

#[test]
fn flags_precede_the_environment_which_precedes_the_file() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("context.toml");
    save(&path, "file", "http://file:1", "file-key").unwrap();
    save(&path, "other", "http://other:1", "other-key").unwrap();
    let path = path.to_str().unwrap();
    let cases = [
        // (flags, environment, expected address, expected key)
        ((None, None), vec![("FANFARE_CONTEXT", "other")], "http://other:1", Some("other-key")),
        ((None, None), vec![], "http://file:1", Some("file-key")),
        ((None, None), vec![("FANFARE_KEY", "env-key")], "http://file:1", Some("env-key")),
        ((None, Some("flag-key")), vec![("FANFARE_KEY", "env-key")], "http://file:1", Some("flag-key")),
        (
            (None, None),
            vec![("FANFARE_ADDR", "http://env:1"), ("FANFARE_KEY", "k")],
            "http://env:1",
            Some("k"),
        ),
        (
            (Some("http://flag:1"), Some("k")),
            vec![("FANFARE_ADDR", "http://env:1")],
            "http://flag:1",
            Some("k"),
        ),
        // The file's key is for the file's node alone.
        ((Some("http://elsewhere:1"), None), vec![], "http://elsewhere:1", None),
        ((None, None), vec![("FANFARE_ADDR", "http://elsewhere:1")], "http://elsewhere:1", None),
        ((Some("file:1"), None), vec![], "file:1", Some("file-key")),
        ((Some("http://file:1/"), None), vec![], "http://file:1/", Some("file-key")),
    ];
    for ((addr, key), mut entries, expected_addr, expected_key) in cases {
        entries.push(("FANFARE_CONTEXT_FILE", path));
        let named = NamedConnection { context: None, addr, key };
        let connection = resolve(named, environment(&entries)).unwrap();
        assert_eq!((connection.addr.as_str(), connection.key.as_deref()), (expected_addr, expected_key));
        assert_eq!(connection.directory.as_deref(), Some(home.path()));
    }
}

#[test]
fn without_a_file_the_default_address_is_used() {
    let home = tempfile::tempdir().unwrap();
    let entries = [("HOME", home.path().to_str().unwrap())];
    let connection = resolve(NamedConnection::default(), environment(&entries)).unwrap();
    let directory = Some(home.path().join(".config/fanfare"));
    assert_eq!(connection, SavedConnection { addr: DEFAULT_ADDR.to_owned(), key: None, directory });
    assert_eq!(resolve(NamedConnection::default(), environment(&[])).unwrap().directory, None);
}

#[test]
fn the_file_is_where_the_environment_says() {
    let path = |entries: &[(&str, &str)]| path_from(environment(entries));
    assert_eq!(path(&[("HOME", "/h")]), Some("/h/.config/fanfare/context.toml".into()));
    assert_eq!(path(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]), Some("/x/fanfare/context.toml".into()));
    let all = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/x"), ("FANFARE_CONTEXT_FILE", "/f.toml")];
    assert_eq!(path(&all), Some("/f.toml".into()));
    assert_eq!(path(&[]), None);
}

#[test]
fn context_of_a_flag_comes_before_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("context.toml");
    save(&path, "dev", "http://dev:1", "dev-key").unwrap();
    let entries = [
        ("FANFARE_CONTEXT_FILE", path.to_str().unwrap()),
        ("FANFARE_ADDR", "http://env:1"),
        ("FANFARE_KEY", "env-key"),
        ("FANFARE_CONTEXT", "nope"),
    ];
    let named = |name| NamedConnection { context: Some(name), ..NamedConnection::default() };
    let connection = resolve(named("dev"), environment(&entries)).unwrap();
    assert_eq!((connection.addr.as_str(), connection.key.as_deref()), ("http://dev:1", Some("dev-key")));
    let error = resolve(named("nope"), environment(&entries)).unwrap_err();
    assert!(error.to_string().contains("saved: dev"), "{error}");
}

#[test]
fn saving_one_context_leaves_the_others_and_the_selection() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("new").join("context.toml");
    assert_eq!(save(&path, "prod", "http://prod:1", "quote\" back\\slash").unwrap(), "prod");
    assert_eq!(save(&path, "dev", "http://dev:1", "first").unwrap(), "prod");
    assert_eq!(save(&path, "dev", "http://dev:2", "second").unwrap(), "prod");
    let saved = read(&path).unwrap();
    assert_eq!(saved.named("prod").unwrap().key.as_deref(), Some("quote\" back\\slash"));
    assert_eq!(saved.named("dev").unwrap().addr, "http://dev:2");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "the file and its lock");
}

#[test]
fn many_commands_at_once_lose_no_context() {
    let home = tempfile::tempdir().unwrap();
    let path = &home.path().join("context.toml");
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                for round in 0..10 {
                    save(path, &format!("{number}-{round}"), "http://a:1", "key").unwrap();
                }
            });
        }
    });
    assert_eq!(read(path).unwrap().contexts.len(), 80);
}

#[test]
fn context_without_a_name_is_kept_under_one() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("context.toml");
    fs::write(&path, "addr = \"http://prod:1\"\nkey = \"PROD\"\n").unwrap();
    assert_eq!(save(&path, "dev", "http://dev:1", "k").unwrap(), "default");
    assert_eq!(read(&path).unwrap().named("default").unwrap().key.as_deref(), Some("PROD"));
}

#[test]
fn a_broken_file_is_an_error_that_names_it_and_is_not_replaced() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("context.toml");
    for text in ["addr = 1", "addr = \"a\"\nkey = \"k\"\nkye = \"k\"", "curent = \"a\"", "junk"] {
        fs::write(&path, text).unwrap();
        let entries = [("FANFARE_CONTEXT_FILE", path.to_str().unwrap())];
        let error = resolve(NamedConnection::default(), environment(&entries)).unwrap_err();
        assert!(
            matches!(&error, ContextError::Parse { path: named, .. } if *named == path),
            "{text}: {error:?}"
        );
        assert!(save(&path, "dev", "http://dev:1", "k").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
