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

#[cfg(test)]
mod tests {
    use super::*;

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
