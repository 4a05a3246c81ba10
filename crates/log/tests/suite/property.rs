//! Any sequence of steps, restarts and power losses leaves what the model says.
use fanfare_log::{MemoryFileSystem, StoreOptions};
use proptest::prelude::*;

use crate::{
    model::{Model, Step},
    support::{LOG, REPLICA, after_power_loss, any_options, open_with, roll},
};

#[derive(Clone, Debug)]
enum Event {
    Do(Step),
    Close,
    Kill,
    /// The bits say what is kept of the writes that no sync has covered.
    PowerLoss(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..6_u64, 0..900_usize).prop_map(|(frames, payload_bytes)| Step::Append { frames, payload_bytes }).prop_map(Event::Do),
        2 => (0..12_u64).prop_map(|dropped| Event::Do(Step::Truncate { dropped })),
        2 => (0..12_u64).prop_map(|kept| Event::Do(Step::Purge { kept })),
        1 => (0..5_u64).prop_map(|skipped| Event::Do(Step::Restart { skipped })),
        1 => any::<u8>().prop_map(|vote| Event::Do(Step::Vote(vote))),
        1 => Just(Event::Close),
        1 => Just(Event::Kill),
        2 => any::<u64>().prop_map(Event::PowerLoss),
    ]
}

fn run(events: &[Event], options: &StoreOptions) {
    let mut fs = MemoryFileSystem::default();
    let mut store = open_with(&fs, options.clone()).expect("open");
    let mut log = store.open_log(LOG, REPLICA, roll()).expect("open log");
    let mut model = Model::of(&log, 1);
    for event in events {
        match event {
            Event::Do(step) => model.run(step, &log),
            Event::Close => store.close(),
            Event::Kill => {}
            Event::PowerLoss(bits) => fs = after_power_loss(&fs, *bits),
        }
        if !matches!(event, Event::Do(_)) {
            drop((store, log));
            store = open_with(&fs, options.clone()).expect("reopen");
            log = store.open_log(LOG, REPLICA, roll()).expect("reopen log");
        }
        assert_eq!(Model::of(&log, model.term()), model, "after {event:?}");
        model.check_lookups(&log);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_what_was_done_to_it(
        events in prop::collection::vec(event(), 1..40),
        options in any_options(),
    ) {
        run(&events, &options);
    }
}
