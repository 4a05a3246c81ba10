//! The formats on disk, byte for byte: what this version writes is what the files beside this say, and a directory
//! made of them opens. A difference is a change of format, which needs a new version.
use std::{path::Path, sync::Arc};

use fanfare_environment::Environment;
use fanfare_log::{FileSystem, MemoryFileSystem, Position, Store};

use crate::support::{
    DIR, LOG, NumberSequence, REPLICA, append, frame, open_in, open_store, options, roll, wait,
};

const FILES: [(&str, &[u8]); 8] = [
    ("identity", include_bytes!("../golden/identity")),
    ("journal", include_bytes!("../golden/journal")),
    ("files/checkpoint", include_bytes!("../golden/checkpoint")),
    ("logs/events-0/0000000000000001.seg", include_bytes!("../golden/first.seg")),
    ("logs/events-0/0000000000000001.idx", include_bytes!("../golden/first.idx")),
    ("logs/events-0/0000000000000002.seg", include_bytes!("../golden/second.seg")),
    ("logs/events-0/0000000000000002.idx", include_bytes!("../golden/second.idx")),
    ("logs/events-0/0000000000000003.seg", include_bytes!("../golden/third.seg")),
];

/// The file, without most of the room that the journal has for more records.
fn content(fs: &MemoryFileSystem, name: &str) -> Vec<u8> {
    let mut bytes = fs.content(&Path::new(DIR).join(name)).expect("the file was written");
    if name == "journal" {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(end.next_multiple_of(512));
    }
    bytes
}

/// Each kind of file and record, and frames of two epochs.
fn write() -> MemoryFileSystem {
    let fs = MemoryFileSystem::default();
    let environment = Environment::system().with_random(Arc::new(NumberSequence::default()));
    let open = || {
        let store = open_in(&environment, &fs, options()).expect("open");
        let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
        (store, log)
    };
    for run in 0..2_u64 {
        let (store, log) = open();
        let first = 1 + run * 4;
        let frames = (first..first + 4).map(|index| frame(index, 1 + run, 300)).collect();
        append(&log, frames).expect("append");
        wait(|done| log.save_vote(vec![9, 8, 7], done)).expect("vote");
        store.save_file("checkpoint", 2, b"state").expect("save");
        store.close();
    }
    let (store, log) = open();
    wait(|done| log.truncate_after(Some(7), done)).expect("truncate");
    wait(|done| log.purge(Position { term: 1, leader: 1, index: 2 }, 5, done)).expect("purge");
    append(&log, vec![frame(8, 3, 300)]).expect("append");
    store.close();
    drop((store, log));
    // A start leaves a journal of one record per log.
    drop(open_in(&environment, &fs, options()).expect("open"));
    fs
}

#[test]
fn the_formats_on_disk_have_not_changed() {
    let fs = write();
    for (name, golden) in FILES {
        assert_eq!(content(&fs, name), golden, "{name}");
    }
}

#[test]
fn a_directory_of_golden_files_opens() {
    let fs = MemoryFileSystem::default();
    for dir in ["", "files", "pool", "logs/events-0"] {
        fs.create_dir(&Path::new(DIR).join(dir)).expect("create directory");
    }
    for (name, golden) in FILES {
        let file = fs.create(&Path::new(DIR).join(name)).expect("create");
        file.write_all_at(golden, 0).expect("write");
    }
    let store: Store = open_store(&fs).expect("open");
    assert_eq!(store.load_file("checkpoint").expect("load"), Some((2, b"state".to_vec())));
    let log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    assert_eq!(log.vote(), Some(vec![9, 8, 7]));
    assert_eq!((log.bounds().start_offset, log.bounds().purged.map(|purged| purged.index)), (5, Some(2)));
    let frames = log.read(3, 100, u64::MAX).expect("read");
    let expected = [(3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3)];
    assert_eq!(frames.len(), expected.len());
    for (held, (index, term)) in frames.iter().zip(expected) {
        let appended = frame(index, term, 300);
        assert_eq!((held.header.position, &held.payload), (appended.position, &appended.payload));
    }
}
