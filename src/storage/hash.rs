//! Verifying pieces: the queue, where their bytes come from, and what follows from the result.
//!
//! ```text
//!   landed   -> Prefix   behind the contiguous full extents of a piece too large for two to be held
//!   hash()   -> Verify   the rest; good: write what is buffered, then report; bad: drop it, report with block hashes
//!   recheck()-> Recheck  at rest, behind all of the above
//! ```
//!
//! As many jobs as there are lanes advance together, a slice at a time: from the extent while its bytes are there
//! (and still in the processor's cache), else through `pread`. With fewer jobs than lanes, and bytes still landing,
//! a job waits a few turns for company: see `patient`.
//!
//! What it does not do: know which pieces are complete, or what their hashes should be.
//!
//! Invariants: a piece has at most one job in the queue of downloads; a prefix never covers bytes that have not
//! landed.

use super::disk::Disk;
use super::extents::{ExtentKey, Pool};
use super::files::ReadEnd;
use super::lanes::{INTERLEAVED, Lanes, MAX_LANES, Sha1};
use super::{DiskError, Done};
use crate::id::{BLOCK_LEN, PieceIndex, TorrentKey};
use crate::torrent::layout::Span;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of one read when a piece is hashed from its files. One for each lane stays in a second-level cache.
const READ: usize = 64 << 10;
/// Most bytes of one lane's turn.
const SLICE: u32 = 256 << 10;
/// Bytes that the helper fetches at once for a job.
const AHEAD: u32 = 1 << 20;
/// Turns that a finished piece waits for company, at most.
const PATIENCE: u32 = 32;
/// Bytes of pieces that may wait in their files for company, where so much does not fit the buffers: reading them again
/// from the page cache costs less than hashing them one by one.
const READ_AGAIN: usize = 8 << 20;

#[derive(Debug)]
enum Goal {
    Prefix,
    Verify { expected: [u8; 20], want_blocks: bool },
    Recheck { expected: [u8; 20] },
}

#[derive(Debug)]
struct Job {
    t: TorrentKey,
    piece: PieceIndex,
    /// Bytes hashed so far, and where this job ends.
    at: u32,
    until: u32,
    state: Sha1,
    goal: Goal,
    /// The kernel was told to read ahead.
    hinted: bool,
    /// The helper reads what comes next into the page cache; up to where it has done so.
    reading: Option<u64>,
    cached: u32,
}

/// The queues and what has come of them.
#[derive(Debug)]
pub(super) struct Hasher {
    pub(super) lanes: Lanes,
    /// Downloads: Prefix and Verify.
    queue: VecDeque<Job>,
    /// Pieces at rest.
    rechecks: VecDeque<Job>,
    /// How far pieces without a job are hashed.
    prefixes: BTreeMap<(TorrentKey, PieceIndex), (Sha1, u32)>,
    pub(super) done: VecDeque<Done>,
    bufs: [Vec<u8>; MAX_LANES],
    /// Bytes that landed since the last turn; turns waited.
    pub(super) landed: usize,
    waited: u32,
}

/// Where a job's next bytes are.
#[derive(Clone, Copy)]
enum Source {
    Extent {
        slot: u32,
        from: u32,
        to: u32,
    },
    /// In the buffer of its lane.
    Read {
        len: usize,
    },
    /// Nowhere: a file is missing or ends early.
    Short,
    /// On the disk; the helper fetches it.
    Later,
}

impl Job {
    fn new(t: TorrentKey, piece: PieceIndex, range: std::ops::Range<u32>, state: Sha1, goal: Goal) -> Self {
        let (at, until) = (range.start, range.end);
        Self { t, piece, at, until, state, goal, hinted: false, reading: None, cached: at }
    }
}

impl Hasher {
    pub(super) fn new(lanes: Lanes) -> Self {
        Self {
            lanes,
            queue: VecDeque::new(),
            rechecks: VecDeque::new(),
            prefixes: BTreeMap::new(),
            done: VecDeque::new(),
            bufs: Default::default(),
            landed: 0,
            waited: 0,
        }
    }

    /// Forgets a piece, or all pieces of a torrent.
    pub(super) fn forget(&mut self, t: TorrentKey, piece: Option<PieceIndex>) {
        let hit = |jt: TorrentKey, jp: PieceIndex| jt == t && piece.is_none_or(|p| p == jp);
        self.queue.retain(|j| !hit(j.t, j.piece));
        self.rechecks.retain(|j| !hit(j.t, j.piece));
        match piece {
            Some(p) => drop(self.prefixes.remove(&(t, p))),
            None => self.prefixes.retain(|k, _| k.0 != t),
        }
    }

    /// Forgets results of a torrent that is gone.
    pub(super) fn forget_done(&mut self, t: TorrentKey) {
        self.done.retain(|d| match d {
            Done::Hashed { torrent, .. } | Done::Failed { torrent, .. } | Done::Synced { torrent, .. } => *torrent != t,
        });
    }

    pub(super) fn idle(&self) -> bool {
        self.queue.is_empty() && self.rechecks.is_empty()
    }
    /// Whether downloads are queued.
    pub(super) fn busy(&self) -> bool {
        !self.queue.is_empty()
    }
    /// The helper has read what a job was waiting for.
    pub(super) fn read_ahead(&mut self, t: TorrentKey, piece: PieceIndex, id: u64) {
        let hit = |j: &&mut Job| j.t == t && j.piece == piece && j.reading == Some(id);
        if let Some(job) = self.rechecks.iter_mut().find(hit) {
            job.reading = None;
        }
    }
    pub(super) fn memory(&self) -> usize {
        self.bufs.iter().map(Vec::capacity).sum::<usize>()
            + (self.queue.capacity() + self.rechecks.capacity()) * size_of::<Job>()
            + self.prefixes.len() * size_of::<((TorrentKey, PieceIndex), (Sha1, u32))>()
    }

    /// Whether to wait a turn for more pieces to hash beside those queued: only while bytes keep landing.
    fn patient(&mut self, tight: bool) -> bool {
        let landed = std::mem::take(&mut self.landed);
        let few = !self.queue.is_empty() && self.queue.len() < self.lanes.width();
        if few && self.rechecks.is_empty() && landed > 0 && !tight && self.waited < PATIENCE {
            self.waited += 1;
            return true;
        }
        self.waited = 0;
        false
    }

    /// Takes over how far a piece is hashed already.
    fn take_prefix(&mut self, t: TorrentKey, piece: PieceIndex) -> (Sha1, u32) {
        if let Some(i) = self.queue.iter().position(|j| j.t == t && j.piece == piece) {
            if let Some(job) = self.queue.remove(i) {
                return (job.state, job.at);
            }
        }
        self.prefixes.remove(&(t, piece)).unwrap_or_else(|| (self.lanes.start(), 0))
    }
}

impl Disk {
    pub(super) fn queue_hash(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20], want_blocks: bool) {
        let size = self.piece_size(t, piece);
        let (state, at) = self.hasher.take_prefix(t, piece);
        let goal = Goal::Verify { expected, want_blocks };
        self.hasher.queue.push_back(Job::new(t, piece, at..size, state, goal));
    }

    pub(super) fn queue_recheck(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20]) {
        let (until, state) = (self.piece_size(t, piece), self.hasher.lanes.start());
        let goal = Goal::Recheck { expected };
        self.hasher.rechecks.push_back(Job::new(t, piece, 0..until, state, goal));
    }

    /// An extent has become full: hash on if the piece is now contiguous further than before.
    pub(super) fn queue_prefix(&mut self, t: TorrentKey, piece: PieceIndex, size: u32) {
        let unit = self.pool.unit();
        let queued = self.hasher.queue.iter().position(|j| j.t == t && j.piece == piece);
        let mut upto = match queued {
            Some(i) if matches!(self.hasher.queue[i].goal, Goal::Prefix) => self.hasher.queue[i].until,
            Some(_) => return,
            None => self.hasher.prefixes.get(&(t, piece)).map_or(0, |p| p.1),
        };
        let before = upto;
        while upto < size && upto % unit == 0 {
            match self.pool.peek(ExtentKey { t, piece: piece.get(), nth: upto / unit }) {
                Some(slot) if self.pool.is_full(slot) => upto += self.pool.get(slot).len,
                _ => break,
            }
        }
        if upto == before {
            return;
        }
        if let Some(i) = queued {
            self.hasher.queue[i].until = upto;
        } else {
            let (state, at) = self.hasher.take_prefix(t, piece);
            self.hasher.queue.push_back(Job::new(t, piece, at..upto, state, Goal::Prefix));
        }
    }

    /// See [`super::Storage::work`].
    pub(super) fn run(&mut self, budget: usize) -> bool {
        // Eight at once are worth it to wait until there is no room at all.
        let tight = self.hasher.lanes.width() <= INTERLEAVED && self.pool.tight();
        if self.hasher.patient(tight) {
            return true;
        }
        let mut left = budget.max(1);
        while left > 0 {
            let Some(moved) = self.step() else { return false };
            left = left.saturating_sub(moved.max(1));
        }
        !self.hasher.idle()
    }

    /// Whether pieces that wait for company leave their buffers meanwhile: when there is no room for as many as would
    /// be hashed at once.
    pub(super) fn may_read_again(&self) -> bool {
        let Some(first) = self.hasher.queue.front() else { return false };
        let all = self.hasher.lanes.width() * first.until as usize;
        self.hasher.lanes.width() > INTERLEAVED
            && (self.pool.limit()..READ_AGAIN + 1).contains(&all)
            && !self.hasher.queue.iter().any(|j| self.by_helper(j.t))
    }

    /// Works on the queued downloads until one of them is finished. False when none can be now.
    pub(super) fn finish_one(&mut self) -> bool {
        let before = self.hasher.queue.len();
        while self.hasher.queue.len() == before {
            if !self.hasher.busy() || self.step_downloads().is_none() {
                return false;
            }
        }
        true
    }

    /// Advances the first jobs, one slice each. Returns the bytes hashed and written; `None` when all that
    /// is queued waits for the helper.
    fn step(&mut self) -> Option<usize> {
        self.step_downloads().or_else(|| self.step_queue(false))
    }

    fn step_downloads(&mut self) -> Option<usize> {
        if self.hasher.busy() { self.step_queue(true) } else { None }
    }

    /// Puts the jobs that can go on first; how many there are of them.
    fn ready(&self, queue: &mut VecDeque<Job>) -> usize {
        let waits = |j: &Job| j.reading.is_some() || self.flights.pending(j.t, j.piece);
        if !queue.iter().any(waits) {
            return queue.len();
        }
        queue.make_contiguous().sort_by_key(waits);
        queue.iter().take_while(|j| !waits(j)).count()
    }

    fn step_queue(&mut self, from_downloads: bool) -> Option<usize> {
        let mut queue = std::mem::take(if from_downloads { &mut self.hasher.queue } else { &mut self.hasher.rechecks });
        let n = self.hasher.lanes.width().min(self.ready(&mut queue));
        if n == 0 {
            *(if from_downloads { &mut self.hasher.queue } else { &mut self.hasher.rechecks }) = queue;
            return None;
        }
        let mut bufs = std::mem::take(&mut self.hasher.bufs);
        if !from_downloads {
            self.hint(&mut queue, n * 2);
        }
        let mut sources = [const { Ok(Source::Short) }; MAX_LANES];
        for (i, job) in queue.iter_mut().take(n).enumerate() {
            sources[i] = self.source(job, &mut bufs[i]);
        }
        let moved = advance(&self.hasher.lanes, &self.pool, &bufs, queue.make_contiguous(), &sources[..n]);
        self.hasher.bufs = bufs;
        // Finished ones leave; from the last on, so that the numbers of those before stay.
        let mut over = Vec::new();
        for (i, source) in sources.into_iter().take(n).enumerate().rev() {
            if matches!(source, Ok(Source::Later)) {
                continue;
            }
            if !matches!(source, Ok(Source::Extent { .. } | Source::Read { .. })) || queue[i].at == queue[i].until {
                if let Some(job) = queue.remove(i) {
                    over.push((job, source));
                }
            }
        }
        *(if from_downloads { &mut self.hasher.queue } else { &mut self.hasher.rechecks }) = queue;
        let mut written = 0;
        for (job, source) in over.into_iter().rev() {
            written += self.finish(job, source);
        }
        Some(moved + written)
    }

    /// Tells the kernel which pieces at rest come next.
    fn hint(&mut self, queue: &mut VecDeque<Job>, n: usize) {
        for job in queue.iter_mut().take(n).filter(|j| !j.hinted) {
            job.hinted = true;
            let offset = self.offset(job.t, job.piece, 0);
            self.files.will_need(job.t, offset, u64::from(job.until));
        }
    }

    /// Finds a job's next bytes; reads them when they are in files only.
    fn source(&mut self, job: &mut Job, buf: &mut Vec<u8>) -> Result<Source, DiskError> {
        let at = job.at;
        if at == job.until {
            return Ok(Source::Read { len: 0 });
        }
        let unit = self.pool.unit();
        let (nth, start) = (at / unit, at / unit * unit);
        let mut end = job.until.min(start + unit);
        if let Some(slot) = self.pool.peek(ExtentKey { t: job.t, piece: job.piece.get(), nth }) {
            match self.pool.get(slot).valid.next(at - start) {
                Some((from, to)) if from == at - start => {
                    let to = to.min(end - start).min(from + SLICE);
                    return Ok(Source::Extent { slot, from, to });
                }
                Some((from, _)) => end = end.min(start + from),
                None => {}
            }
        }
        buf.resize(READ, 0);
        let len = READ.min((end - at) as usize);
        let offset = self.offset(job.t, job.piece, at);
        if self.is_cold(job, offset, &mut buf[..len]) {
            return Ok(Source::Later);
        }
        Ok(match self.files.read_at(job.t, offset, &mut buf[..len])? {
            ReadEnd::Whole => Source::Read { len },
            ReadEnd::Short(..) => Source::Short,
        })
    }

    /// Whether bytes at rest have to be fetched from the disk first. Then the helper is sent for them and some more.
    fn is_cold(&mut self, job: &mut Job, offset: u64, buf: &mut [u8]) -> bool {
        let at_rest = matches!(job.goal, Goal::Recheck { .. });
        if !at_rest || !self.hand.is_threaded() || job.at < job.cached {
            return false;
        }
        let Some((handle, Span { at, .. })) = self.files.cold(job.t, offset, buf) else { return false };
        let len = (job.until - job.at).min(AHEAD);
        job.cached = job.at + buf.len().max(len as usize) as u32;
        job.reading = Some(self.send_read(job.t, job.piece, handle, at, len as usize));
        true
    }

    /// What follows from a job that has ended. Returns the bytes written.
    fn finish(&mut self, job: Job, source: Result<Source, DiskError>) -> usize {
        let Job { t: torrent, piece, until, state, goal, .. } = job;
        let whole = matches!(source, Ok(Source::Extent { .. } | Source::Read { .. }));
        let (expected, want_blocks, downloaded) = match goal {
            Goal::Prefix => {
                if whole {
                    self.hasher.prefixes.insert((torrent, piece), (state, until));
                }
                return 0;
            }
            Goal::Verify { expected, want_blocks } => (expected, want_blocks, true),
            Goal::Recheck { expected } => (expected, false, false),
        };
        let ok = whole && state.finish() == expected;
        let mut written = 0;
        let mut result = source.map(|_| None);
        if result.is_ok() && downloaded && (want_blocks || !ok) {
            result = self.block_hashes(torrent, piece, until);
        }
        if result.is_ok() && ok && downloaded && (self.by_helper(torrent) || self.flights.pending(torrent, piece)) {
            let blocks = result.unwrap_or(None);
            self.send_piece(torrent, piece, blocks);
            return written;
        }
        if result.is_ok() && ok {
            match self.write_piece(torrent, piece) {
                Ok(n) => written = n,
                Err(e) => result = Err(e),
            }
        }
        if downloaded || ok {
            self.drop_extents(torrent, piece);
        }
        match result {
            Ok(blocks) if ok && downloaded => self.report_good(torrent, piece, blocks),
            Ok(blocks) => self.hasher.done.push_back(Done::Hashed { torrent, piece, ok, blocks }),
            Err(error) => self.hasher.done.push_back(Done::Failed { torrent, piece: Some(piece), error }),
        }
        written
    }

    /// SHA-1 of each block of a piece; `None` when bytes of it are not there.
    fn block_hashes(
        &mut self,
        t: TorrentKey,
        piece: PieceIndex,
        size: u32,
    ) -> Result<Option<Vec<[u8; 20]>>, DiskError> {
        let mut hashes = Vec::with_capacity(size.div_ceil(BLOCK_LEN) as usize);
        let mut buf = vec![0; MAX_LANES * BLOCK_LEN as usize];
        let mut at = 0;
        while at < size {
            let part = &mut buf[..((size - at) as usize).min(MAX_LANES * BLOCK_LEN as usize)];
            if self.read_piece(t, piece, at, part)? != ReadEnd::Whole {
                return Ok(None);
            }
            at += part.len() as u32;
            let blocks: Vec<&[u8]> = part.chunks(BLOCK_LEN as usize).collect();
            hashes.extend(self.hasher.lanes.digest_many(&blocks));
        }
        Ok(Some(hashes))
    }

    /// Reads bytes of a piece from wherever they are: extents first, then files.
    fn read_piece(
        &mut self,
        t: TorrentKey,
        piece: PieceIndex,
        begin: u32,
        buf: &mut [u8],
    ) -> Result<ReadEnd, DiskError> {
        let end = begin + buf.len() as u32;
        let mut scratch = Vec::new();
        let mut job = Job::new(t, piece, begin..end, self.hasher.lanes.start(), Goal::Prefix);
        while job.at < end {
            let out = &mut buf[(job.at - begin) as usize..];
            let n = match self.source(&mut job, &mut scratch)? {
                Source::Extent { slot, from, to } => {
                    let bytes = &self.pool.bytes(slot)[from as usize..to as usize];
                    out[..bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                }
                Source::Read { len } => {
                    out[..len].copy_from_slice(&scratch[..len]);
                    len
                }
                Source::Short | Source::Later => {
                    return Ok(ReadEnd::Short(super::DiskErrorKind::Truncated, crate::id::FileIndex::new(0)));
                }
            };
            job.at += n as u32;
        }
        Ok(ReadEnd::Whole)
    }
}

/// Hashes one slice of each job, all lanes at once. Returns the bytes hashed.
fn advance(
    lanes: &Lanes,
    pool: &Pool,
    bufs: &[Vec<u8>; MAX_LANES],
    jobs: &mut [Job],
    sources: &[Result<Source, DiskError>],
) -> usize {
    let mut items: Vec<(&mut Sha1, &[u8])> = Vec::with_capacity(MAX_LANES);
    let mut moved = 0;
    for ((job, source), buf) in jobs.iter_mut().zip(sources).zip(bufs) {
        let data = match source {
            Ok(Source::Extent { slot, from, to }) => &pool.bytes(*slot)[*from as usize..*to as usize],
            Ok(Source::Read { len }) => &buf[..*len],
            _ => continue,
        };
        moved += data.len();
        job.at += data.len() as u32;
        items.push((&mut job.state, data));
    }
    lanes.update(&mut items);
    moved
}
