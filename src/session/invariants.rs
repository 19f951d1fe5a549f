//! What must hold between any two calls, for debug builds and tests.

use super::Session;
use crate::peer::Conn;

impl Session {
    /// Counts everything that is counted along the way anew.
    ///
    /// # Panics
    /// If the session has a bug. O(connections x pieces).
    pub fn invariants(&self) {
        let peers = || self.conns.iter().filter_map(|(_, c)| c.peer());
        assert_eq!(self.stats.peers, peers().filter(|p| p.is_live()).count(), "live peers");
        let half_open = peers().filter(|p| !p.is_live() && !p.incoming).count();
        assert_eq!(self.stats.half_open, half_open, "connection attempts");
        assert_eq!(self.strangers, peers().filter(|p| !p.is_live() && p.incoming).count(), "strangers");
        assert_eq!(self.stats.torrents, self.torrents.len());
        assert_eq!(self.by_hash.len(), self.torrents.len());
        for (key, conn) in self.conns.iter() {
            if let Conn::Peer(p) = conn {
                assert!(p.torrent.is_none_or(|t| self.torrents.get(t).is_some()), "a peer of no torrent: {key:?}");
            }
        }
        for (_, t) in self.torrents.iter() {
            t.invariants(&self.conns);
        }
    }
}
