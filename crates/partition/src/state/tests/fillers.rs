//! Lost entries: their offsets stay taken, and nothing else changes.

use super::*;

impl Bench {
    fn lose(&mut self, count: u32) -> Reply {
        let frame = self.script.frame(filler::KIND, count, Payload::default());
        self.state.apply(&frame, ApplyMode::Live).unwrap()
    }
}

#[test]
fn fillers_take_their_offsets_and_nothing_else() {
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
}

#[test]
fn empty_state_takes_offsets_from_its_anchor_on() {
    let position = Position { term: TERM, leader: 1, index: 40 };
    let anchor = Anchor { position, next_offset: 70 };
    let state = PartitionState::empty_at(anchor, Stream::Events);
    let restored = PartitionState::restored(&state.checkpoint(), Stream::Events).expect("its own checkpoint");
    let at = Offset(70);
    assert_eq!(restored.positions(), Positions { log_start: at, high_watermark: at, frontier: at });
    assert_eq!(restored.anchor(), Some(anchor));
}
