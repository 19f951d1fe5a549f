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

use crate::error::Error;
use crate::id::InfoHash;
use crate::state::{FILE_MAX, Folder, Job};
use crate::storage::helper::Hand;
use crate::storage::{file_system_of, lock_byte};

/// Does not follow links, does not wait for the other end of a FIFO.
const SAFE: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// An append that takes so long was late, and those of the next while are the helper's.
const LATE: Duration = Duration::from_millis(20);
const SLOW_FOR: Duration = Duration::from_secs(60);

/// The file whose bytes are locked.
const LOCK: &str = "lock";

pub(super) struct StateDir {
    dir: PathBuf,
    /// Held until the last job is done. `None`: nothing can be locked here.
    locks: Option<Arc<File>>,
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
        let path = dir.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(SAFE);
        // A volume that is full or read-only keeps nobody from starting.
        let locks = options.open(&path).map(Arc::new);
        let locks = locks.map_err(|e| log::warn!("{}: no lock against another instance: {e}", path.display())).ok();
        let volume = file_system_of(&dir);
        let mut state = Self { dir, locks, has_dht: false, hand, volume, slow: false, slow_until: None };
        state.has_dht = state.lock_at(0);
        Ok(state)
    }

    fn lock_at(&mut self, at: u64) -> bool {
        let Some(locks) = &self.locks else { return true };
        lock_byte(locks, at, true).unwrap_or_else(|e| {
            log::warn!("{}: cannot be locked against another instance: {e}", self.dir.display());
            self.locks = None;
            true
        })
    }

    /// Takes a torrent for this process. False when another has it.
    pub(super) fn lock(&mut self, info_hash: &InfoHash) -> bool {
        self.lock_at(place(info_hash))
    }

    /// Gives it free again.
    pub(super) fn unlock(&mut self, info_hash: &InfoHash) {
        if let Some(locks) = &self.locks {
            let _ = lock_byte(locks, place(info_hash), false);
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

/// A torrent's byte in the file of locks; that at 0 is another's.
fn place(info_hash: &InfoHash) -> u64 {
    let head = info_hash.as_bytes()[..8].try_into().expect("eight bytes");
    (u64::from_be_bytes(head) >> 2) | 1
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
