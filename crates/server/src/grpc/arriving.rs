//! Memory for requests that are being received: of the whole node, refused at once when it is used up.
//!
//! What a connection may send before it is read is bounded by its windows (see `places`). From there bytes go
//! into the message that is being put together, and are counted here until the request is answered; on a stream,
//! until its reader has taken the message and asks for the next.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame};
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status};

use super::overloaded;

/// A request of which nothing or not all has arrived in this time is given up: it must not hold its memory.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
const MESSAGE_HEADER_BYTES: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of all requests that are being received.
#[derive(Clone)]
pub(super) struct Budget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// What one request holds of the budget; returned when its body and its answer are done.
pub(super) struct Held {
    budget: Budget,
    bytes: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { used: Arc::default(), bytes_max }
    }

    pub(super) fn hold(&self) -> Arc<Held> {
        Arc::new(Held { budget: self.clone(), bytes: AtomicUsize::new(0) })
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Whether there was room.
    fn take(&self, bytes: usize) -> bool {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.budget.bytes_max {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// How a request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One message, which is in memory until the call is answered.
    Message,
    /// Messages one after the other; each is gone when the next is asked for.
    Messages,
}

/// The body of a request, counted.
pub(super) struct Arriving<B> {
    body: B,
    held: Arc<Held>,
    kind: Kind,
    framing: Framing,
    deadline: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl<B> Arriving<B> {
    pub(super) fn new(body: B, held: Arc<Held>, kind: Kind) -> Self {
        Self { body, held, kind, framing: Framing::default(), deadline: None, patience: ARRIVAL_MAX }
    }

    fn count(&mut self, data: &Bytes) -> Result<(), Status> {
        if !self.held.take(data.len()) {
            return Err(overloaded(
                "the node is receiving as much as it can hold: retry after the time given",
            ));
        }
        let before = self.framing.whole;
        self.framing.add(data);
        if self.framing.whole > before {
            // The next message, which may have begun already, has a time of its own.
            self.deadline = None;
        }
        Ok(())
    }

    /// Nothing is there: for a message that has begun that may not last.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.kind == Kind::Messages && self.framing.is_between_messages() {
            return Poll::Pending;
        }
        let patience = self.patience;
        self.deadline.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(context)
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.kind == Kind::Messages {
            let read = self.framing.take_whole();
            self.held.give_back(read);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.poll_late(context));
            let seconds = self.patience.as_secs();
            let late = format!("the request did not arrive within {seconds} s: send it again");
            return Poll::Ready(Some(Err(Status::new(Code::DeadlineExceeded, late).into())));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.data_ref().map_or(Ok(()), |data| self.count(data)) {
                Ok(()) => Some(Ok(frame)),
                Err(status) => Some(Err(status.into())),
            },
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Follows gRPC's length prefixes to know where messages end.
#[derive(Debug, Default)]
struct Framing {
    /// Of a prefix, `prefix_bytes` of which have arrived.
    prefix: [u8; MESSAGE_HEADER_BYTES],
    prefix_bytes: usize,
    /// What is missing of the message that has begun.
    missing: usize,
    /// Bytes of messages that are whole, and of the one that has begun.
    whole: usize,
    begun: usize,
}

impl Framing {
    fn add(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            let part = match self.missing {
                0 => self.add_prefix(&mut rest),
                missing => {
                    let part = missing.min(rest.len());
                    rest.advance(part);
                    self.missing -= part;
                    part
                }
            };
            self.begun += part;
            if self.missing == 0 && self.prefix_bytes == 0 {
                self.whole += std::mem::take(&mut self.begun);
            }
        }
    }

    fn add_prefix(&mut self, rest: &mut &[u8]) -> usize {
        let part = (MESSAGE_HEADER_BYTES - self.prefix_bytes).min(rest.len());
        self.prefix[self.prefix_bytes..][..part].copy_from_slice(&rest[..part]);
        rest.advance(part);
        self.prefix_bytes += part;
        if self.prefix_bytes == MESSAGE_HEADER_BYTES {
            let [_compressed, length @ ..] = self.prefix;
            self.prefix_bytes = 0;
            self.missing = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        }
        part
    }

    fn is_between_messages(&self) -> bool {
        self.begun == 0
    }

    /// Bytes of the messages that became whole since this was asked last.
    fn take_whole(&mut self) -> usize {
        std::mem::take(&mut self.whole)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::{sync::mpsc, time::timeout};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let mut sent = Vec::new();
        for length in [0_u8, 3, 200] {
            sent.extend([0, 0, 0, 0, length]);
            sent.extend(vec![9; length.into()]);
        }
        let begun = [0, 0, 0, 0, 7, 9];
        for cut in 1..sent.len() {
            let mut framing = Framing::default();
            let mut whole = 0;
            for part in sent.chunks(cut) {
                framing.add(part);
                whole += framing.take_whole();
            }
            assert!(framing.is_between_messages(), "cut every {cut}");
            framing.add(&begun);
            assert!(!framing.is_between_messages());
            assert_eq!((whole, framing.take_whole()), (sent.len(), 0), "cut every {cut}");
        }
    }

    #[tokio::test]
    async fn a_message_that_has_begun_must_arrive_and_a_stream_may_rest_between_messages() {
        let budget = Budget::new(100);
        let message: &[u8] = &[0, 0, 0, 0, 2, 7, 7];
        for (kind, sent, late) in [
            (Kind::Message, &message[..6], true),
            (Kind::Message, &[], true),
            (Kind::Messages, &message[..6], true),
            (Kind::Messages, &message[..2], true),
            (Kind::Messages, message, false),
        ] {
            let frames = [Ok::<_, BoxError>(Frame::data(Bytes::copy_from_slice(sent)))];
            let body = StreamBody::new(stream::iter(frames).chain(stream::pending()));
            let mut arriving = Arriving::new(body, budget.hold(), kind);
            arriving.patience = Duration::from_millis(20);
            arriving.frame().await.unwrap().unwrap();
            let next = timeout(if late { DEADLINE } else { 5 * arriving.patience }, arriving.frame()).await;
            assert_eq!(next.is_ok(), late, "{kind:?} {sent:?}");
            if let Ok(next) = next {
                assert_eq!(Status::from_error(next.unwrap().unwrap_err()).code(), Code::DeadlineExceeded);
            }
        }
        assert_eq!(budget.used(), 0);
    }

    /// A producer's chunks end where its buffer does.
    #[tokio::test]
    async fn each_message_has_a_time_of_its_own_though_no_chunk_ends_where_a_message_does() {
        let (sender, chunks) = mpsc::channel(1);
        let body = StreamBody::new(ReceiverStream::new(chunks));
        let mut arriving = Arriving::new(body, Budget::new(100).hold(), Kind::Messages);
        let message: &[u8] = &[0, 0, 0, 0, 2, 7, 7];
        let mut sent = message.repeat(4);
        sent.rotate_left(6);
        for (chunk, goes_on) in [
            (&message[..6], false),
            (&sent[..7], false),
            (&sent[7..14], false),
            (&sent[14..16], false),
            (&sent[16..18], true),
        ] {
            sender.send(Ok::<_, BoxError>(Frame::data(Bytes::copy_from_slice(chunk)))).await.unwrap();
            arriving.frame().await.unwrap().unwrap();
            let is_running = arriving.deadline.is_some();
            assert_eq!(is_running, goes_on, "{chunk:?}");
            assert!(arriving.frame().now_or_never().is_none(), "nothing more has arrived");
            assert!(arriving.deadline.is_some(), "a message has begun");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_until_something_leaves() {
        let budget = Budget::new(100);
        let (first, second) = (budget.hold(), budget.hold());
        assert!(first.take(60) && !second.take(41) && second.take(40) && !first.take(1));
        first.give_back(10);
        assert!(second.take(10));
        drop(second);
        assert!(first.take(50) && !first.take(1));
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
