//! Which torrents of a state folder are this process's: locked bytes of a few files.
//!
//! The system goes through all locks of a file for each new one, so that ten thousand torrents in one file would take
//! a hundred million steps: the first digit of the info hash says in which of sixteen a torrent's byte lies. They are
//! opened when they are needed. The locks end with this value, and with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::id::InfoHash;
use crate::storage::lock_byte;

/// In how many files the torrents' bytes lie.
const PARTS: usize = 16;

/// See the module's head.
pub(super) struct Locks {
    dir: PathBuf,
    /// The DHT's, made at once, so that a folder in which nothing can be locked is known as one.
    dht: File,
    torrents: [OnceLock<File>; PARTS],
}

impl Locks {
    /// Makes the first file, unless it is there.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        let dht = open(dir.join("lock"))?;
        Ok(Self { dir, dht, torrents: Default::default() })
    }

    /// Takes what the DHT node knows for this process. False when another has it.
    pub(super) fn take_dht(&self) -> io::Result<bool> {
        lock_byte(&self.dht, 0, true)
    }

    /// Takes a torrent. False when another process has it.
    pub(super) fn take(&self, info_hash: &InfoHash) -> io::Result<bool> {
        let part = part(info_hash);
        let file = match self.torrents[part].get() {
            Some(file) => file,
            None => {
                let file = open(self.dir.join(format!("lock-{part:x}")))?;
                self.torrents[part].get_or_init(|| file)
            }
        };
        lock_byte(file, place(info_hash), true)
    }

    /// Gives it free again.
    pub(super) fn give(&self, info_hash: &InfoHash) {
        if let Some(file) = self.torrents[part(info_hash)].get() {
            let _ = lock_byte(file, place(info_hash), false);
        }
    }
}

fn part(info_hash: &InfoHash) -> usize {
    usize::from(info_hash.as_bytes()[0]) * PARTS / 256
}

/// A torrent's byte in its file.
fn place(info_hash: &InfoHash) -> u64 {
    let head = info_hash.as_bytes()[..8].try_into().expect("eight bytes");
    u64::from_be_bytes(head) >> 2
}

fn open(path: PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(super::state::SAFE);
    options.open(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}
