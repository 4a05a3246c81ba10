use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_secret_stays_the_same_and_is_private() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("fanfare");
    let first = stable_secret(Some(&directory)).unwrap();
    let second = stable_secret(Some(&directory)).unwrap();
    assert_eq!(first.expose(), second.expose());
    let mode = fs::metadata(directory.join(SECRET_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_secret_is_named_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(SECRET_FILE);
    fs::write(&path, "whsec_short").unwrap();
    let failure = stable_secret(Some(home.path())).err().unwrap();
    assert!(failure.summary().contains(SECRET_FILE), "{}", failure.summary());
    assert_eq!(fs::read_to_string(&path).unwrap(), "whsec_short");
}

#[test]
fn only_plain_http_is_forwarded_to() {
    assert!(forward_target("http://localhost:3000/hook").is_ok());
    for bad in ["https://localhost/", "localhost:3000", "http://", "ftp://x/", "/hook"] {
        assert!(forward_target(bad).is_err(), "{bad} was taken");
    }
}
