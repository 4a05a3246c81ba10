//! The first account of an empty catalog, and the only copy of its key.
//!
//! The file comes first: a crash between the two leaves a file for a key that nothing knows, which the next start
//! replaces; the other way round it would leave an account that nobody can ever use.

use std::path::Path;

use fanfare_catalog::{Catalog, NewKey};
use fanfare_environment::Environment;

use crate::secret_file;

/// Makes the account `name` and writes its key to `file`, if the catalog has no account yet.
///
/// # Errors
/// If the file cannot be written or the catalog does not take the change.
pub(crate) async fn ensure(catalog: &Catalog, name: &str, file: &Path) -> anyhow::Result<()> {
    if !catalog.view().accounts.is_empty() {
        return Ok(());
    }
    let key = NewKey::generate(&**Environment::system().random());
    secret_file::write(file, key.text.expose())?;
    if let Some(account) = catalog.bootstrap(name, &key).await? {
        tracing::info!(account = %account.id, key_file = %file.display(), "made the first account; its key is in the file");
    }
    Ok(())
}
