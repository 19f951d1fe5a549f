//! The simulator: whole swarms of real sessions over simulated networks and disks, on virtual time.
//!
//! ```text
//!   seed ─▶ plan ─▶ world ─ events in order of time ─▶ nodes (Session + pump), scripts, trackers
//!                     └─ checkers after every step, and at the end ─▶ Report
//! ```
//!
//! A run is a function of the code and the seed: two runs of a seed give the same trace hash. It has a
//! safety phase, in which faults come and go, and a liveness phase without any, at whose end every
//! leecher must have finished. Nodes are real: `Session` with `pump::recv` and `pump::send`, driven as the
//! real loop does it. Simulated are sockets (`link`), files (`disk`, `folder`), name lookups and the clock; the
//! content is a formula (`content`), so that a seeder costs nothing.
//!
//! What it does not show: the real storage and the real loop (they have tests of their own), and anything about real
//! time.
//!
//! `check` lists what is checked. A seed that ever failed goes to `testdata/seeds.txt`.

mod check;
mod content;
mod disk;
mod faults;
mod folder;
mod link;
mod node;
mod pcap;
mod plain;
mod plan;
mod platter;
mod script;
mod special;
mod tap;
#[cfg(test)]
mod tests;
mod trace;
mod tracker;
mod world;

pub use link::Weather;
pub use pcap::Sink;
pub use plain::Plain;
pub use plan::Style;
pub use trace::Lines;

use std::collections::BTreeMap;

use crate::time::Instant;
use plan::Plan;
use world::World;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Sessions in the swarm, 2 at least.
    pub nodes: u32,
    /// They know of nobody, and there is no tracker: they find each other by multicast alone (BEP 14).
    pub lan: bool,
    /// Where a transcript goes.
    pub lines: Option<Lines>,
    /// Where a capture of all traffic goes.
    pub pcap: Option<Sink>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The swarm's character.
    pub style: Style,
    /// Over everything that happened.
    pub hash: u64,
    /// Events handled.
    pub events: u64,
    /// When it was over.
    pub ended: Instant,
    /// Payload that nodes sent.
    pub sent: u64,
    /// Payload that nodes received.
    pub received: u64,
    /// When each node first had everything; seeders never had to.
    pub finished: Vec<Option<Instant>>,
    /// What was not as it must be; empty when all is well.
    pub violations: Vec<String>,
    /// How often each kind of fault struck.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Runs a seed.
///
/// # Panics
/// When an assertion of the code under test fails; that is a finding like any other.
pub fn run(seed: u64, options: &Options) -> Report {
    let plan = Plan::draw(seed, options.nodes.max(2));
    World::new(if options.lan { plan.on_lan() } else { plan }, options).run()
}

/// Runs a swarm in which nothing goes wrong.
///
/// # Panics
/// As [`run`] does.
pub fn run_plain(seed: u64, swarm: &Plain) -> Report {
    World::new(swarm.plan(seed), &Options::default()).run()
}
