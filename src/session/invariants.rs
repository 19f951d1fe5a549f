//! What must hold between calls: counters agree with what they count, everything keeps its limit.

use super::Session;
use crate::bitfield::Bitfield;
use crate::config::limits;
use crate::id::TorrentKey;
use crate::peer::{Chunk, Conn};

impl Session {
    /// The pieces of a torrent that are verified.
    pub fn have(&self, key: TorrentKey) -> Option<&Bitfield> {
        self.torrents.get(key).map(|t| t.picker.have())
    }

    /// Checks counters, limits and cross references of all connections and torrents.
    ///
    /// # Panics
    /// If the session has a bug. O(everything): for tests, the simulator and debug builds.
    pub fn invariants(&self) {
        let (mut live, mut strangers, mut dialled, mut waiting, mut held) = (0, 0, 0, 0, 0);
        for (_, conn) in self.conns.iter() {
            let Conn::Peer(p) = conn else { continue };
            assert!(p.torrent.is_none_or(|t| self.torrents.get(t).is_some()), "a peer of no torrent: {}", p.addr);
            live += usize::from(p.is_live());
            strangers += usize::from(p.incoming && !p.is_live());
            dialled += usize::from(!p.incoming && !p.is_live());
            waiting += p.trade.serving.len();
            assert!(p.trade.asked.len() <= limits::REQUESTS_OUT, "{} requests out", p.trade.asked.len());
            assert!(p.trade.serving.len() <= limits::REQUESTS_IN, "{} requests in", p.trade.serving.len());
            let control = p.outbox.control_len();
            assert!(control <= 2 * limits::OUTBOX, "{control} control bytes wait for {}", p.addr);
            held += p.waiting();
            if p.is_live() {
                let t = p.torrent.and_then(|k| self.torrents.get(k)).expect("a live peer has a torrent");
                assert_eq!(p.have.len(), if t.is_active() { t.layout.pieces() } else { 0 });
                assert!(p.trade.info_wanted.len() <= limits::METADATA_REQUESTS);
                let queued = p.outbox.chunks(t.key).filter_map(|c| match c {
                    Chunk::Block { block, .. } => Some(block),
                    Chunk::Bytes(_) => None,
                });
                for block in queued.chain(p.trade.serving.iter().copied()) {
                    assert!(t.picker.have().get(block.piece), "{block:?} is to be given to {} and not had", p.addr);
                }
            }
        }
        assert!(held <= self.config.outbox_total + limits::OUTBOX, "{held} bytes wait");
        assert_eq!(self.stats.peers, live);
        assert_eq!(self.stats.half_open, dialled);
        assert_eq!(self.strangers, strangers);
        assert!(waiting <= self.config.requests_in_total, "{waiting} requests in");
        assert_eq!(self.stats.requests_in, waiting);
        assert!(strangers <= self.config.max_strangers, "{strangers} strangers");
        assert!(live <= self.config.max_peers, "{live} peers");
        assert!(dialled <= self.config.half_open, "{dialled} half open");
        for (key, t) in self.torrents.iter() {
            assert_eq!(t.key, key);
            assert!(t.swarm.len() <= t.swarm.most());
            assert!(t.peers.len() <= self.config.max_peers_torrent.max(1), "{} peers", t.peers.len());
            t.invariants(&self.conns);
        }
        assert_eq!(self.stats.torrents, self.torrents.len());
        assert_eq!(self.by_hash.len(), self.torrents.len());
    }
}
