//! Syncing: a torrent's written files are brought to the device, one after the other, by the helper.
//!
//! ```text
//!   sync(t) ─┬▶ its dirty files, and the folders of new ones ─▶ a few jobs at a time ─▶ Done::Synced
//!            │        ▲                                              └─ failed: descriptor closed, cache dropped
//!            │        └─ failed: one by one, to know which
//!            └▶ many on one volume: all of that ─▶ Done::Synced
//! ```
//!
//! A failed sync is told once per open file, by whoever asks first; the pages behind it are clean afterwards, whatever
//! the device holds. So after a failure the descriptor is closed, the windows are unmapped, the cached pages are
//! dropped, and whoever asked must believe nothing since the last success until it has been read again.
//!
//! What it does not do: choose when, or know which pieces are concerned.
//!
//! Invariants: at most one sync is under way a torrent, and [`AT_ONCE`] of its files; a file that is written while
//! its sync is under way is dirty again.

use super::disk::Disk;
use super::files::Files;
use super::{DiskError, Done, sys};
use crate::id::{FileIndex, TorrentKey};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Files handed to the helper at once: enough to keep it busy, few enough for its queue.
const AT_ONCE: usize = 4;

/// What is synced.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Item {
    File(FileIndex),
    /// A folder below the download folder, which new names were made in.
    Folder(String),
    /// All that is dirty, by its volume.
    All(Vec<FileIndex>, Vec<String>),
}

#[derive(Debug)]
struct Sync {
    t: TorrentKey,
    wait: VecDeque<Item>,
    under_way: Vec<(u64, Item)>,
    failed: Option<DiskError>,
    ticket: u32,
    /// It was asked for once more meanwhile, with this ticket last.
    again: Option<u32>,
}

/// The syncs under way.
#[derive(Default, Debug)]
pub(super) struct Syncs(Vec<Sync>);

impl Syncs {
    pub(super) fn forget(&mut self, t: TorrentKey) {
        self.0.retain(|s| s.t != t);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What there is to sync: dirty files count as clean from now on, so that a write that comes meanwhile shows.
fn collect(files: &mut Files, t: TorrentKey) -> VecDeque<Item> {
    let (dirty, folders) = files.take_dirty(t);
    let folders: Vec<String> = folders.into_iter().collect();
    if files.anchor(t, &dirty).is_some() {
        return [Item::All(dirty, folders)].into();
    }
    each(dirty, folders).collect()
}

fn each(files: Vec<FileIndex>, folders: Vec<String>) -> impl Iterator<Item = Item> {
    files.into_iter().map(Item::File).chain(folders.into_iter().map(Item::Folder))
}

impl Disk {
    pub(super) fn begin_sync(&mut self, t: TorrentKey, ticket: u32) {
        if let Some(s) = self.syncs.0.iter_mut().find(|s| s.t == t) {
            s.again = Some(ticket);
            return;
        }
        let wait = collect(&mut self.files, t);
        self.syncs.0.push(Sync { t, wait, under_way: Vec::new(), failed: None, ticket, again: None });
        self.step_syncs();
    }

    /// Hands over what can be, and reports what is over.
    pub(super) fn step_syncs(&mut self) {
        let mut syncs = std::mem::take(&mut self.syncs.0);
        syncs.retain_mut(|s| {
            loop {
                while s.under_way.len() < AT_ONCE {
                    let Some(item) = s.wait.pop_front() else { break };
                    self.submit_sync(s, item);
                }
                if !s.under_way.is_empty() || !s.wait.is_empty() {
                    return true;
                }
                let result = s.failed.take().map_or(Ok(()), Err);
                self.files.rest(s.t);
                self.hasher.done.push_back(Done::Synced { torrent: s.t, ticket: s.ticket, result });
                if let Some(ticket) = s.again.take() {
                    s.ticket = ticket;
                    s.wait = collect(&mut self.files, s.t);
                    continue;
                }
                return false;
            }
        });
        debug_assert!(self.syncs.0.is_empty());
        self.syncs.0 = syncs;
    }

    fn submit_sync(&mut self, s: &mut Sync, item: Item) {
        let opened = match &item {
            // A file whose descriptor was closed meanwhile is opened anew: the kernel tells a new descriptor of an
            // error that nobody has been told yet.
            Item::File(file) => self.files.shared(s.t, *file, false),
            Item::Folder(path) => self.files.folder(s.t, path).map(Arc::new),
            Item::All(dirty, folders) => match self.files.anchor(s.t, dirty) {
                Some(anchor) => Ok(anchor),
                None => return s.wait.extend(each(dirty.clone(), folders.clone())),
            },
        };
        let handle = match opened {
            Ok(handle) => handle,
            Err(e) => return self.sync_failed(s, &item, e),
        };
        let (is_file, is_volume) = (matches!(item, Item::File(_)), matches!(item, Item::All(..)));
        let job = move || {
            if is_file {
                sys::start_writeback(&handle);
                return handle.sync_data();
            }
            if is_volume {
                return sys::sync_volume(&handle);
            }
            // Not every file system lets a folder be synced, and those have nothing to sync.
            handle.sync_all().or_else(|e| if e.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(e) })
        };
        let id = self.send_sync(s.t, job);
        s.under_way.push((id, item));
    }

    /// The helper is through with a file.
    pub(super) fn sync_over(&mut self, id: u64, result: &io::Result<()>, took: Duration) {
        let mut syncs = std::mem::take(&mut self.syncs.0);
        for s in &mut syncs {
            let Some(i) = s.under_way.iter().position(|u| u.0 == id) else { continue };
            let (_, item) = s.under_way.swap_remove(i);
            self.files.synced(s.t, took);
            let Err(e) = result else { continue };
            let path = match &item {
                Item::File(file) => self.files.path(s.t, *file),
                Item::Folder(path) => self.files.path_of(s.t, path),
                // Something on the volume failed: of ours or not, each of ours says.
                Item::All(..) => {
                    if let Item::All(dirty, folders) = item {
                        s.wait.extend(each(dirty, folders));
                    }
                    continue;
                }
            };
            let e = DiskError::io(e, path, "sync");
            self.sync_failed(s, &item, e);
        }
        self.syncs.0 = syncs;
    }

    fn sync_failed(&mut self, s: &mut Sync, item: &Item, e: DiskError) {
        match item {
            Item::File(file) => {
                self.windows.drop_of(s.t, Some(*file));
                self.files.distrust(s.t, *file);
            }
            Item::Folder(path) => self.files.distrust_folder(s.t, path),
            Item::All(..) => debug_assert!(false, "a whole volume's failure is that of a file"),
        }
        s.failed.get_or_insert(e);
    }

    /// What is to be synced, by path; a whole volume is a star.
    #[cfg(test)]
    pub(super) fn sync_items(&self) -> Vec<String> {
        let path = |t, item: &Item| match item {
            Item::File(file) => {
                self.files.get(t).map_or(String::new(), |x| x.layout.files()[file.idx()].path.to_string())
            }
            Item::Folder(path) => path.clone(),
            Item::All(..) => "*".into(),
        };
        let all = |s: &Sync| s.under_way.iter().map(|u| &u.1).chain(&s.wait).map(|i| path(s.t, i)).collect::<Vec<_>>();
        self.syncs.0.iter().flat_map(all).collect()
    }

    /// The first call of a sync has failed.
    #[cfg(test)]
    pub(super) fn fail_sync(&mut self, errno: i32) {
        let id = self.syncs.0[0].under_way[0].0;
        self.sync_over(id, &Err(io::Error::from_raw_os_error(errno)), Duration::ZERO);
    }
}
