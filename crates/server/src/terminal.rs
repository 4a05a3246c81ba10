//! Text on the standard streams. A reader that has gone away is no reason to abort the process.

use std::io::{self, Write};

/// Writes `text` and a newline to standard error. A closed stream is nobody's loss.
pub(crate) fn say(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Writes `text` and a newline to standard output.
///
/// # Errors
/// If the stream is closed or its disk is full. [`io::ErrorKind::BrokenPipe`] is a reader that has seen enough.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// True if `error` only says that the reader of standard output has gone away.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
