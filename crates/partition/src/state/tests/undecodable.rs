//! Entries that this version cannot apply are errors, never panics.

use super::*;

fn refused(bench: &mut Bench, frame: &Frame) -> ApplyError {
    bench.state.apply(frame, ApplyMode::Live).expect_err("the entry cannot be applied")
}

#[test]
fn unknown_kinds_and_newer_commands_are_errors_in_both_modes() {
    for mode in [ApplyMode::Live, ApplyMode::Replay] {
        let mut bench = Bench::new();
        bench.append(1);
        let unknown = bench.script.frame(77, 0, Payload::default());
        let error = bench.state.apply(&unknown, mode).unwrap_err();
        assert_eq!(error, ApplyError::UnknownKind { index: 2, kind: 77 });

        let mut bench = Bench::new();
        bench.append(1);
        let newer = Payload::new(vec![vec![0xff, 0xff, 1].into()]);
        let newer = bench.script.frame(command::KIND, 0, newer);
        let error = bench.state.apply(&newer, mode).unwrap_err();
        assert!(
            matches!(error, ApplyError::Decode { index: 2, source: CodecError::Version { .. } }),
            "{error}"
        );
    }
}

#[test]
fn entries_that_do_not_follow_the_newest_are_errors() {
    let mut bench = Bench::new();
    bench.append(2);
    let frame = bench.script.entry(&[batch(1, &["next"])]);
    let with = |change: fn(&mut FrameHeader)| {
        let mut frame = frame.clone();
        change(&mut frame.header);
        frame
    };
    for wrong in [
        with(|header| header.base_offset += 1),
        with(|header| header.base_offset -= 1),
        with(|header| header.position.index -= 1),
    ] {
        let error = refused(&mut bench, &wrong);
        assert!(matches!(error, ApplyError::Invariant { .. }), "{error}");
    }
    assert_eq!(bench.state.apply(&frame, ApplyMode::Live), Ok(Reply::Appended));
}

#[test]
fn entries_without_room_for_their_offsets_are_errors() {
    let next_offset = u64::MAX - 2;
    let anchor = Anchor { position: Position { term: TERM, leader: 1, index: 1 }, next_offset };
    for mode in [ApplyMode::Live, ApplyMode::Replay] {
        let mut bench = Bench::new();
        bench.state = PartitionState::empty_at(anchor, Stream::Events);
        bench.state.reset_derived(Offset(next_offset), 1);
        bench.script = Script { next_index: 2, next_offset, time: 1_000 };
        let fits = bench.script.entry(&[batch(1, &["a", "b"])]);
        assert_eq!(bench.state.apply(&fits, mode), Ok(Reply::Appended));
        let before = bench.state.positions();
        let mut too_many = fits.clone();
        (too_many.header.base_offset, too_many.header.position.index) = (u64::MAX, 3);
        let error = refused(&mut bench, &too_many);
        assert!(matches!(error, ApplyError::Invariant { index: 3, .. }), "{error}");
        assert_eq!(bench.state.positions(), before);
    }
}
