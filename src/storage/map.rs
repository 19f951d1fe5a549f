//! Windows: short mappings of files, a few at a time.
//!
//! A file is never mapped as a whole. Windows of 1 to 4 MiB, aligned to their own length, are made when bytes of them
//! are wanted and unmapped when others need the room, the least recently used first. That keeps the resident size
//! honest, the address space of a 32-bit machine whole, and `munmap` cheap.
//!
//! ```text
//!   file    |window 0    |window 1    |window 2    |win 3|
//!   mapped               |shared, read|            |shared, read and write|
//! ```
//!
//! What it does not do: touch a mapped byte. Windows hand their addresses to an [`IoVecs`] only, so that the kernel
//! moves the bytes and a bad disk is an `EFAULT`.
//!
//! Invariants: the bytes mapped never exceed the limit, or are one window; windows of one file do not overlap.
//!
//! # Contract of the unsafe code
//!
//! A window is unmapped only through `&mut Windows`. [`WindowLender`] borrows the windows exclusively for as long as
//! the list it adds to lives, so a mapping outlives every address of it. No reference into a mapping is ever made.
#![allow(unsafe_code)]

use super::guard::Ward;
use super::iov::IoVecs;
use super::sys;
use crate::id::{FileIndex, TorrentKey};
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

/// What was found in the page cache is taken to be there for so long.
const SEEN: Duration = Duration::from_secs(1);

/// A part of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WindowKey {
    pub(super) t: TorrentKey,
    pub(super) file: FileIndex,
    /// Offset of the window's first byte in the file.
    pub(super) start: u64,
}

#[derive(Debug)]
struct Window {
    key: WindowKey,
    /// Before the mapping, which it does not outlive.
    ward: Ward,
    map: MmapRaw,
    write: bool,
    used: u64,
    /// Pages that were in memory when they were last looked at, one bit each, and when all were looked at.
    seen: Vec<u64>,
    looked: Option<Instant>,
}

/// The windows in use.
#[derive(Debug)]
pub(super) struct Windows {
    slots: Vec<(u32, Option<Window>)>,
    size: usize,
    limit: usize,
    held: usize,
    count: u64,
    page: usize,
    pages: Vec<u8>,
    /// The time of this turn.
    pub(super) now: Instant,
}

impl Windows {
    /// `size` is rounded up to a power of two of at least 64 KiB (the largest page size in use).
    pub(super) fn new(size: usize, limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            size: size.clamp(64 << 10, 1 << 30).next_power_of_two(),
            limit,
            held: 0,
            count: 0,
            page: sys::page_size(),
            pages: Vec::new(),
            now: Instant::now(),
        }
    }

    /// Bytes mapped.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Where the window that holds byte `at` starts.
    pub(super) const fn start_of(&self, at: u64) -> u64 {
        at & !(self.size as u64 - 1)
    }

    /// The window of that name if it is mapped, and for writing if that is asked: slot and generation.
    pub(super) fn find(&mut self, key: WindowKey, write: bool) -> Option<(u32, u32)> {
        self.count += 1;
        let count = self.count;
        self.slots.iter_mut().zip(0u32..).find_map(|((generation, w), slot)| {
            let w = w.as_mut().filter(|w| w.key == key && (w.write || !write) && !w.ward.is_hit())?;
            w.used = count;
            Some((slot, *generation))
        })
    }

    /// Maps a window of a file that is `file_len` bytes long and open for what is asked. Windows for which `keep` is
    /// true stay. `Ok(None)` when those leave no room.
    pub(super) fn make(
        &mut self,
        key: WindowKey,
        handle: &File,
        file_len: u64,
        write: bool,
        keep: impl Fn(u32) -> bool,
    ) -> io::Result<Option<(u32, u32)>> {
        // The rest of the file where that is shorter; at most `size`, so it fits.
        let len = (file_len - key.start).min(self.size as u64) as usize;
        if let Some(slot) = self.slots.iter().position(|(_, w)| w.as_ref().is_some_and(|w| w.key == key)) {
            if keep(slot as u32) {
                return Ok(None);
            }
            self.unmap(slot);
        }
        while self.held > 0 && self.held + len > self.limit {
            let live = self.slots.iter().enumerate().filter_map(|(i, (_, w))| Some((i, w.as_ref()?)));
            let oldest = live.filter(|(i, _)| !keep(*i as u32)).min_by_key(|(_, w)| w.used).map(|(i, _)| i);
            match oldest {
                Some(i) => self.unmap(i),
                None => return Ok(None),
            }
        }
        let mut options = MmapOptions::new();
        options.offset(key.start).len(len);
        let map = if write {
            options.map_raw(handle)?
        } else {
            let map = options.map_raw_read_only(handle)?;
            // Peers ask for blocks here and there; read-ahead would fetch what nobody wants. A hint: errors mean
            // nothing.
            let _ = map.advise(Advice::Random);
            map
        };
        self.held += len;
        self.count += 1;
        let ward = Ward::new(map.as_ptr() as usize, map.len());
        let window = Some(Window { key, ward, map, write, used: self.count, seen: Vec::new(), looked: None });
        let slot = match self.slots.iter().position(|(_, w)| w.is_none()) {
            Some(slot) => slot,
            None => {
                self.slots.push((0, None));
                self.slots.len() - 1
            }
        };
        self.slots[slot].1 = window;
        Ok(Some((slot as u32, self.slots[slot].0)))
    }

    /// Whether sending a range would not wait for the disk. All of a window is looked at once in a while, and what was
    /// not there then each time it is asked for.
    pub(super) fn is_resident(&mut self, slot: u32, from: u32, len: u32) -> bool {
        let Some((_, Some(w))) = self.slots.get_mut(slot as usize) else { return true };
        let pages = w.map.len().div_ceil(self.page);
        let (first, end) = (from as usize / self.page, (from as usize + len as usize).div_ceil(self.page).min(pages));
        let seen = |w: &Window, p: usize| w.seen[p / 64] >> (p % 64) & 1 != 0;
        let anew = w.looked.is_none_or(|at| self.now.duration_since(at) >= SEEN);
        if anew {
            w.seen.clear();
            w.seen.resize(pages.div_ceil(64), 0);
            w.looked = Some(self.now);
        } else if (first..end).all(|p| seen(w, p)) {
            return true;
        }
        let look = if anew { 0..pages } else { first..end };
        self.pages.resize(pages, 0);
        let len = (w.map.len() - look.start * self.page).min(look.len() * self.page);
        // SAFETY: the range lies in the mapping, which is borrowed exclusively; it begins at a page, as the mapping
        // does; and there is a byte for each page of it.
        let r = unsafe {
            let at = w.map.as_mut_ptr().add(look.start * self.page);
            libc::mincore(at.cast(), len, self.pages.as_mut_ptr().cast())
        };
        if r != 0 {
            return true; // the system does not say
        }
        for (p, state) in look.zip(&self.pages) {
            w.seen[p / 64] |= u64::from(state & 1) << (p % 64);
        }
        (first..end).all(|p| seen(w, p))
    }

    fn unmap(&mut self, slot: usize) {
        let (generation, w) = &mut self.slots[slot];
        if let Some(w) = w.take() {
            self.held -= w.map.len();
            *generation = generation.wrapping_add(1);
        }
    }

    /// Which part of which file a slot maps.
    pub(super) fn key_of(&self, slot: u32) -> Option<(WindowKey, bool)> {
        self.slots.get(slot as usize)?.1.as_ref().map(|w| (w.key, w.write))
    }

    /// The length of a slot's window.
    pub(super) fn len_of(&self, slot: u32) -> u64 {
        self.slots.get(slot as usize).and_then(|(_, w)| w.as_ref()).map_or(0, |w| w.map.len() as u64)
    }

    /// Unmaps all windows of a torrent, or of one of its files.
    pub(super) fn drop_of(&mut self, t: TorrentKey, file: Option<FileIndex>) {
        for slot in 0..self.slots.len() {
            let w = self.slots[slot].1.as_ref();
            if w.is_some_and(|w| w.key.t == t && file.is_none_or(|f| f == w.key.file)) {
                self.unmap(slot);
            }
        }
    }

    /// The windows, for addresses of several at once.
    pub(super) fn lender(&mut self) -> WindowLender<'_> {
        WindowLender { windows: self }
    }
}

/// Addresses in windows, for as long as all windows are borrowed.
pub(super) struct WindowLender<'a> {
    windows: &'a mut Windows,
}

impl<'a> WindowLender<'a> {
    /// Adds a range of a window to a list; false when it is not that window any more or the list is full.
    pub(super) fn push(&mut self, io: &mut IoVecs<'a>, slot: u32, generation: u32, from: u32, len: u32) -> bool {
        let Some((now, Some(w))) = self.windows.slots.get(slot as usize) else { return false };
        let (from, len) = (from as usize, len as usize);
        if *now != generation || from > w.map.len() || len > w.map.len() - from {
            return false;
        }
        // SAFETY: the range lies in the mapping (just checked), which stays mapped for 'a because the windows are
        // borrowed exclusively for 'a. It is marked as mapped. Nobody makes references into it. A read-only mapping
        // cannot be written even so: the kernel answers EFAULT.
        unsafe { io.push_raw(w.map.as_mut_ptr().add(from), len, true) }
    }
}
