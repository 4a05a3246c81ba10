//! Output on stdout: tables for people, or JSON for programs, one value per line.
//!
//! JSON names are those of the protobuf JSON mapping; 64-bit numbers stay numbers.

use std::io::{self, Write};

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    failure::Failure,
    terminal::{Format, printable},
};

/// Something the API returns, as it is shown.
pub(crate) trait OutputRecord {
    /// Headings of a list.
    const COLUMNS: &'static [&'static str];
    /// Cells under the headings.
    fn row(&self) -> Vec<String>;
    /// All fields.
    fn fields(&self) -> OutputFields;
}

/// Names and values of one JSON object, in the order they are shown.
#[derive(Debug, Default)]
pub(crate) struct OutputFields(Vec<(&'static str, Box<RawValue>)>);

impl OutputFields {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Self {
        self.0.push((name, to_raw_value(value).expect("names are text and nothing else can fail")));
        self
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl Serialize for OutputFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
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
    pub(crate) fn record(self, record: &impl OutputRecord) -> Result<(), Failure> {
        self.fields(record.fields())
    }

    /// The same for what is not a record.
    pub(crate) fn fields(self, fields: OutputFields) -> Result<(), Failure> {
        if self.is_json() {
            return self.line(&json_text(&fields));
        }
        let fields =
            fields.0.iter().filter(|(_, value)| !matches!(value.get(), "null" | "\"\"" | "[]" | "{}"));
        self.rows(fields.map(|(name, value)| vec![(*name).to_owned(), cell(value)]).collect())
    }

    /// Many records: a table, or a JSON object per line.
    pub(crate) fn list<T: OutputRecord>(self, records: &[T]) -> Result<(), Failure> {
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

/// One line of JSON.
pub(crate) fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names are text and nothing else can fail")
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

/// Text without its quotes, anything else as JSON.
fn cell(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
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
    fn fields_keep_their_order_and_their_numbers() {
        let raw = RawValue::from_string("{\"b\": 1.50, \"a\": 2}".to_owned()).unwrap();
        let fields = OutputFields::new()
            .with("z", "x\"y")
            .with("a", &u64::MAX)
            .and(OutputFields::new().with("data", &raw));
        let expected = r#"{"z":"x\"y","a":18446744073709551615,"data":{"b": 1.50, "a": 2}}"#;
        assert_eq!(json_text(&fields), expected);
        let cells: Vec<_> = fields.0.iter().map(|(_, value)| cell(value)).collect();
        assert_eq!(cells, ["x\"y", "18446744073709551615", "{\"b\": 1.50, \"a\": 2}"]);
    }
}
