//! What the DHT node knows, kept in the state folder between runs: one file, replaced as a whole.
//!
//! Losing it costs a new start from the bootstrap nodes, so it is written without a sync, and one that cannot be read
//! is left alone and does without.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file longer than this is not ours.
const LONGEST: u64 = 64 << 10;

/// Where it is kept.
pub(super) struct NodeFile(PathBuf);

impl NodeFile {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("dht"))
    }

    /// What was stored last.
    pub(super) fn load(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = fs::File::open(&self.0).and_then(|f| f.take(LONGEST).read_to_end(&mut bytes));
        match read {
            Ok(_) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                log::warn!("{}: {e}; the DHT begins anew", self.0.display());
                None
            }
        }
    }

    pub(super) fn store(&self, bytes: &[u8]) {
        let temp = self.0.with_extension("tmp");
        let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp);
        let stored = written.and_then(|mut f| f.write_all(bytes)).and_then(|()| fs::rename(&temp, &self.0));
        if let Err(e) = stored {
            log::warn!("{}: {e}", self.0.display());
        }
    }
}
