//! Conversion of times between the API and the node.

use fanfare_model::Timestamp;

use crate::problem::Problem;

pub(super) fn to_api(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time.0 / 1000).expect("a year below 292 million"),
        nanos: i32::try_from(time.0 % 1000).expect("below 1000") * 1_000_000,
    }
}

/// Rounds up to milliseconds, in which events are stamped, so that no event before `time` is meant. Times before 1970
/// become 1970.
///
/// # Errors
/// If the nanoseconds are out of range.
pub(super) fn from_api(field: &'static str, time: prost_types::Timestamp) -> Result<Timestamp, Problem> {
    let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.ok_or_else(|| Problem::field(field, "has nanos that are not 0 to 999999999"))?;
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    Ok(Timestamp(seconds.saturating_mul(1000).saturating_add(nanos.div_ceil(1_000_000))))
}

/// Rounds down to milliseconds; a duration of nothing is none.
///
/// # Errors
/// As [`duration_from_api`].
pub(super) fn duration_ms(
    field: &'static str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<u64>, Problem> {
    let Some(duration) = duration else { return Ok(None) };
    let is_nothing = (duration.seconds, duration.nanos) == (0, 0);
    duration_from_api(field, duration).map(|milliseconds| (!is_nothing).then_some(milliseconds))
}

/// Rounds down to milliseconds.
///
/// # Errors
/// If it is negative, or out of the range of a duration.
pub(super) fn duration_from_api(
    field: &'static str,
    duration: prost_types::Duration,
) -> Result<u64, Problem> {
    let nanos = u64::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let parts = nanos.zip(u64::try_from(duration.seconds).ok());
    let (nanos, seconds) = parts
        .ok_or_else(|| Problem::field(field, "is negative, or has nanos that are not 0 to 999999999"))?;
    Ok(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}

/// # Panics
/// If the duration is longer than 292 million years.
pub(super) fn duration_to_api(milliseconds: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(milliseconds / 1000).expect("a duration below 292 million years"),
        nanos: i32::try_from(milliseconds % 1000).expect("below 1000") * 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_and_negative_ones_are_refused() {
        let read = |seconds, nanos| duration_ms("wait", Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(duration_ms("wait", Some(duration_to_api(1_500))).unwrap(), Some(1_500));
        assert_eq!((duration_ms("wait", None).unwrap(), read(0, 0).unwrap()), (None, None));
        assert_eq!(read(0, 1).unwrap(), Some(0), "less than a millisecond is not absent");
        assert!(read(-1, 0).is_err() && read(0, -1).is_err() && read(0, 1_000_000_000).is_err());
    }

    #[test]
    fn times_survive_and_round_up() {
        let time = Timestamp(1_700_000_000_123);
        assert_eq!(from_api("time", to_api(time)).unwrap(), time);
        let api = |seconds, nanos| from_api("time", prost_types::Timestamp { seconds, nanos });
        assert_eq!(api(1, 1).unwrap(), Timestamp(1001));
        assert_eq!(api(-5, 0).unwrap(), Timestamp(0));
        assert_eq!(api(i64::MAX, 0).unwrap(), Timestamp(u64::MAX));
        assert!(api(1, -1).is_err());
        assert!(api(1, 1_000_000_000).is_err());
    }
}
