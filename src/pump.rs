//! Where sockets, plans and storage meet: the only code that moves payload.
//!
//! ```text
//!   Stream ──readv──▶ place of block a │ 13-byte slot │ place of block b │ ...      (predicted)
//!   Stream ──read───▶ scratch ──feed──▶ Session, payload ──write──▶ Storage         (otherwise)
//!   Storage ──lend──▶ 13 bytes │ block a │ 13 bytes │ block b ... ──writev──▶ Stream
//! ```
//!
//! [`recv`] and [`send`] work on one connection until its stream has no more, a limit holds it
//! back, or it has had its fair share of a turn ([`SHARE`]); they say which in [`Outcome`]. They
//! know no protocol: the session says where bytes belong. They know no disk: storage says where
//! that place is. Faults, traces and captures are put around [`Stream`] and [`Storage`].

use std::io;

use crate::api::{CloseReason, ErrorKind, FileStamp, Input, Want};
use crate::config::limits;
use crate::id::{Block, ConnKey, PieceIndex, TorrentKey};
use crate::session::{Chunk, Session};
use crate::storage::{DiskError, DiskErrorKind, IoVecs, PlaceList, Storage};
use crate::time::Instant;
use crate::wire::PIECE_HEADER_LEN;

/// Bytes one connection may move in one turn, each way.
pub const SHARE: usize = 2 << 20;
/// What a byte that is no payload counts for besides itself: there are 14,000 `have` messages in
/// a full scratch buffer, and a peer that sends nothing else shall not keep the others waiting.
const MESSAGE_COST: usize = 15;
/// Length of the scratch buffer that all connections share.
const SCRATCH: usize = 128 << 10;
/// Bytes that one read takes at least.
const LEAST: usize = 4 << 10;
/// Bytes that one write offers to a stream.
const OFFER: usize = 1 << 20;

/// A nonblocking byte stream: TCP, and whatever is put on top of it or in its place.
pub trait Stream {
    /// As `std::io::Read::read`.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Reads into regions of storage.
    fn read_regions(&mut self, io: &mut IoVecs<'_>) -> io::Result<usize>;
    /// Writes from regions of storage.
    fn write_regions(&mut self, io: &IoVecs<'_>) -> io::Result<usize>;
}

/// Why the pump stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stream has no more, or takes no more.
    Blocked,
    /// There is more; it had its share of this turn.
    More,
    /// A limit holds it back until then.
    Until(Instant),
    /// The session has nothing to send.
    Empty,
    /// The connection is gone, or shall be closed by the driver for this reason.
    Ended(Option<CloseReason>),
}

/// Buffers that all connections share; the driver owns one set.
#[derive(Debug, Default)]
pub struct Buffers {
    scratch: Vec<u8>,
    spill: Vec<u8>,
    run: Vec<Block>,
    headers: Vec<[u8; PIECE_HEADER_LEN]>,
    plan: PlaceList,
}

impl Buffers {
    /// Gives back what the next transfers will take again: a crowd can make them large, and then leave.
    pub fn trim(&mut self) {
        *self = Self::default();
    }

    /// Bytes of memory held, up to those of a few hundred headers.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.scratch.capacity() + self.spill.capacity() + self.plan.memory()
    }
}

fn ended(e: &io::Error) -> Outcome {
    match e.kind() {
        io::ErrorKind::WouldBlock => Outcome::Blocked,
        _ => Outcome::Ended(Some(CloseReason::Io(e.to_string()))),
    }
}

fn kind_of(e: &DiskError) -> ErrorKind {
    match e.kind {
        DiskErrorKind::Full => ErrorKind::NoSpace,
        DiskErrorKind::Truncated | DiskErrorKind::Missing => ErrorKind::FilesChanged,
        DiskErrorKind::ReadOnly => ErrorKind::ReadOnly,
        DiskErrorKind::TooBig => ErrorKind::TooBig,
        DiskErrorKind::Permission | DiskErrorKind::NotAFile => ErrorKind::Refused,
        _ => ErrorKind::FileIo,
    }
}

/// The session learns that files failed.
pub fn disk_failed(s: &mut Session, now: Instant, torrent: TorrentKey, e: &DiskError) {
    let kind = kind_of(e);
    s.handle(now, Input::DiskFailed { torrent, error: e.to_string(), kind });
}

/// The session learns that work on a torrent's files failed, on a piece or at all. Of a piece that is looked at again
/// because it could not be read that is an answer.
pub fn failed(s: &mut Session, now: Instant, torrent: TorrentKey, piece: Option<PieceIndex>, e: &DiskError) {
    let expected = piece.is_some_and(|p| s.looks_again(torrent, p));
    if piece.is_some() {
        s.handle(now, Input::PieceLost { torrent, piece });
    }
    if !expected {
        disk_failed(s, now, torrent, e);
    }
}

/// The session learns that a torrent's files are ready, or why they are not. Those that can only not be written can
/// be served, so what they look like is told too.
pub fn opened(
    s: &mut Session,
    now: Instant,
    torrent: TorrentKey,
    ready: Result<(), DiskError>,
    files: impl FnOnce() -> Vec<Option<FileStamp>>,
) {
    if let Err(e) = ready {
        disk_failed(s, now, torrent, &e);
        if !kind_of(&e).concerns_writing() {
            return;
        }
    }
    s.handle(now, Input::Opened { torrent, files: files() });
}

/// The session learns how a sync ended.
pub fn synced(s: &mut Session, now: Instant, torrent: TorrentKey, ticket: u32, result: Result<(), DiskError>) {
    let result = result.map_err(|e| (e.to_string(), kind_of(&e)));
    s.handle(now, Input::Synced { torrent, ticket, result });
}

/// Receives on one connection.
pub fn recv(
    s: &mut Session,
    storage: &mut dyn Storage,
    stream: &mut dyn Stream,
    now: Instant,
    conn: ConnKey,
    bufs: &mut Buffers,
) -> Outcome {
    let mut share = SHARE;
    loop {
        // Whoever owes us nothing sends no payload, and is read.
        if s.owing(conn).is_some_and(|torrent| storage.holds_back(torrent)) {
            s.hold(now, conn);
            return Outcome::Until(now + limits::HOLD);
        }
        let mut run = std::mem::take(&mut bufs.run);
        let outcome = match s.want(now, conn, &mut run) {
            Want::Nothing { until } => Err(Outcome::Until(until)),
            Want::Payload { torrent, at, at_header, max, .. } => {
                let aim = Aim { torrent, at, at_header, max };
                recv_predicted(s, storage, stream, now, conn, bufs, &run, &aim)
            }
            Want::Bytes | Want::Discard { .. } => Ok(0),
        };
        bufs.run = run;
        // Nothing planned: the scratch path.
        let outcome = match outcome {
            Ok(0) => recv_scratch(s, storage, stream, now, conn, bufs),
            other => other,
        };
        match outcome {
            Ok(n) => {
                share = share.saturating_sub(n);
                if share == 0 {
                    return Outcome::More;
                }
            }
            Err(outcome) => return outcome,
        }
    }
}

/// Where the session wants a run of blocks to begin.
struct Aim {
    torrent: TorrentKey,
    at: u32,
    at_header: bool,
    max: usize,
}

/// A part of a receive plan, in stream order.
#[derive(Clone, Copy)]
enum Seg {
    Header(usize),
    Payload { block: Block, at: u32, len: u32 },
}

/// One vectored read of a whole run. `Ok(0)`: storage has no place for it.
#[allow(clippy::too_many_arguments)]
fn recv_predicted(
    s: &mut Session,
    storage: &mut dyn Storage,
    stream: &mut dyn Stream,
    now: Instant,
    conn: ConnKey,
    bufs: &mut Buffers,
    run: &[Block],
    aim: &Aim,
) -> Result<usize, Outcome> {
    let Buffers { plan, headers, spill, .. } = bufs;
    let mut segs = [Seg::Header(0); 2 * crate::config::limits::RUN];
    let mut n_segs = 0;
    plan.begin();
    for (i, block) in run.iter().enumerate() {
        // A block may cross files: leave room for a few parts, and for the next header.
        if plan.room() < 8 || plan.total() >= aim.max || n_segs + 2 > segs.len() {
            break;
        }
        let mut at = 0;
        if i > 0 || aim.at_header {
            let Some(slot) = plan.push_slot(PIECE_HEADER_LEN as u32) else { break };
            segs[n_segs] = Seg::Header(slot);
            n_segs += 1;
        } else {
            at = aim.at;
        }
        match storage.place(aim.torrent, *block, at, block.len - at, plan) {
            Ok(0) if i == 0 => return Ok(0),
            Ok(len) => {
                segs[n_segs] = Seg::Payload { block: *block, at, len };
                n_segs += 1;
                if len < block.len - at {
                    break;
                }
            }
            Err(e) => {
                disk_failed(s, now, aim.torrent, &e);
                return Err(Outcome::More);
            }
        }
    }
    let mut io = storage.regions(plan);
    io.limit(aim.max);
    // What the system is asked for, not what was planned: less than this means that there is no more.
    let asked = io.total();
    if asked == 0 {
        return Ok(0);
    }
    let n = match stream.read_regions(&mut io) {
        Ok(0) => return Err(Outcome::Ended(Some(CloseReason::Eof))),
        Ok(n) => n,
        Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(1),
        Err(e) if is_fault(&e) => {
            let e = storage.fault(plan);
            disk_failed(s, now, aim.torrent, &e);
            return Err(Outcome::More);
        }
        Err(e) => return Err(ended(&e)),
    };
    headers.clear();
    headers.extend(segs[..n_segs].iter().filter_map(|seg| match seg {
        Seg::Header(i) => <[u8; PIECE_HEADER_LEN]>::try_from(plan.slot(*i)).ok(),
        Seg::Payload { .. } => None,
    }));
    let used = s.filled(now, conn, n, run, aim.at_header, headers);
    debug_assert!(used <= n);
    spill.clear();
    if used < n {
        take_back(storage, plan, aim.torrent, &segs[..n_segs], used, n, spill);
    }
    // What was as predicted rests where it belongs.
    let mut left = used;
    for seg in &segs[..n_segs] {
        match *seg {
            Seg::Header(_) => left = left.saturating_sub(PIECE_HEADER_LEN),
            Seg::Payload { block, at, len } => {
                let got = left.min(len as usize) as u32;
                if got > 0 {
                    storage.landed(aim.torrent, block.piece, block.begin + at, got);
                }
                left -= got as usize;
            }
        }
    }
    if used < n {
        let bytes = std::mem::take(spill);
        feed_all(s, storage, now, conn, &bytes);
        *spill = bytes;
    }
    s.pace(conn, asked, n);
    if n < asked { Err(Outcome::Blocked) } else { Ok(n) }
}

/// Collects the bytes behind a misprediction: stream bytes `from..to` of the plan.
fn take_back(
    storage: &mut dyn Storage,
    plan: &PlaceList,
    torrent: TorrentKey,
    segs: &[Seg],
    from: usize,
    to: usize,
    out: &mut Vec<u8>,
) {
    let mut pos = 0;
    for seg in segs {
        let len = match seg {
            Seg::Header(_) => PIECE_HEADER_LEN,
            Seg::Payload { len, .. } => *len as usize,
        };
        let (start, end) = (from.clamp(pos, pos + len) - pos, to.clamp(pos, pos + len) - pos);
        pos += len;
        if start >= end {
            continue;
        }
        match *seg {
            Seg::Header(i) => out.extend_from_slice(&plan.slot(i)[start..end]),
            Seg::Payload { block, at, .. } => {
                let have = out.len();
                out.resize(have + end - start, 0);
                if storage.read_back(torrent, block, at + start as u32, &mut out[have..]).is_err() {
                    // The stream cannot be made whole again; the garbage will end the connection.
                    log::warn!("bytes that landed out of place could not be taken back");
                }
            }
        }
    }
}

fn is_fault(e: &io::Error) -> bool {
    const EFAULT: i32 = 14;
    e.raw_os_error() == Some(EFAULT)
}

fn recv_scratch(
    s: &mut Session,
    storage: &mut dyn Storage,
    stream: &mut dyn Stream,
    now: Instant,
    conn: ConnKey,
    bufs: &mut Buffers,
) -> Result<usize, Outcome> {
    if bufs.scratch.is_empty() {
        bufs.scratch = vec![0; SCRATCH];
    }
    // Under a limit a read is small, but never so small that messages come by the byte.
    let room = s.room(now, conn).clamp(LEAST, SCRATCH);
    let n = match stream.read(&mut bufs.scratch[..room]) {
        Ok(0) => return Err(Outcome::Ended(Some(CloseReason::Eof))),
        Ok(n) => n,
        Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(1),
        Err(e) => return Err(ended(&e)),
    };
    let messages = feed_all(s, storage, now, conn, &bufs.scratch[..n]);
    s.pace(conn, room, n);
    // A short read means that the stream is empty; the next arrival is an event.
    if n < room { Err(Outcome::Blocked) } else { Ok(n + messages * MESSAGE_COST) }
}

/// Feeds bytes that are in memory already; payload among them is copied to its place. Returns how many
/// were none.
fn feed_all(s: &mut Session, storage: &mut dyn Storage, now: Instant, conn: ConnKey, mut data: &[u8]) -> usize {
    let mut messages = 0;
    while !data.is_empty() {
        let used = s.feed(now, conn, data);
        messages += used;
        data = &data[used..];
        if data.is_empty() {
            break;
        }
        let Some((torrent, block, at)) = s.placing(conn) else { break };
        let take = data.len().min((block.len - at) as usize);
        if let Err(e) = storage.write(torrent, block.piece, block.begin + at, &data[..take]) {
            disk_failed(s, now, torrent, &e);
            // Either the connection is gone, or the rest of the block is dropped.
            debug_assert!(s.placing(conn).is_none(), "a block has a place that cannot be written");
            if s.placing(conn).is_some() {
                break;
            }
            continue;
        }
        s.filled(now, conn, take, &[block], false, &[]);
        data = &data[take..];
    }
    messages
}

/// A piece cannot be read for a peer, which cannot be told so any more.
fn unreadable(s: &mut Session, now: Instant, conn: ConnKey, (torrent, piece): (TorrentKey, PieceIndex), e: &DiskError) {
    match e.kind {
        DiskErrorKind::Io => s.handle(now, Input::PieceUnreadable { torrent, piece, error: e.to_string() }),
        _ => disk_failed(s, now, torrent, e),
    }
    s.unreadable(now, conn);
}

/// Sends on one connection.
pub fn send(
    s: &mut Session,
    storage: &mut dyn Storage,
    stream: &mut dyn Stream,
    now: Instant,
    conn: ConnKey,
    bufs: &mut Buffers,
) -> Outcome {
    let plan = &mut bufs.plan;
    let mut share = SHARE;
    loop {
        let until = s.offer(now, conn);
        plan.begin();
        let (mut failed, mut cold, mut first) = (None, false, None);
        for chunk in s.chunks(conn) {
            if plan.room() < 8 || plan.total() >= OFFER {
                break;
            }
            match chunk {
                Chunk::Bytes(bytes) => {
                    if !plan.push_bytes(bytes) {
                        break;
                    }
                }
                Chunk::Block { torrent, block, at } => match storage.lend(torrent, block, at, block.len - at, plan) {
                    Ok(n) if n == block.len - at => _ = first.get_or_insert((torrent, block.piece)),
                    Ok(n) => {
                        first = first.or(Some((torrent, block.piece)));
                        cold = n == 0;
                        break;
                    }
                    Err(e) => {
                        failed = Some((torrent, block.piece, e));
                        break;
                    }
                },
            }
        }
        if plan.is_empty() {
            if let Some((torrent, piece, e)) = failed {
                unreadable(s, now, conn, (torrent, piece), &e);
                return Outcome::Ended(None);
            }
            if cold {
                return Outcome::Until(now + limits::COLD);
            }
            return until.map_or(Outcome::Empty, Outcome::Until);
        }
        let asked = plan.total();
        let n = match stream.write_regions(&storage.regions(plan)) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if is_fault(&e) => {
                match (storage.fault(plan), first) {
                    (e, Some(first)) if e.kind == DiskErrorKind::Io => unreadable(s, now, conn, first, &e),
                    (e, _) => {
                        log::warn!("{e}");
                        s.unreadable(now, conn);
                    }
                }
                return Outcome::Ended(None);
            }
            Err(e) => return ended(&e),
        };
        s.sent(now, conn, n);
        if n < asked {
            return Outcome::Blocked;
        }
        share = share.saturating_sub(n);
        if share == 0 {
            return Outcome::More;
        }
    }
}
