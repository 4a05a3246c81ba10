//! Times as people write and read them: RFC 3339, UTC.

use jiff::Timestamp;

/// The time as text; empty if absent or out of range.
#[must_use]
pub fn text(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// Parses RFC 3339.
///
/// # Errors
/// If `text` is something else.
pub fn parse(text: &str) -> Result<prost_types::Timestamp, jiff::Error> {
    let time: Timestamp = text.parse()?;
    Ok(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_being_read_and_printed() {
        let time = parse("2026-01-02T03:04:05.678Z").unwrap();
        assert_eq!(text(Some(&time)), "2026-01-02T03:04:05.678Z");
        assert_eq!(text(None), "");
        assert!(parse("yesterday").is_err());
    }
}
