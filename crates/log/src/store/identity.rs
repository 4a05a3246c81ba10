//! The data directory's identity, and the making of a new directory.

use std::{path::Path, sync::Arc};

use fanfare_codec::{Malformed, Reader, Writer};
use fanfare_environment::Environment;

use crate::{
    error::{Fatal, OpenError},
    fs::FileSystem,
    journal::Journal,
    store::{
        layout::{FILES_DIR, LOGS_DIR, POOL_DIR},
        sealed_file::{self, TEMPORARY_SUFFIX},
    },
};

const IDENTITY_NAME: &str = "identity";
/// Stands for the formats of the whole directory: a change of any of them makes another version.
const IDENTITY_VERSION: u32 = 2;

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
        let mut out = Writer::new();
        out.bytes(&self.cluster).u64(self.node).bytes(&self.incarnation);
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes, "identity");
        let identity = Self { cluster: fields.array()?, node: fields.u64()?, incarnation: fields.array()? };
        fields.finish()?;
        Ok(identity)
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
        if version < IDENTITY_VERSION {
            return Err(OpenError::Older { path: dir.display().to_string(), version });
        }
        let identity =
            Identity::decode(&content).map_err(|_| OpenError::corrupt(&path, 0, "identity is malformed"))?;
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
