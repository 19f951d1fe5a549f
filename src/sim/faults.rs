//! Faults: what the plan says goes wrong, done to the world, and undone.
//!
//! Each begins at a time of the plan and ends at another. Whoever is off or stands still is
//! spared what happens inside of a process, but neither lines nor disks wait for anybody.

use super::content;
use super::plan::What;
use super::world::World;
use crate::api::Priority;
use crate::id::TorrentKey;
use crate::session::Session;
use crate::time::{Duration, Instant};

impl World {
    /// A fault begins.
    pub(super) fn fault(&mut self, i: u32) {
        if let What::CutWriter = self.plan.faults[i as usize].what {
            let Some(n) = self.some_writer() else {
                let again = self.net.now + Duration::from_secs(1);
                if again < self.plan.faults[i as usize].until {
                    self.net.at(again, super::link::Event::Fault(i));
                }
                return;
            };
            self.plan.faults[i as usize].what = What::Cut(n);
        }
        let fault = self.plan.faults[i as usize];
        self.net.trace.say(self.net.now, || format!("FAULT {:?}", fault.what));
        let now = self.net.now;
        match fault.what {
            What::Reset => {
                if let Some(pick) = self.some_wire() {
                    self.net.break_wire(pick);
                }
            }
            What::Clog => {
                if let Some(pick) = self.some_wire() {
                    self.net.clog(pick, fault.until);
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
            What::Clock(n, jump) => self.nodes[n as usize].disk.wall += jump,
            What::Disk(n, faults) => self.nodes[n as usize].set_faults(faults),
            // A file that is cut while it is written to grows again, and nothing shows that it has a hole.
            What::Tamper(n, _, Some(_)) if self.nodes[n as usize].alive && !self.complete[n as usize] => return,
            What::Tamper(n, file, len) => {
                let (file, node) = (file as usize % self.plan.files.len(), &mut self.nodes[n as usize]);
                let len = len.map(|l| l % self.plan.files[file].max(1));
                node.disk.now = now;
                node.disk.tamper(file, len);
            }
            // A process that stands still dies like any other.
            What::Kill(n) if self.nodes[n as usize].alive => self.kill(n),
            What::Cut(n) => self.cut(n),
            What::CutWriter => {}
            _ if self.target(&fault.what).is_none_or(|n| !self.nodes[n].alive || self.frozen[n] > now) => return,
            What::Kill(_) => {}
            What::Quit(n) => {
                self.nodes[n as usize].command(&mut self.net, |s, now| s.shutdown(now));
                self.due.push(n);
            }
            What::Pause(n) => self.command(n, |s, now, key| drop(s.pause(now, key))),
            What::Verify(n) => self.command(n, |s, now, key| drop(s.verify(now, key))),
            What::Limits(n, rate) => self.command(n, |s, _, _| s.set_limits(Some(rate), Some(rate))),
            What::Select(n, bits) => self.select(n, bits),
        }
        *self.counts.entry(fault.what.name()).or_default() += 1;
    }

    /// A fault ends.
    pub(super) fn fault_ends(&mut self, i: u32) {
        let fault = self.plan.faults[i as usize];
        self.net.trace.say(self.net.now, || format!("FAULT OVER {:?}", fault.what));
        match fault.what {
            What::Kill(n) | What::Cut(n) => self.start(n),
            What::Quit(n) => {
                if self.nodes[n as usize].alive {
                    self.kill(n);
                }
                self.start(n);
            }
            What::Pause(n) => self.command(n, |s, now, key| drop(s.resume(now, key))),
            What::Limits(n, _) => self.command(n, |s, _, _| s.set_limits(None, None)),
            What::Disk(n, _) => self.nodes[n as usize].set_faults(Default::default()),
            What::Select(n, _) => self.select(n, u64::MAX),
            _ => {}
        }
    }

    fn some_wire(&mut self) -> Option<super::link::WireKey> {
        let all: Vec<_> = self.net.open_wires().map(|(w, _)| w).collect();
        (!all.is_empty()).then(|| all[self.rng.usize(..all.len())])
    }

    /// Somebody who has written what is not synced.
    fn some_writer(&mut self) -> Option<u32> {
        let at_stake = |n: &u32| self.nodes[*n as usize].disk.platter().is_at_stake();
        let all: Vec<_> = (0..self.nodes.len() as u32).filter(at_stake).collect();
        (!all.is_empty()).then(|| all[self.rng.usize(..all.len())])
    }

    fn target(&self, what: &What) -> Option<usize> {
        match *what {
            What::Kill(n)
            | What::Quit(n)
            | What::Pause(n)
            | What::Verify(n)
            | What::Limits(n, _)
            | What::Select(n, _) => Some(n as usize),
            _ => None,
        }
    }

    fn command(&mut self, n: u32, f: impl FnOnce(&mut Session, Instant, TorrentKey)) {
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

    // ---------------------------------------------------------------- nodes come and go

    /// The process dies.
    pub(super) fn kill(&mut self, n: u32) {
        self.nodes[n as usize].kill(&mut self.net);
        self.complete[n as usize] = false;
    }

    /// The machine loses its power, whether the process runs or not.
    fn cut(&mut self, n: u32) {
        self.complete[n as usize] = false;
        self.frozen[n as usize] = self.net.now;
        let (durable, stake) = self.nodes[n as usize].cut(&mut self.net);
        if stake > 0 {
            *self.counts.entry("power cut, pages at stake").or_default() += 1;
        }
        let platter = self.nodes[n as usize].disk.platter();
        if let Some(piece) = durable.into_iter().find(|p| !platter.is_as_known(*p)) {
            self.violation(format!("n{n} said that piece {piece} is durable, and a power cut took it"));
        }
    }

    /// A failed torrent is resumed in a while, as its owner would.
    pub(super) fn mend_later(&mut self, n: u32) {
        let at = self.net.now + Duration::from_millis(self.rng.u64(500..20_000));
        let life = self.nodes[n as usize].life;
        self.net.at(at, super::link::Event::Mend { node: n, life });
    }

    /// Its owner resumes it.
    pub(super) fn mend(&mut self, n: u32, life: u32) {
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
}
