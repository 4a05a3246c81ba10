//! One life of the node: a runtime of its own, from the start to a crash, a stop or the end of the simulation.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use fanfare_catalog::{NewKey, Tenant};
use fanfare_control::ListRequest;
use fanfare_delivery::DeadLetter;
use fanfare_environment::{Environment, Simulation};
use fanfare_ingest::{ReadError, ReadFrom, ReadQuery, ReadRefusal};
use fanfare_model::{Event, PartitionId};
use fanfare_raft::Role;
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, RngSeed, Runtime, UnhandledPanic},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    disk::SimulatedDisk,
    event::{ACCOUNTS, CLOSING_KEY, EventName},
    faults::DISK_FULL,
    node::{NodeParts, PARTITIONS, SimulatedNode},
    oracle::SeenEvent,
    plan::LifePlan,
    producer::{PRODUCERS, Producer, ProducerState},
    receiver::{Mood, SimulatedNetwork, is_poison},
    retention::Retention,
    setup::Account,
    world::{End, Power, World},
};

/// Simulated time after which a node without faults must have delivered everything.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// Simulated time that a start may take.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// Simulated time that an orderly stop may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// One life of the node.
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) world: Arc<World>,
    /// The keys of the accounts, as far as they are made.
    pub(crate) keys: Arc<Mutex<Vec<NewKey>>>,
    pub(crate) plan: LifePlan,
    /// Simulated time at its beginning, since the first start.
    pub(crate) started_us: u64,
}

/// Result of one life.
pub(crate) struct Lived {
    pub(crate) end: End,
    pub(crate) elapsed_us: u64,
    /// A sync lied, and the power failed after it.
    pub(crate) deceived: bool,
    /// The node stopped in order, and no call of the disk had failed.
    pub(crate) is_orderly: bool,
}

/// The parts of a running life.
struct Running {
    world: Arc<World>,
    power: Arc<Power>,
    disk: SimulatedDisk,
    mood: Arc<Mutex<Mood>>,
    simulation: Simulation,
    tasks: TaskTracker,
    plan: LifePlan,
}

impl Life {
    /// Runs to the end, and hands the disk over to the next life.
    pub(crate) fn run(self) -> Lived {
        let seed = self.world.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.number);
        let runtime = runtime(seed);
        let power = Arc::new(Power::default());
        let disk = SimulatedDisk::new(self.world.clone(), power.clone());
        fanfare_raft::seed_elections(seed);
        let world = self.world.clone();
        let (lies, was_deceived) = (self.plan.lies(), self.plan.deceived);
        let living = AssertUnwindSafe(async {
            let began = Instant::now();
            let ticking = tick(&world, self.started_us);
            let end = tokio::select! {
                biased;
                end = power.off() => end,
                end = Box::pin(self.live(seed, power.clone(), disk.clone())) => end,
                () = ticking => unreachable!("time goes on"),
            };
            let elapsed_us = u64::try_from(began.elapsed().as_micros()).expect("a short life");
            Lived { end, elapsed_us, deceived: false, is_orderly: false }
        });
        end_at_panic(&world, &power);
        // A task that panics shuts the runtime down: the program would abort. With the power off, nobody looks.
        let mut lived = catch_unwind(AssertUnwindSafe(|| runtime.block_on(living.0))).unwrap_or_else(|_| {
            let end = End::Exit("it panicked".to_owned());
            Lived { end, elapsed_us: 0, deceived: false, is_orderly: false }
        });
        lived.is_orderly = lived.end == End::Stop && disk.failures() == 0;
        if lies && lived.end == End::PowerLoss && !disk.memory().has_fault() {
            world.count("a sync lied before the power failed");
            lived.deceived = true;
        }
        if let End::Exit(reason) = &lived.end
            && disk.failures() == 0
            && !was_deceived
        {
            world.oracle.lock().violate(format!("the node ended without a fault of the disk: {reason}"));
        }
        world.trace.add(format_args!("life ends: {:?}", lived.end));
        disk.hand_over();
        // From here on nobody looks: tasks are dropped wherever they are, as the machine drops them.
        power.cut(lived.end.clone());
        drop(runtime);
        lived
    }

    async fn live(self, seed: u64, power: Arc<Power>, disk: SimulatedDisk) -> End {
        let simulation = Simulation::new(seed);
        let offset_ms = i64::try_from(self.started_us / 1_000).expect("a short simulation");
        simulation.clock().jump_ms(offset_ms);
        let Self { world, keys, plan, .. } = self;
        let running = Running {
            mood: Arc::new(Mutex::new(plan.first_mood)),
            tasks: TaskTracker::new(),
            world,
            power,
            disk,
            simulation,
            plan,
        };
        running.run(&keys).await
    }
}

/// A panic ends the simulation with a verdict, right where it happens: unwinding through the tasks of a runtime may
/// panic once more, and the process would abort without one.
fn end_at_panic(world: &World, power: &Arc<Power>) {
    let (seed, power) = (world.seed, power.clone());
    std::panic::set_hook(Box::new(move |panic| {
        if !power.is_off() {
            let violation = format!("the node panicked: {panic}");
            println!("{}", serde_json::json!({ "seed": seed, "violation": violation }));
            std::process::exit(1);
        }
    }));
}

/// Keeps the trace's time, which its lines begin with.
async fn tick(world: &World, started_us: u64) {
    let began = Instant::now();
    loop {
        let elapsed_us = u64::try_from(began.elapsed().as_micros()).expect("a short life");
        world.trace.set_now(started_us + elapsed_us);
        sleep(Duration::from_millis(1)).await;
    }
}

fn runtime(seed: u64) -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .unhandled_panic(UnhandledPanic::ShutdownRuntime)
        .build()
        .expect("a runtime without threads")
}

impl Running {
    async fn run(self, keys: &Mutex<Vec<NewKey>>) -> End {
        self.plan.arm(&self.disk);
        let started = async {
            let node = SimulatedNode::start(self.node_parts()).await?;
            let accounts = Account::ensure_all(&node, keys).await?;
            anyhow::Ok((node, accounts))
        };
        let (node, accounts) = match timeout(STARTED_WITHIN, started).await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => {
                let end = End::Exit(format!("{error:#}"));
                self.disk.end_now(end.clone());
                return end;
            }
            Err(_) => {
                self.blame(format!("the node did not start within {STARTED_WITHIN:?}"));
                return End::Exit("it never started".to_owned());
            }
        };
        self.world.trace.add(format_args!("ready"));
        if self.plan.deceived {
            self.read_all(&node, &accounts).await;
            return self.stop(&node).await;
        }
        let node = Arc::new(node);
        self.start_producers(&node, &accounts);
        self.tasks.spawn(moods(self.world.clone(), self.mood.clone(), self.plan.clone()));
        self.tasks.spawn(free_disk(self.disk.clone(), self.plan.room_after_ms));
        self.tasks.spawn(jump_clock(self.world.clone(), self.simulation.clone(), self.plan.clone()));
        match self.plan.end_after_ms.clone() {
            Some((after_ms, end)) => {
                self.watch(&node, &accounts, Duration::from_millis(after_ms)).await;
                if end == End::Stop {
                    return self.stop(&node).await;
                }
                self.disk.end_now(end.clone());
                end
            }
            None => self.finish(&node, &accounts).await,
        }
    }

    fn node_parts(&self) -> NodeParts {
        NodeParts {
            world: self.world.clone(),
            power: self.power.clone(),
            disk: self.disk.clone(),
            network: SimulatedNetwork {
                world: self.world.clone(),
                power: self.power.clone(),
                mood: self.mood.clone(),
                tasks: self.tasks.clone(),
            },
            environment: Environment::simulated(&self.simulation),
        }
    }

    fn start_producers(&self, node: &SimulatedNode, accounts: &[Account]) {
        for (index, account) in (0..PRODUCERS).zip(accounts.iter().cycle()) {
            let producer = Producer {
                index,
                world: self.world.clone(),
                power: self.power.clone(),
                ingest: node.ingest.clone(),
                tenant: account.tenant,
                pause_ms_max: self.plan.pause_ms_max,
            };
            self.tasks.spawn(producer.run());
        }
    }

    /// Reads the whole log again and again for `time`.
    async fn watch(&self, node: &SimulatedNode, accounts: &[Account], time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.read_all(node, accounts).await;
            let left = until.saturating_duration_since(Instant::now());
            sleep(left.min(Duration::from_millis(self.world.dice.between(100, 900)))).await;
        }
    }

    async fn read_all(&self, node: &SimulatedNode, accounts: &[Account]) {
        for partition in 0..PARTITIONS {
            let Err(error) = self.read_partition(node, accounts, partition).await else { continue };
            self.world.trace.add(format_args!("read {partition} failed: {error:#}"));
            if self.plan.deceived {
                self.world.count("a lying sync was told");
                continue;
            }
            if self.plan.damaged == Some(partition) {
                self.world.count("a flipped bit was told");
                continue;
            }
            let refusal = error.downcast_ref::<ReadRefusal>();
            let is_lost = matches!(refusal, Some(ReadRefusal::Read(ReadError::DataLoss { .. })));
            // Damage of one partition is no reason for another to answer anything but its events.
            if is_lost || self.plan.damaged.is_some() {
                self.blame(format!("{error:#}"));
            }
        }
    }

    /// Reads a partition as each of its accounts, and compares what they see together with what was promised before.
    async fn read_partition(
        &self,
        node: &SimulatedNode,
        accounts: &[Account],
        partition: u16,
    ) -> anyhow::Result<()> {
        let handle = node.directory.local(PartitionId::events(partition))?;
        let before = *handle.positions().borrow();
        let promised_end = self.world.oracle.lock().promised_end(partition);
        let mut events = Vec::new();
        for account in accounts.iter().filter(|account| account.partition == partition) {
            events.extend(self.read(node, account).await?);
        }
        if self.power.is_off() {
            return std::future::pending().await;
        }
        let log_start = handle.positions().borrow().log_start.0;
        let mut oracle = self.world.oracle.lock();
        if log_start > 0 {
            self.world.count("the log was trimmed");
            if self.world.retention == Retention::Ample {
                oracle.violate(format!(
                    "partition {partition} was trimmed to {log_start}, and nothing was old"
                ));
            }
        }
        // After a lie the end may be missing: what is there must be what was published, without gaps.
        let promised_end = if self.plan.deceived { 0 } else { promised_end };
        let whole = log_start..promised_end.max(before.high_watermark.0);
        oracle.read(partition, before.log_start.0, whole, &events);
        Ok(())
    }

    async fn read(&self, node: &SimulatedNode, account: &Account) -> anyhow::Result<Vec<SeenEvent>> {
        let query = ReadQuery {
            partition: Some(account.partition.into()),
            from: ReadFrom::Earliest,
            follow: false,
            types: BTreeSet::new(),
            limit: None,
        };
        let mut pages = node.reader.open(account.tenant, query).await?;
        let mut events = Vec::new();
        while let Some(page) = pages.next().await {
            for stored in page?.events {
                let event = Event::parse(&stored.bytes).ok();
                let name = event.and_then(|event| EventName::parse(account.number, event.id));
                let Some(name) = name else {
                    let place = (account.partition, stored.offset);
                    self.world.oracle.lock().violate(format!("{place:?} is no event that was published"));
                    continue;
                };
                let hash = xxh3_64(&stored.bytes);
                events.push(SeenEvent { offset: stored.offset.0, name, hash });
            }
        }
        Ok(events)
    }

    /// The node failed in some way: a fault of the disk may be the reason, and nothing else.
    fn blame(&self, failure: String) {
        if self.disk.failures() == 0 && !self.power.is_off() && !self.plan.deceived {
            self.world.oracle.lock().violate(format!("without a fault of the disk: {failure}"));
        }
    }

    /// An orderly stop.
    async fn stop(&self, node: &SimulatedNode) -> End {
        if timeout(STOPPED_WITHIN, node.shutdown()).await.is_err() {
            self.blame(format!("the node did not stop within {STOPPED_WITHIN:?}"));
        }
        self.disk.end_now(End::Stop);
        End::Stop
    }

    /// No faults any more: everything that was published is delivered in bounded time, and every count is exact.
    async fn finish(&self, node: &SimulatedNode, all_accounts: &[Account]) -> End {
        sleep(Duration::from_secs(2)).await;
        self.world.producers.lock().iter_mut().for_each(|producer| producer.end());
        self.read_all(node, all_accounts).await;
        // What can be read of a damaged partition was right. More is not promised for it, and all for the others.
        let accounts: Vec<&Account> =
            all_accounts.iter().filter(|account| self.plan.damaged != Some(account.partition)).collect();
        let accounts = accounts.as_slice();
        let deadline = Instant::now() + SETTLED_WITHIN;
        let mut number = 0;
        while !self.is_settled(node, accounts) {
            if Instant::now() > deadline {
                let text = self.unsettled(node, accounts);
                self.world.oracle.lock().violate(text);
                return End::Stop;
            }
            for account in accounts {
                self.publish_closing(node, account, &mut number).await;
            }
            // The advance of the event just published is replicated before another one is.
            sleep(Duration::from_millis(500.max(2 * self.world.advance_interval_ms))).await;
        }
        self.read_all(node, all_accounts).await;
        for &account in accounts {
            if let Err(error) = self.judge(node, account).await {
                self.world.oracle.lock().violate(format!("the last look failed: {error:#}"));
            }
        }
        self.stop(node).await
    }

    /// Publishes one more event, which the receiver takes.
    async fn publish_closing(&self, node: &SimulatedNode, account: &Account, number: &mut u32) {
        let mut name = EventName { account: account.number, key: CLOSING_KEY, number: *number };
        while is_poison(&name.id()) {
            name.number += 1;
        }
        *number = name.number + 1;
        let event = name.encode();
        let outcomes = node.ingest.publish(account.tenant, std::iter::once(event.as_slice())).await;
        self.world.trace.add(format_args!("closing {name} {outcomes:?}"));
        let mut oracle = self.world.oracle.lock();
        match &outcomes[0] {
            Ok(committed) => oracle.acknowledged(name, *committed),
            Err(_) => oracle.gave_up(name),
        }
    }

    fn is_settled(&self, node: &SimulatedNode, accounts: &[&Account]) -> bool {
        let producers = self.world.producers.lock();
        let published = producers_of(&producers, accounts).all(|producer| producer.is_done());
        let matched = accounts.iter().all(|account| {
            node.directory.local(PartitionId::events(account.partition)).is_ok_and(|partition| {
                let positions = *partition.positions().borrow();
                positions.frontier == positions.high_watermark
            })
        });
        published
            && matched
            && subscriptions(accounts).all(|(tenant, id)| {
                node.control.subscription_stats(tenant, id).is_ok_and(|stats| stats.pending == 0)
            })
    }

    fn unsettled(&self, node: &SimulatedNode, accounts: &[&Account]) -> String {
        let producers = self.world.producers.lock();
        let pending: Vec<&[EventName]> =
            producers_of(&producers, accounts).map(|producer| producer.pending()).collect();
        let stats: Vec<_> =
            subscriptions(accounts).map(|(tenant, id)| node.control.subscription_stats(tenant, id)).collect();
        let roles: Vec<Option<Role>> = (0..PARTITIONS)
            .map(|index| Some(*node.directory.local(PartitionId::events(index)).ok()?.role().borrow()))
            .collect();
        format!("not everything was delivered in {SETTLED_WITHIN:?}: {pending:?} {stats:?} {roles:?}")
    }

    async fn judge(&self, node: &SimulatedNode, account: &Account) -> anyhow::Result<()> {
        for subscription in &account.subscriptions {
            let stats = node.control.subscription_stats(account.tenant, &subscription.id)?;
            let letters = self.dead_letters(node, account, &subscription.id).await?;
            let route = subscription.route;
            let mut oracle = self.world.oracle.lock();
            let mut given_up = BTreeSet::new();
            for letter in &letters {
                self.world.count_letter(letter.reason);
                given_up.extend(oracle.dead_letter(route, letter, self.world.retention));
            }
            let due: Vec<EventName> =
                oracle.stored().map(|(name, _)| name).filter(|name| route.matches(*name)).collect();
            self.world.trace.add(format_args!("{} has {stats:?}", route.path));
            let uncertain = oracle.uncertain().filter(|name| route.matches(*name)).count();
            if !(due.len() as u64..=(due.len() + uncertain) as u64).contains(&stats.matched) {
                oracle.violate(format!(
                    "{} matched {} of {} events, and {uncertain} that may be stored",
                    route.path,
                    stats.matched,
                    due.len()
                ));
            }
            let settled = stats.delivered + stats.dead_lettered + stats.expired + stats.cancelled;
            // Retention does not wait for room for dead letters: what a full disk takes from them expires.
            let may_expire = self.world.faults.lock().has(DISK_FULL);
            let expired = if may_expire { 0 } else { stats.expired };
            if stats.matched != settled + stats.pending || expired + stats.cancelled > 0 {
                oracle.violate(format!("{}: the counts do not add up: {stats:?}", route.path));
            }
            if stats.dead_lettered != given_up.len() as u64 {
                let stored = given_up.len();
                oracle.violate(format!("{}: {stored} dead letters are stored: {stats:?}", route.path));
            }
            if may_expire && stats.expired > 0 {
                continue;
            }
            oracle.deliveries.check_all(route, due.into_iter(), &given_up);
        }
        Ok(())
    }

    async fn dead_letters(
        &self,
        node: &SimulatedNode,
        account: &Account,
        subscription: &str,
    ) -> anyhow::Result<Vec<DeadLetter>> {
        let (mut letters, mut after) = (Vec::new(), None);
        loop {
            let request = ListRequest { after, limit: 100 };
            let page = node.control.list_dead_letters(account.tenant, Some(subscription), request).await?;
            letters.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(letters);
            }
        }
    }
}

/// The producers of `accounts`.
fn producers_of<'a>(
    producers: &'a [ProducerState],
    accounts: &'a [&Account],
) -> impl Iterator<Item = &'a ProducerState> {
    let is_of = |index: u32| accounts.iter().any(|account| account.number == index % ACCOUNTS);
    (0..).zip(producers).filter(move |(index, _)| is_of(*index)).map(|(_, producer)| producer)
}

fn subscriptions<'a>(accounts: &'a [&Account]) -> impl Iterator<Item = (Tenant, &'a str)> {
    accounts.iter().flat_map(|account| {
        account.subscriptions.iter().map(|subscription| (account.tenant, subscription.id.as_str()))
    })
}

/// Changes the receiver's mood from time to time.
async fn moods(world: Arc<World>, mood: Arc<Mutex<Mood>>, plan: LifePlan) {
    loop {
        sleep(Duration::from_millis(world.dice.between(100, 3_000))).await;
        let next = plan.mood(&world.dice);
        world.trace.add(format_args!("the receiver is {next:?}"));
        *mood.lock() = next;
    }
}

/// Gives a full disk room again.
async fn free_disk(disk: SimulatedDisk, after_ms: u64) {
    sleep(Duration::from_millis(after_ms)).await;
    disk.memory().leave_free(1 << 40);
}

/// Sets the wall clock off, once in a while.
async fn jump_clock(world: Arc<World>, simulation: Simulation, plan: LifePlan) {
    for jump_ms in plan.clock_jumps_ms {
        sleep(Duration::from_millis(world.dice.between(100, 3_000))).await;
        world.count("the wall clock jumped");
        world.trace.add(format_args!("the wall clock jumps by {jump_ms} ms"));
        simulation.clock().jump_ms(jump_ms);
    }
}
