//! The state folder: one resume record a torrent, replaced as a whole, the info dictionary of one that was
//! added by a magnet link, and what the DHT node knows.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::id::InfoHash;

/// Larger records are not ours.
const RECORD_MAX: u64 = 64 << 20;

/// The DHT node's file.
const DHT: &str = "dht";

pub(super) struct StateDir {
    dir: PathBuf,
}

impl StateDir {
    /// Makes the folder, for the owner only, unless it is there.
    pub(super) fn open(dir: PathBuf) -> Result<Self, Error> {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            Ok(()) => Ok(Self { dir }),
            Err(source) => Err(Error::File { path: dir, source }),
        }
    }

    fn path(&self, info_hash: &InfoHash) -> PathBuf {
        self.dir.join(format!("{info_hash}.resume"))
    }

    fn metadata_path(&self, info_hash: &InfoHash) -> PathBuf {
        self.dir.join(format!("{info_hash}.info"))
    }

    /// The record of a torrent, if it has one that can be read.
    pub(super) fn load(&self, info_hash: &InfoHash) -> Option<Vec<u8>> {
        read(&self.path(info_hash), "the data will be checked")
    }

    /// The info dictionary of a torrent, if it was kept; its hash is for the caller to check.
    pub(super) fn load_metadata(&self, info_hash: &InfoHash) -> Option<Vec<u8>> {
        read(&self.metadata_path(info_hash), "the metadata will be fetched")
    }

    /// Stores a record: written beside the old one and renamed over it.
    pub(super) fn store(&self, info_hash: &InfoHash, record: &[u8]) -> io::Result<()> {
        replace(&self.path(info_hash), record)
    }

    /// Keeps an info dictionary.
    pub(super) fn store_metadata(&self, info_hash: &InfoHash, info: &[u8]) -> io::Result<()> {
        replace(&self.metadata_path(info_hash), info)
    }

    /// What the DHT node knew. Losing it costs a new start from the bootstrap nodes.
    pub(super) fn load_dht(&self) -> Option<Vec<u8>> {
        read(&self.dir.join(DHT), "the DHT begins anew")
    }

    /// Keeps what the DHT node knows.
    pub(super) fn store_dht(&self, bytes: &[u8]) -> io::Result<()> {
        replace(&self.dir.join(DHT), bytes)
    }

    /// Forgets a torrent.
    pub(super) fn remove(&self, info_hash: &InfoHash) {
        let _ = fs::remove_file(self.path(info_hash));
        let _ = fs::remove_file(self.metadata_path(info_hash));
    }
}

/// A file of ours; `None` when there is none, or none that can be read, which is told with what follows.
fn read(path: &Path, then: &str) -> Option<Vec<u8>> {
    let read = fs::metadata(path).and_then(|m| {
        if m.len() > RECORD_MAX {
            return Err(io::Error::other(format!("larger than {RECORD_MAX} bytes")));
        }
        fs::read(path)
    });
    match read {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            log::warn!("{}: {e}; {then}", path.display());
            None
        }
    }
}

/// Written beside the old one and renamed over it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temp, path)
}
