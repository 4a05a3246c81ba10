//! The limits of a data directory.

/// Limits of a data directory, of all its logs together unless one says otherwise.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Size of the spare files; logs that roll at this size use them.
    pub segment_bytes: u64,
    pub pool_segments_max: usize,
    /// For frames kept in memory, of all logs together. What is not flushed yet stays in memory beyond it.
    pub cache_bytes: u64,
    /// `Log::when_room` waits while so much is on its way to disk.
    pub queue_bytes_max: u64,
    /// For the secondary index of segments that are still written, of all logs together. Segments that find no room are
    /// looked through frame by frame until they are sealed.
    pub index_draft_bytes_max: u64,
    /// Upper bound of written and synced bytes in the operating system's page cache, roughly; 0 leaves them to the
    /// system.
    pub page_cache_bytes: u64,
}
