//! Retained bytes of a stream of dead letters.

use super::*;

impl Bench {
    fn of_dead_letters() -> Self {
        Self { state: PartitionState::new(Stream::DeadLetters), script: Script::new() }
    }

    /// Appends one event of `size` bytes; returns the bytes that it counts for.
    fn append_sized(&mut self, owner: u8, size: usize) -> u64 {
        let event = format!("{}{}", self.script.next_offset, "x".repeat(size));
        let batch = batch(owner, &[&event]);
        let bytes = usage::bytes_of(batch.len(), batch.size_bytes());
        let frame = self.script.entry(&[batch]);
        assert_eq!(self.state.apply(&frame, ApplyMode::Live), Ok(Reply::Appended));
        bytes
    }

    fn usage(&self, owner: u8) -> (u64, u64) {
        let Usage { account_bytes, stream_bytes } = self.state.usage(account(owner));
        (account_bytes, stream_bytes)
    }
}

#[test]
fn retained_bytes_are_added_at_apply_and_removed_at_trim() {
    let mut bench = Bench::of_dead_letters();
    let mut bytes = Vec::new();
    for event in 0..40 {
        bytes.push(bench.append_sized(1 + event % 2, 1 << 20));
    }
    let of =
        |owner: usize, from: usize| bytes[from..].iter().skip((owner + from + 1) % 2).step_by(2).sum::<u64>();
    let all: u64 = bytes.iter().sum();
    assert_eq!([bench.usage(1), bench.usage(2)], [(of(1, 0), all), (of(2, 0), all)]);
    assert_eq!(bench.usage(3), (0, all));

    bench.advance(40, vec![]).unwrap();
    bench.trim(20).unwrap();
    let (_, left) = bench.usage(1);
    let retained: u64 = bytes[20..].iter().sum();
    assert!(
        retained <= left && left <= retained + (17 << 20),
        "{left} of {retained}: one bucket more at most"
    );
    let restored = PartitionState::restored(&bench.state.checkpoint(), Stream::DeadLetters).unwrap();
    assert_eq!(restored.checkpoint(), bench.state.checkpoint());
    assert_eq!(restored.usage(account(2)), bench.state.usage(account(2)));

    bench.trim(40).unwrap();
    assert_eq!([bench.usage(1), bench.usage(2)], [(0, 0), (0, 0)]);
}

#[test]
fn replayed_entries_are_not_counted_again() {
    let mut bench = Bench::of_dead_letters();
    let bytes = bench.append_sized(1, 100);
    let mut replica = PartitionState::restored(&bench.state.checkpoint(), Stream::DeadLetters).unwrap();
    let frame = Script::new().entry(&[batch(1, &[&format!("0{}", "x".repeat(100))])]);
    assert_eq!(replica.apply(&frame, ApplyMode::Replay), Ok(Reply::Appended));
    assert_eq!(replica.usage(account(1)), Usage { account_bytes: bytes, stream_bytes: bytes });
}

#[test]
fn checkpoint_of_another_stream_is_refused() {
    let checkpoint = PartitionState::new(Stream::DeadLetters).checkpoint();
    assert!(PartitionState::restored(&checkpoint, Stream::Events).is_err());
    assert!(PartitionState::restored(&checkpoint, Stream::DeadLetters).is_ok());
}
