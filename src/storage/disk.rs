//! Torrents in files: [`Disk`] ties files, extent buffers, windows and hashing together.
//!
//! ```text
//!   place ──> lane of these bytes ──> Gather: extent buffer, made when there is none;
//!                │                            at the limit: hash what is queued, then write out the oldest
//!                ├──────────────────> Direct: window of the file, when it can be mapped; else Gather
//!                └──────────────────> Scratch: nowhere; `write` goes to the file
//! ```
//!
//! Whether bytes go to a window or an extent is decided per file, so a piece can have both. What is valid in an
//! extent is newer than the file; everything else is in the file.
//!
//! What it does not do: flush when it is dropped (nobody could be told of an error): close the torrents.
//!
//! Invariants ([`Disk::invariants`]): those of the pool; every extent belongs to a torrent that is open.

use super::cold::Colds;
use super::extents::{ExtentKey, Pool};
use super::files::{Files, ReadEnd, Torrent};
use super::flight::Flights;
use super::hash::Hasher;
use super::helper::Hand;
use super::lanes::{INTERLEAVED, Lanes};
use super::map::{WindowKey, Windows};
use super::plan::{self, Part, PlaceList};
use super::sync::Syncs;
use super::{DiskError, DiskErrorKind, Done, FileStat, IoVecs, Lane, OpenSpec, Storage, StorageConfig, Writer};
use crate::id::{Block, FileIndex, PieceIndex, TorrentKey};
use crate::torrent::layout::{Layout, Span};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Storage in files. See [`Storage`] for how it is driven.
#[derive(Debug)]
pub struct Disk {
    lane: Lane,
    pub(super) files: Files,
    pub(super) pool: Pool,
    pub(super) windows: Windows,
    pub(super) hasher: Hasher,
    pub(super) syncs: Syncs,
    pub(super) hand: Hand,
    pub(super) flights: Flights,
    pub(super) colds: Colds,
    pub(super) writer: Writer,
}

/// Where one stretch of a piece's bytes goes when it is downloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Extent,
    Window,
}

impl Disk {
    /// Storage without any torrent, which does everything on the caller's thread.
    pub fn new(config: StorageConfig) -> Self {
        Self::with_helper(config, Hand::alone())
    }

    /// Storage without any torrent.
    pub fn with_helper(config: StorageConfig, hand: Hand) -> Self {
        Self {
            lane: if config.lane == Lane::Auto { Lane::Gather } else { config.lane },
            files: Files::new(config.max_open_files, config.backend, config.allocate),
            pool: Pool::new(config.gather_limit),
            windows: Windows::new(config.window, config.map_limit),
            hasher: Hasher::new(Lanes::new(config.hash_lanes)),
            syncs: Syncs::default(),
            hand,
            colds: Colds::default(),
            writer: config.writer,
            flights: Flights::new(config.unwritten.min(config.gather_limit / 2).max(64 << 10)),
        }
    }

    /// Whether something is downloaded to the file system of this number, and it is known to be slow.
    pub(crate) fn is_slow(&self, file_system: u64) -> bool {
        self.files.has_slow(file_system)
    }

    fn layout(&self, t: TorrentKey) -> Result<Arc<Layout>, DiskError> {
        Ok(Arc::clone(&self.files.expect(t)?.layout))
    }

    pub(super) fn piece_size(&self, t: TorrentKey, piece: PieceIndex) -> u32 {
        self.files.expect(t).map_or(0, |x| x.layout.piece_size(piece))
    }

    pub(super) fn offset(&self, t: TorrentKey, piece: PieceIndex, begin: u32) -> u64 {
        self.files.expect(t).map_or(0, |x| x.layout.piece_offset(piece) + u64::from(begin))
    }

    /// The layout and how much of `max` bytes from `begin` on lies in the piece; an error when none does.
    fn range(&self, t: TorrentKey, piece: PieceIndex, begin: u32, max: u32) -> Result<(Arc<Layout>, u32), DiskError> {
        let layout = self.layout(t)?;
        let left = layout.piece_size(piece).saturating_sub(begin);
        debug_assert!(max <= left, "{max} bytes from {begin} of piece {piece}, which has {left} there");
        if left == 0 && max > 0 {
            return Err(DiskError::new(
                DiskErrorKind::Other,
                self.files.path(t, FileIndex::new(u32::MAX)),
                "find range",
            ));
        }
        Ok((layout, max.min(left)))
    }

    /// Which way a stretch within one file goes.
    fn way(&mut self, t: TorrentKey, span: Span) -> Result<Way, DiskError> {
        if self.lane != Lane::Direct || span.pad {
            return Ok(Way::Extent);
        }
        self.take_space(t, span.file)?;
        if self.by_helper(t) {
            return Ok(Way::Extent);
        }
        Ok(if self.files.mappable(t, span.file, true)?.is_some() { Way::Window } else { Way::Extent })
    }

    /// The extent that holds byte `at` of a piece. Made if there is none: `None` then means that the plan holds all
    /// the room.
    fn extent(
        &mut self,
        t: TorrentKey,
        layout: &Layout,
        piece: PieceIndex,
        at: u32,
        plan: &PlaceList,
    ) -> Result<Option<u32>, DiskError> {
        let unit = self.pool.unit();
        let key = ExtentKey { t, piece: piece.get(), nth: at / unit };
        if let Some(slot) = self.pool.find(key) {
            return Ok(Some(slot));
        }
        let start = key.nth * unit;
        let len = (layout.piece_size(piece) - start).min(unit);
        let offset = layout.piece_offset(piece) + u64::from(start);
        for span in layout.spans(offset, u64::from(len)).filter(|s| !s.pad) {
            self.take_space(t, span.file)?;
        }
        let slot = loop {
            if let Some(slot) = self.pool.make(key, len, false) {
                break slot;
            }
            self.hasher.landed = 0;
            if !self.may_read_again() && self.finish_one() {
                continue;
            }
            let slow = |k: &ExtentKey| self.by_helper(k.t);
            if let Some((old, slot)) = self.pool.oldest(|k, s| plan.uses_heap(s) || slow(k)) {
                self.evict(old, slot);
                continue;
            }
            // What the helper writes makes no room at once; a little of it has to be under way, that is all.
            if let Some((old, slot)) = self.pool.oldest(|k, s| plan.uses_heap(s) || self.is_writing(k.t)) {
                self.send_extent(old, slot);
            }
            if !plan.is_empty() {
                return Ok(None);
            } else if let Some(slot) = self.pool.make(key, len, true) {
                break slot;
            }
        };
        // Pads are zeros that nobody sends (BEP 47).
        let mut at = 0;
        for span in layout.spans(offset, u64::from(len)) {
            let to = at + span.len as u32;
            if span.pad {
                self.pool.bytes_mut(slot)[at as usize..to as usize].fill(0);
                self.pool.add_valid(slot, at, to);
            }
            at = to;
        }
        Ok(Some(slot))
    }

    /// Writes an extent out early to have its room. An error is that torrent's, not the caller's.
    fn evict(&mut self, key: ExtentKey, slot: u32) {
        let piece = PieceIndex::new(key.piece);
        if self.flights.pending(key.t, piece) {
            return self.send_extent(key, slot);
        }
        match self.write_extent(key, slot) {
            Ok(_) => self.pool.release(slot),
            Err(error) => {
                self.drop_extents(key.t, piece);
                self.hasher.forget(key.t, Some(piece));
                self.hasher.done.push_back(Done::Failed { torrent: key.t, piece: Some(piece), error });
            }
        }
    }

    /// Writes an extent's valid ranges; returns the bytes.
    fn write_extent(&mut self, key: ExtentKey, slot: u32) -> Result<usize, DiskError> {
        let start = self.offset(key.t, PieceIndex::new(key.piece), key.nth * self.pool.unit());
        let mut written = 0;
        for (from, to) in self.pool.get(slot).valid.iter() {
            let bytes = &self.pool.bytes(slot)[from as usize..to as usize];
            self.files.write_at(key.t, start + u64::from(from), bytes)?;
            written += bytes.len();
        }
        Ok(written)
    }

    /// Writes everything buffered of a piece.
    pub(super) fn write_piece(&mut self, t: TorrentKey, piece: PieceIndex) -> Result<usize, DiskError> {
        let extents: Vec<_> = self.pool.of_piece(t, piece.get()).collect();
        let mut written = 0;
        for (key, slot) in extents {
            written += self.write_extent(key, slot)?;
        }
        Ok(written)
    }

    /// Drops everything buffered of a piece.
    pub(super) fn drop_extents(&mut self, t: TorrentKey, piece: PieceIndex) {
        while let Some(slot) = self.pool.first_of_piece(t, piece.get()) {
            self.pool.release(slot);
        }
    }

    /// Writes out and releases all extents of a torrent; goes on after an error and returns the first.
    fn flush_all(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        let mut first = Ok(());
        while let Some((key, slot)) = self.pool.first_of(t) {
            if self.by_helper(t) || self.flights.pending(t, PieceIndex::new(key.piece)) {
                self.send_extent(key, slot);
                continue;
            }
            if let Err(e) = self.write_extent(key, slot) {
                first = first.and(Err(e));
            }
            self.pool.release(slot);
        }
        first
    }

    /// Forgets a torrent with everything that is buffered of it.
    fn drop_torrent(&mut self, t: TorrentKey) -> Option<Torrent> {
        while let Some((_, slot)) = self.pool.first_of(t) {
            self.pool.release(slot);
        }
        self.hasher.forget(t, None);
        self.hasher.forget_done(t);
        self.syncs.forget(t);
        self.flights.orphan(t);
        self.colds.forget(t, None);
        self.windows.drop_of(t, None);
        self.files.remove(t)
    }

    /// The window that holds byte `at` of a file: slot, generation, and the offset of that byte in it and what
    /// follows it there. `None` where there is no mapping to be had.
    fn window(
        &mut self,
        t: TorrentKey,
        file: FileIndex,
        at: u64,
        write: bool,
        plan: &PlaceList,
    ) -> Result<Option<Window>, DiskError> {
        let start = self.windows.start_of(at);
        let key = WindowKey { t, file, start };
        let wanted = self.files.expect(t)?.layout.files().get(file.idx()).map_or(0, |f| f.len);
        let found = match self.windows.find(key, write) {
            Some(found) => found,
            None => {
                if self.files.mappable(t, file, write)?.is_none() {
                    return Ok(None);
                }
                let len = self.files.len(t, file)?.min(wanted);
                if at >= len {
                    return Err(DiskError::new(DiskErrorKind::Truncated, self.files.path(t, file), "map"));
                }
                // A new window covers all of the file that lies in it, so the length need not be kept with it.
                let Some(handle) = self.files.mappable(t, file, write)? else { return Ok(None) };
                match self.windows.make(key, handle, wanted, write, |s| plan.uses_map(s)) {
                    Ok(Some(made)) => made,
                    Ok(None) => return Ok(Some(Window::NoRoom)),
                    Err(_) => {
                        self.files.never_map(t, file);
                        return Ok(None);
                    }
                }
            }
        };
        let left = self.windows.len_of(found.0).saturating_sub(at - start);
        // Both are below the length of a window, at most 1 GiB.
        Ok(Some(Window::At { slot: found.0, generation: found.1, from: (at - start) as u32, left: left as u32 }))
    }

    /// Adds windows for a stretch of a file to a plan. Returns the bytes covered, and `None` where there are no
    /// windows for it.
    fn add_windows(
        &mut self,
        t: TorrentKey,
        span: Span,
        write: bool,
        out: &mut PlaceList,
    ) -> Result<Option<u32>, DiskError> {
        let mut done = 0;
        while done < span.len && out.room() > 0 {
            match self.window(t, span.file, span.at + done, write, out)? {
                Some(Window::At { slot, generation, from, left }) if left > 0 => {
                    let len = u64::from(left).min(span.len - done) as u32;
                    if !write && !self.windows.is_resident(slot, from, len) {
                        self.files.will_need_in(t, span.file, span.at + done, u64::from(len));
                        break;
                    }
                    out.push(Part::Map { slot, generation, from, len });
                    done += u64::from(len);
                }
                None if done == 0 => return Ok(None),
                _ => break,
            }
        }
        Ok(Some(done as u32))
    }

    /// Adds extents for a stretch of a piece to a plan; returns the bytes covered.
    fn add_extents(
        &mut self,
        t: TorrentKey,
        layout: &Layout,
        piece: PieceIndex,
        begin: u32,
        len: u32,
        out: &mut PlaceList,
    ) -> Result<u32, DiskError> {
        let mut done = 0;
        while done < len && out.room() > 0 {
            let Some(slot) = self.extent(t, layout, piece, begin + done, out)? else { break };
            let e = self.pool.get(slot);
            let from = (begin + done) % self.pool.unit();
            let n = (len - done).min(e.len - from);
            out.push(Part::Heap { slot, generation: e.generation, from, len: n });
            done += n;
        }
        Ok(done)
    }

    /// Copies bytes into extents and marks them.
    fn fill_extents(
        &mut self,
        t: TorrentKey,
        layout: &Layout,
        piece: PieceIndex,
        begin: u32,
        data: &[u8],
    ) -> Result<(), DiskError> {
        let empty = PlaceList::new();
        let (mut begin, mut rest) = (begin, data);
        while !rest.is_empty() {
            let Some(slot) = self.extent(t, layout, piece, begin, &empty)? else { break };
            let from = (begin % self.pool.unit()) as usize;
            let room = &mut self.pool.bytes_mut(slot)[from..];
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.mark(t, layout, piece, begin, now.len() as u32);
            begin += now.len() as u32;
            rest = later;
        }
        Ok(())
    }

    /// Marks bytes in extents as valid.
    fn mark(&mut self, t: TorrentKey, layout: &Layout, piece: PieceIndex, begin: u32, len: u32) {
        let unit = self.pool.unit();
        let size = layout.piece_size(piece);
        let end = size.min(begin + len);
        let mut at = begin;
        while at < end {
            let (nth, start) = (at / unit, at / unit * unit);
            let to = end.min(start + unit);
            // Written out early between plan and arrival cannot be: the plan holds it back. Not there: not gathered.
            if let Some(slot) = self.pool.find(ExtentKey { t, piece: piece.get(), nth }) {
                self.pool.add_valid(slot, at - start, to - start);
                let behind = || !self.pool.holds_two(size) || self.pool.crowded(INTERLEAVED);
                if size > unit && self.pool.is_full(slot) && behind() {
                    self.queue_prefix(t, piece, size);
                }
            }
            at = to;
        }
    }

    /// Panics when the rules of the module's head are broken.
    #[cfg(any(test, debug_assertions))]
    pub fn invariants(&self) {
        self.pool.invariants();
    }
}

/// What was found for a byte of a file.
#[derive(Clone, Copy)]
enum Window {
    At {
        slot: u32,
        generation: u32,
        from: u32,
        left: u32,
    },
    /// The plan holds all the room.
    NoRoom,
}

impl Storage for Disk {
    fn open(&mut self, t: TorrentKey, layout: Arc<Layout>, spec: OpenSpec) -> Result<(), DiskError> {
        debug_assert!(self.files.get(t).is_none(), "{t:?} is open already");
        self.files.add(t, layout, spec.dir);
        Ok(())
    }

    fn close(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        let result = self.flush_all(t);
        self.drop_torrent(t);
        self.pool.trim();
        result
    }

    fn remove_files(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        self.files.expect(t)?;
        let torrent = self.drop_torrent(t);
        self.pool.trim();
        torrent.map_or(Ok(()), |torrent| torrent.remove_files())
    }

    fn prepare(&mut self, t: TorrentKey, wanted: &dyn Fn(FileIndex) -> bool) -> Result<(), DiskError> {
        self.files.prepare(t, wanted)
    }

    fn allocate(&mut self, t: TorrentKey, file: FileIndex) -> Result<(), DiskError> {
        self.take_space(t, file)
    }

    fn place(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        let begin = block.begin + at;
        let (layout, max) = self.range(t, block.piece, begin, max)?;
        match self.lane {
            Lane::Scratch => Ok(0),
            Lane::Direct => {
                let mut done = 0;
                for span in layout.spans(layout.piece_offset(block.piece) + u64::from(begin), u64::from(max)) {
                    let len = span.len as u32;
                    let n = match self.way(t, span)? {
                        Way::Window => match self.add_windows(t, span, true, out)? {
                            Some(n) => n,
                            None => self.add_extents(t, &layout, block.piece, begin + done, len, out)?,
                        },
                        Way::Extent => self.add_extents(t, &layout, block.piece, begin + done, len, out)?,
                    };
                    done += n;
                    if n < len {
                        break;
                    }
                }
                Ok(done)
            }
            Lane::Gather | Lane::Auto => self.add_extents(t, &layout, block.piece, begin, max, out),
        }
    }

    fn regions<'a>(&'a mut self, plan: &'a mut PlaceList) -> IoVecs<'a> {
        let (mut heap, mut map) = (self.pool.lender(), self.windows.lender());
        let mut io = IoVecs::new();
        plan::resolve(plan, &mut io, |part, io| match part {
            Part::Heap { slot, generation, from, len } => heap.push(io, slot, generation, from, len),
            Part::Map { slot, generation, from, len } => map.push(io, slot, generation, from, len),
            Part::Own { .. } | Part::Zeros { .. } => false,
        });
        io
    }

    fn fault(&mut self, plan: &PlaceList) -> DiskError {
        let mut found = None;
        let mut path = PathBuf::new();
        for part in &plan.parts {
            let Part::Map { slot, from, len, .. } = *part else { continue };
            let Some((key, write)) = self.windows.key_of(slot) else { continue };
            if path.as_os_str().is_empty() {
                path = self.files.path(key.t, key.file);
            }
            let at = key.start + u64::from(from);
            // A byte of every page that the part touches.
            let mut pages = (0..u64::from(len)).step_by(4096).chain([u64::from(len) - 1]);
            found = found.or_else(|| pages.find_map(|p| self.files.probe(key.t, key.file, at + p, write)));
            self.windows.drop_of(key.t, Some(key.file));
        }
        found.unwrap_or(DiskError {
            kind: DiskErrorKind::Other,
            path,
            op: "access mapping",
            source_errno: libc::EFAULT,
        })
    }

    fn landed(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, len: u32) {
        let Ok((layout, len)) = self.range(t, piece, begin, len) else { return };
        self.hasher.landed += len as usize;
        if self.lane != Lane::Direct {
            return self.mark(t, &layout, piece, begin, len);
        }
        let mut at = begin;
        for span in layout.spans(layout.piece_offset(piece) + u64::from(begin), u64::from(len)) {
            match self.way(t, span) {
                Ok(Way::Window) => self.files.mark_dirty(t, span.file),
                _ => self.mark(t, &layout, piece, at, span.len as u32),
            }
            at += span.len as u32;
        }
    }

    fn read_back(&mut self, t: TorrentKey, block: Block, at: u32, buf: &mut [u8]) -> Result<(), DiskError> {
        let begin = block.begin + at;
        let (layout, _) = self.range(t, block.piece, begin, buf.len() as u32)?;
        let unit = self.pool.unit();
        let offset = layout.piece_offset(block.piece) + u64::from(begin);
        let (mut at, mut rest) = (begin, buf);
        for span in layout.spans(offset, rest.len() as u64) {
            let (mut part, later) = rest.split_at_mut(span.len as usize);
            rest = later;
            if self.way(t, span)? == Way::Window {
                self.files.read_at(t, offset + u64::from(at - begin), part)?;
                at += span.len as u32;
                continue;
            }
            while !part.is_empty() {
                let Some(slot) = self.pool.peek(ExtentKey { t, piece: block.piece.get(), nth: at / unit }) else {
                    let path = self.files.path(t, span.file);
                    return Err(DiskError::new(DiskErrorKind::Other, path, "take bytes back"));
                };
                let have = &self.pool.bytes(slot)[(at % unit) as usize..];
                let n = part.len().min(have.len());
                part[..n].copy_from_slice(&have[..n]);
                part = &mut part[n..];
                at += n as u32;
            }
        }
        Ok(())
    }

    fn write(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, data: &[u8]) -> Result<(), DiskError> {
        let (layout, len) = self.range(t, piece, begin, data.len() as u32)?;
        self.hasher.landed += len as usize;
        let data = &data[..len as usize];
        let offset = layout.piece_offset(piece) + u64::from(begin);
        match self.lane {
            Lane::Scratch if !self.by_helper(t) => self.files.write_at(t, offset, data),
            Lane::Direct => {
                let mut at = 0;
                for span in layout.spans(offset, u64::from(len)) {
                    let part = &data[at..at + span.len as usize];
                    match self.way(t, span)? {
                        Way::Window => self.files.write_at(t, offset + at as u64, part)?,
                        Way::Extent => self.fill_extents(t, &layout, piece, begin + at as u32, part)?,
                    }
                    at += part.len();
                }
                Ok(())
            }
            Lane::Gather | Lane::Auto | Lane::Scratch => self.fill_extents(t, &layout, piece, begin, data),
        }
    }

    fn forget(&mut self, t: TorrentKey, piece: PieceIndex) {
        self.drop_extents(t, piece);
        self.hasher.forget(t, Some(piece));
        self.flights.forget(t, piece);
        self.report_in_order();
    }

    fn hash(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20], want_blocks: bool) {
        self.colds.forget(t, Some(piece));
        self.queue_hash(t, piece, expected, want_blocks);
    }

    fn recheck(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20]) {
        self.queue_recheck(t, piece, expected);
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.hasher.done.pop_front()
    }

    fn work(&mut self, budget: usize) -> bool {
        self.windows.now = Instant::now();
        self.files.refresh_folders(self.windows.now);
        let more = self.step_helper();
        if self.hasher.idle() {
            if self.hasher.landed == 0 && self.pool.is_empty() && self.flights.is_empty() {
                self.pool.trim();
            }
            if self.hasher.landed == 0 {
                self.files.release_folders();
            }
            self.hasher.landed = 0;
            return more;
        }
        self.run(budget) || more
    }

    fn lend(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        if let Some(e) = self.colds.error(t, block.piece, self.windows.now) {
            return Err(e);
        }
        let begin = block.begin + at;
        let (layout, max) = self.range(t, block.piece, begin, max)?;
        let offset = layout.piece_offset(block.piece) + u64::from(begin);
        let mut done = 0;
        for span in layout.spans(offset, u64::from(max)) {
            let len = span.len as u32;
            if out.room() == 0 {
                break;
            }
            if span.pad {
                out.push(Part::Zeros { len });
                done += len;
                continue;
            }
            let n = match self.add_windows(t, span, false, out)? {
                Some(n) => n,
                None => {
                    let Some(buf) = out.reserve_lent(len) else { break };
                    let n = buf.len() as u32;
                    let part = Span { len: u64::from(n), ..span };
                    match self.files.read_cached(t, part, buf) {
                        Ok(Some(ReadEnd::Whole)) => {}
                        Ok(None) => {
                            out.pop();
                            break;
                        }
                        Ok(Some(ReadEnd::Short(kind, file))) => {
                            out.pop();
                            return Err(DiskError::new(kind, self.files.path(t, file), "read"));
                        }
                        Err(e) => {
                            out.pop();
                            return Err(e);
                        }
                    }
                    n
                }
            };
            done += n;
            if n < len {
                break;
            }
        }
        match done {
            0 => self.wait_for(t, block, at),
            _ => self.colds.warm(t, block),
        }
        Ok(done)
    }

    fn prefetch(&mut self, t: TorrentKey, block: Block) {
        let offset = self.offset(t, block.piece, block.begin);
        self.files.will_need(t, offset, u64::from(block.len));
    }

    fn flush(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        self.files.expect(t)?;
        let result = self.flush_all(t);
        self.flights.mark(t);
        result
    }

    fn flushing(&self, t: TorrentKey) -> bool {
        self.flights.flushing(t)
    }

    fn cover(&mut self, t: TorrentKey, piece: PieceIndex) {
        self.files.cover(t, piece);
    }

    fn sync(&mut self, t: TorrentKey, ticket: u32) {
        if self.files.expect(t).is_ok() {
            self.begin_sync(t, ticket);
        }
    }

    fn home(&self, t: TorrentKey) -> Option<u64> {
        self.files.home(t)
    }

    fn set_home(&mut self, t: TorrentKey, home: u64) {
        self.files.set_home(t, home);
    }

    fn file_stat(&mut self, t: TorrentKey, file: FileIndex) -> Option<FileStat> {
        self.files.stat(t, file)
    }

    fn holds_back(&self, t: TorrentKey) -> bool {
        self.holds_back_for(t)
    }

    fn dirty(&self) -> usize {
        self.pool.dirty() + self.flights.bytes()
    }

    fn memory(&self) -> usize {
        self.pool.held() + self.windows.held() + self.hasher.memory()
    }
}
