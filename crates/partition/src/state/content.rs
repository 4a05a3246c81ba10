//! The content of a frame, as far as the state needs it.

use fanfare_log::{Frame, FrameHeader};

use super::ApplyError;
use crate::{
    command::{self, Command},
    entry, filler,
};

pub(super) enum FrameContent {
    Entry,
    Filler,
    Command(Command),
}

impl FrameContent {
    /// Commands are decoded in both modes of applying: an unknown one fails the group where it is first read.
    pub(super) fn decode(frame: &Frame) -> Result<Self, ApplyError> {
        let FrameHeader { kind, position, .. } = frame.header;
        let index = position.index;
        match kind {
            entry::KIND => Ok(Self::Entry),
            filler::KIND => Ok(Self::Filler),
            command::KIND => {
                let payload = frame.payload.slice(0..frame.payload.len());
                let command = Command::decode(&payload);
                command.map(Self::Command).map_err(|source| ApplyError::Decode { index, source })
            }
            kind => Err(ApplyError::UnknownKind { index, kind }),
        }
    }
}
