//! Who may download from us: the choker of one torrent.
//!
//! A pure function of the candidates, the time and the dice, run every ten seconds. It sends
//! nothing, measures nothing and holds no list of peers; the torrent carries out its decisions.
//!
//! Of `slots` slots a fifth, but at least one if there are two, are *optimistic*; the others are
//! *regular*.
//!
//! - **Leeching**, regular slots go to the peers that give us most (verified bytes a second), never
//!   to one that gives nothing or snubs us. Slots that nobody earned become optimistic ones, so a
//!   torrent that just began, or is snubbed by everybody, looks for new partners with all of them.
//! - **Seeding**, regular slots stay with the peers that really take most. After a minute a turn is
//!   over for a peer that took its quota or next to nothing, after five minutes for everyone; then
//!   those wait first in line who have waited longest.
//! - **Optimistic** slots are drawn by lot and last 30 s, or until the peer earns a regular one.
//!   Peers met less than a minute ago have three lots. Who had the last turn draws only if nobody
//!   else waits.
//!
//! An unchoke lasts ten seconds at least, as long as the peer is interested. A peer that becomes
//! interested while a slot is free gets it at once ([`Choker::on_interested`]), but not within ten
//! seconds of its last unchoke: a peer that flaps costs one unchoke a round.
//!
//! Invariants: no more than `slots` peers are left unchoked; nobody uninterested or upload-only is;
//! equal inputs give equal decisions, whatever the order of the candidates.
//!
//! Source: [BEP 3](https://www.bittorrent.org/beps/bep_0003.html), "choking and optimistic
//! unchoking"; upload-only peers are those of [BEP 21](https://www.bittorrent.org/beps/bep_0021.html).

use crate::id::ConnKey;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::cmp::Reverse;

/// Time between two runs, and the shortest unchoke.
pub const ROUND: Duration = Duration::from_secs(10);
/// How long an optimistic unchoke lasts.
pub const OPTIMISTIC: Duration = Duration::from_secs(30);
/// A peer met more recently than this has three lots.
pub const NEWLY_MET: Duration = Duration::from_secs(60);
/// Shortest turn of a peer while seeding, unless faster ones come.
pub const TURN: Duration = Duration::from_secs(60);
/// Longest turn of a peer while seeding, if others wait.
pub const LONGEST_TURN: Duration = Duration::from_secs(300);
/// Bytes a second below which a turn is not being used.
pub const IDLE_RATE: u64 = 1024;

/// A connected peer, as the choker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its connection.
    pub conn: ConnKey,
    /// It wants pieces of ours.
    pub interested: bool,
    /// We have it unchoked now.
    pub unchoked: bool,
    /// It owes us blocks and has sent none for a minute.
    pub snubbed: bool,
    /// Bytes a second: what it gave us and was verified (leeching), or what it took (seeding).
    pub rate: u64,
    /// When the connection was made.
    pub connected_at: Instant,
    /// When it was last unchoked; [`Instant::ZERO`] if never.
    pub unchoked_at: Instant,
    /// Its present unchoke is an optimistic one.
    pub optimistic: bool,
    /// Bytes it took since it was last unchoked.
    pub uploaded_since_unchoke: u64,
    /// It said that it will not download (BEP 21).
    pub upload_only: bool,
}

/// What is to change for one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The peer.
    pub conn: ConnKey,
    /// It is to be unchoked (or stay so) rather than choked (or stay so).
    pub unchoke: bool,
    /// The unchoke is an optimistic one.
    pub optimistic: bool,
}

/// The choker of one torrent.
#[derive(Clone, Debug)]
pub struct Choker {
    next: Instant,
    quota: u64,
}

/// Where a candidate ends up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    None,
    Regular,
    Optimistic,
}

impl Choker {
    /// A choker whose first round is ten seconds from now, with a quota of 20 MiB.
    pub fn new(now: Instant) -> Self {
        Self { next: now + ROUND, quota: 20 << 20 }
    }

    /// Bytes after which a turn is over while seeding: 20 pieces are usual.
    pub fn set_quota(&mut self, bytes: u64) {
        self.quota = bytes;
    }

    /// When [`Choker::rechoke`] wants to be called next.
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// A peer became interested: may it be unchoked at once, as an optimistic one, rather than in
    /// the next round? `recently_unchoked`: it was unchoked less than [`ROUND`] ago.
    pub fn on_interested(&mut self, _now: Instant, slots_in_use: usize, slots: usize, recently_unchoked: bool) -> bool {
        slots_in_use < slots && !recently_unchoked
    }

    /// One round: what is to change, in the order of the connections. Sorts `peers`.
    pub fn rechoke(
        &mut self,
        now: Instant,
        seeding: bool,
        slots: usize,
        peers: &mut [Candidate],
        rng: &mut Rng,
    ) -> Vec<Decision> {
        // Those of all torrents fall together.
        self.next = (now + ROUND).floor_second();
        peers.sort_unstable_by_key(|p| p.conn);
        let mut given = vec![Slot::None; peers.len()];
        let optimistic = if slots > 1 { (slots / 5).max(1) } else { 0 };
        let regular = slots - optimistic;

        let earned = if seeding { self.by_taking(now, peers) } else { by_giving(peers) };
        for &i in earned.iter().take(regular) {
            given[i] = Slot::Regular;
        }
        let mut left = slots - earned.len().min(regular);
        for i in in_their_term(now, peers) {
            if left > 0 && given[i] == Slot::None {
                given[i] = Slot::Optimistic;
                left -= 1;
            }
        }
        draw(now, peers, &mut given, left, rng);

        let changes = peers.iter().zip(given).filter_map(|(p, slot)| {
            let (unchoke, optimistic) = (slot != Slot::None, slot == Slot::Optimistic);
            let same = p.unchoked == unchoke && (p.optimistic == optimistic || !unchoke);
            (!same).then_some(Decision { conn: p.conn, unchoke, optimistic })
        });
        changes.collect()
    }

    /// Seeding: who takes most and has its turn, then who waits, the longest waiting first.
    fn by_taking(&self, now: Instant, peers: &[Candidate]) -> Vec<usize> {
        let waiting = peers.iter().any(|p| wants(p) && !p.unchoked);
        let mut order: Vec<_> = (0..peers.len()).filter(|&i| wants(&peers[i])).collect();
        order.retain(|&i| !(waiting && peers[i].unchoked && self.turn_is_over(now, &peers[i])));
        order.sort_by_key(|&i| {
            let p = &peers[i];
            if p.unchoked {
                (0, Reverse(p.rate), p.unchoked_at, p.connected_at)
            } else {
                (1, Reverse(0), p.unchoked_at, p.connected_at)
            }
        });
        order
    }

    fn turn_is_over(&self, now: Instant, p: &Candidate) -> bool {
        let turn = now - p.unchoked_at;
        turn >= LONGEST_TURN || turn >= TURN && (p.uploaded_since_unchoke >= self.quota || p.rate < IDLE_RATE)
    }
}

fn wants(p: &Candidate) -> bool {
    p.interested && !p.upload_only
}

/// Leeching: who gives most; of equals, who has a slot already.
fn by_giving(peers: &[Candidate]) -> Vec<usize> {
    let earns = |p: &Candidate| wants(p) && !p.snubbed && p.rate > 0;
    let mut order: Vec<_> = (0..peers.len()).filter(|&i| earns(&peers[i])).collect();
    order.sort_by_key(|&i| (Reverse(peers[i].rate), !peers[i].unchoked));
    order
}

/// Peers whose unchoke is too young to be taken back: the youngest round's first, then the
/// optimistic ones, the latest first.
fn in_their_term(now: Instant, peers: &[Candidate]) -> Vec<usize> {
    let age = |p: &Candidate| now - p.unchoked_at;
    let holds = |p: &Candidate| age(p) < ROUND || p.optimistic && age(p) < OPTIMISTIC;
    let mut order: Vec<_> = (0..peers.len()).filter(|&i| wants(&peers[i]) && peers[i].unchoked).collect();
    order.retain(|&i| holds(&peers[i]));
    order.sort_by_key(|&i| Reverse(peers[i].unchoked_at));
    order
}

/// Gives the slots that are left by lot: to those who wait, then to those whose term has ended.
fn draw(now: Instant, peers: &[Candidate], given: &mut [Slot], mut left: usize, rng: &mut Rng) {
    for had_a_turn in [false, true] {
        let out = |i: usize, given: &[Slot]| wants(&peers[i]) && given[i] == Slot::None;
        let mut hat: Vec<_> = (0..peers.len()).filter(|&i| out(i, given) && peers[i].unchoked == had_a_turn).collect();
        let lots = |i: usize| if now - peers[i].connected_at < NEWLY_MET { 3 } else { 1 };
        let mut total: usize = hat.iter().map(|&i| lots(i)).sum();
        while left > 0 && !hat.is_empty() {
            let mut lot = rng.usize(0..total);
            let mut at = 0;
            while lot >= lots(hat[at]) {
                lot -= lots(hat[at]);
                at += 1;
            }
            let i = hat.remove(at);
            total -= lots(i);
            given[i] = Slot::Optimistic;
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::seeded;

    /// A torrent whose choker is run every round, as the caller would.
    struct Rig {
        choker: Choker,
        now: Instant,
        peers: Vec<Candidate>,
        rng: Rng,
    }

    impl Rig {
        fn new(rates: &[u64]) -> Self {
            let now = Instant::from_secs(1000);
            let peer = |(i, &rate): (usize, &u64)| Candidate {
                conn: ConnKey::new(i as u32, 1),
                interested: true,
                unchoked: false,
                snubbed: false,
                rate,
                connected_at: Instant::from_secs(10),
                unchoked_at: Instant::ZERO,
                optimistic: false,
                uploaded_since_unchoke: 0,
                upload_only: false,
            };
            let peers = rates.iter().enumerate().map(peer).collect();
            Self { choker: Choker::new(now), now, peers, rng: seeded(3) }
        }

        /// One round at the choker's time; the changes, carried out.
        fn round(&mut self, seeding: bool, slots: usize) -> Vec<Decision> {
            self.now = self.choker.next();
            let mut seen = self.peers.clone();
            self.rng.shuffle(&mut seen);
            let changes = self.choker.rechoke(self.now, seeding, slots, &mut seen, &mut self.rng);
            for d in &changes {
                let peer = self.peers.iter_mut().find(|p| p.conn == d.conn).unwrap();
                assert!(peer.unchoked != d.unchoke || peer.optimistic != d.optimistic, "{d:?} changes nothing");
                if d.unchoke && !peer.unchoked {
                    (peer.unchoked_at, peer.uploaded_since_unchoke) = (self.now, 0);
                }
                (peer.unchoked, peer.optimistic) = (d.unchoke, d.optimistic);
            }
            let unchoked = self.peers.iter().filter(|p| p.unchoked);
            assert!(unchoked.clone().count() <= slots, "no more than the slots");
            assert!(unchoked.clone().all(wants), "nobody who does not want it");
            changes
        }

        fn unchoked(&self) -> Vec<usize> {
            self.peers.iter().filter(|p| p.unchoked).map(|p| p.conn.index()).collect()
        }

        fn optimistic(&self) -> Vec<usize> {
            self.peers.iter().filter(|p| p.unchoked && p.optimistic).map(|p| p.conn.index()).collect()
        }
    }

    #[test]
    fn leeching_those_who_give_most_have_the_regular_slots() {
        let mut rig = Rig::new(&[10, 50, 20, 0, 40, 30, 0, 0]);
        rig.peers[1].interested = false;
        rig.peers[4].upload_only = true;
        rig.round(false, 4);
        assert_eq!(rig.now, Instant::from_secs(1010), "the first round, ten seconds in");
        assert_eq!(rig.choker.next(), Instant::from_secs(1020));
        let unchoked = rig.unchoked();
        assert!([0, 2, 5].iter().all(|i| unchoked.contains(i)) && unchoked.len() == 4, "{unchoked:?}");
        assert_eq!(rig.optimistic().len(), 1);
        assert!(rig.round(false, 4).is_empty(), "nothing changed, nothing is changed");
        rig.peers[1].interested = true;
        let changes = rig.round(false, 4);
        assert!(changes.contains(&Decision { conn: ConnKey::new(1, 1), unchoke: true, optimistic: false }));
        assert!(changes.contains(&Decision { conn: ConnKey::new(0, 1), unchoke: false, optimistic: false }));
        assert_eq!(changes.len(), 2, "{changes:?}");
    }

    #[test]
    fn the_optimistic_slot_goes_round_every_thirty_seconds() {
        let mut rig = Rig::new(&[90, 80, 70, 0, 0, 0, 0, 0]);
        rig.round(false, 4);
        let mut turns = Vec::new();
        for _ in 0..200 {
            let who = rig.optimistic();
            assert_eq!(who.len(), 1);
            turns.push(who[0]);
            for _ in 0..2 {
                assert!(rig.round(false, 4).is_empty(), "its thirty seconds");
            }
            assert_eq!(rig.round(false, 4).len(), 2, "then one is choked and one unchoked");
        }
        assert!((3..8).all(|i| turns.iter().filter(|&&t| t == i).count() > 20), "everyone had some: {turns:?}");
        // Alone with those who have regular slots, it may stay.
        rig.peers.truncate(4);
        (0..8).for_each(|_| drop(rig.round(false, 4)));
        assert_eq!(rig.unchoked(), [0, 1, 2, 3]);
        assert!(rig.round(false, 4).is_empty());
    }

    #[test]
    fn who_was_just_met_has_three_lots() {
        let mut won = 0;
        for seed in 0..600 {
            let mut rig = Rig::new(&[90, 0, 0, 0, 0]);
            rig.rng = seeded(seed);
            rig.peers[2].connected_at = Instant::from_secs(951);
            rig.peers[3].connected_at = Instant::from_secs(950);
            rig.round(false, 2);
            won += usize::from(rig.optimistic() == [2]);
        }
        assert!((255..345).contains(&won), "{won} of 600, half of six lots");
    }

    #[test]
    fn snubbed_and_useless_peers_make_room_for_optimistic_slots() {
        let mut rig = Rig::new(&[90, 80, 70, 60, 0, 0, 0, 0]);
        rig.round(false, 5);
        assert_eq!(rig.optimistic().len(), 1);
        for i in 0..3 {
            rig.peers[i].snubbed = true;
        }
        rig.now = rig.choker.next();
        rig.round(false, 5);
        assert_eq!((rig.unchoked().len(), rig.optimistic().len()), (5, 4));
        assert!(rig.unchoked().contains(&3));
        let mut rig = Rig::new(&[0; 9]);
        rig.round(false, 4);
        assert_eq!(rig.optimistic().len(), 4, "nobody earned anything yet");
    }

    #[test]
    fn an_optimistic_peer_that_gives_is_made_regular() {
        let mut rig = Rig::new(&[90, 80, 0, 0]);
        rig.round(false, 3);
        let new = rig.optimistic()[0];
        rig.peers[new].rate = 85;
        let changes = rig.round(false, 3);
        assert!(changes.contains(&Decision { conn: rig.peers[new].conn, unchoke: true, optimistic: false }));
        assert!(rig.unchoked().contains(&0) && rig.unchoked().contains(&new) && rig.optimistic() != [new]);
    }

    #[test]
    fn seeding_a_turn_ends_with_its_quota_after_a_minute() {
        let mut rig = Rig::new(&[0; 6]);
        rig.choker.set_quota(1_000_000);
        rig.round(true, 2);
        let begun = rig.now;
        let regular = |rig: &Rig| (0..6).find(|&i| rig.peers[i].unchoked && !rig.peers[i].optimistic).unwrap();
        let first = regular(&rig);
        (rig.peers[first].rate, rig.peers[first].uploaded_since_unchoke) = (500_000, 5_000_000);
        while regular(&rig) == first {
            rig.round(true, 2);
        }
        assert_eq!(rig.now - begun, Duration::from_secs(60));
        assert!(!rig.peers[first].unchoked && rig.peers[first].unchoked_at == begun);
        rig.peers[first].rate = 0;
        // Everybody has had a turn before the first has another.
        let mut had = std::collections::BTreeSet::from([first]);
        while had.len() < 6 {
            rig.round(true, 2);
            let newly = rig.peers.iter().filter(|p| p.unchoked_at == rig.now).map(|p| p.conn.index());
            newly.for_each(|i| assert!(had.insert(i) || had.len() >= 5, "{i} again, after {had:?}"));
        }
    }

    #[test]
    fn seeding_who_waited_longest_is_next() {
        let mut rig = Rig::new(&[0; 10]);
        for (i, p) in rig.peers.iter_mut().enumerate() {
            p.unchoked_at = Instant::from_secs([500, 400, 300, 600, 700, 200, 800, 350, 900, 450][i]);
            p.connected_at = Instant::from_secs(100 - i as u64);
        }
        rig.round(true, 5);
        let regular: Vec<_> = rig.unchoked().into_iter().filter(|i| !rig.optimistic().contains(i)).collect();
        assert_eq!(regular, [1, 2, 5, 7]);
    }

    #[test]
    fn seeding_who_takes_well_stays_and_who_takes_nothing_goes() {
        let mut rig = Rig::new(&[0; 4]);
        rig.round(true, 2);
        let begun = rig.now;
        let stays = (0..4).find(|&i| rig.peers[i].unchoked && !rig.peers[i].optimistic).unwrap();
        rig.peers[stays].rate = 20_000;
        while rig.peers[stays].unchoked {
            rig.round(true, 2);
        }
        assert_eq!(rig.now - begun, LONGEST_TURN, "below its quota, but others wait");
        let mut rig = Rig::new(&[20_000, 20_000]);
        (0..60).for_each(|_| drop(rig.round(true, 2)));
        assert_eq!(rig.unchoked(), [0, 1], "while nobody waits, nobody goes");
        assert!(rig.peers.iter().all(|p| p.unchoked_at == Instant::from_secs(1010)));
    }

    #[test]
    fn seeding_the_fastest_takers_keep_the_regular_slots() {
        let mut rig = Rig::new(&[0; 6]);
        rig.round(true, 5);
        let order = [3000, 9000, 5000, 8000, 2000, 0];
        (0..6).for_each(|i| rig.peers[i].rate = order[i]);
        (0..3).for_each(|_| drop(rig.round(true, 5)));
        rig.round(true, 2);
        let regular: Vec<_> = rig.unchoked().into_iter().filter(|i| !rig.optimistic().contains(i)).collect();
        assert_eq!(regular, [1]);
    }

    #[test]
    fn a_young_unchoke_is_not_taken_back() {
        let mut rig = Rig::new(&[90, 80, 70, 0, 0]);
        // Unchoked on interest two seconds before the round.
        rig.peers[4] = Candidate { unchoked: true, unchoked_at: Instant::from_secs(1008), ..rig.peers[4] };
        rig.round(false, 4);
        assert!(rig.peers[4].unchoked);
        assert!(!rig.peers[3].unchoked);
    }

    #[test]
    fn interest_is_answered_at_once_if_there_is_room_and_not_twice_a_round() {
        let mut choker = Choker::new(Instant::ZERO);
        assert!(choker.on_interested(Instant::ZERO, 3, 4, false));
        assert!(!choker.on_interested(Instant::ZERO, 4, 4, false));
        assert!(!choker.on_interested(Instant::ZERO, 0, 4, true));
    }

    #[test]
    fn no_slots_no_peers() {
        let mut rig = Rig::new(&[5, 0]);
        assert!(rig.round(false, 0).is_empty());
        assert_eq!(rig.round(false, 1).len(), 1);
        assert_eq!(rig.unchoked(), [0], "a single slot is a regular one, if anyone earned it");
        assert_eq!(rig.round(true, 0).len(), 1);
        rig.peers.clear();
        assert!(rig.round(true, 9).is_empty());
    }
}
