//! Local service discovery's place in a session, beside the DHT's: which torrents are spoken of, and what becomes of
//! those who speak up.
//!
//! ```text
//!   torrent runs, is not private ─▶ Lsd::seek ─▶ Action::Multicast
//!   Session::handle_multicast ─▶ Lsd::handle ─▶ Torrent::hear, as from peers and trackers
//! ```
//!
//! What came to a group is handed in by a call of its own: the same by any other way is nobody's on this network.
//!
//! [BEP 14](https://www.bittorrent.org/beps/bep_0014.html)

use std::net::SocketAddr;

use super::timers::Timer;
use super::{Action, Session, cx};
use crate::id::TorrentKey;
use crate::time::Instant;
use crate::torrent::swarm::Source;

impl Session {
    /// A torrent may have begun or ceased to look for peers: the DHT and the local network hear of it.
    pub(super) fn follow(&mut self, now: Instant, key: TorrentKey) {
        self.follow_dht(now, key);
        if let (Some(lsd), Some(t)) = (&mut self.lsd, self.torrents.get(key)) {
            if t.wants_peers() && !t.meta.private {
                lsd.seek(now, t.info_hash);
            } else {
                lsd.forget(&t.info_hash);
            }
        }
        self.drive_dht(now);
        self.drive_lsd(now);
    }

    /// A datagram came to one of the groups of [`lan::lsd`](crate::lan::lsd).
    pub fn handle_multicast(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let Some((addr, torrents)) = self.lsd.as_mut().and_then(|lsd| lsd.handle(now, from, data)) else { return };
        for hash in torrents {
            let Some(t) = self.by_hash.get(&hash).and_then(|k| self.torrents.get_mut(*k)) else { continue };
            let key = t.key;
            let mut cx = cx!(self, now);
            if t.hear(&cx, addr, Source::Lsd, Some(addr.ip())) {
                log::debug!("local network: {hash}: {addr} has it too");
                t.tick(&mut cx);
                self.arm(now, key);
            }
        }
        self.dial(now);
    }

    /// The time has come to speak.
    pub(super) fn on_lsd_timer(&mut self, now: Instant, at: Instant) {
        if self.lsd_timer == at {
            self.lsd_timer = Instant::FAR;
            self.drive_lsd(now);
        }
    }

    /// Says what is due.
    pub(super) fn drive_lsd(&mut self, now: Instant) {
        let Some(lsd) = &mut self.lsd else { return };
        while let Some(messages) = lsd.poll(now) {
            self.actions.push_back(Action::Multicast { messages });
        }
        if let Some(at) = lsd.poll_timeout().filter(|at| *at < self.lsd_timer) {
            self.lsd_timer = at;
            self.timers.arm(at, Timer::Lsd);
        }
    }
}
