//! Reading headers of frames and the first bytes of their payloads, for rebuilding state at a start: a fraction of what
//! reading whole frames costs.
use std::ops::{ControlFlow, Range};

use super::{Log, read::Source};
use crate::{error::ReadError, frame::FrameHeader, segment::header_scanner::HeaderScanner};

/// Frames that are taken out of memory at once, in bytes of payload.
const CACHED_BYTES_MAX: u64 = 1024 * 1024;

impl Log {
    /// Visits the frames of `indexes` in order, as far as there are any: their headers and the first bytes of their
    /// payloads, as many as `prefix_bytes` asks for, or all of a shorter payload. Ends early when `visit` breaks.
    /// Returns the index after the last visited frame. Blocking.
    ///
    /// The rest of a payload is skipped on disk, and read through where skipping would cost more. So a gibibyte in
    /// frames of 1 MiB costs a thousand small reads.
    ///
    /// A header is proven: it continues the frame before it. The first bytes of a payload are **not**, because a frame
    /// has one checksum for all of its payload: a caller that trusts them verifies them by a checksum of its own, or
    /// reads the frame with [`Log::read`].
    ///
    /// # Errors
    /// If the range begins below the log's start, or a header cannot be read or is damaged.
    pub fn scan_headers(
        &self,
        indexes: Range<u64>,
        prefix_bytes: impl Fn(&FrameHeader) -> usize,
        mut visit: impl FnMut(&FrameHeader, &[u8]) -> ControlFlow<()>,
    ) -> Result<u64, ReadError> {
        let mut next = indexes.start;
        while next < indexes.end {
            let source = self.log.locate(next, indexes.end, CACHED_BYTES_MAX)?;
            let range = match source {
                Source::Nothing => break,
                Source::Disk(range) => range,
                Source::Memory(frames) => {
                    for frame in &frames {
                        let length = prefix_bytes(&frame.header).min(frame.payload.len());
                        let flow = visit(&frame.header, &frame.payload.slice(0..length));
                        next = frame.header.position.index + 1;
                        if flow.is_break() {
                            return Ok(next);
                        }
                    }
                    continue;
                }
            };
            let end_index = range.end_index.min(indexes.end);
            let before = next;
            let mut scanner = HeaderScanner::new(range.file.clone(), range.start, range.end_byte);
            while scanner.next_index() < end_index {
                let frame = scanner.next(&prefix_bytes).map_err(|error| error.read_error(&range.path))?;
                let Some((header, prefix)) = frame else { break };
                // The scan starts at an entry of the sparse index, up to 256 frames before the first one asked for.
                if header.position.index < next {
                    continue;
                }
                let flow = visit(&header, prefix);
                next = header.position.index + 1;
                if flow.is_break() {
                    return Ok(next);
                }
            }
            if next == before {
                break;
            }
        }
        Ok(next)
    }
}
