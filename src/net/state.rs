//! The state folder: `state::Folder` on real files.
//!
//! What waits for the device is left to the helper, one job after the other; what does not is done at once. Files are
//! the owner's alone. Nothing but plain files is read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::locks::Locks;
use crate::error::Error;
use crate::id::InfoHash;
use crate::state::{FILE_MAX, Folder, Job};
use crate::storage::file_system_of;
use crate::storage::helper::Hand;

/// Does not follow links, does not wait for the other end of a FIFO.
pub(super) const SAFE: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// An append that takes so long was late, and those of the next while are the helper's.
const LATE: Duration = Duration::from_millis(20);
const SLOW_FOR: Duration = Duration::from_secs(60);

pub(super) struct StateDir {
    dir: PathBuf,
    /// Held until the last job is done. `None`: nothing can be locked here.
    locks: Option<Arc<Locks>>,
    /// It was told that not everything can be locked.
    warned: bool,
    /// What the DHT node knows is this process's to keep, and no other's.
    pub(super) has_dht: bool,
    hand: Hand,
    /// What the helper tells its volume by.
    volume: u64,
    /// The volume is known to be slow: see [`Folder::waits`].
    slow: bool,
    /// It was slow here, and is not tried again until then.
    slow_until: Option<Instant>,
}

impl StateDir {
    /// Makes the folder, for the owner only, unless it is there.
    pub(super) fn open(dir: PathBuf, hand: Hand) -> Result<Self, Error> {
        if let Err(source) = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            return Err(Error::File { path: dir, source });
        }
        // A volume that is full or read-only keeps nobody from starting.
        let locks = Locks::open(dir.clone()).map(Arc::new);
        let locks = locks.map_err(|e| log::warn!("no lock against another instance: {e}")).ok();
        let volume = file_system_of(&dir);
        let mut state = Self { dir, locks, warned: false, has_dht: false, hand, volume, slow: false, slow_until: None };
        state.has_dht = state.taken(Locks::take_dht);
        Ok(state)
    }

    fn taken(&mut self, take: impl FnOnce(&Locks) -> io::Result<bool>) -> bool {
        let Some(locks) = &self.locks else { return true };
        take(locks).unwrap_or_else(|e| {
            if !std::mem::replace(&mut self.warned, true) {
                log::warn!("{}: cannot be locked against another instance: {e}", self.dir.display());
            }
            true
        })
    }

    /// Takes a torrent for this process. False when another has it.
    pub(super) fn lock(&mut self, info_hash: &InfoHash) -> bool {
        self.taken(|locks| locks.take(info_hash))
    }

    /// Gives it free again.
    pub(super) fn unlock(&mut self, info_hash: &InfoHash) {
        if let Some(locks) = &self.locks {
            locks.give(info_hash);
        }
    }

    /// The volume that it is on.
    pub(super) fn volume(&self) -> u64 {
        self.volume
    }

    /// What is known of that volume by what is downloaded to it.
    pub(super) fn set_slow(&mut self, slow: bool) {
        self.slow = slow;
    }

    /// Where the helper has no thread: does a job. True when more wait.
    pub(super) fn work(&mut self) -> bool {
        self.hand.work()
    }
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Whatever has the name, it is not written through.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(SAFE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn carry_out(dir: &Path, job: &Job) -> io::Result<()> {
    let sync_folder = || match File::open(dir)?.sync_all() {
        // Not every file system lets a folder be synced.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        r => r,
    };
    match job {
        Job::Create { name, bytes } => create(&dir.join(name), bytes),
        Job::Replace { name, bytes } => {
            let (temp, path) = (dir.join(format!("{name}.tmp")), dir.join(name));
            create(&temp, bytes)?;
            fs::rename(&temp, &path)?;
            sync_folder()
        }
        Job::Append { name, bytes } => append(&dir.join(name), bytes),
        Job::Adopt { from, to, bytes } => {
            append(&dir.join(from), bytes)?;
            fs::rename(dir.join(from), dir.join(to))?;
            sync_folder()
        }
        Job::Sync { name } => OpenOptions::new().read(true).custom_flags(SAFE).open(dir.join(name))?.sync_data(),
        Job::Remove { names } => {
            for name in names {
                remove(&dir.join(name))?;
            }
            sync_folder()
        }
        Job::SyncFolder => sync_folder(),
    }
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).custom_flags(SAFE).open(path)?.write_all(bytes)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r,
    }
}

impl Folder for StateDir {
    fn list(&mut self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match OpenOptions::new().read(true).custom_flags(SAFE).open(self.dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            r => r?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("not a plain file"));
        }
        if meta.len() > FILE_MAX {
            return Err(io::Error::other(format!("{} bytes, at most {FILE_MAX} are expected", meta.len())));
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn waits(&mut self) -> bool {
        let waits = self.slow || self.slow_until.is_some_and(|until| Instant::now() < until);
        if !waits {
            self.slow_until = None;
        }
        waits && self.hand.is_threaded()
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let begin = Instant::now();
        let result = append(&self.dir.join(name), bytes);
        if begin.elapsed() >= LATE {
            self.slow_until = Some(Instant::now() + SLOW_FOR);
        }
        result
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        remove(&self.dir.join(name))
    }

    fn submit(&mut self, ticket: u64, job: Job) {
        let (dir, locks) = (self.dir.clone(), self.locks.clone());
        let work = move || {
            let _held = locks;
            carry_out(&dir, &job)
        };
        self.hand.submit(self.volume, ticket, Box::new(work));
    }

    fn poll_done(&mut self) -> Option<(u64, io::Result<()>)> {
        self.hand.poll()
    }
}

/// A hash of what tells this start of the system from the others; 0 when the system does not say.
pub(super) fn boot() -> u64 {
    let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let fnv = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3);
    if id.is_empty() { 0 } else { id.iter().fold(0xCBF2_9CE4_8422_2325, fnv) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_append_and_give_names() {
        let dir = std::env::temp_dir().join(format!("btmio-state-{}", std::process::id()));
        let mut state = StateDir::open(dir.clone(), Hand::alone()).unwrap();
        let (from, to) = (String::from("a.new"), String::from("a"));
        let jobs = [
            Job::Append { name: to.clone(), bytes: b"nowhere".to_vec() },
            Job::Create { name: to.clone(), bytes: b"old".to_vec() },
            Job::Append { name: to.clone(), bytes: b"er".to_vec() },
            Job::Create { name: from.clone(), bytes: b"ne".to_vec() },
            Job::Adopt { from: from.clone(), to: to.clone(), bytes: b"w".to_vec() },
            Job::Adopt { from: from.clone(), to: to.clone(), bytes: b"none".to_vec() },
        ];
        let mut seen = Vec::new();
        for (ticket, job) in jobs.into_iter().enumerate() {
            state.submit(ticket as u64, job);
            assert!(!state.work());
            let (done, result) = state.poll_done().unwrap();
            assert_eq!(done, ticket as u64);
            seen.push((result.is_ok(), state.read(&to).unwrap().unwrap_or_default()));
        }
        let wanted = [(false, ""), (true, "old"), (true, "older"), (true, "older"), (true, "new"), (false, "new")];
        assert_eq!(seen, wanted.map(|(ok, bytes)| (ok, bytes.as_bytes().to_vec())));
        assert!(state.read(&from).unwrap().is_none());
        // Where nobody else does the jobs there is nothing to be gained.
        state.set_slow(true);
        assert!(!state.waits());
        drop(state);
        fs::remove_dir_all(&dir).unwrap();
    }
}
