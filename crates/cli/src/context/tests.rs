use std::{collections::HashMap, os::unix::fs::PermissionsExt};

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
    write(&path, "http://file:1", "file-key").unwrap();
    let path = path.to_str().unwrap();
    let cases = [
        // (flags, environment, expected address, expected key)
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
        let connection = resolve(addr, key, environment(&entries)).unwrap();
        assert_eq!((connection.addr.as_str(), connection.key.as_deref()), (expected_addr, expected_key));
        assert_eq!(connection.directory.as_deref(), Some(home.path()));
    }
}

#[test]
fn without_a_file_the_default_address_is_used() {
    let home = tempfile::tempdir().unwrap();
    let entries = [("HOME", home.path().to_str().unwrap())];
    let connection = resolve(None, None, environment(&entries)).unwrap();
    let directory = Some(home.path().join(".config/fanfare"));
    assert_eq!(connection, SavedConnection { addr: DEFAULT_ADDR.to_owned(), key: None, directory });
    assert_eq!(resolve(None, None, environment(&[])).unwrap().directory, None);
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
fn a_written_file_is_private_and_read_back_whatever_the_key_holds() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("new").join("context.toml");
    write(&path, "http://a:1", "first").unwrap();
    write(&path, "http://a:1", "quote\" back\\slash").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read(&path).unwrap().unwrap().key, "quote\" back\\slash");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something was left behind");
}

#[test]
fn a_broken_file_is_an_error_that_names_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("context.toml");
    for text in ["addr = 1", "addr = \"a\"", "addr = \"a\"\nkey = \"k\"\nkye = \"k\""] {
        fs::write(&path, text).unwrap();
        let entries = [("FANFARE_CONTEXT_FILE", path.to_str().unwrap())];
        let error = resolve(None, None, environment(&entries)).unwrap_err();
        assert!(matches!(error, ContextError::Parse { .. }), "{text}: {error:?}");
        assert_eq!(error.path(), path);
    }
}
