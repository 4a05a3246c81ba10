//! Events encoded before the run, so that the load generator costs little: sending one copies its bytes and
//! writes a fresh id into them.

use bytes::BufMut;
use fanfare_proto::v1;
use prost::{Message, encoding};
use rand::{Rng, RngExt};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use std::sync::Arc;

use super::payload;
use fanfare_client::EventBuilder;

/// Source of every event of the load generator.
pub(super) const SOURCE: &str = "/fanfare/bench";
const ID_LENGTH: u8 = 32;
const HEX: &[u8; 16] = b"0123456789abcdef";
/// tonic's own default of 8 KiB grows step by step under batches of 100 KiB.
const BUFFER_BYTES: usize = 256 << 10;

/// Field 1 (`id`) and field 3 (`events`) as length-delimited keys; field 1 (`sequence`) and 2 (`resume`) as varints.
const ID_KEY: u8 = 1 << 3 | 2;
const EVENTS_KEY: u8 = 3 << 3 | 2;
const SEQUENCE_KEY: u8 = 1 << 3;
const RESUME_KEY: u8 = 2 << 3;

/// Events, one per key. Their ids are 16 hex digits of the run and 16 of a number.
#[derive(Debug)]
pub(super) struct EventPool {
    /// Encoded, but for the id, which comes first.
    tails: Vec<Box<[u8]>>,
    run: u64,
}

impl EventPool {
    /// The keys' events are of the types in turn.
    pub(super) fn generate(types: &[&str], keys: u32, size_bytes: u32, rng: &mut impl Rng) -> Self {
        let types = types.iter().cycle();
        let tails = (0..keys).zip(types).map(|(key, event_type)| {
            let builder =
                EventBuilder::new(*event_type).id("").source(SOURCE).partition_key(format!("key-{key}"));
            let json = payload::order(size_bytes as usize, rng);
            let event = builder.json(json).expect("the payload is JSON").build();
            event.encode_to_vec().into_boxed_slice()
        });
        Self { tails: tails.collect(), run: rng.random() }
    }

    /// The id of event `number` of this run.
    #[cfg(test)]
    pub(super) fn id(&self, number: u64) -> String {
        String::from_utf8(self.id_bytes(number).to_vec()).expect("hex digits are text")
    }

    /// The number of the event with this id; none if it is of another run.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        if id.len() != usize::from(ID_LENGTH) || !id.is_ascii() {
            return None;
        }
        let (run, number) = id.split_at(16);
        let run = u64::from_str_radix(run, 16).ok()?;
        (run == self.run).then(|| u64::from_str_radix(number, 16).ok()).flatten()
    }

    fn id_bytes(&self, number: u64) -> [u8; ID_LENGTH as usize] {
        let mut id = [0; ID_LENGTH as usize];
        let (run, counter) = id.split_at_mut(16);
        hex(self.run, run);
        hex(number, counter);
        id
    }

    /// The key of event `number`, below the number of keys.
    pub(super) fn key(&self, number: u64) -> usize {
        // A fixed shuffle: neighbours in time have unrelated keys.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(spread).unwrap_or_default() % self.tails.len()
    }

    fn tail(&self, number: u64) -> &[u8] {
        &self.tails[self.key(number)]
    }
}

fn hex(value: u64, digits: &mut [u8]) {
    for (pair, byte) in digits.chunks_exact_mut(2).zip(value.to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 0xf)];
    }
}

/// A `PublishStreamRequest` of `count` events from number `first` on.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) pool: Arc<EventPool>,
    pub(super) sequence: u64,
    pub(super) resume: bool,
    pub(super) first: u64,
    pub(super) count: u32,
}

impl Batch {
    fn encode(&self, buffer: &mut impl BufMut) {
        if self.sequence != 0 {
            buffer.put_u8(SEQUENCE_KEY);
            encoding::encode_varint(self.sequence, buffer);
        }
        if self.resume {
            buffer.put_slice(&[RESUME_KEY, 1]);
        }
        for number in self.first..self.first + u64::from(self.count) {
            let tail = self.pool.tail(number);
            buffer.put_u8(EVENTS_KEY);
            encoding::encode_varint(2 + u64::from(ID_LENGTH) + tail.len() as u64, buffer);
            buffer.put_slice(&[ID_KEY, ID_LENGTH]);
            buffer.put_slice(&self.pool.id_bytes(number));
            buffer.put_slice(tail);
        }
    }
}

/// Encodes [`Batch`]es; on the wire they are `PublishStreamRequest`s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchCodec;

impl Codec for BatchCodec {
    type Encode = Batch;
    type Decode = v1::PublishStreamResponse;
    type Encoder = BatchEncoder;
    type Decoder = ProstDecoder<v1::PublishStreamResponse>;

    fn encoder(&mut self) -> Self::Encoder {
        BatchEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, BUFFER_BYTES))
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchEncoder;

impl Encoder for BatchEncoder {
    type Item = Batch;
    type Error = Status;

    fn encode(&mut self, batch: Batch, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        batch.encode(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, BUFFER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn a_batch_is_a_publish_stream_request_on_the_wire() {
        let pool = Arc::new(EventPool::generate(&["t"], 100, 1024, &mut StdRng::seed_from_u64(1)));
        for (sequence, resume, first, count) in
            [(0, false, 0, 1), (300, true, 5, 100), (1, false, u64::MAX / 2, 9)]
        {
            let mut wire = Vec::new();
            Batch { pool: pool.clone(), sequence, resume, first, count }.encode(&mut wire);
            let request = v1::PublishStreamRequest::decode(wire.as_slice()).unwrap();
            assert_eq!(
                (request.sequence, request.resume, request.events.len()),
                (sequence, resume, count as usize)
            );
            for (number, event) in (first..).zip(&request.events) {
                assert_eq!(event.id, pool.id(number));
                assert_eq!(pool.number(&event.id), Some(number));
                assert_eq!((event.r#type.as_str(), event.source.as_str()), ("t", SOURCE));
                assert!(event.data.is_some() && event.attributes.contains_key("partitionkey"));
            }
        }
    }

    #[test]
    fn ids_of_another_run_are_told_apart_and_keys_are_spread() {
        let mut rng = StdRng::seed_from_u64(1);
        let (pool, other) =
            (EventPool::generate(&["t"], 50, 640, &mut rng), EventPool::generate(&["t"], 1, 640, &mut rng));
        assert_eq!(pool.number(&other.id(3)), None);
        for foreign in ["", "x", "éééééééééééééééé", "0192f0c1-aaaa-7bbb-8ccc-ddddeeeeffff"] {
            assert_eq!(pool.number(foreign), None, "{foreign}");
        }
        let used: HashSet<_> = (0..1000).map(|number| pool.tail(number).as_ptr()).collect();
        assert_eq!(used.len(), 50);
    }
}
