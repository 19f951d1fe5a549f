//! A piece that was verified and cannot be read any more: a bad sector. It is fetched again, and the rest goes on.
//!
//! ```text
//!   had ── cannot be read ──▶ looked at again ── right after all ──▶ had
//!                                 └─ wrong, or not to be read ──▶ fetched
//! ```
//!
//! A cable that was loose for a moment has broken nothing, and what is here may be the only copy there is: nothing is
//! written over it before it has been looked at.
//!
//! Of a file that loses more than [`MOST`] pieces so the disk is to be believed no more, and the torrent fails.
//!
//! Invariants: a piece that is lost is neither had nor durable, and no block of it waits to be given to anybody: the
//! bytes at its place are about to be overwritten, unverified. While it is looked at it is not asked for.

use super::*;
use crate::api::Note;
use crate::wire::{Ext, Message};

/// Pieces of one file that may be lost in one run.
const MOST: usize = 2;

/// What a torrent has had of this.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// A file for each of its pieces.
    files: Vec<usize>,
    /// Pieces that are looked at again.
    looking: Vec<PieceIndex>,
}

impl Torrent {
    /// A piece could not be read for a peer.
    pub(crate) fn on_unreadable(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, error: String) {
        if !self.is_active() || !self.picker.have().get(piece) {
            return;
        }
        let spans = self.layout.spans(self.layout.piece_offset(piece), u64::from(self.layout.piece_size(piece)));
        let files: Vec<usize> = spans.filter(|s| !s.pad).map(|s| s.file.idx()).collect();
        let known = self.unreadable.get_or_insert_default();
        let often = |f: &usize| known.files.iter().filter(|of| *of == f).count() >= MOST;
        if files.iter().any(often) {
            return self.fail(cx, error, ErrorKind::FileIo);
        }
        known.files.extend(&files);
        known.looking.push(piece);
        log::warn!("{}: {error}; piece {piece} is looked at again", self.meta.name.escape_debug());
        self.picker.lose(piece);
        (0..self.layout.blocks_in(piece)).for_each(|i| _ = self.picker.mark_block_have(piece, i));
        let expected = self.meta.hashes[piece.idx()];
        cx.actions.push_back(Action::Hash { torrent: self.key, piece, expected, at_rest: true, blocks: false });
        self.safe.lose(piece);
        self.note(cx, Note::Lost(piece));
        files.iter().for_each(|f| self.missing[*f] += 1);
        for conn in self.peers.clone() {
            self.recount_wanted(cx, conn);
            self.deny(cx, conn, piece);
        }
        if !self.is_complete() {
            if let Some(since) = self.seeding_since.take() {
                self.seeding_before += cx.now - since;
                self.swarm.revive(cx.now);
                self.tell_upload_only(cx, false);
            }
        }
        self.mark_dirty(cx);
    }

    /// Whether a piece is looked at again.
    pub(crate) fn looks_again(&self, piece: PieceIndex) -> bool {
        self.unreadable.as_ref().is_some_and(|u| u.looking.contains(&piece))
    }

    /// Whether a piece was looked at again, which is over now.
    pub(super) fn looked_again(&mut self, piece: PieceIndex) -> bool {
        let Some(u) = &mut self.unreadable else { return false };
        let before = u.looking.len();
        u.looking.retain(|p| *p != piece);
        u.looking.len() < before
    }

    /// What was looked at is not looked at any more: the torrent stops.
    pub(super) fn look_no_more(&mut self) {
        if let Some(u) = &mut self.unreadable {
            u.looking.clear();
        }
    }

    /// A piece that was looked at is not what it was, or still cannot be read.
    pub(super) fn fetch_again(&mut self, cx: &mut Cx<'_>, piece: PieceIndex) {
        log::warn!("{}: piece {piece} is gone, and fetched again", self.meta.name.escape_debug());
        self.picker.forget(piece);
        self.kick = true;
        self.kick_idle(cx);
    }

    /// Gives a peer nothing of a piece any more, whatever it has asked for, and says so.
    fn deny(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: PieceIndex) {
        let Some(peer) = cx.peer(conn) else { return };
        let Ok(mut gone) = peer.outbox.withdraw(piece) else {
            // The rest of a block that has begun to leave cannot be said any more.
            return self.close(cx, conn, CloseReason::Disk);
        };
        let (fast, id) = (peer.fast, peer.ext.get(Ext::DontHave));
        let mut waiting = 0;
        if let Some(trade) = peer.trade.made() {
            let (denied, kept) = std::mem::take(&mut trade.serving).into_iter().partition(|b| b.piece == piece);
            let denied: VecDeque<Block> = denied;
            (trade.serving, waiting) = (kept, denied.len());
            gone.extend(denied);
        }
        cx.stats.requests_in -= waiting;
        if !fast && !gone.is_empty() {
            // It would wait for them; the next handshake tells it what there is.
            return self.close(cx, conn, CloseReason::Disk);
        }
        if let Some(id) = id {
            cx.send(conn, &Message::Extended { id, payload: &piece.get().to_be_bytes() });
        }
        for block in gone {
            cx.send(conn, &Message::Reject(block));
        }
    }
}
