//! A simulated state folder: files as the system sees them, and how much of that the device has.
//!
//! ```text
//!   append, rename, remove ──▶ names and files (the system's cache) ── jobs: sync ──▶ device
//!   power cut: of the changes of names since the last sync the first few are there; of each file what was synced, and
//!   of the rest some of its length, in which every sector is there or is zeros
//! ```
//!
//! Jobs take time and are carried out one after the other. A process that dies leaves its last jobs undone, one of
//! them perhaps half done.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::rng::Rng;
use crate::state::{Folder, Job};
use crate::time::{Duration, Instant};

const SECTOR: usize = 512;

/// What a file holds, whatever its name.
#[derive(Clone, Default, Debug)]
struct Body {
    bytes: Vec<u8>,
    /// So many from the front are on the device.
    synced: usize,
}

/// A change of names that the device may not have.
#[derive(Clone, Debug)]
enum Change {
    Set(String, usize),
    Unset(String),
}

/// What goes wrong, in thousandths of the calls concerned.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct FolderFaults {
    pub(super) write: u32,
    pub(super) sync: u32,
    pub(super) read: u32,
    /// There is no room, or nothing may be written.
    pub(super) full: bool,
    /// Jobs take up to so long, and so would appends.
    pub(super) slow: Duration,
}

/// The folder of one node.
#[derive(Debug)]
pub(super) struct SimFolder {
    bodies: Vec<Body>,
    names: BTreeMap<String, usize>,
    /// The same on the device, and what has been changed since.
    device: BTreeMap<String, usize>,
    changes: Vec<Change>,
    jobs: VecDeque<(u64, Job, Instant)>,
    done: VecDeque<(u64, io::Result<()>)>,
    rng: Rng,
    /// Appends are better left to jobs, whatever the disk is like.
    waits: bool,
    pub(super) now: Instant,
    pub(super) faults: FolderFaults,
}

fn io_error() -> io::Error {
    const EIO: i32 = 5;
    io::Error::from_raw_os_error(EIO)
}

impl SimFolder {
    pub(super) fn new(mut rng: Rng) -> Self {
        Self {
            waits: rng.u32(..4) == 0,
            bodies: Vec::new(),
            names: BTreeMap::new(),
            device: BTreeMap::new(),
            changes: Vec::new(),
            jobs: VecDeque::new(),
            done: VecDeque::new(),
            rng,
            now: Instant::ZERO,
            faults: FolderFaults::default(),
        }
    }

    fn strikes(&mut self, permille: u32) -> bool {
        permille > 0 && self.rng.u32(..1000) < permille
    }

    fn may_write(&mut self) -> io::Result<()> {
        if self.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let rate = self.faults.write;
        if self.strikes(rate) { Err(io_error()) } else { Ok(()) }
    }

    fn set(&mut self, name: &str, body: usize) {
        self.names.insert(name.to_owned(), body);
        self.changes.push(Change::Set(name.to_owned(), body));
    }

    fn create(&mut self, name: &str, bytes: Vec<u8>) -> usize {
        self.bodies.push(Body { bytes, synced: 0 });
        self.set(name, self.bodies.len() - 1);
        self.bodies.len() - 1
    }

    /// When the next job ends.
    pub(super) fn next_done(&self) -> Option<Instant> {
        self.jobs.front().map(|(.., at)| *at)
    }

    /// Ends the jobs whose time has come. True when there were any.
    pub(super) fn work(&mut self) -> bool {
        let mut any = false;
        while self.jobs.front().is_some_and(|(.., at)| *at <= self.now) {
            let Some((ticket, job, _)) = self.jobs.pop_front() else { break };
            let result = self.carry_out(job);
            self.done.push_back((ticket, result));
            any = true;
        }
        any
    }

    fn carry_out(&mut self, job: Job) -> io::Result<()> {
        match job {
            Job::Create { name, bytes } => {
                self.may_write()?;
                let body = self.create(&name, bytes);
                self.sync(body)
            }
            Job::Replace { name, bytes } => {
                self.may_write()?;
                let temp = format!("{name}.tmp");
                let body = self.create(&temp, bytes);
                self.sync(body)?;
                self.rename(&temp, &name)?;
                self.sync_names();
                Ok(())
            }
            Job::Append { name, bytes } => self.append(&name, &bytes),
            Job::Adopt { from, to, bytes } => {
                self.append(&from, &bytes)?;
                self.rename(&from, &to)?;
                self.carry_out(Job::SyncFolder)
            }
            Job::Sync { name } => match self.names.get(&name) {
                Some(body) => self.sync(*body),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Job::Remove { names } => {
                for name in &names {
                    self.remove(name)?;
                }
                self.sync_names();
                Ok(())
            }
            Job::SyncFolder => {
                let rate = self.faults.sync;
                if self.strikes(rate) {
                    return Err(io_error());
                }
                self.sync_names();
                Ok(())
            }
        }
    }

    fn sync(&mut self, body: usize) -> io::Result<()> {
        let rate = self.faults.sync;
        if self.strikes(rate) {
            // What it was to bring to the device is forgotten, and the next call says that all is well.
            self.tear(body);
            self.bodies[body].synced = self.bodies[body].bytes.len();
            return Err(io_error());
        }
        self.bodies[body].synced = self.bodies[body].bytes.len();
        Ok(())
    }

    fn sync_names(&mut self) {
        self.changes.clear();
        self.device = self.names.clone();
    }

    /// Of what is not synced some is lost: the end, and sectors before it.
    fn tear(&mut self, body: usize) {
        let Body { bytes, synced } = &mut self.bodies[body];
        if bytes.len() > *synced {
            bytes.truncate(self.rng.usize(*synced..=bytes.len()));
            let luck = [0, 500, 900, 1000][self.rng.usize(..4)];
            let mut at = *synced;
            while at < bytes.len() {
                let end = ((at / SECTOR + 1) * SECTOR).min(bytes.len());
                if self.rng.u32(..1000) >= luck {
                    bytes[at..end].fill(0);
                }
                at = end;
            }
        }
    }

    /// The process dies.
    pub(super) fn kill(&mut self) {
        match self.jobs.pop_front() {
            Some((_, Job::Create { name, mut bytes } | Job::Replace { name, mut bytes }, _)) => {
                // Written up to somewhere, under the name it has on its way.
                bytes.truncate(self.rng.usize(..=bytes.len()));
                let name = if name.ends_with(".new") { name } else { format!("{name}.tmp") };
                self.create(&name, bytes);
            }
            Some((_, Job::Append { name, bytes } | Job::Adopt { from: name, bytes, .. }, _)) => {
                // Written and not renamed, or written up to somewhere: a write of a few records is rarely cut.
                let some = if self.rng.bool() { bytes.len() } else { self.rng.usize(..=bytes.len()) };
                if let Some(body) = self.names.get(&name) {
                    self.bodies[*body].bytes.extend_from_slice(&bytes[..some]);
                }
            }
            _ => {}
        }
        self.jobs.clear();
        self.done.clear();
    }

    /// The power fails, after the process has died of it.
    pub(super) fn cut(&mut self) {
        let kept = self.rng.usize(..=self.changes.len());
        let mut names = std::mem::take(&mut self.device);
        for change in self.changes.drain(..).take(kept) {
            match change {
                Change::Set(name, body) => _ = names.insert(name, body),
                Change::Unset(name) => _ = names.remove(&name),
            }
        }
        self.names = names.clone();
        self.device = names;
        for body in 0..self.bodies.len() {
            self.tear(body);
            self.bodies[body].synced = self.bodies[body].bytes.len();
        }
    }
}

impl Folder for SimFolder {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.names.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let rate = self.faults.read;
        if self.strikes(rate) {
            return Err(io_error());
        }
        Ok(self.names.get(name).map(|body| self.bodies[*body].bytes.clone()))
    }

    fn waits(&mut self) -> bool {
        self.waits || !self.faults.slow.is_zero()
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let body = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        if let Err(e) = self.may_write() {
            // A short write comes before the error.
            let some = self.rng.usize(..=bytes.len());
            self.bodies[body].bytes.extend_from_slice(&bytes[..some]);
            return Err(e);
        }
        self.bodies[body].bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let body = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        // One change: there is no time at which both names are gone.
        self.changes.push(Change::Set(to.to_owned(), body));
        self.names.insert(to.to_owned(), body);
        self.changes.push(Change::Unset(from.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        if self.names.remove(name).is_some() {
            self.changes.push(Change::Unset(name.to_owned()));
        }
        Ok(())
    }

    fn submit(&mut self, ticket: u64, job: Job) {
        let most = (self.faults.slow.as_micros() as u64).max(20_000);
        let begin = self.jobs.back().map_or(self.now, |(.., at)| *at).max(self.now);
        let at = begin + Duration::from_micros(self.rng.u64(..most));
        self.jobs.push_back((ticket, job, at));
    }

    fn poll_done(&mut self) -> Option<(u64, io::Result<()>)> {
        self.done.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(f: &mut SimFolder, job: Job) {
        f.submit(1, job);
        f.now += Duration::from_secs(10);
        assert!(f.work());
        assert!(matches!(f.poll_done(), Some((1, Ok(())))));
    }

    #[test]
    fn a_power_cut_leaves_what_was_synced_and_perhaps_more() {
        let (mut names, mut lengths) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for seed in 0..200 {
            let mut f = SimFolder::new(crate::rng::seeded(seed));
            run(&mut f, Job::Replace { name: "a".into(), bytes: b"old".to_vec() });
            run(&mut f, Job::Create { name: "b.new".into(), bytes: b"new".to_vec() });
            f.rename("b.new", "a").expect("it is there");
            f.append("a", b"er").expect("it is there");
            f.kill();
            f.cut();
            let a = f.read("a").expect("no error").expect("one of the two is there");
            assert!(a == b"old" || a.starts_with(b"new"), "{a:?}");
            names.insert(a[0]);
            lengths.insert(a.len());
            f.append("a", b"").expect("it is there");
        }
        assert_eq!((names.len(), lengths.len()), (2, 3), "all that can happen does");
    }

    #[test]
    fn a_process_that_dies_loses_its_jobs_only() {
        let mut f = SimFolder::new(crate::rng::seeded(1));
        run(&mut f, Job::Replace { name: "a".into(), bytes: b"old".to_vec() });
        f.append("a", b"er").expect("it is there");
        f.submit(2, Job::Replace { name: "a".into(), bytes: b"new".to_vec() });
        f.kill();
        f.now += Duration::from_secs(10);
        assert!(!f.work() && f.poll_done().is_none());
        assert_eq!(f.read("a").expect("no error").as_deref(), Some(&b"older"[..]));
    }
}
