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
        self.next = now + ROUND;
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
