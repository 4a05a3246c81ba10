//! Output of dev mode: each event published, committed and delivered, and what to try next.

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    path::Path,
    process,
    time::{Duration, Instant},
};

use jiff::Zoned;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    CONTEXT,
    receiver::{DevReceiver, ReceivedEvent},
    sample::{EVENT_TYPE, SampleLoad},
};
use crate::{node::Node, terminal::print};

/// Publish times kept to tell the delivery latency; an older one is only missing from the line.
const REMEMBERED_MAX: usize = 10_000;

/// Place of the client's context for this node.
pub(super) enum SavedContext {
    /// Commands go to this node.
    Selected,
    /// Commands go to the node of the context `selected`, unless they say otherwise.
    Beside { selected: String },
    /// No home directory is known.
    NoHome,
}

/// Facts of a node that is ready.
pub(super) struct Greeting<'a> {
    pub(super) node: &'a Node,
    /// From the start of the process.
    pub(super) ready: Duration,
    pub(super) data_dir: &'a Path,
    pub(super) ephemeral: bool,
    pub(super) context: SavedContext,
}

impl SavedContext {
    fn remark(&self) -> String {
        match self {
            Self::Selected => format!("the client's context {CONTEXT} is written and selected"),
            Self::Beside { selected } => {
                format!("the client's context {CONTEXT} is written; {selected} stays selected")
            }
            Self::NoHome => "no home directory: give --addr and --key".to_owned(),
        }
    }

    /// Command that calls this program from here for this node: its path if it lies below the working directory.
    fn program(&self) -> String {
        let path = env::current_exe().ok();
        let below =
            path.as_ref().zip(env::current_dir().ok()).and_then(|(path, here)| path.strip_prefix(here).ok());
        let program = below.map_or_else(|| "fanfare".into(), |path| path.display().to_string());
        match self {
            Self::Beside { .. } => format!("{program} --context {CONTEXT}"),
            Self::Selected | Self::NoHome => program,
        }
    }
}

pub(super) struct Console {
    receiver: DevReceiver,
    sample: SampleLoad,
    ticks: Option<Interval>,
    stop_after: Option<u64>,
    published: u64,
    delivered: u64,
    published_at: BTreeMap<String, Instant>,
    order: VecDeque<String>,
}

impl Console {
    pub(super) fn new(receiver: DevReceiver, sample: SampleLoad, rate: f64, stop_after: Option<u64>) -> Self {
        let ticks = (rate > 0.0).then(|| {
            let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self {
            receiver,
            sample,
            ticks,
            stop_after,
            published: 0,
            delivered: 0,
            published_at: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// # Errors
    /// If standard output is closed.
    pub(super) fn greet(&self, greeting: &Greeting<'_>) -> anyhow::Result<()> {
        let Greeting { node, ready, data_dir, ephemeral, context } = greeting;
        let fanfare = context.program();
        let (receiver, subscription) = (self.receiver.address(), &self.sample.subscription);
        let kept = if *ephemeral { "nothing is kept" } else { "kept between starts" };
        print(&format!("fanfare dev: ready in {} ms", ready.as_millis()))?;
        print(&format!("  broker     http://{}  (gRPC; {})", node.grpc, context.remark()))?;
        print(&format!(
            "  receiver   http://{receiver}/webhook  (gets {EVENT_TYPE} through subscription {subscription})"
        ))?;
        print(&format!("  data       {}  ({kept}), process {}", data_dir.display(), process::id()))?;
        print("Try, in another terminal:")?;
        print(&format!(
            "  {fanfare} publish {EVENT_TYPE} '{{\"order_id\":\"o-1\",\"customer\":\"me\",\"total_cents\":4200,\"currency\":\"EUR\"}}'"
        ))?;
        print(&format!(
            "  {fanfare} publish {EVENT_TYPE} '{{\"order_id\":\"x\"}}'                      # refused: see why"
        ))?;
        print(&format!(
            "  curl -X POST 'http://{receiver}/control/fail?status=503'     # an outage: events are held"
        ))?;
        print(&format!(
            "  curl -X POST http://{receiver}/control/ok                    # recovery: they catch up"
        ))?;
        print(&format!("  {fanfare} subscription stats {subscription}"))?;
        if !ephemeral {
            let process = process::id();
            print(&format!(
                "  kill -9 {process}                                              # then start again: nothing is lost"
            ))?;
        }
        Ok(print("")?)
    }

    /// Publishes on every tick and prints what the receiver got, until enough was delivered.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            if self.stop_after.is_some_and(|enough| self.delivered >= enough) {
                return Ok(());
            }
            let more = self.stop_after.is_none_or(|enough| self.published < enough);
            tokio::select! {
                biased;
                Some(received) = self.receiver.next() => self.show(&received)?,
                () = tick(self.ticks.as_mut()), if more => self.publish().await?,
            }
        }
    }

    /// # Errors
    /// If standard output is closed.
    pub(super) fn farewell(&self, data_dir: &Path, ephemeral: bool) -> anyhow::Result<()> {
        print(&format!("\npublished {}, delivered {}", self.published, self.delivered))?;
        if self.receiver.missed() > 0 {
            print(&format!("{} deliveries came too fast to be shown", self.receiver.missed()))?;
        }
        if !ephemeral {
            let directory = data_dir.display();
            print(&format!("events are in {directory}; start again and delivery goes on where it was"))?;
        }
        Ok(())
    }

    async fn publish(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        match self.sample.publish().await {
            Ok((id, response)) => {
                let committed = milliseconds(started.elapsed());
                let position = format!("events/{}@{}", response.partition, response.offset);
                print(&format!(
                    "{}  published  {EVENT_TYPE}  {id}  committed {position} in {committed}",
                    clock()
                ))?;
                self.published += 1;
                self.remember(id, started);
            }
            Err(error) => print(&format!("{}  refused    {EVENT_TYPE}  {error:#}", clock()))?,
        }
        Ok(())
    }

    fn show(&mut self, received: &ReceivedEvent) -> anyhow::Result<()> {
        let accepted = (200..300).contains(&received.status);
        let known = self.published_at.get(&received.id);
        let latency = known.map_or(String::new(), |at| {
            format!(" {} after publish", milliseconds(received.at.saturating_duration_since(*at)))
        });
        let word = if accepted { "delivered" } else { "attempted" };
        let again = if received.duplicate { "  (again: at least once)" } else { "" };
        print(&format!(
            "{}  {word}  {}  {}  answered {}{latency}{again}",
            clock(),
            received.event_type,
            received.id,
            received.status
        ))?;
        if accepted {
            self.published_at.remove(&received.id);
            self.delivered += u64::from(!received.duplicate && known_sample(received));
        }
        Ok(())
    }

    fn remember(&mut self, id: String, at: Instant) {
        if self.order.len() == REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.published_at.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.published_at.insert(id, at);
    }
}

fn known_sample(received: &ReceivedEvent) -> bool {
    received.event_type == EVENT_TYPE
}

async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn clock() -> String {
    Zoned::now().strftime("%H:%M:%S%.3f").to_string()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
