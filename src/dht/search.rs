//! One iterative search: closer and closer nodes are asked, until the closest have answered (BEP 5).
//!
//! ```text
//! named -> New -> Asked -- answer --> Answered (with a token, for an announce)
//!                  |  |-- 1 s -----> the next one may be asked meanwhile
//!                  |---- error, time-out, another id than it was named with --> Failed
//! ```
//!
//! Made for a world in which some lie. An entry is somebody's word until its node has answered:
//! - only answers count: names of nodes that are not there delay the end, they do not bring it;
//! - one node of a network is asked at a time; if it fails, another of that network may be;
//! - ids that do not fit their address (BEP 42) are asked, up to [`MISFITS`] of them, but the search goes on until
//!   [`K`] others have answered, and those are announced to;
//! - an answer counts under the id it came with, wherever the node was said to be.
//!
//! Bounded: [`CANDIDATES`] remembered, [`QUERIES`] made, [`PATIENCE`] in all.

use std::net::SocketAddr;

use super::id::{self, NodeId};
use super::krpc::Contact;
use super::table::K;
use crate::time::{Duration, Instant, earlier};

/// Queries of one search under way at once, those that are late apart.
const WIDTH: usize = 5;
/// A query that is not answered for so long is late: it does not keep others from being made.
const LATE: Duration = Duration::from_secs(1);
const CANDIDATES: usize = 128;
const QUERIES: usize = 128;
const MISFITS: usize = 16;
/// Sooner or later, every search ends.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a search is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goal {
    /// Nodes: to fill the table.
    Nodes,
    /// Peers, and to announce to the closest nodes.
    Peers,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    New,
    Asked(Instant),
    Answered(Option<Vec<u8>>),
    Failed,
}

#[derive(Clone, Debug)]
struct Candidate {
    contact: Contact,
    state: State,
    fits: bool,
    /// Its id is made up by us: it stands at the far end and does not count.
    seed: bool,
}

/// A search in one family.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) v6: bool,
    pub(super) target: NodeId,
    pub(super) goal: Goal,
    /// Peers it has found.
    pub(super) found: usize,
    /// By distance.
    candidates: Vec<Candidate>,
    asked: usize,
    misfits: usize,
    until: Instant,
}

impl Search {
    pub(super) fn new(now: Instant, v6: bool, target: NodeId, goal: Goal) -> Self {
        let until = now + PATIENCE;
        Self { v6, target, goal, found: 0, candidates: Vec::new(), asked: 0, misfits: 0, until }
    }

    /// Somebody named a node.
    pub(super) fn add(&mut self, contact: Contact) {
        if contact.addr.is_ipv6() == self.v6 && !self.candidates.iter().any(|c| c.contact == contact) {
            let fits = contact.id.fits(contact.addr.ip());
            self.place(Candidate { contact, state: State::New, fits, seed: false });
        }
    }

    /// A node of which nothing but the address is known.
    pub(super) fn add_seed(&mut self, addr: SocketAddr) {
        if addr.is_ipv6() == self.v6 && !self.candidates.iter().any(|c| c.contact.addr == addr) {
            let far = NodeId::new(self.target.distance(&NodeId::new([0xFF; 20])));
            let contact = Contact { id: far, addr };
            self.place(Candidate { contact, state: State::New, fits: true, seed: true });
        }
    }

    fn place(&mut self, new: Candidate) {
        let key = |c: &Candidate| (c.contact.id.distance(&self.target), c.contact.addr);
        let at = self.candidates.partition_point(|c| key(c) < key(&new));
        self.candidates.insert(at, new);
        if self.candidates.len() > CANDIDATES {
            // The farthest that nobody has asked; what was asked is needed to recognise its answer.
            let spare = self.candidates.iter().rposition(|c| matches!(c.state, State::New | State::Failed));
            self.candidates.remove(spare.unwrap_or(self.candidates.len() - 1));
        }
    }

    fn busy(&self, now: Instant) -> usize {
        self.candidates.iter().filter(|c| matches!(c.state, State::Asked(at) if now - at < LATE)).count()
    }

    /// It may be asked: nobody of its network is being asked, or has answered.
    fn is_free(&self, c: &Candidate) -> bool {
        let network = id::network(c.contact.addr.ip());
        let same = |o: &Candidate| {
            matches!(o.state, State::Asked(_) | State::Answered(_)) && id::network(o.contact.addr.ip()) == network
        };
        c.state == State::New && (c.fits || self.misfits < MISFITS) && !self.candidates.iter().any(same)
            // Two names for one address: the same node.
            || c.state == State::New && c.seed
    }

    /// The first that could be asked, among those that could still change the outcome.
    fn candidate(&self) -> Option<usize> {
        let mut good = 0;
        for (i, c) in self.candidates.iter().enumerate() {
            if good >= K {
                break;
            }
            good += usize::from(c.fits && !c.seed && matches!(c.state, State::Answered(_)));
            if self.is_free(c) {
                return Some(i);
            }
        }
        None
    }

    /// The node to ask next; tell with [`Search::asked`] when that has been done.
    pub(super) fn next(&self, now: Instant) -> Option<Contact> {
        if now >= self.until || self.asked >= QUERIES || self.busy(now) >= WIDTH {
            return None;
        }
        self.candidate().map(|i| self.candidates[i].contact)
    }

    /// It is being asked.
    pub(super) fn asked(&mut self, now: Instant, contact: Contact) {
        if let Some(c) = self.candidates.iter_mut().find(|c| c.contact == contact) {
            c.state = State::Asked(now);
            self.misfits += usize::from(!c.fits);
            self.asked += 1;
        }
    }

    fn being_asked(&self, addr: SocketAddr) -> Option<usize> {
        self.candidates.iter().position(|c| c.contact.addr == addr && matches!(c.state, State::Asked(_)))
    }

    /// The node at this address has answered, with this id.
    pub(super) fn answered(&mut self, from: Contact, token: Option<&[u8]>) {
        let Some(i) = self.being_asked(from.addr) else { return };
        self.candidates.remove(i);
        self.candidates.retain(|c| c.contact != from);
        let state = State::Answered(token.map(<[u8]>::to_vec));
        self.place(Candidate { contact: from, state, fits: from.id.fits(from.addr.ip()), seed: false });
    }

    /// It did not answer, or not with an answer.
    pub(super) fn failed(&mut self, addr: SocketAddr) {
        if let Some(i) = self.being_asked(addr) {
            self.candidates[i].state = State::Failed;
        }
    }

    /// Whether the closest nodes have answered, or nobody is left to be asked.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        if now >= self.until {
            return true;
        }
        let waiting = self.candidates.iter().any(|c| matches!(c.state, State::Asked(_)));
        if self.asked < QUERIES && self.candidate().is_some() {
            return false;
        }
        let mut good = 0;
        for c in &self.candidates {
            match c.state {
                State::Asked(at) if now - at < LATE => return false,
                State::Answered(_) if c.fits && !c.seed => good += 1,
                _ => {}
            }
            if good >= K {
                return true;
            }
        }
        // Fewer than wanted: those that are late are waited for.
        !waiting
    }

    /// When something is to be done although nothing comes.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let late = self.candidates.iter().filter_map(|c| match c.state {
            State::Asked(at) if now - at < LATE => Some(at + LATE),
            _ => None,
        });
        earlier(late.min(), Some(self.until))
    }

    /// Whom to announce to, with their tokens: the closest that answered and whose id fits; others only as
    /// far as those are too few.
    pub(super) fn closest(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut all: Vec<_> = self
            .candidates
            .iter()
            .filter_map(|c| match &c.state {
                State::Answered(Some(token)) => Some((!c.fits, c.contact.addr, token)),
                _ => None,
            })
            .collect();
        all.sort_by_key(|(misfit, ..)| *misfit);
        all.truncate(K);
        all.into_iter().map(|(_, addr, token)| (addr, token.clone())).collect()
    }

    /// How many have answered.
    pub(super) fn answers(&self) -> usize {
        self.candidates.iter().filter(|c| matches!(c.state, State::Answered(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::ZERO;

    /// A node at `ip` whose id fits it, with the bits behind the prefix all `fill`.
    fn node(ip: [u8; 4], fill: u8) -> Contact {
        Contact { id: NodeId::new([fill; 20]).for_ip(ip.into()), addr: SocketAddr::from((ip, 6881)) }
    }

    fn ask(s: &mut Search, now: Instant) -> Vec<Contact> {
        std::iter::from_fn(|| {
            let c = s.next(now)?;
            s.asked(now, c);
            Some(c)
        })
        .collect()
    }

    #[test]
    fn it_asks_the_closest_five_at_a_time_and_ends_with_the_closest_eight() {
        let target = NodeId::new([0; 20]);
        let mut s = Search::new(NOW, false, target, Goal::Peers);
        let mut all: Vec<_> = (1..=40).map(|i| node([20, i, 0, 1], i)).collect();
        all.iter().for_each(|c| s.add(*c));
        all.iter().for_each(|c| s.add(*c));
        all.sort_by_key(|c| c.id.distance(&target));
        assert_eq!(ask(&mut s, NOW), all[..5]);
        // One is silent: after a second another one is asked in its place.
        all[1..5].iter().for_each(|c| s.answered(*c, Some(b"t")));
        assert_eq!(ask(&mut s, NOW), all[5..9]);
        assert_eq!(s.deadline(NOW), Some(NOW + LATE));
        let later = NOW + LATE;
        assert_eq!(ask(&mut s, later).len(), 5, "those asked first are late");
        for c in &all[5..8] {
            s.answered(*c, Some(b"t"));
            assert!(!s.is_done(later));
        }
        s.answered(all[8], None);
        // Eight have answered; of those that are on their way none is closer.
        assert!(s.is_done(later), "{s:?}");
        assert_eq!(s.closest().len(), 7, "one gave no token");
        s.failed(all[0].addr);
        assert!(s.is_done(later) && s.next(later).is_none());
    }

    #[test]
    fn a_network_is_asked_once_unless_it_fails() {
        let mut s = Search::new(NOW, false, NodeId::new([0; 20]), Goal::Nodes);
        let (a, b) = (node([20, 1, 1, 1], 1), node([20, 1, 1, 2], 2));
        s.add(a);
        s.add(b);
        let first = ask(&mut s, NOW);
        assert_eq!(first.len(), 1);
        s.failed(first[0].addr);
        assert_eq!(ask(&mut s, NOW).len(), 1, "the name was wrong, perhaps the other is right");
        assert!(!s.is_done(NOW));
        assert!(s.is_done(NOW + PATIENCE));
    }

    #[test]
    fn made_up_ids_do_not_end_a_search_nor_get_the_announce() {
        let target = NodeId::new([0; 20]);
        let mut s = Search::new(NOW, false, target, Goal::Peers);
        for i in 1..=30 {
            // All of them closer to the target than anybody honest.
            s.add(Contact {
                id: NodeId::new([0; 20]).with_bit_flipped(100 + usize::from(i)),
                addr: SocketAddr::from(([30, i, 1, 1], 1)),
            });
        }
        let honest: Vec<_> = (1..=8).map(|i| node([20, i, 0, 1], i)).collect();
        honest.iter().for_each(|c| s.add(*c));
        let mut asked = 0;
        for _ in 0..20 {
            for c in ask(&mut s, NOW) {
                s.answered(c, Some(b"t"));
                asked += 1;
            }
        }
        assert!(s.is_done(NOW));
        assert_eq!(asked, 8 + MISFITS);
        let to: Vec<_> = s.closest().into_iter().map(|(a, _)| a).collect();
        assert!(to.len() == 8 && honest.iter().all(|c| to.contains(&c.addr)), "{to:?}");
    }

    #[test]
    fn an_answer_counts_where_it_says_it_is() {
        let target = NodeId::new([0; 20]);
        let mut s = Search::new(NOW, false, target, Goal::Peers);
        s.add_seed("10.0.0.1:1".parse().unwrap());
        // An honest node's address, said to have an id next to the target.
        let honest = node([20, 1, 1, 1], 0xFF);
        s.add(Contact { id: target.with_bit_flipped(159), addr: honest.addr });
        s.add(honest);
        assert_eq!(ask(&mut s, NOW).len(), 2);
        s.answered(honest, Some(b"t"));
        s.answered(Contact { id: NodeId::new([0x55; 20]), addr: "10.0.0.1:1".parse().unwrap() }, None);
        assert_eq!((s.answers(), s.candidates.len()), (2, 2));
        assert!(s.candidates.iter().all(|c| !c.seed) && s.is_done(NOW));
    }
}
