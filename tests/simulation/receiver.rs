//! The receiver of webhooks, and the network in front of it: answers, refuses, delays, hangs and closes as the seed says.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fanfare_sinks::{NetworkStack, Socket};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    oracle::Answer,
    world::{Power, World},
};

pub(crate) const HOST: &str = "receiver.test";
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(93, 184, 216, 34)), 80);
const PIPE_BYTES: usize = 64 << 10;
/// An answer that comes sooner is not too late for the node, which waits for a second from before it connects.
const HEARD_WITHIN_MS: u64 = 900;

/// How the receiver behaves at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes everything soon, but for poison.
    Well,
    /// Takes everything soon: what it refused for good before, too.
    Mended,
    /// Takes most, and fails one request or another in each way.
    Shaky,
    /// Answers 503.
    Failing,
    /// Answers 429 with a delay.
    Throttling,
    /// Takes connections and never answers.
    Hanging,
    /// Refuses connections.
    Refusing,
}

/// The network of one life.
pub(crate) struct SimulatedNetwork {
    pub(crate) world: Arc<World>,
    pub(crate) power: Arc<Power>,
    pub(crate) mood: Arc<Mutex<Mood>>,
    pub(crate) tasks: TaskTracker,
}

impl NetworkStack for SimulatedNetwork {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            sleep(Duration::from_micros(self.world.dice.below(1_000))).await;
            assert_eq!(host, HOST, "the one destination");
            Ok(vec![SocketAddr::new(ADDRESS.ip(), port)])
        })
    }

    fn connect(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Socket>> {
        Box::pin(async move {
            sleep(Duration::from_micros(self.world.dice.below(3_000))).await;
            if *self.mood.lock() == Mood::Refusing {
                self.world.count("the receiver refused a connection");
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let (world, power, mood) = (self.world.clone(), self.power.clone(), self.mood.clone());
            self.tasks.spawn(async move {
                let service =
                    service_fn(move |request| answer(world.clone(), power.clone(), mood.clone(), request));
                // A request that is to be cut off fails the connection.
                drop(http1::Builder::new().serve_connection(TokioIo::new(far), service).await);
            });
            Ok(Socket::Memory(near))
        })
    }
}

/// What is done with one request.
enum Treatment {
    Take { answers: bool, after_ms: u64 },
    Refuse(StatusCode),
    Close,
    Hang,
}

impl Treatment {
    fn answer(&self) -> Answer {
        match self {
            Self::Take { answers, after_ms } => {
                Answer::Took { heard: *answers && *after_ms < HEARD_WITHIN_MS }
            }
            Self::Refuse(StatusCode::UNPROCESSABLE_ENTITY) => Answer::Rejected,
            Self::Refuse(_) | Self::Close | Self::Hang => Answer::Failed,
        }
    }
}

async fn answer(
    world: Arc<World>,
    power: Arc<Power>,
    mood: Arc<Mutex<Mood>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let event: serde_json::Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
    let id = event["id"].as_str().unwrap_or_default().to_owned();
    if power.is_off() {
        return std::future::pending().await;
    }
    world.trace.add(format_args!("request {path} {id} {:x}", xxh3_64(&body)));
    world.oracle.lock().request(&path, &id, &event);
    let treatment = treatment(&world, *mood.lock(), &id);
    let status = match treatment {
        Treatment::Hang => {
            world.count("the receiver did not answer");
            return std::future::pending().await;
        }
        Treatment::Close => {
            world.count("the receiver closed instead of an answer");
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Treatment::Refuse(status) => {
            sleep(Duration::from_millis(world.dice.below(20))).await;
            status
        }
        Treatment::Take { after_ms, .. } => {
            if after_ms > 100 {
                world.count("the receiver was slow");
            }
            sleep(Duration::from_millis(after_ms)).await;
            StatusCode::OK
        }
    };
    if power.is_off() {
        return std::future::pending().await;
    }
    world.trace.add(format_args!("answer {path} {id} {status}"));
    world.oracle.lock().answered(&path, &id, treatment.answer());
    if let Treatment::Take { answers: false, .. } = treatment {
        world.count("the receiver closed after it had taken an event");
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    if status == StatusCode::TOO_MANY_REQUESTS {
        world.count("the receiver answered 429");
        response.headers_mut().insert("retry-after", "1".parse().expect("a header"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        world.count("the receiver answered 503");
    }
    Ok(response)
}

/// True for events that the receiver takes only when it is mended.
pub(crate) fn is_poison(id: &str) -> bool {
    xxh3_64(id.as_bytes()).is_multiple_of(61)
}

fn treatment(world: &World, mood: Mood, id: &str) -> Treatment {
    if is_poison(id) && !matches!(mood, Mood::Hanging | Mood::Refusing | Mood::Mended) {
        world.count("the receiver rejected an event for good");
        return Treatment::Refuse(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let dice = &world.dice;
    match mood {
        Mood::Well | Mood::Mended => Treatment::Take { answers: true, after_ms: dice.below(10) },
        Mood::Failing => Treatment::Refuse(StatusCode::SERVICE_UNAVAILABLE),
        Mood::Throttling => Treatment::Refuse(StatusCode::TOO_MANY_REQUESTS),
        Mood::Hanging | Mood::Refusing => Treatment::Hang,
        Mood::Shaky => match dice.below(24) {
            0 => Treatment::Refuse(StatusCode::SERVICE_UNAVAILABLE),
            1 => Treatment::Refuse(StatusCode::TOO_MANY_REQUESTS),
            2 => Treatment::Close,
            3 => Treatment::Hang,
            4 => Treatment::Take { answers: false, after_ms: dice.below(10) },
            5 | 6 => Treatment::Take { answers: true, after_ms: dice.between(100, 1_500) },
            _ => Treatment::Take { answers: true, after_ms: dice.below(30) },
        },
    }
}
