//! What a torrent says to its peers, and what it makes of what they say.
//!
//! Method names are the protocol's own words: `on_have` is what happens when a peer says `have`.
//! A method that returns `Err` has found a reason to close that peer; the session does so.
//!
//! Requests: [`Torrent::request_more`] keeps [`Peer::target`] blocks outstanding at each unchoked
//! peer, asked for in batches so that one write carries many. A request that is refused, choked
//! away or timed out goes back to the picker and so to someone else. A block is leased to the one
//! connection that is receiving it; a second sender of the same block (end game) is dropped while
//! the first is moving, and takes over when the first has stalled for [`STALLED`].
//!
//! Blame: a failed piece all from one peer convicts it at once. One from several keeps the digest
//! of each block; when the piece passes, whoever sent a different block is convicted.

use super::choker::Candidate;
use super::picker::{Pick, Speed, Taken};
use super::*;
use std::net::SocketAddr;

use crate::config::limits;
use crate::id::BLOCK_LEN;
use crate::peer::{Asked, Receiving};
use crate::wire::{self, Ext, ExtHandshake, Handshake, Message};

/// A block whose sender has been at it for so long may be taken over by another.
const STALLED: Duration = Duration::from_secs(2);
/// Pause before asking a peer again that has refused a request.
const HOLD: Duration = Duration::from_secs(1);
/// Blocks that nobody asked for until the peer is closed.
const UNASKED_MAX: u32 = 32;
/// A torrent that has become complete is saved after this.
const SAVE_COMPLETE: Duration = Duration::from_secs(1);
/// Suggested pieces that are remembered (BEP 6).
const SUGGESTED_MAX: usize = 16;
/// Allowed-fast pieces that are remembered (BEP 6).
const ALLOWED_MAX: usize = 64;

/// What we call ourselves to peers (BEP 10 `v`).
const CLIENT: &str = concat!("btmio ", env!("CARGO_PKG_VERSION"));

type Verdict = Result<(), CloseReason>;

fn breach(what: impl Into<String>) -> CloseReason {
    CloseReason::Protocol(what.into())
}

impl Cx<'_> {
    /// Queues a message and tells the driver that something waits.
    pub(crate) fn send(&mut self, conn: ConnKey, message: &Message<'_>) {
        if let Some(p) = self.peer(conn) {
            p.outbox.push(message);
            self.wake(conn);
        }
    }

    /// Tells the driver that something waits for this connection.
    pub(crate) fn wake(&mut self, conn: ConnKey) {
        let Some(p) = self.conns.get_mut(conn).and_then(Conn::peer_mut) else { return };
        if !std::mem::replace(&mut p.woken, true) {
            self.actions.push_back(Action::Wake { conn });
        }
    }
}

impl Torrent {
    // ---------------------------------------------------------------- coming and going

    /// A handshake is complete on both sides: the peer joins.
    pub(crate) fn on_handshake(&mut self, cx: &mut Cx<'_>, conn: ConnKey, theirs: &Handshake) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let (incoming, addr) = (peer.incoming, peer.addr);
        if theirs.peer_id == cx.me.id {
            if let Some(tag) = cx.peer(conn).and_then(|p| p.tag) {
                self.swarm.bar(tag);
            }
            return Err(CloseReason::Ourselves);
        }
        if incoming && self.peers.len() >= cx.config.max_peers_torrent {
            return Err(CloseReason::TooManyPeers);
        }
        self.settle_duplicate(cx, conn, theirs.peer_id, incoming)?;
        let pieces = self.layout.pieces();
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.phase = crate::peer::Phase::Live;
        peer.id = Some(theirs.peer_id);
        peer.fast = theirs.reserved.has_fast();
        peer.extended = theirs.reserved.has_extended();
        peer.have = Bitfield::none(pieces);
        peer.decoder.set_bitfield_len(pieces.div_ceil(8) as usize);
        if incoming {
            peer.tag = self.swarm.incoming(addr);
            let Some(tag) = peer.tag else { return Err(CloseReason::Banned) };
            if self.swarm.conn(tag).is_some() {
                return Err(CloseReason::Duplicate);
            }
            self.swarm.attach(tag, conn);
        } else {
            self.connecting -= 1;
            cx.stats.half_open -= 1;
        }
        cx.stats.peers += 1;
        self.peers.push(conn);
        if let Some(tag) = cx.peer(conn).and_then(|p| p.tag) {
            self.swarm.worked(tag);
        }
        let client = wire::client_name(&theirs.peer_id);
        log::debug!("peer {addr}: {client}, {}", if incoming { "dialled us" } else { "dialled" });
        cx.alerts.push_back(Alert::PeerConnected { torrent: self.key, conn, addr, client, incoming });
        self.greet(cx, conn);
        Ok(())
    }

    /// Two connections to one peer: the one opened by the side with the higher id stays (BEP 3
    /// leaves it open; this is what others do, so that both sides choose the same one).
    fn settle_duplicate(&mut self, cx: &mut Cx<'_>, conn: ConnKey, id: PeerId, incoming: bool) -> Verdict {
        let me = cx.me.id;
        let twin = self.peers.iter().copied().find(|&c| c != conn && cx.peer(c).is_some_and(|p| p.id == Some(id)));
        let Some(twin) = twin else { return Ok(()) };
        let keep_ours = me > id;
        let twin_incoming = cx.peer(twin).is_some_and(|p| p.incoming);
        if twin_incoming != incoming && (keep_ours != incoming) {
            self.close(cx, twin, CloseReason::Duplicate);
            return Ok(());
        }
        Err(CloseReason::Duplicate)
    }

    /// The first messages: extension handshake, what we have, what it may take at once.
    fn greet(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let complete = self.is_complete();
        let (port, have) = (cx.me.port, self.picker.have());
        let Some(peer) = cx.conns.get_mut(conn).and_then(Conn::peer_mut) else { return };
        if peer.extended {
            let ours = wire::OurExt {
                port: (port != 0).then_some(port),
                reqq: Some(limits::REQUESTS_IN as u32),
                yourip: Some(peer.addr.ip().to_canonical()),
                upload_only: complete.then_some(true),
                metadata_size: None,
                client: Some(CLIENT),
                exts: &[Ext::DontHave, Ext::UploadOnly],
            };
            peer.outbox.push(&Message::Extended { id: 0, payload: &wire::encode_ext(&ours) });
        }
        let n = have.len();
        match (peer.fast, have.is_all() && n > 0, have.is_none()) {
            (true, true, _) => peer.outbox.push(&Message::HaveAll),
            (true, _, true) => peer.outbox.push(&Message::HaveNone),
            (false, _, true) => {}
            _ => peer.outbox.push(&Message::Bitfield(&have.to_wire())),
        }
        if let (true, std::net::IpAddr::V4(ip)) = (peer.fast, peer.addr.ip().to_canonical()) {
            let set = wire::allowed_fast_set(self.info_hash, ip, n, limits::ALLOWED_FAST);
            for piece in set {
                if have.get(piece) {
                    peer.outbox.push(&Message::AllowedFast(piece));
                    peer.granted.push(piece);
                }
            }
        }
        cx.wake(conn);
    }

    /// Ends a peer connection of this torrent and takes back all it held.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, conn: ConnKey, why: CloseReason) {
        if cx.peer(conn).is_none() {
            return;
        }
        let Some(Conn::Peer(peer)) = cx.conns.remove(conn) else { return };
        log::debug!("peer {}: closed: {why}", peer.addr);
        let live = peer.is_live();
        if live {
            self.peers.retain(|c| *c != conn);
            cx.stats.peers -= 1;
            self.picker.on_peer_gone(&peer.have);
            self.release(conn, &peer);
            cx.alerts.push_back(Alert::PeerClosed { torrent: self.key, conn, addr: peer.addr, why: why.clone() });
        } else if !peer.incoming {
            self.connecting -= 1;
            cx.stats.half_open -= 1;
        }
        if let Some(tag) = peer.tag {
            match why {
                CloseReason::Ourselves | CloseReason::Banned => self.swarm.bar(tag),
                _ => {}
            }
            if live {
                self.swarm.detached(cx.now, tag, conn);
            } else {
                self.swarm.failed(cx.now, tag, conn);
            }
        }
        cx.actions.push_back(Action::Close { conn, why });
        if self.is_active() {
            self.dial(cx);
            self.kick_idle(cx);
        }
    }

    /// Its requests and its lease go back to the picker.
    fn release(&mut self, conn: ConnKey, peer: &Peer) {
        for asked in &peer.asked {
            self.withdraw(conn, &asked.block);
        }
        let kept = peer.receiving.filter(|r| !r.dropped);
        if let Some(r) = kept.and_then(|r| self.block_ref(&r.block)) {
            self.picker.unlease(r, conn);
        }
    }

    fn withdraw(&mut self, conn: ConnKey, block: &Block) {
        if let Some(r) = self.block_ref(block) {
            self.picker.withdraw(r, conn);
            self.kick = true;
        }
    }

    // ---------------------------------------------------------------- messages

    /// A message came from a live peer.
    pub(crate) fn on_message(&mut self, cx: &mut Cx<'_>, conn: ConnKey, message: &Message<'_>) -> Verdict {
        log::trace!("peer {conn:?}: {message:?}");
        match *message {
            Message::KeepAlive | Message::Port(_) | Message::Unknown { .. } | Message::Piece { .. } => Ok(()),
            Message::Choke => self.on_choke(cx, conn),
            Message::Unchoke => self.on_unchoke(cx, conn),
            Message::Interested => self.on_interested(cx, conn),
            Message::NotInterested => self.on_not_interested(cx, conn),
            Message::Have(piece) => self.on_have(cx, conn, piece),
            Message::Bitfield(bits) => {
                let have =
                    Bitfield::from_wire(bits, self.layout.pieces()).map_err(|e| breach(format!("bitfield: {e}")))?;
                self.on_bitfield(cx, conn, have)
            }
            Message::HaveAll => self.on_bitfield(cx, conn, Bitfield::all(self.layout.pieces())),
            Message::HaveNone => self.on_bitfield(cx, conn, Bitfield::none(self.layout.pieces())),
            Message::Request(block) => self.on_request(cx, conn, block),
            Message::Cancel(block) => self.on_cancel(cx, conn, block),
            Message::Reject(block) => self.on_reject(cx, conn, block),
            Message::Suggest(piece) => self.on_suggest(cx, conn, piece),
            Message::AllowedFast(piece) => self.on_allowed_fast(cx, conn, piece),
            Message::Extended { id, payload } => self.on_extended(cx, conn, id, payload),
        }
    }

    fn on_choke(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.choked = true;
        if peer.fast {
            return Ok(()); // each request will be answered or rejected (BEP 6)
        }
        let asked = std::mem::take(&mut peer.asked);
        peer.withdrawn += asked.len() as u32;
        for a in asked {
            self.withdraw(conn, &a.block);
        }
        Ok(())
    }

    fn on_unchoke(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.choked = false;
        peer.hold_until = Instant::ZERO;
        self.request_more(cx, conn);
        Ok(())
    }

    fn on_interested(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.wants_us = true;
        let (choking, last) = (peer.choking, peer.unchoked_at);
        let recent = last != Instant::ZERO && cx.now - last < super::choker::ROUND;
        let in_use = self.unchoked(cx);
        if choking && self.choker.on_interested(cx.now, in_use, cx.config.unchoke_slots, recent) {
            self.unchoke(cx, conn, false);
        }
        Ok(())
    }

    fn on_not_interested(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.wants_us = false;
        if !peer.choking {
            self.choke(cx, conn);
        }
        self.close_if_useless(cx, conn)
    }

    /// Two complete peers have nothing to trade.
    fn close_if_useless(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let complete = self.is_complete();
        match cx.peer(conn) {
            Some(p) if complete && (p.is_seed() || (p.upload_only && !p.wants_us)) => Err(CloseReason::NothingToTrade),
            _ => Ok(()),
        }
    }

    fn on_have(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: PieceIndex) -> Verdict {
        if piece.get() >= self.layout.pieces() {
            return Err(breach(format!("have {piece} of {} pieces", self.layout.pieces())));
        }
        let wants = self.picker.wants(piece);
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.have_known = true;
        if peer.have.get(piece) {
            return Ok(());
        }
        if peer.have.count() + 1 == peer.have.len() {
            // The picker counts complete peers apart.
            self.picker.on_peer_gone(&peer.have);
            peer.have.set(piece);
            self.picker.on_peer_bitfield(&peer.have);
        } else {
            peer.have.set(piece);
            self.picker.on_peer_have(piece);
        }
        peer.wanted_pieces += u32::from(wants);
        let (seed, tag) = (peer.is_seed(), peer.tag);
        if seed {
            if let Some(tag) = tag {
                self.swarm.set_seed(tag);
            }
            self.close_if_useless(cx, conn)?;
        }
        if wants {
            self.update_interest(cx, conn);
            self.request_more(cx, conn);
        }
        Ok(())
    }

    /// It no longer has a piece (BEP 54).
    fn on_dont_have(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: PieceIndex) {
        let wants = piece.get() < self.layout.pieces() && self.picker.wants(piece);
        let Some(peer) = cx.peer(conn) else { return };
        if piece.get() >= peer.have.len() || !peer.have.get(piece) {
            return;
        }
        self.picker.on_peer_gone(&peer.have);
        peer.have.clear(piece);
        self.picker.on_peer_bitfield(&peer.have);
        peer.wanted_pieces -= u32::from(wants && peer.wanted_pieces > 0);
        self.update_interest(cx, conn);
    }

    fn on_bitfield(&mut self, cx: &mut Cx<'_>, conn: ConnKey, have: Bitfield) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        // A second `bitfield` is against BEP 3, but aria2 sends one when it has gained many pieces at
        // once. It costs no more than it weighs; have-all and have-none would.
        let again = std::mem::replace(&mut peer.have_known, true);
        if again && (have.is_all() || have.is_none()) {
            return Err(breach("a second account of its pieces"));
        }
        self.picker.on_peer_gone(&peer.have);
        self.picker.on_peer_bitfield(&have);
        peer.have = have;
        let (seed, tag) = (peer.is_seed(), peer.tag);
        if let (true, Some(tag)) = (seed, tag) {
            self.swarm.set_seed(tag);
        }
        self.close_if_useless(cx, conn)?;
        self.recount_wanted(cx, conn);
        self.request_more(cx, conn);
        Ok(())
    }

    fn on_request(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        if block.len == 0 || block.len > limits::BLOCK_SERVED || !self.layout.contains(&block) {
            return Err(breach(format!("request of {block:?}")));
        }
        let have = self.picker.have().get(block.piece);
        let per_piece = self.layout.blocks_in(block.piece);
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let granted = peer.granted.contains(&block.piece);
        let waiting = peer.serving.len();
        let mut serve = have && (!peer.choking || granted) && waiting < limits::REQUESTS_IN;
        if serve && peer.choking {
            // Allowed-fast pieces are given once or twice, not for ever.
            peer.granted_blocks += 1;
            serve = peer.granted_blocks <= 2 * per_piece * limits::ALLOWED_FAST as u32;
        }
        if serve {
            peer.serving.push_back(block);
            cx.wake(conn);
        } else if peer.fast {
            if peer.outbox.control_len() > limits::OUTBOX {
                return Err(breach("requests faster than it reads their rejections"));
            }
            cx.send(conn, &Message::Reject(block));
        } else if waiting >= limits::REQUESTS_IN {
            return Err(breach(format!("more than {} requests waiting", limits::REQUESTS_IN)));
        }
        Ok(())
    }

    fn on_cancel(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let Some(i) = peer.serving.iter().position(|b| *b == block) else { return Ok(()) };
        peer.serving.remove(i);
        if peer.fast {
            cx.send(conn, &Message::Reject(block));
        }
        Ok(())
    }

    fn on_reject(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        let now = cx.now;
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if !peer.fast {
            return Err(breach("reject without the fast extension"));
        }
        if peer.take_asked(&block).is_some() {
            peer.hold_until = now + HOLD;
            peer.allowed.retain(|p| *p != block.piece);
            self.withdraw(conn, &block);
            cx.touched.push(conn);
        } else {
            peer.withdrawn = peer.withdrawn.saturating_sub(1);
        }
        Ok(())
    }

    fn on_suggest(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: PieceIndex) -> Verdict {
        let known = piece.get() < self.layout.pieces();
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if known && peer.suggested.len() < SUGGESTED_MAX && !peer.suggested.contains(&piece) {
            peer.suggested.push(piece);
        }
        Ok(())
    }

    fn on_allowed_fast(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: PieceIndex) -> Verdict {
        let known = piece.get() < self.layout.pieces();
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if known && peer.allowed.len() < ALLOWED_MAX && !peer.allowed.contains(&piece) {
            peer.allowed.push(piece);
            self.request_more(cx, conn);
        }
        Ok(())
    }

    fn on_extended(&mut self, cx: &mut Cx<'_>, conn: ConnKey, id: u8, payload: &[u8]) -> Verdict {
        let now = cx.now;
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if id == 0 {
            let Ok(theirs) = ExtHandshake::parse(payload) else {
                return Err(breach("extension handshake is not a dictionary"));
            };
            if let Some(reqq) = theirs.reqq {
                peer.reqq = reqq.clamp(1, limits::REQUESTS_OUT as u32);
            }
            if let Some(only) = theirs.upload_only {
                peer.upload_only = only;
            }
            if let Some(id) = theirs.m.get(Ext::UploadOnly) {
                peer.upload_only_id = id;
            }
            let listens = theirs.port.map(|port| SocketAddr::new(peer.addr.ip(), port));
            if let (true, Some(addr)) = (peer.incoming, listens) {
                self.learn_listener(now, conn, cx, addr);
            }
            return self.close_if_useless(cx, conn);
        }
        match Ext::from_id(id) {
            Some(Ext::UploadOnly) => {
                peer.upload_only = wire::parse_upload_only(payload).unwrap_or(peer.upload_only);
                self.close_if_useless(cx, conn)
            }
            Some(Ext::DontHave) => {
                if let Some(piece) = wire::parse_dont_have(payload) {
                    self.on_dont_have(cx, conn, piece);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// An incoming peer says where it listens: that address is the one to remember, and is not
    /// dialled while this connection lasts.
    fn learn_listener(&mut self, now: Instant, conn: ConnKey, cx: &mut Cx<'_>, addr: SocketAddr) {
        self.swarm.add(now, addr, Source::Incoming);
        let Some(tag) = self.swarm.incoming(addr) else { return };
        if self.swarm.conn(tag).is_some() {
            return;
        }
        if let Some(peer) = cx.peer(conn) {
            if let Some(old) = peer.tag.replace(tag) {
                self.swarm.moved(old, conn);
            }
            self.swarm.attach(tag, conn);
        }
    }

    // ---------------------------------------------------------------- asking

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

    fn update_interest(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let Some(peer) = cx.peer(conn) else { return };
        let interested = peer.wanted_pieces > 0;
        if interested != peer.interested {
            peer.interested = interested;
            cx.send(conn, if interested { &Message::Interested } else { &Message::NotInterested });
        }
    }

    /// Fills this peer's pipeline.
    pub(crate) fn request_more(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        if !self.is_active() {
            return;
        }
        let (now, speed) = (cx.now, self.speed(cx, conn));
        let Some(peer) = cx.conns.get_mut(conn).and_then(Conn::peer_mut) else { return };
        let (target, asked) = (peer.target(), peer.asked.len());
        // Ask in batches: one write then carries many requests.
        if !peer.may_ask() || peer.hold_until > now || asked + (target / 8).max(1) > target {
            return;
        }
        let mut picked = std::mem::take(&mut self.picked);
        picked.clear();
        let mine =
            |r: BlockRef| peer.asked.iter().any(|a| a.block.piece == r.piece && a.block.begin == r.block * BLOCK_LEN);
        let pick = Pick {
            conn,
            have: &peer.have,
            count: target - asked,
            speed,
            only: peer.choked.then_some(&peer.allowed[..]),
            suggested: &peer.suggested,
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
                peer.asked.push_back(Asked { block, at: now });
                peer.outbox.push(&Message::Request(block));
            }
            cx.wake(conn);
            cx.touched.push(conn);
        }
        self.picked = picked;
    }

    fn speed(&self, cx: &Cx<'_>, conn: ConnKey) -> Speed {
        let Some(peer) = cx.conns.get(conn).and_then(Conn::peer) else { return Speed::Slow };
        let rate = peer.received.get(cx.now);
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
    pub(super) fn kick_idle(&mut self, cx: &mut Cx<'_>) {
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
        let asked = peer.asked.front().is_some_and(|a| a.block == block) || peer.has_asked(&block);
        if !asked && peer.withdrawn == 0 {
            peer.unasked += 1;
            if peer.unasked > UNASKED_MAX {
                return Err(breach(format!("{UNASKED_MAX} blocks that nobody asked for")));
            }
        }
        let expected = asked || peer.withdrawn > 0;
        let mut keep = false;
        if let (true, Some(r)) = (expected, r) {
            keep = self.picker.missing(r) && (self.picker.lease(r, conn) || self.take_over(cx, r, conn));
        }
        if let Some(peer) = cx.peer(conn) {
            peer.receiving = Some(Receiving { block, dropped: !keep, since: now });
        }
        Ok(())
    }

    /// The connection that is receiving this block has stalled: `conn` goes on in its place.
    fn take_over(&mut self, cx: &mut Cx<'_>, r: BlockRef, conn: ConnKey) -> bool {
        let Some(holder) = self.picker.lease_of(r) else { return false };
        let now = cx.now;
        if let Some(receiving) = cx.peer(holder).and_then(|p| p.receiving.as_mut()) {
            if now - receiving.since < STALLED {
                return false;
            }
            receiving.dropped = true;
        }
        self.picker.unlease(r, holder);
        self.picker.lease(r, conn)
    }

    /// All payload of a block has landed, or was dropped.
    pub(crate) fn on_block(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let dropped = peer.receiving.take().is_none_or(|r| r.dropped);
        if peer.take_asked(&block).is_none() {
            peer.withdrawn = peer.withdrawn.saturating_sub(1);
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
            let shared = self.picker.others(r);
            match self.picker.on_block(r, conn, tag) {
                Taken::Duplicate => self.wasted += u64::from(block.len),
                Taken::Block => {}
                Taken::PieceDone => self.ask_hash(cx, r.piece),
            }
            if shared {
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
            blocks: self.suspects.contains_key(&piece),
        });
    }

    /// End game: whoever else was asked for this block need not send it.
    fn cancel_elsewhere(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: &Block) {
        for i in 0..self.peers.len() {
            let other = self.peers[i];
            let Some(peer) = cx.peer(other).filter(|_| other != conn) else { continue };
            let arriving = peer.receiving.is_some_and(|r| r.block == *block);
            if !arriving && peer.take_asked(block).is_some() {
                peer.withdrawn += 1;
                cx.send(other, &Message::Cancel(*block));
                self.withdraw(other, block);
                self.request_more(cx, other);
            }
        }
    }

    // ---------------------------------------------------------------- pieces

    /// A piece was hashed.
    pub(crate) fn on_hashed(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, ok: bool, blocks: Option<&[[u8; 20]]>) {
        match self.life {
            Life::Checking(_) => self.on_checked(cx, piece, ok),
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
                peer.earned.add(now, len);
            }
        }
    }

    fn on_piece_bad(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, blocks: Option<&[[u8; 20]]>) {
        let size = u64::from(self.layout.piece_size(piece));
        log::warn!("{}: piece {piece} failed its hash", self.meta.name.escape_debug());
        self.wasted += size;
        let senders = self.picker.contributors(piece);
        let sent: Vec<_> =
            (0..self.layout.blocks_in(piece)).map(|block| self.picker.contributor(BlockRef { piece, block })).collect();
        self.picker.on_piece_bad(piece);
        self.mark_pads_of(piece);
        cx.alerts.push_back(Alert::PieceFailed { torrent: self.key, piece });
        if let [only] = senders[..] {
            self.ban(cx, only);
        } else if let Some(digests) = blocks {
            let suspects =
                sent.iter().zip(digests).map(|(tag, d)| (tag.unwrap_or(PeerTag::new(u32::MAX)), *d)).collect();
            self.suspects.insert(piece, suspects);
        }
        self.kick = true;
        self.kick_idle(cx);
    }

    /// The piece has passed: whoever sent another block the last time lied.
    fn convict(&mut self, cx: &mut Cx<'_>, piece: PieceIndex, blocks: Option<&[[u8; 20]]>) {
        let Some(suspects) = self.suspects.remove(&piece) else { return };
        let Some(good) = blocks else { return };
        let mut guilty: Vec<_> =
            suspects.iter().zip(good).filter(|((_, was), is)| was != *is).map(|((t, _), _)| *t).collect();
        guilty.sort_unstable();
        guilty.dedup();
        for tag in guilty {
            self.ban(cx, tag);
        }
    }

    fn ban(&mut self, cx: &mut Cx<'_>, tag: PeerTag) {
        if self.swarm.addr(tag).is_none() {
            return;
        }
        let addr = self.swarm.ban(tag);
        log::warn!("peer {addr}: banned for bad data");
        cx.alerts.push_back(Alert::PeerBanned { torrent: self.key, addr });
        if let Some(conn) = self.swarm.conn(tag) {
            self.close(cx, conn, CloseReason::Banned);
        }
    }

    /// The last wanted piece is here.
    pub(super) fn on_complete(&mut self, cx: &mut Cx<'_>) {
        if self.seeding_since.is_some() {
            return;
        }
        self.seeding_since = Some(cx.now);
        if self.picker.have().is_all() {
            self.tiers.completed(cx.now);
        }
        cx.alerts.push_back(Alert::Finished { torrent: self.key });
        for conn in self.peers.clone() {
            if let Some(id) = cx.peer(conn).map(|p| p.upload_only_id).filter(|id| *id != 0) {
                cx.send(conn, &Message::Extended { id, payload: &[1] });
            }
            if let Err(why) = self.close_if_useless(cx, conn) {
                self.close(cx, conn, why);
            }
        }
        self.announce_due(cx);
        // Soon, not now: who leaves when it is complete saves then.
        self.dirty = true;
        self.save_at = Some(cx.now + SAVE_COMPLETE);
    }

    // ---------------------------------------------------------------- choking and serving

    fn unchoked(&self, cx: &Cx<'_>) -> usize {
        let unchoked = |c: &&ConnKey| cx.conns.get(**c).and_then(Conn::peer).is_some_and(|p| !p.choking);
        self.peers.iter().filter(unchoked).count()
    }

    pub(super) fn rechoke(&mut self, cx: &mut Cx<'_>) {
        let (now, seeding) = (cx.now, self.is_complete());
        let candidate = |&conn: &ConnKey| {
            let p = cx.conns.get(conn).and_then(Conn::peer)?;
            Some(Candidate {
                conn,
                interested: p.wants_us,
                unchoked: !p.choking,
                snubbed: p.snubbed,
                rate: if seeding { p.given.get(now) } else { p.earned.get(now) },
                connected_at: p.since,
                unchoked_at: p.unchoked_at,
                optimistic: p.optimistic,
                uploaded_since_unchoke: p.given_since_unchoke,
                upload_only: p.upload_only || p.is_seed(),
            })
        };
        let mut peers: Vec<_> = self.peers.iter().filter_map(candidate).collect();
        let decisions = self.choker.rechoke(now, seeding, cx.config.unchoke_slots, &mut peers, cx.rng);
        for d in decisions {
            if let Some(p) = cx.peer(d.conn) {
                p.optimistic = d.optimistic;
                match (d.unchoke, p.choking) {
                    (true, true) => self.unchoke(cx, d.conn, d.optimistic),
                    (false, false) => self.choke(cx, d.conn),
                    _ => {}
                }
            }
        }
    }

    fn unchoke(&mut self, cx: &mut Cx<'_>, conn: ConnKey, optimistic: bool) {
        let now = cx.now;
        if let Some(p) = cx.peer(conn) {
            p.choking = false;
            p.optimistic = optimistic;
            p.unchoked_at = now;
            p.given_since_unchoke = 0;
            cx.send(conn, &Message::Unchoke);
        }
    }

    /// Chokes it; requests that are not from its allowed-fast set are rejected (BEP 6) or, without
    /// the fast extension, forgotten (BEP 3).
    fn choke(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let Some(p) = cx.peer(conn) else { return };
        p.choking = true;
        p.optimistic = false;
        p.outbox.push(&Message::Choke);
        let waiting = std::mem::take(&mut p.serving);
        if p.fast {
            for block in waiting {
                if p.granted.contains(&block.piece) {
                    p.serving.push_back(block);
                } else {
                    p.outbox.push(&Message::Reject(block));
                }
            }
        }
        cx.wake(conn);
    }

    /// The socket took payload.
    pub(crate) fn on_sent(&mut self, cx: &mut Cx<'_>, conn: ConnKey, payload: u64) {
        let now = cx.now;
        self.uploaded += payload;
        self.rate_up.add(now, payload);
        if let Some(p) = cx.peer(conn) {
            p.given.add(now, payload);
            p.given_since_unchoke += payload;
        }
        if let (Some(goal), true) = (self.seed_ratio, self.seeding_since.is_some()) {
            let base = if self.downloaded > 0 { self.downloaded } else { self.layout.total() };
            if self.uploaded as f64 >= goal * base as f64 {
                self.check_goal(cx);
            }
        }
    }

    /// Payload came in, verified or not.
    pub(crate) fn on_received(&mut self, now: Instant, payload: u64) {
        self.rate_down.add(now, payload);
    }

    /// A peer's deadline has come. `Err` closes it.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let (now, config) = (cx.now, cx.config);
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if !peer.is_live() {
            return Ok(());
        }
        if now - peer.last_in >= limits::PEER_TIMEOUT {
            return Err(CloseReason::Idle);
        }
        if peer.hold_until != Instant::ZERO && peer.hold_until <= now {
            peer.hold_until = Instant::ZERO;
            self.request_more(cx, conn);
        }
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if !peer.asked.is_empty() && !peer.snubbed && now - peer.last_block >= config.snub_timeout {
            self.snub(cx, conn);
        }
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if now - peer.last_out >= limits::KEEP_ALIVE {
            peer.last_out = now;
            cx.send(conn, &Message::KeepAlive);
        }
        Ok(())
    }

    /// It owes us blocks and sends none: all but one of its requests go to someone else.
    fn snub(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let Some(peer) = cx.peer(conn) else { return };
        log::debug!("peer {}: snubs us", peer.addr);
        peer.snubbed = true;
        peer.stride = 0;
        let keep = peer.asked.pop_front();
        let rest: Vec<Block> = peer.asked.drain(..).map(|a| a.block).collect();
        peer.asked.extend(keep);
        peer.withdrawn += rest.len() as u32;
        for block in rest {
            cx.send(conn, &Message::Cancel(block));
            self.withdraw(conn, &block);
        }
        if let Some(a) = keep {
            // The one that stays may be had from someone else as well.
            self.withdraw(conn, &a.block);
        }
        self.kick_idle(cx);
    }
}
