//! Writes by the helper: where a volume is slow, or not yet known to be fast, extents leave with their buffers.
//!
//! ```text
//!   piece good, or room wanted ─▶ extent's buffer taken off the pool ─▶ job: pwrite of its valid ranges ─▶ buffer back
//!                                 `left` of its piece + 1                                 left - 1; 0: Done::Hashed
//! ```
//!
//! Nothing is copied, and the loop does not wait. What is under way counts against the pool's limit, and a cap of each
//! volume's own ([`StorageConfig::unwritten`](super::StorageConfig), shared out among those that write): beyond it
//! [`Disk::holds_back_for`] says that no more payload should be read. A volume that hangs holds back nobody else's.
//! Space is taken by the helper too, before the first write of the file, because jobs are done in order; until that is
//! over the file's torrent is written by the helper even where the volume is fast.
//!
//! Good pieces of a torrent are reported in the order in which they were found good, whoever writes them: one that the
//! loop wrote waits for those before it, or playback of what has come would stumble whenever a volume turns fast.
//!
//! What it does not do: decide when a piece is written (`hash`, `disk`), or how fast a volume is (`volume`).
//!
//! Invariants: `bytes` is what the parcels under way hold, and `of_lane` what those of each volume do; a piece is in
//! `pieces` exactly while parcels of it are under way; while it is, its files are not read. The first good
//! piece of a torrent in `order` is not written yet.

#[cfg(test)]
mod tests;

use super::disk::Disk;
use super::extents::ExtentKey;
use super::helper::Job;
use super::{DiskError, Done, Writer, sys};
use crate::id::{FileIndex, PieceIndex, TorrentKey};
use crate::torrent::layout::Span;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A range of a buffer, and where it goes.
struct Part {
    handle: Arc<File>,
    file: FileIndex,
    at: u64,
    from: u32,
    to: u32,
}

/// What comes back from the helper.
#[derive(Debug)]
struct Returned {
    buf: Vec<u8>,
    failed: Option<(FileIndex, io::Error)>,
    /// Bytes that were waited for until they were on the device, and how long all of it took.
    probe: Option<(usize, Duration)>,
}

/// What the helper is doing.
#[derive(Debug)]
enum Errand {
    Write { t: TorrentKey, piece: PieceIndex, parcel: Parcel },
    Space { t: TorrentKey, file: FileIndex },
    Sync { took: Arc<AtomicU64> },
    Read { t: TorrentKey, piece: PieceIndex },
    Wanted { t: TorrentKey, file: FileIndex },
}

/// An extent under way.
#[derive(Debug)]
struct Parcel {
    lane: u64,
    volume: usize,
    bytes: usize,
    handles: usize,
    back: Arc<Mutex<Option<Returned>>>,
}

/// A piece with parcels under way.
#[derive(Debug, Default)]
struct Landing {
    left: u32,
    failed: Option<DiskError>,
    /// It is good, and to be reported once all of it is written, with the hashes of its blocks.
    verified: Option<Option<Vec<[u8; 20]>>>,
    /// Its torrent was closed.
    orphan: bool,
}

/// Everything the helper has been given.
#[derive(Debug)]
pub(super) struct Flights {
    errands: BTreeMap<u64, Errand>,
    pieces: BTreeMap<(TorrentKey, PieceIndex), Landing>,
    bytes: usize,
    of_lane: BTreeMap<u64, usize>,
    /// Descriptors that parcels hold, each counted for each part.
    handles: usize,
    cap: usize,
    count: u64,
    /// Good pieces, in the order of their reports, with the report of what is written already.
    order: VecDeque<(TorrentKey, PieceIndex, Option<Done>)>,
    /// The last errand that a flush of a torrent waits for.
    marks: BTreeMap<TorrentKey, u64>,
}

impl Flights {
    pub(super) fn new(cap: usize) -> Self {
        Self {
            errands: BTreeMap::new(),
            pieces: BTreeMap::new(),
            bytes: 0,
            of_lane: BTreeMap::new(),
            handles: 0,
            cap,
            count: 0,
            order: VecDeque::new(),
            marks: BTreeMap::new(),
        }
    }

    /// Bytes on their way to files.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn bytes_of(&self, lane: u64) -> usize {
        self.of_lane.get(&lane).copied().unwrap_or(0)
    }

    /// So many bytes are not on their way any more.
    fn landed(&mut self, lane: u64, bytes: usize) {
        self.bytes -= bytes;
        if let Some(here) = self.of_lane.get_mut(&lane) {
            *here -= bytes;
            if *here == 0 {
                self.of_lane.remove(&lane);
            }
        }
    }

    /// Whether parts of a piece are on their way.
    pub(super) fn pending(&self, t: TorrentKey, piece: PieceIndex) -> bool {
        !self.pieces.is_empty() && self.pieces.contains_key(&(t, piece))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The torrent is closed: nobody is to be told of what is under way.
    pub(super) fn orphan(&mut self, t: TorrentKey) {
        self.pieces.iter_mut().filter(|(k, _)| k.0 == t).for_each(|(_, l)| l.orphan = true);
        self.order.retain(|(of, ..)| *of != t);
        self.marks.remove(&t);
    }

    /// All that was sent of a torrent so far belongs to a flush.
    pub(super) fn mark(&mut self, t: TorrentKey) {
        self.marks.insert(t, self.count);
    }

    /// Whether something that the last flush of a torrent sent, or found sent, still changes its files.
    pub(super) fn flushing(&self, t: TorrentKey) -> bool {
        let Some(&last) = self.marks.get(&t) else { return false };
        self.errands.range(..=last).any(|(_, e)| match e {
            Errand::Write { t: of, .. } | Errand::Space { t: of, .. } => *of == t,
            Errand::Sync { .. } | Errand::Read { .. } | Errand::Wanted { .. } => false,
        })
    }

    /// A piece is to be fetched again: what is under way of it is not to be reported as good.
    pub(super) fn forget(&mut self, t: TorrentKey, piece: PieceIndex) {
        if let Some(l) = self.pieces.get_mut(&(t, piece)) {
            l.verified = None;
        }
        self.order.retain(|(of, p, _)| (*of, *p) != (t, piece));
    }
}

impl Disk {
    /// Whether the helper writes what comes of this torrent.
    pub(super) fn by_helper(&self, t: TorrentKey) -> bool {
        self.hand.is_threaded() && (self.writer == Writer::Helper || self.files.is_slow(t))
    }

    /// The helper holds descriptors, so fewer are held here.
    pub(super) fn tell_lent(&mut self) {
        self.files.set_lent(self.flights.handles + self.syncs.handles());
    }

    /// See [`super::Storage::holds_back`].
    pub(super) fn holds_back_for(&self, t: TorrentKey) -> bool {
        let here = if self.flights.bytes == 0 { 0 } else { self.flights.bytes_of(self.files.lane_of(t)) };
        if here == 0 || !self.by_helper(t) {
            return false;
        }
        let share = self.flights.of_lane.len();
        here >= self.flights.cap / share
            || here + self.pool.live_of(t) >= self.pool.limit() / 2
            || self.flights.handles >= self.files.limit()
    }

    /// Whether something is on its way to a torrent's volume.
    pub(super) fn is_writing(&self, t: TorrentKey) -> bool {
        self.flights.bytes > 0 && self.flights.bytes_of(self.files.lane_of(t)) > 0
    }

    /// Hands a job over, behind all others of this volume.
    fn send(&mut self, lane: u64, errand: Errand, job: Job) -> u64 {
        self.flights.count += 1;
        let id = self.flights.count;
        self.flights.errands.insert(id, errand);
        self.hand.submit(lane, id, job);
        id
    }

    /// Has a file synced; the result comes to [`Disk::sync_over`].
    pub(super) fn send_sync(&mut self, t: TorrentKey, job: impl FnOnce() -> io::Result<()> + Send + 'static) -> u64 {
        let took = Arc::new(AtomicU64::new(0));
        let timed = Arc::clone(&took);
        let job = move || {
            let began = Instant::now();
            let result = job();
            timed.store(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            result
        };
        self.send(self.files.lane_of(t), Errand::Sync { took }, Box::new(job))
    }

    /// Takes a file's space, once.
    pub(super) fn take_space(&mut self, t: TorrentKey, file: FileIndex) -> Result<(), DiskError> {
        if !self.hand.is_threaded() {
            return self.files.allocate(t, file);
        }
        let Some(space) = self.files.begin_allocate(t, file)? else { return Ok(()) };
        self.send(self.files.lane_of(t), Errand::Space { t, file }, Box::new(move || space.take()));
        Ok(())
    }

    /// Has bytes of a piece read into the page cache; its hashing goes on when they are there.
    pub(super) fn send_read(
        &mut self,
        t: TorrentKey,
        piece: PieceIndex,
        handle: Arc<File>,
        at: u64,
        len: usize,
    ) -> u64 {
        let job = move || {
            let mut buf = vec![0; len.min(256 << 10)];
            let (mut at, end) = (at, at + len as u64);
            while at < end {
                let n = buf.len().min((end - at) as usize);
                // An error comes again when the bytes are wanted.
                match handle.read_at(&mut buf[..n], at) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => at += n as u64,
                }
            }
            Ok(())
        };
        self.send(self.files.lane_of(t), Errand::Read { t, piece }, Box::new(job))
    }

    /// Has bytes that a peer waits for read; whether that was possible comes to [`Disk::wanted_read`].
    pub(super) fn send_wanted(&mut self, t: TorrentKey, handle: Arc<File>, span: Span) -> u64 {
        let job = move || handle.read_exact_at(&mut vec![0; usize::try_from(span.len).unwrap_or(0)], span.at);
        self.send(self.files.lane_of(t), Errand::Wanted { t, file: span.file }, Box::new(job))
    }

    /// Sends an extent's valid ranges on their way and puts it out of use.
    pub(super) fn send_extent(&mut self, key: ExtentKey, slot: u32) {
        let (t, piece) = (key.t, PieceIndex::new(key.piece));
        let start = self.offset(t, piece, key.nth * self.pool.unit());
        let parts = self.parts(t, start, slot);
        let bytes = self.pool.get(slot).valid.total() as usize;
        let buf = self.pool.take(slot);
        let landing = self.flights.pieces.entry((t, piece)).or_default();
        landing.left += 1;
        // The torrent may have been opened again meanwhile.
        landing.orphan = false;
        let lane = self.files.lane_of(t);
        self.flights.bytes += bytes;
        *self.flights.of_lane.entry(lane).or_default() += bytes;
        let parts = match parts {
            Ok(parts) => parts,
            Err(e) => {
                landing.failed.get_or_insert(e);
                Vec::new()
            }
        };
        let (volume, probe) = self.files.volume_of(t, bytes);
        let parcel = Parcel { lane, volume, bytes, handles: parts.len(), back: Arc::default() };
        self.flights.handles += parts.len();
        self.tell_lent();
        let back = Arc::clone(&parcel.back);
        let job = move || {
            let returned = write(&parts, buf, probe);
            drop(parts);
            *back.lock().unwrap_or_else(PoisonError::into_inner) = Some(returned);
            Ok(())
        };
        self.send(lane, Errand::Write { t, piece, parcel }, Box::new(job));
    }

    /// Where an extent's valid ranges go.
    fn parts(&mut self, t: TorrentKey, start: u64, slot: u32) -> Result<Vec<Part>, DiskError> {
        let layout = Arc::clone(&self.files.expect(t)?.layout);
        let valid: Vec<_> = self.pool.get(slot).valid.iter().collect();
        let mut parts = Vec::new();
        for (from, to) in valid {
            let mut at = from;
            for span in layout.spans(start + u64::from(from), u64::from(to - from)) {
                let (from, to) = (at, at + span.len as u32);
                at = to;
                if span.pad {
                    continue;
                }
                self.take_space(t, span.file)?;
                let handle = self.files.shared(t, span.file, true)?;
                self.files.mark_dirty(t, span.file);
                parts.push(Part { handle, file: span.file, at: span.at, from, to });
            }
        }
        Ok(parts)
    }

    /// Sends a good piece on its way: reported when all of it is written.
    pub(super) fn send_piece(&mut self, t: TorrentKey, piece: PieceIndex, blocks: Option<Vec<[u8; 20]>>) {
        loop {
            let first = self.pool.of_piece(t, piece.get()).next();
            let Some((key, slot)) = first else { break };
            self.send_extent(key, slot);
        }
        match self.flights.pieces.get_mut(&(t, piece)) {
            Some(landing) => {
                landing.verified = Some(blocks);
                self.flights.order.push_back((t, piece, None));
            }
            None => self.report_good(t, piece, blocks),
        }
    }

    /// A good piece is in its files: reported once those before it are.
    pub(super) fn report_good(&mut self, t: TorrentKey, piece: PieceIndex, blocks: Option<Vec<[u8; 20]>>) {
        let done = Done::Hashed { torrent: t, piece, ok: true, blocks };
        let order = &mut self.flights.order;
        if let Some(place) = order.iter_mut().find(|(of, p, _)| (*of, *p) == (t, piece)) {
            place.2 = Some(done);
        } else if order.iter().any(|(of, ..)| *of == t) {
            order.push_back((t, piece, Some(done)));
        } else {
            self.hasher.done.push_back(done);
        }
        self.report_in_order();
    }

    /// Reports what waited only for others.
    pub(super) fn report_in_order(&mut self) {
        let mut blocked = Vec::new();
        let done = &mut self.hasher.done;
        self.flights.order.retain_mut(|(t, _, report)| match report.take_if(|_| !blocked.contains(t)) {
            Some(report) => {
                done.push_back(report);
                false
            }
            None => {
                blocked.push(*t);
                true
            }
        });
    }

    /// Takes what the helper has done, or does some of it. True when there is more to do at once.
    pub(super) fn step_helper(&mut self) -> bool {
        let more = self.hand.work();
        let mut any = false;
        while let Some((id, result)) = self.hand.poll() {
            any = true;
            match self.flights.errands.remove(&id) {
                Some(Errand::Write { t, piece, parcel }) => self.returned(t, piece, &parcel),
                Some(Errand::Space { t, file }) => self.space_taken(t, file, result),
                Some(Errand::Sync { took }) => {
                    let took = Duration::from_micros(took.load(Ordering::Relaxed));
                    self.sync_over(id, &result, took);
                }
                Some(Errand::Read { t, piece }) => self.hasher.read_ahead(t, piece, id),
                Some(Errand::Wanted { t, file }) => self.wanted_read(id, t, file, result),
                None => {}
            }
        }
        if any {
            self.step_syncs();
        }
        more || (!self.hand.is_threaded() && !self.syncs.is_empty())
    }

    /// A parcel is back.
    fn returned(&mut self, t: TorrentKey, piece: PieceIndex, parcel: &Parcel) {
        self.flights.landed(parcel.lane, parcel.bytes);
        self.flights.handles -= parcel.handles;
        self.tell_lent();
        let Some(back) = parcel.back.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            debug_assert!(false, "a parcel is lost");
            return;
        };
        self.pool.give_back(back.buf);
        if let Some((bytes, took)) = back.probe {
            self.files.probed(parcel.volume, bytes, took);
        }
        let error = back.failed.map(|(file, e)| DiskError::io(&e, self.files.path(t, file), "write"));
        let Some(landing) = self.flights.pieces.get_mut(&(t, piece)) else { return };
        landing.left -= 1;
        if let Some(e) = error {
            landing.failed.get_or_insert(e);
        }
        if landing.left > 0 {
            return;
        }
        let Some(landing) = self.flights.pieces.remove(&(t, piece)) else { return };
        match landing {
            Landing { orphan: true, failed, .. } => {
                if let Some(e) = failed {
                    log::error!("{e}");
                }
            }
            Landing { failed: Some(error), .. } => {
                self.drop_extents(t, piece);
                self.hasher.forget(t, Some(piece));
                self.flights.forget(t, piece);
                self.hasher.done.push_back(Done::Failed { torrent: t, piece: Some(piece), error });
                self.report_in_order();
            }
            Landing { verified: Some(blocks), .. } => self.report_good(t, piece, blocks),
            // Written early to make room.
            Landing { .. } => {}
        }
    }

    fn space_taken(&mut self, t: TorrentKey, file: FileIndex, result: io::Result<()>) {
        if let Err(error) = self.files.end_allocate(t, file, result) {
            self.hasher.done.push_back(Done::Failed { torrent: t, piece: None, error });
        }
    }
}

/// The job: writes the parts of a buffer.
fn write(parts: &[Part], buf: Vec<u8>, probe: bool) -> Returned {
    let began = Instant::now();
    let mut failed = None;
    for part in parts {
        // write_all_at goes on after a short write, and takes a write of nothing as an error.
        if let Err(e) = part.handle.write_all_at(&buf[part.from as usize..part.to as usize], part.at) {
            failed = Some((part.file, e));
            break;
        }
    }
    let probe = (probe && failed.is_none()).then(|| {
        let bytes = parts.iter().map(|p| (p.to - p.from) as usize).sum();
        // All at once: of many small files each would wait for the device by itself.
        for wait in [false, true] {
            for part in parts {
                sys::write_back(&part.handle, part.at, u64::from(part.to - part.from), wait);
            }
        }
        (bytes, began.elapsed())
    });
    Returned { buf, failed, probe }
}
