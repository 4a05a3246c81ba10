//! Requests and responses whose events are raw bytes, identical on the wire to the generated messages.
//!
//! A request is kept as the one buffer it arrived in; its events are ranges of that buffer.

use std::{marker::PhantomData, ops::Range};

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

/// Most events of one request. Bounds the answer, whose results are larger than the smallest events.
pub(crate) const EVENTS_MAX: usize = 10_000;
const BUFFER_BYTES: usize = 256 << 10;

/// Leaves requests as raw bytes; encodes responses `R` by prost.
pub(crate) struct RawCodec<R> {
    response: PhantomData<R>,
}

impl<R> RawCodec<R> {
    pub(crate) fn new() -> Self {
        Self { response: PhantomData }
    }
}

impl<R: prost::Message + Send + 'static> Codec for RawCodec<R> {
    type Encode = R;
    type Decode = Bytes;
    type Encoder = ProstEncoder<R>;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        RawDecoder
    }
}

pub(crate) struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, BUFFER_BYTES)
    }
}

/// Reason why bytes are not a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the request is not the protobuf message it should be")]
    Malformed,
    #[error("the request has more than {EVENTS_MAX} events: split it")]
    TooManyEvents,
}

/// A request of any of the publish calls: its buffer, and the ranges of its events.
#[derive(Debug, Default)]
pub(crate) struct Request {
    message: Bytes,
    events: Vec<Range<usize>>,
    pub(crate) sequence: u64,
    pub(crate) resume: bool,
}

impl Request {
    /// Reads a PublishRequest or a PublishBatchRequest: both have their events in field 1.
    pub(crate) fn parse(message: Bytes) -> Result<Self, RequestError> {
        Self::read(message, |request, tag, value| match (tag, value) {
            (1, Value::Bytes(event)) => request.push(event),
            (1, Value::Number(_)) => Err(RequestError::Malformed),
            _ => Ok(()),
        })
    }

    /// Reads a PublishStreamRequest.
    pub(crate) fn parse_stream(message: Bytes) -> Result<Self, RequestError> {
        Self::read(message, |request, tag, value| {
            match (tag, value) {
                (1, Value::Number(sequence)) => request.sequence = sequence,
                (2, Value::Number(resume)) => request.resume = resume != 0,
                (3, Value::Bytes(event)) => request.push(event)?,
                (1..=3, _) => return Err(RequestError::Malformed),
                _ => {}
            }
            Ok(())
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.message.len()
    }

    pub(crate) fn events(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone + Send {
        self.events.iter().map(|range| &self.message[range.clone()])
    }

    fn push(&mut self, event: Range<usize>) -> Result<(), RequestError> {
        if self.events.len() == EVENTS_MAX {
            return Err(RequestError::TooManyEvents);
        }
        self.events.push(event);
        Ok(())
    }

    fn read(
        message: Bytes,
        mut visit: impl FnMut(&mut Self, u32, Value) -> Result<(), RequestError>,
    ) -> Result<Self, RequestError> {
        let mut request = Self::default();
        let mut rest = &message[..];
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(&mut rest).map_err(|_| RequestError::Malformed)?;
            let value = match wire_type {
                WireType::Varint => {
                    Value::Number(decode_varint(&mut rest).map_err(|_| RequestError::Malformed)?)
                }
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut rest).map_err(|_| RequestError::Malformed)?;
                    let length = usize::try_from(length).map_err(|_| RequestError::Malformed)?;
                    let start = message.len() - rest.len();
                    rest = rest.get(length..).ok_or(RequestError::Malformed)?;
                    Value::Bytes(start..start + length)
                }
                other => {
                    skip_field(other, tag, &mut rest, DecodeContext::default())
                        .map_err(|_| RequestError::Malformed)?;
                    continue;
                }
            };
            visit(&mut request, tag, value)?;
        }
        request.message = message;
        Ok(request)
    }
}

enum Value {
    Number(u64),
    Bytes(Range<usize>),
}

/// `fanfare.v1.StoredEvent` with the event's own bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredEvent {
    #[prost(uint32, tag = "1")]
    pub(crate) partition: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) offset: u64,
    #[prost(message, optional, tag = "3")]
    pub(crate) append_time: Option<prost_types::Timestamp>,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) event: Bytes,
}

/// `fanfare.v1.ReadEventsResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReadEventsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) events: Vec<StoredEvent>,
}

/// `fanfare.v1.GetEventResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetEventResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) event: Option<StoredEvent>,
}

#[cfg(test)]
mod tests;
