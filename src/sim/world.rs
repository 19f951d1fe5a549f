//! The world: nodes, scripted peers and trackers on one network and one clock.
//!
//! It takes the next event from the queue, sets the clock, tells whom it concerns, gives those
//! nodes their turn, and lets the checkers look. Nothing else moves time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::content;
use super::disk::SimDisk;
use super::link::{Event, Net, PORT, WireKey, addr_of};
use super::node::{Node, adding, layout_of};
use super::plan::{Plan, What};
use super::script::Script;
use super::trace::Trace;
use super::tracker::{Habit, Tracker, index_of, name_of};
use super::{Options, Report};
use crate::api::Priority;
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
    scripts: Vec<Script>,
    trackers: Vec<Tracker>,
    meta: Metainfo,
    layout: Arc<Layout>,
    bufs: Buffers,
    landing: Vec<Vec<u8>>,
    frozen: Vec<Instant>,
    finished: Vec<Option<Instant>>,
    complete: Vec<bool>,
    due: Vec<u32>,
    rng: Rng,
    events: u64,
}

impl World {
    pub(super) fn new(plan: Plan, options: &Options) -> Self {
        let mut rng = seeded(content::mix(plan.seed ^ 0x3012));
        let trackers: Vec<Vec<String>> =
            (0..plan.trackers.len()).map(|i| vec![format!("http://{}:{PORT}/announce", name_of(i))]).collect();
        let meta = content::metainfo(plan.seed, plan.piece_len, &plan.files, trackers);
        let layout = layout_of(&meta);
        let pcap = options.pcap.then(super::pcap::Pcap::new);
        let net = Net::new(plan.lines.clone(), plan.weather, rng.fork(), Trace::new(options.lines), pcap);
        let (n, s) = (plan.nodes.len() as u32, plan.scripts.len() as u32);
        let mut nodes = Vec::new();
        for (host, p) in (0..).zip(&plan.nodes) {
            let mut disk = SimDisk::new(Arc::clone(&layout), p.seeder, rng.fork());
            disk.clock = p.clock;
            nodes.push(Node::new(host, disk));
        }
        let hash = meta.info_hash.expect("the torrent has a version 1 side");
        let script = |(host, m): (u32, &_), rng: &mut Rng| {
            Script::new(host, *m, hash, &layout, n, rng.fork(), plan.heal + Duration::from_secs(600))
        };
        let scripts = (n..).zip(&plan.scripts).map(|s| script(s, &mut rng)).collect();
        let tracker = |(host, h): (u32, &Habit), rng: &mut Rng| Tracker::new(host, *h, rng.fork(), n..n + s);
        let trackers = (n + s..).zip(&plan.trackers).map(|t| tracker(t, &mut rng)).collect();
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
        let nodes = self.plan.nodes.len() as u32;
        let scripts = nodes..nodes + self.plan.scripts.len() as u32;
        let node = &mut self.nodes[n as usize];
        std::mem::swap(&mut node.disk.landing, &mut self.landing);
        let calm = node.turn(&mut self.net, &mut self.bufs, &|host| !scripts.contains(&host));
        std::mem::swap(&mut node.disk.landing, &mut self.landing);
        if !calm {
            self.violation(format!("n{n} spins"));
        }
        self.look_up(n);
        self.check_alerts(n);
        let (node, now) = (&self.nodes[n as usize], self.net.now);
        if self.events % LOOK == 0 && node.alive {
            node.session.invariants();
        }
        let complete = Self::is_complete(node, now);
        if complete && self.finished[n as usize].is_none() && !self.plan.nodes[n as usize].seeder {
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
            pcap: self.net.pcap.map(super::pcap::Pcap::into_bytes),
        }
    }

    // ---------------------------------------------------------------- who is who

    /// The host keeps to the protocol and sends no bad data.
    pub(super) fn honest(&self, host: u32) -> bool {
        let first = self.nodes.len() as u32;
        host < first || host >= first + self.scripts.len() as u32
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
            let habit = index.and_then(|i| self.plan.trackers.get(i));
            let host = match habit {
                Some(Habit::Unheard) => continue,
                Some(Habit::Nameless) | None => u32::MAX,
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
            Event::Script { host } => {
                let World { net, layout, scripts, .. } = self;
                if let Some(s) = scripts.iter_mut().find(|s| s.host == host) {
                    s.tick(net, layout);
                }
            }
            Event::Fault(i) => self.fault(i),
            Event::FaultEnds(i) => self.fault_ends(i),
            Event::Join { node } => self.start(node),
            Event::Mend { node, life } => self.mend(node, life),
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

    fn start(&mut self, n: u32) {
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

    fn kill(&mut self, n: u32) {
        self.nodes[n as usize].kill(&mut self.net);
        self.complete[n as usize] = false;
    }

    /// A failed torrent is resumed in a while, as its owner would.
    pub(super) fn mend_later(&mut self, n: u32) {
        let at = self.net.now + Duration::from_millis(self.rng.u64(500..20_000));
        let life = self.nodes[n as usize].life;
        self.net.at(at, Event::Mend { node: n, life });
    }

    fn mend(&mut self, n: u32, life: u32) {
        let node = &mut self.nodes[n as usize];
        let frozen = self.frozen[n as usize] > self.net.now;
        if let (true, true, Some(key)) = (node.life == life, node.alive, node.key) {
            if frozen {
                return self.mend_later(n);
            }
            let _ = node.command(&mut self.net, |s, now| s.resume(now, key));
            self.due.push(n);
        }
    }

    // ---------------------------------------------------------------- faults

    fn fault(&mut self, i: u32) {
        let fault = self.plan.faults[i as usize];
        self.net.trace.say(self.net.now, || format!("FAULT {:?}", fault.what));
        let now = self.net.now;
        match fault.what {
            What::Reset => {
                let all: Vec<_> = self.net.open_wires().map(|(w, _)| w).collect();
                if !all.is_empty() {
                    let pick = all[self.rng.usize(..all.len())];
                    self.net.break_wire(pick);
                }
            }
            What::Dark(host) => self.net.lines[host as usize].dark = fault.until,
            What::Split(salt) => {
                for (h, line) in (0u64..).zip(&mut self.net.lines) {
                    line.group = content::mix(salt ^ h) & 1 == 1;
                }
                self.net.split = fault.until;
            }
            What::Freeze(n) => self.frozen[n as usize] = fault.until,
            _ if self.target(&fault.what).is_none_or(|n| !self.nodes[n].alive || self.frozen[n] > now) => {}
            What::Kill(n) => self.kill(n),
            What::Quit(n) => {
                self.nodes[n as usize].command(&mut self.net, |s, now| s.shutdown(now));
                self.due.push(n);
            }
            What::Pause(n) => self.command(n, |s, now, key| drop(s.pause(now, key))),
            What::Verify(n) => self.command(n, |s, now, key| drop(s.verify(now, key))),
            What::Limits(n, rate) => self.command(n, |s, _, _| s.set_limits(Some(rate), Some(rate))),
            What::Disk(n, faults) => self.nodes[n as usize].disk.faults = faults,
            What::Select(n, bits) => self.select(n, bits),
        }
    }

    fn fault_ends(&mut self, i: u32) {
        let fault = self.plan.faults[i as usize];
        self.net.trace.say(self.net.now, || format!("FAULT OVER {:?}", fault.what));
        match fault.what {
            What::Kill(n) => self.start(n),
            What::Quit(n) => {
                if self.nodes[n as usize].alive {
                    self.kill(n);
                }
                self.start(n);
            }
            What::Pause(n) => self.command(n, |s, now, key| drop(s.resume(now, key))),
            What::Limits(n, _) => self.command(n, |s, _, _| s.set_limits(None, None)),
            What::Disk(n, _) => self.nodes[n as usize].disk.faults = Default::default(),
            What::Select(n, _) => self.select(n, u64::MAX),
            _ => {}
        }
    }

    fn target(&self, what: &What) -> Option<usize> {
        match *what {
            What::Kill(n)
            | What::Quit(n)
            | What::Pause(n)
            | What::Verify(n)
            | What::Limits(n, _)
            | What::Disk(n, _)
            | What::Select(n, _) => Some(n as usize),
            _ => None,
        }
    }

    fn command(&mut self, n: u32, f: impl FnOnce(&mut crate::session::Session, Instant, crate::id::TorrentKey)) {
        let node = &mut self.nodes[n as usize];
        let (true, Some(key)) = (node.alive, node.key) else { return };
        node.command(&mut self.net, |s, now| f(s, now, key));
        self.complete[n as usize] = false;
        self.due.push(n);
    }

    fn select(&mut self, n: u32, bits: u64) {
        let priorities =
            (0..self.plan.files.len()).map(|i| if bits >> i & 1 == 1 { Priority::Normal } else { Priority::Skip });
        let priorities: Vec<_> = priorities.collect();
        self.command(n, |s, now, key| drop(s.select(now, key, priorities)));
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
    }
}
