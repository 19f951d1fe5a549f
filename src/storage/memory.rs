//! Torrents in memory: [`Memory`], for tests and the simulator.
//!
//! It answers as [`Disk`](super::Disk) does, and keeps every piece that was touched in a buffer of its own. A piece
//! that was never touched reads as zeros and is not there for `recheck`. Nothing is ever written, so nothing can
//! fail except by order: [`Memory::fail`] makes the next write to a piece or the verification of it fail,
//! [`Memory::stall`] has everybody wait.
//!
//! What it does not do: limit itself. Give it small torrents.

use super::iov::HeapLender;
use super::lanes::{Lanes, MAX_LANES};
use super::plan::{self, Part, PlaceList};
use super::{DiskError, DiskErrorKind, Done, FileStat, IoVecs, OpenSpec, Storage};
use crate::id::{BLOCK_LEN, Block, FileIndex, PieceIndex, TorrentKey};
use crate::torrent::layout::Layout;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

#[derive(Debug)]
struct Job {
    t: TorrentKey,
    piece: PieceIndex,
    expected: [u8; 20],
    want_blocks: bool,
    recheck: bool,
}

/// Storage in memory. See [`Storage`] for how it is driven.
#[derive(Debug)]
pub struct Memory {
    layouts: BTreeMap<TorrentKey, Arc<Layout>>,
    index: BTreeMap<(TorrentKey, PieceIndex), usize>,
    bufs: Vec<Vec<u8>>,
    jobs: VecDeque<Job>,
    done: VecDeque<Done>,
    fail: Option<DiskErrorKind>,
    stalled: bool,
    lanes: Lanes,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Storage without any torrent.
    pub fn new() -> Self {
        Self {
            layouts: BTreeMap::new(),
            index: BTreeMap::new(),
            bufs: Vec::new(),
            jobs: VecDeque::new(),
            done: VecDeque::new(),
            fail: None,
            stalled: false,
            lanes: Lanes::new(MAX_LANES),
        }
    }

    /// The bytes of a piece, if any of them was ever placed or written.
    pub fn piece(&self, t: TorrentKey, piece: PieceIndex) -> Option<&[u8]> {
        self.index.get(&(t, piece)).map(|&i| &*self.bufs[i])
    }

    /// The next write, or else the next verification, fails in this way.
    pub fn fail(&mut self, kind: DiskErrorKind) {
        self.fail = Some(kind);
    }

    /// From now on nothing can be read in time for sending, and payload is to wait; or this is over.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    fn failure(&mut self) -> Result<(), DiskError> {
        self.fail.take().map_or(Ok(()), |kind| Err(DiskError::new(kind, "memory", "write")))
    }

    /// The buffer of a piece, made of zeros when there is none, and how much of `max` bytes from `begin` on lies in
    /// it.
    fn touch(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, max: u32) -> Result<(usize, u32), DiskError> {
        let size = self.layouts.get(&t).map_or(0, |l| l.piece_size(piece));
        let left = size.saturating_sub(begin);
        debug_assert!(max <= left, "{max} bytes from {begin} of piece {piece} of {t:?}, which has {left} there");
        if left == 0 && max > 0 {
            return Err(DiskError::new(DiskErrorKind::Other, "memory", "find range"));
        }
        let bufs = &mut self.bufs;
        let slot = *self.index.entry((t, piece)).or_insert_with(|| {
            bufs.push(vec![0; size as usize]);
            bufs.len() - 1
        });
        Ok((slot, max.min(left)))
    }

    fn add(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        let begin = block.begin + at;
        let (slot, len) = self.touch(t, block.piece, begin, max)?;
        if out.room() == 0 {
            return Ok(0);
        }
        out.push(Part::Heap { slot: slot as u32, generation: 0, from: begin, len });
        Ok(len)
    }

    fn drop_of(&mut self, t: TorrentKey, piece: Option<PieceIndex>) {
        let hit = |p: PieceIndex| piece.is_none_or(|x| x == p);
        let bufs = &mut self.bufs;
        self.index.retain(|k, slot| {
            let gone = k.0 == t && hit(k.1);
            if gone {
                bufs[*slot] = Vec::new();
            }
            !gone
        });
        self.jobs.retain(|j| !(j.t == t && hit(j.piece)));
    }

    fn verify(&mut self, job: &Job) {
        let Job { t: torrent, piece, .. } = *job;
        let bytes = self.index.get(&(torrent, piece)).map_or(&[][..], |&slot| &self.bufs[slot]);
        let ok = self.lanes.digest_many(&[bytes])[0] == job.expected;
        let parts: Vec<&[u8]> = bytes.chunks(BLOCK_LEN as usize).collect();
        let blocks = (!job.recheck && (job.want_blocks || !ok)).then(|| self.lanes.digest_many(&parts));
        let result = if ok { self.failure() } else { Ok(()) };
        if !job.recheck && (!ok || result.is_err()) {
            self.drop_of(torrent, Some(piece));
        }
        self.done.push_back(match result {
            Ok(()) => Done::Hashed { torrent, piece, ok, blocks },
            Err(error) => Done::Failed { torrent, piece: Some(piece), error },
        });
    }
}

impl Storage for Memory {
    fn open(&mut self, t: TorrentKey, layout: Arc<Layout>, _spec: OpenSpec) -> Result<(), DiskError> {
        self.layouts.insert(t, layout);
        Ok(())
    }
    /// What was held stays, as files do.
    fn close(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        self.jobs.retain(|j| j.t != t);
        self.done.retain(|d| match d {
            Done::Hashed { torrent, .. } | Done::Failed { torrent, .. } | Done::Synced { torrent, .. } => *torrent != t,
        });
        self.layouts.remove(&t);
        Ok(())
    }
    fn remove_files(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        self.drop_of(t, None);
        self.close(t)
    }
    fn prepare(&mut self, _t: TorrentKey, _wanted: &dyn Fn(FileIndex) -> bool) -> Result<(), DiskError> {
        Ok(())
    }
    fn allocate(&mut self, _t: TorrentKey, _file: FileIndex) -> Result<(), DiskError> {
        Ok(())
    }
    fn place(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        self.add(t, block, at, max, out)
    }
    fn regions<'a>(&'a mut self, plan: &'a mut PlaceList) -> IoVecs<'a> {
        let mut heap = HeapLender::new(&mut self.bufs);
        let mut io = IoVecs::new();
        plan::resolve(plan, &mut io, |part, io| match part {
            Part::Heap { slot, from, len, .. } => heap.push(io, slot as usize, from as usize, len as usize),
            _ => false,
        });
        io
    }
    fn fault(&mut self, _plan: &PlaceList) -> DiskError {
        DiskError::new(DiskErrorKind::Other, "memory", "access mapping")
    }
    fn landed(&mut self, _t: TorrentKey, _piece: PieceIndex, _begin: u32, _len: u32) {}
    fn read_back(&mut self, t: TorrentKey, block: Block, at: u32, buf: &mut [u8]) -> Result<(), DiskError> {
        let begin = block.begin + at;
        let (slot, len) = self.touch(t, block.piece, begin, buf.len() as u32)?;
        buf[..len as usize].copy_from_slice(&self.bufs[slot][begin as usize..(begin + len) as usize]);
        Ok(())
    }
    fn write(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, data: &[u8]) -> Result<(), DiskError> {
        self.failure()?;
        let (slot, len) = self.touch(t, piece, begin, data.len() as u32)?;
        self.bufs[slot][begin as usize..(begin + len) as usize].copy_from_slice(&data[..len as usize]);
        Ok(())
    }
    fn forget(&mut self, t: TorrentKey, piece: PieceIndex) {
        self.drop_of(t, Some(piece));
    }
    fn hash(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20], want_blocks: bool) {
        // A piece of pads only may be asked for without a byte ever placed.
        let _ = self.touch(t, piece, 0, 0);
        self.jobs.push_back(Job { t, piece, expected, want_blocks, recheck: false });
    }
    fn recheck(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20]) {
        self.jobs.push_back(Job { t, piece, expected, want_blocks: false, recheck: true });
    }
    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }
    fn work(&mut self, budget: usize) -> bool {
        let mut left = budget.max(1);
        while left > 0 {
            let Some(job) = self.jobs.pop_front() else { return false };
            left = left.saturating_sub(self.piece(job.t, job.piece).map_or(0, <[u8]>::len).max(1));
            self.verify(&job);
        }
        !self.jobs.is_empty()
    }
    fn lend(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        if self.stalled { Ok(0) } else { self.add(t, block, at, max, out) }
    }
    fn holds_back(&self, _t: TorrentKey) -> bool {
        self.stalled
    }
    fn prefetch(&mut self, _t: TorrentKey, _block: Block) {}
    fn flush(&mut self, _t: TorrentKey) -> Result<(), DiskError> {
        Ok(())
    }
    fn sync(&mut self, t: TorrentKey, ticket: u32) {
        self.done.push_back(Done::Synced { torrent: t, ticket, result: Ok(()) });
    }
    fn file_stat(&mut self, _t: TorrentKey, _file: FileIndex) -> Option<FileStat> {
        None
    }
    fn dirty(&self) -> usize {
        0
    }
    fn memory(&self) -> usize {
        self.bufs.iter().map(Vec::capacity).sum()
    }
}
