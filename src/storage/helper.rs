//! The helper: threads for calls that may block, and nothing else.
//!
//! ```text
//!   loop: Hand::submit(volume, id, job) ─┬ volume a ─▶ thread: job(), job() ─┬▶ results of that hand ─▶ Hand::poll
//!                                        └ volume b ─▶ thread: job() ────────┘      └─▶ wake(): the poll returns
//! ```
//!
//! Taking space, syncing, renaming and a slow volume's writes stand in a disk's queue for as long as the disk likes. A
//! job owns what it needs (descriptors, buffers) and knows nothing of pieces or torrents; what a result means is for
//! the one who submitted it. Jobs of one volume are done in order, so a write that was submitted before another is over
//! before it; those of different volumes do not wait for each other. A thread is started when jobs come for a volume
//! while all others are busy, and ends after ten seconds without any: one disk needs one.
//!
//! Without threads ([`Helper::inline`], an embedder's choice) [`Hand::work`] does the same jobs on the
//! caller's thread, one a call; so it does when the system has no thread to give.
//!
//! What it does not do: cancel, or bound what waits: who submits knows how much that may be. A job that was submitted
//! is done; one whose result nobody wants any more is done too.
//!
//! Invariants: at most eight threads; the jobs of a volume wait in one lane at a time; each job has one result,
//! and the results of a volume's jobs come in their order.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads at once. With more volumes at work than this some share one.
const THREADS: usize = 8;
/// A thread that has nothing to do ends after this.
const LINGER: Duration = Duration::from_secs(10);
/// A helper that is dropped does what it was given, but a disk that hangs does not keep the process for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// The helper calls the system and little else.
const STACK: usize = 128 << 10;

/// Something to do that may block.
pub type Job = Box<dyn FnOnce() -> io::Result<()> + Send>;
/// Called on the helper's threads after each job.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

type Results = Arc<Mutex<VecDeque<(u64, io::Result<()>)>>>;

struct Task {
    volume: u64,
    id: u64,
    job: Job,
    results: Results,
}

/// What waits for one thread.
#[derive(Default)]
struct Lane {
    tasks: VecDeque<Task>,
    /// A job is being done.
    busy: bool,
    /// It has a thread.
    thread: bool,
}

#[derive(Default)]
struct Pool {
    lanes: Vec<Lane>,
    /// Volumes whose jobs are not all over: in which lane, and how many.
    volumes: BTreeMap<u64, (usize, usize)>,
    /// No thread is started any more, and each ends when its lane is empty.
    closing: bool,
    /// It was said that there is no thread to be had.
    warned: bool,
}

struct Shared {
    pool: Mutex<Pool>,
    /// A job came to that lane, or the end.
    more: [Condvar; THREADS],
    /// A lane is empty and nothing of it is being done.
    idle: Condvar,
    /// Absent without threads.
    wake: Option<Wake>,
}

/// Owns the threads. Jobs are submitted by its hands.
pub struct Helper {
    shared: Arc<Shared>,
}

/// One user's way to the helper, with results of its own.
pub struct Hand {
    shared: Arc<Shared>,
    results: Results,
}

/// A lock that was held by a panicking thread: its data is a queue, which is whole at any time.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Helper {
    /// With threads, which are started when there are jobs.
    pub fn threaded(wake: Wake) -> Self {
        Self { shared: Shared::new(Some(wake)) }
    }

    /// Without threads: see [`Hand::work`].
    pub fn inline() -> Self {
        Self { shared: Shared::new(None) }
    }

    /// A hand for one more user.
    pub fn hand(&self) -> Hand {
        Hand { shared: Arc::clone(&self.shared), results: Results::default() }
    }
}

impl Drop for Helper {
    /// Waits until all jobs are done, but not for ever.
    fn drop(&mut self) {
        let mut pool = lock(&self.shared.pool);
        pool.closing = true;
        self.shared.more.iter().for_each(Condvar::notify_all);
        let under_way = |p: &mut Pool| p.lanes.iter().any(|l| l.thread && !l.is_idle());
        let waited = self.shared.idle.wait_timeout_while(pool, PATIENCE, under_way);
        let (mut pool, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            let left: usize = pool.lanes.iter().map(|l| l.tasks.len() + usize::from(l.busy)).sum();
            log::error!("a disk does not answer; {left} calls to it are given up");
        }
        for lane in pool.lanes.iter_mut().filter(|l| !l.thread) {
            for task in std::mem::take(&mut lane.tasks) {
                if let Err(e) = (task.job)() {
                    log::error!("{e}");
                }
            }
        }
    }
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Helper")
    }
}

impl std::fmt::Debug for Hand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hand")
    }
}

impl Hand {
    /// A hand without threads and without anybody beside it.
    pub fn alone() -> Self {
        Self { shared: Shared::new(None), results: Results::default() }
    }

    /// Hands a job over; its result comes with this id. `volume` is any number that tells one from another.
    pub fn submit(&mut self, volume: u64, id: u64, job: Job) {
        let mut pool = lock(&self.shared.pool);
        let at = pool.lane_for(volume, if self.is_threaded() { THREADS } else { 1 });
        pool.lanes[at].tasks.push_back(Task { volume, id, job, results: Arc::clone(&self.results) });
        if pool.lanes[at].thread {
            self.shared.more[at].notify_one();
        } else if self.is_threaded() && !pool.closing {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("disk".into()).stack_size(STACK);
            match thread.spawn(move || shared.run(at)) {
                Ok(_) => pool.lanes[at].thread = true,
                Err(e) if !pool.warned => {
                    log::warn!("no thread for calls that may block, so the loop makes them: {e}");
                    pool.warned = true;
                }
                Err(_) => {}
            }
        }
    }

    /// The next result. Those of one volume come in the order of its jobs.
    pub fn poll(&mut self) -> Option<(u64, io::Result<()>)> {
        lock(&self.results).pop_front()
    }

    /// Whether jobs are done on threads of their own.
    pub fn is_threaded(&self) -> bool {
        self.shared.wake.is_some()
    }

    /// Does the first job that waits where there is no thread, whoever submitted it. True when more wait.
    pub fn work(&mut self) -> bool {
        let mut pool = lock(&self.shared.pool);
        let Some(task) = pool.without_thread().find_map(|l| l.tasks.pop_front()) else { return false };
        drop(pool);
        let volume = task.volume;
        task.carry_out();
        pool = lock(&self.shared.pool);
        pool.one_over(volume);
        pool.without_thread().any(|l| !l.tasks.is_empty())
    }
}

impl Task {
    fn carry_out(self) {
        let result = (self.job)();
        lock(&self.results).push_back((self.id, result));
    }
}

impl Lane {
    fn is_idle(&self) -> bool {
        !self.busy && self.tasks.is_empty()
    }
}

impl Pool {
    /// Where a volume's next job goes: behind those of it that are not over, or to whoever has nothing to do.
    fn lane_for(&mut self, volume: u64, most: usize) -> usize {
        if let Some((lane, jobs)) = self.volumes.get_mut(&volume) {
            *jobs += 1;
            return *lane;
        }
        let idle = |thread: bool| move |l: &Lane| l.is_idle() && l.thread == thread;
        let found = self.lanes.iter().position(idle(true)).or_else(|| self.lanes.iter().position(idle(false)));
        let lane = found.unwrap_or_else(|| {
            if self.lanes.len() < most {
                self.lanes.push(Lane::default());
                return self.lanes.len() - 1;
            }
            let shortest = self.lanes.iter().enumerate().min_by_key(|(_, l)| l.tasks.len());
            shortest.map_or(0, |(at, _)| at)
        });
        self.volumes.insert(volume, (lane, 1));
        lane
    }

    /// A job of this volume is over.
    fn one_over(&mut self, volume: u64) {
        let Some((_, jobs)) = self.volumes.get_mut(&volume) else { return };
        *jobs -= 1;
        if *jobs == 0 {
            self.volumes.remove(&volume);
        }
    }

    fn without_thread(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().filter(|l| !l.thread)
    }
}

impl Shared {
    fn new(wake: Option<Wake>) -> Arc<Self> {
        Arc::new(Self { pool: Mutex::default(), more: Default::default(), idle: Condvar::new(), wake })
    }

    /// A thread.
    fn run(&self, at: usize) {
        let mut pool = lock(&self.pool);
        loop {
            if let Some(task) = pool.lanes[at].tasks.pop_front() {
                pool.lanes[at].busy = true;
                drop(pool);
                let volume = task.volume;
                task.carry_out();
                if let Some(wake) = &self.wake {
                    wake();
                }
                pool = lock(&self.pool);
                pool.lanes[at].busy = false;
                pool.one_over(volume);
                continue;
            }
            self.idle.notify_all();
            let mut over = pool.closing;
            if !over {
                let waited = self.more[at].wait_timeout(pool, LINGER).unwrap_or_else(PoisonError::into_inner);
                pool = waited.0;
                over = waited.1.timed_out() && pool.lanes[at].tasks.is_empty();
            }
            if over {
                pool.lanes[at].thread = false;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
