//! Room for connections: who is let in, and who has to go for it.
//!
//! Someone who dials us is a *stranger* until its handshake is done. Strangers have room of their own
//! ([`Config::max_strangers`](crate::config::Config::max_strangers)), so that neither peers at their limit
//! nor thousands of idle connections make us deaf: the newcomer is always let in, and when there is no
//! room a stranger goes for it, the oldest of the network that has the most of them. Whoever speaks at once
//! is a stranger for a round trip, so that it is hardly ever the one to go.
//!
//! A stranger that becomes a peer when there is no room for peers takes the place of one that is
//! *crowded* (its network has more connections than the newcomer's would) or *idle* (no payload either
//! way for [`limits::EVICT_IDLE`]); crowded ones go first, then those in which nobody is interested, then
//! the slowest, then the ones that have been silent longest. If there is none, canonical priority decides (BEP 40):
//! the peer that comes last by it goes, if the newcomer comes before it, unless it gives us something or has only just
//! come. Otherwise the newcomer is turned away.
//!
//! A network is an IPv4 address, or 64 bits of an IPv6 one, which is what one host gets; `::ffff:a.b.c.d`
//! is `a.b.c.d`. One network has at most [`limits::PEERS_PER_ADDRESS`] peers that dialled us.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{CloseReason, Session};
use crate::config::limits;
use crate::id::{ConnKey, TorrentKey};
use crate::peer::priority::canonical;
use crate::peer::{Conn, Peer};
use crate::time::Instant;
use crate::torrent::swarm;

fn network(addr: &SocketAddr) -> IpAddr {
    swarm::network(addr.ip())
}

impl Session {
    /// Someone dialled us. None: the session ends, or the address is blocked; drop the stream.
    pub fn accept(&mut self, now: Instant, addr: SocketAddr) -> Option<ConnKey> {
        if self.blocklist.contains(addr.ip()) {
            log::debug!("peer {addr}: not let in, its address is blocked");
            self.stats.blocked += 1;
            return None;
        }
        if self.shutdown.is_some() || self.config.max_strangers == 0 {
            return None;
        }
        if self.strangers >= self.config.max_strangers {
            self.drop_stranger(now, Some(&addr));
        }
        self.strangers += 1;
        let conn = self.conns.insert(Conn::Peer(Box::new(Peer::new(now, addr, true, None, None))));
        self.arm_conn(now, conn);
        Some(conn)
    }

    /// The driver has no more sockets: closes the connection that is missed least. False when there is
    /// none to be missed so little.
    pub fn shed(&mut self, now: Instant) -> bool {
        self.stats.exhausted += 1;
        self.drop_stranger(now, None) || self.drop_peer(now, None, None)
    }

    /// Much waits for `conn`, which does not read it, or of a message that it does not finish. While more waits for
    /// all peers together than may, the one goes that lets most of it wait.
    pub(super) fn relieve(&mut self, now: Instant, conn: ConnKey) {
        let held = |c: &Conn| c.peer().map_or(0, Peer::waiting);
        // Who is within its share is no reason to look at the others.
        if self.conns.get(conn).map_or(0, held) < self.config.outbox_total / self.config.max_peers.max(1) {
            return;
        }
        let mut total: usize = self.conns.iter().map(|(_, c)| held(c)).sum();
        while total > self.config.outbox_total {
            let Some((most, worst)) = self.conns.iter().map(|(k, c)| (held(c), k)).max() else { return };
            total -= most;
            self.close(now, worst, CloseReason::Stuck);
        }
    }

    /// Closes the oldest stranger of the network that has the most, `newcomer` counted.
    fn drop_stranger(&mut self, now: Instant, newcomer: Option<&SocketAddr>) -> bool {
        let mut count: BTreeMap<IpAddr, u32> = newcomer.map(|a| (network(a), 1)).into_iter().collect();
        let strangers = || self.conns.iter().filter_map(|(k, c)| Some((k, c.peer().filter(|p| p.is_stranger())?)));
        strangers().for_each(|(_, p)| *count.entry(network(&p.addr)).or_default() += 1);
        let victim = strangers().min_by_key(|(k, p)| (Reverse(count[&network(&p.addr)]), p.since, *k)).map(|(k, _)| k);
        let Some(victim) = victim else { return false };
        self.stats.turned_away += 1;
        self.close(now, victim, CloseReason::TooManyPeers);
        true
    }

    /// A stranger is about to become a peer: finds room for it, or a reason against it.
    pub(super) fn make_room(&mut self, now: Instant, conn: ConnKey) -> Result<(), CloseReason> {
        let Some(peer) = self.conns.get(conn).and_then(Conn::peer) else { return Ok(()) };
        let Some(torrent) = peer.torrent.and_then(|k| self.torrents.get(k)) else { return Ok(()) };
        let (key, addr, joined) = (torrent.key, peer.addr, torrent.peers.len());
        let same = |p: &&Peer| p.is_live() && p.incoming && network(&p.addr) == network(&addr);
        let neighbours = self.conns.iter().filter_map(|(_, c)| c.peer()).filter(same).count();
        let full = self.stats.peers >= self.config.max_peers;
        let torrent_full = joined >= self.config.max_peers_torrent;
        if !peer.incoming {
            // Others may have come while this one was dialled; nobody goes for it.
            return if full || torrent_full { Err(CloseReason::TooManyPeers) } else { Ok(()) };
        }
        if neighbours >= limits::PEERS_PER_ADDRESS
            || full && !self.drop_peer(now, Some(&addr), torrent_full.then_some(key))
            || torrent_full && !full && !self.drop_peer(now, Some(&addr), Some(key))
        {
            self.stats.turned_away += 1;
            return Err(CloseReason::TooManyPeers);
        }
        Ok(())
    }

    /// The peer that comes last by canonical priority, if that is behind the newcomer.
    fn last_behind<'a>(
        &self,
        now: Instant,
        newcomer: &SocketAddr,
        peers: impl Iterator<Item = (ConnKey, &'a Peer)>,
    ) -> Option<ConnKey> {
        let priority = |addr: &SocketAddr| {
            let own = self.external.get(addr.ip().to_canonical().is_ipv6())?;
            canonical(SocketAddr::new(own, self.me.port), *addr)
        };
        let mine = priority(newcomer)?;
        let spare = |p: &Peer| p.trade.received.get(now) == 0 && now - p.since >= limits::EVICT_IDLE;
        let last = peers.filter(|(_, p)| spare(p)).filter_map(|(k, p)| Some((priority(&p.addr)?, k))).min();
        last.filter(|(theirs, _)| *theirs < mine).map(|(_, k)| k)
    }

    /// Closes the peer (of `torrent`) that is missed least.
    fn drop_peer(&mut self, now: Instant, newcomer: Option<&SocketAddr>, torrent: Option<TorrentKey>) -> bool {
        let live = || self.conns.iter().filter_map(|(k, c)| Some((k, c.peer().filter(|p| p.is_live())?)));
        let mut count: BTreeMap<IpAddr, u32> = BTreeMap::new();
        live().for_each(|(_, p)| *count.entry(network(&p.addr)).or_default() += 1);
        let mine = newcomer.map_or(u32::MAX, |a| count.get(&network(a)).copied().unwrap_or(0) + 1);
        let rank = |(k, p): (ConnKey, &Peer)| {
            let crowd = Some(count[&network(&p.addr)]).filter(|n| *n > mine).unwrap_or(0);
            let rate = p.trade.received.get(now) + p.trade.given.get(now);
            let idle = rate == 0 && now - p.since >= limits::EVICT_IDLE && now - p.last_block >= limits::EVICT_IDLE;
            let wanted = p.interested || p.wants_us;
            (crowd > 0 || idle).then_some((Reverse(crowd), wanted, rate, p.last_in, k))
        };
        let of = |(_, p): &(ConnKey, &Peer)| torrent.is_none_or(|t| p.torrent == Some(t));
        let missed_least = live().filter(of).filter_map(rank).min().map(|(.., k)| k);
        let outranked = || self.last_behind(now, newcomer?, live().filter(of));
        let Some(victim) = missed_least.or_else(outranked) else { return false };
        self.stats.evicted += 1;
        self.close(now, victim, CloseReason::TooManyPeers);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Action, Add, Input};
    use crate::config::Config;
    use crate::id::{InfoHash, PeerId};
    use crate::metainfo::Metainfo;
    use crate::time::Duration;
    use crate::wire::{self, Handshake, Message};

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 1000))
    }

    fn at6(net: u16, host: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, net, 0, 0, 0, host], 1000))
    }

    /// A session that seeds one empty torrent.
    struct Rig {
        s: Session,
        hash: InfoHash,
        now: Instant,
        next: u32,
    }

    impl Rig {
        fn new(config: Config) -> Self {
            let torrent = b"d4:infod6:lengthi1e4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";
            let meta = Metainfo::parse(torrent).expect("a torrent");
            let hash = meta.info_hash.expect("version 1");
            let mut s = Session::new(config, [1; 32]);
            let now = Instant::from_secs(1);
            let key = s.add(now, Add::new(meta, "d")).expect("added");
            s.handle(now, Input::Opened { torrent: key, files: vec![None] });
            Self { s, hash, now, next: 0 }
        }

        /// Connections that the session has closed since the last call.
        fn closed(&mut self) -> Vec<ConnKey> {
            self.s.invariants();
            let mut out = Vec::new();
            while let Some(action) = self.s.poll_action() {
                if let Action::Close { conn, .. } = action {
                    out.push(conn);
                }
            }
            out
        }

        fn greet(&mut self, conn: ConnKey) {
            self.next += 1;
            let mut id = [7; 20];
            id[..4].copy_from_slice(&self.next.to_be_bytes());
            let reserved = wire::Reserved::ours();
            let hello = Handshake { reserved, info_hash: self.hash, peer_id: PeerId::new(id) };
            self.s.feed(self.now, conn, &wire::encode_handshake(&hello));
        }

        /// Dials the session and says hello; a port of its own for each.
        fn join(&mut self, mut addr: SocketAddr) -> ConnKey {
            addr.set_port(2000 + self.next as u16);
            let conn = self.s.accept(self.now, addr).expect("strangers are let in");
            self.greet(conn);
            conn
        }

        fn peers(&self) -> usize {
            self.s.stats(self.now).peers
        }

        fn pass(&mut self, secs: u64) {
            self.now += Duration::from_secs(secs);
        }
    }

    fn small(max_peers: usize, max_strangers: usize) -> Config {
        Config { max_peers, max_peers_torrent: max_peers, max_strangers, ..Config::default() }
    }

    #[test]
    fn networks() {
        assert_eq!(network(&at6(1, 5)), network(&at6(1, 6)));
        assert_ne!(network(&at6(1, 5)), network(&at6(2, 5)));
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:5".parse().expect("an address");
        assert_eq!(network(&mapped), network(&at(1)));
    }

    #[test]
    fn a_newcomer_is_never_kept_out_by_silent_strangers() {
        let mut r = Rig::new(small(10, 4));
        let honest = r.s.accept(r.now, at(2)).expect("room");
        let silent: Vec<_> = (0..4)
            .map(|_| {
                r.now += Duration::from_millis(1);
                r.s.accept(r.now, at(1)).expect("let in")
            })
            .collect();
        // The fifth stranger: the oldest of the network that has most had to go, not the oldest of all.
        assert_eq!(r.closed(), [silent[0]]);
        (0..100).for_each(|_| assert!(r.s.accept(r.now, at(1)).is_some()));
        assert!(!r.closed().contains(&honest));
        assert_eq!(r.s.stats(r.now).turned_away, 101);
        r.greet(honest);
        assert_eq!(r.peers(), 1);
    }

    #[test]
    fn from_many_networks_the_oldest_stranger_goes() {
        let mut r = Rig::new(small(10, 3));
        let all: Vec<_> = (1..=5)
            .map(|n| {
                r.pass(1);
                r.s.accept(r.now, at(n)).expect("let in")
            })
            .collect();
        assert_eq!(r.closed(), all[..2]);
    }

    #[test]
    fn one_network_has_so_many_peers_and_no_more() {
        let mut r = Rig::new(small(100, 8));
        for host in 0..=limits::PEERS_PER_ADDRESS as u16 {
            r.join(at6(1, host));
        }
        assert_eq!(r.peers(), limits::PEERS_PER_ADDRESS);
        r.join(at6(2, 0));
        assert_eq!(r.peers(), limits::PEERS_PER_ADDRESS + 1);
        assert_eq!(r.s.stats(r.now).turned_away, 1);
    }

    #[test]
    fn a_crowd_gives_way_to_someone_new() {
        let mut r = Rig::new(small(4, 8));
        let crowd: Vec<_> = (0..3).map(|_| r.join(at(1))).collect();
        let other = r.join(at(2));
        let late = r.join(at(3));
        let closed = r.closed();
        assert_eq!((closed.len(), crowd.contains(&closed[0])), (1, true));
        // One more of the crowd's network gains nothing: two against two.
        let again = r.join(at(1));
        assert_eq!(r.closed(), [again]);
        assert!(r.s.memory_of(other) > 0 && r.s.memory_of(late) > 0);
        assert_eq!(r.s.stats(r.now).evicted, 1);
    }

    #[test]
    fn idle_peers_give_way_useful_ones_stay() {
        let mut r = Rig::new(small(3, 8));
        let useless = r.join(at(1));
        let wanted = r.join(at(2));
        let _ = r.join(at(3));
        let turned_away = r.join(at(4));
        assert_eq!(r.closed(), [turned_away], "nobody has been idle long enough");
        r.pass(limits::EVICT_IDLE.as_secs());
        for conn in [wanted, useless] {
            let mut have = Vec::new();
            wire::encode(if conn == wanted { &Message::HaveAll } else { &Message::HaveNone }, &mut have);
            r.s.feed(r.now, conn, &have);
        }
        r.join(at(5));
        r.join(at(6));
        let closed = r.closed();
        assert_eq!(closed.len(), 2);
        assert!(!closed.contains(&wanted), "it has what we want");
        r.join(at(7));
        assert_eq!(r.closed(), [wanted], "idle all the same");
    }

    /// All are busy: who comes last by canonical priority gives way to who comes before it, and to nobody else.
    #[test]
    fn canonical_priority_decides_among_busy_peers() {
        let mut r = Rig::new(small(4, 8));
        let own = SocketAddr::from(([123, 213, 32, 10], r.s.me.port));
        (1..9).for_each(|n| r.s.external.vote(IpAddr::from([9, 9, 9, n]), own.ip()));
        let mut addrs: Vec<_> = (1..=6).map(|n| SocketAddr::from(([98, n, 0, 1], 1000))).collect();
        addrs.sort_by_key(|a| canonical(own, *a));
        let conns: Vec<_> = addrs[1..5].iter().map(|a| r.join(*a)).collect();
        r.pass(limits::EVICT_IDLE.as_secs());
        for conn in &conns {
            let now = r.now;
            r.s.conns.get_mut(*conn).and_then(Conn::peer_mut).expect("it is there").trade.given.add(now, 1 << 20);
        }
        let late = r.join(addrs[0]);
        assert_eq!(r.closed(), [late], "behind all of them");
        let now = r.now;
        r.s.conns.get_mut(conns[0]).and_then(Conn::peer_mut).expect("it is there").trade.received.add(now, 1 << 20);
        r.join(addrs[5]);
        assert_eq!(r.closed(), [conns[1]], "the last of those that give us nothing");
        let late = r.join(addrs[1]);
        assert_eq!(r.closed(), [late]);
    }

    #[test]
    fn out_of_sockets_strangers_go_first() {
        let mut r = Rig::new(small(4, 4));
        let peer = r.join(at(1));
        let stranger = r.s.accept(r.now, at(2)).expect("room");
        assert!(r.s.shed(r.now));
        assert_eq!(r.closed(), [stranger]);
        assert!(!r.s.shed(r.now), "a peer that is not idle is kept");
        r.pass(limits::EVICT_IDLE.as_secs());
        assert!(r.s.shed(r.now));
        assert_eq!(r.closed(), [peer]);
    }

    #[test]
    fn requests_of_all_peers_together_are_limited() {
        let each = limits::REQUESTS_IN;
        let peers = limits::REQUESTS_IN_TOTAL / each + 1;
        let mut r = Rig::new(Config { unchoke_slots: 2 * peers, ..small(2 * peers, 4) });
        let piece = crate::id::PieceIndex::new(0);
        let key = r.s.torrents().next().expect("one");
        r.s.verify(r.now, key).expect("there");
        r.s.handle(r.now, Input::Opened { torrent: key, files: vec![Some(STAMP)] });
        r.s.handle(r.now, Input::Hashed { torrent: key, piece, ok: true, blocks: None });
        let mut said = Vec::new();
        wire::encode(&Message::Interested, &mut said);
        (0..each).for_each(|_| wire::encode(&Message::Request(crate::id::Block::new(0, 0, 1)), &mut said));
        for n in 0..peers {
            let conn = r.join(at(n as u8));
            r.s.feed(r.now, conn, &said);
        }
        r.closed();
        let stats = r.s.stats(r.now);
        assert_eq!(stats.requests_in, limits::REQUESTS_IN_TOTAL);
        assert_eq!(stats.requests_over as usize, peers * each - limits::REQUESTS_IN_TOTAL);
    }

    const STAMP: crate::api::FileStamp = crate::api::FileStamp { len: 1, mtime: (1, 0), inode: 1, device: 1, mount: 1 };

    #[test]
    fn timers_of_strangers_that_are_gone_are_forgotten() {
        let mut r = Rig::new(small(4, 4));
        (0..10_000).for_each(|_| assert!(r.s.accept(r.now, at(2)).is_some()));
        assert!(r.s.timers.len() < 200, "{} timers", r.s.timers.len());
    }
}
