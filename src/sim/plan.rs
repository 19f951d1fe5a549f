//! What a run will be, drawn from its seed before it begins: who takes part, over which lines, what goes
//! wrong and when, and by when all must be well.
//!
//! ```text
//!   0 ............................. heal ..................................... deadline
//!   | safety: faults come and go    | liveness: no fault, every leecher finishes |
//! ```

use std::collections::BTreeMap;

use super::disk::DiskFaults;
use super::link::{Line, Weather};
use super::script::Manner;
use super::special::{Holds, Newcomer};
use super::tracker::Habit;
use crate::config::Config;
use crate::rng::{Rng, seeded};
use crate::time::{Duration, Instant};

/// The swarm's character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// All come at once.
    FlashCrowd,
    /// One seed with a line like everyone's.
    OneSeed,
    /// Nodes come late, leave and come back.
    Churn,
    /// Slow lines.
    ManySlow,
    /// Some give nothing.
    FreeRiders,
    /// One seed that is much faster than everyone.
    SuperSeed,
    /// One comes late to some that trade, and has nothing.
    Newcomer,
}

impl Style {
    fn name(self) -> &'static str {
        match self {
            Self::FlashCrowd => "swarm flash crowd",
            Self::OneSeed => "swarm one seed",
            Self::Churn => "swarm churn",
            Self::ManySlow => "swarm many slow",
            Self::FreeRiders => "swarm free riders",
            Self::SuperSeed => "swarm super-fast seed",
            Self::Newcomer => "swarm newcomer",
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Some connection breaks.
    Reset,
    /// Nothing passes on some connection.
    Clog,
    /// A host's line is dead.
    Dark(u32),
    /// The network falls into two.
    Split(u64),
    /// A node's process stands still.
    Freeze(u32),
    /// A node is killed, and starts again.
    Kill(u32),
    /// A node's machine loses its power, and is on again.
    Cut(u32),
    /// The same, to one that has written what is not synced, as soon as there is one.
    CutWriter,
    /// A node's wall clock jumps, by so many microseconds.
    Clock(u32, i64),
    /// Somebody truncates one of a node's files, or deletes it.
    Tamper(u32, u32, Option<u64>),
    /// A node is shut down in order, and starts again.
    Quit(u32),
    /// A torrent is paused, and resumed.
    Pause(u32),
    /// A torrent is checked anew.
    Verify(u32),
    /// Rate limits are set, and lifted.
    Limits(u32, u64),
    /// A disk fails.
    Disk(u32, DiskFaults),
    /// Only some files are wanted, then all.
    Select(u32, u64),
}

impl What {
    /// What a count of it is called.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Clog => "clog",
            Self::Dark(_) => "dark",
            Self::Split(_) => "partition",
            Self::Freeze(_) => "freeze",
            Self::Kill(_) => "kill",
            Self::Cut(_) | Self::CutWriter => "power cut",
            Self::Clock(..) => "clock jump",
            Self::Tamper(_, _, Some(_)) => "truncated",
            Self::Tamper(_, _, None) => "deleted",
            Self::Quit(_) => "quit",
            Self::Pause(_) => "pause",
            Self::Verify(_) => "verify",
            Self::Limits(..) => "limits",
            Self::Select(..) => "select",
            Self::Disk(_, d) if d.room.is_some() => "disk full",
            Self::Disk(_, d) if d.read_only => "read-only",
            Self::Disk(_, d) if d.write > 0 => "write error",
            Self::Disk(_, d) if d.read > 0 => "read error",
            Self::Disk(_, d) if d.sync > 0 => "sync error",
            Self::Disk(_, d) if d.fault > 0 => "EFAULT",
            Self::Disk(_, d) if d.no_place > 0 => "no place",
            Self::Disk(..) => "slow disk",
        }
    }
}

/// A fault and its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) at: Instant,
    pub(super) until: Instant,
    pub(super) what: What,
}

/// One node.
#[derive(Clone, Debug)]
pub(super) struct NodePlan {
    pub(super) holds: Holds,
    pub(super) join: Instant,
    pub(super) config: Config,
    /// Hosts it knows from the start.
    pub(super) knows: Vec<u32>,
    /// The resolution of its file system's clock.
    pub(super) clock: Duration,
    /// What its wall clock shows at the start, in microseconds since 1970.
    pub(super) wall: i64,
}

/// One tracker.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrackerPlan {
    pub(super) habit: Habit,
    /// It speaks UDP.
    pub(super) udp: bool,
}

impl TrackerPlan {
    /// How its addresses begin.
    pub(super) fn scheme(&self) -> &'static str {
        if self.udp { "udp" } else { "http" }
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) style: Style,
    pub(super) piece_len: u32,
    pub(super) files: Vec<u64>,
    pub(super) nodes: Vec<NodePlan>,
    pub(super) scripts: Vec<Manner>,
    pub(super) trackers: Vec<TrackerPlan>,
    /// One for each node, script and tracker, in this order.
    pub(super) lines: Vec<Line>,
    pub(super) weather: Weather,
    pub(super) faults: Vec<Fault>,
    pub(super) heal: Instant,
    pub(super) deadline: Instant,
    pub(super) newcomer: Option<Newcomer>,
}

impl NodePlan {
    /// It has everything from the start.
    pub(super) fn is_seeder(&self) -> bool {
        matches!(self.holds, Holds::All)
    }
}

/// In microseconds.
const YEAR: u64 = 365 * 24 * 3600 * 1_000_000;

/// A number whose logarithm is evenly spread.
pub(super) fn spread(rng: &mut Rng, from: u64, to: u64) -> u64 {
    let (a, b) = (from.ilog2(), to.ilog2());
    let base = 1u64 << rng.u32(a..=b);
    (base + rng.u64(..base)).clamp(from, to)
}

fn chance(rng: &mut Rng, permille: u32) -> bool {
    rng.u32(..1000) < permille
}

pub(super) fn secs(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_micros(rng.u64(from * 1_000_000..=to * 1_000_000))
}

impl Plan {
    /// The run of this seed.
    pub(super) fn draw(seed: u64, nodes: u32) -> Self {
        let rng = &mut seeded(super::content::mix(seed ^ 0xD1CE));
        let all =
            [Style::FlashCrowd, Style::OneSeed, Style::Churn, Style::ManySlow, Style::FreeRiders, Style::SuperSeed];
        let style = all[rng.usize(..all.len())];
        let piece_len = 16 << 10 << rng.u32(0..3);
        let tiny = chance(rng, 100);
        let total = rng.u64(if tiny { 1..200_000 } else { 1 << 20..4 << 20 });
        let mut files = Vec::new();
        let mut left = total;
        for _ in 0..rng.u32(0..4) {
            let len = if chance(rng, 100) { 0 } else { rng.u64(0..=left) };
            files.push(len);
            left -= len;
        }
        files.push(left);
        let mut plan = Self {
            seed,
            style,
            piece_len,
            files,
            nodes: Vec::new(),
            scripts: Vec::new(),
            trackers: Vec::new(),
            lines: Vec::new(),
            weather: Weather::default(),
            faults: Vec::new(),
            heal: Instant::ZERO,
            deadline: Instant::ZERO,
            newcomer: None,
        };
        plan.draw_nodes(rng, nodes);
        plan.draw_strangers(rng, nodes);
        plan.draw_weather(rng);
        plan.draw_faults(rng);
        plan.ask(rng);
        plan.look_again();
        plan
    }

    /// What the first could not read any more nobody else may have. When its disk can be read again, its owner has it
    /// look.
    fn look_again(&mut self) {
        let unreadable = |f: &Fault| matches!(f.what, What::Disk(0, d) if d.read > 0 || d.fault > 0);
        if self.faults.iter().any(unreadable) {
            // What it failed with is over by then.
            let after = Duration::from_secs(60);
            self.heal += after;
            self.deadline += after;
            self.faults.push(Fault { at: self.heal, until: self.heal, what: What::Verify(0) });
        }
    }

    /// What is wrong from the beginning: how many of each kind there are.
    pub(super) fn classes(&self) -> BTreeMap<&'static str, u64> {
        let w = &self.weather;
        let mut all: Vec<&'static str> = self.scripts.iter().map(|m| m.name()).collect();
        all.extend(self.trackers.iter().filter(|t| t.habit != Habit::Honest).map(|t| t.habit.name()));
        all.extend(self.trackers.iter().filter(|t| t.udp).map(|_| "tracker over UDP"));
        all.extend(self.lines.iter().filter(|l| l.nat).map(|_| "behind NAT"));
        let weather = [
            (w.loss > 0, "loss"),
            (!w.jitter.is_zero(), "jitter, reordering"),
            (w.short > 0, "short reads and writes"),
            (w.resets > 0, "resets at random"),
            (w.twice > 0, "duplication"),
            (w.deaf > 0, "no answer to dialling"),
        ];
        all.extend(weather.into_iter().filter(|(on, _)| *on).map(|(_, name)| name));
        all.push(self.style.name());
        all.into_iter().fold(BTreeMap::new(), |mut counts, name| {
            *counts.entry(name).or_default() += 1;
            counts
        })
    }

    fn draw_nodes(&mut self, rng: &mut Rng, nodes: u32) {
        let (slow, fast) = match self.style {
            Style::ManySlow => (8_000, 64_000),
            _ => (8_000, 100_000_000),
        };
        let far = spread(rng, 2, 500);
        for n in 0..nodes {
            let seeder = n == 0 || (self.style != Style::OneSeed && self.style != Style::SuperSeed && chance(rng, 100));
            let (mut up, mut down) = (spread(rng, slow, fast), spread(rng, slow, fast));
            if self.style == Style::SuperSeed && n == 0 {
                (up, down) = (100_000_000, 100_000_000);
            }
            let mut line = Line::new(up, down, Duration::from_millis(rng.u64(1..=far.max(2)) / 2));
            line.nat = !seeder && chance(rng, 150);
            line.plain = chance(rng, 100);
            self.lines.push(line);
            let rider = self.style == Style::FreeRiders && !seeder && chance(rng, 400);
            let late = self.style == Style::Churn || chance(rng, 100);
            self.nodes.push(NodePlan {
                holds: if seeder { Holds::All } else { Holds::Nothing },
                join: if late { Instant::ZERO + secs(rng, 0, 60) } else { Instant::ZERO },
                config: draw_config(rng, rider, nodes),
                knows: Vec::new(),
                clock: Duration::from_nanos([1_000, 4_000_000, 2_000_000_000][rng.usize(..3)]),
                wall: rng.u64(..2_000_000_000_000_000) as i64,
            });
        }
    }

    /// The same nodes among themselves on a local network.
    pub(super) fn on_lan(mut self) -> Self {
        self.scripts.clear();
        self.trackers.clear();
        self.lines.truncate(self.nodes.len());
        for node in &mut self.nodes {
            node.knows.clear();
            node.config.lsd = true;
        }
        self.newcomer = None;
        self
    }

    /// Scripted peers, trackers, and who knows whom.
    fn draw_strangers(&mut self, rng: &mut Rng, nodes: u32) {
        let scripts = if chance(rng, 500) { rng.u32(1..=(nodes / 4).max(1)) } else { 0 };
        for _ in 0..scripts {
            self.scripts.push(Manner::draw(rng));
        }
        let trackers = rng.u32(0..4);
        let honest = rng.u32(..trackers.max(1));
        for i in 0..trackers {
            let habit = if i == honest { Habit::Honest } else { Habit::draw(rng) };
            self.trackers.push(TrackerPlan { habit, udp: chance(rng, 400) });
        }
        for _ in 0..scripts + trackers {
            let line = Line::new(10_000_000, 10_000_000, Duration::from_millis(rng.u64(1..100)));
            self.lines.push(line);
        }
        let everybody = nodes + scripts;
        // Nobody asks another tracker as long as one answers, be it with lies.
        let lies = self.trackers.iter().any(|t| t.habit == Habit::Liar);
        let fashion = if trackers > 0 && !lies { rng.u32(0..4) } else { rng.u32(1..4) };
        for n in 0..nodes {
            let mut knows = match fashion {
                0 => Vec::new(),
                1 => vec![0],
                // Whoever cannot be dialled must know somebody.
                2 => (0..4).map(|_| rng.u32(..everybody)).chain([0]).collect(),
                _ => (0..everybody.min(40)).collect(),
            };
            knows.retain(|k| *k != n || chance(rng, 100));
            self.nodes[n as usize].knows = knows;
        }
    }

    fn draw_weather(&mut self, rng: &mut Rng) {
        let w = &mut self.weather;
        if chance(rng, 500) {
            w.loss = rng.u32(..=100);
        }
        if chance(rng, 500) {
            w.jitter = Duration::from_micros(spread(rng, 100, 200_000));
        }
        if chance(rng, 500) {
            w.short = rng.u32(..=300);
        }
        if chance(rng, 250) {
            w.resets = rng.u32(..=100);
        }
        if chance(rng, 300) {
            w.twice = rng.u32(..=300);
        }
        if chance(rng, 300) {
            w.deaf = rng.u32(..=300);
        }
    }

    /// Seconds in which most swarms like this one would be done.
    pub(super) fn estimate(&self) -> u64 {
        let (nodes, total) = (self.nodes.len() as u64, self.files.iter().sum::<u64>());
        let slowest = self.lines.iter().map(|l| l.down.min(l.up)).min().unwrap_or(1);
        (total * (nodes - 1) / self.lines[0].up + total / slowest + 20).min(3000)
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        let (nodes, estimate) = (self.nodes.len() as u64, self.estimate());
        let window = if chance(rng, 150) { 0 } else { rng.u64(5..=estimate.max(10) + 60) };
        let joined = self.nodes.iter().map(|n| n.join).max().unwrap_or_default();
        let count = if window == 0 { 0 } else { rng.u64(0..=nodes.min(20) * 2) };
        let end = Instant::from_secs(window);
        for _ in 0..count {
            // Early ones are more likely to hit something under way.
            let at = Instant::from_micros(spread(rng, 1 << 16, (window * 1_000_000).max(1 << 17)));
            let what = self.draw_fault(rng);
            let until = match what {
                What::Clog => at + secs(rng, 0, 5),
                What::Split(_) => (at + secs(rng, 0, 60)).min(end.max(at)),
                // Suspended, for up to eight hours.
                What::Freeze(_) if chance(rng, 100) => at + Duration::from_secs(spread(rng, 1, 8 * 3600)),
                _ => (at + secs(rng, 0, 70)).min(end.max(at)),
            };
            self.faults.push(Fault { at, until, what });
        }
        let last = self.faults.iter().map(|f| f.until).max().unwrap_or_default();
        self.heal = last.max(joined);
        self.deadline = self.heal + Duration::from_secs(7200 + estimate * 20);
    }

    fn draw_fault(&self, rng: &mut Rng) -> What {
        let node = rng.u32(..self.nodes.len() as u32);
        let lines = self.lines.len() as u32;
        match rng.u32(..19) {
            0 | 1 => What::Reset,
            2 => What::Dark(rng.u32(..lines)),
            3 => What::Split(rng.u64(..)),
            4 => What::Freeze(node),
            5 | 6 => What::Kill(node),
            7 => What::Quit(node),
            8 => What::Pause(node),
            9 => What::Verify(node),
            10 => What::Limits(node, spread(rng, 1_000, 10_000_000)),
            11 => What::Select(node, rng.u64(..)),
            12 => What::Clog,
            13 => What::Clock(node, rng.u64(..2 * YEAR) as i64 - YEAR as i64),
            // The first has all there is for good, so that the others can complete.
            14 => What::Tamper(node.max(1), rng.u32(..), chance(rng, 500).then(|| rng.u64(..))),
            15 | 16 => What::Cut(node),
            _ => What::Disk(node, draw_disk(rng)),
        }
    }
}

fn draw_disk(rng: &mut Rng) -> DiskFaults {
    let mut d = DiskFaults::default();
    match rng.u32(..8) {
        0 => d.room = Some(if chance(rng, 300) { 0 } else { rng.u64(..4 << 20) }),
        1 => d.write = rng.u32(1..200),
        2 => d.read = rng.u32(1..100),
        3 => d.fault = rng.u32(1..50),
        4 => d.no_place = rng.u32(1..500),
        5 => d.sync = rng.u32(100..=1000),
        6 => d.read_only = true,
        _ => d.slow = Duration::from_micros(spread(rng, 1_000, 3_000_000)),
    }
    d
}

fn draw_config(rng: &mut Rng, rider: bool, nodes: u32) -> Config {
    let mut c = Config { predict: !chance(rng, 200), ..Config::default() };
    c.stride = 1 << rng.u32(0..=6);
    c.unchoke_slots = if rider { 0 } else { rng.usize(1..9) };
    c.half_open = rng.usize(1..17);
    c.queue_time = Duration::from_millis(rng.u64(200..4000));
    c.save_interval = secs(rng, 2, 40);
    if nodes > 20 {
        c.max_peers = rng.usize(20..80);
        c.max_peers_torrent = c.max_peers;
    }
    c
}
