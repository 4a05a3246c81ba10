//! The outcome of a request's events, from the answer or from the error that came instead.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::fmt::rfc2822::DateTimeParser;
use tokio::time::{Instant, timeout_at};

use super::pool::RequestError;
use crate::{Failure, Outcome, egress::DialError, failure::root_cause};

const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
const BODY_BYTES_MAX: usize = 64 * 1024;
const EXCERPT_BYTES_MAX: usize = 256;
/// Short, because the head alone decides the outcome; the body decides only if the connection can be used again.
const BODY_TIME_MAX: Duration = Duration::from_secs(1);

/// The state of an answer's body when reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// The connection can carry another request.
    Reached,
    NotReached,
}

/// Reads the body within limits and gives the outcome. `now` is in Unix seconds.
pub(super) async fn read(response: Response<Incoming>, deadline: Instant, now: i64) -> (Outcome, BodyEnd) {
    let (head, mut body) = response.into_parts();
    let mut excerpt = Vec::new();
    let deadline = deadline.min(Instant::now() + BODY_TIME_MAX);
    let body_end =
        timeout_at(deadline, read_to_end(&mut body, &mut excerpt)).await.unwrap_or(BodyEnd::NotReached);
    (outcome(head.status, retry_after(&head.headers, now), &excerpt), body_end)
}

impl From<RequestError> for Outcome {
    fn from(error: RequestError) -> Self {
        let retry = |why| Self::Retry { after: None, why };
        let down = |why| Self::SinkDown { after: None, why };
        match error {
            RequestError::Dial(error) => down(dial_failure(&error)),
            RequestError::NoPermit(why) => down(why),
            RequestError::Timeout => retry(Failure::new(Failure::TIMEOUT, "no answer in time")),
            RequestError::Lost(error) if error.is_parse() || error.is_parse_too_large() => {
                down(Failure::new(Failure::PROTOCOL, &format!("the answer is not usable HTTP: {error}")))
            }
            RequestError::Lost(error) => {
                retry(Failure::new(Failure::CONNECTION_LOST, &format!("no answer: {error}")))
            }
        }
    }
}

/// Gives up after [`BODY_BYTES_MAX`]. `excerpt` gets the first bytes.
async fn read_to_end(body: &mut Incoming, excerpt: &mut Vec<u8>) -> BodyEnd {
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return BodyEnd::NotReached };
        let Some(data) = frame.data_ref() else { continue };
        received += data.len();
        let excerpt_bytes = data.len().min(EXCERPT_BYTES_MAX - excerpt.len());
        excerpt.extend_from_slice(&data[..excerpt_bytes]);
        if received > BODY_BYTES_MAX {
            return BodyEnd::NotReached;
        }
    }
    BodyEnd::Reached
}

/// The outcome that an HTTP status means for all events of its request.
///
/// Refused credentials and a destination that is gone are conditions of the sink, not of the event: no event is
/// given up for them. A redirect is a wrong destination.
fn outcome(status: StatusCode, after: Option<Duration>, excerpt: &[u8]) -> Outcome {
    if status.is_success() {
        return Outcome::Delivered;
    }
    let class = match status {
        StatusCode::GONE => Failure::GONE,
        _ if status.is_redirection() => Failure::REDIRECT,
        _ => Failure::HTTP_STATUS,
    };
    let mut message = status.to_string();
    if status.is_redirection() {
        message.push_str(": redirects are not followed, correct the destination");
    } else if status == StatusCode::GONE {
        message.push_str(": the receiver says that it is gone for good, correct the destination or delete the subscription");
    } else if !excerpt.is_empty() {
        message.push_str(": ");
        message.push_str(&String::from_utf8_lossy(excerpt));
    }
    let why = Failure::new(class, &message).with_status(status.as_u16());
    match status.as_u16() {
        429 => Outcome::Throttled { after, why },
        503 if after.is_some() => Outcome::Throttled { after, why },
        408 | 425 | 500.. => Outcome::Retry { after, why },
        ..=399 | 401 | 403 | 404 | 410 => Outcome::SinkDown { after, why },
        _ => Outcome::Rejected { why },
    }
}

/// `Retry-After` in seconds or as an HTTP date, at most an hour. A date in the past means no delay.
fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let date = DateTimeParser::new().parse_timestamp(value).ok()?;
        Duration::from_secs(u64::try_from(date.as_second() - now).unwrap_or(0))
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Names the failed step without telling a tenant the addresses that the name resolved to.
fn dial_failure(error: &DialError) -> Failure {
    match error {
        DialError::Forbidden => Failure::new(Failure::ADDRESS_FORBIDDEN, &error.to_string()),
        DialError::Resolve(_) => Failure::new(Failure::DNS, "the destination's name does not resolve"),
        DialError::Connect(cause) => Failure::new(Failure::CONNECT, &format!("connect: {}", cause.kind())),
        DialError::Timeout(_) => Failure::new(Failure::CONNECT, &error.to_string()),
        DialError::Tls(cause) => {
            Failure::new(Failure::TLS, &format!("{error}: {}", root_cause(cause.as_ref())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16) -> &'static str {
        match outcome(StatusCode::from_u16(status).unwrap(), None, b"") {
            Outcome::Delivered => "delivered",
            Outcome::Retry { .. } => "retry",
            Outcome::Throttled { .. } => "throttled",
            Outcome::Rejected { .. } => "rejected",
            Outcome::SinkDown { .. } => "down",
        }
    }

    #[test]
    fn each_status_has_its_outcome() {
        for (meaning, statuses) in [
            ("delivered", vec![200, 201, 202, 204, 299]),
            ("throttled", vec![429]),
            ("retry", vec![408, 425, 500, 501, 502, 503, 504, 599, 999]),
            ("down", vec![101, 300, 301, 302, 303, 304, 307, 308, 401, 403, 404, 410]),
            ("rejected", vec![400, 402, 405, 406, 409, 411, 413, 415, 418, 421, 422, 451, 499]),
        ] {
            for status in statuses {
                assert_eq!(kind(status), meaning, "{status}");
            }
        }
    }

    #[test]
    fn an_unavailable_receiver_that_names_a_time_throttles() {
        let after = Some(Duration::from_secs(3));
        let answer = outcome(StatusCode::SERVICE_UNAVAILABLE, after, b"");
        assert!(matches!(answer, Outcome::Throttled { after: Some(named), .. } if Some(named) == after));
        assert!(matches!(outcome(StatusCode::BAD_GATEWAY, after, b""), Outcome::Retry { .. }));
    }

    #[test]
    fn failure_shows_status_and_a_short_printable_excerpt() {
        let Outcome::Retry { why, .. } = outcome(StatusCode::BAD_GATEWAY, None, b"no\r\n\x1b[2Jupstream\xff")
        else {
            panic!("502 is worth a retry")
        };
        assert_eq!((why.class, why.status), (Failure::HTTP_STATUS, 502));
        assert_eq!(why.message, "502 Bad Gateway: no   [2Jupstream\u{fffd}");
        let Outcome::SinkDown { why, .. } = outcome(StatusCode::FOUND, None, b"<html>") else {
            panic!("a redirect is a wrong destination")
        };
        let Outcome::SinkDown { why: gone, .. } = outcome(StatusCode::GONE, None, b"bye") else {
            panic!("a destination that is gone is an outage")
        };
        assert_eq!((gone.class, gone.status), (Failure::GONE, 410));
        assert!(gone.message.contains("correct the destination or delete"), "{}", gone.message);
        assert_eq!(why.class, Failure::REDIRECT);
        assert!(why.message.contains("correct the destination"), "{}", why.message);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_at_most_an_hour() {
        let now = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, wait_seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("3601", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("Mon, 06 Nov 2034 08:49:37 GMT", Some(3600)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), wait_seconds.map(Duration::from_secs), "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
