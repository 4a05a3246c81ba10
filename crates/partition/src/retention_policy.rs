//! The log start that retention asks for: whole segments, by age and by size, never inside the dedup window.

use fanfare_log::SegmentSpan;
use fanfare_model::{Offset, Timestamp};

/// Age and size up to which events are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetentionPolicy {
    pub(crate) age_ms: u64,
    /// Size above which events leave, unless they are protected. A quarter more, and none is protected.
    pub(crate) bytes_max: u64,
}

/// Events that stay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeptEvents {
    /// From here on for the dedup window.
    pub(crate) dedup: Option<Offset>,
    /// From here on because others than those that take too much room still need them.
    pub(crate) protected: Option<Offset>,
}

impl RetentionPolicy {
    /// Upper bound of the bytes kept: the age bounds them further.
    pub(crate) fn bytes_limit(self) -> u64 {
        self.bytes_max.saturating_add(self.bytes_max / 4)
    }

    /// The end of the newest sealed segment (`segments` are oldest first) that is too old, or that must go so that the
    /// rest fits. None if nothing above `log_start` is due.
    pub(crate) fn target(
        self,
        segments: &[SegmentSpan],
        now: Timestamp,
        log_start: Offset,
        kept: KeptEvents,
    ) -> Option<Offset> {
        let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let mut target = None;
        for segment in segments.iter().take_while(|segment| segment.sealed) {
            let is_old = now.millis_since(Timestamp(segment.time_ms_max)) > self.age_ms;
            let end = Offset(segment.end_offset);
            let is_protected = kept.protected.is_some_and(|from| from < end);
            let is_too_much = left > if is_protected { self.bytes_limit() } else { self.bytes_max };
            if !(is_old || is_too_much) || kept.dedup.is_some_and(|from| from < end) {
                break;
            }
            left -= segment.bytes;
            target = Some(end);
        }
        target.filter(|target| *target > log_start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sealed segments of 10 events and 100 bytes each, the newest event of each at these times, and an active one.
    fn segments(times: &[u64]) -> Vec<SegmentSpan> {
        let span = |at: u64, time_ms_max, sealed| SegmentSpan {
            first_index: at * 10,
            last: Default::default(),
            base_offset: at * 10,
            end_offset: at * 10 + 10,
            time_ms_max,
            bytes: 100,
            sealed,
        };
        let mut spans: Vec<_> = times.iter().zip(0..).map(|(&time, at)| span(at, time, true)).collect();
        spans.push(span(times.len() as u64, 0, false));
        spans
    }

    #[test]
    fn only_whole_sealed_segments_are_removed() {
        let keep = |age_ms, bytes_max| RetentionPolicy { age_ms, bytes_max };
        let cases = [
            (keep(1_000, 1_000), 1_200, 0, None, None, "nothing is old"),
            (keep(1_000, 1_000), 1_301, 0, None, Some(20), "two are too old"),
            (keep(1_000, 1_000), 9_999, 0, None, Some(40), "the active one stays however old"),
            (keep(1_000, 500), 1_000, 0, None, None, "it fits"),
            (keep(1_000, 499), 1_000, 0, None, Some(10), "one must go"),
            (keep(1_000, 0), 1_000, 0, None, Some(40), "the active one stays however large"),
            (keep(1_000, 0), 1_000, 0, Some(25), Some(20), "the dedup window stays"),
            (keep(1_000, 0), 1_000, 0, Some(9), None, "the dedup window is all there is"),
            (keep(1_000, 1_000), 1_301, 20, None, None, "it is trimmed already"),
        ];
        for (retention, now, log_start, keep_from, expected, why) in cases {
            let spans = segments(&[200, 300, 400, 500]);
            let kept = KeptEvents { dedup: keep_from.map(Offset), protected: None };
            let target = retention.target(&spans, Timestamp(now), Offset(log_start), kept);
            assert_eq!(target, expected.map(Offset), "{why}");
        }
    }

    #[test]
    fn protected_events_stay_beyond_the_size_and_neither_beyond_the_age_nor_a_quarter_more() {
        let cases = [
            (400, 1_000, 0, None, "all is protected, and 500 are a quarter more"),
            (400, 1_000, 10, Some(10), "events that are not protected leave"),
            (300, 1_000, 50, Some(20), "nothing is protected"),
            (400, 1_301, 0, Some(20), "too old"),
            (200, 1_000, 0, Some(30), "more than a quarter over the size"),
        ];
        for (bytes_max, now, protected, expected, why) in cases {
            let retention = RetentionPolicy { age_ms: 1_000, bytes_max };
            let spans = segments(&[200, 300, 400, 500]);
            let kept = KeptEvents { dedup: None, protected: Some(Offset(protected)) };
            let target = retention.target(&spans, Timestamp(now), Offset::ZERO, kept);
            assert_eq!(target, expected.map(Offset), "{why}");
        }
    }
}
