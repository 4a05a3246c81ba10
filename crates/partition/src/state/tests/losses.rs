//! Lost entries: their offsets stay taken, and nothing else changes.

use super::*;

impl Bench {
    fn lose(&mut self, count: u32) -> Reply {
        let frame = self.script.frame(loss::KIND, count, Payload::default());
        self.state.apply(&frame, ApplyMode::Live)
    }
}

#[test]
fn lost_entries_take_their_offsets_and_nothing_else() {
    let mut bench = Bench::new();
    bench.append(2);
    let before = bench.state.checkpoint();
    assert_eq!(bench.lose(3), Reply::Appended);
    assert_eq!(bench.lose(0), Reply::Appended);
    bench.append(1);
    let positions = bench.state.positions();
    assert_eq!((positions.log_start, positions.high_watermark), (Offset(0), Offset(6)));
    assert_eq!(before.len(), bench.state.checkpoint().len(), "a loss is no part of the accumulated state");
    let lost = bench.state.recent_index(Offset(3));
    assert!(lost < bench.state.recent_index(Offset(5)) && lost > bench.state.recent_index(Offset(1)));
    assert!(bench.state.dedup().account(loss::NO_ACCOUNT).is_some(), "the window stays dense");
}

#[test]
fn a_loss_larger_than_the_window_takes_no_memory_and_what_follows_is_known() {
    let mut bench = Bench::new();
    bench.append(2);
    assert_eq!(bench.lose(u32::MAX), Reply::Appended);
    bench.append(1);
    let last = u64::from(u32::MAX) + 2;
    assert_eq!(bench.state.positions().high_watermark, Offset(last + 1));
    let known = bench.state.dedup().account(account(1)).expect("the newest event is remembered");
    let of = |event: u64| known.get(fanfare_model::EventIdHash::of("/test", &event.to_string()));
    assert_eq!((of(0), of(last).map(|event| event.offset)), (None, Some(Offset(last))));
}

#[test]
fn a_state_that_begins_anew_takes_offsets_from_its_anchor_on() {
    let position = Position { term: TERM, leader: 1, index: 40 };
    let anchor = Anchor { position, next_offset: 70 };
    let state = PartitionState::beginning_at(anchor, LIMITS);
    let restored = PartitionState::restored(&state.checkpoint(), LIMITS).expect("its own checkpoint");
    let at = Offset(70);
    assert_eq!(restored.positions(), Positions { log_start: at, high_watermark: at, frontier: at });
    assert_eq!(restored.anchor(), Some(anchor));
}
