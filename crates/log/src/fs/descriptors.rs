//! File descriptors that are kept for the log: whatever else the process opens, the log can open its next file.

use std::{fs, io, path::Path, thread, time::Duration};

use parking_lot::Mutex;

use crate::error::is_files_exhausted;

/// More than a roll, a checkpoint and a rewrite of the journal open at once.
const RESERVE_MAX: usize = 16;
/// Wait for a descriptor when the reserve is used up, too.
const WAIT_MAX: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// Open files without a use. Descriptors belong to the process, so there is one reserve for all its logs.
static RESERVE: Mutex<Vec<fs::File>> = Mutex::new(Vec::new());

/// Calls `open` until it gets a descriptor: at the cost of the reserve first, then after others have closed theirs.
pub(super) fn with_reserve<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut waited = Duration::ZERO;
    loop {
        match open() {
            Err(error) if is_files_exhausted(&error) => {
                if RESERVE.lock().pop().is_some() {
                    continue;
                }
                if waited >= WAIT_MAX {
                    return Err(error);
                }
                waited += PAUSE;
                #[expect(clippy::disallowed_methods, reason = "whoever closes a descriptor tells nobody")]
                thread::sleep(PAUSE);
            }
            opened => {
                if opened.is_ok() && waited.is_zero() {
                    fill();
                }
                return opened;
            }
        }
    }
}

/// Takes descriptors into the reserve as long as there are any.
fn fill() {
    let mut reserve = RESERVE.lock();
    while reserve.len() < RESERVE_MAX
        && let Ok(spare) = fs::File::open(Path::new("/dev/null"))
    {
        reserve.push(spare);
    }
}
