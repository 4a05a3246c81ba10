//! The first account of an empty catalog, and the only copy of its key.
//!
//! The file comes first: a crash between the two leaves a file for a key that nothing knows, which the next founding
//! replaces; the other way round it would leave an account that nobody can ever use.

use std::{path::Path, sync::Arc};

use fanfare_catalog::{Account, Catalog, NewKey};
use fanfare_environment::Environment;
use fanfare_model::Secret;

use crate::secret_file;

/// Makes the account `name` and writes its key to `file`, if the catalog has no account yet; none if it has.
///
/// # Errors
/// If the file cannot be written or the catalog does not take the change.
pub(crate) async fn ensure(
    catalog: &Catalog,
    name: &str,
    file: &Path,
) -> anyhow::Result<Option<(Arc<Account>, Secret)>> {
    if !catalog.view().accounts.is_empty() {
        return Ok(None);
    }
    let key = NewKey::generate(&**Environment::system().random());
    secret_file::write(file, key.text.expose())?;
    let account = catalog.bootstrap(name, &key).await?;
    Ok(account.map(|account| (account, key.text)))
}
