//! The simulated network: hosts with line rates, connections with latency, and what goes wrong.
//!
//! ```text
//!   write ─▶ buf[ read so far | arrived | in flight | waiting ] ─▶ read     one such pipe each way
//!            a segment leaves when the sender's uplink is free, and arrives after the latency, a
//!            retransmission or two, and whatever blocks the way (partition, outage)
//! ```
//!
//! A pipe has no more in flight than its lines take in a latency, and a little; the rest waits at its sender, and
//! follows as segments arrive. So pipes share a line as TCP connections do: none stands behind all that another has
//! still to send.
//!
//! It is TCP as an application sees it: bytes in order, finite buffers, resets, ends. Loss shows
//! as delay. Bytes of a pipe lie in one contiguous buffer; only their number travels in the event queue.
//! The queue is ordered by time, then by age, so a run depends on nothing but its seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::pcap::Pcap;
use super::tap::{Tap, Taps};
use super::trace::Trace;
use crate::id::ConnKey;
use crate::pump::Stream;
use crate::rng::Rng;
use crate::storage::IoVecs;
use crate::time::{Duration, Instant};

/// Largest segment: bytes that arrive at once.
const SEGMENT: usize = 16 << 10;
/// Where every host listens.
pub(super) const PORT: u16 = 6881;

/// A connection of the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WireKey {
    pub(super) index: u32,
    generation: u32,
}

/// What happens at some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A node's deadline.
    Wake { node: u32, life: u32 },
    /// A dialled connection reaches its listener.
    Syn(WireKey),
    /// The dialler learns that it is connected, or refused.
    Answer { wire: WireKey, ok: bool },
    /// Bytes arrive at the far end of pipe `from`.
    Arrive { wire: WireKey, from: u8, len: u32 },
    /// The end (or a reset) of pipe `from` arrives.
    End { wire: WireKey, from: u8, reset: bool },
    /// End `side` can write again.
    Room { wire: WireKey, side: u8 },
    /// End `side` can read more: the last read was short.
    Again { wire: WireKey, side: u8 },
    /// A name lookup of a node ends.
    Resolved { node: u32, life: u32, id: u64, host: u32 },
    /// A tracker has made up its answer.
    TrackerAnswer { host: u32, wire: WireKey },
    /// A scripted peer's own time.
    Script { host: u32 },
    /// The plan's fault of this number.
    Fault(u32),
    /// The plan's fault of this number ends.
    FaultEnds(u32),
    /// A newcomer must have a piece.
    FirstPiece { node: u32 },
    /// A node starts.
    Join { node: u32 },
    /// The owner of a node lets its failed torrent go on.
    Mend { node: u32, life: u32 },
    /// A datagram arrives.
    Datagram { to: u32, id: u64 },
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    buf: Vec<u8>,
    head: usize,
    tail: usize,
    /// Bytes from `head` on that the reader can have.
    arrived: usize,
    /// Bytes of the end of `buf` that are not on their way yet.
    waiting: usize,
    /// Bytes on their way.
    flying: usize,
    /// Bytes ever written.
    written: u64,
    /// When the last segment arrives.
    last: Instant,
    /// The writer found no room.
    starved: bool,
    ended: bool,
    end_arrived: bool,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) host: u32,
    pub(super) addr: SocketAddr,
    /// The session's key for it, at a node.
    pub(super) conn: Option<ConnKey>,
    pub(super) open: bool,
}

#[derive(Debug)]
struct Wire {
    generation: u32,
    used: bool,
    ends: [End; 2],
    pipes: [Pipe; 2],
    latency: Duration,
    cap: usize,
    reset: bool,
    /// Something on the way clears the extension bits of handshakes.
    plain: bool,
    /// Nothing passes before then.
    clogged: Instant,
    tap: Option<Box<Tap>>,
}

/// A host's line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// Bytes per second out.
    pub(super) up: u64,
    /// Bytes per second in.
    pub(super) down: u64,
    /// One way to the middle of the network.
    pub(super) latency: Duration,
    /// Nobody can dial it.
    pub(super) nat: bool,
    /// Its handshakes lose their extension bits.
    pub(super) plain: bool,
    /// It is switched on.
    pub(super) alive: bool,
    /// Nothing passes before then.
    pub(super) dark: Instant,
    /// Which side of a partition it is on.
    pub(super) group: bool,
    up_free: Instant,
    down_free: Instant,
    next_port: u16,
}

impl Line {
    pub(super) fn new(up: u64, down: u64, latency: Duration) -> Self {
        Self {
            up: up.max(1),
            down: down.max(1),
            latency,
            nat: false,
            plain: false,
            alive: true,
            dark: Instant::ZERO,
            group: false,
            up_free: Instant::ZERO,
            down_free: Instant::ZERO,
            next_port: 40_000,
        }
    }
}

/// What the network does to all alike.
#[derive(Clone, Copy, Default, Debug)]
pub struct Weather {
    /// Segments lost and sent again, in a thousand.
    pub loss: u32,
    /// Segments that break their connection, in a hundred thousand.
    pub resets: u32,
    /// Datagrams that come twice, in a thousand.
    pub twice: u32,
    /// Segments come up to so much later, and datagrams in another order.
    pub jitter: Duration,
    /// Reads and writes that move fewer bytes than they could, in a thousand.
    pub short: u32,
    /// Connection attempts that get no answer, in a thousand.
    pub deaf: u32,
}

/// The network and the queue of events.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, EventBox)>>,
    seq: u64,
    wires: Vec<Wire>,
    free: Vec<u32>,
    pub(super) lines: Vec<Line>,
    pub(super) weather: Weather,
    pub(super) taps: Taps,
    datagrams: BTreeMap<u64, (SocketAddr, Vec<u8>)>,
    /// A partition lasts until then.
    pub(super) split: Instant,
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    pub(super) pcap: Option<Pcap>,
}

/// An event that the heap does not look at.
#[derive(Clone, Copy, Debug)]
struct EventBox(Event);
impl PartialEq for EventBox {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for EventBox {}
impl PartialOrd for EventBox {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for EventBox {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// The address of a host.
pub(super) fn addr_of(host: u32) -> SocketAddr {
    let [_, a, b, c] = (host + 256).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, a, b, c), PORT))
}

impl Net {
    pub(super) fn new(lines: Vec<Line>, weather: Weather, rng: Rng, trace: Trace, pcap: Option<Pcap>) -> Self {
        Self {
            now: Instant::ZERO,
            queue: BinaryHeap::new(),
            seq: 0,
            wires: Vec::new(),
            free: Vec::new(),
            lines,
            weather,
            taps: Taps::default(),
            datagrams: BTreeMap::new(),
            split: Instant::ZERO,
            rng,
            trace,
            pcap,
        }
    }

    // ---------------------------------------------------------------- the queue

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse((at.max(self.now), self.seq, EventBox(event))));
    }

    pub(super) fn next(&mut self) -> Option<(Instant, Event)> {
        self.queue.pop().map(|Reverse((at, _, e))| (at, e.0))
    }

    /// The host that an address names.
    pub(super) fn host_of(&self, addr: SocketAddr) -> Option<u32> {
        let SocketAddr::V4(a) = addr else { return None };
        let [ten, x, y, z] = a.ip().octets();
        let host = u32::from_be_bytes([0, x, y, z]).checked_sub(256)?;
        (ten == 10 && a.port() == PORT && (host as usize) < self.lines.len()).then_some(host)
    }

    // ---------------------------------------------------------------- connections

    /// Opens a connection; the answer comes as an event, or never.
    pub(super) fn dial(&mut self, from: u32, conn: Option<ConnKey>, to: SocketAddr) -> WireKey {
        let target = self.host_of(to);
        let line = &mut self.lines[from as usize];
        line.next_port = if line.next_port == u16::MAX { 40_000 } else { line.next_port + 1 };
        let mut own = addr_of(from);
        own.set_port(line.next_port);
        let (plain, near, up) = (line.plain, line.latency, line.up);
        let far = target.map(|t| self.lines[t as usize]);
        let latency = near + far.map_or(near, |l| l.latency);
        let rate = far.map_or(up, |l| l.down.min(up));
        // Some round trips' worth, within what systems allow.
        let cap = (rate.saturating_mul(latency.as_micros() as u64 * 2 + 100_000) / 1_000_000).clamp(8 << 10, 256 << 10);
        let host = target.unwrap_or(u32::MAX);
        let ends = [End { host: from, addr: own, conn, open: true }, End { host, addr: to, conn: None, open: false }];
        let fresh = |generation| Wire {
            generation,
            used: true,
            ends,
            pipes: Default::default(),
            latency,
            cap: cap as usize,
            reset: false,
            plain: plain || far.is_some_and(|l| l.plain),
            clogged: Instant::ZERO,
            tap: self.taps.covers(from, host).then(Box::default),
        };
        let index = match self.free.pop() {
            Some(i) => {
                let slot = &mut self.wires[i as usize];
                let old = std::mem::replace(slot, fresh(slot.generation + 1));
                for (new, old) in slot.pipes.iter_mut().zip(old.pipes) {
                    new.buf = old.buf;
                }
                i
            }
            None => {
                self.wires.push(fresh(0));
                self.wires.len() as u32 - 1
            }
        };
        let key = WireKey { index, generation: self.wires[index as usize].generation };
        let deaf = self.rng.u32(..1000) < self.weather.deaf;
        if target.is_some() && !deaf {
            let at = self.now + latency;
            self.at(at, Event::Syn(key));
        } else if to.port() % 2 == 0 {
            let at = self.now + latency * 2;
            self.at(at, Event::Answer { wire: key, ok: false });
        }
        key
    }

    fn wire(&self, key: WireKey) -> Option<&Wire> {
        self.wires.get(key.index as usize).filter(|w| w.used && w.generation == key.generation)
    }

    fn wire_mut(&mut self, key: WireKey) -> Option<&mut Wire> {
        self.wires.get_mut(key.index as usize).filter(|w| w.used && w.generation == key.generation)
    }

    pub(super) fn end(&self, key: WireKey, side: u8) -> Option<End> {
        self.wire(key).map(|w| w.ends[usize::from(side)])
    }

    /// Whether somebody listens there and can be reached.
    pub(super) fn answers(&self, key: WireKey) -> bool {
        let Some(end) = self.end(key, 1) else { return false };
        self.lines.get(end.host as usize).is_some_and(|l| l.alive && !l.nat)
    }

    /// The listener takes the connection.
    pub(super) fn accepted(&mut self, key: WireKey, conn: Option<ConnKey>) {
        let Some(w) = self.wire_mut(key) else { return };
        (w.ends[1].conn, w.ends[1].open) = (conn, true);
        let at = w.latency;
        self.at(self.now + at, Event::Answer { wire: key, ok: true });
    }

    /// The listener does not take it.
    pub(super) fn refused(&mut self, key: WireKey) {
        let Some(w) = self.wire(key) else { return };
        let at = self.now + w.latency;
        self.at(at, Event::Answer { wire: key, ok: false });
    }

    /// One end is done with it. Bytes on the way still arrive, unless it left some unread.
    pub(super) fn close(&mut self, key: WireKey, side: u8) {
        let s = usize::from(side);
        let Some(w) = self.wire_mut(key) else { return };
        if !std::mem::replace(&mut w.ends[s].open, false) {
            return;
        }
        w.ends[s].conn = None;
        let reset = w.pipes[1 - s].arrived > 0;
        w.pipes[s].ended = true;
        let (latency, last, waiting) = (w.latency, w.pipes[s].last, w.pipes[s].waiting);
        if w.ends[1 - s].open {
            // An end in order follows what is still to be sent.
            if reset || waiting == 0 {
                let at = if reset { self.now + latency } else { last.max(self.now + latency) };
                self.at(at, Event::End { wire: key, from: side, reset });
            }
        } else {
            w.used = false;
            self.free.push(key.index);
        }
    }

    /// Nothing passes on this connection before then.
    pub(super) fn clog(&mut self, key: WireKey, until: Instant) {
        if let Some(w) = self.wire_mut(key) {
            w.clogged = until;
        }
    }

    // ---------------------------------------------------------------- datagrams

    /// A datagram is sent: it comes once, twice or not at all, and in no order.
    pub(super) fn send_datagram(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let (Some(a), Some(b)) = (self.host_of(from), self.host_of(to)) else { return };
        let times = 1 + u32::from(self.rng.u32(..1000) < self.weather.twice);
        self.trace.note(5, u64::from(a) << 32 | u64::from(b), data.len() as u64);
        if let Some(pcap) = &mut self.pcap {
            pcap.datagram(self.now, from, to, data);
        }
        for _ in 0..times {
            let (near, far) = (&self.lines[a as usize], &self.lines[b as usize]);
            let cut = near.group != far.group && self.split > self.now;
            let dark = near.dark.max(far.dark) > self.now || !far.alive;
            if self.rng.u32(..1000) < self.weather.loss || cut || dark {
                continue;
            }
            let jitter = self.rng.u64(..=self.weather.jitter.as_micros() as u64);
            let at = self.now + near.latency + far.latency + Duration::from_micros(jitter);
            let id = self.seq;
            self.datagrams.insert(id, (from, data.to_vec()));
            self.at(at, Event::Datagram { to: b, id });
        }
    }

    /// To all that can be in the group.
    pub(super) fn multicast(&mut self, from: u32, data: &[u8]) {
        for to in (0..self.lines.len() as u32).filter(|to| *to != from) {
            self.send_datagram(addr_of(from), addr_of(to), data);
        }
    }

    /// What arrived, and from where.
    pub(super) fn take_datagram(&mut self, id: u64) -> Option<(SocketAddr, Vec<u8>)> {
        self.datagrams.remove(&id)
    }

    // ---------------------------------------------------------------- ends

    /// Both ends are told that the connection broke.
    pub(super) fn break_wire(&mut self, key: WireKey) {
        for from in [0, 1] {
            self.at(self.now, Event::End { wire: key, from, reset: true });
        }
    }

    /// A host died: its connections are reset, as its system does when it is back or others ask it.
    pub(super) fn drop_host(&mut self, host: u32) {
        for i in 0..self.wires.len() {
            let w = &self.wires[i];
            let key = WireKey { index: i as u32, generation: w.generation };
            for side in [0u8, 1] {
                let w = &self.wires[i];
                if w.used && w.ends[usize::from(side)].host == host && w.ends[usize::from(side)].open {
                    self.close(key, side);
                }
            }
        }
    }

    /// Connections that are open on both sides, in slot order.
    pub(super) fn open_wires(&self) -> impl Iterator<Item = (WireKey, [u32; 2])> + '_ {
        self.wires
            .iter()
            .enumerate()
            .filter(|(_, w)| w.used && w.ends[0].open && w.ends[1].open)
            .map(|(i, w)| (WireKey { index: i as u32, generation: w.generation }, [w.ends[0].host, w.ends[1].host]))
    }

    // ---------------------------------------------------------------- on the way

    /// When something that would arrive now may pass at last.
    pub(super) fn blocked(&self, key: WireKey) -> Option<Instant> {
        let w = self.wire(key)?;
        let line = |i: usize| self.lines.get(w.ends[i].host as usize);
        let (a, b) = (line(0)?, line(1)?);
        let split = if a.group == b.group { Instant::ZERO } else { self.split };
        let until = split.max(a.dark).max(b.dark).max(w.clogged);
        (until > self.now).then_some(until)
    }

    /// Bytes arrived: the end that can read them.
    pub(super) fn arrive(&mut self, key: WireKey, from: u8, len: u32) -> Option<End> {
        let w = self.wire_mut(key)?;
        let end = w.ends[usize::from(1 - from)];
        let pipe = &mut w.pipes[usize::from(from)];
        pipe.flying -= len as usize;
        if !end.open {
            // Nobody reads them, and nothing follows them.
            pipe.head += len as usize;
            return None;
        }
        pipe.arrived += len as usize;
        self.send_segments(key, usize::from(from));
        Some(end)
    }

    /// The end of a pipe arrived: the end that can read it.
    pub(super) fn ended(&mut self, key: WireKey, from: u8, reset: bool) -> Option<End> {
        let w = self.wire_mut(key)?;
        w.reset |= reset;
        w.pipes[usize::from(from)].end_arrived = true;
        Some(w.ends[usize::from(1 - from)]).filter(|e| e.open)
    }

    /// Sends what may be in flight.
    fn send_segments(&mut self, key: WireKey, side: usize) {
        // About an eighth of a second of the slower line, so that slow is not bursty.
        let (ends, far) = (self.wires[key.index as usize].ends, self.wires[key.index as usize].latency);
        let rate = self.lines[ends[side].host as usize].up.min(self.lines[ends[1 - side].host as usize].down);
        let segment = ((rate / 8) as usize).clamp(1460, SEGMENT);
        let far = (far + self.weather.jitter).as_micros() as u64;
        let window = (rate.saturating_mul(far) / 1_000_000) as usize + 2 * segment;
        loop {
            let (now, w) = (self.now, &mut self.wires[key.index as usize]);
            let pipe = &mut w.pipes[side];
            let n = pipe.waiting.min(segment);
            if n == 0 || w.reset || pipe.flying + n > window {
                return;
            }
            (pipe.waiting, pipe.flying) = (pipe.waiting - n, pipe.flying + n);
            let lost = self.rng.u32(..1000) < self.weather.loss;
            if self.weather.resets > 0 && self.rng.u32(..100_000) < self.weather.resets {
                self.break_wire(key);
            }
            let jitter = self.weather.jitter.as_micros() as u64;
            let jitter = if jitter == 0 { 0 } else { self.rng.u64(..jitter) };
            let w = &self.wires[key.index as usize];
            let (a, b, latency) = (w.ends[side].host as usize, w.ends[1 - side].host as usize, w.latency);
            let time = |len: usize, rate: u64| Duration::from_micros((len as u64 + 40) * 1_000_000 / rate);
            let up = &mut self.lines[a];
            up.up_free = up.up_free.max(now) + time(n, up.up);
            let leaves = up.up_free;
            let down = &mut self.lines[b];
            down.down_free = down.down_free.max(now) + time(n, down.down);
            let mut at = leaves.max(down.down_free) + latency + Duration::from_micros(jitter);
            if lost {
                at += Duration::from_millis(200) + latency * 2;
            }
            let pipe = &mut self.wires[key.index as usize].pipes[side];
            pipe.last = pipe.last.max(at);
            let (at, ends) = (pipe.last, pipe.ended && pipe.waiting == 0);
            self.at(at, Event::Arrive { wire: key, from: side as u8, len: n as u32 });
            if ends {
                self.at(at, Event::End { wire: key, from: side as u8, reset: false });
            }
        }
    }

    /// Fewer bytes than could be moved, now and then.
    fn cut(&mut self, n: usize) -> usize {
        if n > 1 && self.weather.short > 0 && self.rng.u32(..1000) < self.weather.short {
            self.rng.usize(1..n)
        } else {
            n
        }
    }

    /// Bytes that end `side` can read now, or why not.
    fn readable(&mut self, key: WireKey, side: u8) -> io::Result<usize> {
        let Some(w) = self.wire(key) else { return Err(io::ErrorKind::ConnectionReset.into()) };
        let pipe = &w.pipes[usize::from(1 - side)];
        match pipe.arrived {
            _ if w.reset => Err(io::ErrorKind::ConnectionReset.into()),
            0 if pipe.end_arrived => Ok(0),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    fn read_with(
        &mut self,
        key: WireKey,
        side: u8,
        max: usize,
        take: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let there = self.readable(key, side)?;
        if there == 0 {
            return Ok(0);
        }
        let full = there.min(max);
        let n = self.cut(full);
        let pipe = &mut self.wires[key.index as usize].pipes[usize::from(1 - side)];
        let n = take(&pipe.buf[pipe.head..pipe.head + n])?;
        pipe.head += n;
        pipe.arrived -= n;
        if pipe.head == pipe.tail {
            (pipe.head, pipe.tail) = (0, 0);
        }
        let used = pipe.tail - pipe.head;
        let wakes = pipe.starved;
        let w = &mut self.wires[key.index as usize];
        let (latency, cap) = (w.latency, w.cap);
        if wakes && used <= cap / 2 {
            w.pipes[usize::from(1 - side)].starved = false;
            self.at(self.now + latency, Event::Room { wire: key, side: 1 - side });
        }
        if n < max && n < there {
            // What is left is found as if it had come just behind.
            self.at(self.now, Event::Again { wire: key, side });
        }
        Ok(n)
    }

    fn write_with(
        &mut self,
        key: WireKey,
        side: u8,
        len: usize,
        put: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let s = usize::from(side);
        let Some(w) = self.wire(key).filter(|w| !w.reset) else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        let (used, cap) = (w.pipes[s].tail - w.pipes[s].head, w.cap);
        let gone = w.pipes[1 - s].end_arrived;
        if gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = self.cut(len.min(cap.saturating_sub(used)));
        let pipe = &mut self.wires[key.index as usize].pipes[s];
        if n < len {
            pipe.starved = true;
        }
        if n == 0 {
            return if len == 0 { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        if pipe.tail + n > pipe.buf.len() {
            pipe.buf.copy_within(pipe.head..pipe.tail, 0);
            (pipe.tail, pipe.head) = (pipe.tail - pipe.head, 0);
            if pipe.tail + n > pipe.buf.len() {
                pipe.buf.resize((pipe.tail + n).next_power_of_two(), 0);
            }
        }
        let n = put(&mut pipe.buf[pipe.tail..pipe.tail + n])?;
        let (from, first) = (pipe.tail, pipe.written);
        pipe.tail += n;
        pipe.written += n as u64;
        let short_of_room = n < len && used + n <= cap / 2;
        self.after_write(key, s, from, n, first);
        if short_of_room {
            // A short write without need: there is room at once.
            self.wires[key.index as usize].pipes[s].starved = false;
            self.at(self.now, Event::Room { wire: key, side });
        }
        Ok(n)
    }

    fn after_write(&mut self, key: WireKey, s: usize, from: usize, n: usize, first: u64) {
        let w = &mut self.wires[key.index as usize];
        // Only what begins like a handshake is one.
        w.plain &= first > 0 || w.pipes[s].buf[from] == 19;
        if w.plain && first < 28 {
            // The reserved bytes of a handshake.
            for (i, b) in w.pipes[s].buf[from..from + n].iter_mut().enumerate() {
                if (20..28).contains(&(first + i as u64)) {
                    *b = 0;
                }
            }
        }
        if let Some(tap) = &mut w.tap {
            let host = w.ends[s].host;
            self.taps.wrote(tap, s, host, w.ends[1 - s].host, &w.pipes[s].buf[from..from + n]);
        }
        if let Some(pcap) = &mut self.pcap {
            let w = &self.wires[key.index as usize];
            let acked = w.pipes[1 - s].written;
            pcap.segment(self.now, w.ends[s].addr, w.ends[1 - s].addr, first, acked, &w.pipes[s].buf[from..from + n]);
        }
        self.trace.note(3, u64::from(key.index) << 1 | s as u64, n as u64);
        self.wires[key.index as usize].pipes[s].waiting += n;
        self.send_segments(key, s);
    }

    /// Reads into plain memory, for what is not a node.
    pub(super) fn read(&mut self, key: WireKey, side: u8, buf: &mut [u8]) -> io::Result<usize> {
        let max = buf.len();
        self.read_with(key, side, max, |data| {
            buf[..data.len()].copy_from_slice(data);
            Ok(data.len())
        })
    }

    /// Writes from plain memory, for what is not a node.
    pub(super) fn write(&mut self, key: WireKey, side: u8, data: &[u8]) -> io::Result<usize> {
        self.write_with(key, side, data.len(), |out| {
            out.copy_from_slice(&data[..out.len()]);
            Ok(out.len())
        })
    }
}

/// One end of a connection, as the pump sees it.
pub(super) struct NetStream<'a> {
    pub(super) net: &'a mut Net,
    pub(super) wire: WireKey,
    pub(super) side: u8,
    /// The next call on regions of storage is an `EFAULT`.
    pub(super) fault: bool,
}

impl NetStream<'_> {
    fn fault(&mut self) -> io::Result<()> {
        const EFAULT: i32 = 14;
        if std::mem::take(&mut self.fault) { Err(io::Error::from_raw_os_error(EFAULT)) } else { Ok(()) }
    }
}

impl Stream for NetStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.net.read(self.wire, self.side, buf)
    }

    fn read_regions(&mut self, io: &mut IoVecs<'_>) -> io::Result<usize> {
        self.fault()?;
        self.net.read_with(self.wire, self.side, io.total(), |data| io.copy_from(data))
    }

    fn write_regions(&mut self, io: &IoVecs<'_>) -> io::Result<usize> {
        self.fault()?;
        self.net.write_with(self.wire, self.side, io.total(), |out| io.copy_to(out))
    }
}

#[cfg(test)]
mod tests;
