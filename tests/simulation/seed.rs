//! One seed from its first start to its verdict.

use std::{process::ExitCode, sync::Arc};

use fanfare_catalog::{MemoryView, NewKey};
use fanfare_environment::Random;
use fanfare_log::MemoryFileSystem;
use parking_lot::Mutex;
use tracing_subscriber::{Registry, filter::EnvFilter, layer::SubscriberExt};

use crate::{
    damage,
    faults::FaultCounts,
    life::Life,
    oracle::{LifeStart, Oracle},
    plan::LifePlan,
    producer::{PRODUCERS, ProducerState},
    receiver::Mood,
    retention::Retention,
    trace::{Trace, TraceLayer},
    world::{Dice, End, World},
};

/// Chance in percent that a sync of the last life but one lies.
const LIE_CHANCE: u64 = 10;
/// Chance in percent that the disk has lost a bit by the last start.
const DAMAGE_CHANCE: u64 = 20;
/// Chance in percent that the receiver takes what it had refused for good, when nothing fails any more.
const MENDED_CHANCE: u64 = 50;
/// Chance in percent that progress waits for long before it is replicated.
const LONG_ADVANCE_CHANCE: u64 = 30;

/// Runs `seed`; prints a line of JSON with its verdict, and before it the trace if `prints`.
pub(crate) fn run(seed: u64, prints: bool) -> ExitCode {
    let trace = Trace::new(prints);
    let filter = EnvFilter::new("info,fanfare_raft::apply=trace,openraft=warn");
    let subscriber = Registry::default().with(filter).with(TraceLayer(trace.clone()));
    tracing::subscriber::set_global_default(subscriber).expect("the first subscriber");
    let dice = Dice::new(seed);
    let keys = Arc::new(Mutex::new(vec![NewKey::generate(&KeyDice(dice.clone()))]));
    let world = Arc::new(World {
        seed,
        retention: Retention::draw(&dice),
        advance_interval_ms: if dice.chance(LONG_ADVANCE_CHANCE) { 2_000 } else { 50 },
        trace,
        dice: dice.clone(),
        disk: Mutex::new(MemoryFileSystem::default()),
        view: MemoryView::default(),
        oracle: Mutex::new(Oracle::default()),
        producers: Mutex::new((0..PRODUCERS).map(|_| ProducerState::new()).collect()),
        faults: Mutex::new(FaultCounts::default()),
    });
    let lives = dice.between(2, 5);
    let mut started_us = 0;
    let mut ends = Vec::new();
    let (mut deceived, mut after_stop) = (false, false);
    for number in 0..=lives {
        let plan = if number == lives && deceived {
            LifePlan::deceived()
        } else if number == lives {
            let damaged = ends.last().filter(|_| dice.chance(DAMAGE_CHANCE));
            let damaged = damaged.and_then(|end| damage::flip(&world.disk.lock(), &dice, end));
            let mood = if dice.chance(MENDED_CHANCE) { Mood::Mended } else { Mood::Well };
            LifePlan::calm(mood, damaged)
        } else if number + 1 == lives && dice.chance(LIE_CHANCE) {
            LifePlan::lying(&dice)
        } else {
            LifePlan::draw(&dice, world.retention)
        };
        world.trace.add(format_args!("life {number} begins: {plan:?}"));
        let start = LifeStart { after_stop, damaged: plan.damaged, deceived: plan.deceived };
        world.oracle.lock().begin_life(start);
        let life = Life { number, world: world.clone(), keys: keys.clone(), plan, started_us };
        let lived = life.run();
        started_us += lived.elapsed_us + 1_000_000;
        if !deceived {
            world.oracle.lock().deliveries.check_repeats();
        }
        deceived |= lived.deceived;
        after_stop = lived.is_orderly;
        ends.push(lived.end);
        if world.oracle.lock().violation().is_some() {
            break;
        }
    }
    report(&world, &ends, started_us)
}

fn report(world: &World, ends: &[End], elapsed_us: u64) -> ExitCode {
    let oracle = world.oracle.lock();
    let violation = oracle.violation();
    let faults: serde_json::Map<String, serde_json::Value> =
        world.faults.lock().iter().map(|(fault, count)| (fault.to_owned(), count.into())).collect();
    let verdict = serde_json::json!({
        "seed": world.seed,
        "hash": format!("{:016x}", world.trace.hash()),
        "lines": world.trace.lines(),
        "simulated_s": elapsed_us as f64 / 1e6,
        "acknowledged": oracle.acknowledged,
        "duplicates": oracle.duplicates,
        "requests": oracle.deliveries.requests,
        "repeats_max": oracle.deliveries.repeats_max,
        "ends": ends.iter().map(|end| format!("{end:?}")).collect::<Vec<_>>(),
        "faults": faults,
        "violation": violation,
    });
    println!("{verdict}");
    if violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct KeyDice(Dice);

impl Random for KeyDice {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = u8::try_from(self.0.below(256)).expect("below 256");
        }
    }
}
