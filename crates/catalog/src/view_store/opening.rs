//! Opening the view: use what is there if it fits the log, otherwise begin an empty one and say why.
//!
//! A damaged sled directory can end the process instead of answering. So a mark is set before it is opened and taken
//! away after it was read: a start that finds the mark does not open the same directory again.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fanfare_log::{Identity, Log, ReadError};
use tokio::{fs, task};

use super::{StoreError, ViewStore, contents::Contents, sled_view::SledView};
use crate::{OpenError, machine::Reached};

/// How many damaged directories are kept for whoever wants to look.
const SET_ASIDE_MAX: u64 = 2;

/// What the start had to go by besides checkpoint and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewStart {
    /// The state began as the view's, at this log index.
    Used { index: u64 },
    /// The state began as the checkpoint's; the view is being built again.
    Rebuilt { why: RebuildReason },
}

/// Why a view was of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebuildReason {
    /// There was none, or none that was ever complete.
    Missing,
    /// The log begins after it.
    Behind,
    /// The log ends before it.
    Ahead,
    /// It belongs to another log, or to a program of another version.
    Foreign,
    /// The start before this one did not come through opening it. Its directory was set aside.
    Interrupted,
    /// Its directory was set aside.
    Damaged { what: String },
}

impl fmt::Display for RebuildReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there was none"),
            Self::Behind => f.write_str("it was older than the log"),
            Self::Ahead => f.write_str("it was newer than the log"),
            Self::Foreign => f.write_str("it belonged to another log or program"),
            Self::Interrupted => f.write_str("the last start did not come through opening it"),
            Self::Damaged { what } => write!(f, "it was damaged: {what}"),
        }
    }
}

/// A view that fits the log.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ViewStore>,
    pub(super) contents: Contents,
    pub(crate) start: ViewStart,
}

impl Opened {
    /// What the view holds; empty if it is to be built again.
    pub(crate) fn reached(&self) -> Reached {
        let Contents { state, upto, .. } = &self.contents;
        Reached { state: state.clone(), upto: upto.unwrap_or_default() }
    }
}

pub(crate) async fn open(dir: &Path, identity: Identity, log: &Log) -> Result<Opened, OpenError> {
    let place = Place { dir: dir.to_owned() };
    let opened = place.open(identity, log).await;
    opened.map_err(|error| OpenError::Store { path: dir.display().to_string(), message: error.to_string() })
}

/// The directory that holds the view's own.
struct Place {
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum PlaceError {
    #[error(transparent)]
    Directory(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Place {
    async fn open(&self, identity: Identity, log: &Log) -> Result<Opened, PlaceError> {
        fs::create_dir_all(&self.dir).await?;
        let why = if fs::try_exists(self.mark()).await? {
            RebuildReason::Interrupted
        } else if fs::try_exists(self.view()).await? {
            fs::write(self.mark(), b"").await?;
            match self.try_open(identity, log).await {
                Ok(opened) => {
                    fs::remove_file(self.mark()).await?;
                    return Ok(opened);
                }
                Err(why) => why,
            }
        } else {
            RebuildReason::Missing
        };
        self.clear(&why).await?;
        let view = self.view();
        let store = blocking(move || SledView::open(&view)).await?;
        // Set by this start or by the one before: what it warned of is out of the way.
        match fs::remove_file(self.mark()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let start = ViewStart::Rebuilt { why };
        Ok(Opened { store: Arc::new(store), contents: Contents::default(), start })
    }

    async fn try_open(&self, identity: Identity, log: &Log) -> Result<Opened, RebuildReason> {
        let (view, log) = (self.view(), log.clone());
        let loaded = blocking(move || {
            let store = SledView::open(&view)?;
            let contents = Contents::load(&store, identity)?;
            Ok(contents.and_then(|contents| {
                let index = check(&contents, &log)?;
                Ok(Opened { store: Arc::new(store), contents, start: ViewStart::Used { index } })
            }))
        });
        loaded.await.unwrap_or_else(|error| Err(RebuildReason::Damaged { what: error.to_string() }))
    }

    /// Makes room for a new view. What may help to understand a damage is kept for a while.
    async fn clear(&self, why: &RebuildReason) -> io::Result<()> {
        match why {
            RebuildReason::Missing if !fs::try_exists(self.view()).await? => Ok(()),
            RebuildReason::Missing
            | RebuildReason::Behind
            | RebuildReason::Ahead
            | RebuildReason::Foreign => fs::remove_dir_all(self.view()).await,
            RebuildReason::Interrupted | RebuildReason::Damaged { .. } => self.set_aside().await,
        }
    }

    async fn set_aside(&self) -> io::Result<()> {
        if !fs::try_exists(self.view()).await? {
            return Ok(());
        }
        let mut kept = Vec::new();
        let mut entries = fs::read_dir(&self.dir).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name();
            kept.extend(name.to_str().and_then(|name| name.strip_prefix("bad-")?.parse::<u64>().ok()));
        }
        let next = kept.iter().max().map_or(1, |newest| newest + 1);
        for number in kept.into_iter().filter(|number| number + SET_ASIDE_MAX <= next) {
            fs::remove_dir_all(self.dir.join(format!("bad-{number}"))).await?;
        }
        fs::rename(self.view(), self.dir.join(format!("bad-{next}"))).await
    }

    fn view(&self) -> PathBuf {
        self.dir.join("view")
    }

    fn mark(&self) -> PathBuf {
        self.dir.join("opening")
    }
}

/// The index that the contents stand at, if the log holds or has purged exactly that entry. Blocking.
pub(super) fn check(contents: &Contents, log: &Log) -> Result<u64, RebuildReason> {
    let Some(upto) = contents.upto else { return Err(RebuildReason::Missing) };
    let bounds = log.bounds();
    let last = bounds.last.or(bounds.purged);
    if last.is_none_or(|last| last.index < upto.index) {
        return Err(RebuildReason::Ahead);
    }
    let known = match bounds.purged {
        Some(purged) if purged.index > upto.index => return Err(RebuildReason::Behind),
        Some(purged) if purged.index == upto.index => purged,
        Some(_) | None => match log.read(upto.index, upto.index + 1, 1) {
            Ok(frames) => frames.first().map(|frame| frame.header.position).unwrap_or_default(),
            Err(ReadError::Purged { .. }) => return Err(RebuildReason::Behind),
            Err(error) => return Err(RebuildReason::Damaged { what: error.to_string() }),
        },
    };
    if known == upto { Ok(upto.index) } else { Err(RebuildReason::Foreign) }
}

/// Runs `work` where it may block. A panic of the engine is an answer like any other.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Panic))
}
