//! A torrent that does not know yet what it is, and what it tells others about what it is (BEP 9, 10).
//!
//! ```text
//! Fetching: peers join, and their accounts of their pieces are kept as they came (`peer::Early`)
//!    │  the info dictionary is complete, and its hash is right
//!    ▼
//! Opening, Checking: the same peers wait
//!    │
//!    ▼
//! Active: their accounts are checked against the number of pieces, and trading begins
//! ```
//!
//! So whoever gave the metadata gives the data next, over the same connection. A private torrent (BEP 27)
//! keeps only those peers that its trackers or the user named, or that dialled us.
//!
//! Which pieces of the dictionary are asked of whom, and who is to blame for a bad one, is decided by
//! [`Fetch`]. Others are given pieces of ours on demand, a few at a time: they wait in
//! [`Peer::info_wanted`] until the socket has room. A private torrent's dictionary is not given away, which is what
//! others do too.

use super::exchange::{Verdict, breach};
use super::fetch::Got;
use super::*;
use crate::config::limits;
use crate::peer::Early;
use crate::wire::metadata::{PIECE, piece_len, pieces};
use crate::wire::{self, Ext, ExtHandshake, Message, Metadata};

/// Info pieces given to one peer: the whole dictionary so many times, and [`GIVEN_MORE`].
const GIVEN_TIMES: u32 = 4;
const GIVEN_MORE: u32 = 16;
/// More pieces than this are not told one by one to peers that joined before we knew that we have them.
const HAVES: u32 = 2000;
/// Suggested and allowed-fast pieces that are remembered meanwhile (BEP 6).
const EARLY_FAST: usize = 16;

impl Torrent {
    /// Its files and pieces are known.
    pub fn is_known(&self) -> bool {
        self.meta.is_known()
    }

    /// Bytes of the info dictionary, if it may be given away.
    pub(super) fn info_size(&self) -> Option<u32> {
        u32::try_from(self.meta.info.len()).ok().filter(|n| *n > 0 && !self.meta.private)
    }

    // ---------------------------------------------------------------- peers that wait

    /// A message from a peer of a torrent that does not trade yet.
    pub(super) fn on_early(&mut self, cx: &mut Cx<'_>, conn: ConnKey, message: &Message<'_>) -> Verdict {
        let now = cx.now;
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let early = peer.early.get_or_insert_default();
        match *message {
            Message::Bitfield(bits) => early.on_bitfield(bits),
            Message::HaveAll => early.on_all(true),
            Message::HaveNone => early.on_all(false),
            Message::Have(piece) if !early.on_have(piece) => return Err(breach(format!("have {piece}"))),
            Message::Choke => peer.on_choke(now),
            Message::Unchoke => peer.choked = false,
            Message::Interested => peer.wants_us = true,
            Message::NotInterested => peer.wants_us = false,
            Message::Request(block) if peer.fast => cx.send(conn, &Message::Reject(block)),
            Message::Suggest(piece) if peer.trade.suggested.len() < EARLY_FAST => peer.trade.suggested.push(piece),
            Message::AllowedFast(piece) if peer.trade.allowed.len() < EARLY_FAST => peer.trade.allowed.push(piece),
            Message::Extended { id, payload } => return self.on_extended(cx, conn, id, payload),
            _ => {}
        }
        Ok(())
    }

    /// The torrent trades now: peers that have waited join in.
    pub(super) fn adopt_all(&mut self, cx: &mut Cx<'_>) {
        for conn in self.peers.clone() {
            if let Err(why) = self.adopt(cx, conn) {
                self.close(cx, conn, why);
            }
        }
    }

    fn adopt(&mut self, cx: &mut Cx<'_>, conn: ConnKey) -> Verdict {
        let pieces = self.layout.pieces();
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let Some(early) = peer.early.take() else { return Ok(()) };
        peer.have = Bitfield::none(pieces);
        peer.decoder.set_bitfield_len(pieces.div_ceil(8) as usize);
        peer.have_known = *early != Early::default();
        let have = early.settle(pieces).map_err(|e| breach(format!("what it has: {e}")))?;
        if let Some(trade) = peer.trade.made() {
            trade.allowed.retain(|p| p.get() < pieces);
            trade.suggested.retain(|p| p.get() < pieces);
        }
        self.picker.on_peer_bitfield(&have);
        peer.have = have;
        let (seed, tag) = (peer.is_seed(), peer.tag);
        if let (true, Some(tag)) = (seed, tag) {
            self.swarm.set_seed(tag);
        }
        self.close_if_useless(cx, conn)?;
        self.on_pex_offer(cx, conn);
        let ours = self.picker.have();
        if ours.count() > HAVES {
            // It has been told that we have nothing; a new connection says it shorter.
            return Err(CloseReason::TorrentStopped);
        }
        for piece in ours.iter_set().collect::<Vec<_>>() {
            cx.send(conn, &Message::Have(piece));
        }
        self.recount_wanted(cx, conn);
        self.request_more(cx, conn);
        Ok(())
    }

    // ---------------------------------------------------------------- asking

    /// A peer's extension handshake: it may give metadata.
    pub(super) fn on_metadata_offer(&mut self, cx: &mut Cx<'_>, conn: ConnKey, theirs: &ExtHandshake) {
        let Life::Fetching(fetch) = &mut self.life else { return };
        let Some(peer) = cx.peer(conn) else { return };
        if let (Some(_), Some(tag)) = (peer.ext.get(Ext::Metadata), peer.tag) {
            fetch.on_size(conn, tag, theirs.metadata_size);
            self.fetch_more(cx);
        }
    }

    /// Sends the requests that are to be made now.
    pub(super) fn fetch_more(&mut self, cx: &mut Cx<'_>) {
        let Life::Fetching(fetch) = &mut self.life else { return };
        while let Some((conn, piece)) = fetch.next(cx.now, cx.rng) {
            let Some(id) = cx.peer(conn).and_then(|p| p.ext.get(Ext::Metadata)) else { continue };
            cx.send(conn, &Message::Extended { id, payload: &Metadata::Request { piece }.encode() });
        }
    }

    pub(super) fn on_metadata(&mut self, cx: &mut Cx<'_>, conn: ConnKey, payload: &[u8]) -> Verdict {
        match Metadata::parse(payload) {
            Some(Metadata::Request { piece }) => return self.on_info_request(cx, conn, piece),
            Some(Metadata::Data { piece, total, data }) => {
                let Life::Fetching(fetch) = &mut self.life else { return Ok(()) };
                match fetch.on_data(cx.now, conn, piece, total, data) {
                    Got::Nothing => {}
                    Got::Bad(what) => return Err(breach(what)),
                    Got::Complete(info) => self.on_info(cx, &info),
                    Got::Mixed => log::warn!("{}: metadata failed its hash", self.meta.name.escape_debug()),
                    Got::Guilty(tag) => {
                        log::warn!("{}: metadata failed its hash", self.meta.name.escape_debug());
                        self.ban(cx, tag);
                    }
                }
                self.fetch_more(cx);
            }
            Some(Metadata::Reject { piece }) => {
                if let Life::Fetching(fetch) = &mut self.life {
                    fetch.on_reject(cx.now, conn, piece, cx.rng);
                    self.fetch_more(cx);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// The info dictionary is here.
    fn on_info(&mut self, cx: &mut Cx<'_>, info: &[u8]) {
        if let Err(e) = self.meta.learn(info) {
            return self.fail(cx, e.to_string(), ErrorKind::Metadata);
        }
        self.set_up(cx);
        log::info!("{}: metadata of {} bytes is here", self.meta.name.escape_debug(), info.len());
        cx.actions.push_back(Action::SaveMetadata { torrent: self.key, info_hash: self.info_hash });
        cx.alerts.push_back(Alert::Metadata { torrent: self.key });
        if self.metadata_only {
            self.paused = true;
            return self.stop(cx, None, CloseReason::TorrentStopped);
        }
        if self.meta.private {
            self.keep_to_trackers(cx);
        }
        // Those that lack it too can have it from us now.
        let size = self.info_size();
        for &conn in &self.peers {
            let lacks = |p: &Peer| p.extended && p.info_size.is_none() && p.ext.get(Ext::Metadata).is_some();
            if size.is_some() && cx.conns.get(conn).and_then(Conn::peer).is_some_and(lacks) {
                let news = wire::OurExt { exts: &[Ext::Metadata], metadata_size: size, ..Default::default() };
                cx.send(conn, &Message::Extended { id: 0, payload: &wire::encode_ext(&news) });
            }
        }
        self.open(cx);
    }

    /// It has turned out to be private: whoever was found by other ways is left alone from now on.
    fn keep_to_trackers(&mut self, cx: &mut Cx<'_>) {
        for conn in self.swarm.hearsay() {
            self.close(cx, conn, CloseReason::TorrentStopped);
        }
        self.swarm.forget_hearsay();
    }

    // ---------------------------------------------------------------- giving

    /// A peer asks for a piece of the info dictionary.
    fn on_info_request(&mut self, cx: &mut Cx<'_>, conn: ConnKey, piece: u32) -> Verdict {
        let size = self.info_size();
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let Some(id) = peer.ext.get(Ext::Metadata) else { return Ok(()) };
        let enough = |all| peer.trade.info_given >= GIVEN_TIMES * all + GIVEN_MORE;
        let full = peer.trade.info_wanted.len() >= limits::METADATA_REQUESTS;
        match size {
            Some(size) if piece < pieces(size) && !full && !enough(pieces(size)) => {
                peer.trade.info_wanted.push_back(piece);
                peer.trade.info_given += 1;
                cx.wake(conn);
            }
            _ => cx.send(conn, &Message::Extended { id, payload: &Metadata::Reject { piece }.encode() }),
        }
        Ok(())
    }

    /// The next piece of the info dictionary that a peer waits for, as a message.
    pub(crate) fn info_message(&self, peer: &mut Peer) {
        let wanted = peer.trade.made().and_then(|t| t.info_wanted.pop_front());
        let (Some(piece), Some(id)) = (wanted, peer.ext.get(Ext::Metadata)) else { return };
        let Some(size) = self.info_size() else { return };
        let from = (piece * PIECE) as usize;
        let data = &self.meta.info[from..from + piece_len(size, piece) as usize];
        let payload = Metadata::Data { piece, total: Some(size), data }.encode();
        peer.outbox.push(&Message::Extended { id, payload: &payload });
    }
}
