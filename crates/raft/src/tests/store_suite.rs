//! openraft's own conformance suite over our storage. Its machine has no anchor: the suite takes a snapshot's
//! place and the applied place for the same.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::node::{Files, applier};
use crate::apply::Adapter;
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
        let applier = applier(&store, &log);
        let environment = fanfare_environment::Environment::system();
        let storage = LogStorage::new(&applier, environment);
        Ok((ClosesStore(store), storage, Adapter(applier)))
    }
}

#[tokio::test]
async fn the_storage_conforms_to_openrafts_suite() {
    Suite::test_all(OverMemory).await.unwrap();
}
