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
//! Invariants: at most one sync is under way a torrent, and `AT_ONCE` of its files; of all torrents of a volume
//! no more than `syncs_at_once`, each of which holds a descriptor; a file that is written while its sync is
//! under way is dirty again.

use super::disk::Disk;
use super::files::Files;
use super::{DiskError, Done, sys};
use crate::id::{FileIndex, TorrentKey};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Files handed to the helper at once: enough to keep it busy, few enough for its queue.
const AT_ONCE: usize = 4;
/// The same, of all torrents of one volume.
const AT_ONCE_VOLUME: usize = 16;

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
    /// Its volume.
    lane: u64,
}

/// The syncs that were asked for.
#[derive(Default, Debug)]
pub(super) struct Syncs {
    /// Those of which something is under way.
    begun: Vec<Sync>,
    /// The others, by volume: there may be one for each of ten thousand torrents.
    queues: BTreeMap<u64, VecDeque<Sync>>,
}

impl Syncs {
    pub(super) fn forget(&mut self, t: TorrentKey) {
        self.begun.retain(|s| s.t != t);
        self.queues.values_mut().for_each(|q| q.retain(|s| s.t != t));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.queues.values().all(VecDeque::is_empty)
    }

    /// Descriptors that the helper has been given.
    pub(super) fn handles(&self) -> usize {
        self.begun.iter().map(|s| s.under_way.len()).sum()
    }

    fn of(&mut self, t: TorrentKey) -> Option<&mut Sync> {
        self.begun.iter_mut().chain(self.queues.values_mut().flatten()).find(|s| s.t == t)
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
        if let Some(s) = self.syncs.of(t) {
            s.again = Some(ticket);
            return;
        }
        let (wait, lane) = (collect(&mut self.files, t), self.files.lane_of(t));
        let sync = Sync { t, wait, under_way: Vec::new(), failed: None, ticket, again: None, lane };
        self.syncs.queues.entry(lane).or_default().push_back(sync);
        self.step_syncs();
    }

    /// How many files and folders of one volume are synced at once: with few descriptors not many.
    fn syncs_at_once(&self) -> usize {
        (self.files.limit() / 4).clamp(1, AT_ONCE_VOLUME)
    }

    /// Hands over what can be, those who have asked first before the others, and reports what is over.
    pub(super) fn step_syncs(&mut self) {
        let Syncs { mut begun, mut queues } = std::mem::take(&mut self.syncs);
        let most = self.syncs_at_once();
        let mut busy: BTreeMap<u64, usize> = BTreeMap::new();
        begun.iter().for_each(|s| *busy.entry(s.lane).or_default() += s.under_way.len());
        begun.retain_mut(|s| self.step_sync(s, busy.entry(s.lane).or_default(), most));
        for (lane, queue) in &mut queues {
            let busy = busy.entry(*lane).or_default();
            while *busy < most {
                let Some(mut s) = queue.pop_front() else { break };
                if self.step_sync(&mut s, busy, most) {
                    begun.push(s);
                }
            }
        }
        queues.retain(|_, queue| !queue.is_empty());
        debug_assert!(self.syncs.is_empty());
        self.syncs = Syncs { begun, queues };
        self.tell_lent();
    }

    /// Hands over what can be of one sync. False when it is over, and reported.
    fn step_sync(&mut self, s: &mut Sync, busy: &mut usize, most: usize) -> bool {
        loop {
            while s.under_way.len() < AT_ONCE && *busy < most {
                let Some(item) = s.wait.pop_front() else { break };
                let before = s.under_way.len();
                self.submit_sync(s, item);
                *busy += s.under_way.len() - before;
            }
            if !s.under_way.is_empty() || !s.wait.is_empty() {
                return true;
            }
            let result = s.failed.take().map_or(Ok(()), Err);
            self.files.rest(s.t);
            self.hasher.done.push_back(Done::Synced { torrent: s.t, ticket: s.ticket, result });
            let Some(ticket) = s.again.take() else { return false };
            s.ticket = ticket;
            s.wait = collect(&mut self.files, s.t);
        }
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
        let mut begun = std::mem::take(&mut self.syncs.begun);
        for s in &mut begun {
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
        self.syncs.begun = begun;
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
        self.syncs.begun.iter().chain(self.syncs.queues.values().flatten()).flat_map(all).collect()
    }

    /// The first call of a sync has failed.
    #[cfg(test)]
    pub(super) fn fail_sync(&mut self, errno: i32) {
        let id = self.syncs.begun[0].under_way[0].0;
        self.sync_over(id, &Err(io::Error::from_raw_os_error(errno)), Duration::ZERO);
    }
}

#[cfg(test)]
mod tests;
