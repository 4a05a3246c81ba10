//! How long a data directory takes to open after an unclean stop.
//!
//! `cargo run --release -p fanfare-log --example recovery -- DIRECTORY [GIB] [PAYLOAD_BYTES]` fills twelve logs, ends
//! without closing them, and opens them with cold and with warm files, one after the other and all at once.
use std::{
    env,
    error::Error,
    fs,
    path::Path,
    process::{Command, exit},
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfare_environment::Environment;
use fanfare_log::{
    DiskFileSystem, FileSystem, Log, NewFrame, OpenError, Payload, Position, RollPolicy, Store, StoreOptions,
};

const LOGS: u64 = 12;
const SEGMENT_BYTES: u64 = 64 << 20;
const ROUND_BYTES: usize = 4 << 20;
const FILL: &str = "fill";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let text = |place: usize, default: &str| arguments.get(place).map_or(default, String::as_str).to_owned();
    let directory = arguments.get(1).ok_or("name a directory that may be filled and deleted")?;
    let (gib, payload_bytes) = (text(2, "4").parse::<usize>()?, text(3, "1048576").parse::<usize>()?);
    let data = Path::new(directory).join("recovery");
    if arguments.get(4).is_some_and(|argument| argument == FILL) {
        return fill(&data, gib << 30, payload_bytes);
    }
    let (gib_text, payload_text) = (gib.to_string(), payload_bytes.to_string());
    let filled = Command::new(env::current_exe()?)
        .args([directory.as_str(), &gib_text, &payload_text, FILL])
        .status()?;
    println!("filled {gib} GiB in frames of {payload_bytes} bytes: {filled}");
    for (name, warm, at_once) in
        [("cold, in turn", false, false), ("warm, in turn", true, false), ("cold, at once", false, true)]
    {
        if !warm {
            forget(&data)?;
        }
        println!("{name}: {:.2} s", open_all(&data, at_once)?.as_secs_f64());
    }
    fs::remove_dir_all(&data)?;
    Ok(())
}

fn open(data: &Path) -> Result<Store, OpenError> {
    let options = StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        pool_segments_max: 0,
        cache_bytes: 32 << 20,
        queue_bytes_max: 64 << 20,
        index_draft_bytes_max: 64 << 20,
        page_cache_bytes: 256 << 20,
    };
    Store::open(
        &Environment::system(),
        Arc::new(DiskFileSystem),
        data,
        options,
        Box::new(|fatal| panic!("{fatal}")),
    )
}

fn open_log(store: &Store, number: u64) -> Result<Log, OpenError> {
    store.open_log(
        &format!("events-{number}"),
        number,
        RollPolicy { segment_bytes: SEGMENT_BYTES, age_ms: u64::MAX },
    )
}

/// Ends the process, and the store uncleanly.
fn fill(data: &Path, bytes: usize, payload_bytes: usize) -> Result<(), Box<dyn Error>> {
    let store = open(data)?;
    let logs: Vec<Log> = (0..LOGS).map(|number| open_log(&store, number)).collect::<Result<_, _>>()?;
    let payload = Bytes::from(vec![7; payload_bytes]);
    let frames_per_round = (ROUND_BYTES / payload_bytes).max(1) as u64;
    let rounds = bytes as u64 / (frames_per_round * payload_bytes as u64 * LOGS);
    for round in 0..rounds {
        let (done, durable) = sync_channel(logs.len());
        for log in &logs {
            let first = 1 + round * frames_per_round;
            let frame = |index| NewFrame {
                kind: 1,
                position: Position { term: 1, leader: 1, index },
                count: 1,
                time_ms: 1,
                payload: Payload::new(vec![payload.clone()]),
            };
            let done = done.clone();
            let told = Box::new(move |result| done.send(result).expect("the writer waits"));
            log.append((first..first + frames_per_round).map(frame).collect(), told);
        }
        for _ in &logs {
            durable.recv()??;
        }
    }
    exit(0);
}

fn forget(data: &Path) -> Result<(), Box<dyn Error>> {
    for log in fs::read_dir(data.join("logs"))? {
        for file in fs::read_dir(log?.path())? {
            let file = DiskFileSystem.open(&file?.path())?;
            file.drop_cached(0..file.length()?)?;
        }
    }
    Ok(())
}

fn open_all(data: &Path, at_once: bool) -> Result<Duration, Box<dyn Error>> {
    let before = Instant::now();
    let store = open(data)?;
    if at_once {
        let opened = (0..LOGS).map(|number| (store.clone(), number));
        let threads: Vec<_> =
            opened.map(|(store, number)| thread::spawn(move || open_log(&store, number).map(drop))).collect();
        for thread in threads {
            thread.join().expect("no panic")?;
        }
    } else {
        for number in 0..LOGS {
            open_log(&store, number)?;
        }
    }
    let took = before.elapsed();
    // Without closing: the next opening finds an unclean stop as well.
    drop(store);
    Ok(took)
}
