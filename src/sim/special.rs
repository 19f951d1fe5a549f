//! Swarms that are drawn to ask one question, among those that are drawn to ask anything.
//!
//! - **A newcomer** (one seed in 64, with 8 to 19 nodes): does who has nothing to give get a first piece while
//!   others trade among themselves? Without optimistic unchokes it would not:
//!
//!   ```text
//!     givers, 3, slots for all ──▶ traders, 2 slots each ◀── one newcomer, later
//!                └── behind NAT, so they and the newcomer never meet ──┘
//!   ```
//!
//!   All but the newcomer begin with some of the pieces, and lack some. A trader always has more givers than slots,
//!   so both slots would be earned for ever. By chance of the draw, about one newcomer in 10^7 has to wait
//!   longer than [`WAIT`].
//! - **Bad mains** (one in 16): power cuts all the time, of machines that have written what is not synced. What is
//!   durable is at stake, and so is every start from what a cut left.

use super::link::{Line, Weather};
use super::plan::{Fault, NodePlan, Plan, Style, What, secs, spread};
use crate::config::Config;
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// How long a newcomer may be without a piece.
const WAIT: Duration = Duration::from_secs(600);
/// Those of a newcomer's swarm who give to all.
const GIVERS: u32 = 3;

/// Which pieces a node has at the start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    /// None.
    Nothing,
    /// All.
    All,
    /// Every `of`th, beginning with `nth`, and a quarter of the others.
    Some { nth: u32, of: u32 },
}

impl Holds {
    /// Whether this piece is among them.
    pub(super) fn has(self, piece: u32) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Some { nth, of } => {
                piece % of == nth || super::content::mix(u64::from(nth) << 32 | u64::from(piece)) % 4 == 0
            }
        }
    }
}

/// Who must have a piece by when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomer {
    pub(super) node: u32,
    pub(super) by: Instant,
}

impl Plan {
    /// The seed's own question, if it asks one.
    pub(super) fn ask(&mut self, rng: &mut Rng) {
        match (self.seed % 64, self.nodes.len()) {
            (11, 8..20) => self.newcomer(rng),
            (10 | 26 | 42 | 58, _) => self.bad_mains(rng),
            _ => {}
        }
    }

    fn newcomer(&mut self, rng: &mut Rng) {
        let (last, rate) = (self.nodes.len() as u32 - 1, rng.u64(8_000..20_000));
        self.style = Style::Newcomer;
        self.piece_len = 16 << 10 << rng.u32(0..2);
        // Enough to trade for as long as the newcomer may wait.
        self.files = vec![rate * 1600];
        self.scripts.clear();
        self.trackers.clear();
        self.faults.clear();
        self.weather = Weather {
            loss: rng.u32(..20),
            jitter: Duration::from_millis(rng.u64(1..30)),
            short: rng.u32(..100),
            ..Weather::default()
        };
        self.lines.clear();
        self.nodes.clear();
        for n in 0..=last {
            let (giver, new) = (n < GIVERS, n == last);
            let mut line = Line::new(rate, rate * 8, Duration::from_millis(rng.u64(1..50)));
            line.nat = giver || new;
            // What the fast extension allows everybody (BEP 6) would be a first piece as well.
            line.plain = new;
            self.lines.push(line);
            self.nodes.push(NodePlan {
                holds: if new { Holds::Nothing } else { Holds::Some { nth: n, of: last } },
                join: if new { Instant::ZERO + secs(rng, 60, 120) } else { Instant::ZERO },
                config: Config { unchoke_slots: if giver { 20 } else { 2 }, ..Config::default() },
                knows: (GIVERS..last).filter(|k| *k != n).collect(),
                clock: Duration::from_millis(4),
                wall: 0,
            });
        }
        self.heal = self.nodes[last as usize].join;
        self.newcomer = Some(Newcomer { node: last, by: self.heal + WAIT });
        self.deadline = self.heal + Duration::from_secs(20 * 1600);
    }

    fn bad_mains(&mut self, rng: &mut Rng) {
        let first = self.nodes.iter().map(|n| n.join).max().unwrap_or_default();
        let window = self.estimate().min(600);
        for _ in 0..3 * self.nodes.len().min(20) {
            let at = first + Duration::from_micros(spread(rng, 1 << 19, (window * 1_000_000).max(1 << 20)));
            let until = at + secs(rng, 1, 20);
            self.faults.push(Fault { at, until, what: What::CutWriter });
            self.heal = self.heal.max(until);
        }
        self.deadline = self.deadline.max(self.heal + Duration::from_secs(7200 + self.estimate() * 20));
    }
}
