//! The reading half: gathers the requests that are there into rounds and appends them.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_catalog::{AccountView, Tenant};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Code, Status, Streaming};

use super::{Asked, Round, Step};
use crate::{
    ingest::Ingest,
    lanes::Lanes,
    publisher::not_a_request,
    refusal::Refusal,
    round::Gathering,
    status::{publish_status, request_too_large},
    wire::Request,
};

/// A round is appended when it has this much, though more requests may be there.
const ROUND_BYTES_MAX: usize = 1 << 20;
const ROUND_EVENTS_MAX: usize = 4096;

pub(super) struct Intake {
    ingest: Ingest,
    tenant: Tenant,
    requests: Streaming<Bytes>,
    rounds: mpsc::Sender<Step>,
    lanes: Lanes,
    window: Window,
    /// What was read and did not join the last round: a request, or the end of the stream.
    ahead: Option<Result<Option<Request>, Status>>,
}

impl Intake {
    pub(super) fn new(
        ingest: Ingest,
        tenant: Tenant,
        requests: Streaming<Bytes>,
        rounds: mpsc::Sender<Step>,
    ) -> Self {
        let window = Window::new(ingest.limits().stream_window_events, ingest.limits().stream_window_bytes);
        Self { ingest, tenant, requests, rounds, lanes: Lanes::default(), window, ahead: None }
    }

    pub(super) async fn run(mut self) {
        let end = loop {
            let round = match self.round().await {
                Ok(Some(round)) => round,
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            };
            if self.rounds.send(Step::Round(round)).await.is_err() {
                return;
            }
        };
        // A closed channel means that the client is gone: there is nobody to tell.
        drop(self.rounds.send(Step::End(end)).await);
    }

    /// The next requests, appended; none at the end of the stream.
    async fn round(&mut self) -> Result<Option<Round>, Status> {
        let Some((first, mut shares)) = self.first_request().await? else { return Ok(None) };
        let view = self.ingest.account(self.tenant).map_err(|refusal| publish_status(&refusal))?;
        if first.resume {
            self.lanes.reopen();
        }
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        let (mut bytes, mut events, mut request) = (0, 0, first);
        loop {
            bytes += request.size_bytes();
            events += request.len();
            asked.push(Asked { sequence: request.sequence, events: request.len() });
            requests.push(request);
            if bytes >= ROUND_BYTES_MAX || events >= ROUND_EVENTS_MAX {
                break;
            }
            let Some((next, share)) = self.ready_request() else { break };
            shares.extend(share);
            request = next;
        }
        let mut gathering = Gathering::expecting(events, bytes);
        for request in &requests {
            shares.extend(self.gather(&view, request, &mut gathering).await);
        }
        if self.rounds.is_closed() {
            return Ok(None);
        }
        let in_flight = gathering.append(self.ingest.partitions(), &mut self.lanes);
        Ok(Some(Round { asked, in_flight, shares }))
    }

    /// Waits for a request and its share of the window, the stream's end, or the node's.
    async fn first_request(&mut self) -> Result<Option<(Request, Shares)>, Status> {
        let (ingest, ahead, requests) = (&self.ingest, &mut self.ahead, &mut self.requests);
        let next = async {
            match ahead.take() {
                Some(ahead) => ahead,
                None => requests.next().await.map(|message| read(message, ingest)).transpose(),
            }
        };
        let window = &self.window;
        let with_share = async {
            match next.await? {
                Some(request) => {
                    let shares = window.share(&request).await;
                    Ok(Some((request, shares)))
                }
                None => Ok(None),
            }
        };
        tokio::select! {
            biased;
            () = ingest.stop().cancelled() => Err(publish_status(&Refusal::Draining)),
            first = with_share => first,
        }
    }

    /// A request that is there and may join the round, with its share of the window.
    fn ready_request(&mut self) -> Option<(Request, Shares)> {
        let message = self.requests.next().now_or_never()?;
        let request = match message.map(|message| read(message, &self.ingest)).transpose() {
            Ok(Some(request)) => request,
            end => {
                self.ahead = Some(end);
                return None;
            }
        };
        let share = if request.resume { None } else { self.window.share_now(&request) };
        if share.is_none() {
            self.ahead = Some(Ok(Some(request)));
            return None;
        }
        share.map(|share| (request, share))
    }

    /// Validates a request's events into the round; the share is the node's.
    async fn gather(
        &mut self,
        view: &AccountView,
        request: &Request,
        gathering: &mut Gathering,
    ) -> Option<OwnedSemaphorePermit> {
        match self.ingest.admission().admit(request.size_bytes()) {
            Ok(share) => {
                self.ingest.gather(view, request.events(), &mut self.lanes, gathering).await;
                Some(share)
            }
            Err(overloaded) => {
                self.lanes.hold(view.account.shard.partitions.iter().copied());
                let behind = (1..request.len()).map(|_| Refusal::Behind);
                let refusals = (request.len() > 0).then_some(overloaded).into_iter().chain(behind);
                refusals.for_each(|refusal| gathering.refuse(refusal));
                None
            }
        }
    }
}

fn read(message: Result<Bytes, Status>, ingest: &Ingest) -> Result<Request, Status> {
    let message = message.map_err(|status| match status.code() {
        // Nothing but tonic's refusal to read a message that large.
        Code::OutOfRange => request_too_large(ingest.limits().request_bytes_max),
        _ => status,
    })?;
    Request::parse_stream(message).map_err(|error| not_a_request(&error))
}

type Shares = Vec<OwnedSemaphorePermit>;

/// What the stream may have unanswered. A client that sends more is not read until it has room again.
struct Window {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    events_max: u32,
    bytes_max: u32,
}

impl Window {
    fn new(events_max: u32, bytes_max: u32) -> Self {
        let permits =
            |max| Arc::new(Semaphore::new(usize::try_from(max).expect("u32 fits in usize on this platform")));
        Self { events: permits(events_max), bytes: permits(bytes_max), events_max, bytes_max }
    }

    async fn share(&self, request: &Request) -> Shares {
        let (events, bytes) = self.wanted(request);
        let events = self.events.clone().acquire_many_owned(events).await;
        let bytes = self.bytes.clone().acquire_many_owned(bytes).await;
        events.into_iter().chain(bytes).collect()
    }

    fn share_now(&self, request: &Request) -> Option<Shares> {
        let (events, bytes) = self.wanted(request);
        let events = self.events.clone().try_acquire_many_owned(events).ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(bytes).ok()?;
        Some(vec![events, bytes])
    }

    /// A request larger than the window is taken alone; one without events counts as one, for it is answered, too.
    fn wanted(&self, request: &Request) -> (u32, u32) {
        let share = |wanted: usize, max: u32| u32::try_from(wanted).unwrap_or(max).min(max);
        (share(request.len().max(1), self.events_max), share(request.size_bytes(), self.bytes_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_events_take_room_in_the_window() {
        let window = Window::new(3, 100);
        let empty = || Request::parse_stream(Bytes::new()).unwrap();
        let taken: Vec<_> = (0..3).map(|_| window.share_now(&empty()).expect("there is room")).collect();
        assert!(window.share_now(&empty()).is_none());
        drop(taken);
        assert!(window.share_now(&empty()).is_some());
    }
}
