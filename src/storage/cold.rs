//! Blocks that peers wait for and the page cache does not get.
//!
//! ```text
//!   lend: not cached ─▶ the kernel is asked to read ahead ─▶ cached: lent
//!           └─ still not after a second ─▶ the helper reads it ─┬▶ it could: the same again
//!                                                               └▶ it could not: the error of the next lends
//! ```
//!
//! Reading ahead tells nobody of an error: of a bad sector the cache knows nothing, however often it is asked for. Only
//! a read that waits for the disk learns what is wrong, and the helper is who may wait.
//!
//! What it does not do: fetch what is merely slow: that is the kernel's to do.
//!
//! Invariants: at most [`MOST`] blocks are kept, one entry each; one read of a torrent is under way at a time.

#[cfg(test)]
mod tests;

use super::DiskError;
use super::disk::Disk;
use crate::id::{Block, FileIndex, PieceIndex, TorrentKey};
use std::time::{Duration, Instant};

/// A block may be so long in coming before it is read by the helper.
const PATIENCE: Duration = Duration::from_secs(1);
/// An error is told for so long, and what became of it then is found out anew.
const MEMORY: Duration = Duration::from_secs(2);
/// Blocks that are waited for at once. Those of peers that have left meanwhile are among them.
const MOST: usize = 64;

#[derive(Debug)]
enum State {
    /// Wanted from then on.
    Wanted(Instant),
    /// The helper reads it, as this errand.
    Reading(u64),
    /// It could not be read.
    Bad(Instant, DiskError),
}

#[derive(Debug)]
struct Entry {
    t: TorrentKey,
    block: Block,
    state: State,
}

/// The blocks that are waited for.
#[derive(Debug, Default)]
pub(super) struct Colds(Vec<Entry>);

impl Colds {
    /// A block was lent.
    pub(super) fn warm(&mut self, t: TorrentKey, block: Block) {
        if !self.0.is_empty() {
            self.0.retain(|e| (e.t, e.block) != (t, block));
        }
    }

    /// Nothing is known of a piece any more, which was fetched again, or of all of a torrent's.
    pub(super) fn forget(&mut self, t: TorrentKey, piece: Option<PieceIndex>) {
        self.0.retain(|e| e.t != t || piece.is_some_and(|p| p != e.block.piece));
    }

    /// What is wrong with a piece.
    pub(super) fn error(&self, t: TorrentKey, piece: PieceIndex, now: Instant) -> Option<DiskError> {
        self.0.iter().filter(|e| (e.t, e.block.piece) == (t, piece)).find_map(|e| match &e.state {
            State::Bad(at, error) if now.duration_since(*at) < MEMORY => Some(error.clone()),
            _ => None,
        })
    }

    /// A block is wanted and not cached. True when it is to be read.
    fn wait(&mut self, t: TorrentKey, block: Block, now: Instant) -> bool {
        let busy = self.0.iter().any(|e| e.t == t && matches!(e.state, State::Reading(_)));
        match self.0.iter_mut().find(|e| (e.t, e.block) == (t, block)).map(|e| &mut e.state) {
            Some(State::Wanted(since)) => !busy && now.duration_since(*since) >= PATIENCE,
            Some(State::Reading(_)) => false,
            Some(state) => {
                *state = State::Wanted(now);
                false
            }
            None => {
                if self.0.len() >= MOST {
                    self.0.retain(|e| matches!(e.state, State::Reading(_)));
                }
                if self.0.len() < MOST {
                    self.0.push(Entry { t, block, state: State::Wanted(now) });
                }
                false
            }
        }
    }

    /// The helper reads a block.
    fn reading(&mut self, t: TorrentKey, block: Block, id: u64) {
        if let Some(e) = self.0.iter_mut().find(|e| (e.t, e.block) == (t, block)) {
            e.state = State::Reading(id);
        }
    }

    /// The helper has read, or could not.
    fn over(&mut self, id: u64, now: Instant, result: Result<(), DiskError>) {
        if let Some(e) = self.0.iter_mut().find(|e| matches!(e.state, State::Reading(of) if of == id)) {
            e.state = match result {
                Ok(()) => State::Wanted(now),
                Err(error) => State::Bad(now, error),
            };
        }
    }
}

impl Disk {
    /// A peer waits for a block of which nothing is cached from `at` on.
    pub(super) fn wait_for(&mut self, t: TorrentKey, block: Block, at: u32) {
        if !self.colds.wait(t, block, self.windows.now) {
            return;
        }
        let offset = self.offset(t, block.piece, block.begin + at);
        let mut buf = vec![0; (block.len - at) as usize];
        match self.files.cold(t, offset, &mut buf) {
            Some((handle, span)) => {
                let id = self.send_wanted(t, handle, span);
                self.colds.reading(t, block, id);
            }
            // It has come just now, or it has an error of its own.
            None => self.colds.warm(t, block),
        }
    }

    /// The helper has read what peers wait for, or could not.
    pub(super) fn wanted_read(&mut self, id: u64, t: TorrentKey, file: FileIndex, result: std::io::Result<()>) {
        // A file that has become too short is found to be so when it is read the usual way.
        let result = match result {
            Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
                Err(DiskError::io(&e, self.files.path(t, file), "read"))
            }
            _ => Ok(()),
        };
        self.colds.over(id, self.windows.now, result);
    }
}
