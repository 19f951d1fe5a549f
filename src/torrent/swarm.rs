//! The addresses a torrent knows: where they came from, when to dial them, whom never to dial again.
//!
//! Every address has a [`PeerTag`] that outlives its connections, so that blocks can be blamed on
//! who sent them. A tag whose address was forgotten finds nothing; it is not given to another.
//! Dialling order is by due time; a failed attempt backs off, doubling from
//! `BACKOFF` up to `BACKOFF_MAX`; an address the user gave is tried again sooner and never
//! forgotten. Of addresses that are due, IPv4 and IPv6 take turns, as in RFC 8305, so that a family
//! that leads nowhere from here takes half of the attempts at most. The list is bounded, by
//! `limits::SWARM` unless the torrent may have more peers than that: a newcomer displaces the address
//! that has failed most often, or is turned away when none has.
//!
//! It opens no connections and counts none; `torrent` asks it for the next address to dial.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::limits;
use crate::id::{ConnKey, PeerTag};
use crate::time::{Duration, Instant};

/// Wait before the second attempt at an address.
const BACKOFF: Duration = Duration::from_secs(15);
/// Wait before the second attempt at an address the user gave.
const BACKOFF_USER: Duration = Duration::from_secs(2);
/// Longest wait between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// An address that failed this often in a row is forgotten.
const FAILS_MAX: u32 = 6;
/// An address known by hearsay that has failed so often without ever having worked is not dialled again.
const FAILS_HEARSAY: u32 = 2;
/// Wait before an attempt for which there was no socket.
const POSTPONE: Duration = Duration::from_secs(5);
/// Wait before dialling a peer again that has closed a working connection.
const RECONNECT: Duration = Duration::from_secs(20);

/// Where an address came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The user named it.
    User,
    /// A tracker named it.
    Tracker,
    /// It dialled us.
    Incoming,
    /// An earlier run knew it.
    Resume,
    /// A peer named it (BEP 11).
    Pex,
    /// It spoke up on the local network (BEP 14).
    Lsd,
    /// The distributed hash table named it (BEP 5).
    Dht,
}

impl Source {
    /// It is not the torrent's own trackers' word, nor the user's.
    pub(super) fn is_hearsay(self) -> bool {
        matches!(self, Self::Pex | Self::Lsd | Self::Dht)
    }
}

/// Bits of a tag that are its slot; the others tell the addresses apart that had it one after the other.
const SLOT_BITS: u32 = 16;
const _: () = assert!(limits::SWARM < 1 << SLOT_BITS);

fn slot(tag: PeerTag) -> usize {
    (tag.get() & ((1 << SLOT_BITS) - 1)) as usize
}

#[derive(Debug)]
struct Known {
    tag: PeerTag,
    addr: SocketAddr,
    source: Source,
    /// It accepts connections at `addr`, as far as we know.
    dialable: bool,
    conn: Option<ConnKey>,
    fails: u32,
    barred: bool,
    /// It has been a peer.
    proven: bool,
    seed: bool,
    due: Option<Instant>,
}

/// A torrent's addresses.
#[derive(Debug)]
pub struct Swarm {
    /// How many it knows at most.
    most: usize,
    known: slab::Slab<Known>,
    /// Addresses ever known.
    born: u32,
    by_addr: BTreeMap<SocketAddr, PeerTag>,
    /// Of IPv4 and of IPv6.
    due: [BTreeSet<(Instant, PeerTag)>; 2],
    /// The family whose turn it is.
    v6_next: bool,
    /// Banned for bad data: by [`network`], since a port is easily changed, and so is the rest of an IPv6 address.
    banned: BTreeSet<IpAddr>,
    /// The same, in the order of their bans.
    bans: VecDeque<IpAddr>,
}

/// The part of an address that one host cannot change at will: an IPv4 address, or 64 bits of an IPv6 one.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// An IPv4 address that came as `::ffff:a.b.c.d` is that IPv4 address.
pub fn normal(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The part of an address that is one neighbourhood: 24 bits of an IPv4 one, 48 of an IPv6 one.
fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

fn is_local(ip: IpAddr) -> bool {
    crate::tracker::http::Reach::of(ip) != crate::tracker::http::Reach::Public
}

/// An address no peer can be dialled at.
fn bogus(addr: &SocketAddr) -> bool {
    let multicast = match addr.ip() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    addr.port() == 0 || addr.ip().is_unspecified() || multicast
}

impl Default for Swarm {
    fn default() -> Self {
        Self::for_peers(0)
    }
}

impl Swarm {
    /// No addresses yet, and room for as many as `peers` connections need.
    pub fn for_peers(peers: usize) -> Self {
        Self {
            most: peers.clamp(limits::SWARM, (1 << SLOT_BITS) - 1),
            known: slab::Slab::new(),
            born: 0,
            by_addr: BTreeMap::new(),
            due: [BTreeSet::new(), BTreeSet::new()],
            v6_next: false,
            banned: BTreeSet::new(),
            bans: VecDeque::new(),
        }
    }

    /// How many addresses it knows at most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Learns an address that accepts connections. False when it is refused or known already.
    pub fn add(&mut self, now: Instant, addr: SocketAddr, source: Source) -> bool {
        let addr = normal(addr);
        if bogus(&addr) || self.is_banned(&addr) {
            return false;
        }
        if let Some(&tag) = self.by_addr.get(&addr) {
            let Some(known) = self.get_mut(tag) else { return false };
            if source == Source::User {
                known.source = source;
            }
            if known.dialable {
                return false;
            }
            known.dialable = true;
            self.schedule(tag, now);
            return true;
        }
        let Some(tag) = self.insert(addr, source, true) else { return false };
        self.schedule(tag, now);
        true
    }

    /// Someone dialled us from `addr`, which need not accept connections. None when it is banned
    /// or there is no room.
    pub fn incoming(&mut self, addr: SocketAddr) -> Option<PeerTag> {
        let addr = normal(addr);
        if self.is_banned(&addr) {
            return None;
        }
        match self.by_addr.get(&addr) {
            Some(&tag) => Some(tag),
            None => self.insert(addr, Source::Incoming, false),
        }
    }

    fn insert(&mut self, addr: SocketAddr, source: Source, dialable: bool) -> Option<PeerTag> {
        if self.known.len() >= self.most {
            // A banned host stays banned without its address being remembered.
            let useless = |k: &Known| k.fails > 0 || !k.dialable || self.is_banned(&k.addr);
            let kept =
                |k: &Known| k.conn.is_some() || k.source == Source::User || (k.barred && !self.is_banned(&k.addr));
            let all = self.known.iter().map(|(_, k)| k);
            let tag = all.filter(|k| useless(k) && !kept(k)).max_by_key(|k| k.fails)?.tag;
            self.forget(tag);
        }
        let entry = self.known.vacant_entry();
        self.born = self.born.wrapping_add(1);
        let tag = PeerTag::new(self.born << SLOT_BITS | entry.key() as u32);
        entry.insert(Known {
            tag,
            addr,
            source,
            dialable,
            conn: None,
            fails: 0,
            barred: false,
            proven: false,
            seed: false,
            due: None,
        });
        self.by_addr.insert(addr, tag);
        Some(tag)
    }

    fn get(&self, tag: PeerTag) -> Option<&Known> {
        self.known.get(slot(tag)).filter(|k| k.tag == tag)
    }

    fn get_mut(&mut self, tag: PeerTag) -> Option<&mut Known> {
        self.known.get_mut(slot(tag)).filter(|k| k.tag == tag)
    }

    fn forget(&mut self, tag: PeerTag) {
        self.unschedule(tag);
        if self.get(tag).is_some() {
            let known = self.known.remove(slot(tag));
            self.by_addr.remove(&known.addr);
        }
    }

    /// Another address of its network may be remembered on hearsay.
    pub fn has_room_for_hearsay(&self, addr: &SocketAddr) -> bool {
        let (host, net) = (addr.ip().to_canonical(), neighbourhood(addr.ip()));
        let unproven = || self.known.iter().map(|(_, k)| k).filter(|k| k.source.is_hearsay() && !k.proven);
        let most = if is_local(host) { limits::HEARSAY.1 } else { limits::HEARSAY.0 };
        unproven().filter(|k| k.addr.ip() == host).count() < limits::HEARSAY_HOST
            && unproven().filter(|k| neighbourhood(k.addr.ip()) == net).count() < most
    }

    /// The connection to this address.
    pub fn connection_to(&self, addr: &SocketAddr) -> Option<ConnKey> {
        self.by_addr.get(&normal(*addr)).and_then(|tag| self.conn(*tag))
    }

    /// Somebody says that it has everything.
    pub fn set_seed_at(&mut self, addr: &SocketAddr) {
        if let Some(tag) = self.by_addr.get(&normal(*addr)).copied() {
            self.set_seed(tag);
        }
    }

    /// Connections to addresses that came by other ways than trackers, the user and peers themselves.
    pub fn hearsay(&self) -> Vec<ConnKey> {
        self.known.iter().filter(|(_, k)| k.source.is_hearsay()).filter_map(|(_, k)| k.conn).collect()
    }

    /// Forgets such addresses, unless they are connected.
    pub fn forget_hearsay(&mut self) {
        let gone = |k: &Known| k.source.is_hearsay() && k.conn.is_none();
        let tags: Vec<_> = self.known.iter().filter(|(_, k)| gone(k)).map(|(_, k)| k.tag).collect();
        tags.into_iter().for_each(|tag| self.forget(tag));
    }

    fn unschedule(&mut self, tag: PeerTag) {
        if let Some((at, v6)) = self.get_mut(tag).and_then(|k| Some((k.due.take()?, k.addr.is_ipv6()))) {
            self.due[usize::from(v6)].remove(&(at, tag));
        }
    }

    fn schedule(&mut self, tag: PeerTag, at: Instant) {
        self.unschedule(tag);
        if let Some(known) = self.get_mut(tag).filter(|k| k.dialable && !k.barred && k.conn.is_none()) {
            known.due = Some(at);
            let family = usize::from(known.addr.is_ipv6());
            self.due[family].insert((at, tag));
        }
    }

    /// A new beginning: all that have not failed are due now, complete peers too, which were passed
    /// over while there was nothing to be had from them.
    pub fn revive(&mut self, now: Instant) {
        let ready = |k: &Known| k.due.is_none() || k.fails == 0;
        let tags: Vec<_> = self.known.iter().filter(|(_, k)| ready(k)).map(|(_, k)| k.tag).collect();
        for tag in tags {
            self.schedule(tag, now);
        }
    }

    /// When the next address is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.iter().filter_map(|family| family.first()).map(|(at, _)| *at).min()
    }

    /// The next address that is due, leaving out complete peers when `seeding`. The caller tells
    /// what became of it with [`Swarm::attach`] and [`Swarm::failed`].
    pub fn next(&mut self, now: Instant, seeding: bool) -> Option<(PeerTag, SocketAddr)> {
        loop {
            let due = |v6: bool| self.due[usize::from(v6)].first().filter(|(at, _)| *at <= now);
            let &(_, tag) = due(self.v6_next).or_else(|| due(!self.v6_next))?;
            self.unschedule(tag);
            match self.get(tag) {
                Some(k) if !(seeding && k.seed || self.is_banned(&k.addr)) => {
                    let addr = k.addr;
                    self.v6_next = addr.is_ipv4();
                    return Some((tag, addr));
                }
                _ => {}
            }
        }
    }

    /// A connection to it exists.
    pub fn attach(&mut self, tag: PeerTag, conn: ConnKey) {
        self.unschedule(tag);
        if let Some(known) = self.get_mut(tag) {
            known.conn = Some(conn);
        }
    }

    /// Its connection, if there is one.
    pub fn conn(&self, tag: PeerTag) -> Option<ConnKey> {
        self.get(tag).and_then(|k| k.conn)
    }

    /// It took part as a peer: earlier failures are forgiven.
    pub fn worked(&mut self, tag: PeerTag) {
        if let Some(known) = self.get_mut(tag) {
            known.fails = 0;
            known.proven = true;
        }
    }

    /// It has everything.
    pub fn set_seed(&mut self, tag: PeerTag) {
        if let Some(known) = self.get_mut(tag) {
            known.seed = true;
        }
    }

    /// Its connection `conn` ended after it worked.
    pub fn detached(&mut self, now: Instant, tag: PeerTag, conn: ConnKey) {
        if self.release(tag, conn) {
            let user = self.get(tag).is_some_and(|k| k.source == Source::User);
            self.schedule(tag, now + if user { BACKOFF_USER } else { RECONNECT });
        }
    }

    /// We ended its connection `conn`, or could not make it, for reasons of our own.
    pub fn parted(&mut self, now: Instant, tag: PeerTag, conn: ConnKey) {
        if self.release(tag, conn) {
            self.schedule(tag, now);
        }
    }

    /// There was no socket for `conn`, which says nothing about the address.
    pub fn postponed(&mut self, now: Instant, tag: PeerTag, conn: ConnKey) {
        if self.release(tag, conn) {
            self.schedule(tag, now + POSTPONE);
        }
    }

    /// Its connection `conn` never worked.
    pub fn failed(&mut self, now: Instant, tag: PeerTag, conn: ConnKey) {
        if !self.release(tag, conn) {
            return;
        }
        let Some(known) = self.get_mut(tag) else { return };
        known.fails += 1;
        let user = known.source == Source::User;
        if known.source.is_hearsay() && !known.proven && known.fails >= FAILS_HEARSAY {
            // Remembered, or whoever named it would have us dial it again and again.
            return;
        }
        if known.fails >= FAILS_MAX && !user && !known.barred {
            return self.forget(tag);
        }
        let first = if user { BACKOFF_USER } else { BACKOFF };
        let wait = first.saturating_mul(1 << (known.fails - 1).min(10)).min(BACKOFF_MAX);
        self.schedule(tag, now + wait);
    }

    /// Its connection `conn` belongs to another address, which the peer named itself.
    pub fn moved(&mut self, tag: PeerTag, conn: ConnKey) {
        self.release(tag, conn);
    }

    fn release(&mut self, tag: PeerTag, conn: ConnKey) -> bool {
        match self.get_mut(tag) {
            Some(known) if known.conn == Some(conn) => {
                known.conn = None;
                true
            }
            _ => false,
        }
    }

    /// Never dial this address again: it is ourselves, or of no use.
    pub fn bar(&mut self, tag: PeerTag) {
        self.unschedule(tag);
        if let Some(known) = self.get_mut(tag) {
            known.barred = true;
        }
    }

    /// Never have to do with this host's network again. Returns its address, unless it is forgotten.
    pub fn ban(&mut self, tag: PeerTag) -> Option<SocketAddr> {
        self.bar(tag);
        let addr = self.addr(tag)?;
        let network = network(addr.ip());
        if self.banned.insert(network) {
            if self.bans.len() >= limits::BANNED {
                self.bans.pop_front().map(|oldest| self.banned.remove(&oldest));
            }
            self.bans.push_back(network);
        }
        Some(addr)
    }

    /// It accepts connections at that address, as far as we know.
    pub fn is_dialable(&self, tag: PeerTag) -> bool {
        self.get(tag).is_some_and(|k| k.dialable)
    }

    /// There is a connection to this address.
    pub fn is_connected(&self, addr: &SocketAddr) -> bool {
        self.by_addr.get(&normal(*addr)).is_some_and(|tag| self.conn(*tag).is_some())
    }

    /// Nothing is to be had to do with this address.
    pub fn is_banned(&self, addr: &SocketAddr) -> bool {
        self.banned.contains(&network(addr.ip()))
    }

    /// The address behind a tag.
    pub fn addr(&self, tag: PeerTag) -> Option<SocketAddr> {
        self.get(tag).map(|k| k.addr)
    }

    /// Addresses known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// No address is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Addresses worth keeping for the next run, at most `n`.
    pub fn worth_keeping(&self, n: usize) -> impl Iterator<Item = SocketAddr> + '_ {
        self.known.iter().filter(|(_, k)| k.dialable && !k.barred && k.fails == 0).map(|(_, k)| k.addr).take(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_secs(s)
    }
    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 6881))
    }
    const C: ConnKey = ConnKey::new(0, 0);

    #[test]
    fn a_failing_address_backs_off_and_is_forgotten() {
        let mut s = Swarm::default();
        assert!(s.add(at(0), addr(1), Source::Tracker));
        assert!(!s.add(at(0), addr(1), Source::Tracker), "known already");
        let mut now = at(0);
        for wait in [15, 30, 60, 120, 240] {
            let (tag, a) = s.next(now, false).expect("due");
            assert_eq!(a, addr(1));
            s.attach(tag, C);
            assert_eq!(s.next_due(), None, "a connected address is not dialled");
            s.failed(now, tag, C);
            assert_eq!(s.next_due(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        let (tag, _) = s.next(now, false).expect("due");
        s.attach(tag, C);
        s.failed(now, tag, C);
        assert!(s.is_empty());
    }

    #[test]
    fn families_take_turns_and_a_lone_one_waits_for_nobody() {
        let mut s = Swarm::default();
        let v6 = |n: u16| SocketAddr::from((Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, n), 1000));
        (0..4).for_each(|n| assert!(s.add(at(0), addr(n), Source::Tracker)));
        (0..2).for_each(|n| assert!(s.add(at(1), v6(n), Source::Tracker)));
        assert_eq!((s.next_due(), s.next(at(0), false).map(|d| d.1)), (Some(at(0)), Some(addr(0))));
        assert_eq!(s.next(at(0), false).map(|d| d.1), Some(addr(1)), "nobody else is due");
        let rest: Vec<_> = std::iter::from_fn(|| s.next(at(1), false)).map(|d| d.1).collect();
        assert_eq!(rest, [v6(0), addr(2), v6(1), addr(3)]);
        assert_eq!(s.next_due(), None);
    }

    #[test]
    fn a_lack_of_sockets_is_not_held_against_an_address() {
        let mut s = Swarm::default();
        s.add(at(0), addr(1), Source::Tracker);
        let mut now = at(0);
        for _ in 0..2 * FAILS_MAX {
            let (tag, _) = s.next(now, false).expect("due");
            s.attach(tag, C);
            s.postponed(now, tag, C);
            assert_eq!(s.next_due(), Some(now + POSTPONE));
            now += POSTPONE;
        }
        assert_eq!(s.worth_keeping(9).count(), 1);
    }

    #[test]
    fn ourselves_and_banned_hosts_are_never_dialled_again() {
        let mut s = Swarm::default();
        s.add(at(0), addr(1), Source::User);
        let (tag, _) = s.next(at(0), false).expect("due");
        s.attach(tag, C);
        s.bar(tag);
        s.failed(at(0), tag, C);
        assert_eq!(s.next_due(), None);
        assert!(!s.add(at(9), addr(1), Source::Tracker));
        s.add(at(9), addr(2), Source::Tracker);
        let (tag, _) = s.next(at(9), false).expect("due");
        s.ban(tag);
        let mut other_port = addr(2);
        other_port.set_port(99);
        assert!(!s.add(at(9), other_port, Source::Tracker));
        assert_eq!(s.incoming(other_port), None);
    }

    #[test]
    fn a_ban_is_not_dodged_by_another_address_of_the_same_network() {
        let mut s = Swarm::default();
        let at6 = |net: u16, host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, net, 0, 0, 0, host], 6881));
        let tag = s.incoming(at6(1, 1)).expect("let in");
        s.ban(tag);
        assert!(s.incoming(at6(1, 2)).is_none() && !s.add(at(0), at6(1, 3), Source::Tracker));
        assert!(s.incoming(at6(2, 1)).is_some(), "another network");
        let tag = s.incoming(addr(1)).expect("let in");
        s.ban(tag);
        assert!(s.incoming("[::ffff:10.0.0.1]:99".parse().expect("an address")).is_none(), "in another dress");
    }

    #[test]
    fn bans_are_bounded_and_the_first_is_forgotten_first() {
        let mut s = Swarm::default();
        for i in 0..=limits::BANNED as u16 {
            let tag = s.incoming(addr(i)).expect("let in");
            s.ban(tag);
            assert_eq!(s.banned.len(), (usize::from(i) + 1).min(limits::BANNED));
        }
        assert!(!s.is_banned(&addr(0)) && s.is_banned(&addr(1)) && s.is_banned(&addr(limits::BANNED as u16)));
        assert_eq!(s.bans.len(), limits::BANNED);
    }

    #[test]
    fn mapped_addresses_and_nonsense() {
        let mut s = Swarm::default();
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:6881".parse().expect("an address");
        assert!(s.add(at(0), mapped, Source::Tracker));
        assert!(!s.add(at(0), addr(1), Source::Tracker), "the same address");
        for bad in ["0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "1.2.3.4:0", "[ff02::1]:1"] {
            assert!(!s.add(at(0), bad.parse().expect("an address"), Source::Tracker), "{bad}");
        }
    }

    #[test]
    fn the_list_is_bounded_and_failures_make_room() {
        let mut s = Swarm::default();
        for i in 0..limits::SWARM as u16 {
            assert!(s.add(at(0), addr(i), Source::Tracker));
        }
        assert!(!s.add(at(0), addr(5000), Source::Tracker), "full of addresses that have not failed");
        let (tag, gone) = s.next(at(0), false).expect("due");
        s.attach(tag, C);
        s.failed(at(0), tag, C);
        assert!(s.add(at(0), addr(5000), Source::Tracker));
        assert_eq!(s.len(), limits::SWARM);
        assert!(!s.by_addr.contains_key(&gone));
    }

    #[test]
    fn there_is_an_address_for_each_peer_it_may_have() {
        let peers = limits::SWARM + 500;
        let mut s = Swarm::for_peers(peers);
        let known =
            (0..2 * peers as u16).filter(|i| s.incoming(addr(*i)).map(|tag| s.attach(tag, C)).is_some()).count();
        assert_eq!(known, peers);
        assert_eq!(Swarm::for_peers(usize::MAX).most(), (1 << SLOT_BITS) - 1, "a tag has no room for more");
    }

    #[test]
    fn whoever_lacks_pieces_again_dials_seeds_again() {
        let mut s = Swarm::default();
        s.add(at(0), addr(1), Source::Tracker);
        s.set_seed(*s.by_addr.get(&addr(1)).expect("known"));
        assert_eq!(s.next(at(1), true), None);
        assert_eq!(s.next(at(1), false), None, "passed over");
        s.revive(at(2));
        assert_eq!(s.next(at(2), false).map(|(_, a)| a), Some(addr(1)));
    }

    #[test]
    fn a_seed_does_not_dial_seeds() {
        let mut s = Swarm::default();
        s.add(at(0), addr(1), Source::Tracker);
        let tag = *s.by_addr.get(&addr(1)).expect("known");
        s.set_seed(tag);
        assert_eq!(s.next(at(1), true), None);
    }
}
