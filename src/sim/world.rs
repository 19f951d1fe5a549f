//! The world: nodes, scripted peers and trackers on one network and one clock.
//!
//! It takes the next event from the queue, sets the clock, tells whom it concerns, gives those
//! nodes their turn, and lets the checkers look. Nothing else moves time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::content;
use super::disk::SimDisk;
use super::folder::SimFolder;
use super::link::{Event, Net, PORT, WireKey, addr_of};
use super::node::{Node, adding, layout_of};
use super::plan::{Plan, TrackerPlan};
use super::script::Script;
use super::trace::Trace;
use super::tracker::{Habit, Tracker, index_of, name_of};
use super::{Options, Report};
use crate::metainfo::Metainfo;
use crate::pump::Buffers;
use crate::rng::{Rng, seeded};
use crate::time::{Duration, Instant};
use crate::torrent::layout::Layout;

/// Events until a run counts as a storm.
const STORM: u64 = 40_000_000;
/// Events between looks at all invariants of the node concerned.
const LOOK: u64 = 101;

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) net: Net,
    pub(super) nodes: Vec<Node>,
    pub(super) violations: Vec<String>,
    pub(super) frozen: Vec<Instant>,
    pub(super) complete: Vec<bool>,
    pub(super) due: Vec<u32>,
    pub(super) rng: Rng,
    /// How often each kind of thing went wrong.
    pub(super) counts: BTreeMap<&'static str, u64>,
    scripts: Vec<Script>,
    trackers: Vec<Tracker>,
    meta: Metainfo,
    pub(super) layout: Arc<Layout>,
    bufs: Buffers,
    landing: Vec<Vec<u8>>,
    finished: Vec<Option<Instant>>,
    events: u64,
}

impl World {
    pub(super) fn new(plan: Plan, options: &Options) -> Self {
        let mut rng = seeded(content::mix(plan.seed ^ 0x3012));
        let trackers =
            (0..).zip(&plan.trackers).map(|(i, t)| vec![format!("{}://{}:{PORT}/announce", t.scheme(), name_of(i))]);
        let trackers = trackers.collect();
        let meta = content::metainfo(plan.seed, plan.piece_len, &plan.files, trackers);
        let layout = layout_of(&meta);
        let pcap = options.pcap.map(super::pcap::Pcap::new);
        let mut net = Net::new(plan.lines.clone(), plan.weather, rng.fork(), Trace::new(options.lines), pcap);
        let (n, s) = (plan.nodes.len() as u32, plan.scripts.len() as u32);
        (net.taps.nodes, net.taps.peers, net.taps.pieces) = (n, n + s, layout.pieces());
        let mut nodes = Vec::new();
        for (host, p) in (0..).zip(&plan.nodes) {
            let mut disk = SimDisk::new(Arc::clone(&layout), &|piece| p.holds.has(piece), rng.fork());
            (disk.clock, disk.wall) = (p.clock, p.wall);
            nodes.push(Node::new(host, disk, SimFolder::new(rng.fork())));
        }
        let hash = meta.info_hash.expect("the torrent has a version 1 side");
        let script = |(host, m): (u32, &_), rng: &mut Rng| {
            Script::new(host, *m, hash, &layout, n, rng.fork(), plan.heal + Duration::from_secs(600))
        };
        let scripts = (n..).zip(&plan.scripts).map(|s| script(s, &mut rng)).collect();
        let tracker = |(host, t): (u32, &TrackerPlan), rng: &mut Rng| Tracker::new(host, t.habit, rng.fork(), n..n + s);
        let trackers = (n + s..).zip(&plan.trackers).map(|t| tracker(t, &mut rng)).collect();
        let counts = plan.classes();
        Self {
            frozen: vec![Instant::ZERO; nodes.len()],
            finished: vec![None; nodes.len()],
            complete: vec![false; nodes.len()],
            plan,
            net,
            nodes,
            violations: Vec::new(),
            scripts,
            trackers,
            meta,
            layout,
            counts,
            bufs: Buffers::default(),
            landing: vec![Vec::new()],
            due: Vec::new(),
            rng,
            events: 0,
        }
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Report {
        for n in 0..self.nodes.len() as u32 {
            self.net.at(self.plan.nodes[n as usize].join, Event::Join { node: n });
        }
        for s in &self.scripts {
            self.net.at(Instant::from_millis(100), Event::Script { host: s.host });
        }
        for (i, f) in (0..).zip(&self.plan.faults) {
            self.net.at(f.at, Event::Fault(i));
            self.net.at(f.until, Event::FaultEnds(i));
        }
        if let Some(new) = self.plan.newcomer {
            self.net.at(new.by, Event::FirstPiece { node: new.node });
        }
        while self.violations.is_empty() && !self.is_over() {
            let Some((at, event)) = self.net.next() else {
                self.violation("nothing will ever happen again".to_owned());
                break;
            };
            if at > self.plan.deadline {
                self.late();
                break;
            }
            self.step(at, event);
        }
        self.check_end();
        self.report()
    }

    fn step(&mut self, at: Instant, event: Event) {
        self.net.now = at;
        self.events += 1;
        let (what, a, b) = key_of(&event);
        self.net.trace.note(what ^ at.as_micros() << 8, a, b);
        if self.events > STORM {
            return self.violation(format!("{STORM} events"));
        }
        self.dispatch(event);
        while let Some(n) = self.due.pop() {
            self.turn(n);
        }
    }

    /// A node does what it can.
    fn turn(&mut self, n: u32) {
        let (nodes, scripts) = (self.plan.nodes.len(), &self.plan.scripts);
        let script = |host: u32| (host as usize).checked_sub(nodes).and_then(|i| scripts.get(i));
        let node = &mut self.nodes[n as usize];
        self.net.trace.say(self.net.now, || format!("n{n}"));
        std::mem::swap(&mut node.disk.landing, &mut self.landing);
        let calm = node.turn(&mut self.net, &mut self.bufs, &|h| script(h).is_none_or(|m| m.is_good()));
        std::mem::swap(&mut node.disk.landing, &mut self.landing);
        if !calm {
            self.violation(format!("n{n} spins"));
        }
        self.look_up(n);
        self.check_alerts(n);
        self.check_losses(n);
        self.check_taps();
        let node = &self.nodes[n as usize];
        if self.events % LOOK == 0 && node.alive {
            node.session.invariants();
            self.check_limits(n);
        }
        let (node, now) = (&self.nodes[n as usize], self.net.now);
        let complete = Self::is_complete(node, now);
        if complete && self.finished[n as usize].is_none() && !self.plan.nodes[n as usize].is_seeder() {
            self.finished[n as usize] = Some(now);
        }
        self.complete[n as usize] = complete;
    }

    fn is_over(&self) -> bool {
        self.net.now >= self.plan.heal && self.complete.iter().all(|c| *c)
    }

    fn late(&mut self) {
        let now = self.net.now;
        let mut all = String::new();
        for (n, node) in self.nodes.iter().enumerate().filter(|(n, _)| !self.complete[*n]) {
            let status = node.key.and_then(|k| node.session.status(now, k));
            let lack = node.key.and_then(|k| node.session.have(k)).and_then(|h| h.iter_clear().next());
            let told = status
                .map(|s| format!("{:?} {} of {}, {} peers, lacks piece {lack:?}", s.state, s.have, s.size, s.peers));
            self.net.trace.say(now, || format!("n{n} is {:#?}", node.session));
            all += &format!(" n{n} ({})", told.unwrap_or_else(|| "off".to_owned()));
        }
        self.violation(format!("not complete by the deadline:{all}"));
    }

    fn report(self) -> Report {
        let sum = |f: fn(&Node, Instant) -> u64| self.nodes.iter().map(|n| f(n, self.net.now)).sum();
        Report {
            seed: self.plan.seed,
            style: self.plan.style,
            hash: self.net.trace.hash(),
            events: self.events,
            ended: self.net.now,
            sent: sum(Node::sent),
            received: sum(Node::received),
            finished: self.finished,
            violations: self.violations,
            counts: self.counts,
        }
    }

    // ---------------------------------------------------------------- who is who

    /// The host keeps to the protocol and sends no bad data.
    pub(super) fn honest(&self, host: u32) -> bool {
        let script = (host as usize).checked_sub(self.nodes.len()).and_then(|i| self.scripts.get(i));
        script.is_none_or(|s| s.manner.is_good())
    }

    pub(super) fn host_at(&self, ip: IpAddr) -> Option<u32> {
        self.net.host_of(SocketAddr::new(ip, PORT))
    }

    fn script(&mut self, host: u32) -> Option<&mut Script> {
        self.scripts.iter_mut().find(|s| s.host == host)
    }

    fn node(&self, host: u32) -> Option<usize> {
        ((host as usize) < self.nodes.len()).then_some(host as usize)
    }

    /// The names a node asked for.
    fn look_up(&mut self, n: u32) {
        let node = &mut self.nodes[n as usize];
        let life = node.life;
        for (id, name) in std::mem::take(&mut node.lookups) {
            let index = index_of(&name);
            let tracker = index.and_then(|i| self.plan.trackers.get(i));
            let host = match tracker {
                Some(h) if h.habit == Habit::Unheard => continue,
                Some(h) if h.habit == Habit::Nameless => u32::MAX,
                None => u32::MAX,
                Some(_) => self.trackers[index.unwrap_or(0)].host,
            };
            let at = self.net.now + Duration::from_millis(self.rng.u64(1..200));
            self.net.at(at, Event::Resolved { node: n, life, id, host });
        }
    }

    // ---------------------------------------------------------------- events

    /// The end of a connection that an event concerns.
    fn stir(&mut self, wire: WireKey, side: u8, readable: bool, writable: bool) {
        let Some(end) = self.net.end(wire, side).filter(|e| e.open) else { return };
        if let Some(n) = self.node(end.host) {
            if let Some(conn) = end.conn {
                self.nodes[n].stirred(conn, readable, writable);
                self.due.push(end.host);
            }
            return;
        }
        let World { net, layout, scripts, trackers, .. } = self;
        if let Some(s) = scripts.iter_mut().find(|s| s.host == end.host) {
            s.stirred(net, layout, wire);
        } else if let Some(t) = trackers.iter_mut().find(|t| t.host == end.host) {
            t.stirred(net, wire);
        }
    }

    /// When the host that an event is for can see it.
    fn frozen(&self, event: &Event) -> Option<Instant> {
        let side = |wire, side| self.net.end(wire, side).map(|e| e.host);
        let host = match *event {
            Event::Wake { node, .. } | Event::Resolved { node, .. } => Some(node),
            Event::Datagram { to, .. } => Some(to),
            Event::Syn(wire) => side(wire, 1),
            Event::Answer { wire, .. } => side(wire, 0),
            Event::Arrive { wire, from, .. } | Event::End { wire, from, .. } => side(wire, 1 - from),
            Event::Room { wire, side: s } | Event::Again { wire, side: s } => side(wire, s),
            _ => None,
        };
        let until = self.frozen.get(host? as usize).copied()?;
        (until > self.net.now).then_some(until)
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(at) = self.frozen(&event) {
            return self.net.at(at, event);
        }
        if let Event::Syn(w)
        | Event::Answer { wire: w, .. }
        | Event::Arrive { wire: w, .. }
        | Event::End { wire: w, .. } = event
        {
            if let Some(at) = self.net.blocked(w) {
                return self.net.at(at, event);
            }
        }
        match event {
            Event::Wake { node, life } => {
                let n = &mut self.nodes[node as usize];
                if n.life == life && n.woken(self.net.now) {
                    self.due.push(node);
                }
            }
            Event::Syn(wire) => self.syn(wire),
            Event::Answer { wire, ok } => self.answer(wire, ok),
            Event::Arrive { wire, from, len } => {
                if self.net.arrive(wire, from, len).is_some() {
                    self.stir(wire, 1 - from, true, false);
                }
            }
            Event::End { wire, from, reset } => {
                if self.net.ended(wire, from, reset).is_some() {
                    self.stir(wire, 1 - from, true, true);
                }
            }
            Event::Room { wire, side } => self.stir(wire, side, false, true),
            Event::Again { wire, side } => self.stir(wire, side, true, false),
            Event::Resolved { node, life, id, host } => {
                let n = &mut self.nodes[node as usize];
                if n.life == life && n.alive {
                    let found = host != u32::MAX;
                    let result = if found { Ok(vec![addr_of(host).ip()]) } else { Err("no such name".to_owned()) };
                    n.resolved(&mut self.net, id, result);
                    self.due.push(node);
                }
            }
            Event::TrackerAnswer { host, wire } => {
                if let Some(t) = self.trackers.iter_mut().find(|t| t.host == host) {
                    t.answer(&mut self.net, wire);
                }
            }
            Event::Datagram { to, id } => self.datagram(to, id),
            Event::Script { host } => {
                let World { net, layout, scripts, .. } = self;
                if let Some(s) = scripts.iter_mut().find(|s| s.host == host) {
                    s.tick(net, layout);
                }
            }
            Event::Fault(i) => self.fault(i),
            Event::FaultEnds(i) => self.fault_ends(i),
            Event::FirstPiece { node } => self.check_first_piece(node),
            Event::Join { node } => self.start(node),
            Event::Mend { node, life } => self.mend(node, life),
        }
    }

    fn datagram(&mut self, to: u32, id: u64) {
        let Some((from, data)) = self.net.take_datagram(id) else { return };
        if let Some(n) = self.node(to) {
            if self.nodes[n].alive {
                // A group is known by its port. Here its messages are known by how they begin.
                self.nodes[n].command(&mut self.net, |s, now| match data.starts_with(b"BT-SEARCH") {
                    true => s.handle_multicast(now, from, &data),
                    false => s.handle_datagram(now, from, &data),
                });
                self.due.push(to);
            }
        } else if let Some(t) = self.trackers.iter_mut().find(|t| t.host == to) {
            t.datagram(&mut self.net, from, &data);
        }
    }

    fn syn(&mut self, wire: WireKey) {
        let (Some(from), Some(to)) = (self.net.end(wire, 0), self.net.end(wire, 1)) else { return };
        if !self.net.answers(wire) {
            // A host that is off says nothing, one behind a wall as well; a wall sometimes speaks.
            if self.rng.bool() {
                self.net.refused(wire);
            }
            return;
        }
        if let Some(n) = self.node(to.host) {
            if !self.nodes[n].alive {
                return self.net.refused(wire);
            }
            let conn = self.nodes[n].accept(&mut self.net, wire, from.addr);
            match conn {
                Some(conn) => {
                    self.net.accepted(wire, Some(conn));
                    self.due.push(to.host);
                }
                None => self.net.refused(wire),
            }
            return;
        }
        let taken = match self.script(to.host) {
            Some(s) => s.accept(wire),
            None => {
                let tracker = self.trackers.iter_mut().find(|t| t.host == to.host);
                tracker.map(|t| t.accept(wire)).is_some()
            }
        };
        if taken { self.net.accepted(wire, None) } else { self.net.refused(wire) }
    }

    fn answer(&mut self, wire: WireKey, ok: bool) {
        let Some(end) = self.net.end(wire, 0).filter(|e| e.open) else { return };
        match self.node(end.host) {
            Some(n) => {
                if let Some(conn) = end.conn {
                    self.nodes[n].answered(&mut self.net, conn, ok);
                    self.due.push(end.host);
                }
            }
            None => {
                let World { net, layout, scripts, .. } = self;
                if let Some(s) = scripts.iter_mut().find(|s| s.host == end.host) {
                    s.answered(net, layout, wire, ok);
                }
            }
        }
    }

    // ---------------------------------------------------------------- nodes come and go

    pub(super) fn start(&mut self, n: u32) {
        let p = &self.plan.nodes[n as usize];
        let peers = p.knows.iter().map(|h| addr_of(*h)).collect();
        let add = adding(&self.meta, peers);
        self.net.trace.say(self.net.now, || format!("n{n} starts"));
        let node = &mut self.nodes[n as usize];
        if !node.alive {
            node.start(&mut self.net, p.config.clone(), &mut self.rng, add);
            self.due.push(n);
        }
    }
}

/// What a trace keeps of an event.
fn key_of(event: &Event) -> (u64, u64, u64) {
    let w = |w: WireKey| u64::from(w.index);
    match *event {
        Event::Wake { node, life } => (32, u64::from(node), u64::from(life)),
        Event::Syn(wire) => (33, w(wire), 0),
        Event::Answer { wire, ok } => (34, w(wire), u64::from(ok)),
        Event::Arrive { wire, from, len } => (35, w(wire) << 1 | u64::from(from), u64::from(len)),
        Event::End { wire, from, reset } => (36, w(wire) << 1 | u64::from(from), u64::from(reset)),
        Event::Room { wire, side } => (37, w(wire), u64::from(side)),
        Event::Again { wire, side } => (38, w(wire), u64::from(side)),
        Event::Resolved { node, id, host, .. } => (39, u64::from(node) << 32 | u64::from(host), id),
        Event::TrackerAnswer { host, wire } => (40, u64::from(host), w(wire)),
        Event::Script { host } => (41, u64::from(host), 0),
        Event::Fault(i) => (42, u64::from(i), 0),
        Event::FaultEnds(i) => (43, u64::from(i), 0),
        Event::Join { node } => (44, u64::from(node), 0),
        Event::Mend { node, life } => (45, u64::from(node), u64::from(life)),
        Event::Datagram { to, id } => (46, u64::from(to), id),
        Event::FirstPiece { node } => (47, u64::from(node), 0),
    }
}
