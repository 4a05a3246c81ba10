//! The reading half: joins the requests that have arrived into batches and appends them.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_ingest::{BatchSize, Ingest, PublishBatch, PublishSession, Refusal, Tenant};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Code, Status, Streaming};

use super::{PendingRequest, StreamBatch, StreamItem};
use crate::{
    grpc::{
        publish_response::{malformed_request, request_too_large},
        wire::Request,
    },
    problem::Problem,
};

/// A batch that has reached either is appended, even if more requests have arrived.
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCH_EVENTS_MAX: usize = 4096;

pub(super) struct RequestReader {
    ingest: Ingest,
    session: PublishSession,
    requests: Streaming<Bytes>,
    items: mpsc::Sender<StreamItem>,
    window: Window,
    /// Read and not part of the last batch: a request, or the end of the stream.
    read_ahead: Option<Result<Option<Request>, Status>>,
}

impl RequestReader {
    pub(super) fn new(
        ingest: Ingest,
        tenant: Tenant,
        requests: Streaming<Bytes>,
        items: mpsc::Sender<StreamItem>,
    ) -> Self {
        let window = Window::new(ingest.limits().stream_window_events, ingest.limits().stream_window_bytes);
        let session = PublishSession::new(ingest.clone(), tenant);
        Self { ingest, session, requests, items, window, read_ahead: None }
    }

    pub(super) async fn run(mut self) {
        let end = loop {
            let batch = match self.next_batch().await {
                Ok(Some(batch)) => batch,
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            };
            if self.items.send(StreamItem::Batch(batch)).await.is_err() {
                return;
            }
        };
        // A closed channel means that the client is gone: there is nobody to tell.
        drop(self.items.send(StreamItem::End(end)).await);
    }

    /// The next requests, appended; none at the end of the stream.
    async fn next_batch(&mut self) -> Result<Option<StreamBatch>, Status> {
        let Some((first, mut permits)) = self.first_request().await? else { return Ok(None) };
        if first.resume {
            self.session.resume();
        }
        let mut requests = vec![first];
        let mut size = BatchSize { events: requests[0].len(), bytes: requests[0].size_bytes() };
        while size.bytes < BATCH_BYTES_MAX && size.events < BATCH_EVENTS_MAX {
            let Some((next, window_permits)) = self.ready_request() else { break };
            size.bytes += next.size_bytes();
            size.events += next.len();
            permits.extend(window_permits);
            requests.push(next);
        }
        let mut batch = self.session.start_batch(size).map_err(|refusal| Problem::from(&refusal))?;
        for request in &requests {
            permits.extend(self.add(request, &mut batch).await);
        }
        if self.items.is_closed() {
            return Ok(None);
        }
        let inflight = self.session.append(batch);
        let pending =
            |request: &Request| PendingRequest { sequence: request.sequence, events: request.len() };
        Ok(Some(StreamBatch { requests: requests.iter().map(pending).collect(), inflight, permits }))
    }

    /// Waits for a request with its permits of the window, for the stream's end, or for the node's.
    async fn first_request(&mut self) -> Result<Option<(Request, WindowPermits)>, Status> {
        let (ingest, read_ahead, requests) = (&self.ingest, &mut self.read_ahead, &mut self.requests);
        let next = async {
            match read_ahead.take() {
                Some(read_ahead) => read_ahead,
                None => requests.next().await.map(|message| parse(message, ingest)).transpose(),
            }
        };
        let window = &self.window;
        let with_permits = async {
            match next.await? {
                Some(request) => {
                    let permits = window.acquire(&request).await;
                    Ok(Some((request, permits)))
                }
                None => Ok(None),
            }
        };
        tokio::select! {
            biased;
            () = ingest.stop().cancelled() => Err(Problem::from(&Refusal::Draining).into()),
            first = with_permits => first,
        }
    }

    /// A request that has arrived and may join the batch, with its permits of the window.
    fn ready_request(&mut self) -> Option<(Request, WindowPermits)> {
        let message = self.requests.next().now_or_never()?;
        let request = match message.map(|message| parse(message, &self.ingest)).transpose() {
            Ok(Some(request)) => request,
            end => {
                self.read_ahead = Some(end);
                return None;
            }
        };
        // A resume begins a batch: partitions are opened for it and for later requests, not for earlier ones.
        let permits = if request.resume { None } else { self.window.try_acquire(&request) };
        if permits.is_none() {
            self.read_ahead = Some(Ok(Some(request)));
            return None;
        }
        permits.map(|permits| (request, permits))
    }

    /// Validates a request's events into the batch, in memory that the node admits.
    async fn add(&mut self, request: &Request, batch: &mut PublishBatch) -> Option<OwnedSemaphorePermit> {
        match self.ingest.admit(request.size_bytes()) {
            Ok(permit) => {
                self.session.add(batch, request.events()).await;
                Some(permit)
            }
            Err(overloaded) => {
                self.session.refuse(batch, request.len(), overloaded);
                None
            }
        }
    }
}

fn parse(message: Result<Bytes, Status>, ingest: &Ingest) -> Result<Request, Status> {
    let message = message.map_err(|status| match status.code() {
        // Nothing but tonic's refusal to read a message that large.
        Code::OutOfRange => request_too_large(ingest.limits().request_bytes_max),
        _ => status,
    })?;
    Request::parse_stream(message).map_err(|error| malformed_request(&error))
}

type WindowPermits = Vec<OwnedSemaphorePermit>;

/// Bound on the stream's unanswered requests. A client that sends more is not read until answers have left.
struct Window {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    events_max: u32,
    bytes_max: u32,
}

/// Permits that a request needs.
struct WindowShare {
    events: u32,
    bytes: u32,
}

impl Window {
    fn new(events_max: u32, bytes_max: u32) -> Self {
        let permits =
            |max| Arc::new(Semaphore::new(usize::try_from(max).expect("u32 fits in usize on this platform")));
        Self { events: permits(events_max), bytes: permits(bytes_max), events_max, bytes_max }
    }

    async fn acquire(&self, request: &Request) -> WindowPermits {
        let share = self.share(request);
        let events = self.events.clone().acquire_many_owned(share.events).await;
        let bytes = self.bytes.clone().acquire_many_owned(share.bytes).await;
        events.into_iter().chain(bytes).collect()
    }

    fn try_acquire(&self, request: &Request) -> Option<WindowPermits> {
        let share = self.share(request);
        let events = self.events.clone().try_acquire_many_owned(share.events).ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(share.bytes).ok()?;
        Some(vec![events, bytes])
    }

    /// A request larger than the window is taken alone. One without events counts as one event, because it is answered,
    /// too.
    fn share(&self, request: &Request) -> WindowShare {
        let capped = |size: usize, max: u32| u32::try_from(size).unwrap_or(max).min(max);
        WindowShare {
            events: capped(request.len().max(1), self.events_max),
            bytes: capped(request.size_bytes(), self.bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_events_take_room_in_the_window() {
        let window = Window::new(3, 100);
        let empty = || Request::parse_stream(Bytes::new()).unwrap();
        let permits: Vec<_> = (0..3).map(|_| window.try_acquire(&empty()).expect("there is room")).collect();
        assert!(window.try_acquire(&empty()).is_none());
        drop(permits);
        assert!(window.try_acquire(&empty()).is_some());
    }
}
