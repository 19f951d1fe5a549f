//! What waits for a slow disk: while the helper still writes what a torrent's last flush has sent, its files change, so
//! its record is not made yet, and nothing else is done to its files.
//!
//! ```text
//!   Save ─▶ flush ─▶ written? ─ yes ─▶ stamps, record ─▶ state folder
//!                       └─ no ──▶ Late: the record as it is now, and every action that comes for these files
//!                                   └─ written: the record is kept, and the actions are carried out in order
//! ```
//!
//! The record of a torrent that goes on is made at once: later it would name blocks that landed meanwhile and are in no
//! file yet. One that has stopped has its record made again at the end, when its files change no more.

use std::collections::{BTreeMap, VecDeque};

use crate::api::Action;
use crate::id::{InfoHash, TorrentKey};

/// One torrent's.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) info_hash: InfoHash,
    pub(super) record: Option<Vec<u8>>,
    pub(super) actions: VecDeque<Action>,
}

/// All that wait.
#[derive(Default, Debug)]
pub(super) struct AllLate(BTreeMap<TorrentKey, Late>);

/// The torrent whose files an action is about, if it has to come after what was written to them before.
fn concerns(action: &Action) -> Option<TorrentKey> {
    match action {
        Action::Open { torrent, .. }
        | Action::Wanted { torrent, .. }
        | Action::Hash { torrent, .. }
        | Action::Save { torrent, .. }
        | Action::CloseFiles { torrent } => Some(*torrent),
        _ => None,
    }
}

impl AllLate {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn torrents(&self) -> impl Iterator<Item = TorrentKey> + '_ {
        self.0.keys().copied()
    }

    /// A torrent begins to wait.
    pub(super) fn insert(&mut self, torrent: TorrentKey, info_hash: InfoHash, record: Option<Vec<u8>>) {
        self.0.insert(torrent, Late { info_hash, record, actions: VecDeque::new() });
    }

    /// The end of its waiting.
    pub(super) fn take(&mut self, torrent: TorrentKey) -> Option<Late> {
        self.0.remove(&torrent)
    }

    /// Puts an action behind what waits; gives it back when nothing does.
    pub(super) fn put(&mut self, action: Action) -> Option<Action> {
        match concerns(&action).and_then(|t| self.0.get_mut(&t)) {
            Some(late) => {
                late.actions.push_back(action);
                None
            }
            None => Some(action),
        }
    }
}
