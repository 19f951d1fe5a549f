//! Fetching the info dictionary from peers (BEP 9): which pieces to ask of whom, and whom to blame.
//!
//! ```text
//!             sizes are claimed           all pieces are here, and the hash is right
//!   waiting ─────────────────▶ attempt ──────────────────────────────────────────▶ over
//!      ▲                          │ hash wrong: all from one peer: that one is guilty
//!      └──────────────────────────┘             from several: from now on one peer at a time
//! ```
//!
//! An attempt is for one size: the one that most peers claim. Its pieces are asked of all who claim it,
//! [`PER_PEER`] of one and [`limits::METADATA_REQUESTS`] in all. Who does not answer in time, or refuses, is left
//! alone for a while, and does not count when the size is chosen; when nobody of that size is left, or nothing comes
//! for a while, it is another size's turn. After an attempt with several senders has failed, each further one is made
//! with one peer alone, so that whoever fails it has given all of it. A liar costs one attempt that way, and then
//! no more.
//!
//! Nothing is allocated by what a size says: pieces are kept as they come.
//!
//! Not here: the messages, the connections, what becomes of the guilty, and what the dictionary says.
//!
//! [BEP 9](https://www.bittorrent.org/beps/bep_0009.html)

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use crate::config::limits;
use crate::id::{ConnKey, InfoHash, PeerTag};
use crate::rng::Rng;
use crate::time::{Duration, Instant, earlier};
use crate::wire::metadata::{piece_len, pieces};

/// Requests outstanding at one peer.
const PER_PEER: usize = 8;
/// A request without an answer for so long may be made to another peer as well.
const STALE: Duration = Duration::from_secs(3);
/// A request without an answer for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Who did not answer is asked nothing for so long.
const HOLD: Duration = Duration::from_secs(20);
/// Who refused is asked nothing for between [`HOLD`] and [`HOLD`] and so much.
const HOLD_MORE: u64 = 50;
/// An attempt with one peer alone may take so long.
const ALONE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Ask {
    piece: u32,
    at: Instant,
    /// Given up, but an answer is welcome still.
    late: bool,
}

/// A peer that may give metadata.
#[derive(Debug)]
struct Source {
    tag: PeerTag,
    /// Bytes of the dictionary, as it says; 0 while it has said nothing.
    size: u32,
    asked: Vec<Ask>,
    /// Nothing is asked of it before then.
    hold: Instant,
    /// It has contradicted itself.
    distrusted: bool,
    /// Attempts made with it alone.
    attempts: u32,
}

impl Source {
    fn out(&self) -> usize {
        self.asked.iter().filter(|a| !a.late).count()
    }
}

#[derive(Debug)]
struct Attempt {
    size: u32,
    /// What has come, and from whom.
    parts: Vec<Option<(Box<[u8]>, PeerTag)>>,
    have: u32,
    /// Made with this peer alone.
    only: Option<ConnKey>,
    since: Instant,
    /// When the last piece came.
    last: Instant,
}

/// What a piece led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// Nothing yet.
    Nothing,
    /// The info dictionary; its hash is right.
    Complete(Vec<u8>),
    /// The hash is wrong, and this peer has sent all of it.
    Guilty(PeerTag),
    /// The hash is wrong, and one of several peers has lied.
    Mixed,
    /// The piece cannot be right: why.
    Bad(String),
}

/// The fetching of one info dictionary.
#[derive(Debug)]
pub(super) struct Fetch {
    hash: InfoHash,
    /// The largest dictionary that is fetched.
    limit: u32,
    sources: BTreeMap<ConnKey, Source>,
    attempt: Option<Attempt>,
    /// Attempts are made with one peer at a time.
    alone: bool,
    /// How often an attempt at a size got nowhere while there were others.
    cold: BTreeMap<u32, u32>,
}

impl Fetch {
    pub(super) fn new(hash: InfoHash, limit: u32) -> Self {
        Self { hash, limit, sources: BTreeMap::new(), attempt: None, alone: false, cold: BTreeMap::new() }
    }

    /// A peer that gives metadata says how much there is; `None` when it does not say. One that changes its
    /// mind is not believed any more.
    pub(super) fn on_size(&mut self, conn: ConnKey, tag: PeerTag, size: Option<u32>) {
        let fresh = || Source { tag, size: 0, asked: Vec::new(), hold: Instant::ZERO, distrusted: false, attempts: 0 };
        let source = self.sources.entry(conn).or_insert_with(fresh);
        let Some(size) = size else { return };
        source.distrusted |= source.size != 0 && source.size != size;
        source.size = size;
        if size > self.limit {
            log::debug!("a peer offers metadata of {size} bytes, more than {} are not fetched", self.limit);
        }
    }

    /// A connection ended.
    pub(super) fn gone(&mut self, conn: ConnKey) {
        self.sources.remove(&conn);
        if self.attempt.as_ref().is_some_and(|a| a.only == Some(conn)) {
            self.reset();
        }
    }

    /// Pieces that have come, of all, in the attempt under way.
    pub(super) fn progress(&self) -> (u32, u32) {
        self.attempt.as_ref().map_or((0, 0), |a| (a.have, pieces(a.size)))
    }

    fn reset(&mut self) {
        self.attempt = None;
        self.sources.values_mut().for_each(|s| s.asked.clear());
    }

    fn usable(&self, now: Instant) -> impl Iterator<Item = (ConnKey, &Source)> {
        let fits = move |s: &Source| !s.distrusted && s.hold <= now && (1..=self.limit).contains(&s.size);
        self.sources.iter().filter(move |(_, s)| fits(s)).map(|(k, s)| (*k, s))
    }

    /// Those that take part in the attempt.
    fn taking_part<'a>(&'a self, attempt: &'a Attempt, now: Instant) -> impl Iterator<Item = (ConnKey, &'a Source)> {
        let part = |s: &Source, k: ConnKey| s.size == attempt.size && attempt.only.is_none_or(|only| only == k);
        self.usable(now).filter(move |(k, s)| part(s, *k))
    }

    /// Makes an attempt, when there is none or the one there is gets no further.
    fn choose(&mut self, now: Instant, rng: &mut Rng) -> Option<()> {
        if let Some(a) = &self.attempt {
            if self.taking_part(a, now).next().is_some() {
                return Some(());
            }
            // Waiting may help, unless someone else is to be had.
            self.usable(now).next()?;
            self.reset();
        }
        let (size, only) = if self.alone {
            let least = self.usable(now).map(|(_, s)| s.attempts).min()?;
            let next: Vec<_> = self.usable(now).filter(|(_, s)| s.attempts == least).map(|(k, _)| k).collect();
            let conn = next[rng.usize(..next.len())];
            let source = self.sources.get_mut(&conn)?;
            source.attempts += 1;
            (source.size, Some(conn))
        } else {
            let mut claims: BTreeMap<u32, usize> = BTreeMap::new();
            self.usable(now).for_each(|(_, s)| *claims.entry(s.size).or_default() += 1);
            let rank = |(size, n): &(u32, usize)| (std::cmp::Reverse(self.cold.get(size).copied()), *n);
            (claims.into_iter().max_by_key(rank)?.0, None)
        };
        let parts = (0..pieces(size)).map(|_| None).collect();
        self.attempt = Some(Attempt { size, parts, have: 0, only, since: now, last: now });
        Some(())
    }

    /// The next request to send, which counts as sent. Call it until there is none.
    pub(super) fn next(&mut self, now: Instant, rng: &mut Rng) -> Option<(ConnKey, u32)> {
        self.expire(now);
        self.choose(now, rng)?;
        if self.sources.values().map(Source::out).sum::<usize>() >= limits::METADATA_REQUESTS {
            return None;
        }
        let attempt = self.attempt.as_ref()?;
        let mut asked: BTreeMap<u32, (usize, Instant)> = BTreeMap::new();
        for a in self.sources.values().flat_map(|s| &s.asked).filter(|a| !a.late) {
            let entry = asked.entry(a.piece).or_insert((0, a.at));
            *entry = (entry.0 + 1, entry.1.max(a.at));
        }
        let missing = (0..).zip(&attempt.parts).filter(|(_, part)| part.is_none()).map(|(i, _)| i);
        let (mut free, mut stale) = (None, None);
        for piece in missing {
            match asked.get(&piece) {
                None => {
                    free = Some(piece);
                    break;
                }
                Some((1, at)) if stale.is_none() && now - *at >= STALE => stale = Some(piece),
                Some(_) => {}
            }
        }
        let piece = free.or(stale)?;
        let may = |s: &Source| s.out() < PER_PEER && !s.asked.iter().any(|a| a.piece == piece && !a.late);
        let conn = self.taking_part(attempt, now).filter(|(_, s)| may(s)).min_by_key(|(_, s)| s.out())?.0;
        let source = self.sources.get_mut(&conn)?;
        source.asked.retain(|a| a.piece != piece);
        source.asked.push(Ask { piece, at: now, late: false });
        Some((conn, piece))
    }

    /// Gives up what has waited too long.
    fn expire(&mut self, now: Instant) {
        for s in self.sources.values_mut() {
            let mut silent = false;
            for a in s.asked.iter_mut().filter(|a| !a.late && now - a.at >= TIMEOUT) {
                (a.late, silent) = (true, true);
            }
            if silent {
                s.hold = now + HOLD;
            }
        }
        let Some(a) = &self.attempt else { return };
        let (size, too_long) = (a.size, now - a.since >= ALONE);
        if let Some(only) = a.only.filter(|_| too_long) {
            self.reset();
            if let Some(s) = self.sources.get_mut(&only) {
                s.hold = now + ALONE;
            }
        } else if a.only.is_none()
            && (too_long || now - a.last >= TIMEOUT)
            && self.usable(now).any(|(_, s)| s.size != size)
        {
            self.reset();
            *self.cold.entry(size).or_default() += 1;
            // No more sizes are remembered than there are peers to name them.
            let sources = &self.sources;
            self.cold.retain(|size, _| sources.values().any(|s| s.size == *size));
        }
    }

    /// When [`Fetch::next`] may have something new to say, if nothing else happens.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let mut at = None;
        for s in self.sources.values().filter(|s| !s.distrusted) {
            at = earlier(at, Some(s.hold).filter(|t| *t > now));
            for a in s.asked.iter().filter(|a| !a.late) {
                let stale = Some(a.at + STALE).filter(|t| *t > now);
                at = earlier(at, stale.or(Some(a.at + TIMEOUT)));
            }
        }
        let ends = self.attempt.as_ref().map(|a| if a.only.is_some() { a.since + ALONE } else { a.last + TIMEOUT });
        earlier(at, ends.filter(|t| *t > now))
    }

    /// A peer refuses a piece.
    pub(super) fn on_reject(&mut self, now: Instant, conn: ConnKey, piece: u32, rng: &mut Rng) {
        let Some(s) = self.sources.get_mut(&conn) else { return };
        let before = s.asked.len();
        s.asked.retain(|a| a.piece != piece);
        if s.asked.len() < before {
            s.hold = s.hold.max(now + HOLD + Duration::from_secs(rng.u64(0..=HOLD_MORE)));
            // What else it was asked will fare no better, but may still come.
            s.asked.iter_mut().for_each(|a| a.late = true);
        }
    }

    /// A peer sends a piece. What was not asked of it is ignored.
    pub(super) fn on_data(&mut self, now: Instant, conn: ConnKey, piece: u32, total: Option<u32>, data: &[u8]) -> Got {
        let (Some(s), Some(attempt)) = (self.sources.get_mut(&conn), self.attempt.as_mut()) else {
            return Got::Nothing;
        };
        let Some(i) = s.asked.iter().position(|a| a.piece == piece) else { return Got::Nothing };
        s.asked.remove(i);
        let wanted = piece_len(attempt.size, piece) as usize;
        if data.len() != wanted {
            s.distrusted = true;
            return Got::Bad(format!("metadata piece {piece} of {} bytes, wanted {wanted}", data.len()));
        }
        if let Some(total) = total.filter(|t| *t != attempt.size) {
            s.distrusted = true;
            return Got::Bad(format!("metadata of {total} bytes, not of {} as it had said", attempt.size));
        }
        let Some(part) = attempt.parts.get_mut(piece as usize).filter(|p| p.is_none()) else { return Got::Nothing };
        *part = Some((data.into(), s.tag));
        attempt.have += 1;
        attempt.last = now;
        if attempt.have < pieces(attempt.size) { Got::Nothing } else { self.judge() }
    }

    /// Everything is here: is it right?
    fn judge(&mut self) -> Got {
        let Some(attempt) = self.attempt.take() else { return Got::Nothing };
        self.reset();
        let (mut info, mut senders) = (Vec::with_capacity(attempt.size as usize), Vec::new());
        for (data, tag) in attempt.parts.into_iter().flatten() {
            info.extend_from_slice(&data);
            senders.push(tag);
        }
        if Sha1::digest(&info)[..] == self.hash.as_bytes()[..] {
            return Got::Complete(info);
        }
        self.alone = true;
        senders.dedup();
        match senders[..] {
            [only] => Got::Guilty(only),
            _ => Got::Mixed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::metadata::PIECE;

    fn at(s: u64) -> Instant {
        Instant::from_secs(1000 + s)
    }
    fn c(n: u32) -> ConnKey {
        ConnKey::new(n, 0)
    }
    fn tag(n: u32) -> PeerTag {
        PeerTag::new(n)
    }

    /// An info dictionary, more or less, and its fetching.
    struct Rig {
        info: Vec<u8>,
        f: Fetch,
        rng: Rng,
    }

    impl Rig {
        fn new(size: usize) -> Self {
            let info: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            let hash = InfoHash::new(Sha1::digest(&info).into());
            Self { info, f: Fetch::new(hash, 1 << 20), rng: crate::rng::seeded(1) }
        }
        fn claims(&mut self, n: u32, size: u32) {
            self.f.on_size(c(n), tag(n), Some(size));
        }
        fn joins(&mut self, n: u32) {
            self.claims(n, self.info.len() as u32);
        }
        /// All requests that are made now.
        fn asks(&mut self, now: u64) -> Vec<(u32, u32)> {
            let mut out = Vec::new();
            while let Some((conn, piece)) = self.f.next(at(now), &mut self.rng) {
                out.push((conn.index() as u32, piece));
            }
            out
        }
        fn gives(&mut self, n: u32, piece: u32, wrong: bool) -> Got {
            let from = (piece * PIECE) as usize;
            let mut data = self.info[from..self.info.len().min(from + PIECE as usize)].to_vec();
            data[0] ^= u8::from(wrong);
            self.f.on_data(at(0), c(n), piece, Some(self.info.len() as u32), &data)
        }
    }

    const SIZE: usize = 5 * PIECE as usize + 100;

    #[test]
    fn pieces_are_spread_over_all_who_have_them() {
        let mut r = Rig::new(SIZE);
        assert_eq!(r.asks(0), []);
        (1..=3).for_each(|n| r.joins(n));
        let asked = r.asks(0);
        assert_eq!(asked, [(1, 0), (2, 1), (3, 2), (1, 3), (2, 4), (3, 5)]);
        for (n, piece) in &asked[..5] {
            assert_eq!(r.gives(*n, *piece, false), Got::Nothing);
        }
        assert_eq!(r.f.progress(), (5, 6));
        assert_eq!(r.gives(3, 5, false), Got::Complete(r.info.clone()));
    }

    #[test]
    fn requests_are_limited_at_one_peer_and_in_all() {
        let mut r = Rig::new(200 * PIECE as usize);
        r.f.limit = u32::MAX;
        r.joins(1);
        assert_eq!(r.asks(0).len(), PER_PEER);
        (2..=40).for_each(|n| r.joins(n));
        assert_eq!(r.asks(0).len(), limits::METADATA_REQUESTS - PER_PEER);
    }

    #[test]
    fn what_was_not_asked_for_is_ignored() {
        let mut r = Rig::new(100);
        r.joins(1);
        assert_eq!(r.gives(1, 0, true), Got::Nothing);
        assert_eq!(r.asks(0), [(1, 0)]);
        r.joins(2);
        assert_eq!(r.gives(2, 0, true), Got::Nothing, "asked of someone else");
        assert_eq!(r.gives(3, 0, true), Got::Nothing, "a stranger");
        assert!(matches!(r.gives(1, 0, false), Got::Complete(_)));
    }

    #[test]
    fn silence_is_stale_then_late_and_still_welcome() {
        let mut r = Rig::new(100);
        r.joins(1);
        r.joins(2);
        assert_eq!(r.asks(0), [(1, 0)]);
        assert_eq!(r.f.deadline(at(0)), Some(at(3)));
        assert_eq!(r.asks(2), []);
        assert_eq!(r.asks(3), [(2, 0)], "another is asked as well");
        assert_eq!(r.asks(9), [], "but not a third time");
        assert_eq!(r.asks(10), []);
        assert_eq!(r.asks(13), [], "both are left alone");
        assert_eq!(r.f.deadline(at(13)), Some(at(30)));
        assert!(matches!(r.gives(1, 0, false), Got::Complete(_)), "better late than never");
        let mut r = Rig::new(100);
        r.joins(1);
        r.asks(0);
        assert_eq!(r.asks(10), []);
        assert_eq!(r.asks(30), [(1, 0)], "and then asked again");
    }

    #[test]
    fn whoever_refuses_is_left_alone_for_a_while() {
        let mut r = Rig::new(SIZE);
        r.joins(1);
        r.joins(2);
        r.asks(0);
        r.f.on_reject(at(0), c(1), 0, &mut r.rng);
        assert_eq!(r.asks(0), [(2, 0), (2, 2), (2, 4)], "the other gets what is left");
        assert_eq!(r.gives(1, 0, false), Got::Nothing);
        let again = r.f.deadline(at(60)).expect("it is asked again some time");
        assert!(again <= at(70), "{again:?}");
        r.f.on_reject(at(0), c(2), 77, &mut r.rng);
        assert_eq!(r.f.sources[&c(2)].hold, Instant::ZERO, "nobody asked it for that");
    }

    #[test]
    fn a_liar_among_several_is_found_and_costs_no_more_than_two_attempts() {
        let mut r = Rig::new(SIZE);
        (1..=4).for_each(|n| r.joins(n));
        let lie = |n: u32| n == 3;
        let mut guilty = Vec::new();
        let mut attempts = 0;
        let info = loop {
            let asked = r.asks(attempts);
            assert!(!asked.is_empty());
            let mut end = Got::Nothing;
            for (n, piece) in asked {
                end = r.gives(n, piece, lie(n));
            }
            attempts += u64::from(end != Got::Nothing);
            match end {
                Got::Complete(info) => break info,
                Got::Guilty(t) => {
                    guilty.push(t);
                    r.f.gone(c(3));
                }
                Got::Mixed | Got::Nothing => {}
                Got::Bad(e) => panic!("{e}"),
            }
        };
        assert_eq!(info, r.info);
        assert!(guilty.is_empty() || guilty == [tag(3)]);
        assert!((2..=3).contains(&attempts), "{attempts} attempts");
    }

    #[test]
    fn one_peer_alone_is_convicted_at_once() {
        let mut r = Rig::new(100);
        r.joins(9);
        r.asks(0);
        assert_eq!(r.gives(9, 0, true), Got::Guilty(tag(9)));
    }

    #[test]
    fn sizes_that_make_no_sense_are_not_asked_for() {
        let mut r = Rig::new(100);
        r.claims(1, 1 << 30);
        r.f.on_size(c(2), tag(2), None);
        assert_eq!(r.asks(0), []);
        r.joins(3);
        assert_eq!(r.asks(0), [(3, 0)]);
    }

    #[test]
    fn many_who_claim_another_size_and_give_nothing_are_passed_over() {
        let mut r = Rig::new(100);
        (1..=5).for_each(|n| r.claims(n, 99));
        r.joins(6);
        let asked = r.asks(0);
        assert_eq!(asked.len(), 1);
        let mut now = 0;
        let found = loop {
            now += 1;
            assert!(now < 100);
            if let Some((6, _)) = r.asks(now).first() {
                break r.gives(6, 0, false);
            }
        };
        assert!(matches!(found, Got::Complete(_)), "{found:?}");
    }

    #[test]
    fn whoever_contradicts_itself_is_out() {
        let mut r = Rig::new(100);
        r.joins(1);
        assert_eq!(r.asks(0), [(1, 0)]);
        assert!(matches!(r.f.on_data(at(0), c(1), 0, Some(101), &[0; 100]), Got::Bad(_)));
        r.joins(2);
        assert_eq!(r.asks(0), [(2, 0)]);
        assert!(matches!(r.f.on_data(at(0), c(2), 0, Some(100), &[0; 99]), Got::Bad(_)));
        r.joins(3);
        r.claims(3, 101);
        assert_eq!(r.asks(0), [], "it has changed its mind");
    }

    #[test]
    fn an_attempt_with_one_who_drips_does_not_take_for_ever() {
        let mut r = Rig::new(SIZE);
        r.f.alone = true;
        r.joins(1);
        let first = r.asks(0);
        assert_eq!(first.len(), 6);
        r.joins(2);
        for (i, (n, piece)) in first.iter().enumerate().take(5) {
            let now = 9 * (i as u64 + 1);
            r.f.sources.get_mut(&c(1)).unwrap().asked.iter_mut().for_each(|a| a.at = at(now - 1));
            assert!(r.asks(now).is_empty());
            r.gives(*n, *piece, false);
        }
        let next = r.asks(60);
        assert!(next.len() == 6 && next.iter().all(|(n, _)| *n == 2), "{next:?}");
        assert_eq!(r.f.deadline(at(60)), Some(at(63)));
    }
}
