//! Small files that are replaced whole: magic, format, the content's own version, length, checksum, content.
//! After a crash there is the old one or the new one, never a mixture and never neither.
use std::path::{Path, PathBuf};

use fanfare_codec::{Malformed, Reader, Writer};

use crate::{
    codec::to_usize,
    error::{Fatal, OpenError},
    fs::FileSystem,
};

const MAGIC: &[u8; 8] = b"FANFFILE";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 28;

/// The bytes of a file with this content, whose format is the caller's `version`.
pub(crate) fn encode(version: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(HEADER_BYTES + content.len());
    out.bytes(MAGIC).u32(FORMAT).u32(version).u64(content.len() as u64);
    let checksum = checksum(out.as_slice(), content);
    out.u32(checksum).bytes(content);
    out.finish()
}

fn checksum(header: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(content);
    hasher.finalize()
}

/// The content and its version.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<(u32, Vec<u8>), OpenError> {
    let corrupt = |at: u64, what: &str| OpenError::corrupt(path, at, what);
    let (header, content) =
        bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| corrupt(0, "header cut short"))?;
    let mut fields = Reader::new(header, "header of a sealed file");
    if fields.array() != Ok(*MAGIC) {
        return Err(corrupt(0, "not a file of this store"));
    }
    let mut decode = || -> Result<(u32, u32, u64, u32), Malformed> {
        Ok((fields.u32()?, fields.u32()?, fields.u64()?, fields.u32()?))
    };
    let (format, version, length, recorded) = decode().map_err(|_| corrupt(0, "header cut short"))?;
    if format > FORMAT {
        return Err(OpenError::Newer { path: path.display().to_string(), version: format });
    }
    if length != content.len() as u64 {
        return Err(corrupt(16, "length differs"));
    }
    if recorded != checksum(&header[..HEADER_BYTES - 4], content) {
        return Err(corrupt(24, "checksum differs"));
    }
    Ok((version, content.to_vec()))
}

/// Replaces `path` atomically; the result is durable. `temporary` lies in the same directory.
pub(crate) fn replace(fs: &dyn FileSystem, path: &Path, temporary: &Path, bytes: &[u8]) -> Result<(), Fatal> {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    let file = fs.create(temporary).map_err(|error| Fatal::new("create", temporary, &error))?;
    file.write_all_at(bytes, 0).map_err(|error| Fatal::new("write", temporary, &error))?;
    // The content is durable before the name leads to it; a crash in between leaves the old file.
    file.sync().map_err(|error| Fatal::new("sync", temporary, &error))?;
    fs.rename(temporary, path).map_err(|error| Fatal::new("rename", path, &error))?;
    // A caller may purge or answer on the strength of the new content, which a lost rename would take back.
    fs.sync_dir(dir).map_err(|error| Fatal::new("sync directory", dir, &error))
}

/// The bytes of a file; None if there is no such file.
pub(crate) fn read(fs: &dyn FileSystem, path: &Path) -> Result<Option<Vec<u8>>, Fatal> {
    let file = match fs.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Fatal::new("open", path, &error)),
    };
    let length = file.length().map_err(|error| Fatal::new("measure", path, &error))?;
    let mut bytes = vec![0; to_usize(length)];
    let filled = file.read_at(&mut bytes, 0).map_err(|error| Fatal::new("read", path, &error))?;
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// The content and its version; None if there is no such file.
pub(crate) fn load(fs: &dyn FileSystem, path: &Path) -> Result<Option<(u32, Vec<u8>)>, OpenError> {
    read(fs, path)?.map(|bytes| decode(path, &bytes)).transpose()
}

/// Removes the temporary files that interrupted replacements and creations left in `dir`.
pub(crate) fn remove_temporary(fs: &dyn FileSystem, dir: &Path) -> Result<(), Fatal> {
    let names = fs.list(dir).map_err(|error| Fatal::new("list", dir, &error))?;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
        let path: PathBuf = dir.join(name);
        fs.remove(&path).map_err(|error| Fatal::new("remove", &path, &error))?;
    }
    Ok(())
}

pub(crate) const TEMPORARY_SUFFIX: &str = ".new";
