//! A piece that was verified and cannot be read any more: a bad sector. It is fetched again, and the rest goes on.
//!
//! Of a file that loses more than [`MOST`] pieces so the disk is to be believed no more, and the torrent fails.
//!
//! Invariants: a piece that is lost is neither had nor durable, and no block of it waits to be given to anybody: the
//! bytes at its place are about to be overwritten, unverified.

use super::*;
use crate::api::Note;
use crate::wire::{Ext, Message};

/// Pieces of one file that may be lost in one run.
const MOST: usize = 2;

impl Torrent {
    /// A piece could not be read for a peer.
    pub(crate) fn on_unreadable(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, error: String) {
        if !self.is_active() || !self.picker.have().get(piece) {
            return;
        }
        let spans = self.layout.spans(self.layout.piece_offset(piece), u64::from(self.layout.piece_size(piece)));
        let files: Vec<usize> = spans.filter(|s| !s.pad).map(|s| s.file.idx()).collect();
        let often = |f: &usize| self.unreadable.iter().filter(|of| *of == f).count() >= MOST;
        if files.iter().any(often) {
            return self.fail(cx, error, ErrorKind::FileIo);
        }
        self.unreadable.extend(&files);
        log::warn!("{}: {error}; piece {piece} is fetched again", self.meta.name.escape_debug());
        self.picker.lose(piece);
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
