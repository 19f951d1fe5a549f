//! What a torrent says to its peers, and what it makes of what they say.
//!
//! Method names are the protocol's own words: `on_have` is what happens when a peer says `have`.
//! A method that returns `Err` has found a reason to close that peer; the session does so.
//! What it asks for and takes is in `blocks`, what it gives in `serve`.

use super::*;
use std::net::SocketAddr;

use crate::config::limits;
use crate::wire::{self, Ext, ExtHandshake, Handshake, Message};

/// What we call ourselves to peers (BEP 10 `v`).
const CLIENT: &str = concat!("btmio ", env!("CARGO_PKG_VERSION"));

pub(super) type Verdict = Result<(), CloseReason>;

pub(super) fn breach(what: impl Into<String>) -> CloseReason {
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
            // The end that dialled has to see our answer, or it dials again: an accepted connection
            // waits, and goes no further, until the other end closes it or its time is up.
            return if incoming { Ok(()) } else { Err(CloseReason::Ourselves) };
        }
        if self.swarm.is_banned(&addr) {
            return Err(CloseReason::Banned);
        }
        let inherited = self.settle_duplicate(cx, conn, theirs.peer_id, incoming)?;
        let tag = match inherited.or_else(|| cx.peer(conn).and_then(|p| p.tag)) {
            Some(tag) => tag,
            None => match self.swarm.incoming(addr) {
                None => return Err(CloseReason::TooManyPeers),
                Some(tag) if self.swarm.conn(tag).is_some() => return Err(CloseReason::Duplicate),
                Some(tag) => tag,
            },
        };
        // From here on it counts as live, and nothing may fail.
        let active = self.is_active();
        let pieces = if active { self.layout.pieces() } else { 0 };
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.early = (!active).then(Box::default);
        peer.phase = crate::peer::Phase::Live;
        peer.tag = Some(tag);
        peer.id = Some(theirs.peer_id);
        peer.fast = theirs.reserved.has_fast();
        peer.extended = theirs.reserved.has_extended();
        peer.have = Bitfield::none(pieces);
        peer.decoder.set_bitfield_len(pieces.div_ceil(8) as usize);
        peer.tag = Some(tag);
        if incoming {
            self.swarm.attach(tag, conn);
            *cx.strangers -= 1;
        } else {
            self.connecting -= 1;
            cx.stats.half_open -= 1;
        }
        cx.stats.peers += 1;
        self.peers.push(conn);
        self.swarm.worked(tag);
        let client = wire::client_name(&theirs.peer_id);
        log::debug!("peer {addr}: {client}, {}", if incoming { "dialled us" } else { "dialled" });
        cx.alerts.push_back(Alert::PeerConnected { torrent: self.key, conn, addr, client, incoming });
        self.greet(cx, conn);
        if self.swarm.is_dialable(tag) {
            self.note_change(cx, self.swarm.addr(tag).unwrap_or(addr), true);
        }
        if theirs.reserved.has_dht() && cx.config.dht.is_some() && cx.me.port != 0 && !self.meta.private {
            cx.send(conn, &Message::Port(cx.me.port));
        }
        Ok(())
    }

    /// Two connections to one peer: the one opened by the side with the higher id stays (BEP 3
    /// leaves it open; this is what others do, so that both sides choose the same one). Whichever
    /// stays goes by the address that was dialled, so that it is not dialled again; when that is the
    /// new one, its tag is returned.
    fn settle_duplicate(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnKey,
        id: PeerId,
        incoming: bool,
    ) -> Result<Option<PeerTag>, CloseReason> {
        let twin = self.peers.iter().copied().find(|&c| c != conn && cx.peer(c).is_some_and(|p| p.id == Some(id)));
        let Some(twin) = twin else { return Ok(None) };
        let ours_stays = cx.me.id > id;
        let (twin_incoming, twin_tag) = cx.peer(twin).map_or((false, None), |p| (p.incoming, p.tag));
        if twin_incoming != incoming && ours_stays != incoming {
            self.close(cx, twin, CloseReason::Duplicate);
            return Ok(twin_tag.filter(|_| incoming));
        }
        let dialled = cx.peer(conn).and_then(|p| p.tag).filter(|_| !incoming && twin_incoming);
        if let (Some(tag), Some(old)) = (dialled, twin_tag) {
            if !self.swarm.is_dialable(old) {
                self.swarm.moved(tag, conn);
                self.rename(cx, twin, tag);
            }
        }
        Err(CloseReason::Duplicate)
    }

    /// It has a DHT node at this port (BEP 5).
    fn on_port(&self, cx: &mut Cx<'_>, conn: ConnKey, port: u16) {
        if let Some(addr) = cx.peer(conn).map(|p| p.addr).filter(|_| port != 0 && !self.meta.private) {
            if cx.config.dht.is_some() && cx.dht_nodes.len() < limits::DHT_PORTS {
                cx.dht_nodes.push(SocketAddr::new(addr.ip(), port));
            }
        }
    }

    /// The first messages: extension handshake, what we have, what it may take at once.
    fn greet(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        // Until it trades, what it has is not certain: it is told piece by piece then.
        let (complete, nothing) = (self.is_active() && self.is_complete(), Bitfield::none(0));
        let have = if self.is_active() { self.picker.have() } else { &nothing };
        let (port, metadata_size) = (cx.me.port, self.info_size());
        let all = [Ext::DontHave, Ext::Metadata, Ext::UploadOnly, Ext::Pex];
        let exts = if self.meta.private { &all[..3] } else { &all[..] };
        let Some(peer) = cx.conns.get_mut(conn).and_then(Conn::peer_mut) else { return };
        if peer.extended {
            let ours = wire::OurExt {
                port: (port != 0).then_some(port),
                reqq: Some(limits::REQUESTS_IN as u32),
                yourip: Some(peer.addr.ip().to_canonical()),
                upload_only: complete.then_some(true),
                metadata_size,
                client: Some(CLIENT),
                exts,
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
                    peer.trade.granted.push(piece);
                }
            }
        }
        cx.wake(conn);
    }

    /// There was no network for a while: failures of that time say nothing of trackers and peers.
    pub(crate) fn on_network(&mut self, cx: &mut Cx<'_>) {
        self.tiers.on_network(cx.now);
        self.swarm.revive(cx.now);
        self.dial_after = cx.now;
        self.tick(cx);
    }

    /// Ends a peer connection of this torrent and takes back all it held.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, conn: ConnKey, why: CloseReason) {
        if cx.peer(conn).is_none() {
            return;
        }
        let Some(Conn::Peer(peer)) = cx.conns.remove(conn) else { return };
        log::debug!("peer {}: closed: {why}", peer.addr);
        let live = peer.is_live();
        cx.stats.requests_in -= peer.trade.serving.len();
        match why {
            CloseReason::Protocol(_) => cx.stats.breaches += 1,
            CloseReason::Stuck => cx.stats.stuck += 1,
            CloseReason::Exhausted(_) => cx.stats.exhausted += 1,
            _ => {}
        }
        if live {
            self.peers.retain(|c| *c != conn);
            cx.stats.peers -= 1;
            self.picker.on_peer_gone(&peer.have);
            self.release(conn, &peer);
            if let Life::Fetching(fetch) = &mut self.life {
                fetch.gone(conn);
                self.fetch_more(cx);
            }
            cx.alerts.push_back(Alert::PeerClosed { torrent: self.key, conn, addr: peer.addr, why: why.clone() });
        } else if peer.incoming {
            *cx.strangers -= 1;
        } else {
            self.connecting -= 1;
            cx.stats.half_open -= 1;
        }
        if let Some(addr) = peer.tag.filter(|t| live && self.swarm.is_dialable(*t)).and_then(|t| self.swarm.addr(t)) {
            self.note_change(cx, addr, false);
        }
        if let Some(tag) = peer.tag {
            match why {
                CloseReason::Ourselves | CloseReason::Banned => self.swarm.bar(tag),
                // It may have said that it only uploads before it said that it has everything.
                CloseReason::NothingToTrade => self.swarm.set_seed(tag),
                _ => {}
            }
            match why {
                CloseReason::TorrentStopped | CloseReason::Shutdown => self.swarm.parted(cx.now, tag, conn),
                CloseReason::Exhausted(_) | CloseReason::NoNetwork(_) if !live => {
                    self.swarm.parted(cx.now, tag, conn);
                    self.dial_after = cx.now + EXHAUSTED;
                }
                _ if live => self.swarm.detached(cx.now, tag, conn),
                _ => self.swarm.failed(cx.now, tag, conn),
            }
        }
        cx.actions.push_back(Action::Close { conn, why });
        self.kick_idle(cx);
    }

    /// Its requests and its lease go back to the picker.
    fn release(&mut self, conn: ConnKey, peer: &Peer) {
        for asked in &peer.trade.asked {
            self.withdraw(conn, &asked.block);
        }
        let kept = peer.trade.receiving.filter(|r| !r.dropped);
        if let Some(r) = kept.and_then(|r| self.block_ref(&r.block)) {
            self.picker.unlease(r, conn);
        }
    }

    pub(super) fn withdraw(&mut self, conn: ConnKey, block: &Block) {
        if let Some(r) = self.block_ref(block) {
            self.picker.withdraw(r, conn);
            self.kick = true;
        }
    }

    // ---------------------------------------------------------------- messages

    /// A message came from a live peer.
    pub(crate) fn on_message(&mut self, cx: &mut Cx<'_>, conn: ConnKey, message: &Message<'_>) -> Verdict {
        log::trace!("peer {conn:?}: {message:?}");
        if !self.is_active() {
            return self.on_early(cx, conn, message);
        }
        match *message {
            Message::KeepAlive | Message::Unknown { .. } | Message::Piece { .. } => Ok(()),
            Message::Port(port) => {
                self.on_port(cx, conn, port);
                Ok(())
            }
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
        let now = cx.now;
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.on_choke(now);
        if peer.fast {
            return Ok(()); // each request will be answered or rejected (BEP 6)
        }
        let Some(trade) = peer.trade.made() else { return Ok(()) };
        let asked = std::mem::take(&mut trade.asked);
        trade.withdrawn += asked.len() as u32;
        for a in asked {
            self.withdraw(conn, &a.block);
        }
        Ok(())
    }

    fn on_unchoke(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.choked = false;
        if let Some(trade) = peer.trade.made() {
            trade.hold_until = Instant::ZERO;
        }
        self.request_more(cx, conn);
        Ok(())
    }

    fn on_interested(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        peer.wants_us = true;
        let (choking, last) = (peer.choking, peer.trade.unchoked_at);
        let recent = last != Instant::ZERO && cx.now - last < super::choker::ROUND;
        let in_use = self.unchoked(cx);
        if choking && self.choker.on_interested(cx.now, in_use, cx.config.unchoke_slots, recent) {
            self.unchoke(cx, conn, true);
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
    pub(super) fn close_if_useless(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
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
        peer.have.set(piece);
        self.picker.on_peer_have(piece);
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
        if let Some(early) = &mut peer.early {
            return early.on_lost(piece);
        }
        if piece.get() >= peer.have.len() || !peer.have.get(piece) {
            return;
        }
        peer.have.clear(piece);
        self.picker.on_peer_lost(piece);
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

    fn on_reject(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if !peer.fast {
            return Err(breach("reject without the fast extension"));
        }
        self.on_refused(cx, conn, &block);
        Ok(())
    }

    fn on_suggest(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: PieceIndex) -> Verdict {
        let known = piece.get() < self.layout.pieces();
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if known && peer.trade.suggested.len() < limits::SUGGESTED && !peer.trade.suggested.contains(&piece) {
            peer.trade.suggested.push(piece);
        }
        Ok(())
    }

    fn on_allowed_fast(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: PieceIndex) -> Verdict {
        let known = piece.get() < self.layout.pieces();
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if known && peer.trade.allowed.len() < limits::ALLOWED_FAST_IN && !peer.trade.allowed.contains(&piece) {
            peer.trade.allowed.push(piece);
            self.request_more(cx, conn);
        }
        Ok(())
    }

    pub(super) fn on_extended(&mut self, cx: &mut Cx<'_>, conn: ConnKey, id: u8, payload: &[u8]) -> Verdict {
        let now = cx.now;
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if id == 0 {
            let Ok(theirs) = ExtHandshake::parse(payload) else { return Ok(()) };
            if let Some(reqq) = theirs.reqq {
                peer.reqq = reqq.clamp(1, limits::REQUESTS_OUT as u32);
            }
            if let Some(only) = theirs.upload_only {
                peer.upload_only = only;
            }
            peer.ext.update(&theirs.m);
            peer.info_size = theirs.metadata_size.or(peer.info_size);
            let listens = theirs.port.map(|port| SocketAddr::new(peer.addr.ip(), port));
            if let (true, Some(addr)) = (peer.incoming, listens) {
                self.learn_listener(now, conn, cx, addr);
            }
            self.on_metadata_offer(cx, conn, &theirs);
            self.on_pex_offer(cx, conn);
            return self.close_if_useless(cx, conn);
        }
        match Ext::from_id(id) {
            Some(Ext::UploadOnly) => {
                peer.upload_only = wire::parse_upload_only(payload).unwrap_or(peer.upload_only);
                self.close_if_useless(cx, conn)
            }
            Some(Ext::Metadata) => self.on_metadata(cx, conn, payload),
            Some(Ext::Pex) => self.on_pex(cx, conn, payload),
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
    /// dialled while this connection lasts. It may say so once.
    fn learn_listener(&mut self, now: Instant, conn: ConnKey, cx: &mut Cx<'_>, addr: SocketAddr) {
        let knows = cx.peer(conn).and_then(|p| p.tag).is_some_and(|tag| self.swarm.is_dialable(tag));
        if knows || self.swarm.is_connected(&addr) {
            return;
        }
        self.swarm.add(now, addr, Source::Incoming);
        if let Some(tag) = self.swarm.incoming(addr) {
            self.rename(cx, conn, tag);
            self.note_change(cx, addr, true);
        }
    }

    /// The connection goes by this address from now on.
    fn rename(&mut self, cx: &mut Cx<'_>, conn: ConnKey, tag: PeerTag) {
        let Some(peer) = cx.peer(conn) else { return };
        if let Some(old) = peer.tag.replace(tag) {
            self.swarm.moved(old, conn);
        }
        self.swarm.attach(tag, conn);
        if peer.is_seed() {
            self.swarm.set_seed(tag);
        }
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
        self.tell_peers(cx, conn);
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if peer.trade.hold_until != Instant::ZERO && peer.trade.hold_until <= now {
            peer.trade.hold_until = Instant::ZERO;
            self.request_more(cx, conn);
        }
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if !peer.trade.asked.is_empty() && !peer.snubbed && now - peer.last_block >= config.snub_timeout {
            self.snub(cx, conn);
        }
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if now >= peer.keep_alive_at() {
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
        let keep = peer.trade.asked.pop_front();
        let rest: Vec<Block> = peer.trade.asked.drain(..).map(|a| a.block).collect();
        peer.trade.asked.extend(keep);
        peer.trade.withdrawn += rest.len() as u32;
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
