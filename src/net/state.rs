//! The state folder: one resume record a torrent, replaced as a whole.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::error::Error;
use crate::id::InfoHash;

/// Larger records are not ours.
const RECORD_MAX: u64 = 64 << 20;

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

    /// The record of a torrent, if it has one that can be read.
    pub(super) fn load(&self, info_hash: &InfoHash) -> Option<Vec<u8>> {
        let path = self.path(info_hash);
        let read = fs::metadata(&path).and_then(|m| {
            if m.len() > RECORD_MAX {
                return Err(io::Error::other(format!("larger than {RECORD_MAX} bytes")));
            }
            fs::read(&path)
        });
        match read {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                log::warn!("{}: {e}; the data will be checked", path.display());
                None
            }
        }
    }

    /// Stores a record: written beside the old one and renamed over it.
    pub(super) fn store(&self, info_hash: &InfoHash, record: &[u8]) -> io::Result<()> {
        let path = self.path(info_hash);
        let temp = path.with_extension("resume.tmp");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(record)?;
        drop(file);
        fs::rename(&temp, &path)
    }

    /// Forgets a torrent.
    pub(super) fn remove(&self, info_hash: &InfoHash) {
        let _ = fs::remove_file(self.path(info_hash));
    }
}
