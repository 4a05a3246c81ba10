//! Spans of time and how long ago or ahead a time is, for people.

use jiff::Timestamp;

/// Milliseconds from `now` to `time`; negative if it is past. None for a time that is none.
pub(crate) fn millis_until(time: Option<&prost_types::Timestamp>, now: Timestamp) -> Option<i64> {
    let time = time?;
    let time_ms = time.seconds.checked_mul(1000)?.checked_add(i64::from(time.nanos) / 1_000_000)?;
    time_ms.checked_sub(now.as_millisecond())
}

/// A span in its two largest units, such as `3h 40m`.
pub(crate) fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

/// `in 3h 40m`, `5s ago`, or `now` within half a second.
pub(crate) fn relative(millis: i64) -> String {
    match millis {
        -500..=500 => "now".to_owned(),
        501.. => format!("in {}", span(millis.unsigned_abs().max(1000))),
        _ => format!("{} ago", span(millis.unsigned_abs().max(1000))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let table = [
            (0, "0s"),
            (59_999, "59s"),
            (60_000, "1m 0s"),
            (3_599_999, "59m 59s"),
            (13_200_000, "3h 40m"),
            (187_200_000, "2d 4h"),
        ];
        for (millis, expected) in table {
            assert_eq!(span(millis), expected);
        }
        assert_eq!([relative(-90_000), relative(0), relative(700)], ["1m 30s ago", "now", "in 1s"]);
    }
}
