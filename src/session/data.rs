//! The data plane: where the next bytes of a connection belong, and which bytes to send next.
//!
//! Payload never passes through here; it is named by place. Receiving has two ways. On the scratch
//! path the driver reads into its own buffer and hands the bytes to [`Session::feed`], which stops
//! where a block begins. On the predicted path [`Session::want`] names a run of blocks that were
//! asked for and are expected next, in order; the driver reads header and payload alike straight
//! to their places with one call and reports with [`Session::filled`], where each header is
//! compared with the prediction. At the first that differs it stops: the bytes behind it lie in
//! places that were leased to nobody and not yet received, so they harm nothing, and the driver
//! feeds them like any other.

use super::{Action, CloseReason, Session, Want, cx};
use crate::config::limits;
use crate::id::{BLOCK_LEN, Block, ConnKey};
use crate::peer::{Chunk, Conn, Peer, Phase};
use crate::time::Instant;
use crate::torrent::Torrent;
use crate::wire::{self, Event, Handshake, HandshakeEvent, PIECE_HEADER_LEN};

/// Pieces of the info dictionary are moved to a peer's outbox while less than this waits there.
const OUTBOX_INFO: usize = 32 << 10;

/// What [`Session::feed`] found when it stopped.
enum Step {
    /// So many bytes were used; go on.
    Go(usize),
    /// A block begins: its payload goes to its place.
    Place,
    /// The connection is gone.
    Gone,
}

impl Session {
    /// Where the next bytes of `conn` belong. `run` is the driver's, and is filled for
    /// [`Want::Payload`].
    pub fn want<'r>(&mut self, now: Instant, conn: ConnKey, run: &'r mut Vec<Block>) -> Want<'r> {
        run.clear();
        let Some(Conn::Peer(peer)) = self.conns.get(conn) else { return Want::Bytes };
        if !peer.is_live() {
            return Want::Bytes;
        }
        if self.down.rate().is_some() {
            let ready = self.down.ready_at(now, u64::from(BLOCK_LEN));
            if !self.down_turns.may(now, conn) || self.down.available(now) == 0 {
                return Want::Nothing { until: self.down_turns.wait(now, conn, ready) };
            }
        }
        let max = self.room(now, conn);
        if self.down_turns.others(conn) > 0 {
            self.down_turns.yield_to_others(now, conn, now);
        }
        let torrent = match peer.torrent.and_then(|k| self.torrents.get(k)) {
            Some(t) => t,
            None => return Want::Bytes,
        };
        let (at, at_header) = match peer.decoder.want() {
            wire::Want::Payload { block, at } => {
                if peer.trade.receiving.is_some_and(|r| r.dropped) {
                    return Want::Discard { left: block.len - at };
                }
                run.push(block);
                (at, false)
            }
            wire::Want::Bytes if peer.stride > 0 && peer.decoder.at_boundary() => (0, true),
            wire::Want::Bytes => return Want::Bytes,
        };
        predict(torrent, peer, conn, run, max);
        if run.is_empty() {
            return Want::Bytes;
        }
        Want::Payload { torrent: torrent.key, run, at, at_header, max }
    }

    /// The torrent that `conn` owes payload to, as far as it was asked for.
    pub fn owing(&self, conn: ConnKey) -> Option<crate::id::TorrentKey> {
        let peer = self.conns.get(conn)?.peer()?;
        if peer.trade.asked.is_empty() && peer.trade.receiving.is_none() { None } else { peer.torrent }
    }

    /// A disk that is behind keeps `conn` from being read: that is not the peer's fault.
    pub fn hold(&mut self, now: Instant, conn: ConnKey) {
        if let Some(Conn::Peer(p)) = self.conns.get_mut(conn) {
            (p.last_in, p.last_block) = (now, now);
        }
    }

    /// How many bytes one read may bring now: a share of what the limit allows, if there is one.
    pub fn room(&self, now: Instant, conn: ConnKey) -> usize {
        let budget = usize::try_from(self.down.available(now)).unwrap_or(usize::MAX);
        match self.down_turns.others(conn) {
            0 => budget,
            n => budget.min((budget / (n + 1)).max(BLOCK_LEN as usize + PIECE_HEADER_LEN)),
        }
    }

    /// The block whose payload comes next and has a place, and how much of it has come.
    pub fn placing(&self, conn: ConnKey) -> Option<(crate::id::TorrentKey, Block, u32)> {
        let peer = self.conns.get(conn)?.peer()?;
        match peer.decoder.want() {
            wire::Want::Payload { block, at } if !peer.trade.receiving.is_some_and(|r| r.dropped) => {
                Some((peer.torrent?, block, at))
            }
            _ => None,
        }
    }

    /// Bytes were read into scratch. Uses up all of them, or all up to where the payload of a
    /// block begins that [`Session::want`] has a place for; returns how many were used.
    pub fn feed(&mut self, now: Instant, conn: ConnKey, input: &[u8]) -> usize {
        let mut used = 0;
        match self.conns.get_mut(conn) {
            Some(Conn::Peer(p)) => p.last_in = now,
            Some(Conn::Tracker(_)) => {
                self.feed_tracker(now, conn, input);
                self.dial(now);
                return input.len();
            }
            None => return input.len(),
        }
        while used < input.len() {
            match self.feed_some(now, conn, &input[used..]) {
                Step::Go(n) => used += n,
                Step::Place => break,
                Step::Gone => used = input.len(),
            }
        }
        self.relieve(now, conn);
        self.kick(now, conn);
        if !self.dht_nodes.is_empty() {
            self.drive_dht(now);
        }
        used
    }

    /// Blocks that came free while a read was handled go to whoever has room, once a read.
    fn kick(&mut self, now: Instant, conn: ConnKey) {
        let key = self.conns.get(conn).and_then(Conn::peer).and_then(|p| p.torrent);
        if let Some(t) = key.and_then(|k| self.torrents.get_mut(k)) {
            t.kick_idle(&mut cx!(self, now));
        }
        self.arm_touched(now);
        self.dial(now);
    }

    fn feed_some(&mut self, now: Instant, conn: ConnKey, input: &[u8]) -> Step {
        let Some(Conn::Peer(peer)) = self.conns.get_mut(conn) else { return Step::Gone };
        if !peer.is_live() {
            return self.feed_handshake(now, conn, input);
        }
        if let wire::Want::Payload { block, at } = peer.decoder.want() {
            if !peer.trade.receiving.is_some_and(|r| r.dropped) {
                return Step::Place;
            }
            let n = input.len().min((block.len - at) as usize);
            self.payload(now, conn, n as u32);
            return Step::Go(n);
        }
        let Some(torrent) = peer.torrent.and_then(|k| self.torrents.get_mut(k)) else { return Step::Gone };
        // The decoder is taken out while its event, which may borrow from it, is handled.
        let mut decoder = std::mem::take(&mut peer.decoder);
        let mut cx = cx!(self, now);
        let (used, mut verdict) = match decoder.feed(input) {
            Err(e) => (0, Err(CloseReason::Protocol(e.to_string()))),
            Ok((n, None)) => (n, Ok(())),
            Ok((n, Some(Event::Message(m)))) => (n, torrent.on_message(&mut cx, conn, &m)),
            Ok((n, Some(Event::BlockStart(b)))) => (n, torrent.on_block_start(&mut cx, conn, b)),
        };
        let key = torrent.key;
        if let Some(Conn::Peer(peer)) = self.conns.get_mut(conn) {
            peer.decoder = decoder;
            // Whatever it is that makes us answer: one that reads none of the answers is not worth the memory.
            if verdict.is_ok() && peer.is_stuck() {
                verdict = Err(CloseReason::Stuck);
            }
        }
        if let Err(why) = verdict {
            self.close(now, conn, why);
        }
        self.arm(now, key);
        if self.conns.get(conn).is_none() { Step::Gone } else { Step::Go(used) }
    }

    fn feed_handshake(&mut self, now: Instant, conn: ConnKey, input: &[u8]) -> Step {
        let Some(Conn::Peer(peer)) = self.conns.get_mut(conn) else { return Step::Gone };
        let Phase::Handshake(reader) = &mut peer.phase else { return Step::Gone };
        let (used, verdict) = match reader.feed(input) {
            Err(e) => (0, Err(CloseReason::Protocol(e.to_string()))),
            // Behind a complete handshake that led nowhere.
            Ok((0, None)) => (input.len(), Ok(())),
            Ok((n, None)) => (n, Ok(())),
            Ok((n, Some(HandshakeEvent::InfoHash(_, hash)))) => (n, self.on_info_hash(conn, &hash)),
            Ok((n, Some(HandshakeEvent::Done(theirs)))) => {
                let key = peer.torrent;
                let verdict =
                    self.make_room(now, conn).and_then(|()| match key.and_then(|k| self.torrents.get_mut(k)) {
                        Some(t) if t.info_hash == theirs.info_hash => {
                            t.on_handshake(&mut cx!(self, now), conn, &theirs)
                        }
                        _ => Err(CloseReason::UnknownInfoHash),
                    });
                if let Some(key) = key {
                    self.arm(now, key);
                }
                (n, verdict)
            }
        };
        if let Err(why) = verdict {
            self.close(now, conn, why);
            return Step::Gone;
        }
        self.arm_conn(now, conn);
        Step::Go(used)
    }

    /// The first 48 bytes are in: an incoming peer is answered.
    fn on_info_hash(&mut self, conn: ConnKey, hash: &crate::id::InfoHash) -> Result<(), CloseReason> {
        let Some(Conn::Peer(peer)) = self.conns.get_mut(conn) else { return Ok(()) };
        if !peer.incoming {
            return Ok(());
        }
        let torrent = self.by_hash.get(hash).and_then(|k| self.torrents.get(*k));
        let Some(torrent) = torrent.filter(|t| t.wants_peers()) else { return Err(CloseReason::UnknownInfoHash) };
        peer.torrent = Some(torrent.key);
        peer.outbox.push_bytes(&wire::encode_handshake(&Handshake {
            reserved: wire::Reserved::ours().with_dht(self.dht.is_some()),
            info_hash: *hash,
            peer_id: self.me.id,
        }));
        self.actions.push_back(Action::Wake { conn });
        Ok(())
    }

    /// `n` bytes were read where [`Session::want`] said: to the places of `run`, and the header in
    /// front of each predicted block to `headers`. Returns how many of them were as predicted; the
    /// driver takes the rest from those places and feeds it.
    pub fn filled(
        &mut self,
        now: Instant,
        conn: ConnKey,
        n: usize,
        run: &[Block],
        at_header: bool,
        headers: &[[u8; PIECE_HEADER_LEN]],
    ) -> usize {
        let mut used = 0;
        if let Some(Conn::Peer(p)) = self.conns.get_mut(conn) {
            p.last_in = now;
        }
        let mut headers = headers.iter();
        for (i, block) in run.iter().enumerate() {
            if i > 0 || at_header {
                let Some(header) = headers.next() else { break };
                let got = (n - used).min(PIECE_HEADER_LEN);
                if got == 0 || header[..got] != wire::piece_header(block)[..got] {
                    break;
                }
                if got < PIECE_HEADER_LEN || !self.begin(now, conn, *block) {
                    break; // an incomplete header is fed like any other bytes
                }
                used += PIECE_HEADER_LEN;
            }
            let Some(Conn::Peer(p)) = self.conns.get(conn) else { return n };
            let wire::Want::Payload { at, .. } = p.decoder.want() else { break };
            let take = (n - used).min((block.len - at) as usize);
            self.payload(now, conn, take as u32);
            used += take;
            if self.conns.get(conn).is_none() {
                return n;
            }
        }
        self.kick(now, conn);
        used
    }

    /// A predicted header has come. False: its payload has no place after all.
    fn begin(&mut self, now: Instant, conn: ConnKey, block: Block) -> bool {
        let Some(Conn::Peer(peer)) = self.conns.get_mut(conn) else { return false };
        let Some(t) = peer.torrent.and_then(|k| self.torrents.get_mut(k)) else { return false };
        peer.decoder.begin_block(block);
        let verdict = t.on_block_start(&mut cx!(self, now), conn, block);
        debug_assert!(verdict.is_ok(), "a predicted block was asked for");
        true
    }

    /// `n` payload bytes landed, or were dropped.
    fn payload(&mut self, now: Instant, conn: ConnKey, n: u32) {
        let Some(Conn::Peer(peer)) = self.conns.get_mut(conn) else { return };
        let done = peer.decoder.filled(n);
        peer.on_payload(now, u64::from(n), u32::from(done.is_some()), &self.config);
        self.down.take(now, u64::from(n));
        self.rates.0.add(now, u64::from(n));
        self.stats.received += u64::from(n);
        let Some(t) = peer.torrent.and_then(|k| self.torrents.get_mut(k)) else { return };
        t.on_received(now, u64::from(n));
        if let Some(block) = done {
            let verdict = t.on_block(&mut cx!(self, now), conn, block);
            if let Err(why) = verdict {
                self.close(now, conn, why);
            }
        }
    }

    /// The driver tells how its last read went: `asked` bytes of room, `got` bytes. A peer that
    /// fills what it is offered is offered more; one that does not goes back to the scratch path.
    pub fn pace(&mut self, conn: ConnKey, asked: usize, got: usize) {
        if got < asked {
            self.down_turns.forget(conn); // there is no more
        }
        if !self.config.predict {
            return;
        }
        let Some(Conn::Peer(p)) = self.conns.get_mut(conn) else { return };
        p.stride = match p.stride {
            0 if got >= asked => 4,
            // Whole blocks come one at a time: they need no copy either.
            0 if got >= crate::id::BLOCK_LEN as usize => 1,
            0 => 0,
            s if got >= asked => (s * 2).min(self.config.stride),
            s if got * 4 < asked => s / 2,
            s => s,
        };
    }

    // ---------------------------------------------------------------- sending

    /// Moves what the peer has asked for into its outbox, as far as the limits allow. Returns when
    /// to try again if a limit held something back.
    pub fn offer(&mut self, now: Instant, conn: ConnKey) -> Option<Instant> {
        let Some(Conn::Peer(p)) = self.conns.get_mut(conn) else { return None };
        // Metadata is little, and whoever waits for it has nothing to give before.
        if let Some(t) = p.torrent.and_then(|k| self.torrents.get(k)) {
            while !p.trade.info_wanted.is_empty() && p.outbox.control_len() < OUTBOX_INFO {
                t.info_message(p);
            }
        }
        let limited = self.up.rate().is_some();
        while let Some(block) = p.trade.serving.front().copied() {
            if p.outbox.payload_len() >= limits::OUTBOX_PAYLOAD {
                break;
            }
            if limited && (!self.up_turns.may(now, conn) || self.up.available(now) == 0) {
                let ready = self.up.ready_at(now, u64::from(block.len));
                return Some(self.up_turns.wait(now, conn, ready));
            }
            self.up.take(now, u64::from(block.len));
            p.trade.serving.pop_front();
            self.stats.requests_in -= 1;
            p.outbox.push_block(block);
            if limited && self.up_turns.others(conn) > 0 {
                return Some(self.up_turns.yield_to_others(now, conn, now));
            }
        }
        self.up_turns.forget(conn);
        None
    }

    /// What to send on `conn`, in order.
    pub fn chunks(&self, conn: ConnKey) -> impl Iterator<Item = Chunk<'_>> {
        let (outbox, torrent) = match self.conns.get(conn) {
            Some(Conn::Peer(p)) => (Some(&*p.outbox), p.torrent),
            Some(Conn::Tracker(t)) => (Some(&t.outbox), Some(t.torrent)),
            None => (None, None),
        };
        let torrent = torrent.unwrap_or(crate::id::TorrentKey::new(u32::MAX, 0));
        outbox.into_iter().flat_map(move |o| o.chunks(torrent))
    }

    /// Something waits to be sent.
    pub fn has_output(&self, conn: ConnKey) -> bool {
        match self.conns.get(conn) {
            Some(Conn::Peer(p)) => {
                !p.outbox.is_empty() || !p.trade.serving.is_empty() || !p.trade.info_wanted.is_empty()
            }
            Some(Conn::Tracker(t)) => !t.outbox.is_empty(),
            None => false,
        }
    }

    /// The socket took `n` bytes of what [`Session::chunks`] offered.
    pub fn sent(&mut self, now: Instant, conn: ConnKey, n: usize) {
        match self.conns.get_mut(conn) {
            Some(Conn::Peer(p)) => {
                p.last_out = now;
                let sent = p.outbox.sent(n);
                if !p.interested && !p.wants_us {
                    p.trim();
                }
                if sent.payload > 0 {
                    self.stats.sent += sent.payload;
                    self.rates.1.add(now, sent.payload);
                    self.with_torrent(now, conn, |t, cx| {
                        t.on_sent(cx, conn, sent.payload);
                        Ok(())
                    });
                }
            }
            Some(Conn::Tracker(t)) => {
                t.outbox.sent(n);
            }
            None => {}
        }
    }

    /// A block could not be read for sending.
    pub fn unreadable(&mut self, now: Instant, conn: ConnKey) {
        self.close(now, conn, CloseReason::Disk);
    }
}

/// The blocks expected behind the one that is arriving: what was asked for, in order, as long as
/// each is still wanted and nobody else is receiving it.
fn predict(t: &Torrent, peer: &Peer, conn: ConnKey, run: &mut Vec<Block>, max: usize) {
    let mut bytes = run.first().map_or(0, |b| b.len as usize);
    let under_way = run.first().copied();
    for asked in &peer.trade.asked {
        if run.len() > peer.stride.max(1) || run.len() >= limits::RUN || bytes >= max {
            return;
        }
        if Some(asked.block) == under_way {
            continue;
        }
        let free = t
            .block_ref(&asked.block)
            .is_some_and(|r| t.picker.missing(r) && t.picker.lease_of(r).is_none_or(|c| c == conn));
        if peer.stride == 0 || !free {
            return;
        }
        bytes += asked.block.len as usize;
        run.push(asked.block);
    }
}
