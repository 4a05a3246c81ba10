//! What goes to stdout: tables for people, or JSON for programs, one value per line.
//!
//! JSON names are those of the protobuf JSON mapping; 64-bit numbers stay numbers.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    Table,
    /// One JSON value per line
    Json,
}

/// Something the API returns, as it is shown.
pub(crate) trait Record {
    /// Headings of a list.
    const COLUMNS: &'static [&'static str];
    /// Cells under the headings.
    fn row(&self) -> Vec<String>;
    /// All fields.
    fn fields(&self) -> Map<String, Value>;
}

/// Stdout in the chosen format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// One record: its fields below each other, or one JSON object.
    pub(crate) fn record(self, record: &impl Record) -> Result<(), Failure> {
        self.fields(record.fields())
    }

    /// The same for what is not a record.
    pub(crate) fn fields(self, fields: Map<String, Value>) -> Result<(), Failure> {
        if self.is_json() {
            return self.line(&Value::Object(fields).to_string());
        }
        let rows = fields
            .iter()
            .filter(|(_, value)| !is_empty(value))
            .map(|(name, value)| vec![name.clone(), cell(value)])
            .collect();
        self.rows(rows)
    }

    /// Many records: a table, or a JSON object per line.
    pub(crate) fn list<T: Record>(self, records: &[T]) -> Result<(), Failure> {
        if self.is_json() {
            return records.iter().try_for_each(|record| self.record(record));
        }
        let mut rows = vec![T::COLUMNS.iter().map(|&heading| heading.to_owned()).collect()];
        rows.extend(records.iter().map(T::row));
        self.rows(rows)
    }

    /// One line as it is, but for control characters, which could command the terminal.
    pub(crate) fn line(self, line: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", printable(line)).and_then(|()| stdout.flush()).map_err(Failure::from_output)
    }

    /// Text of several lines.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        text.lines().try_for_each(|line| self.line(line))
    }

    fn rows(self, rows: Vec<Vec<String>>) -> Result<(), Failure> {
        aligned(&rows).iter().try_for_each(|line| self.line(line))
    }
}

/// Talk: what is not data goes to stderr. A closed stderr is nobody's loss.
pub(crate) fn say(text: &str) {
    drop(writeln!(io::stderr().lock(), "{}", printable(text)));
}

/// Fields of an object, for [`Record::fields`].
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn printable(line: &str) -> String {
    line.chars().map(|char| if char.is_control() && char != '\t' { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_blanks() {
        let rows = [["ID", "NAME"], ["é", "x"], ["longer", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows), ["ID      NAME", "é       x", "longer"]);
    }

    #[test]
    fn data_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\r"), "a\u{fffd}[2Jb\tc\u{fffd}");
    }
}
