//! The terminal: the format of data, and text beside the data.

use std::io::{self, Write};

use clap::ValueEnum;

/// Format of printed data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    Table,
    /// One JSON value per line
    Json,
}

/// Prints what is not data, to stderr. A closed stderr is nobody's loss.
pub(crate) fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    drop(text.lines().try_for_each(|line| writeln!(stderr, "{}", printable(line))));
}

/// `line` without the control characters that could command a terminal.
pub(crate) fn printable(line: &str) -> String {
    line.chars().map(|char| if char.is_control() && char != '\t' { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\r"), "a\u{fffd}[2Jb\tc\u{fffd}");
    }
}
