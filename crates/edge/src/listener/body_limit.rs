//! Limit of the memory of requests that are being received, for the whole node: a request beyond it is refused at once.
//!
//! Bytes that a connection has sent and nobody has read are bounded by its windows, see `connection_limits`. From there
//! bytes go into the message that is being put together, and are counted here until the request is answered; on a
//! stream, until its reader has taken the message and asks for the next.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use fanfare_fairness::{FairLimiter, FairPermit};
use fanfare_model::AccountId;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status};

use super::overloaded;

/// A request that is not received whole in this time is given up, and its memory with it.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
const MESSAGE_HEADER_BYTES: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Caller of a call, by its key; none without one.
pub(super) type Caller = Option<AccountId>;

/// Bytes of all requests that are being received; each caller has its share.
#[derive(Clone)]
pub(super) struct ReceiveBudget(FairLimiter<Caller>);

/// Bytes that one request has of the budget; given back when its body and its answer are done.
pub(super) struct BudgetShare(Mutex<FairPermit<Caller>>);

impl ReceiveBudget {
    /// One caller has at most `caller_bytes_max`, and no more than are free for others.
    pub(super) fn new(bytes_max: usize, caller_bytes_max: usize) -> Self {
        Self(FairLimiter::new(bytes_max, caller_bytes_max))
    }

    /// An empty share.
    pub(super) fn share(&self, caller: Caller) -> Arc<BudgetShare> {
        let nothing = self.0.try_acquire(caller, 0).expect("nothing is always free");
        Arc::new(BudgetShare(Mutex::new(nothing)))
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.0.used()
    }
}

impl BudgetShare {
    /// Takes `bytes` more; false if the budget has no room for them.
    fn try_take(&self, bytes: usize) -> bool {
        self.0.lock().try_grow(bytes)
    }

    fn give_back(&self, bytes: usize) {
        self.0.lock().shrink(bytes);
    }
}

/// Number of messages in a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// One message, which is in memory until the call is answered.
    Message,
    /// Messages one after the other; each is freed when the next is asked for.
    Messages,
}

/// The body of a request, counted against the budget.
pub(super) struct LimitedBody<B> {
    body: B,
    share: Arc<BudgetShare>,
    kind: BodyKind,
    framing: Framing,
    deadline: Option<Pin<Box<Sleep>>>,
    receive_timeout: Duration,
}

impl<B> LimitedBody<B> {
    pub(super) fn new(body: B, share: Arc<BudgetShare>, kind: BodyKind) -> Self {
        Self {
            body,
            share,
            kind,
            framing: Framing::default(),
            deadline: None,
            receive_timeout: RECEIVE_TIMEOUT,
        }
    }

    fn count(&mut self, data: &Bytes) -> Result<(), Status> {
        if !self.share.try_take(data.len()) {
            return Err(overloaded(
                "the node is receiving as much as it can hold, or can hold of one account: retry after the time given",
            ));
        }
        let before = self.framing.whole;
        self.framing.add(data);
        if self.framing.whole > before {
            // The next message, which may have begun already, has a timeout of its own.
            self.deadline = None;
        }
        Ok(())
    }

    /// Ready when no byte has come for too long. Only a stream may rest, and only between messages.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.kind == BodyKind::Messages && self.framing.is_between_messages() {
            return Poll::Pending;
        }
        let receive_timeout = self.receive_timeout;
        self.deadline.get_or_insert_with(|| Box::pin(sleep(receive_timeout))).as_mut().poll(context)
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.kind == BodyKind::Messages {
            let read = self.framing.take_whole();
            self.share.give_back(read);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.poll_timeout(context));
            let seconds = self.receive_timeout.as_secs();
            let message = format!("the request did not arrive within {seconds} s: send it again");
            return Poll::Ready(Some(Err(Status::new(Code::DeadlineExceeded, message).into())));
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

/// Boundaries of messages, by gRPC's length prefixes.
#[derive(Debug, Default)]
struct Framing {
    /// A length prefix, `prefix_bytes` of which have arrived.
    prefix: [u8; MESSAGE_HEADER_BYTES],
    prefix_bytes: usize,
    /// Bytes of the current message that have not arrived.
    missing: usize,
    /// Bytes of whole messages that were not taken yet.
    whole: usize,
    /// Bytes of the current message that have arrived, its prefix included.
    current: usize,
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
            self.current += part;
            if self.missing == 0 && self.prefix_bytes == 0 {
                self.whole += std::mem::take(&mut self.current);
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
        self.current == 0
    }

    /// Bytes of the messages that became whole since the last call.
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
    fn message_boundaries_do_not_depend_on_chunks() {
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
    async fn a_message_times_out_and_a_stream_may_rest_between_messages() {
        let budget = ReceiveBudget::new(200, 200);
        let message: &[u8] = &[0, 0, 0, 0, 2, 7, 7];
        for (kind, sent, late) in [
            (BodyKind::Message, &message[..6], true),
            (BodyKind::Message, &[], true),
            (BodyKind::Messages, &message[..6], true),
            (BodyKind::Messages, &message[..2], true),
            (BodyKind::Messages, message, false),
        ] {
            let frames = [Ok::<_, BoxError>(Frame::data(Bytes::copy_from_slice(sent)))];
            let body = StreamBody::new(stream::iter(frames).chain(stream::pending()));
            let mut limited = LimitedBody::new(body, budget.share(None), kind);
            limited.receive_timeout = Duration::from_millis(20);
            limited.frame().await.unwrap().unwrap();
            let next =
                timeout(if late { DEADLINE } else { 5 * limited.receive_timeout }, limited.frame()).await;
            assert_eq!(next.is_ok(), late, "{kind:?} {sent:?}");
            if let Ok(next) = next {
                assert_eq!(Status::from_error(next.unwrap().unwrap_err()).code(), Code::DeadlineExceeded);
            }
        }
        assert_eq!(budget.used(), 0);
    }

    /// A producer's chunks end where its buffer does.
    #[tokio::test]
    async fn each_message_has_its_own_timeout_wherever_chunks_end() {
        let (sender, chunks) = mpsc::channel(1);
        let body = StreamBody::new(ReceiverStream::new(chunks));
        let mut limited =
            LimitedBody::new(body, ReceiveBudget::new(200, 200).share(None), BodyKind::Messages);
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
            limited.frame().await.unwrap().unwrap();
            let is_running = limited.deadline.is_some();
            assert_eq!(is_running, goes_on, "{chunk:?}");
            assert!(limited.frame().now_or_never().is_none(), "nothing more has arrived");
            assert!(limited.deadline.is_some(), "a message has begun");
        }
    }

    #[test]
    fn bytes_beyond_a_callers_share_are_refused_until_some_are_given_back() {
        let budget = ReceiveBudget::new(120, 120);
        let first = budget.share(Some(AccountId::from_bytes([1; 16])));
        let second = budget.share(Some(AccountId::from_bytes([2; 16])));
        assert!(first.try_take(60) && !first.try_take(1), "half is free for others");
        assert!(second.try_take(20) && !second.try_take(30));
        first.give_back(40);
        assert!(second.try_take(20));
        drop(second);
        assert!(first.try_take(40) && !first.try_take(1));
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
