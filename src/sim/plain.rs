//! Swarms in which nothing goes wrong but the network's distance and loss, for comparing one version of the
//! code with the next.

use super::link::{Line, Weather};
use super::plan::{NodePlan, Plan, Style};
use super::special::Holds;
use crate::config::Config;
use crate::time::{Duration, Instant};

/// Bytes a second that every host can send, and receive.
const RATES: (u64, u64) = (1_000_000, 4_000_000);
/// The torrent's size and that of its pieces.
const SIZE: (u64, u32) = (8 << 20, 128 << 10);

/// A swarm of one seed and some leechers, all alike, who know each other and begin together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// Leechers, 1 at least.
    pub leechers: u32,
    /// From one host to another, one way.
    pub latency: Duration,
    /// Segments lost and sent again, in a thousand.
    pub loss: u32,
}

impl Plain {
    pub(super) fn plan(&self, seed: u64) -> Plan {
        let nodes = self.leechers.max(1) + 1;
        let node = |n: u32| NodePlan {
            holds: if n == 0 { Holds::All } else { Holds::Nothing },
            join: Instant::ZERO,
            config: Config::default(),
            knows: (0..nodes).filter(|k| *k != n).collect(),
            clock: Duration::from_millis(4),
            wall: 0,
        };
        Plan {
            seed,
            style: Style::OneSeed,
            piece_len: SIZE.1,
            files: vec![SIZE.0],
            nodes: (0..nodes).map(node).collect(),
            scripts: Vec::new(),
            trackers: Vec::new(),
            lines: vec![Line::new(RATES.0, RATES.1, self.latency / 2); nodes as usize],
            weather: Weather { loss: self.loss, ..Weather::default() },
            faults: Vec::new(),
            heal: Instant::ZERO,
            deadline: Instant::from_secs(4 * 3600),
            newcomer: None,
        }
    }
}
