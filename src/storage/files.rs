//! The torrents' files: opened late and safely, a few at a time, read and written by offset.
//!
//! Offsets here are on the torrent's line of bytes (see [`Layout`]); this module cuts them into files. Pad files
//! (BEP 47) read as zeros and swallow writes. A file is opened when it is first needed, below the download
//! folder and without following links, and must be a plain file. The least recently used descriptor is closed when
//! too many are open. Before a wanted file's first byte is written, its space is taken.
//!
//! What it does not do: buffer, hash, map, or truncate a file that is longer than it should be.
//!
//! A volume that has gone away leaves an empty folder, or none: nothing is made there. The download folder is made only
//! where it has not been seen before, and one that is on another device than before must have a file of the torrent.
//! What an earlier process has seen counts too: only what it saw on the file system that is there now was deleted.
//!
//! Invariants: at most `limit` descriptors of files are held, or two when others hold as many, and [`FOLDERS`] of
//! folders while work goes on; a torrent of many files that is being written holds one more, its anchor.

#[cfg(test)]
mod tests;

use super::sys::{self, FsKind};
use super::volume::Volume;
use super::{Allocate, Backend, DiskError, DiskErrorKind, FileStat};
use crate::id::{FileIndex, PieceIndex, TorrentKey};
use crate::torrent::layout::{Layout, LayoutFile, Span};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files below this are not mapped: what a window costs is more than it saves (40 blocks).
const MAP_MIN: u64 = 640 << 10;
/// Folders held at once.
const FOLDERS: usize = 4;
/// For so long at most.
const HOLD_FOLDERS: Duration = Duration::from_secs(1);
/// Files below this take their space with their first write, which is most of them anyway.
const ALLOCATE_MIN: u64 = 256 << 10;

/// Dirty files of a torrent that are better synced with all of their volume: a call for each takes milliseconds.
pub(super) const MANY: usize = 64;

#[derive(Clone, Copy, Default, Debug)]
struct FileState {
    /// Where its descriptor is, plus 1; 0 when it is not open.
    slot: u32,
    /// Space was taken, or cannot be.
    allocated: bool,
    /// Space could not be taken: a mapped write could fail unseen.
    sparse: bool,
    /// Written since the last sync.
    dirty: bool,
    /// Whatever earlier processes wrote to it counts as dirty too, since it was asked for.
    covered: bool,
    /// Its space is being taken.
    taking: bool,
    /// It cannot be mapped.
    no_map: bool,
    /// Not chosen: all it gets is its part of pieces that it shares with files that are.
    unwanted: bool,
    /// It was opened on the anchor's volume, while there was an anchor.
    beside: bool,
}

#[derive(Debug)]
pub(super) struct Torrent {
    key: TorrentKey,
    pub(super) layout: Arc<Layout>,
    dir: PathBuf,
    /// Where its files are, once one was open: a place in the list of volumes.
    volume: Option<usize>,
    /// Files whose space is being taken.
    taking: u32,
    /// The volume by which the helper keeps its jobs in order: one for as long as it is open, wherever its files are.
    lane: Option<u64>,
    /// Folders that names were made in since the last sync.
    new_names: BTreeSet<String>,
    /// Of a torrent of many files: one that was opened before the others were written, through which all of their
    /// volume can be synced; and its volume. An error of writing any of them is told to it.
    anchor: Option<(Arc<File>, usize)>,
    files: Box<[FileState]>,
}

/// A folder below the download folder, held while many of its files are looked at or opened in a row.
#[derive(Debug)]
struct Folder {
    t: TorrentKey,
    /// Its path below the download folder; empty for that itself.
    path: String,
    fd: OwnedFd,
}

#[derive(Debug)]
struct Open {
    t: TorrentKey,
    file: FileIndex,
    /// Shared with what the helper is doing to it.
    handle: Arc<File>,
    write: bool,
    /// A place in the list of volumes.
    volume: usize,
    used: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Files {
    torrents: Vec<Option<Torrent>>,
    open: Vec<Option<Open>>,
    limit: usize,
    /// Descriptors that are held elsewhere, and may be closed here.
    lent: usize,
    count: u64,
    backend: Backend,
    allocate: Allocate,
    /// The one used last comes first.
    folders: Vec<Folder>,
    /// When the first of them was opened.
    folders_since: Option<Instant>,
    /// All that were met.
    volumes: Vec<Volume>,
    /// Where each torrent's download folder was when it was last there, also of those that are closed.
    homes: Vec<Option<Home>>,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    t: TorrentKey,
    /// Which file system.
    id: u64,
    /// An earlier process has found it there, and this one not yet: it may have been deleted since.
    earlier: bool,
}

/// What a read of a piece's bytes came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadEnd {
    /// All bytes are there.
    Whole,
    /// A file is missing or ends early.
    Short(DiskErrorKind, FileIndex),
}

/// A file's space, to be taken.
pub(super) struct Space {
    handle: Arc<File>,
    had: u64,
    len: u64,
}

impl Space {
    /// Takes it. An `EOPNOTSUPP` is no failure: the file has holes then.
    pub(super) fn take(&self) -> io::Result<()> {
        match sys::fallocate(&self.handle, 0, self.len) {
            Ok(true) => Ok(()),
            Ok(false) => Err(sys::errno(libc::EOPNOTSUPP)),
            Err(e) => {
                // ext4 keeps what it got until the file is cut back. Nothing is behind its old end yet: what is
                // written waits for this.
                let _ = self.handle.set_len(self.had);
                Err(e)
            }
        }
    }
}

impl Files {
    pub(super) fn new(limit: usize, backend: Backend, allocate: Allocate) -> Self {
        Self {
            torrents: Vec::new(),
            open: Vec::new(),
            limit: limit.max(1),
            lent: 0,
            count: 0,
            backend,
            allocate,
            folders: Vec::new(),
            folders_since: None,
            volumes: Vec::new(),
            homes: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, t: TorrentKey, layout: Arc<Layout>, dir: PathBuf) {
        if self.torrents.len() <= t.index() {
            self.torrents.resize_with(t.index() + 1, || None);
        }
        let files = vec![FileState::default(); layout.files().len()].into_boxed_slice();
        self.torrents[t.index()] = Some(Torrent {
            key: t,
            layout,
            dir,
            volume: None,
            taking: 0,
            lane: None,
            new_names: BTreeSet::new(),
            anchor: None,
            files,
        });
    }

    pub(super) fn get(&self, t: TorrentKey) -> Option<&Torrent> {
        self.torrents.get(t.index())?.as_ref().filter(|x| x.key == t)
    }

    fn get_mut(&mut self, t: TorrentKey) -> Option<&mut Torrent> {
        self.torrents.get_mut(t.index())?.as_mut().filter(|x| x.key == t)
    }

    /// The same, where a torrent that is not open is the caller's bug.
    pub(super) fn expect(&self, t: TorrentKey) -> Result<&Torrent, DiskError> {
        let found = self.get(t);
        debug_assert!(found.is_some(), "{t:?} is not open");
        found.ok_or_else(|| DiskError::new(DiskErrorKind::Other, "", "find torrent"))
    }

    fn state(&mut self, t: TorrentKey, file: FileIndex) -> Option<&mut FileState> {
        self.get_mut(t)?.files.get_mut(file.idx())
    }

    /// Whether writing a torrent's files may take long, as far as is known.
    pub(super) fn is_slow(&self, t: TorrentKey) -> bool {
        self.get(t).is_none_or(|x| x.taking > 0 || x.volume.is_none_or(|v| !self.volumes[v].is_fast()))
    }

    /// Whether something is downloaded to the volume of this number, and it is known to be slow.
    pub(super) fn has_slow(&self, home: u64) -> bool {
        self.volumes.iter().any(|v| v.home == home && v.has_been_slow())
    }

    /// By which volume the helper keeps a torrent's jobs in order.
    pub(super) fn lane_of(&self, t: TorrentKey) -> u64 {
        self.get(t).and_then(|x| x.lane).unwrap_or(0)
    }

    /// A torrent's volume, and whether the next write to it, of so many bytes, is to be a probe.
    pub(super) fn volume_of(&mut self, t: TorrentKey, bytes: usize) -> (usize, bool) {
        let volume = self.get(t).and_then(|x| x.volume).unwrap_or(usize::MAX);
        (volume, self.volumes.get_mut(volume).is_some_and(|v| v.wants_probe(bytes)))
    }

    /// What a probe of a volume came to.
    pub(super) fn probed(&mut self, volume: usize, bytes: usize, took: Duration) {
        if let Some(v) = self.volumes.get_mut(volume) {
            v.probed(bytes, took);
        }
    }

    /// A sync of a torrent's file took so long.
    pub(super) fn synced(&mut self, t: TorrentKey, took: Duration) {
        let volume = self.get(t).and_then(|x| x.volume).unwrap_or(usize::MAX);
        if let Some(v) = self.volumes.get_mut(volume) {
            v.synced(took);
        }
    }

    /// Closes descriptors and forgets the torrent.
    pub(super) fn remove(&mut self, t: TorrentKey) -> Option<Torrent> {
        self.folders.retain(|f| f.t != t);
        for o in &mut self.open {
            if o.as_ref().is_some_and(|o| o.t == t) {
                *o = None;
            }
        }
        self.torrents.get_mut(t.index())?.take_if(|x| x.key == t)
    }

    /// A file's path for messages.
    pub(super) fn path(&self, t: TorrentKey, file: FileIndex) -> PathBuf {
        self.get(t).map_or_else(PathBuf::new, |x| x.path(file))
    }

    /// The same of a folder.
    pub(super) fn path_of(&self, t: TorrentKey, folder: &str) -> PathBuf {
        self.get(t).map_or_else(PathBuf::new, |x| x.dir.join(folder))
    }

    fn error(&self, e: &io::Error, t: TorrentKey, file: FileIndex, op: &'static str) -> DiskError {
        DiskError::io(e, self.path(t, file), op)
    }

    fn close_slot(&mut self, slot: usize) {
        if let Some(o) = self.open[slot].take() {
            if let Some(s) = self.state(o.t, o.file) {
                s.slot = 0;
            }
        }
    }

    /// Closes the descriptors that have not been used the longest until at most `most` are open. Those of dirty files
    /// go last: an error of writing them is told once to each descriptor that was open then.
    fn close_down_to(&mut self, most: usize) {
        let dirty = |o: &Open| self.get(o.t).is_some_and(|x| x.files[o.file.idx()].dirty);
        let live = self.open.iter().enumerate().filter_map(|(i, o)| o.as_ref().map(|o| (dirty(o), o.used, i)));
        let mut live: Vec<_> = live.collect();
        live.sort_unstable();
        for (.., slot) in &live[..live.len().saturating_sub(most)] {
            self.close_slot(*slot);
        }
    }

    /// Makes room for one more: several at once where many are open, so that not each looks at all of them.
    fn make_room(&mut self) {
        let limit = self.limit.saturating_sub(self.lent).max(self.limit.min(2));
        if self.open.iter().flatten().count() >= limit {
            self.close_down_to(limit - 1 - limit / 16);
        }
    }

    /// So many descriptors of files are held elsewhere: fewer are held here then.
    pub(super) fn set_lent(&mut self, n: usize) {
        self.lent = n;
    }

    /// Most descriptors of files.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Where the file's descriptor is, opened when need be. For writing it is made when it is missing.
    fn slot(&mut self, t: TorrentKey, file: FileIndex, write: bool) -> Result<usize, DiskError> {
        self.count += 1;
        let count = self.count;
        let at = self.state(t, file).map_or(0, |s| s.slot) as usize;
        if at > 0 {
            if let Some(o) = self.open[at - 1].as_mut().filter(|o| o.write || !write) {
                o.used = count;
                if write {
                    self.anchor_to(at - 1);
                }
                return Ok(at - 1);
            }
            self.close_slot(at - 1);
        }
        let handle = match self.open_file(t, file, write) {
            Err(e) if e.kind == DiskErrorKind::TooManyFiles => {
                self.close_down_to(self.open.len() / 2);
                self.open_file(t, file, write)
            }
            r => r,
        }?;
        let (handle, dev) = handle;
        self.make_room();
        let volume = match self.volumes.iter().position(|v| v.dev == dev) {
            Some(volume) => volume,
            None => {
                self.volumes.push(Volume::new(dev, sys::fs_kind(&handle)));
                self.volumes.len() - 1
            }
        };
        let home = self.home(t);
        self.volumes[volume].home = home.unwrap_or(self.volumes[volume].home);
        if let Some(torrent) = self.get_mut(t) {
            torrent.volume = Some(volume);
            torrent.lane = torrent.lane.or(home);
        }
        let open = Some(Open { t, file, handle: Arc::new(handle), write, volume, used: count });
        let slot = match self.open.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.open.push(None);
                self.open.len() - 1
            }
        };
        self.open[slot] = open;
        if let Some(s) = self.state(t, file) {
            s.slot = slot as u32 + 1;
        }
        if write {
            self.anchor_to(slot);
        }
        Ok(slot)
    }

    /// A file is about to be written: whether that is after the anchor was opened, on the same volume. Where a torrent
    /// of many files has no anchor it becomes one.
    fn anchor_to(&mut self, slot: usize) {
        let Some(o) = &self.open[slot] else { return };
        let (t, file, volume) = (o.t, o.file, o.volume);
        let Some(torrent) = self.torrents.get_mut(t.index()).and_then(Option::as_mut).filter(|x| x.key == t) else {
            return;
        };
        if torrent.anchor.is_none() && torrent.files.len() >= MANY && sys::syncs_volume(&o.handle) {
            torrent.anchor = Some((Arc::clone(&o.handle), volume));
        }
        let beside = torrent.anchor.as_ref().is_some_and(|a| a.1 == volume);
        if let Some(s) = torrent.files.get_mut(file.idx()) {
            // What it has of an earlier time, when there was no anchor, an anchor does not tell.
            s.beside = beside && (s.beside || !s.dirty);
        }
    }

    /// Opens a file; the number of its volume comes with it.
    fn open_file(&mut self, t: TorrentKey, file: FileIndex, write: bool) -> Result<(File, u64), DiskError> {
        let layout = Arc::clone(&self.expect(t)?.layout);
        let Some(f) = layout.files().get(file.idx()) else {
            return Err(DiskError::new(DiskErrorKind::Other, self.path(t, file), "find file"));
        };
        let flags = libc::O_NONBLOCK | if write { libc::O_RDWR } else { libc::O_RDONLY };
        let mode = if f.executable { 0o777 } else { 0o666 };
        let (parent, name) = split(&f.path);
        // Opens it, or makes it; and whether it was made.
        let open_or_make = |dir: BorrowedFd<'_>| {
            let r = sys::open_in(dir, name, flags, mode);
            if !write || !r.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                return (r, false);
            }
            let r = sys::open_in(dir, name, flags | libc::O_CREAT, mode);
            let made = r.is_ok();
            (r, made)
        };
        let held = self.held_folder(t, parent).map(open_or_make);
        let (r, made) = match held {
            Some((r, made)) if !write || r.is_ok() => (r, made),
            other => {
                // A folder that was held may have been deleted and made anew meanwhile.
                if other.is_some() {
                    self.folders.retain(|f| f.t != t);
                }
                let dir = self.dir(t, write)?;
                let mut found = sys::open_folder_beneath(dir.as_fd(), parent);
                if write && found.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                    found = sys::make_parents(dir.as_fd(), &f.path)
                        .and_then(|()| sys::open_folder_beneath(dir.as_fd(), parent));
                }
                let fd = found.map_err(|e| self.error(&e, t, file, "open"))?;
                let opened = open_or_make(fd.as_fd());
                self.hold_folder(t, parent, fd);
                opened
            }
        };
        if made {
            self.note_name(t, parent);
        }
        let handle = File::from(r.map_err(|e| self.error(&e, t, file, "open"))?);
        match handle.metadata() {
            Ok(m) if m.is_file() => Ok((handle, m.dev())),
            Ok(_) => Err(DiskError::new(DiskErrorKind::NotAFile, self.path(t, file), "open")),
            Err(e) => Err(self.error(&e, t, file, "stat")),
        }
    }

    /// A folder that is held.
    fn held_folder(&mut self, t: TorrentKey, path: &str) -> Option<BorrowedFd<'_>> {
        let at = self.folders.iter().position(|f| f.t == t && f.path == path)?;
        self.folders[..=at].rotate_right(1);
        Some(self.folders[0].fd.as_fd())
    }

    fn hold_folder(&mut self, t: TorrentKey, path: &str, fd: OwnedFd) {
        self.folders_since.get_or_insert_with(Instant::now);
        self.folders.truncate(FOLDERS - 1);
        self.folders.insert(0, Folder { t, path: path.into(), fd });
    }

    /// Lets go of folders. They are held through one burst of work only, and not for long, so that one that is moved,
    /// replaced or unmounted in the meantime is noticed.
    pub(super) fn release_folders(&mut self) {
        self.folders.clear();
        self.folders_since = None;
    }

    /// The same, when they have been held for [`HOLD_FOLDERS`].
    pub(super) fn refresh_folders(&mut self, now: Instant) {
        if self.folders_since.is_some_and(|at| now.saturating_duration_since(at) >= HOLD_FOLDERS) {
            self.release_folders();
        }
    }

    fn put_home(&mut self, home: Home) {
        if self.homes.len() <= home.t.index() {
            self.homes.resize(home.t.index() + 1, None);
        }
        self.homes[home.t.index()] = Some(home);
    }

    /// See [`super::Storage::home`].
    pub(super) fn home(&self, t: TorrentKey) -> Option<u64> {
        self.homes.get(t.index()).copied().flatten().filter(|h| h.t == t).map(|h| h.id)
    }

    /// See [`super::Storage::set_home`].
    pub(super) fn set_home(&mut self, t: TorrentKey, id: u64) {
        if self.home(t).is_none() {
            self.put_home(Home { t, id, earlier: true });
        }
    }

    /// The download folder. For writing it is made when it is missing, unless it has been there.
    fn dir(&mut self, t: TorrentKey, write: bool) -> Result<OwnedFd, DiskError> {
        let dir = &self.expect(t)?.dir;
        let home = self.homes.get(t.index()).copied().flatten().filter(|h| h.t == t);
        let mut r = sys::open_dir(dir);
        let may_make = home.is_none_or(|h| h.earlier && is_on(dir, h.id));
        if write && may_make && r.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            std::fs::create_dir_all(dir).map_err(|e| DiskError::io(&e, dir, "make folder"))?;
            r = sys::open_dir(dir);
        }
        let fd = r.map_err(|e| DiskError::io(&e, dir, "open folder"))?;
        let id = sys::file_system(fd.as_fd()).map_err(|e| DiskError::io(&e, dir, "stat"))?;
        if home.is_none_or(|h| h.id != id || h.earlier) {
            // A number may be another after a volume was mounted again.
            if home.is_some_and(|h| h.id != id) && !self.expect(t)?.has_any(fd.as_fd()) {
                return Err(DiskError::new(DiskErrorKind::Unmounted, dir, "open folder"));
            }
            self.put_home(Home { t, id, earlier: false });
        }
        Ok(fd)
    }

    /// A name was made in this folder: it, and those it is in, are to be synced.
    fn note_name(&mut self, t: TorrentKey, folder: &str) {
        let Some(torrent) = self.get_mut(t) else { return };
        let above = Path::new(folder).ancestors().filter_map(Path::to_str);
        for path in above {
            if !torrent.new_names.insert(path.into()) {
                break; // and so are those above it
            }
        }
    }

    fn handle(&self, slot: usize) -> &File {
        // A slot number comes from `slot()`, with nothing in between that closes files.
        &self.open[slot].as_ref().expect("a slot that was just looked up is open").handle
    }

    /// The open file for a mapping, and its state: `None` where it had better not be mapped.
    pub(super) fn mappable(&mut self, t: TorrentKey, file: FileIndex, write: bool) -> Result<Option<&File>, DiskError> {
        let len = self.expect(t)?.layout.files().get(file.idx()).map_or(0, |f| f.len);
        let small = len < MAP_MIN || cfg!(target_pointer_width = "32");
        match self.backend {
            Backend::Io => return Ok(None),
            Backend::Auto if small => return Ok(None),
            _ => {}
        }
        if self.state(t, file).is_none_or(|s| s.no_map) {
            return Ok(None);
        }
        // The space has been asked for by the one who wants to write; before it is there nothing is mapped.
        if write && self.state(t, file).is_none_or(|s| !s.allocated || s.taking || s.sparse) {
            return Ok(None);
        }
        let slot = self.slot(t, file, write)?;
        let kind = self.open[slot].as_ref().map_or(FsKind::NoMap, |o| self.volumes[o.volume].kind);
        if self.backend == Backend::Auto && kind != FsKind::Plain {
            self.never_map(t, file);
            return Ok(None);
        }
        Ok(Some(self.handle(slot)))
    }

    /// Remembers that a file cannot be mapped.
    pub(super) fn never_map(&mut self, t: TorrentKey, file: FileIndex) {
        if let Some(s) = self.state(t, file) {
            s.no_map = true;
        }
    }

    /// Marks a file as written through a mapping.
    pub(super) fn mark_dirty(&mut self, t: TorrentKey, file: FileIndex) {
        if let Some(s) = self.state(t, file) {
            s.dirty = true;
        }
    }

    /// Takes a file's space, once. See [`super::Storage::allocate`].
    pub(super) fn allocate(&mut self, t: TorrentKey, file: FileIndex) -> Result<(), DiskError> {
        let Some(space) = self.begin_allocate(t, file)? else { return Ok(()) };
        self.end_allocate(t, file, space.take())
    }

    /// What to take space for, unless there is nothing to take. [`Files::end_allocate`] is told what came of it.
    pub(super) fn begin_allocate(&mut self, t: TorrentKey, file: FileIndex) -> Result<Option<Space>, DiskError> {
        let Some(f) = self.expect(t)?.layout.files().get(file.idx()) else { return Ok(None) };
        let (len, pad) = (f.len, f.pad);
        if pad || self.state(t, file).is_none_or(|s| s.allocated) {
            return Ok(None);
        }
        if let Some(s) = self.state(t, file).filter(|s| s.unwanted) {
            s.sparse = true;
            return Ok(None);
        }
        let mut sparse = true;
        if self.allocate == Allocate::Full && len >= ALLOCATE_MIN {
            let slot = self.slot(t, file, true)?;
            let open = self.open[slot].as_ref().expect("a slot that was just looked up is open");
            let before = open.handle.metadata().map_err(|e| self.error(&e, t, file, "stat"))?;
            if before.len() >= len && before.blocks().saturating_mul(512) >= len {
                sparse = false;
            } else if self.volumes[open.volume].kind != FsKind::Ram {
                let handle = Arc::clone(&open.handle);
                if let Some(s) = self.state(t, file) {
                    (s.allocated, s.taking) = (true, true);
                }
                if let Some(torrent) = self.get_mut(t) {
                    torrent.taking += 1;
                }
                return Ok(Some(Space { handle, had: before.len(), len }));
            }
        }
        if let Some(s) = self.state(t, file) {
            s.allocated = true;
            s.sparse = sparse;
        }
        Ok(None)
    }

    /// Space was taken, or not.
    pub(super) fn end_allocate(
        &mut self,
        t: TorrentKey,
        file: FileIndex,
        result: io::Result<()>,
    ) -> Result<(), DiskError> {
        let Some(s) = self.state(t, file).filter(|s| s.taking) else { return Ok(()) };
        s.taking = false;
        let failed = match result {
            Ok(()) => {
                s.sparse = false;
                None
            }
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                s.sparse = true;
                None
            }
            Err(e) => {
                s.allocated = false;
                Some(e)
            }
        };
        if let Some(torrent) = self.get_mut(t) {
            torrent.taking -= 1;
        }
        failed.map_or(Ok(()), |e| Err(self.error(&e, t, file, "take space")))
    }

    /// Writes bytes at an offset of the torrent, over as many files as they touch.
    pub(super) fn write_at(&mut self, t: TorrentKey, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let layout = Arc::clone(&self.expect(t)?.layout);
        let mut rest = data;
        for span in layout.spans(offset, data.len() as u64) {
            let (now, later) = rest.split_at(span.len as usize);
            rest = later;
            if span.pad {
                continue;
            }
            self.allocate(t, span.file)?;
            let slot = self.slot(t, span.file, true)?;
            let (began, sleeps) = (Instant::now(), sys::sleeps());
            // write_all_at goes on after a short write, and takes a write of nothing as an error.
            self.handle(slot).write_all_at(now, span.at).map_err(|e| self.error(&e, t, span.file, "write"))?;
            let volume = self.get(t).and_then(|x| x.volume).unwrap_or(usize::MAX);
            if let Some(v) = self.volumes.get_mut(volume) {
                let took = began.elapsed();
                v.wrote(now.len(), took, sleeps.is_none_or(|n| sys::sleeps() != Some(n)));
            }
            self.mark_dirty(t, span.file);
        }
        Ok(())
    }

    /// Reads bytes at an offset of the torrent. Pads are zeros. Stops at the first byte that is not there.
    pub(super) fn read_at(&mut self, t: TorrentKey, offset: u64, buf: &mut [u8]) -> Result<ReadEnd, DiskError> {
        let layout = Arc::clone(&self.expect(t)?.layout);
        let mut rest = buf;
        for span in layout.spans(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(span.len as usize);
            rest = later;
            if span.pad {
                now.fill(0);
                continue;
            }
            let slot = match self.slot(t, span.file, false) {
                Ok(slot) => slot,
                Err(e) if e.kind == DiskErrorKind::Missing => return Ok(ReadEnd::Short(e.kind, span.file)),
                Err(e) => return Err(e),
            };
            match self.handle(slot).read_exact_at(now, span.at) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(ReadEnd::Short(DiskErrorKind::Truncated, span.file));
                }
                Err(e) => return Err(self.error(&e, t, span.file, "read")),
            }
        }
        Ok(ReadEnd::Whole)
    }

    /// Whether a read would wait for the disk. What there is without waiting is in `buf` afterwards.
    fn is_cold(&self, slot: usize, at: u64, buf: &mut [u8]) -> bool {
        match sys::read_nowait(self.handle(slot), at, buf) {
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
            // A short read ends where the cache does, or the file.
            Ok(n) => n < buf.len() && self.handle(slot).metadata().is_ok_and(|m| m.len() > at + n as u64),
        }
    }

    /// Reads bytes within one file if that takes no waiting for the disk; else `None`, and the kernel begins to read.
    pub(super) fn read_cached(
        &mut self,
        t: TorrentKey,
        span: Span,
        buf: &mut [u8],
    ) -> Result<Option<ReadEnd>, DiskError> {
        let slot = match self.slot(t, span.file, false) {
            Ok(slot) => slot,
            Err(e) if e.kind == DiskErrorKind::Missing => return Ok(Some(ReadEnd::Short(e.kind, span.file))),
            Err(e) => return Err(e),
        };
        match sys::read_nowait(self.handle(slot), span.at, buf) {
            Ok(n) if n == buf.len() => return Ok(Some(ReadEnd::Whole)),
            Ok(_) if self.is_cold(slot, span.at, buf) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                return match self.handle(slot).read_exact_at(buf, span.at) {
                    Ok(()) => Ok(Some(ReadEnd::Whole)),
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        Ok(Some(ReadEnd::Short(DiskErrorKind::Truncated, span.file)))
                    }
                    Err(e) => Err(self.error(&e, t, span.file, "read")),
                };
            }
        }
        sys::will_need(self.handle(slot), span.at, buf.len() as u64);
        Ok(None)
    }

    /// The descriptor and the place of bytes that have to be fetched from the disk; `None` when they are cached, when
    /// that cannot be found out, or when something is wrong with them, which the read itself tells. `buf` is used up.
    pub(super) fn cold(&mut self, t: TorrentKey, offset: u64, buf: &mut [u8]) -> Option<(Arc<File>, Span)> {
        let layout = Arc::clone(&self.get(t)?.layout);
        for span in layout.spans(offset, buf.len() as u64).filter(|s| !s.pad) {
            let slot = self.slot(t, span.file, false).ok()?;
            if self.is_cold(slot, span.at, &mut buf[..span.len as usize]) {
                let handle = &self.open[slot].as_ref()?.handle;
                return Some((Arc::clone(handle), span));
            }
        }
        None
    }

    /// The same within one file.
    pub(super) fn will_need_in(&mut self, t: TorrentKey, file: FileIndex, at: u64, len: u64) {
        if let Ok(slot) = self.slot(t, file, false) {
            sys::will_need(self.handle(slot), at, len);
        }
    }

    /// Has the kernel read ahead. A hint, so errors are left for the read itself.
    pub(super) fn will_need(&mut self, t: TorrentKey, offset: u64, len: u64) {
        let Some(layout) = self.get(t).map(|x| Arc::clone(&x.layout)) else { return };
        for span in layout.spans(offset, len).filter(|s| !s.pad) {
            if let Ok(slot) = self.slot(t, span.file, false) {
                sys::will_need(self.handle(slot), span.at, span.len);
            }
        }
    }

    /// See [`super::Storage::prepare`].
    pub(super) fn prepare(&mut self, t: TorrentKey, wanted: &dyn Fn(FileIndex) -> bool) -> Result<(), DiskError> {
        let layout = Arc::clone(&self.expect(t)?.layout);
        for i in (0..layout.files().len() as u32).map(FileIndex::new) {
            if let Some(s) = self.state(t, i) {
                s.unwanted = !wanted(i);
            }
        }
        let dir = self.dir(t, true)?;
        let chosen = || (0u32..).map(FileIndex::new).zip(layout.files()).filter(|(i, f)| !f.pad && wanted(*i));
        let mut parent = "";
        for (i, f) in chosen() {
            let (folder, _) = split(&f.path);
            if folder != parent {
                parent = folder;
                sys::make_parents(dir.as_fd(), &f.path).map_err(|e| self.error(&e, t, i, "make folder"))?;
            }
            if f.len == 0 {
                self.open_file(t, i, true)?;
            }
        }
        let Some(free) = sys::free_space(dir.as_fd()) else { return Ok(()) };
        let mut need: u64 = chosen().map(|(_, f)| f.len).sum();
        if need > free {
            // What is on disk already needs no more space.
            need = 0;
            for (_, f) in chosen() {
                need += f.len.saturating_sub(on_disk(dir.as_fd(), f));
            }
        }
        if need > free {
            let dir = &self.expect(t)?.dir;
            return Err(DiskError {
                source_errno: libc::ENOSPC,
                ..DiskError::new(DiskErrorKind::Full, dir, "find space")
            });
        }
        Ok(())
    }

    /// Files that were written and folders that names were made in since this was last asked. They count as clean now.
    pub(super) fn take_dirty(&mut self, t: TorrentKey) -> (Vec<FileIndex>, BTreeSet<String>) {
        let Some(torrent) = self.get_mut(t) else { return Default::default() };
        let files = (0u32..).map(FileIndex::new).zip(&mut torrent.files);
        let dirty = files.filter_map(|(i, s)| std::mem::take(&mut s.dirty).then_some(i)).collect();
        (dirty, std::mem::take(&mut torrent.new_names))
    }

    /// Through which file the whole volume can be synced in place of all these.
    pub(super) fn anchor(&self, t: TorrentKey, dirty: &[FileIndex]) -> Option<Arc<File>> {
        let torrent = self.get(t).filter(|_| dirty.len() >= MANY)?;
        let beside = dirty.iter().all(|f| torrent.files[f.idx()].beside);
        torrent.anchor.as_ref().filter(|_| beside).map(|a| Arc::clone(&a.0))
    }

    /// A torrent was synced: without dirty files it needs no anchor.
    pub(super) fn rest(&mut self, t: TorrentKey) {
        let Some(torrent) = self.get_mut(t).filter(|x| x.anchor.is_some()) else { return };
        if torrent.files.iter().all(|s| !s.dirty) {
            torrent.anchor = None;
            torrent.files.iter_mut().for_each(|s| s.beside = false);
        }
    }

    /// See [`super::Storage::cover`].
    pub(super) fn cover(&mut self, t: TorrentKey, piece: PieceIndex) {
        let Some(layout) = self.get(t).map(|x| Arc::clone(&x.layout)) else { return };
        let spans = layout.spans(layout.piece_offset(piece), u64::from(layout.piece_size(piece)));
        for span in spans.filter(|s| !s.pad) {
            let Some(s) = self.state(t, span.file).filter(|s| !s.covered) else { continue };
            (s.covered, s.dirty) = (true, true);
            self.note_name(t, split(&layout.files()[span.file.idx()].path).0);
        }
    }

    /// A folder's sync failed: it is still to be synced.
    pub(super) fn distrust_folder(&mut self, t: TorrentKey, path: &str) {
        self.note_name(t, path);
    }

    /// A file's descriptor, to be used elsewhere: it stays open for as long as it is used.
    pub(super) fn shared(&mut self, t: TorrentKey, file: FileIndex, write: bool) -> Result<Arc<File>, DiskError> {
        let slot = self.slot(t, file, write)?;
        // As in `handle`.
        Ok(Arc::clone(&self.open[slot].as_ref().expect("a slot that was just looked up is open").handle))
    }

    /// A folder below the download folder, open for a sync.
    pub(super) fn folder(&mut self, t: TorrentKey, path: &str) -> Result<File, DiskError> {
        let dir = self.dir(t, false)?;
        let fd = sys::open_folder_beneath(dir.as_fd(), path).and_then(|fd| sys::reopen_folder(fd.as_fd()));
        fd.map(File::from).map_err(|e| DiskError::io(&e, self.path_of(t, path), "open folder"))
    }

    /// A file's sync failed: what its pages hold need not be what the device holds. A new descriptor is to read it, the
    /// pages are to be read again, and it is still to be synced.
    pub(super) fn distrust(&mut self, t: TorrentKey, file: FileIndex) {
        let slot = self.state(t, file).map_or(0, |s| s.slot) as usize;
        if slot > 0 {
            self.close_slot(slot - 1);
        }
        if let Ok(slot) = self.slot(t, file, false) {
            sys::drop_cache(self.handle(slot));
        }
        if let Some(s) = self.state(t, file) {
            s.dirty = true;
        }
    }

    pub(super) fn stat(&mut self, t: TorrentKey, file: FileIndex) -> Option<FileStat> {
        let layout = Arc::clone(&self.get(t)?.layout);
        let (parent, name) = split(&layout.files().get(file.idx())?.path);
        if let Some(dir) = self.held_folder(t, parent) {
            return sys::stat_in(dir, name);
        }
        let dir = self.dir(t, false).ok()?;
        let fd = sys::open_folder_beneath(dir.as_fd(), parent).ok()?;
        let stat = sys::stat_in(fd.as_fd(), name);
        self.hold_folder(t, parent, fd);
        stat
    }

    /// A file's length on disk, while it is open.
    pub(super) fn len(&mut self, t: TorrentKey, file: FileIndex) -> Result<u64, DiskError> {
        let slot = self.slot(t, file, false)?;
        self.handle(slot).metadata().map(|m| m.len()).map_err(|e| self.error(&e, t, file, "stat"))
    }

    /// Why a system call on bytes of a mapping of this file was an `EFAULT`. Only plain calls name the cause.
    pub(super) fn probe(&mut self, t: TorrentKey, file: FileIndex, at: u64, write: bool) -> Option<DiskError> {
        let slot = match self.slot(t, file, write) {
            Ok(slot) => slot,
            Err(e) => return Some(e),
        };
        let handle = self.handle(slot);
        let mut byte = [0];
        let r = handle.read_exact_at(&mut byte, at).map_err(|e| (e, "read"));
        let r = r.and_then(|()| if write { handle.write_all_at(&byte, at).map_err(|e| (e, "write")) } else { Ok(()) });
        r.err().map(|(e, op)| self.error(&e, t, file, op))
    }

    /// As if the torrent were on another volume.
    #[cfg(test)]
    pub(super) fn set_lane(&mut self, t: TorrentKey, lane: u64) {
        self.get_mut(t).expect("it is open").lane = Some(lane);
    }

    /// Descriptors held.
    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.open.iter().flatten().count()
    }
}

/// Whether the nearest folder above a path is on this file system: then the path was deleted, and is not missing for
/// want of a volume.
fn is_on(path: &Path, id: u64) -> bool {
    let above = path.ancestors().skip(1).find_map(|p| sys::open_dir(p).ok());
    above.is_some_and(|fd| sys::file_system(fd.as_fd()).is_ok_and(|there| there == id))
}

/// A path's folder and its last component.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn on_disk(dir: BorrowedFd<'_>, f: &LayoutFile) -> u64 {
    let open = sys::open_beneath(dir, &f.path, libc::O_RDONLY | libc::O_NONBLOCK, 0);
    open.ok().and_then(|fd| File::from(fd).metadata().ok()).map_or(0, |m| m.blocks().saturating_mul(512))
}

impl Torrent {
    pub(super) fn path(&self, file: FileIndex) -> PathBuf {
        self.layout.files().get(file.idx()).map_or_else(|| self.dir.clone(), |f| self.dir.join(&f.path))
    }

    /// Whether any of its files is in a folder.
    fn has_any(&self, dir: BorrowedFd<'_>) -> bool {
        self.layout.files().iter().any(|f| !f.pad && f.len > 0 && on_disk(dir, f) > 0)
    }

    /// Deletes the files, and the folders that are empty then.
    pub(super) fn remove_files(&self) -> Result<(), DiskError> {
        let dir = match sys::open_dir(&self.dir) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(DiskError::io(&e, &self.dir, "open folder")),
        };
        let mut first = Ok(());
        let mut folders = BTreeSet::new();
        for f in self.layout.files().iter().filter(|f| !f.pad) {
            match sys::remove_beneath(dir.as_fd(), &f.path, false) {
                Err(e) if e.kind() != io::ErrorKind::NotFound && first.is_ok() => {
                    first = Err(DiskError::io(&e, self.dir.join(&f.path), "remove"));
                }
                _ => {}
            }
            let parents = Path::new(&f.path).ancestors().skip(1).filter_map(Path::to_str).filter(|p| !p.is_empty());
            for p in parents {
                if !folders.insert(p) {
                    break; // and so are those above it
                }
            }
        }
        // Deeper ones sort behind those they are in. Folders that hold anything else stay.
        for p in folders.iter().rev() {
            let _ = sys::remove_beneath(dir.as_fd(), p, true);
        }
        first
    }
}
