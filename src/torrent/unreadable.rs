//! A piece that was verified and cannot be read any more: a bad sector. It is fetched again, and the rest goes on.
//!
//! Of a file that loses more than [`MOST`] pieces so the disk is to be believed no more, and the torrent fails.
//!
//! Invariants: a piece that is lost is neither had nor durable, and nobody waits to be given it.

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
        for i in 0..self.peers.len() {
            let conn = self.peers[i];
            self.recount_wanted(cx, conn);
            let Some(peer) = cx.peer(conn) else { continue };
            let fast = peer.fast;
            let (gone, kept) = match peer.trade.made() {
                Some(trade) => std::mem::take(&mut trade.serving).into_iter().partition(|b| b.piece == piece),
                None => (VecDeque::new(), VecDeque::new()),
            };
            if let Some(trade) = peer.trade.made() {
                trade.serving = kept;
            }
            let id = peer.ext.get(Ext::DontHave);
            cx.stats.requests_in -= gone.len();
            if let Some(id) = id {
                cx.send(conn, &Message::Extended { id, payload: &piece.get().to_be_bytes() });
            }
            for block in gone.into_iter().filter(|_| fast) {
                cx.send(conn, &Message::Reject(block));
            }
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
}
