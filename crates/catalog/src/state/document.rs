//! The state as bytes: one versioned JSON document, the same bytes for the same state.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_log::Position;
use fanfare_model::{AccountId, Timestamp};
use serde::{Deserialize, Serialize};

use super::State;
use crate::{AccountView, ClusterView, View};

const VERSION: u32 = 4;
/// The oldest version that this program reads. Version 3 added the delivery settings of sinks, version 4 request ids
/// and the secret before a rotation.
const OLDEST: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("the catalog's state was written by a newer program")]
    Newer,
    #[error("the catalog's state was written by an older program")]
    Older,
    #[error("the catalog's state is malformed")]
    Malformed,
}

/// A state without its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateHeader {
    pub(crate) applied: Option<PositionRecord>,
    pub(crate) time: Timestamp,
    pub(crate) revision: u64,
}

/// Stored form of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PositionRecord {
    term: u64,
    leader: u64,
    index: u64,
}

impl From<Position> for PositionRecord {
    fn from(Position { term, leader, index }: Position) -> Self {
        Self { term, leader, index }
    }
}

impl From<PositionRecord> for Position {
    fn from(PositionRecord { term, leader, index }: PositionRecord) -> Self {
        Self { term, leader, index }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(flatten)]
    header: StateHeader,
    cluster: &'a ClusterView,
    accounts: &'a BTreeMap<AccountId, Arc<AccountView>>,
}

#[derive(Deserialize)]
struct Read {
    #[serde(flatten)]
    header: StateHeader,
    cluster: Arc<ClusterView>,
    accounts: BTreeMap<AccountId, Arc<AccountView>>,
}

#[derive(Deserialize)]
struct Header {
    v: u32,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let written = Written {
            v: VERSION,
            header: self.header(),
            cluster: &self.view.cluster,
            accounts: &self.view.accounts,
        };
        serde_json::to_vec(&written).expect("a state has only text keys and no failing serializer")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        let header: Header = serde_json::from_slice(bytes).map_err(|_| DocumentError::Malformed)?;
        match header.v {
            OLDEST..=VERSION => {}
            0..OLDEST => return Err(DocumentError::Older),
            _ => return Err(DocumentError::Newer),
        }
        let read: Read = serde_json::from_slice(bytes).map_err(|_| DocumentError::Malformed)?;
        if !read.cluster.is_readable() {
            return Err(DocumentError::Newer);
        }
        // A change goes to the account that an object names: one of another account would be changed there.
        if !read.accounts.iter().all(|(id, view)| view.is_of(*id)) {
            return Err(DocumentError::Malformed);
        }
        Ok(Self::assemble(read.header, read.cluster, read.accounts))
    }

    pub(crate) fn header(&self) -> StateHeader {
        StateHeader {
            applied: self.applied.map(PositionRecord::from),
            time: self.time,
            revision: self.view.revision,
        }
    }

    pub(crate) fn assemble(
        header: StateHeader,
        cluster: Arc<ClusterView>,
        accounts: BTreeMap<AccountId, Arc<AccountView>>,
    ) -> Self {
        let applied = header.applied.map(Position::from);
        Self { applied, time: header.time, view: Arc::new(View::of(header.revision, cluster, accounts)) }
    }
}
