//! One request to the receiver: its route, its events, its answer.

use std::{borrow::Cow, io, sync::atomic::Ordering, time::Instant};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use super::{AnswerMode, ReceivedEvent, ReceiverState};

const BODY_BYTES_MAX: usize = 8 << 20;

type Answer = Response<Full<Bytes>>;

/// Attributes of an event that the receiver reads.
#[derive(Deserialize)]
struct EventAttributes<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
}

/// Answers, or ends the connection without an answer if the receiver is stopped while hanging.
pub(super) async fn answer(request: Request<Incoming>, state: &ReceiverState) -> io::Result<Answer> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match path.as_str() {
        "/webhook" if method == Method::POST || method == Method::PUT => take_events(request, state).await,
        "/webhook" => Ok(not_allowed("POST, PUT")),
        "/control" if method == Method::GET => Ok(show(state)),
        "/control" => Ok(not_allowed("GET")),
        "/control/ok" | "/control/hang" | "/control/fail" if method != Method::POST => {
            Ok(not_allowed("POST"))
        }
        "/control/ok" => Ok(switch(state, AnswerMode::Ok)),
        "/control/hang" => Ok(switch(state, AnswerMode::Hang)),
        "/control/fail" => Ok(match failing_status(request.uri().query()) {
            Some(status) => switch(state, AnswerMode::Fail(status)),
            None => {
                text(StatusCode::BAD_REQUEST, "status must be 300 to 599, as in /control/fail?status=503\n")
            }
        }),
        _ => Ok(text(StatusCode::NOT_FOUND, "there is /webhook and /control, /control/{ok,fail,hang}\n")),
    }
}

async fn take_events(request: Request<Incoming>, state: &ReceiverState) -> io::Result<Answer> {
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 8 MiB\n"));
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    let events = match parse(&body) {
        Ok(events) => events,
        Err(error) => return Ok(text(StatusCode::BAD_REQUEST, format!("not CloudEvents JSON: {error}\n"))),
    };
    let Some(status) = state.verdict().await else {
        return Err(io::Error::other("the receiver stops"));
    };
    let at = Instant::now();
    for EventAttributes { id, source, event_type } in events {
        let duplicate = if status.is_success() {
            state.seen.insert(&source, &id)
        } else {
            state.seen.contains(&source, &id)
        };
        let (id, event_type) = (id.into_owned(), event_type.into_owned());
        state.tell(ReceivedEvent { id, event_type, status: status.as_u16(), at, duplicate });
    }
    Ok(text(status, ""))
}

fn parse(body: &[u8]) -> serde_json::Result<Vec<EventAttributes<'_>>> {
    match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body),
        _ => Ok(vec![serde_json::from_slice(body)?]),
    }
}

/// The status of `status=503`; 503 if none is asked for. None if it is not one to fail with.
fn failing_status(query: Option<&str>) -> Option<StatusCode> {
    let Some(asked) = query.filter(|query| !query.is_empty()) else {
        return Some(StatusCode::SERVICE_UNAVAILABLE);
    };
    let status = asked.strip_prefix("status=")?.parse().ok()?;
    (300..600).contains(&status).then(|| StatusCode::from_u16(status).ok()).flatten()
}

fn switch(state: &ReceiverState, mode: AnswerMode) -> Answer {
    state.mode.send_replace(mode);
    show(state)
}

/// The mode, and how many events the observer was too slow for.
fn show(state: &ReceiverState) -> Answer {
    let mode = *state.mode.borrow();
    match state.missed.load(Ordering::Relaxed) {
        0 => text(StatusCode::OK, format!("{mode}\n")),
        missed => text(StatusCode::OK, format!("{mode} (not shown: {missed} events)\n")),
    }
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {methods}\n"));
    answer.headers_mut().insert(ALLOW, http::HeaderValue::from_static(methods));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let mut answer = Response::new(Full::new(body.clone()));
    *answer.status_mut() = status;
    if !body.is_empty() {
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    answer
}
