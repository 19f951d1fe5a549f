//! What a simulated disk holds: files as the system sees them, and how much of that the device has.
//!
//! ```text
//!   written ─▶ files (the system's cache) ── sync ──▶ device
//!   power cut, failed sync: for every page written since the last sync a coin decides which of the two it is
//! ```
//!
//! No payload is kept. Of every block it is known how many bytes are there and whether they are
//! true ([`Blk`]); pages are 4 KiB, or 512 bytes where sectors are torn. Lengths, times and names of
//! files survive or not on their own, so that a file can look as it did and hold something else.
//!
//! Others may truncate or delete files. What is deleted while it is open stays readable until it is closed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::content::mix;
use crate::id::{BLOCK_LEN, PieceIndex};
use crate::rng::Rng;
use crate::storage::FileStat;
use crate::torrent::layout::{Layout, LayoutFile};

/// The fingerprint of a block that was truncated away.
pub(super) const GONE: u64 = 1;

/// What one block holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Blk {
    /// Bytes there, from the first on.
    pub(super) upto: u32,
    /// In which life of the torrent they came: the session does not know of those from earlier ones.
    pub(super) epoch: u32,
    /// Fingerprint of those that are not true; 0 when all are.
    pub(super) odd: u64,
}

/// What the files hold of one piece.
#[derive(Clone, Default, Debug)]
pub(super) struct Piece {
    /// Its blocks; empty when nothing is there, or all.
    blocks: Vec<Blk>,
    /// All of it is there, and it is true.
    good: bool,
    /// In which life of the torrent that was found out.
    epoch: u32,
    /// What the device has, when that may be something else.
    device: Option<Box<(bool, Vec<Blk>)>>,
    /// When it was changed last, by [`Platter::mark`].
    changed: u64,
    /// Somebody else spoilt it, which the session can learn only when it opens the files again.
    tampered: bool,
}

/// What the file system says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    len: u64,
    mtime_us: i64,
    inode: u64,
}

/// A file.
#[derive(Clone, Copy, Default, Debug)]
struct FileState {
    /// None: it is not there.
    stamp: Option<Stamp>,
    /// The same on the device, when that may be something else.
    device: Option<Option<Stamp>>,
    /// When it was changed last, by [`Platter::mark`].
    changed: u64,
    /// When it was made last, by [`Platter::mark`], and what was said of it then.
    made: Option<(u64, Stamp)>,
    /// Deleted by somebody while it was open.
    unlinked: bool,
    /// Truncated by somebody, and grown again by us: nothing shows that it has a hole.
    hole: bool,
}

/// Everything on one disk.
#[derive(Debug)]
pub(super) struct Platter {
    layout: Arc<Layout>,
    pieces: Vec<Piece>,
    files: Vec<FileState>,
    unsynced: BTreeSet<u32>,
    inodes: u64,
    changes: u64,
    /// Goes up whenever a piece that was good is so no more.
    pub(super) losses: u64,
}

impl Platter {
    /// Files that hold the pieces that `has` says; none at all if that is no piece.
    pub(super) fn new(layout: Arc<Layout>, has: &dyn Fn(u32) -> bool) -> Self {
        let pieces: Vec<_> = (0..layout.pieces()).map(|p| Piece { good: has(p), ..Piece::default() }).collect();
        let full = pieces.iter().any(|p| p.good);
        let file = |(i, f): (u64, &LayoutFile)| FileState {
            stamp: full.then_some(Stamp { len: f.len, mtime_us: 0, inode: i + 1 }),
            ..FileState::default()
        };
        let files: Vec<_> = (0..).zip(layout.files()).map(file).collect();
        Self { pieces, inodes: files.len() as u64, files, layout, unsynced: BTreeSet::new(), changes: 0, losses: 0 }
    }

    pub(super) fn block_len(&self, piece: PieceIndex, i: usize) -> u32 {
        self.layout.block(piece, i as u32).len
    }

    /// The files hold all of this piece, and it is true.
    pub(super) fn is_good(&self, piece: PieceIndex) -> bool {
        self.pieces.get(piece.idx()).is_some_and(|p| p.good)
    }

    /// It is as the session last knew it, or better.
    pub(super) fn is_as_known(&self, piece: PieceIndex) -> bool {
        self.pieces.get(piece.idx()).is_some_and(|p| p.good || p.tampered)
    }

    /// In which life of the torrent a good piece was found so.
    pub(super) fn good_since(&self, piece: PieceIndex) -> Option<u32> {
        self.pieces.get(piece.idx()).filter(|p| p.good).map(|p| p.epoch)
    }

    /// What a block of the files holds.
    pub(super) fn holds(&self, piece: PieceIndex, i: usize) -> Blk {
        let p = &self.pieces[piece.idx()];
        match p.good {
            true => Blk { upto: self.block_len(piece, i), epoch: p.epoch, odd: 0 },
            false => p.blocks.get(i).copied().unwrap_or_default(),
        }
    }

    fn all(&self, piece: PieceIndex) -> Vec<Blk> {
        (0..self.layout.blocks_in(piece) as usize).map(|i| self.holds(piece, i)).collect()
    }

    fn is_true(&self, piece: PieceIndex, blocks: &[Blk]) -> bool {
        (0..self.layout.blocks_in(piece) as usize)
            .all(|i| blocks.get(i).is_some_and(|b| b.upto == self.block_len(piece, i) && b.odd == 0))
    }

    /// From now on the device may have something else of this piece than the files.
    fn part(&mut self, piece: PieceIndex) {
        self.changes += 1;
        self.pieces[piece.idx()].changed = self.changes;
        if self.pieces[piece.idx()].device.is_none() {
            let p = &mut self.pieces[piece.idx()];
            p.device = Some(Box::new((p.good, p.blocks.clone())));
            self.unsynced.insert(piece.get());
        }
    }

    /// A good piece is written anew: its blocks are told apart again.
    pub(super) fn reopen_piece(&mut self, piece: PieceIndex) {
        let blocks = self.all(piece);
        self.part(piece);
        let p = &mut self.pieces[piece.idx()];
        (p.good, p.blocks) = (false, blocks);
    }

    /// Blocks are written to the files.
    pub(super) fn put(&mut self, piece: PieceIndex, blocks: impl Iterator<Item = (usize, Blk)>, mtime_us: i64) {
        self.part(piece);
        let n = self.layout.blocks_in(piece) as usize;
        let p = &mut self.pieces[piece.idx()];
        p.blocks.resize(n, Blk::default());
        for (i, b) in blocks {
            p.blocks[i] = b;
        }
        self.touch(piece, mtime_us);
    }

    fn touch(&mut self, piece: PieceIndex, mtime_us: i64) {
        let (offset, len) = (self.layout.piece_offset(piece), u64::from(self.layout.piece_size(piece)));
        self.changes += 1;
        for span in self.layout.spans(offset, len) {
            let file = &mut self.files[span.file.idx()];
            file.device.get_or_insert(file.stamp);
            file.changed = self.changes;
            let len = self.layout.files()[span.file.idx()].len;
            file.hole |= file.stamp.is_some_and(|s| s.len < len);
            let inode = file.stamp.map_or(self.inodes + 1, |s| s.inode);
            let stamp = Stamp { len, mtime_us, inode };
            if file.stamp.replace(stamp).is_none() {
                self.inodes += 1;
                file.made = Some((self.changes, stamp));
            }
        }
    }

    /// A piece was looked at: all of it in the files is true.
    pub(super) fn settle(&mut self, piece: PieceIndex, epoch: u32) {
        let p = &mut self.pieces[piece.idx()];
        (p.good, p.epoch, p.tampered) = (true, epoch, false);
        p.blocks = Vec::new();
    }

    /// A piece was found bad: what is there counts for nothing.
    pub(super) fn condemn(&mut self, piece: PieceIndex) {
        self.pieces[piece.idx()].blocks.iter_mut().for_each(|b| b.epoch = 0);
    }

    /// Files that were deleted are gone.
    fn vanish(&mut self) {
        for i in 0..self.files.len() {
            if std::mem::take(&mut self.files[i].unlinked) {
                self.wipe(i, 0, true);
                self.changes += 1;
                let file = &mut self.files[i];
                file.device.get_or_insert(file.stamp);
                (file.stamp, file.changed) = (None, self.changes);
            }
        }
    }

    /// A torrent is opened: what others did shows.
    pub(super) fn open(&mut self) {
        self.vanish();
        let mut hidden = BTreeSet::new();
        for (i, _) in self.files.iter().enumerate().filter(|(_, f)| f.hole) {
            hidden.extend(self.layout.pieces_of(crate::id::FileIndex::new(i as u32)));
        }
        for (i, p) in (0..).zip(&mut self.pieces) {
            p.tampered &= hidden.contains(&i);
        }
    }

    /// The files of this torrent are deleted.
    pub(super) fn clear(&mut self) {
        let fresh = Self::new(Arc::clone(&self.layout), &|_| false);
        (self.pieces, self.files, self.unsynced) = (fresh.pieces, fresh.files, fresh.unsynced);
        self.losses += 1;
    }

    pub(super) fn stat(&self, file: usize) -> Option<FileStat> {
        let f = self.files.get(file).filter(|f| !f.unlinked)?;
        let s = f.stamp?;
        Some(FileStat {
            len: s.len,
            mtime: s.mtime_us.div_euclid(1_000_000),
            mtime_nsec: s.mtime_us.rem_euclid(1_000_000) as u32 * 1000,
            inode: s.inode,
            device: 1,
            mount: 1,
        })
    }

    // ---------------------------------------------------------------- what others do

    /// Nothing is left of a file from `len` on; `tampered`: somebody did that, and need not have said so.
    fn wipe(&mut self, file: usize, len: u64, tampered: bool) {
        let f = &self.layout.files()[file];
        let (from, to) = (f.offset + len, f.offset + f.len);
        for piece in self.layout.pieces_of(crate::id::FileIndex::new(file as u32)).map(PieceIndex::new) {
            let mut blocks = self.all(piece);
            let start = self.layout.piece_offset(piece);
            let mut any = false;
            for (i, b) in blocks.iter_mut().enumerate() {
                let at = start + i as u64 * u64::from(BLOCK_LEN);
                if at < to && at + u64::from(self.block_len(piece, i)) > from && b.upto > 0 {
                    *b = Blk { odd: GONE, ..Blk::default() };
                    any = true;
                }
            }
            if any {
                self.part(piece);
                let p = &mut self.pieces[piece.idx()];
                let was_good = std::mem::take(&mut p.good);
                self.losses += u64::from(was_good);
                p.tampered |= was_good && tampered;
                p.blocks = blocks;
            }
        }
    }

    /// Somebody truncates a file, or deletes it.
    pub(super) fn tamper(&mut self, file: usize, len: Option<u64>, open: bool, mtime_us: i64) {
        let Some(stamp) = self.files[file].stamp else { return };
        match len {
            Some(len) => {
                let len = len.min(stamp.len);
                self.wipe(file, len, true);
                self.changes += 1;
                let f = &mut self.files[file];
                // Blocks are not given back before the device knows of the new length.
                f.device = None;
                f.changed = self.changes;
                // However coarse the clock is, a change shows.
                let mtime_us = if mtime_us == stamp.mtime_us { mtime_us + 2_000_000 } else { mtime_us };
                f.stamp = Some(Stamp { len, mtime_us, ..stamp });
            }
            None => {
                self.files[file].unlinked = true;
                if !open {
                    self.vanish();
                }
            }
        }
    }

    // ---------------------------------------------------------------- the device

    /// Something was written that is not synced.
    pub(super) fn is_at_stake(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Counts changes.
    pub(super) fn mark(&self) -> u64 {
        self.changes
    }

    /// What was changed before this mark is on the device. What has been changed again may be there or not.
    pub(super) fn sync(&mut self, mark: u64) {
        let Self { unsynced, pieces, files, .. } = self;
        unsynced.retain(|p| {
            let piece = &mut pieces[*p as usize];
            let synced = piece.changed <= mark;
            if synced {
                piece.device = None;
            }
            !synced
        });
        for f in files {
            if f.changed <= mark {
                f.device = None;
            } else if let (Some(None), Some((_, stamp))) = (f.device, f.made.filter(|(at, _)| *at <= mark)) {
                // It has been written to again, but it is there.
                f.device = Some(Some(stamp));
            }
        }
    }

    /// Of what was written since the last sync some pages are on the device, and now that is all there is.
    /// `whole`: the names, lengths and times of files are as bad off. How many pieces were at stake.
    pub(super) fn lose_unsynced(&mut self, rng: &mut Rng, whole: bool) -> usize {
        let stake = self.unsynced.len();
        let unit = if rng.u32(..4) == 0 { 512 } else { 4096 };
        let luck = [0, 125, 500, 875, 970][rng.usize(..5)];
        for n in std::mem::take(&mut self.unsynced) {
            let piece = PieceIndex::new(n);
            let new = self.all(piece);
            let Some(device) = self.pieces[piece.idx()].device.take() else { continue };
            let old = |i: usize| match device.0 {
                true => Blk { upto: self.block_len(piece, i), epoch: 0, odd: 0 },
                false => device.1.get(i).copied().unwrap_or_default(),
            };
            let blocks: Vec<_> = new.iter().enumerate().map(|(i, b)| torn(rng, old(i), *b, unit, luck)).collect();
            self.now_is(piece, blocks);
        }
        for i in 0..self.files.len() {
            let Some(device) = self.files[i].device.take() else { continue };
            if whole && rng.u32(..1000) >= luck {
                self.files[i].stamp = device;
                if device.is_none() {
                    self.wipe(i, 0, false);
                }
            }
        }
        self.sync(self.changes);
        stake
    }

    fn now_is(&mut self, piece: PieceIndex, blocks: Vec<Blk>) {
        let good = self.is_true(piece, &blocks);
        let p = &mut self.pieces[piece.idx()];
        self.losses += u64::from(p.good && !good);
        p.blocks = if good { Vec::new() } else { blocks };
        p.good = good;
    }
}

/// What becomes of a block of which some pages are new and some old.
fn torn(rng: &mut Rng, old: Blk, new: Blk, unit: u32, luck: u32) -> Blk {
    if old.upto == new.upto && old.odd == new.odd {
        return new;
    }
    let pages = old.upto.max(new.upto).div_ceil(unit);
    let mask = (0..pages).fold(0u64, |m, _| m << 1 | u64::from(rng.u32(..1000) < luck));
    match mask.count_ones() {
        0 => old,
        n if n == pages => new,
        _ if old.odd == 0 && new.odd == 0 && old.upto >= new.upto => old,
        _ => Blk { upto: old.upto.max(new.upto), epoch: 0, odd: mix(old.odd ^ mix(new.odd ^ mask)) | 1 },
    }
}
