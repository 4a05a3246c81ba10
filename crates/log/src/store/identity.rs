//! The data directory's identity, and the making of a new directory.

use std::{path::Path, sync::Arc};

use fanfare_environment::Environment;

use crate::{
    codec::Fields,
    error::{Fatal, OpenError},
    fs::FileSystem,
    journal::Journal,
    store::{
        FILES_DIR, LOGS_DIR, POOL_DIR,
        sealed_file::{self, TEMPORARY_SUFFIX},
    },
};

const IDENTITY_NAME: &str = "identity";
const IDENTITY_VERSION: u32 = 1;

/// Drawn when the directory is first opened, as that of the first node of a new cluster: `node` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: [u8; 16],
    pub node: u64,
    pub incarnation: [u8; 16],
}

impl Identity {
    fn draw(environment: &Environment) -> Self {
        let draw = || {
            let mut bytes = [0; 16];
            environment.random().fill(&mut bytes);
            bytes
        };
        Self { cluster: draw(), node: 1, incarnation: draw() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.cluster.to_vec();
        bytes.extend_from_slice(&self.node.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        Some(Self { cluster: fields.array()?, node: fields.u64()?, incarnation: fields.array()? })
    }
}

/// The identity and the journal of `dir`, which is made into a data directory if it is none.
pub(super) fn open_or_create(
    environment: &Environment,
    fs: &Arc<dyn FileSystem>,
    dir: &Path,
    segment_bytes: u64,
) -> Result<(Identity, Journal), OpenError> {
    let path = dir.join(IDENTITY_NAME);
    if let Some((version, content)) = sealed_file::load(&**fs, &path)? {
        if version > IDENTITY_VERSION {
            return Err(OpenError::Newer { path: path.display().to_string(), version });
        }
        let identity = Identity::decode(&content)
            .ok_or_else(|| OpenError::corrupt(&path, 0, "identity is malformed"))?;
        let journal = Journal::open(environment, fs.clone(), dir, segment_bytes)?;
        return Ok((identity, journal));
    }
    for name in [LOGS_DIR, POOL_DIR, FILES_DIR] {
        let inner = dir.join(name);
        fs.create_dir(&inner).map_err(|error| Fatal::new("create directory", &inner, &error))?;
        let names = fs.list(&inner).map_err(|error| Fatal::new("list", &inner, &error))?;
        if !names.is_empty() {
            return Err(OpenError::corrupt(&path, 0, "identity is missing from a directory in use"));
        }
    }
    sync_ancestors(&**fs, dir)?;
    let journal = Journal::create(environment, fs.clone(), dir, segment_bytes)?;
    let identity = Identity::draw(environment);
    let temporary = dir.join(format!("{IDENTITY_NAME}{TEMPORARY_SUFFIX}"));
    let bytes = sealed_file::encode(IDENTITY_VERSION, &identity.encode());
    // The identity is written last: a directory without one holds nothing yet, whatever a crash has left in it.
    sealed_file::replace(&**fs, &path, &temporary, &bytes)?;
    Ok((identity, journal))
}

/// Makes the names of the directory and of its ancestors durable. The last ancestor of a relative path is the empty
/// one, which is the current directory.
fn sync_ancestors(fs: &dyn FileSystem, dir: &Path) -> Result<(), Fatal> {
    for ancestor in dir.ancestors().skip(1) {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        fs.sync_dir(ancestor).map_err(|error| Fatal::new("sync directory", ancestor, &error))?;
    }
    Ok(())
}
