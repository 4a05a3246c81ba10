//! A process without file descriptors is no failed disk: the log has a reserve.
use std::{env, fs, process::Command, sync::Arc};

use fanfare_environment::Environment;
use fanfare_log::{DiskFileSystem, Store};

use crate::support::{LOG, REPLICA, append_range, options, read_all, roll};

const CHILD: &str = "FANFARE_TEST_WITHOUT_DESCRIPTORS";

#[test]
fn log_rolls_and_saves_files_when_all_descriptors_are_taken() {
    if env::var_os(CHILD).is_some() {
        return without_descriptors();
    }
    let program = env::current_exe().expect("this test");
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""])
        .arg(program)
        .args([
            "--exact",
            "descriptors::log_rolls_and_saves_files_when_all_descriptors_are_taken",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .expect("a shell");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

/// Runs in a process of its own that may open 100 files.
fn without_descriptors() {
    let temporary = tempfile::tempdir().expect("temporary directory");
    let fatal = Box::new(|fatal: &fanfare_log::Fatal| {
        eprintln!("the store failed: {fatal}");
        std::process::abort();
    });
    let environment = Environment::system();
    let store = Store::open(&environment, Arc::new(DiskFileSystem), temporary.path(), options(), fatal)
        .expect("open");
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    append_range(&log, 1..10, 1, 150);
    let mut taken = Vec::new();
    let exhausted = loop {
        match fs::File::open("/dev/null") {
            Ok(file) => taken.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(exhausted.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
    // A dozen segments of 2 KiB: more than were made ahead.
    append_range(&log, 10..100, 1, 150);
    store.save_file("checkpoint", 3, b"state").expect("save");
    assert_eq!(read_all(&log).len(), 99);
}
