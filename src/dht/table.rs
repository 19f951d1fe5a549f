//! The routing table of one family: nodes that have answered, in buckets by what their ids have in common
//! with ours (BEP 5).
//!
//! ```text
//! bucket  0    ids whose first bit differs from ours            8 nodes each: half of the world
//! bucket  1    the first bit is ours, the second differs                      a quarter
//! ..
//! the last     everything closer; it is split in two when it is full
//!
//! node:   good (answered within 15 min) -> questionable -> pinged: good again, or, after two silences, bad
//! ```
//!
//! A full bucket takes a newcomer only in place of a bad node, or of one whose id does not fit its address
//! (BEP 42) when the newcomer's does; otherwise the newcomer waits as a spare, and takes the place of the
//! next node that goes bad. Each network ([`id::network`]) has one node in a bucket.
//!
//! Nobody gets in here by asking, or by being named: only by answering a query of ours.
//!
//! Invariants: no address and no id is in here twice; a bucket holds [`K`] nodes and as many spares at most.

use std::net::SocketAddr;

use super::id::{self, NodeId};
use super::krpc::Contact;
use crate::time::{Duration, Instant};

/// Nodes in a bucket.
pub(super) const K: usize = 8;
/// A node that has answered within this long is good.
pub(super) const GOOD: Duration = Duration::from_secs(15 * 60);
/// A node that has not answered for so long is asked whether it is still there.
const ASK_AFTER: Duration = Duration::from_secs(12 * 60);
/// Queries in a row without an answer that make a node bad.
const FAILS: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) contact: Contact,
    /// When it last answered.
    seen: Instant,
    /// When it was last pinged because it was questionable.
    asked: Instant,
    fails: u8,
    fits: bool,
}

impl Entry {
    fn is_bad(&self) -> bool {
        self.fails >= FAILS
    }
    fn is_good(&self, now: Instant) -> bool {
        self.fails == 0 && now - self.seen < GOOD
    }
}

#[derive(Debug, Default)]
struct Bucket {
    nodes: Vec<Entry>,
    spares: Vec<Entry>,
    /// When it last changed or was refreshed.
    touched: Instant,
}

#[derive(Debug)]
pub(super) struct Table {
    own: NodeId,
    buckets: Vec<Bucket>,
}

impl Table {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, buckets: vec![Bucket::default()] }
    }

    fn index(&self, id: &NodeId) -> usize {
        self.own.common(id).min(self.buckets.len() - 1)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|b| &b.nodes)
    }

    /// How many nodes are in use.
    pub(super) fn len(&self) -> usize {
        self.buckets.iter().map(|b| b.nodes.len()).sum()
    }

    /// How many of them have answered lately.
    pub(super) fn good(&self, now: Instant) -> usize {
        self.entries().filter(|e| e.is_good(now)).count()
    }

    /// A node at this address is in use.
    pub(super) fn knows(&self, addr: SocketAddr) -> bool {
        self.entries().any(|e| e.contact.addr == addr)
    }

    /// There would be a place for a node with this id at this address, if it answered.
    pub(super) fn wants(&self, now: Instant, c: &Contact) -> bool {
        if c.id == self.own || self.knows(c.addr) {
            return false;
        }
        let bucket = &self.buckets[self.index(&c.id)];
        let last = self.buckets.len() - 1 == self.index(&c.id);
        let crowded = bucket.nodes.iter().any(|e| id::network(e.contact.addr.ip()) == id::network(c.addr.ip()));
        let fits = c.id.fits(c.addr.ip());
        !crowded
            && (bucket.nodes.len() < K
                || last && fits && self.buckets.len() < id::BITS
                || bucket.nodes.iter().any(|e| e.is_bad() || fits && !e.fits || !e.is_good(now))
                || bucket.spares.len() < K / 2)
    }

    /// A node has answered. True when it is new in here.
    pub(super) fn answered(&mut self, now: Instant, c: Contact) -> bool {
        if c.id == self.own {
            return false;
        }
        // Whoever has an id keeps it while it answers: it cannot be taken from outside.
        if self.entries().any(|e| e.contact.id == c.id && e.contact.addr != c.addr && e.is_good(now)) {
            return false;
        }
        // An address that changed its id, or an id that moved: what was known of it is void.
        let same = |e: &Entry| e.contact == c;
        let stale = |e: &Entry| (e.contact.addr == c.addr || e.contact.id == c.id) && !same(e);
        for bucket in &mut self.buckets {
            bucket.nodes.retain(|e| !stale(e));
            bucket.spares.retain(|e| !stale(e));
        }
        let i = self.index(&c.id);
        let bucket = &mut self.buckets[i];
        if let Some(e) = bucket.nodes.iter_mut().chain(&mut bucket.spares).find(|e| same(e)) {
            (e.seen, e.fails) = (now, 0);
            bucket.touched = now;
            return false;
        }
        let entry = Entry { contact: c, seen: now, asked: now, fails: 0, fits: c.id.fits(c.addr.ip()) };
        self.insert(now, entry)
    }

    fn insert(&mut self, now: Instant, new: Entry) -> bool {
        loop {
            let i = self.index(&new.contact.id);
            let last = i == self.buckets.len() - 1 && self.buckets.len() < id::BITS;
            let bucket = &mut self.buckets[i];
            let near = |e: &&mut Entry| id::network(e.contact.addr.ip()) == id::network(new.contact.addr.ip());
            if let Some(e) = bucket.nodes.iter_mut().find(near) {
                if e.is_bad() || new.fits && !e.fits {
                    *e = new;
                    return true;
                }
                return false;
            }
            if bucket.nodes.len() < K {
                bucket.nodes.push(new);
                bucket.touched = now;
                return true;
            }
            if let Some(e) = bucket.nodes.iter_mut().find(|e| e.is_bad() || new.fits && !e.fits) {
                *e = new;
                bucket.touched = now;
                return true;
            }
            if !last {
                if bucket.spares.len() >= K {
                    bucket.spares.remove(0);
                }
                bucket.spares.push(new);
                return false;
            }
            self.split();
        }
    }

    /// Makes of the last bucket two.
    fn split(&mut self) {
        let depth = self.buckets.len() - 1;
        let own = self.own;
        let last = &mut self.buckets[depth];
        let far = |e: &Entry| own.common(&e.contact.id) == depth;
        let mut next = Bucket { touched: last.touched, ..Bucket::default() };
        for (from, to) in [(&mut last.nodes, &mut next.nodes), (&mut last.spares, &mut next.spares)] {
            to.extend(from.iter().copied().filter(|e| !far(e)));
            from.retain(far);
        }
        self.buckets.push(next);
    }

    /// A node did not answer.
    pub(super) fn failed(&mut self, addr: SocketAddr) {
        for bucket in &mut self.buckets {
            bucket.spares.retain(|e| e.contact.addr != addr);
            let Some(i) = bucket.nodes.iter().position(|e| e.contact.addr == addr) else { continue };
            let e = &mut bucket.nodes[i];
            e.fails = e.fails.saturating_add(1);
            if e.is_bad() {
                if let Some(spare) = bucket.spares.pop() {
                    bucket.nodes[i] = spare;
                } else if e.fails >= 2 * FAILS {
                    bucket.nodes.swap_remove(i);
                }
            }
        }
    }

    /// The `n` nodes closest to `target` that are not bad, good ones and closest first.
    pub(super) fn closest(&self, now: Instant, target: &NodeId, n: usize) -> Vec<Contact> {
        let mut all: Vec<_> = self.entries().filter(|e| !e.is_bad()).collect();
        all.sort_by_cached_key(|e| (!e.is_good(now), e.contact.id.distance(target)));
        all.truncate(n);
        let mut found: Vec<_> = all.into_iter().map(|e| e.contact).collect();
        found.sort_by_cached_key(|c| c.id.distance(target));
        found
    }

    /// The node that has been silent longest, if that is long enough to ask it; it counts as asked then.
    pub(super) fn questionable(&mut self, now: Instant) -> Option<Contact> {
        let due = |e: &&mut Entry| {
            let again = if e.fails > 0 { Duration::from_secs(10) } else { ASK_AFTER };
            now - e.seen >= ASK_AFTER.min(again) && now - e.asked >= again
        };
        let all = self.buckets.iter_mut().flat_map(|b| &mut b.nodes);
        let e = all.filter(due).min_by_key(|e| e.seen)?;
        e.asked = now;
        Some(e.contact)
    }

    /// The bucket that has not changed for longest, if that is `age`: an id that lies in it, made from random
    /// bytes. It counts as refreshed then. Buckets with room come up `hungry` sooner.
    pub(super) fn stale(&mut self, now: Instant, age: Duration, hungry: Duration, random: NodeId) -> Option<NodeId> {
        let last = self.buckets.len() - 1;
        let due = |b: &Bucket| now - b.touched >= if b.nodes.len() < K { hungry } else { age };
        let (i, b) = self.buckets.iter_mut().enumerate().filter(|(_, b)| due(b)).min_by_key(|(_, b)| b.touched)?;
        b.touched = now;
        let id = random.with_prefix(&self.own, i);
        // Every bucket but the last differs from us in the bit after what it has in common.
        Some(if i < last { random.with_prefix(&self.own.with_bit_flipped(i), i + 1) } else { id })
    }

    /// Takes another id of our own; nodes stay as far as there is a place for them.
    pub(super) fn rename(&mut self, now: Instant, own: NodeId) {
        let old = std::mem::replace(self, Self::new(own));
        for e in old.buckets.into_iter().flat_map(|b| b.nodes.into_iter().chain(b.spares)) {
            if e.contact.id != own {
                self.insert(now, e);
            }
        }
    }

    /// All that are worth remembering, the most recent first.
    pub(super) fn worth_keeping(&self, n: usize) -> Vec<Contact> {
        let mut all: Vec<_> = self.entries().filter(|e| !e.is_bad()).collect();
        all.sort_by_key(|e| (std::cmp::Reverse(e.seen), e.contact));
        all.into_iter().take(n).map(|e| e.contact).collect()
    }

    /// Panics when something in here cannot be.
    pub(super) fn invariants(&self) {
        let mut seen = std::collections::BTreeSet::new();
        for (i, b) in self.buckets.iter().enumerate() {
            assert!(b.nodes.len() <= K && b.spares.len() <= K);
            for e in b.nodes.iter().chain(&b.spares) {
                assert_eq!(self.index(&e.contact.id), i, "{:?} is in the wrong bucket", e.contact);
                assert!(seen.insert((false, e.contact.addr.to_string())), "{:?} twice", e.contact);
                assert!(seen.insert((true, e.contact.id.to_string())), "{:?} twice", e.contact);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn at(id: NodeId, ip: [u8; 4]) -> Contact {
        Contact { id, addr: SocketAddr::from((ip, 6881)) }
    }

    fn random(r: &mut rng::Rng) -> NodeId {
        NodeId::new(std::array::from_fn(|_| r.u8(..)))
    }

    #[test]
    fn it_splits_around_its_own_id_and_finds_the_closest() {
        let mut r = rng::seeded(1);
        let own = random(&mut r);
        let mut t = Table::new(own);
        let now = Instant::from_secs(1);
        let mut all = Vec::new();
        for i in 0..500u16 {
            let ip = [20, (i >> 8) as u8, i as u8, 1];
            let c = at(random(&mut r).for_ip(ip.map(|b| b).into()), ip);
            all.push(c);
            t.answered(now, c);
            t.invariants();
        }
        // Eight from each half of what is left: log2(500 / 8) buckets or so are full.
        assert!((40..90).contains(&t.len()), "{}", t.len());
        all.sort_by_key(|c| c.id.distance(&own));
        assert_eq!(t.closest(now, &own, 8), all[..8], "it knows all that are close to itself");
        let target = random(&mut r);
        let found = t.closest(now, &target, 8);
        assert!(found.windows(2).all(|w| w[0].id.distance(&target) < w[1].id.distance(&target)));
        t.rename(now, target);
        t.invariants();
        assert!(t.len() >= 2 * K, "most were close to the old id, and have one bucket between them: {}", t.len());
    }

    #[test]
    fn a_network_has_one_place_and_fitting_ids_displace_others() {
        let own = NodeId::new([0; 20]);
        let mut t = Table::new(own);
        let now = Instant::from_secs(1);
        let far = |i: u8| NodeId::new([0x80 | i; 20]);
        assert!(t.answered(now, at(far(0), [20, 0, 0, 1])));
        assert!(!t.wants(now, &at(far(1), [20, 0, 0, 2])), "the same /24");
        assert!(!t.answered(now, at(far(1), [20, 0, 0, 2])));
        assert!(t.answered(now, at(far(2), [10, 0, 0, 1])) && t.answered(now, at(far(3), [10, 0, 0, 2])), "local");
        for i in 1..6 {
            assert!(t.answered(now, at(far(3 + i), [20, i, 0, 1])));
        }
        assert_eq!(t.len(), 8);
        // All of the public ones have made up their ids.
        let mut id = NodeId::new([0xFF; 20]);
        let honest = (0..=255u8)
            .map(|i| {
                id = NodeId::new([i; 20]).for_ip([30, 0, 0, i].into());
                at(id, [30, 0, 0, i])
            })
            .find(|c| own.common(&c.id) == 0)
            .unwrap();
        assert!(t.answered(now, honest), "an honest id takes the place of a made-up one");
        assert_eq!(t.len(), 8);
        let made_up = at(far(77), [40, 0, 0, 1]);
        assert!(!t.answered(now, made_up), "the other way round it does not");
        t.invariants();
    }

    #[test]
    fn silence_makes_questionable_and_then_bad() {
        let mut t = Table::new(NodeId::new([0; 20]));
        let c = |i: u8| at(NodeId::new([0x80 | i; 20]), [10, 0, 0, i]);
        for i in 0..10 {
            t.answered(Instant::from_secs(i.into()), c(i));
        }
        assert_eq!((t.len(), t.good(Instant::from_secs(20))), (8, 8));
        assert_eq!(t.questionable(Instant::from_secs(700)), None);
        let later = Instant::from_secs(730);
        assert_eq!(t.questionable(later), Some(c(0)), "the one that was silent longest");
        assert_eq!(t.questionable(later), Some(c(1)), "the next; each is asked once");
        t.failed(c(0).addr);
        assert!(t.closest(later, &c(0).id, 8).contains(&c(0)), "one silence may be chance");
        t.failed(c(0).addr);
        assert_eq!(t.closest(later, &c(0).id, 9).len(), 8, "a spare takes its place");
        assert!(!t.knows(c(0).addr) && t.knows(c(9).addr));
        t.answered(later, c(1));
        assert_eq!(t.good(Instant::from_secs(15 * 60 + 20)), 1, "the others are questionable");
        // An id cannot be taken while its owner answers, but it may move when that is gone.
        let thief = at(c(1).id, [10, 9, 9, 9]);
        assert!(!t.answered(later, thief) && t.knows(c(1).addr));
        assert!(t.answered(later + GOOD, thief) && !t.knows(c(1).addr));
        t.invariants();
    }
}
