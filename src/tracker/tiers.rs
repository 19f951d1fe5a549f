//! The schedule of one torrent's trackers (BEP 12). (being written)

use super::{Event, Reply, TrackerError};
use crate::http::Url;
use crate::rng::Rng;
use crate::time::Instant;

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
    /// When it may be asked again.
    pub next: Option<Instant>,
    /// Peers that have everything, as it said last.
    pub seeders: Option<u32>,
    /// Peers that have not, as it said last.
    pub leechers: Option<u32>,
    /// The event of the last announce that was answered.
    pub last_event: Option<Event>,
    /// Failures since the last success.
    pub fails: u32,
}

/// The trackers of one torrent; see the module.
#[derive(Clone, Debug)]
pub struct Tiers {}

#[allow(unused_variables)]
impl Tiers {
    /// Shuffles within tiers, drops duplicates, remembers what it cannot use.
    pub fn new(tiers: &[Vec<String>], rng: &mut Rng) -> Self {
        Self {}
    }
    /// Adds a tracker in a tier of its own at the end; false when it is unusable or known.
    pub fn add(&mut self, url: &str) -> bool {
        false
    }
    /// No tracker could ever be asked.
    pub fn is_empty(&self) -> bool {
        true
    }
    /// Begins announcing.
    pub fn start(&mut self, now: Instant) {}
    /// The download has just become complete.
    pub fn completed(&mut self, now: Instant) {}
    /// Leaves: `stopped` to every tracker that took a `started`, until `limits::TRACKER_STOP`.
    pub fn stop(&mut self, now: Instant) {}
    /// More peers are wanted: as soon as the tracker's minimum interval allows.
    pub fn announce_now(&mut self, now: Instant) {}
    /// When `poll` wants to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The announce to make now, which counts as under way from here on.
    pub fn poll(&mut self, now: Instant) -> Option<Due> {
        None
    }
    /// The announce was answered.
    pub fn on_reply(&mut self, now: Instant, tracker: TrackerIdx, reply: &Reply) {}
    /// The announce failed; true when the user should be told.
    pub fn on_error(&mut self, now: Instant, tracker: TrackerIdx, error: &TrackerError, rng: &mut Rng) -> bool {
        false
    }
    /// What the user is shown, in the order trackers are tried.
    pub fn status(&self) -> impl Iterator<Item = TrackerStatus> + '_ {
        std::iter::empty()
    }
    /// Nothing under way and nothing to be said before leaving.
    pub fn idle(&self) -> bool {
        true
    }
}
