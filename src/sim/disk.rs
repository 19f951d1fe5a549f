//! A simulated disk: remembers of every block how much of it is there and whether it is true.
//!
//! ```text
//!   place ─▶ landing buffer ─ landed ─▶ compared with the truth ─▶ Blk { upto, odd }
//!   buffered (`mem`) ── hash good, or a flush ──▶ in the files ── sync ──▶ on the device   (platter)
//!   kill: `mem` is gone, files stay; power cut: of the files there is what the device has
//! ```
//!
//! No payload is kept. Bytes that arrive are compared with the formula of [`content`](super::content);
//! the bytes that differ leave a fingerprint (`odd`), from which the digest of a bad block is made.
//! What is lent is a window of the formula's table.
//!
//! It answers as the real one does, faults included ([`DiskFaults`]). It is also a checker: a
//! block placed over one that is complete, bytes that land out of order, a piece lent that is not good,
//! a wrong hash asked for, and bytes that differ though an honest peer sent them are violations.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::content::{digest, mix, piece_hash, table, truth, window};
use super::platter::{Blk, GONE, Platter};
use crate::id::{BLOCK_LEN, Block, FileIndex, PieceIndex, TorrentKey};
use crate::rng::Rng;
use crate::storage::{
    DiskError, DiskErrorKind, Done, FileStat, HeapLender, IoVecs, OpenSpec, Part, PlaceList, Storage, resolve,
};
use crate::time::{Duration, Instant};
use crate::torrent::layout::Layout;

/// Bytes that one plan can place.
const LANDING: usize = 1 << 20;
/// Blocks that one plan lends, at most.
const LENT: usize = 64;

/// What goes wrong, in thousandths of the calls concerned.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct DiskFaults {
    /// Bytes that can be written until the disk is full.
    pub(super) room: Option<u64>,
    /// Writing fails with an I/O error, part of it done.
    pub(super) write: u32,
    /// The volume is mounted read-only.
    pub(super) read_only: bool,
    /// A sync fails, and the system forgets some of what was not synced. The next can well succeed.
    pub(super) sync: u32,
    /// Reading fails with an I/O error.
    pub(super) read: u32,
    /// A system call on a region of storage is an `EFAULT`.
    pub(super) fault: u32,
    /// There is no place, and the scratch path must be taken.
    pub(super) no_place: u32,
    /// Hashing a piece takes up to so long, and a sync.
    pub(super) slow: Duration,
}

#[derive(Debug)]
struct Job {
    piece: PieceIndex,
    want_blocks: bool,
    recheck: bool,
    ready: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    piece: PieceIndex,
    begin: u32,
    len: u32,
    at: usize,
}

/// The disk of one node. It knows one torrent.
#[derive(Debug)]
pub(super) struct SimDisk {
    layout: Arc<Layout>,
    open: Option<TorrentKey>,
    /// Counts how often the torrent was opened.
    epoch: u32,
    /// What is buffered of each piece; empty when nothing is.
    mem: Vec<Vec<Blk>>,
    platter: Platter,
    jobs: VecDeque<Job>,
    done: VecDeque<Done>,
    /// Syncs under way: when each is over, and what it covers.
    syncs: VecDeque<(Instant, TorrentKey, u32, u64)>,
    planned: Vec<Planned>,
    /// Pieces that were lent last.
    lent: VecDeque<PieceIndex>,
    /// Pieces of which a read has failed: the session fetches them again.
    unreadable: BTreeSet<PieceIndex>,
    /// The plan is being carried out: the next `place` begins another.
    sealed: bool,
    used: usize,
    dirty: usize,
    rng: Rng,
    /// One buffer, shared by all nodes: lent by the world while a node has its turn.
    pub(super) landing: Vec<Vec<u8>>,
    pub(super) now: Instant,
    pub(super) faults: DiskFaults,
    /// Whoever sends now is honest.
    pub(super) honest: bool,
    /// Files were written in vain, or lost: what is restored may not be there.
    pub(super) was_faulty: bool,
    /// Bytes that honest peers sent may have been lost before they were hashed.
    pub(super) was_spoilt: bool,
    /// The resolution of the file system's clock.
    pub(super) clock: Duration,
    /// What the wall clock shows at the start of the run, in microseconds: it jumps.
    pub(super) wall: i64,
    pub(super) violations: Vec<String>,
}

impl SimDisk {
    /// A disk that holds the pieces that `has` says.
    pub(super) fn new(layout: Arc<Layout>, has: &dyn Fn(u32) -> bool, rng: Rng) -> Self {
        Self {
            mem: vec![Vec::new(); layout.pieces() as usize],
            platter: Platter::new(Arc::clone(&layout), has),
            layout,
            open: None,
            epoch: 0,
            jobs: VecDeque::new(),
            done: VecDeque::new(),
            syncs: VecDeque::new(),
            planned: Vec::new(),
            lent: VecDeque::new(),
            unreadable: BTreeSet::new(),
            sealed: false,
            used: 0,
            dirty: 0,
            rng,
            landing: Vec::new(),
            now: Instant::ZERO,
            faults: DiskFaults::default(),
            honest: true,
            was_faulty: false,
            was_spoilt: false,
            clock: Duration::ZERO,
            wall: 0,
            violations: Vec::new(),
        }
    }

    /// What the files hold.
    pub(super) fn platter(&self) -> &Platter {
        &self.platter
    }

    /// When queued hashing or a sync ends next.
    pub(super) fn next_done(&self) -> Option<Instant> {
        let synced = self.syncs.front().map(|s| s.0);
        crate::time::earlier(self.jobs.iter().map(|j| j.ready).min(), synced)
    }

    /// The process died: what was buffered is gone.
    pub(super) fn kill(&mut self) {
        self.was_faulty |= self.dirty > 0;
        self.mem.iter_mut().for_each(|m| *m = Vec::new());
        self.dirty = 0;
        self.open = None;
        self.jobs.clear();
        self.done.clear();
        self.syncs.clear();
        self.planned.clear();
    }

    /// The power fails. How many pieces were at stake.
    pub(super) fn cut(&mut self) -> usize {
        self.kill();
        self.was_faulty = true;
        self.platter.lose_unsynced(&mut self.rng, true)
    }

    /// Somebody truncates a file to so many bytes, or deletes it.
    pub(super) fn tamper(&mut self, file: usize, len: Option<u64>) {
        (self.was_faulty, self.was_spoilt) = (true, true);
        let mtime = self.wall_clock();
        self.platter.tamper(file, len, self.open.is_some(), mtime);
    }

    fn wall_clock(&self) -> i64 {
        let us = self.now.as_micros() as i64 + self.wall;
        us - us.rem_euclid((self.clock.as_micros() as i64).max(1))
    }

    fn violation(&mut self, what: String) {
        if self.violations.len() < 20 {
            self.violations.push(what);
        }
    }

    /// So many times in a thousand.
    pub(super) fn strikes(&mut self, permille: u32) -> bool {
        permille > 0 && self.rng.u32(..1000) < permille
    }

    fn error(kind: DiskErrorKind, op: &'static str) -> DiskError {
        DiskError::new(kind, "disk", op)
    }

    /// Takes the space for `n` bytes, and the chance of an error: then with how many were written.
    fn spend(&mut self, n: u64) -> Result<(), (u64, DiskError)> {
        if self.faults.read_only {
            return Err((0, Self::error(DiskErrorKind::ReadOnly, "write")));
        }
        if self.strikes(self.faults.write) {
            return Err((self.rng.u64(..n), Self::error(DiskErrorKind::Io, "write")));
        }
        if let Some(room) = &mut self.faults.room {
            if *room < n {
                return Err((std::mem::take(room), Self::error(DiskErrorKind::Full, "write")));
            }
            *room -= n;
        }
        Ok(())
    }

    fn index(block: u32) -> usize {
        (block / BLOCK_LEN) as usize
    }

    /// A piece could not be read, and has not been verified since.
    pub(super) fn is_unreadable(&self, piece: PieceIndex) -> bool {
        self.unreadable.contains(&piece)
    }

    /// What a block holds, buffered bytes first.
    fn holds(&self, piece: PieceIndex, i: usize) -> Blk {
        match self.mem[piece.idx()].get(i) {
            Some(mem) if mem.upto > 0 => *mem,
            _ => self.platter.holds(piece, i),
        }
    }

    /// Bytes of a piece have come, from `begin` on.
    fn land(&mut self, piece: PieceIndex, mut begin: u32, mut data: &[u8]) {
        if let Some(since) = self.platter.good_since(piece) {
            if since == self.epoch && !self.unreadable.contains(&piece) {
                return self.violation(format!("bytes land in piece {piece}, which is good"));
            }
            // The session has forgotten that it is good, and fetches it again.
            self.platter.reopen_piece(piece);
        }
        while !data.is_empty() {
            let (i, at) = (Self::index(begin), begin % BLOCK_LEN);
            let n = data.len().min((BLOCK_LEN - at) as usize);
            let mut blk = if at == 0 { Blk::default() } else { self.holds(piece, i) };
            if blk.upto != at && blk.odd != GONE {
                self.violation(format!("{n} bytes land at {at} of block {i} of piece {piece}, which has {}", blk.upto));
            }
            let offset = self.layout.piece_offset(piece) + u64::from(begin);
            let wanted = truth(offset, n);
            if data[..n] != *wanted {
                for (k, (a, b)) in data[..n].iter().zip(wanted).enumerate().filter(|(_, (a, b))| a != b) {
                    blk.odd = mix(blk.odd ^ mix((at as u64 + k as u64) << 16 | u64::from(*a) << 8 | u64::from(*b)));
                }
                if self.honest {
                    self.violation(format!(
                        "piece {piece}: bytes from {begin} on differ, and an honest peer sent them"
                    ));
                }
            }
            (blk.upto, blk.epoch) = (at + n as u32, self.epoch);
            let blocks = self.layout.blocks_in(piece) as usize;
            let mem = &mut self.mem[piece.idx()];
            mem.resize(blocks, Blk::default());
            mem[i] = blk;
            self.dirty += n;
            begin += n as u32;
            data = &data[n..];
        }
    }

    /// Buffered bytes of a piece go to its file.
    fn write_out(&mut self, piece: PieceIndex) -> Result<(), DiskError> {
        let mut mem = std::mem::take(&mut self.mem[piece.idx()]);
        let n: u32 = mem.iter().map(|b| b.upto).sum();
        self.dirty = self.dirty.saturating_sub(n as usize);
        if n == 0 {
            return Ok(());
        }
        let result = self.spend(u64::from(n));
        if let Err((done, _)) = result {
            // The session takes all of it for lost.
            self.was_faulty = true;
            let mut left = done;
            for b in &mut mem {
                (b.upto, b.epoch) = (if left < u64::from(b.upto) { 0 } else { b.upto }, 0);
                left = left.saturating_sub(u64::from(b.upto).max(1));
            }
        }
        let mtime = self.wall_clock();
        let blocks = mem.iter().copied().enumerate().filter(|(_, b)| b.upto > 0);
        self.platter.put(piece, blocks, mtime);
        if result.is_err() {
            // Blocks that were written before are fetched again with the others.
            self.platter.condemn(piece);
        }
        result.map_err(|(_, e)| e)
    }

    fn verify(&mut self, job: &Job) {
        let Some(torrent) = self.open else { return };
        let piece = job.piece;
        let blocks: Vec<Blk> = (0..self.layout.blocks_in(piece) as usize).map(|i| self.holds(piece, i)).collect();
        let ok = (0..blocks.len()).all(|i| blocks[i].upto == self.platter.block_len(piece, i) && blocks[i].odd == 0);
        if job.recheck {
            if self.strikes(self.faults.read) {
                let error = Self::error(DiskErrorKind::Io, "read");
                return self.done.push_back(Done::Failed { torrent, piece: Some(piece), error });
            }
            if ok {
                self.unreadable.remove(&piece);
                self.platter.settle(piece, self.epoch);
            }
            return self.done.push_back(Done::Hashed { torrent, piece, ok, blocks: None });
        }
        let whole = (0..blocks.len()).all(|i| blocks[i].upto == self.platter.block_len(piece, i));
        let digests = (whole && (job.want_blocks || !ok)).then(|| {
            let one = |(i, b): (usize, &Blk)| digest(3, i as u64, b.odd);
            blocks.iter().enumerate().map(one).collect()
        });
        if !ok {
            let short = (0..blocks.len()).find(|i| blocks[*i].upto != self.platter.block_len(piece, *i));
            if let (Some(i), false) = (short, self.was_faulty) {
                self.violation(format!("piece {piece} is hashed, and block {i} has {} bytes", blocks[i].upto));
            }
            self.mem[piece.idx()] = Vec::new();
            self.platter.condemn(piece);
            return self.done.push_back(Done::Hashed { torrent, piece, ok, blocks: digests });
        }
        match self.write_out(piece) {
            Ok(()) => {
                self.unreadable.remove(&piece);
                self.platter.settle(piece, self.epoch);
                self.done.push_back(Done::Hashed { torrent, piece, ok, blocks: digests });
            }
            Err(error) => self.done.push_back(Done::Failed { torrent, piece: Some(piece), error }),
        }
    }
}

impl Storage for SimDisk {
    fn open(&mut self, t: TorrentKey, layout: Arc<Layout>, _spec: OpenSpec) -> Result<(), DiskError> {
        debug_assert_eq!(layout.total(), self.layout.total());
        self.open = Some(t);
        self.epoch += 1;
        self.platter.open();
        Ok(())
    }

    fn close(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        let result = self.flush(t);
        self.jobs.clear();
        self.done.clear();
        self.syncs.clear();
        self.open = None;
        result
    }

    fn remove_files(&mut self, _t: TorrentKey) -> Result<(), DiskError> {
        self.kill();
        self.platter.clear();
        Ok(())
    }

    fn prepare(&mut self, _t: TorrentKey, _wanted: &dyn Fn(FileIndex) -> bool) -> Result<(), DiskError> {
        let absent = (0..self.layout.files().len()).any(|f| self.platter.stat(f).is_none());
        match self.faults.room {
            Some(0) => Err(Self::error(DiskErrorKind::Full, "prepare")),
            _ if self.faults.read_only && absent => Err(Self::error(DiskErrorKind::ReadOnly, "prepare")),
            _ => Ok(()),
        }
    }

    fn allocate(&mut self, _t: TorrentKey, _file: FileIndex) -> Result<(), DiskError> {
        Ok(())
    }

    fn place(
        &mut self,
        _t: TorrentKey,
        block: Block,
        at: u32,
        max: u32,
        out: &mut PlaceList,
    ) -> Result<u32, DiskError> {
        if std::mem::take(&mut self.sealed) {
            self.planned.clear();
            self.used = 0;
        }
        if self.strikes(self.faults.no_place) || self.used + max as usize > LANDING || out.room() == 0 {
            self.sealed = self.planned.is_empty();
            return Ok(0);
        }
        if self.faults.room == Some(0) {
            self.sealed = true;
            return Err(Self::error(DiskErrorKind::Full, "allocate"));
        }
        let begin = block.begin + at;
        let has = self.holds(block.piece, Self::index(block.begin));
        let kept = has.epoch == self.epoch && !self.unreadable.contains(&block.piece);
        if (has.upto == block.len && kept) || (at > 0 && has.upto != at && has.odd != GONE) {
            let p = block.piece;
            self.violation(format!("a place is asked for {at} of {block:?}, which has {} of piece {p}", has.upto));
        }
        out.push(Part::Heap { slot: 0, generation: 0, from: self.used as u32, len: max });
        self.planned.push(Planned { piece: block.piece, begin, len: max, at: self.used });
        self.used += max as usize;
        Ok(max)
    }

    fn regions<'a>(&'a mut self, plan: &'a mut PlaceList) -> IoVecs<'a> {
        self.sealed = true;
        if let Some(buf) = self.landing.first_mut() {
            if buf.len() < LANDING {
                buf.resize(LANDING, 0);
            }
        }
        let mut heap = HeapLender::new(&mut self.landing);
        let mut io = IoVecs::new();
        resolve(plan, &mut io, |part, io| match part {
            Part::Heap { slot, from, len, .. } => heap.push(io, slot as usize, from as usize, len as usize),
            Part::Map { from, len, .. } => io.push_slice(&table()[from as usize..(from + len) as usize]),
            _ => false,
        });
        io
    }

    fn fault(&mut self, _plan: &PlaceList) -> DiskError {
        // One of these: the session knows which.
        self.unreadable.extend(self.lent.drain(..));
        Self::error(DiskErrorKind::Io, "access mapping")
    }

    fn landed(&mut self, _t: TorrentKey, piece: PieceIndex, begin: u32, len: u32) {
        let from = self.planned.iter().find(|p| p.piece == piece && p.begin == begin && len <= p.len);
        let Some(from) = from.map(|p| p.at) else {
            return self
                .violation(format!("{len} bytes landed at {begin} of piece {piece}, where no place was asked for"));
        };
        let landing = std::mem::take(&mut self.landing);
        self.land(piece, begin, &landing[0][from..from + len as usize]);
        self.landing = landing;
    }

    fn read_back(&mut self, _t: TorrentKey, block: Block, at: u32, buf: &mut [u8]) -> Result<(), DiskError> {
        let begin = block.begin + at;
        let inside = |p: &&Planned| p.piece == block.piece && p.begin <= begin && begin < p.begin + p.len;
        let Some(p) = self.planned.iter().find(inside).copied() else {
            self.violation(format!("{block:?} from {at} on is taken back, and has no place"));
            return Err(Self::error(DiskErrorKind::Other, "read back"));
        };
        let from = p.at + (begin - p.begin) as usize;
        buf.copy_from_slice(&self.landing[0][from..from + buf.len()]);
        Ok(())
    }

    fn write(&mut self, _t: TorrentKey, piece: PieceIndex, begin: u32, data: &[u8]) -> Result<(), DiskError> {
        if self.faults.read_only {
            return Err(Self::error(DiskErrorKind::ReadOnly, "write"));
        }
        if self.strikes(self.faults.write) {
            return Err(Self::error(DiskErrorKind::Io, "write"));
        }
        if self.faults.room == Some(0) {
            return Err(Self::error(DiskErrorKind::Full, "write"));
        }
        self.land(piece, begin, data);
        Ok(())
    }

    fn forget(&mut self, _t: TorrentKey, piece: PieceIndex) {
        self.mem[piece.idx()] = Vec::new();
        self.jobs.retain(|j| j.piece != piece);
    }

    fn hash(&mut self, _t: TorrentKey, piece: PieceIndex, expected: [u8; 20], want_blocks: bool) {
        self.queue(piece, expected, want_blocks, false);
    }

    fn recheck(&mut self, _t: TorrentKey, piece: PieceIndex, expected: [u8; 20]) {
        self.queue(piece, expected, false, true);
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn work(&mut self, budget: usize) -> bool {
        let mut left = budget as u64;
        for _ in 0..self.jobs.len() {
            let Some(job) = self.jobs.pop_front() else { break };
            if job.ready > self.now || left == 0 {
                self.jobs.push_back(job);
                continue;
            }
            left = left.saturating_sub(u64::from(self.layout.piece_size(job.piece)));
            self.verify(&job);
        }
        self.end_syncs();
        self.jobs.iter().any(|j| j.ready <= self.now)
    }

    fn lend(&mut self, _t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        if !self.platter.is_good(block.piece) {
            if self.platter.is_as_known(block.piece) {
                return Err(Self::error(DiskErrorKind::Truncated, "read"));
            }
            self.violation(format!("{block:?} is lent, and the piece is not good"));
        }
        if self.strikes(self.faults.read) {
            self.unreadable.insert(block.piece);
            return Err(Self::error(DiskErrorKind::Io, "read"));
        }
        self.lent.push_back(block.piece);
        if self.lent.len() > LENT {
            self.lent.pop_front();
        }
        let (mut begin, mut left) = (block.begin + at, max);
        while left > 0 && out.room() > 0 {
            let n = left.min(BLOCK_LEN - begin % BLOCK_LEN);
            let from = window(self.layout.piece_offset(block.piece) + u64::from(begin));
            out.push(Part::Map { slot: 0, generation: 0, from: from as u32, len: n });
            (begin, left) = (begin + n, left - n);
        }
        Ok(max - left)
    }

    fn prefetch(&mut self, _t: TorrentKey, _block: Block) {}

    fn flush(&mut self, _t: TorrentKey) -> Result<(), DiskError> {
        let mut result = Ok(());
        for piece in (0..self.layout.pieces()).map(PieceIndex::new) {
            if !self.mem[piece.idx()].is_empty() {
                result = result.and(self.write_out(piece));
            }
        }
        result
    }

    fn sync(&mut self, torrent: TorrentKey, ticket: u32) {
        let most = (self.faults.slow.as_micros() as u64).max(30_000);
        let begin = self.syncs.back().map_or(self.now, |s| s.0).max(self.now);
        let ready = begin + Duration::from_micros(self.rng.u64(..most));
        self.syncs.push_back((ready, torrent, ticket, self.platter.mark()));
    }

    fn file_stat(&mut self, _t: TorrentKey, file: FileIndex) -> Option<FileStat> {
        self.platter.stat(file.idx())
    }

    fn dirty(&self) -> usize {
        self.dirty
    }

    fn memory(&self) -> usize {
        self.dirty
    }
}

impl SimDisk {
    fn end_syncs(&mut self) {
        while let Some((_, torrent, ticket, mark)) = self.syncs.front().copied().filter(|s| s.0 <= self.now) {
            self.syncs.pop_front();
            let result = if self.strikes(self.faults.sync) {
                (self.was_faulty, self.was_spoilt) = (true, true);
                self.platter.lose_unsynced(&mut self.rng, false);
                Err(Self::error(DiskErrorKind::Io, "sync"))
            } else {
                self.platter.sync(mark);
                Ok(())
            };
            self.done.push_back(Done::Synced { torrent, ticket, result });
        }
    }

    fn queue(&mut self, piece: PieceIndex, expected: [u8; 20], want_blocks: bool, recheck: bool) {
        if expected != piece_hash(piece.get()) {
            self.violation(format!("piece {piece} is compared with the hash of another"));
        }
        if !recheck && self.jobs.iter().any(|j| j.piece == piece) {
            self.violation(format!("piece {piece} is hashed twice"));
        }
        let slow = self.faults.slow.as_micros() as u64;
        let ready = if slow == 0 { self.now } else { self.now + Duration::from_micros(self.rng.u64(..slow)) };
        self.jobs.push_back(Job { piece, want_blocks, recheck, ready });
    }
}
