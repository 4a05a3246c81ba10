//! openraft's own conformance suite over our storage. Its machine has no anchor: the suite takes a snapshot's place
//! and the applied place for the same.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::ledger::{Calls, Ledger};
use super::node::{Files, GROUP};
use crate::apply::{Adapter, Applier};
use crate::checkpoint::Checkpoints;
use crate::entry::Types;
use crate::log_storage::LogStorage;

struct OverMemory;

struct ClosesStore(fanfare_log::Store);

impl Drop for ClosesStore {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl StoreBuilder<Types, LogStorage, Adapter, ClosesStore> for OverMemory {
    async fn build(&self) -> Result<(ClosesStore, LogStorage, Adapter), StorageError<Types>> {
        let files = Files::in_memory();
        let store = files.store();
        let log = files.log(&store, 1);
        let applier = Arc::new(Applier {
            machine: Arc::new(RwLock::new(Ledger::unanchored(Arc::new(Calls::default())))),
            progress: Mutex::default(),
            checkpoints: Checkpoints::new(store.clone(), GROUP),
            log: log.clone(),
            installed: Arc::default(),
            applied_leader: watch::Sender::new(None),
        });
        let storage = LogStorage::new(log, applier.installed.clone());
        Ok((ClosesStore(store), storage, Adapter(applier)))
    }
}

#[tokio::test]
async fn the_storage_conforms_to_openrafts_suite() {
    Suite::test_all(OverMemory).await.unwrap();
}
