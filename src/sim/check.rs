//! The checkers: what must hold in every step, and what must hold at the end.
//!
//! 1. Every piece that is announced, told to a peer or trusted is true on that node's disk; one that is called durable
//!    is still there after a power cut.
//! 2. Structures keep their rules and their limits ([`Session::invariants`](crate::session::Session::invariants)),
//!    nodes have no more peers than they may, and keep no more bytes for one than its queues can hold.
//! 3. Bytes are accounted for: nobody received more than was sent to it, and what was received is
//!    verified, wasted, or in pieces that are not complete.
//! 4. No honest peer is banned, or accused of breaking the protocol by another honest one.
//! 5. Whatever a node writes to a peer is by the protocol (see [`tap`](super::tap)). No panic, no spinning,
//!    no event storm.
//! 6. Once the faults are over, every leecher finishes by the deadline. Who has nothing to give gets a first piece
//!    while others trade (see [`special`](super::special)).
//!
//! The disk checks besides where bytes land (see [`disk`](super::disk)).

use super::node::Node;
use super::tap::Told;
use super::world::World;
use crate::api::{Alert, CloseReason, State};
use crate::id::PieceIndex;
use crate::time::Instant;

/// Bytes kept for one connection, blocks apart: what it is sent, and a frame of its that is not complete.
const PEER_MEMORY: usize = 512 << 10;

impl World {
    /// Notes that something is not as it must be.
    pub(super) fn violation(&mut self, what: String) {
        let line = format!("at {:.6} s: {what}", self.net.now.as_micros() as f64 / 1e6);
        self.net.trace.say(self.net.now, || format!("VIOLATION {what}"));
        if self.violations.len() < 20 {
            self.violations.push(line);
        }
    }

    /// Looks at what a node reported in its turn.
    pub(super) fn check_alerts(&mut self, n: u32) {
        let alerts = std::mem::take(&mut self.nodes[n as usize].alerts);
        for alert in &alerts {
            let kind = match alert {
                Alert::Piece { piece, .. } => 16 + u64::from(piece.get()),
                Alert::Finished { .. } => 1,
                Alert::PeerConnected { .. } => 2,
                Alert::PeerClosed { .. } => 3,
                Alert::PeerBanned { .. } => 4,
                Alert::Error { .. } => 5,
                Alert::Checked { .. } => 6,
                Alert::PieceFailed { .. } => 7,
                _ => 8,
            };
            self.net.trace.note(4, u64::from(n), kind);
            if !matches!(alert, Alert::Piece { .. }) {
                self.net.trace.say(self.net.now, || format!("n{n} {alert:?}"));
            }
            let node = &self.nodes[n as usize];
            let platter = node.disk.platter();
            match alert {
                // What the disk has lost just now, without a word so far, nobody can know.
                Alert::Piece { piece, .. } if !platter.is_good(*piece) && platter.losses == node.losses => {
                    self.violation(format!("n{n} announces piece {piece}, which is not good"));
                }
                Alert::Checked { .. } => {
                    self.nodes[n as usize].trades = true;
                    self.check_have(n);
                }
                Alert::Finished { .. } => self.check_have(n),
                Alert::PeerBanned { addr, .. } => {
                    let host = self.host_at(addr.ip());
                    // Nobody can tell a file that was cut from a peer that sent it so.
                    let spoilt = self.nodes[n as usize].disk.was_spoilt;
                    if !spoilt && host.is_some_and(|h| self.honest(h)) {
                        self.violation(format!("n{n} bans {addr}, which is honest"));
                    }
                }
                Alert::PeerClosed { addr, why: CloseReason::Protocol(why), .. } => {
                    let host = self.host_at(addr.ip());
                    if host.is_some_and(|h| self.honest(h)) {
                        self.violation(format!("n{n} says that {addr}, which is honest, breaks the protocol: {why}"));
                    }
                }
                Alert::Error { .. } => self.mend_later(n),
                _ => {}
            }
        }
        let node = &mut self.nodes[n as usize];
        node.alerts = alerts;
        node.alerts.clear();
        for what in std::mem::take(&mut node.disk.violations) {
            self.violation(format!("n{n} disk: {what}"));
        }
    }

    /// No more is kept than the limits say.
    pub(super) fn check_limits(&mut self, n: u32) {
        let session = &self.nodes[n as usize].session;
        let (peers, most) = (session.stats(self.net.now).peers, session.config().max_peers);
        let memory = self.nodes[n as usize].conns().map(|c| session.memory_of(c)).max().unwrap_or(0);
        if peers > most {
            self.violation(format!("n{n} has {peers} peers, and may have {most}"));
        }
        if memory > PEER_MEMORY {
            self.violation(format!("n{n} keeps {memory} bytes for one peer"));
        }
    }

    /// What nodes have told their peers is true, and by the rules.
    pub(super) fn check_taps(&mut self) {
        for what in std::mem::take(&mut self.net.taps.breaches) {
            self.violation(what);
        }
        let mut told = std::mem::take(&mut self.net.taps.told);
        for (n, what) in told.drain(..) {
            let (disk, pieces) = (self.nodes[n as usize].disk.platter(), self.net.taps.pieces);
            let lie = match what {
                Told::Has(p) => !disk.is_as_known(p),
                // It may have waited for a slow line, and what it speaks of is a bad sector by now.
                Told::Had(p) => !disk.is_as_known(p) && !self.nodes[n as usize].disk.is_unreadable(p),
                Told::All => !(0..pieces).all(|p| disk.is_as_known(PieceIndex::new(p))),
            };
            if lie {
                self.violation(format!("n{n} tells a peer: {what:?}, and it is not so"));
            }
        }
        self.net.taps.told = told;
    }

    /// What a node claims is looked at anew whenever its disk has lost something.
    pub(super) fn check_losses(&mut self, n: u32) {
        let node = &mut self.nodes[n as usize];
        let losses = node.disk.platter().losses;
        if losses != node.losses && node.trades {
            node.losses = losses;
            self.check_have(n);
        }
    }

    /// Every piece a node claims is true on its disk.
    pub(super) fn check_have(&mut self, n: u32) {
        let node = &self.nodes[n as usize];
        let Some(have) = node.key.and_then(|k| node.session.have(k)) else { return };
        let lie = have.iter_set().find(|p| !node.disk.platter().is_as_known(*p));
        if let Some(piece) = lie {
            self.violation(format!("n{n} has piece {piece}, which is not good on its disk"));
        }
    }

    /// Others have traded for a while: a newcomer must have got something to trade with.
    pub(super) fn check_first_piece(&mut self, n: u32) {
        let node = &self.nodes[n as usize];
        let have = node.key.and_then(|k| node.session.have(k));
        if have.is_none_or(|h| h.iter_set().next().is_none()) {
            self.violation(format!("n{n} came, and nobody gave it a piece"));
        }
    }

    /// It has all it wants.
    pub(super) fn is_complete(node: &Node, now: Instant) -> bool {
        let Some(key) = node.key.filter(|_| node.alive) else { return false };
        // The status is dear, and this is asked after every turn.
        node.session.have(key).is_some_and(|h| h.is_all())
            && node.session.status(now, key).is_some_and(|s| s.state == State::Seeding && s.have == s.size)
    }

    /// What must hold at the end.
    pub(super) fn check_end(&mut self) {
        let now = self.net.now;
        for n in 0..self.nodes.len() as u32 {
            let node = &self.nodes[n as usize];
            if !node.alive {
                continue;
            }
            node.session.invariants();
            // One that has failed doubts what it has.
            if node.trades {
                self.check_have(n);
            }
            self.check_bytes(n);
        }
        let (mut sent, mut received) = (0, 0);
        for node in &self.nodes {
            sent += node.sent(now);
            received += node.received(now);
        }
        if self.plan.scripts.is_empty() && received > sent {
            self.violation(format!("{received} payload bytes were received, and {sent} were sent"));
        }
    }

    fn check_bytes(&mut self, n: u32) {
        let now = self.net.now;
        let node = &self.nodes[n as usize];
        let Some(status) = node.key.and_then(|k| node.session.status(now, k)) else { return };
        let (received, lives, complete) = (node.received(now), node.tally.lives, World::is_complete(node, now));
        let missing = (0..status.pieces.1).filter(|p| !node.disk.platter().is_as_known(PieceIndex::new(*p))).count();
        let (down, wasted, size) = (status.downloaded, status.wasted, status.size);
        if complete && missing > 0 {
            self.violation(format!("n{n} is complete, and lacks {missing} pieces"));
        }
        // A life that ended without a word took what it had counted along.
        if lives == 1 && down > received {
            self.violation(format!("n{n} verified {down} bytes, and received {received}"));
        }
        if complete && self.plan.scripts.is_empty() && self.plan.faults.is_empty() {
            let holds = self.plan.nodes[n as usize].holds;
            let lacked = (0..status.pieces.1).filter(|p| !holds.has(*p));
            let lacked: u64 = lacked.map(|p| u64::from(self.layout.piece_size(PieceIndex::new(p)))).sum();
            if down != lacked {
                self.violation(format!("n{n} finished with {down} bytes verified, and had lacked {lacked} of {size}"));
            }
            // Partial blocks of connections that ended are in neither count.
            if down + wasted > received {
                self.violation(format!("n{n}: {down} verified and {wasted} wasted are more than {received} received"));
            }
        }
    }
}
