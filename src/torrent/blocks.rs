//! Blocks and pieces: asking for them, taking them, and judging them.
//!
//! Requests: [`Torrent::request_more`] keeps [`Peer::target`] blocks outstanding at each unchoked
//! peer, asked for in batches so that one write carries many. A request that is refused, choked
//! away or timed out goes back to the picker and so to someone else. A block is leased to the one
//! connection that is receiving it; a second sender of the same block (end game) is dropped while
//! the first is moving, and takes over when the first has stalled for [`STALLED`].
//!
//! Blame: a failed piece all from one peer convicts it at once. One from several keeps the digest
//! of each block, and is then asked of one peer alone; when the piece passes, whoever sent a different
//! block is convicted.

use super::exchange::{Verdict, breach};
use super::picker::{Pick, Speed, Taken};
use super::*;
use crate::config::limits;
use crate::id::BLOCK_LEN;
use crate::peer::{Asked, Receiving};
use crate::wire::{Ext, Message};

/// A block whose sender has sent nothing of it for so long may be taken over by another.
const STALLED: Duration = Duration::from_secs(2);
/// Pause before asking a peer again that has refused a request.
const HOLD: Duration = Duration::from_secs(1);
/// A torrent that has become complete is saved after this.
const SAVE_COMPLETE: Duration = Duration::from_secs(1);

impl Torrent {
    /// Counts the pieces we want of those it has, and tells it whether we are interested.
    pub(super) fn recount_wanted(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let Some(peer) = cx.conns.get_mut(conn).and_then(Conn::peer_mut) else { return };
        peer.wanted_pieces = if peer.have.is_all() {
            self.picker.wanted_left()
        } else {
            peer.have.iter_set().filter(|p| self.picker.wants(*p)).count() as u32
        };
        self.update_interest(cx, conn);
    }

    pub(super) fn update_interest(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let unwritable = self.unwritable.is_some();
        let Some(peer) = cx.peer(conn) else { return };
        let interested = peer.wanted_pieces > 0 && !unwritable;
        if interested != peer.interested {
            peer.interested = interested;
            cx.send(conn, if interested { &Message::Interested } else { &Message::NotInterested });
        }
    }

    /// Fills this peer's pipeline.
    pub(crate) fn request_more(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        if !self.is_active() || self.unwritable.is_some() {
            return;
        }
        let (now, speed) = (cx.now, self.speed(cx, conn));
        let Some(peer) = cx.conns.get_mut(conn).and_then(Conn::peer_mut) else { return };
        let (mut target, asked) = (peer.target(), peer.trade.asked.len());
        if asked < target {
            target = target.min(fair(&self.picker, peer.trade.received.get(now), self.rate_down.get(now)));
        }
        // Ask in batches: one write then carries many requests.
        if !peer.may_ask() || peer.trade.hold_until > now || asked + (target / 8).max(1) > target {
            return;
        }
        let mut picked = std::mem::take(&mut self.picked);
        picked.clear();
        let mine = |r: BlockRef| {
            peer.trade.asked.iter().any(|a| a.block.piece == r.piece && a.block.begin == r.block * BLOCK_LEN)
        };
        let pick = Pick {
            conn,
            have: &peer.have,
            count: target - asked,
            speed,
            only: peer.choked.then_some(&peer.trade.allowed[..]),
            suggested: &peer.trade.suggested,
            endgame: asked == 0,
            mine: &mine,
        };
        self.picker.pick(pick, cx.rng, &mut picked);
        if !picked.is_empty() {
            if asked == 0 {
                peer.last_block = now;
            }
            for r in &picked {
                let block = self.wire_block(*r);
                peer.trade.asked.push_back(Asked { block, at: now });
                peer.outbox.push(&Message::Request(block));
            }
            cx.wake(conn);
            cx.touched.push(conn);
        }
        self.picked = picked;
    }

    fn speed(&self, cx: &Cx<'_>, conn: ConnKey) -> Speed {
        let Some(peer) = cx.conns.get(conn).and_then(Conn::peer) else { return Speed::Slow };
        let rate = peer.trade.received.get(cx.now);
        let in_20_s = rate.saturating_mul(20);
        if peer.snubbed || rate < 1024 && cx.now - peer.since > STALLED * 5 {
            Speed::Slow
        } else if in_20_s > u64::from(self.layout.piece_len()) {
            Speed::Fast
        } else {
            Speed::Medium
        }
    }

    /// Blocks came free: asks peers that have room for more.
    pub(crate) fn kick_idle(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::take(&mut self.kick) || !self.is_active() {
            return;
        }
        for i in 0..self.peers.len() {
            self.request_more(cx, self.peers[i]);
        }
    }

    // ---------------------------------------------------------------- blocks

    /// The header of a block has come: where does its payload go?
    pub(crate) fn on_block_start(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        let now = cx.now;
        let r = self.block_ref(&block);
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if block.len == 0 {
            // Some clients mean a rejection by it.
            let start = |a: &&Asked| (a.block.piece, a.block.begin) == (block.piece, block.begin);
            if let Some(refused) = peer.trade.asked.iter().find(start).map(|a| a.block) {
                self.on_refused(cx, conn, &refused);
                return Ok(());
            }
        }
        let asked = peer.trade.asked.front().is_some_and(|a| a.block == block) || peer.has_asked(&block);
        if !asked && peer.trade.withdrawn == 0 {
            peer.trade.unasked += 1;
            if peer.trade.unasked > limits::UNASKED {
                return Err(breach(format!("{} blocks that nobody asked for", limits::UNASKED)));
            }
        }
        let expected = asked || peer.trade.withdrawn > 0;
        let mut keep = false;
        // A late answer to what was cancelled must not mix into a piece that is fetched alone.
        let stranger = !asked && self.picker.is_alone(block.piece);
        if let (true, Some(r)) = (expected && !stranger && self.unwritable.is_none(), r) {
            keep = self.picker.missing(r) && (self.picker.lease(r, conn) || self.take_over(cx, r, conn));
        }
        if let Some(peer) = cx.peer(conn).filter(|_| block.len > 0) {
            peer.trade.receiving = Some(Receiving { block, dropped: !keep, since: now });
        }
        Ok(())
    }

    /// It will not send a block that it was asked for: someone else may, and it is left alone for a
    /// moment.
    pub(super) fn on_refused(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: &Block) {
        let now = cx.now;
        let Some(peer) = cx.peer(conn) else { return };
        if peer.take_asked(block).is_none() {
            peer.trade.withdrawn = peer.trade.withdrawn.saturating_sub(1);
            return;
        }
        peer.trade.hold_until = now + HOLD;
        peer.trade.allowed.retain(|p| *p != block.piece);
        self.withdraw(conn, block);
        cx.touched.push(conn);
    }

    /// The connection that is receiving this block has stalled: `conn` goes on in its place.
    fn take_over(&mut self, cx: &mut Cx<'_>, r: BlockRef, conn: ConnKey) -> bool {
        let Some(holder) = self.picker.lease_of(r) else { return false };
        let now = cx.now;
        if let Some(peer) = cx.peer(holder) {
            if let Some(receiving) = peer.trade.receiving.as_mut() {
                // Slow is not stalled: two slow peers would take the block from each other for ever.
                if now - receiving.since.max(peer.last_block) < STALLED {
                    return false;
                }
                receiving.dropped = true;
            }
        }
        self.picker.unlease(r, holder);
        self.picker.lease(r, conn)
    }

    /// All payload of a block has landed, or was dropped.
    pub(crate) fn on_block(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let dropped = peer.trade.receiving.take().is_none_or(|r| r.dropped);
        if peer.take_asked(&block).is_none() {
            peer.trade.withdrawn = peer.trade.withdrawn.saturating_sub(1);
        }
        let tag = peer.tag.unwrap_or(PeerTag::new(u32::MAX));
        let Some(r) = self.block_ref(&block) else {
            self.wasted += u64::from(block.len);
            return Ok(());
        };
        if dropped {
            self.wasted += u64::from(block.len);
            self.picker.withdraw(r, conn);
        } else {
            self.picker.unlease(r, conn);
            match self.picker.on_block(r, conn, tag) {
                Taken::Duplicate => self.wasted += u64::from(block.len),
                Taken::Block => {}
                Taken::PieceDone => self.ask_hash(cx, r.piece),
            }
            // Also where it is requested only because this connection had been given up.
            if self.picker.others(r) {
                self.cancel_elsewhere(cx, conn, &block);
            }
        }
        self.request_more(cx, conn);
        Ok(())
    }

    fn ask_hash(&mut self, cx: &mut Cx<'_>, piece: PieceIndex) {
        cx.actions.push_back(Action::Hash {
            torrent: self.key,
            piece,
            expected: self.meta.hashes[piece.idx()],
            at_rest: false,
            blocks: self.suspects.contains(piece),
        });
    }

    /// End game: whoever else was asked for this block need not send it.
    fn cancel_elsewhere(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: &Block) {
        for i in 0..self.peers.len() {
            let other = self.peers[i];
            let Some(peer) = cx.peer(other).filter(|_| other != conn) else { continue };
            let arriving = peer.trade.receiving.is_some_and(|r| r.block == *block);
            if !arriving && peer.take_asked(block).is_some() {
                peer.trade.withdrawn += 1;
                cx.send(other, &Message::Cancel(*block));
                self.withdraw(other, block);
                self.request_more(cx, other);
            }
        }
    }

    // ---------------------------------------------------------------- pieces

    /// A piece was hashed.
    pub(crate) fn on_hashed(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, ok: bool, blocks: Option<&[[u8; 20]]>) {
        let again = self.looked_again(piece);
        match self.life {
            Life::Checking(_) => self.on_checked(cx, piece, ok),
            Life::Active if again && !ok => self.fetch_again(cx, piece),
            Life::Active if ok => self.on_piece_ok(cx, piece, blocks),
            Life::Active => self.on_piece_bad(cx, piece, blocks),
            _ => {}
        }
    }

    fn on_piece_ok(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, blocks: Option<&[[u8; 20]]>) {
        self.credit(cx, piece);
        self.convict(cx, piece, blocks);
        let priority = self.picker.priority(piece);
        self.picker.on_piece_ok(piece);
        if self.is_complete() {
            self.unwritable = None;
        }
        if self.unwritable.is_none() {
            self.files_work(cx);
        }
        self.on_verified(cx, piece);
        self.mark_dirty(cx);
        cx.alerts.push_back(Alert::Piece { torrent: self.key, piece });
        for i in 0..self.peers.len() {
            let conn = self.peers[i];
            let Some(peer) = cx.peer(conn) else { continue };
            if peer.have.get(piece) {
                peer.wanted_pieces -= u32::from(priority != Priority::Skip && peer.wanted_pieces > 0);
                self.update_interest(cx, conn);
            } else {
                cx.send(conn, &Message::Have(piece));
            }
        }
        self.count_files(cx, piece);
        if self.is_complete() && self.seeding_since.is_none() {
            self.on_complete(cx);
        }
    }

    /// Files that this piece completes.
    fn count_files(&mut self, cx: &mut Cx<'_>, piece: PieceIndex) {
        let (offset, len) = (self.layout.piece_offset(piece), u64::from(self.layout.piece_size(piece)));
        for span in self.layout.spans(offset, len) {
            let left = &mut self.missing[span.file.idx()];
            *left = left.saturating_sub(1);
            if *left == 0 && !span.pad {
                cx.alerts.push_back(Alert::File { torrent: self.key, file: span.file });
            }
        }
    }

    /// Verified payload counts for whoever sent it.
    fn credit(&mut self, cx: &mut Cx<'_>, piece: PieceIndex) {
        for block in 0..self.layout.blocks_in(piece) {
            let r = BlockRef { piece, block };
            let len = u64::from(self.wire_block(r).len);
            let Some(tag) = self.picker.contributor(r) else { continue };
            self.downloaded += len;
            let now = cx.now;
            if let Some(peer) = self.swarm.conn(tag).and_then(|c| cx.peer(c)) {
                peer.trade.earned.add(now, len);
            }
        }
    }

    fn on_piece_bad(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, blocks: Option<&[[u8; 20]]>) {
        log::warn!("{}: piece {piece} failed its hash", self.meta.name.escape_debug());
        let senders = self.picker.contributors(piece);
        // Who sent each block; nobody sends pads, and blocks of an earlier run come from the disk.
        let (mut sent, mut strays) = (Vec::new(), false);
        for block in 0..self.layout.blocks_in(piece) {
            let r = BlockRef { piece, block };
            let tag = self.picker.contributor(r);
            match tag {
                Some(_) => self.wasted += u64::from(self.wire_block(r).len),
                None => strays |= !self.layout.is_all_pad(&self.layout.block(piece, block)),
            }
            sent.push(tag);
        }
        self.picker.on_piece_bad(piece);
        cx.stats.pieces_failed += 1;
        cx.alerts.push_back(Alert::PieceFailed { torrent: self.key, piece });
        if let ([only], false) = (&senders[..], strays) {
            self.ban(cx, *only);
        } else if let Some(digests) = blocks {
            let of = |(tag, d): (&Option<PeerTag>, &[u8; 20])| (tag.unwrap_or(PeerTag::new(u32::MAX)), *d);
            self.suspects.insert(piece, sent.iter().zip(digests).map(of).collect());
        }
        if senders.len() > 1 {
            self.picker.fetch_alone(piece);
        }
        self.kick = true;
        self.kick_idle(cx);
    }

    /// What had come of this piece, or of all that are not verified, could not be written.
    pub(crate) fn on_piece_lost(&mut self, cx: &mut Cx<'_>, piece: Option<PieceIndex>) {
        if let Some(piece) = piece.filter(|p| self.looked_again(*p)) {
            return self.fetch_again(cx, piece);
        }
        self.unsure = piece.is_none();
        let lost: Vec<_> = match piece {
            Some(piece) => vec![piece],
            None => self.picker.partials().map(|(piece, _)| piece).collect(),
        };
        for piece in lost.into_iter().filter(|p| p.get() < self.layout.pieces()) {
            if self.picker.have().get(piece) {
                continue;
            }
            self.picker.forget(piece);
            for &conn in &self.peers {
                let Some(peer) = cx.peer(conn) else { continue };
                if let Some(r) = peer.trade.receiving.as_mut().filter(|r| r.block.piece == piece) {
                    r.dropped = true;
                }
            }
        }
    }

    /// The piece has passed: whoever sent another block the last time lied.
    fn convict(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, blocks: Option<&[[u8; 20]]>) {
        let Some(suspects) = self.suspects.remove(piece) else { return };
        let Some(good) = blocks else { return };
        let mut guilty: Vec<_> =
            suspects.iter().zip(good).filter(|((_, was), is)| was != *is).map(|((t, _), _)| *t).collect();
        guilty.sort_unstable();
        guilty.dedup();
        for tag in guilty {
            self.ban(cx, tag);
        }
    }

    pub(super) fn ban(&mut self, cx: &mut Cx<'_>, tag: PeerTag) {
        // Told once a host; unknown is a tag that is forgotten.
        if self.swarm.addr(tag).is_none_or(|addr| self.swarm.is_banned(&addr)) {
            return;
        }
        let Some(addr) = self.swarm.ban(tag) else { return };
        log::warn!("peer {addr}: banned for bad data");
        cx.stats.banned += 1;
        cx.alerts.push_back(Alert::PeerBanned { torrent: self.key, addr });
        // By network: the connection may go by another of its addresses by now.
        let host = swarm::network(addr.ip());
        let there =
            |c: &ConnKey| cx.conns.get(*c).and_then(Conn::peer).is_some_and(|p| swarm::network(p.addr.ip()) == host);
        let guilty: Vec<_> = self.peers.iter().copied().filter(there).collect();
        for conn in guilty {
            self.close(cx, conn, CloseReason::Banned);
        }
    }

    /// Whether we want anything (BEP 21), to those who listen.
    pub(super) fn tell_upload_only(&mut self, cx: &mut Cx<'_>, only: bool) {
        for &conn in &self.peers {
            if let Some(id) = cx.peer(conn).and_then(|p| p.ext.get(Ext::UploadOnly)) {
                cx.send(conn, &Message::Extended { id, payload: &[u8::from(only)] });
            }
        }
    }

    /// The last wanted piece is here.
    pub(super) fn on_complete(&mut self, cx: &mut Cx<'_>) {
        if self.seeding_since.is_some() {
            return;
        }
        self.seeding_since = Some(cx.now);
        self.unwritable = None;
        if self.picker.have().is_all() {
            self.tiers.completed(cx.now);
        }
        self.finish(cx);
        self.tell_upload_only(cx, true);
        for conn in self.peers.clone() {
            if let Err(why) = self.close_if_useless(cx, conn) {
                self.close(cx, conn, why);
            }
        }
        self.announce_due(cx);
        // Soon, not now: who leaves when it is complete saves then.
        self.dirty = true;
        self.save_at = Some(cx.now + SAVE_COMPLETE);
    }

    /// Payload came in, verified or not.
    pub(crate) fn on_received(&mut self, now: Instant, payload: u64) {
        self.rate_down.add(now, payload);
    }
}

/// How many requests a peer may have out so that all peers end together: its share, by its rate, of the blocks that
/// are left. Only near the end is that less than it would have anyway; without it, the last seconds belong to
/// whoever asked for more than it could send.
fn fair(picker: &Picker, rate: u64, all: u64) -> usize {
    const LEAST: u64 = 4;
    /// Pieces left from which on this counts at all: more than anybody has requests out.
    const FAR: u32 = 4096;
    if all == 0 || picker.wanted_left() > FAR {
        return usize::MAX;
    }
    let share = u64::from(picker.blocks_left()).saturating_mul(rate) / all;
    usize::try_from(share + share / 8 + LEAST).unwrap_or(usize::MAX)
}
