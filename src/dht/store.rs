//! What others have announced to us, and the tokens they need for it (BEP 5).
//!
//! A token is the beginning of SHA-1(secret of this five minutes, IP address): it proves that whoever
//! presents it receives datagrams there. It is good for this and the next five minutes, and there is no
//! timer behind it. Peers are forgotten [`KEEP`] after they were announced last.
//!
//! Everything is bounded: [`limits::DHT_TORRENTS`] torrents (the one farthest from our id gives way, which is the
//! one we are least expected to know), [`limits::DHT_PEERS_TORRENT`] peers of each, [`limits::DHT_PEERS`] in all,
//! [`PER_HOST`] ports of one address in one torrent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sha1::{Digest, Sha1};

use super::id::NodeId;
use crate::config::limits;
use crate::id::InfoHash;
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// How long a peer is remembered.
const KEEP: Duration = Duration::from_secs(45 * 60);
/// How long a token is handed out; it is accepted for twice as long.
const TOKEN: Duration = Duration::from_secs(5 * 60);
/// Ports of one host that are kept in one torrent.
const PER_HOST: usize = 8;

/// Bytes of a token.
pub(super) const TOKEN_LEN: usize = 4;

/// Hands out tokens and knows them again.
pub(super) struct Tokens {
    secret: [u8; 32],
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl Tokens {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    fn of_epoch(&self, epoch: u64, ip: IpAddr) -> [u8; TOKEN_LEN] {
        let mut sha = Sha1::new().chain_update(self.secret).chain_update(epoch.to_be_bytes());
        match ip.to_canonical() {
            IpAddr::V4(a) => sha.update(a.octets()),
            IpAddr::V6(a) => sha.update(a.octets()),
        }
        *sha.finalize().first_chunk().expect("a digest is longer")
    }

    fn epoch(now: Instant) -> u64 {
        now.as_micros() / TOKEN.as_micros() as u64
    }

    pub(super) fn give(&self, now: Instant, ip: IpAddr) -> [u8; TOKEN_LEN] {
        self.of_epoch(Self::epoch(now), ip)
    }

    pub(super) fn accepts(&self, now: Instant, ip: IpAddr, token: &[u8]) -> bool {
        let epoch = Self::epoch(now);
        let ours = |e: u64| self.of_epoch(e, ip) == token;
        ours(epoch) || epoch.checked_sub(1).is_some_and(ours)
    }
}

#[derive(Clone, Copy, Debug)]
struct Stored {
    addr: SocketAddr,
    until: Instant,
}

/// Announced peers by torrent; IPv4 and IPv6 apart.
#[derive(Debug, Default)]
pub(super) struct Store {
    torrents: BTreeMap<(bool, InfoHash), Vec<Stored>>,
    peers: usize,
}

impl Store {
    /// Takes an announce. False when there is no room for it.
    pub(super) fn put(&mut self, now: Instant, own: &NodeId, hash: InfoHash, addr: SocketAddr) -> bool {
        let key = (addr.is_ipv6(), hash);
        if !self.torrents.contains_key(&key) {
            if self.torrents.len() >= limits::DHT_TORRENTS && !self.make_room(now, own, &hash) {
                return false;
            }
            self.torrents.insert(key, Vec::new());
        }
        let full = self.peers >= limits::DHT_PEERS;
        let list = self.torrents.get_mut(&key).expect("it is there by now");
        let until = now + KEEP;
        if let Some(old) = list.iter_mut().find(|p| p.addr == addr) {
            old.until = until;
            return true;
        }
        let same_host = |p: &&Stored| p.addr.ip() == addr.ip();
        let crowded = list.iter().filter(same_host).count() >= PER_HOST;
        // Whoever was announced longest ago gives way: of the same host if that has its share.
        if crowded || full || list.len() >= limits::DHT_PEERS_TORRENT {
            let old = list.iter_mut().filter(|p| !crowded || p.addr.ip() == addr.ip()).min_by_key(|p| p.until);
            let Some(old) = old else { return false };
            *old = Stored { addr, until };
        } else {
            list.push(Stored { addr, until });
            self.peers += 1;
        }
        true
    }

    /// Forgets what has expired and, if that was nothing, the torrent farthest from us. False when that
    /// would be the newcomer.
    fn make_room(&mut self, now: Instant, own: &NodeId, hash: &InfoHash) -> bool {
        self.expire(now);
        if self.torrents.len() < limits::DHT_TORRENTS {
            return true;
        }
        let far = |h: &InfoHash| own.distance(&NodeId::from(*h));
        let Some((_, farthest)) = self.torrents.keys().map(|k| (far(&k.1), *k)).max() else { return true };
        if far(hash) >= far(&farthest.1) {
            return false;
        }
        self.peers -= self.torrents.remove(&farthest).map_or(0, |l| l.len());
        true
    }

    /// Up to `n` peers of a torrent, of one family, any of them.
    pub(super) fn get(&self, now: Instant, v6: bool, hash: &InfoHash, n: usize, rng: &mut Rng) -> Vec<SocketAddr> {
        let Some(list) = self.torrents.get(&(v6, *hash)) else { return Vec::new() };
        let mut all: Vec<_> = list.iter().filter(|p| p.until > now).map(|p| p.addr).collect();
        rng.shuffle(&mut all);
        all.truncate(n);
        all
    }

    /// Forgets what has expired.
    pub(super) fn expire(&mut self, now: Instant) {
        self.torrents.retain(|_, list| {
            list.retain(|p| p.until > now);
            !list.is_empty()
        });
        self.peers = self.torrents.values().map(Vec::len).sum();
    }

    /// Torrents and peers.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.torrents.len(), self.peers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn a_token_is_good_for_its_address_and_ten_minutes_at_most() {
        let t = Tokens::new([7; 32]);
        let (a, b): (IpAddr, IpAddr) = ("1.2.3.4".parse().unwrap(), "1.2.3.5".parse().unwrap());
        let at = Instant::from_secs(299);
        let token = t.give(at, a);
        assert!(t.accepts(at, a, &token) && t.accepts(Instant::from_secs(599), a, &token));
        assert!(!t.accepts(Instant::from_secs(600), a, &token), "too old");
        assert!(!t.accepts(at, b, &token) && !t.accepts(at, a, b"") && !t.accepts(at, a, b"1234"));
        assert!(t.accepts(at, "::ffff:1.2.3.4".parse().unwrap(), &token), "the same address, mapped");
        assert_ne!(Tokens::new([8; 32]).give(at, a), token);
    }

    #[test]
    fn many_announces_stay_within_the_limits() {
        let (mut s, mut r) = (Store::default(), rng::seeded(3));
        let own = NodeId::new([0; 20]);
        let now = Instant::from_secs(5);
        for i in 0..30_000u32 {
            let mut hash = [0; 20];
            hash[0] = (i % 7) as u8;
            hash[1..3].copy_from_slice(&(r.u16(..)).to_be_bytes());
            let addr = SocketAddr::from((i.to_be_bytes(), 6881));
            s.put(now, &own, InfoHash::new(hash), addr);
            // Counting takes longer than storing.
            assert!(i % 101 > 0 || s.len().0 <= limits::DHT_TORRENTS && s.len().1 <= limits::DHT_PEERS);
        }
        assert_eq!(s.len().0, limits::DHT_TORRENTS);
        // One torrent, many hosts; and one host, many ports.
        let near = InfoHash::new([0; 20]);
        for i in 0..10_000u32 {
            assert!(s.put(now, &own, near, SocketAddr::from(([1, 1, (i >> 8) as u8, i as u8], 1))));
        }
        let mut one = Store::default();
        for port in 1..10_000 {
            let now = now + crate::time::Duration::from_micros(port.into());
            assert!(one.put(now, &own, near, SocketAddr::from(([9, 9, 9, 9], port))));
        }
        let now = now + crate::time::Duration::from_micros(10_000);
        assert_eq!(one.len(), (1, PER_HOST));
        let got = one.get(now, false, &near, 100, &mut r);
        assert!(got.len() == PER_HOST && got.iter().all(|a| a.port() >= 9_900), "the latest: {got:?}");
        assert_eq!(one.get(now, true, &near, 100, &mut r).len(), 0);
        assert_eq!(one.get(now + KEEP, false, &near, 100, &mut r).len(), 0);
        one.expire(now + KEEP);
        assert_eq!(one.len(), (0, 0));
    }

    #[test]
    fn one_torrent_has_so_many_peers_and_the_latest_of_them() {
        let (mut s, mut r, own) = (Store::default(), rng::seeded(3), NodeId::new([0; 20]));
        let (hash, limit) = (InfoHash::new([1; 20]), limits::DHT_PEERS_TORRENT as u8);
        let peer = |i: u8| SocketAddr::from(([1, 1, 1, i], 6881));
        for i in 0..limit {
            assert!(s.put(Instant::from_secs(u64::from(i)), &own, hash, peer(i)));
        }
        assert_eq!(s.len(), (1, limits::DHT_PEERS_TORRENT), "at the limit");
        assert!(s.put(Instant::from_secs(500), &own, hash, peer(limit)));
        assert_eq!(s.len(), (1, limits::DHT_PEERS_TORRENT), "one past it");
        let all = s.get(Instant::from_secs(501), false, &hash, 1000, &mut r);
        assert!(all.contains(&peer(limit)) && all.contains(&peer(1)) && !all.contains(&peer(0)), "the oldest went");
    }
}
