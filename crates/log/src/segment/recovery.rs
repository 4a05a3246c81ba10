//! Opening a log after any kind of stop.
//!
//! Headers lead from the newest segment back to the purge point. A segment with a successor must be whole. The newest
//! segment must be whole up to the recorded synced end; frames behind that end are taken as far as they prove
//! themselves.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Fatal, OpenError},
    fs::{File, FileSystem},
    journal::LogFacts,
    segment::active::Continuation,
    segment::index::{Extent, INDEX_VERSION},
    segment::number::SegmentNumber,
    segment::scanner::{ScanError, Scanner, scan_extent},
    segment::torn_tail::TornTail,
    segment::{HeaderError, Predecessor, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, is_unwritten},
    store::sealed_file,
};

pub(crate) struct Recovered {
    /// Oldest first; the last one is not sealed.
    pub(crate) segments: Vec<Segment>,
    pub(crate) next_segment: SegmentNumber,
    pub(crate) continuation: Continuation,
    /// None if nothing can be torn behind the last whole frame.
    pub(crate) torn_tail: Option<TornTail>,
}

pub(crate) struct Recovery<'a> {
    pub(crate) fs: &'a dyn FileSystem,
    pub(crate) dir: &'a Path,
    pub(crate) facts: &'a LogFacts,
    /// True if the log was closed in order: its sync mark is its very end then.
    pub(crate) closed: bool,
    pub(crate) log: u32,
}

/// A segment file whose header has been read.
struct Found {
    header: SegmentHeader,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl Recovery<'_> {
    pub(crate) fn run(&self) -> Result<Recovered, OpenError> {
        let names = self.list()?;
        let mut numbers: Vec<SegmentNumber> =
            names.iter().filter_map(|name| SegmentNumber::of_segment_file(name)).collect();
        numbers.sort_unstable();
        let begun = begun(self.fs, self.dir, &numbers)?;
        let next_segment = begun.last().map_or(SegmentNumber::FIRST, |newest| newest.next());
        // The numbers of truncated segments are taken: their files may still be there, with headers that would lead
        // from a new segment of the same number into frames that are gone.
        let next_segment = next_segment
            .max(self.facts.truncation.map_or(SegmentNumber::FIRST, |truncation| truncation.next_segment));
        let live: Vec<SegmentNumber> =
            begun.iter().copied().filter(|number| !self.is_truncated(*number)).collect();
        // The chain is whole before anything is removed: a missing segment is reported with all other files still there.
        let chain = self.chain(&live)?;
        self.remove_dead(&names, &chain)?;
        let mut segments = Vec::new();
        let mut torn_tail = None;
        let mut newer = chain.into_iter().peekable();
        while let Some(found) = newer.next() {
            let successor = newer.peek().and_then(|next| next.header.predecessor);
            segments.push(match successor {
                Some(end) => self.sealed(found, end)?,
                None => {
                    let newest = self.newest(found)?;
                    torn_tail = self.torn_tail(&newest);
                    newest
                }
            });
        }
        // A truncated segment keeps frames of its own nonce behind its end, so it takes no more. Any other segment goes on
        // with a new nonce: a crash may have left frames behind the end that chain to a lost one.
        let continuation = match (segments.last(), self.facts.truncation) {
            (Some(newest), Some(truncation)) if truncation.segment == newest.header.number => {
                Continuation::Truncated
            }
            _ => Continuation::NewEpoch,
        };
        Ok(Recovered { segments, next_segment, continuation, torn_tail })
    }

    fn list(&self) -> Result<Vec<String>, OpenError> {
        sealed_file::remove_temporary(self.fs, self.dir)?;
        Ok(self.fs.list(self.dir).map_err(|error| Fatal::new("list", self.dir, &error))?)
    }

    fn is_truncated(&self, number: SegmentNumber) -> bool {
        self.facts.truncation.is_some_and(|truncation| truncation.removes(number))
    }

    /// Oldest first: the newest live segment and those that it continues, down to the purge point.
    fn chain(&self, live: &[SegmentNumber]) -> Result<Vec<Found>, OpenError> {
        let marked = self
            .facts
            .sync_mark
            .filter(|mark| Some(mark.index) > self.facts.purged.map(|purged| purged.index));
        // A mark above the purge point names a segment that was synced. Without the file every frame up to the mark is
        // lost, and starting from an older segment would pass that over in silence.
        if let Some(mark) = marked.filter(|mark| live.last().is_none_or(|newest| *newest < mark.segment)) {
            return Err(self.missing(mark.segment));
        }
        let mut chain = Vec::new();
        let mut wanted = live.last().copied();
        while let Some(number) = wanted {
            if live.binary_search(&number).is_err() {
                return Err(self.missing(number));
            }
            let found = self.read_header(number)?;
            let purged_before =
                self.facts.purged.is_some_and(|purged| found.header.first_index <= purged.index + 1);
            wanted = found.header.predecessor.map(|before| before.number).filter(|_| !purged_before);
            chain.push(found);
        }
        chain.reverse();
        Ok(chain)
    }

    fn missing(&self, number: SegmentNumber) -> OpenError {
        let path = self.dir.join(number.segment_file());
        self.corrupt(&path, 0, "segment file is missing", self.facts.start_offset)
    }

    fn corrupt(&self, path: &Path, at: u64, what: &str, first_offset: u64) -> OpenError {
        let end_offset = self.facts.sync_mark.map_or(first_offset, |mark| mark.end_offset.max(first_offset));
        let path = path.display().to_string();
        OpenError::Corrupt { path, at, what: what.to_owned(), first_offset, end_offset }
    }

    fn read_header(&self, number: SegmentNumber) -> Result<Found, OpenError> {
        let path = self.dir.join(number.segment_file());
        let file = self.fs.open(&path).map_err(|error| Fatal::new("open", &path, &error))?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        file.read_at(&mut bytes, 0).map_err(|error| Fatal::new("read", &path, &error))?;
        let header = SegmentHeader::decode(&bytes).map_err(|error| match error {
            HeaderError::Newer(version) => OpenError::Newer { path: path.display().to_string(), version },
            HeaderError::Bad(what) => self.corrupt(&path, 0, what, self.facts.start_offset),
        })?;
        if !header.is_of(number, self.facts.replica, self.log) {
            return Err(self.corrupt(&path, 0, "segment of another log", self.facts.start_offset));
        }
        Ok(Found { header, path, file })
    }

    /// Removes segments that no header leads to, and their indexes: they were purged or truncated, and not yet recycled
    /// when the process ended.
    fn remove_dead(&self, names: &[String], chain: &[Found]) -> Result<(), OpenError> {
        let is_dead = |name: &&String| {
            let number = SegmentNumber::of_segment_file(name).or_else(|| SegmentNumber::of_index_file(name));
            number.is_some_and(|number| chain.iter().all(|found| found.header.number != number))
        };
        for name in names.iter().filter(is_dead) {
            let path = self.dir.join(name);
            match self.fs.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Fatal::new("remove", &path, &error).into());
                }
                _ => {}
            }
        }
        // Before anything is appended: a dead file that came back after a crash would share the directory with a live
        // segment that has taken the next number.
        self.fs.sync_dir(self.dir).map_err(|error| Fatal::new("sync directory", self.dir, &error))?;
        Ok(())
    }

    fn sealed(&self, found: Found, end: Predecessor) -> Result<Segment, OpenError> {
        let Found { header, path, file } = found;
        let whole = |extent: &Extent| extent.end_byte == end.end_byte && extent.link.chain == end.chain;
        // The index is not synced and may be of an earlier life of the file: it counts only if it ends exactly where the
        // successor begins.
        let extent = match self.read_index(&header).filter(whole) {
            Some(extent) => extent,
            None => {
                let extent = scan_extent(&file, &header, end.end_byte)
                    .map_err(|error| self.scan_failed(error, &path, &header))?;
                if !whole(&extent) {
                    let what = "segment is not the one that its successor continues";
                    return Err(self.corrupt(&path, end.end_byte, what, header.base_offset));
                }
                self.write_index(&header, &extent)?;
                extent
            }
        };
        Ok(Segment { header, path, file, file_bytes: end.end_byte, extent, sealed: true })
    }

    fn scan_failed(&self, error: ScanError, path: &Path, header: &SegmentHeader) -> OpenError {
        match error {
            ScanError::Io(error) => Fatal::new("read", path, &error).into(),
            ScanError::Bad { at, what } => self.corrupt(path, at, what, header.base_offset),
        }
    }

    /// None if the index is missing or damaged: the frames tell the same.
    fn read_index(&self, header: &SegmentHeader) -> Option<Extent> {
        let path = self.dir.join(header.number.index_file());
        match sealed_file::load(self.fs, &path) {
            Ok(Some((INDEX_VERSION, content))) => Extent::decode(&content, header),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "ignored a damaged segment index; it is rebuilt");
                None
            }
        }
    }

    fn write_index(&self, header: &SegmentHeader, extent: &Extent) -> Result<(), OpenError> {
        let path = self.dir.join(header.number.index_file());
        let file = self.fs.create(&path).map_err(|error| Fatal::new("create", &path, &error))?;
        // Not synced: an index that a crash loses or tears fails its checksum, and the frames are scanned again.
        file.write_all_at(&sealed_file::encode(INDEX_VERSION, &extent.encode(header)), 0)
            .map_err(|error| Fatal::new("write", &path, &error))?;
        Ok(())
    }

    fn newest(&self, found: Found) -> Result<Segment, OpenError> {
        let Found { header, path, file } = found;
        let length = file.length().map_err(|error| Fatal::new("measure", &path, &error))?;
        let own_mark = self.facts.sync_mark.filter(|mark| mark.segment == header.number);
        let own_truncation = self.facts.truncation.filter(|truncation| truncation.segment == header.number);
        let marked_byte =
            own_mark.map_or(0, |mark| mark.byte).max(own_truncation.map_or(0, |truncation| truncation.byte));
        // Frames behind a truncation, or behind the end of a clean stop, were removed on purpose and still chain: they
        // must not be read again. After an unclean stop the frames themselves say where they end.
        let limit = match own_truncation {
            Some(truncation) => truncation.byte,
            None if self.closed => marked_byte.max(SEGMENT_HEADER_BYTES as u64),
            None => length,
        };
        let mut extent = Extent::empty(&header);
        let mut scanner = Scanner::new(Arc::clone(&file), extent.entries[0], limit);
        loop {
            match scanner.next() {
                Ok(Some((_, placed))) => extent.push(&placed),
                Ok(None) => break,
                Err(ScanError::Bad { at, what }) if at < marked_byte => {
                    return Err(self.corrupt(&path, at, what, extent.end_offset));
                }
                // Above all that was ever recorded as synced: a torn tail, or what the file held before.
                Err(ScanError::Bad { .. }) => break,
                Err(ScanError::Io(error)) => return Err(Fatal::new("read", &path, &error).into()),
            }
        }
        if extent.end_byte < marked_byte {
            return Err(self.corrupt(
                &path,
                extent.end_byte,
                "file ends before its synced end",
                extent.end_offset,
            ));
        }
        // An epoch mark may stand behind the last frame; the next run draws another nonce after it.
        extent.end_byte = scanner.byte();
        extent.link = scanner.link();
        // The recovered frames may be in the page cache only, but count as durable from here on.
        file.sync().map_err(|error| Fatal::new("sync", &path, &error))?;
        Ok(Segment { header, path, file, file_bytes: length, extent, sealed: false })
    }

    /// Nothing after a stop in order, or a truncation: the end is recorded then, and frames behind it were removed on
    /// purpose.
    fn torn_tail(&self, newest: &Segment) -> Option<TornTail> {
        let is_truncated =
            self.facts.truncation.is_some_and(|truncation| truncation.segment == newest.header.number);
        (!self.closed && !is_truncated).then(|| TornTail::behind(newest))
    }
}

/// The segments of a log that were begun, oldest first: all but files made ahead of need. The header of a segment
/// is durable before its successor's is written, but maybe not before its successor's file is made.
fn begun<'a>(
    fs: &dyn FileSystem,
    dir: &Path,
    numbers: &'a [SegmentNumber],
) -> Result<&'a [SegmentNumber], OpenError> {
    let mut begun = numbers;
    while let Some((newest, older)) = begun.split_last() {
        let path = dir.join(newest.segment_file());
        let file = fs.open(&path).map_err(|error| Fatal::new("open", &path, &error))?;
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let filled = file.read_at(&mut header, 0).map_err(|error| Fatal::new("read", &path, &error))?;
        if filled < header.len() || !is_unwritten(&header) {
            break;
        }
        begun = older;
    }
    Ok(begun)
}
