//! The schedule of one torrent's trackers (BEP 12): whom to announce to, when, and with which event.
//!
//! ```text
//!          start             stop                 everyone told, or TRACKER_STOP over
//!   Idle --------> Running --------> Leaving --------------------------------------> Idle
//!                     ^_________________| start
//! ```
//!
//! While running, announces come in *rounds*. A round asks tracker after tracker, in the order of
//! tiers and within them, passing over those whose time has not come, until one answers. That one
//! moves to the front of its tier and sets the time of the next round by its interval. When none
//! answers, the next round is when the first back-off ends.
//!
//! A tracker that has not taken a `started` gets `started`. `completed` is owed once, to one tracker
//! that took a `started`, and only if the download became complete after [`Tiers::start`]. `stopped`
//! goes to every tracker that took a `started`; an owed `completed` goes before it.
//!
//! Invariants: one announce at most is under way; no tracker is asked again within the minimum
//! interval it gave (60 s at least) but for an event; a failing one not before 5 + 12.5 n^2 seconds
//! after its n-th failure in a row (60 minutes at most), or what it asked for itself (BEP 31).
//!
//! It does not open connections and has no time-outs for them: the session reports
//! [`TrackerError::Timeout`].
//!
//! [BEP 12](https://www.bittorrent.org/beps/bep_0012.html),
//! [BEP 31](https://www.bittorrent.org/beps/bep_0031.html)

use super::{Event, Reply, TrackerError};
use crate::config::limits;
use crate::http::Url;
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// The interval of a tracker that gives none.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// The minimum interval of a tracker that gives none, unless its interval is shorter.
const MIN_INTERVAL_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// The longest back-off that is not the tracker's own wish.
const BACKOFF_MAX: Duration = Duration::from_secs(3600);
/// How long leaving waits for a first `started` that is under way: without an answer nobody knows us.
const LEAVE_UNKNOWN: Duration = Duration::from_secs(2);

/// A tracker of one [`Tiers`]; it never changes its meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrackerIdx(u16);

impl TrackerIdx {
    /// The zero-based index in the order of addition.
    pub const fn idx(self) -> usize {
        self.0 as usize
    }
}

/// An announce to be made now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    /// Whom to answer for.
    pub tracker: TrackerIdx,
    /// Where to announce.
    pub url: Url,
    /// Why.
    pub event: Event,
    /// How many peers to ask for; 0 when leaving.
    pub numwant: u32,
    /// What to send back to it.
    pub tracker_id: Option<Vec<u8>>,
}

/// What the user is shown of one tracker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackerStatus {
    /// Which tracker.
    pub tracker: TrackerIdx,
    /// Its tier, counted from 0.
    pub tier: usize,
    /// Its URL, secrets hidden.
    pub url: String,
    /// `working`, `announcing`, `waiting`, `failing`, `disabled` or `unusable`.
    pub state: &'static str,
    /// What went wrong last; absent after a success.
    pub last_error: Option<String>,
    /// When it is or may be asked again; absent while that depends on others.
    pub next: Option<Instant>,
    /// Peers that have everything, as it said last.
    pub seeders: Option<u32>,
    /// Peers that have not, as it said last.
    pub leechers: Option<u32>,
    /// Downloads it has counted, as it said last.
    pub downloaded: Option<u32>,
    /// Why the last scrape failed; absent after one that did not.
    pub scrape_error: Option<String>,
    /// The event of the last announce that was answered.
    pub last_event: Option<Event>,
    /// Failures since the last success.
    pub fails: u32,
}

#[derive(Clone, Debug)]
enum Address {
    Usable(Url),
    /// As it may be shown, and why it is never asked; `None` for a `*` in front.
    Unusable(String, Option<String>),
}

#[derive(Clone, Debug)]
struct Tracker {
    address: Address,
    tier: usize,
    /// It took a `started` and no `stopped` since.
    started: bool,
    /// Asked in this round already.
    tried: bool,
    /// Has it ever answered since it was last failing?
    answered: bool,
    fails: u32,
    /// Not to be asked before, but for events; `FAR` for never again.
    earliest: Instant,
    tracker_id: Option<Vec<u8>>,
    seeders: Option<u32>,
    leechers: Option<u32>,
    downloaded: Option<u32>,
    /// A scrape is under way.
    scraping: bool,
    scrape_error: Option<String>,
    last_event: Option<Event>,
    last_error: Option<String>,
    /// Kinds of errors the user was told of since the last success.
    reported: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Running,
    Leaving { until: Instant },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Completion {
    /// Not complete yet.
    Ahead,
    /// Became complete; no tracker has been told.
    Owed,
    /// A tracker was told, or there was nothing to tell.
    Settled,
}

/// The trackers of one torrent; see the module.
#[derive(Clone, Debug)]
pub struct Tiers {
    trackers: Vec<Tracker>,
    /// Indices into `trackers`, in the order they are tried.
    order: Vec<Vec<u16>>,
    phase: Phase,
    under_way: Option<(TrackerIdx, Event)>,
    next_round: Instant,
    /// The one that answered last.
    current: Option<TrackerIdx>,
    completion: Completion,
}

impl Tiers {
    /// Shuffles within tiers, drops duplicates, remembers what it cannot use: bad URLs, and those
    /// that a `*` in front disables. Keeps [`limits::TRACKERS`] at most.
    pub fn new(tiers: &[Vec<String>], rng: &mut Rng) -> Self {
        let mut this = Self {
            trackers: Vec::new(),
            order: Vec::new(),
            phase: Phase::Idle,
            under_way: None,
            next_round: Instant::FAR,
            current: None,
            completion: Completion::Ahead,
        };
        for tier in tiers {
            let mut members: Vec<u16> = tier.iter().filter_map(|url| this.insert(url, this.order.len())).collect();
            rng.shuffle(&mut members);
            if !members.is_empty() {
                this.order.push(members);
            }
        }
        this.invariants();
        this
    }

    /// Adds a tracker in a tier of its own at the end; false when it is unusable or known, or one
    /// too many.
    pub fn add(&mut self, url: &str) -> bool {
        let Some(i) = self.insert(url, self.order.len()) else { return false };
        self.order.push(vec![i]);
        // It is of use at once when no other is.
        if self.working().is_none() {
            self.next_round = Instant::ZERO;
        }
        self.invariants();
        matches!(self.trackers[usize::from(i)].address, Address::Usable(_))
    }

    /// Appends to `trackers`, unless it is there already.
    fn insert(&mut self, text: &str, tier: usize) -> Option<u16> {
        let text = text.trim();
        if text.is_empty() || self.trackers.len() >= limits::TRACKERS {
            return None;
        }
        let disabled = text.strip_prefix('*');
        let address = match (Url::parse(disabled.unwrap_or(text)), disabled) {
            (Ok(url), None) => Address::Usable(url),
            (Ok(url), Some(_)) => Address::Unusable(url.redacted(), None),
            (Err(why), _) => {
                // It cannot be told where its secrets are: show its beginning only.
                let shown = text.split(['?', '@']).next().unwrap_or_default();
                Address::Unusable(shown.escape_debug().take(60).collect(), Some(why.to_string()))
            }
        };
        let known = self.trackers.iter().any(|t| match (&t.address, &address) {
            (Address::Usable(a), Address::Usable(b)) => a == b,
            (Address::Unusable(a, _), Address::Unusable(b, _)) => a == b,
            _ => false,
        });
        if known {
            return None;
        }
        let i = u16::try_from(self.trackers.len()).ok()?;
        self.trackers.push(Tracker::new(address, tier));
        Some(i)
    }

    /// No tracker could ever be asked.
    pub fn is_empty(&self) -> bool {
        !self.trackers.iter().any(|t| matches!(t.address, Address::Usable(_)))
    }

    /// Begins announcing. Nothing happens while running; while leaving, it stays after all.
    pub fn start(&mut self, now: Instant) {
        if self.phase == Phase::Running {
            return;
        }
        self.phase = Phase::Running;
        // Coming back before the one in use was told that we leave changes nothing for it.
        if !self.working().is_some_and(|t| t.started) {
            self.next_round = now;
        }
        for t in &mut self.trackers {
            t.tried = false;
            if t.fails == 0 && !t.started {
                t.earliest = now;
            }
        }
    }

    /// The download has just become complete. Before `start` it means that it was complete already.
    pub fn completed(&mut self, now: Instant) {
        if self.completion != Completion::Ahead {
            return;
        }
        if self.phase == Phase::Idle {
            self.completion = Completion::Settled;
            return;
        }
        self.completion = Completion::Owed;
        self.next_round = self.next_round.min(now);
    }

    /// Leaves: see the module. [`Tiers::idle`] tells when it is done, after
    /// [`limits::TRACKER_STOP`] at the latest.
    pub fn stop(&mut self, now: Instant) {
        if self.phase != Phase::Running {
            return;
        }
        let known = self.trackers.iter().any(|t| t.started);
        let patience = if known { limits::TRACKER_STOP } else { LEAVE_UNKNOWN };
        self.phase = Phase::Leaving { until: now + patience };
        self.settle();
    }

    /// More peers are wanted, or the user asks: as soon as minimum interval and back-off allow.
    pub fn announce_now(&mut self, now: Instant) {
        let soonest = match self.working() {
            Some(t) => t.earliest,
            None => self.soonest(),
        };
        self.next_round = self.next_round.min(soonest.max(now));
    }

    /// There was no network, and now there is: nobody's failure counts, and those who failed are asked at once.
    pub fn on_network(&mut self, now: Instant) {
        for t in self.trackers.iter_mut().filter(|t| t.fails > 0 && t.earliest != Instant::FAR) {
            (t.fails, t.earliest) = (0, now);
        }
        self.announce_now(now);
    }

    /// When `poll` wants to be called next. Absent while an announce is under way.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.phase, self.under_way) {
            (Phase::Idle, _) | (Phase::Running, Some(_)) => None,
            (Phase::Running, None) => Some(self.next_round).filter(|&t| t != Instant::FAR),
            (Phase::Leaving { until }, Some(_)) => Some(until),
            (Phase::Leaving { .. }, None) => Some(Instant::ZERO),
        }
    }

    /// The announce to make now, which counts as under way until `on_reply` or `on_error`.
    pub fn poll(&mut self, now: Instant) -> Option<Due> {
        let picked = match self.phase {
            Phase::Idle => None,
            Phase::Leaving { until } if now >= until => {
                self.leave();
                None
            }
            _ if self.under_way.is_some() => None,
            Phase::Leaving { .. } => self.farewell(),
            Phase::Running if now < self.next_round => None,
            Phase::Running => self.candidate(now),
        };
        let (tracker, event) = picked?;
        let t = &mut self.trackers[tracker.idx()];
        let Address::Usable(url) = &t.address else { return None };
        t.tried = true;
        self.under_way = Some((tracker, event));
        let numwant = if self.phase == Phase::Running { limits::NUMWANT } else { 0 };
        let due = Due { tracker, url: url.clone(), event, numwant, tracker_id: t.tracker_id.clone() };
        self.invariants();
        Some(due)
    }

    /// Whom to ask now, if anybody.
    fn candidate(&mut self, now: Instant) -> Option<(TrackerIdx, Event)> {
        if self.completion == Completion::Owed {
            // To the one that knows us, without going through the tiers.
            let knows = self.working().is_some_and(|t| t.started && !t.tried);
            if let Some(c) = self.current.filter(|_| knows) {
                return Some((c, Event::Completed));
            }
        }
        if self.next_in_round(now).is_none() {
            // Over without an answer. When `poll` comes late, some may be asked again already.
            self.end_round();
        }
        let i = self.next_in_round(now)?;
        let event = match (self.trackers[usize::from(i)].started, self.completion) {
            (false, _) => Event::Started,
            (true, Completion::Owed) => Event::Completed,
            (true, _) => Event::None,
        };
        Some((TrackerIdx(i), event))
    }

    fn next_in_round(&self, now: Instant) -> Option<u16> {
        self.order.iter().flatten().copied().find(|&i| {
            let t = &self.trackers[usize::from(i)];
            t.usable() && !t.tried && t.earliest <= now
        })
    }

    /// Nobody answered: the next round begins when the first may be asked again.
    fn end_round(&mut self) {
        self.trackers.iter_mut().for_each(|t| t.tried = false);
        self.next_round = self.soonest();
    }

    /// What is still to be said while leaving: an owed `completed`, then every `stopped`, the
    /// tracker in use first.
    fn farewell(&self) -> Option<(TrackerIdx, Event)> {
        let all = self.order.iter().flatten().map(|&i| TrackerIdx(i));
        let to = self.current.into_iter().chain(all).find(|i| self.trackers[i.idx()].started)?;
        Some((to, if self.completion == Completion::Owed { Event::Completed } else { Event::Stopped }))
    }

    /// The announce was answered. Ignored unless it is the one under way.
    pub fn on_reply(&mut self, now: Instant, tracker: TrackerIdx, reply: &Reply) {
        let Some((_, event)) = self.under_way.take_if(|(t, _)| *t == tracker) else { return };
        let (shortest, longest) = limits::ANNOUNCE_INTERVAL;
        let clamp = |d: Duration| d.clamp(shortest, longest);
        let interval = clamp(reply.interval.unwrap_or(INTERVAL_DEFAULT));
        let min_interval = clamp(reply.min_interval.unwrap_or(MIN_INTERVAL_DEFAULT.min(interval)));

        let t = &mut self.trackers[tracker.idx()];
        t.answered = true;
        t.fails = 0;
        t.reported = 0;
        t.last_error = None;
        t.last_event = Some(event);
        t.seeders = reply.seeders.or(t.seeders);
        t.leechers = reply.leechers.or(t.leechers);
        t.downloaded = reply.downloaded.or(t.downloaded);
        if reply.tracker_id.is_some() {
            t.tracker_id.clone_from(&reply.tracker_id);
        }
        t.started = event != Event::Stopped;
        t.earliest = now + min_interval;
        if event == Event::Completed {
            self.completion = Completion::Settled;
        }
        if event != Event::Stopped {
            self.promote(tracker);
            self.next_round = now + interval.max(min_interval);
        }
        if (self.completion == Completion::Owed && event != Event::Stopped)
            || (event == Event::Stopped && self.phase == Phase::Running)
        {
            // There is more to tell it: the completion, or that we stayed after all.
            self.trackers[tracker.idx()].earliest = now;
            self.next_round = now;
        }
        if let (Phase::Leaving { until }, Event::Started) = (&mut self.phase, event) {
            *until = now + limits::TRACKER_STOP;
        }
        self.settle();
    }

    /// It answered: it is asked first in its tier from now on, and the round is over.
    fn promote(&mut self, tracker: TrackerIdx) {
        let tier = &mut self.order[self.trackers[tracker.idx()].tier];
        if let Some(at) = tier.iter().position(|&i| i == tracker.0) {
            tier[..=at].rotate_right(1);
        }
        self.current = Some(tracker);
        self.trackers.iter_mut().for_each(|t| t.tried = false);
    }

    /// The announce failed; true when the user should be told: the first failure of its kind since
    /// this tracker's last success. Ignored unless it is the one under way.
    pub fn on_error(&mut self, now: Instant, tracker: TrackerIdx, error: &TrackerError, rng: &mut Rng) -> bool {
        let Some((_, event)) = self.under_way.take_if(|(t, _)| *t == tracker) else { return false };
        let leaving = matches!(self.phase, Phase::Leaving { .. });
        let t = &mut self.trackers[tracker.idx()];
        t.fails = t.fails.saturating_add(1);
        t.answered = false;
        t.last_error = Some(error.to_string());
        t.earliest = match error {
            TrackerError::Unsupported(_) | TrackerError::Url(_) => Instant::FAR,
            TrackerError::Failure { retry_in: Some(Duration::MAX), .. } => Instant::FAR,
            TrackerError::Failure { retry_in: Some(wish), .. } => {
                now + backoff(t.fails, rng).max((*wish).min(limits::ANNOUNCE_INTERVAL.1))
            }
            _ => now + backoff(t.fails, rng),
        };
        if leaving || event == Event::Stopped {
            // Told or not, it is not asked again for that.
            t.started = false;
        }
        let first = t.reported & error.kind() == 0;
        t.reported |= error.kind();
        if self.next_in_round(now).is_none() {
            self.end_round();
        }
        self.settle();
        first && !leaving
    }

    /// The trackers to scrape, those left out that are being scraped already or refuse to be asked at
    /// all. Each counts as under way until `on_scrape`. Announces are not affected by scrapes.
    pub fn begin_scrape(&mut self) -> Vec<(TrackerIdx, Url)> {
        let mut asked = Vec::new();
        for &i in self.order.iter().flatten() {
            let t = &mut self.trackers[usize::from(i)];
            if let (Address::Usable(url), true, false) = (&t.address, t.earliest != Instant::FAR, t.scraping) {
                asked.push((TrackerIdx(i), url.clone()));
                t.scraping = true;
            }
        }
        asked
    }

    /// A scrape ended.
    pub fn on_scrape(&mut self, tracker: TrackerIdx, result: Result<&Reply, &TrackerError>) {
        let t = &mut self.trackers[tracker.idx()];
        t.scraping = false;
        match result {
            Ok(reply) => {
                t.seeders = reply.seeders.or(t.seeders);
                t.leechers = reply.leechers.or(t.leechers);
                t.downloaded = reply.downloaded.or(t.downloaded);
                t.scrape_error = None;
            }
            Err(e) => t.scrape_error = Some(e.to_string()),
        }
    }

    /// What the user is shown, in the order trackers are tried.
    pub fn status(&self) -> impl Iterator<Item = TrackerStatus> + '_ {
        self.order.iter().flatten().map(|&i| self.status_of(TrackerIdx(i)))
    }

    fn status_of(&self, tracker: TrackerIdx) -> TrackerStatus {
        let t = &self.trackers[tracker.idx()];
        let (url, state, last_error) = match &t.address {
            Address::Unusable(url, None) => (url.clone(), "disabled", None),
            Address::Unusable(url, why) => (url.clone(), "unusable", why.clone()),
            Address::Usable(url) => {
                let state = match t {
                    _ if self.under_way.is_some_and(|(u, _)| u == tracker) => "announcing",
                    Tracker { earliest: Instant::FAR, .. } => "unusable",
                    Tracker { fails: 1.., .. } => "failing",
                    Tracker { answered: true, .. } => "working",
                    _ => "waiting",
                };
                (url.redacted(), state, t.last_error.clone())
            }
        };
        let next = match state {
            "working" if self.current == Some(tracker) => Some(self.next_round),
            "failing" => Some(t.earliest),
            _ => None,
        };
        TrackerStatus {
            tracker,
            tier: t.tier,
            url,
            state,
            last_error,
            next: next.filter(|&n| n != Instant::FAR && self.phase == Phase::Running),
            seeders: t.seeders,
            leechers: t.leechers,
            downloaded: t.downloaded,
            scrape_error: t.scrape_error.clone(),
            last_event: t.last_event,
            fails: t.fails,
        }
    }

    /// Not started, or everything said that leaving has to say: we may go.
    pub fn idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Goes idle when leaving has nothing left to wait for.
    fn settle(&mut self) {
        if matches!(self.phase, Phase::Leaving { .. }) && self.under_way.is_none() && self.farewell().is_none() {
            self.leave();
        }
        self.invariants();
    }

    fn leave(&mut self) {
        self.phase = Phase::Idle;
        self.under_way = None;
        self.next_round = Instant::FAR;
        self.trackers.iter_mut().for_each(|t| t.started = false);
        if self.completion == Completion::Owed {
            // It is not a transition any more when we come back.
            self.completion = Completion::Settled;
        }
    }

    /// The tracker that answered last, unless it has failed since.
    fn working(&self) -> Option<&Tracker> {
        self.current.map(|c| &self.trackers[c.idx()]).filter(|t| t.fails == 0)
    }

    /// When the first tracker may be asked again.
    fn soonest(&self) -> Instant {
        self.trackers.iter().filter(|t| t.usable()).map(|t| t.earliest).min().unwrap_or(Instant::FAR)
    }

    /// Panics when the structure is broken; for debug builds and the simulator.
    pub fn invariants(&self) {
        if cfg!(debug_assertions) {
            let mut seen: Vec<u16> = self.order.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..self.trackers.len() as u16), "order is not a permutation");
            for (i, tier) in self.order.iter().enumerate() {
                assert!(!tier.is_empty() && tier.iter().all(|&t| self.trackers[usize::from(t)].tier == i));
            }
            assert!(self.phase != Phase::Idle || self.under_way.is_none(), "idle with an announce under way");
        }
    }
}

impl Tracker {
    fn new(address: Address, tier: usize) -> Self {
        Self {
            address,
            tier,
            started: false,
            tried: false,
            answered: false,
            fails: 0,
            earliest: Instant::ZERO,
            tracker_id: None,
            seeders: None,
            leechers: None,
            downloaded: None,
            scraping: false,
            scrape_error: None,
            last_event: None,
            last_error: None,
            reported: 0,
        }
    }

    fn usable(&self) -> bool {
        matches!(self.address, Address::Usable(_)) && self.earliest != Instant::FAR
    }
}

/// 5 + 12.5 n^2 seconds after the n-th failure, up to a tenth more so that clients that failed
/// together do not come back together, 60 minutes at most.
fn backoff(fails: u32, rng: &mut Rng) -> Duration {
    let n = u64::from(fails.min(100));
    let ms = 5_000 + 12_500 * n * n;
    Duration::from_millis(ms + rng.u64(0..=ms / 10)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests;
