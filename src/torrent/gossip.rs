//! Peers that tell each other of peers (BEP 11), and which addresses are believed, from whom.
//!
//! ```text
//! a peer joins or leaves ──▶ log of the last changes ──▶ each peer is told what is new to it, at most once a minute
//!                                                         and [`TOLD`] addresses of a kind; at first, who is here
//! ```
//!
//! Only peers that are connected and accept connections are told of, never in a private torrent (BEP 27), and those
//! on a local network not to others that are elsewhere.
//!
//! What we are told is hearsay: of one message [`TOLD`] addresses are taken, of a peer one message a minute. An
//! address further out than where the news came from is fine, one nearer is not: who is out on the internet
//! knows nothing of our own network, nor does a tracker there. Ports below 1024 are no peers', and how
//! many addresses of one network are taken on hearsay has a limit, so that nobody is attacked through us.
//!
//! Not here: the messages ([`wire::pex`](crate::wire::pex)), when addresses are dialled ([`Swarm`]).
//!
//! [BEP 11](https://www.bittorrent.org/beps/bep_0011.html)

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::exchange::{Verdict, breach};
use super::swarm::normal;
use super::*;
use crate::config::limits;
use crate::tracker::http::Reach;
use crate::wire::pex::{self, Pex};
use crate::wire::{Ext, Message};

/// Addresses of a kind in one message, in and out.
const TOLD: usize = 50;
/// A peer is told no sooner after the last time.
const EVERY: Duration = Duration::from_secs(60);
/// News wait so long for more.
const SETTLE: Duration = Duration::from_secs(2);
/// A message that comes sooner after the last is not read: clocks differ a little.
const SOONEST: Duration = Duration::from_secs(45);
/// So many more than one for each of those times, and the peer is closed.
const TOO_OFTEN: u32 = 20;
/// Changes that are remembered.
const LOG: usize = 128;

/// The last changes among a torrent's peers.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Changes ever, the last one being `log.back()`.
    count: u64,
    log: VecDeque<(SocketAddr, bool)>,
}

impl Changes {
    fn push(&mut self, addr: SocketAddr, joined: bool) {
        if self.log.len() == LOG {
            self.log.pop_front();
        }
        self.log.push_back((addr, joined));
        self.count += 1;
    }

    /// What has changed since: the last word on each address, and where to go on from.
    fn since(&self, seen: u64) -> (Vec<(SocketAddr, bool)>, u64) {
        let first = self.count - self.log.len() as u64;
        let skip = seen.saturating_sub(first) as usize;
        let mut out: Vec<(SocketAddr, bool)> = Vec::new();
        let (mut taken, mut kinds) = (0, [0, 0]);
        for (addr, joined) in self.log.iter().skip(skip) {
            match out.iter_mut().find(|(a, _)| a == addr) {
                Some(old) => old.1 = *joined,
                None if kinds[usize::from(*joined)] == TOLD => break,
                None => {
                    kinds[usize::from(*joined)] += 1;
                    out.push((*addr, *joined));
                }
            }
            taken += 1;
        }
        (out, seen.max(first) + taken)
    }
}

impl Torrent {
    /// Peers may be found by other ways than its trackers.
    pub fn is_public(&self) -> bool {
        self.is_known() && !self.meta.private
    }

    /// An address is heard of. `teller` is who says so; the user and the peer itself need none. False when it is not
    /// taken, or known already.
    pub(crate) fn hear(&mut self, cx: &Cx<'_>, addr: SocketAddr, source: Source, teller: Option<IpAddr>) -> bool {
        let addr = normal(addr);
        let reach = Reach::of(addr.ip());
        let nearer = teller.is_some_and(|t| rank(reach) > rank(Reach::of(t)));
        if cx.blocklist.contains(addr.ip()) {
            return false;
        }
        if nearer || addr.port() < limits::PORT_LEAST && reach == Reach::Public {
            return false;
        }
        if source.is_hearsay() && (self.meta.private || !self.swarm.has_room_for_hearsay(&addr)) {
            return false;
        }
        self.swarm.add(cx.now, addr, source)
    }

    // ---------------------------------------------------------------- telling

    /// A peer that accepts connections has come or gone.
    pub(super) fn note_change(&mut self, cx: &mut Cx<'_>, addr: SocketAddr, joined: bool) {
        if !self.is_public() {
            return;
        }
        self.changes.push(normal(addr), joined);
        for &conn in &self.peers {
            let Some(p) = cx.peer(conn).filter(|p| p.pex.due == Instant::FAR && p.ext.get(Ext::Pex).is_some()) else {
                continue;
            };
            p.pex.due = p.pex.after.max(p.since + SETTLE);
            cx.touched.push(conn);
        }
    }

    /// It takes such messages, or no longer.
    pub(super) fn on_pex_offer(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let now = cx.now;
        let public = self.is_public();
        let Some(p) = cx.peer(conn) else { return };
        if p.ext.get(Ext::Pex).is_none() || !public {
            p.pex.due = Instant::FAR;
        } else if p.pex.seen.is_none() && p.pex.due == Instant::FAR {
            p.pex.due = now + SETTLE;
            cx.touched.push(conn);
        }
    }

    /// Tells a peer what is new to it, if it is time.
    pub(super) fn tell_peers(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let now = cx.now;
        let Some(p) = cx.peer(conn).filter(|p| p.pex.due <= now) else { return };
        let (to, seen) = (normal(p.addr), p.pex.seen);
        let own = p.tag.and_then(|tag| self.swarm.addr(tag));
        let Some(id) = p.ext.get(Ext::Pex).filter(|_| self.is_public()) else {
            p.pex.due = Instant::FAR;
            return;
        };
        let (news, seen) = match seen {
            Some(seen) => self.changes.since(seen),
            None => (self.who_is_here(cx), self.changes.count),
        };
        let mut message = Pex::default();
        for (addr, joined) in news {
            let secret = rank(Reach::of(addr.ip())) > rank(Reach::of(to.ip()));
            if addr == to || Some(addr) == own || secret {
                continue;
            }
            if !joined {
                message.dropped.push(addr);
            } else if let Some(flags) = self.flags_of(cx, &addr) {
                message.added.push((addr, flags));
            }
        }
        let all = seen == self.changes.count;
        let Some(p) = cx.peer(conn) else { return };
        p.pex.seen = Some(seen);
        p.pex.due = if all { Instant::FAR } else { now + EVERY };
        if message != Pex::default() {
            p.pex.after = now + EVERY;
            cx.send(conn, &Message::Extended { id, payload: &message.encode() });
        }
    }

    /// Connected peers that accept connections, at most [`TOLD`].
    fn who_is_here(&self, cx: &mut Cx<'_>) -> Vec<(SocketAddr, bool)> {
        let addr = |conn: &ConnKey| {
            let tag = cx.conns.get(*conn).and_then(Conn::peer)?.tag?;
            self.swarm.addr(tag).filter(|_| self.swarm.is_dialable(tag))
        };
        self.peers.iter().filter_map(addr).map(|a| (a, true)).take(TOLD).collect()
    }

    /// What is known of a connected peer; `None` when it has left.
    fn flags_of(&self, cx: &Cx<'_>, addr: &SocketAddr) -> Option<u8> {
        let peer = cx.conns.get(self.swarm.connection_to(addr)?).and_then(Conn::peer).filter(|p| p.is_live())?;
        let seed = if peer.is_seed() || peer.upload_only { pex::SEED } else { 0 };
        Some(seed | if peer.incoming { 0 } else { pex::REACHABLE })
    }

    // ---------------------------------------------------------------- hearing

    pub(super) fn on_pex(&mut self, cx: &mut Cx<'_>, conn: ConnKey, payload: &[u8]) -> Verdict {
        let now = cx.now;
        let public = self.is_public() || !self.is_known();
        let Some(p) = cx.peer(conn) else { return Ok(()) };
        p.pex.count += 1;
        if p.pex.heard.is_some_and(|at| now - at < SOONEST) {
            // A line that is slow holds messages up, and several come together: they are counted over all of the time.
            let due = (now - p.since).as_secs() / SOONEST.as_secs();
            let often = u64::from(p.pex.count) > due + u64::from(TOO_OFTEN);
            return if often { Err(breach("names peers too often")) } else { Ok(()) };
        }
        p.pex.heard = Some(now);
        let teller = p.addr.ip();
        let Some(message) = Pex::parse(payload, TOLD).filter(|_| public) else { return Ok(()) };
        let mut fresh = 0;
        for (addr, flags) in message.added.into_iter().take(TOLD) {
            if self.hear(cx, addr, Source::Pex, Some(teller)) {
                fresh += 1;
                if flags & pex::SEED != 0 {
                    self.swarm.set_seed_at(&addr);
                }
            }
        }
        if fresh > 0 {
            log::debug!("peer {teller}: names {fresh} new peers");
        }
        Ok(())
    }
}

/// How near an address is.
fn rank(reach: Reach) -> u8 {
    match reach {
        Reach::Public => 0,
        Reach::Private => 1,
        Reach::Loopback => 2,
        Reach::Never => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 1))
    }

    #[test]
    fn the_last_word_on_each_counts_and_what_is_too_much_comes_next_time() {
        let mut c = Changes::default();
        assert_eq!(c.since(0), (vec![], 0));
        c.push(a(1), true);
        c.push(a(2), true);
        c.push(a(1), false);
        assert_eq!(c.since(0), (vec![(a(1), false), (a(2), true)], 3));
        assert_eq!(c.since(2), (vec![(a(1), false)], 3));
        assert_eq!(c.since(3), (vec![], 3));
        (10..110).for_each(|n| c.push(a(n), true));
        let (first, next) = c.since(3);
        assert_eq!((first.len(), next), (TOLD, 53));
        let (second, next) = c.since(next);
        assert_eq!((second.len(), next), (TOLD, 103));
        (0..=255).for_each(|n| c.push(a(n), false));
        let (late, next) = c.since(0);
        assert_eq!(
            (late.len(), late[0].0, next),
            (TOLD, a(128), 359 - 128 + TOLD as u64),
            "what is forgotten is passed over"
        );
    }
}
