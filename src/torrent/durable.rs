//! From verified to durable: which pieces would survive a power cut, and when the device is asked to take more.
//!
//! ```text
//!            on_verified             Action::Sync                  Input::Synced ok
//!   hashed ─────────────▶ fresh ───────────────────▶ under way ───────────────────▶ durable
//!                           └──────────────────────────┴── failed: forgotten, and hashed again before it is believed
//! ```
//!
//! A sync is asked for when [`Config::sync_bytes`] are fresh, when the first fresh piece has waited for
//! [`Config::sync_interval`], and at once when the torrent is complete or stops; one is under way at a time. Peers are
//! told of a piece when it is verified; `Alert::Finished` and what hangs on it come when everything is durable.
//!
//! Invariants: a piece that is had is in exactly one of the three; after a failed sync nothing is fresh or under way.

use super::*;
use crate::api::Note;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Durable {
    /// On the device.
    pub(super) pieces: Bitfield,
    fresh: Vec<PieceIndex>,
    bytes: u64,
    since: Option<Instant>,
    under_way: Option<Vec<PieceIndex>>,
    /// Of the sync that was asked for last. An earlier one may have been given up, when the torrent stopped on an
    /// error, and its answer be on its way still.
    ticket: u32,
    /// Forgotten after a failed sync, or an error that kept them from being synced: to be hashed again.
    pub(super) doubted: Vec<PieceIndex>,
    /// What is known here is this run's own, and newer than any journal.
    pub(super) ours: bool,
    /// `Alert::Finished` is due once everything is durable.
    finished: bool,
    /// Its files are to be closed when the sync under way is over.
    closing: bool,
    /// And opened again after that.
    reopen: bool,
}

impl Durable {
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            pieces: Bitfield::none(pieces),
            fresh: Vec::new(),
            bytes: 0,
            since: None,
            under_way: None,
            ticket: 0,
            doubted: Vec::new(),
            ours: false,
            finished: false,
            closing: false,
            reopen: false,
        }
    }

    /// Pieces that a power cut may take.
    pub(super) fn volatile(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.fresh.iter().chain(self.under_way.iter().flatten()).copied()
    }

    /// Everything that is verified is on the device.
    pub(super) fn is_settled(&self) -> bool {
        self.fresh.is_empty() && self.under_way.is_none()
    }

    fn take_volatile(&mut self) -> Vec<PieceIndex> {
        (self.bytes, self.since) = (0, None);
        let mut all = self.under_way.take().unwrap_or_default();
        all.append(&mut self.fresh);
        all
    }

    /// A piece is not there any more.
    pub(super) fn lose(&mut self, piece: PieceIndex) {
        self.pieces.clear(piece);
        self.fresh.retain(|p| *p != piece);
        if let Some(pieces) = &mut self.under_way {
            pieces.retain(|p| *p != piece);
        }
    }

    /// Nothing is known any more, about to be found out again.
    pub(super) fn restart(&mut self, pieces: u32) {
        let Self { closing, reopen, ticket, .. } = *self;
        *self = Self { closing, reopen, ticket, ..Self::new(pieces) };
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// When the next sync is due.
    pub(super) fn deadline(&self, config: &Config) -> Option<Instant> {
        self.since.filter(|_| self.under_way.is_none()).map(|at| at + config.sync_interval)
    }
}

impl Torrent {
    pub(super) fn note(&self, cx: &mut Cx<'_>, note: Note) {
        cx.actions.push_back(Action::Note { torrent: self.key, info_hash: self.info_hash, note });
    }

    /// A piece is known to be good; whether the device has it is not.
    pub(super) fn on_verified(&mut self, cx: &mut Cx<'_>, piece: PieceIndex) {
        self.note(cx, Note::Verified(piece));
        self.add_fresh(cx.now, piece);
        self.sync_when_due(cx);
    }

    pub(super) fn add_fresh(&mut self, now: Instant, piece: PieceIndex) {
        self.safe.fresh.push(piece);
        self.safe.bytes += u64::from(self.layout.piece_size(piece));
        self.safe.since.get_or_insert(now);
    }

    pub(super) fn sync_when_due(&mut self, cx: &mut Cx<'_>) {
        let s = &self.safe;
        let due = s.bytes >= cx.config.sync_bytes || s.deadline(cx.config).is_some_and(|at| at <= cx.now);
        if due || s.finished || s.closing {
            self.sync(cx);
        }
    }

    fn sync(&mut self, cx: &mut Cx<'_>) {
        if self.safe.under_way.is_some() || self.safe.fresh.is_empty() {
            return;
        }
        let pieces = self.safe.take_volatile();
        self.safe.under_way = Some(pieces.clone());
        self.safe.ticket = self.safe.ticket.wrapping_add(1);
        cx.actions.push_back(Action::Sync { torrent: self.key, ticket: self.safe.ticket, pieces });
    }

    /// A sync is over.
    pub(crate) fn on_synced(&mut self, cx: &mut Cx<'_>, ticket: u32, result: Result<(), (String, ErrorKind)>) {
        match result {
            // A sync of before the torrent had stopped: what is under way is another one.
            Ok(()) if ticket != self.safe.ticket => {}
            Ok(()) => {
                for piece in self.safe.under_way.take().unwrap_or_default() {
                    self.safe.pieces.set(piece);
                }
                self.tell_finished(cx);
                self.sync_when_due(cx);
            }
            Err((error, kind)) => {
                cx.stats.sync_errors += 1;
                self.forget_volatile(cx);
                self.fail(cx, error, kind);
            }
        }
        if self.safe.closing && self.safe.is_settled() {
            self.close_now(cx);
        }
    }

    /// What is not durable is not believed any more.
    pub(super) fn forget_volatile(&mut self, cx: &mut Cx<'_>) {
        for piece in self.safe.take_volatile() {
            self.note(cx, Note::Lost(piece));
            self.safe.doubted.push(piece);
        }
    }

    /// The last wanted piece is verified: say so when it is durable.
    pub(super) fn finish(&mut self, cx: &mut Cx<'_>) {
        self.safe.finished = true;
        self.sync(cx);
        self.tell_finished(cx);
    }

    fn tell_finished(&mut self, cx: &mut Cx<'_>) {
        if self.safe.finished && self.safe.is_settled() && self.is_complete() {
            self.safe.finished = false;
            cx.alerts.push_back(Alert::Finished { torrent: self.key });
        }
    }

    /// Closes the files, when all that is verified is on the device.
    pub(super) fn close_files(&mut self, cx: &mut Cx<'_>) {
        self.safe.reopen = false;
        if self.safe.is_settled() {
            self.safe.closing = false;
            cx.actions.push_back(Action::CloseFiles { torrent: self.key });
        } else {
            self.safe.closing = true;
            self.sync(cx);
        }
    }

    fn close_now(&mut self, cx: &mut Cx<'_>) {
        self.safe.closing = false;
        // The record made when it stopped did not know how this would end.
        if self.safe.ours {
            self.save(cx);
        }
        cx.actions.push_back(Action::CloseFiles { torrent: self.key });
        if std::mem::take(&mut self.safe.reopen) {
            self.open(cx);
        }
    }

    /// Files that are still being closed are opened when that is done.
    pub(super) fn opens_later(&mut self) -> bool {
        self.safe.reopen = self.safe.closing;
        self.safe.closing
    }
}
