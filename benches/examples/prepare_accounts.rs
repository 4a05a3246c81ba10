//! Makes a data directory with many accounts, for scenarios of many tenants; prints their keys, one a line.
//!
//! `cargo run --release -p fanfare-benches --example prepare_accounts -- DIRECTORY 64 > keys`,
//! then `fanfare serve --data-dir DIRECTORY` and `fanfare bench publish --producers 64 --keys-file keys`.

use std::{env, path::PathBuf};

use anyhow::Context;
use fanfare_catalog::{Catalog, CatalogOptions, ViewStorage};
use fanfare_environment::Environment;
use fanfare_raft::Host;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("the data directory")?);
    let count: usize = arguments.next().context("how many accounts")?.parse()?;
    let store = fanfare_benches::store(&directory, 0)?;
    let view = ViewStorage::Directory(directory.join("catalog"));
    let host = Host::without_peers(store.clone(), Environment::system());
    let catalog = Catalog::open(&host, view, CatalogOptions::default()).await?;
    for number in 0..count {
        let account = catalog.create_account(&format!("bench-{number}")).await?;
        println!("{}", catalog.create_key(account.id, "bench").await?.text.expose());
    }
    catalog.shutdown().await;
    store.close();
    Ok(())
}
