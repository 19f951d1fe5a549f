//! The helper: one thread for calls that may block, and nothing else.
//!
//! ```text
//!   loop:   Hand::submit(id, job) ─▶ queue, bounded ─▶ helper: job() ─▶ results of that hand ─▶ Hand::poll ─▶ loop
//!                                                              └──▶ wake(), so that the loop's poll returns
//! ```
//!
//! Taking space, syncing, renaming and a slow volume's writes stand in a disk's queue for as long as the disk likes. A
//! job owns what it needs (descriptors, buffers) and knows nothing of pieces or torrents; what a result means is for
//! the one who submitted it. Jobs are done in order, so a write that was submitted before another is over before it.
//!
//! Without a thread ([`Helper::inline`], an embedder's choice) [`Hand::work`] does the same jobs on the
//! caller's thread, one a call.
//!
//! What it does not do: cancel. A job that was submitted is done; one whose result nobody wants any more is done too.
//!
//! Invariants: at most [`JOBS`] jobs wait, all hands together; each job that was taken has one result, in order.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Jobs that wait, at most. With a slow disk in front of the queue nothing is gained by a longer one.
pub const JOBS: usize = 64;
/// A helper that is dropped does what it was given, but a disk that hangs does not keep the process for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// The helper calls the system and little else.
const STACK: usize = 128 << 10;

/// Something to do that may block.
pub type Job = Box<dyn FnOnce() -> io::Result<()> + Send>;
/// Called on the helper's thread after each job.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

type Results = Arc<Mutex<VecDeque<(u64, io::Result<()>)>>>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(u64, Job, Results)>,
    /// A job is being done.
    busy: bool,
    started: bool,
    /// No more jobs are taken; the thread ends when the queue is empty.
    closing: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    /// A job came, or the end.
    more: Condvar,
    /// The queue is empty and nothing is being done.
    idle: Condvar,
    /// Absent without a thread.
    wake: Option<Wake>,
}

/// Owns the thread. Jobs are submitted by its hands.
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
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Helper {
    /// With a thread, which is started by the first job.
    pub fn threaded(wake: Wake) -> Self {
        Self::new(Some(wake))
    }

    /// Without a thread: see [`Hand::work`].
    pub fn inline() -> Self {
        Self::new(None)
    }

    fn new(wake: Option<Wake>) -> Self {
        let (queue, more, idle) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self { shared: Arc::new(Shared { queue, more, idle, wake }) }
    }

    /// A hand for one more user.
    pub fn hand(&self) -> Hand {
        Hand { shared: Arc::clone(&self.shared), results: Results::default() }
    }
}

impl Drop for Helper {
    /// Waits until all jobs are done, but not for ever.
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.closing = true;
        self.shared.more.notify_all();
        if queue.started {
            let under_way = |q: &mut Queue| q.busy || !q.jobs.is_empty();
            let waited = self.shared.idle.wait_timeout_while(queue, PATIENCE, under_way);
            let (queue, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            if timeout.timed_out() {
                log::error!("a disk does not answer; {} calls to it are given up", queue.jobs.len() + 1);
            }
            return;
        }
        while let Some((_, job, _)) = queue.jobs.pop_front() {
            if let Err(e) = job() {
                log::error!("{e}");
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
    /// A hand without a thread and without anybody beside it.
    pub fn alone() -> Self {
        let (queue, more, idle) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self { shared: Arc::new(Shared { queue, more, idle, wake: None }), results: Results::default() }
    }

    /// Hands a job over; its result comes with this id. It is given back when too many wait, or the helper is gone.
    pub fn submit(&mut self, id: u64, job: Job) -> Result<(), Job> {
        let mut queue = lock(&self.shared.queue);
        if queue.jobs.len() >= JOBS || queue.closing {
            return Err(job);
        }
        if self.shared.wake.is_some() && !queue.started {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("disk".into()).stack_size(STACK);
            if let Err(e) = thread.spawn(move || shared.run()) {
                log::warn!("no helper thread: {e}");
                return Err(job);
            }
            queue.started = true;
        }
        queue.jobs.push_back((id, job, Arc::clone(&self.results)));
        drop(queue);
        self.shared.more.notify_one();
        Ok(())
    }

    /// The next result, in the order of the jobs.
    pub fn poll(&mut self) -> Option<(u64, io::Result<()>)> {
        lock(&self.results).pop_front()
    }

    /// Whether jobs are done on a thread of their own.
    pub fn is_threaded(&self) -> bool {
        self.shared.wake.is_some()
    }

    /// Without a thread: does the first job that waits, whoever submitted it. True when more wait.
    pub fn work(&mut self) -> bool {
        if self.is_threaded() {
            return false;
        }
        let Some((id, job, results)) = lock(&self.shared.queue).jobs.pop_front() else { return false };
        let result = job();
        lock(&results).push_back((id, result));
        !lock(&self.shared.queue).jobs.is_empty()
    }
}

impl Shared {
    /// The thread.
    fn run(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some((id, job, results)) = queue.jobs.pop_front() {
                queue.busy = true;
                drop(queue);
                let result = job();
                lock(&results).push_back((id, result));
                drop(results);
                if let Some(wake) = &self.wake {
                    wake();
                }
                queue = lock(&self.queue);
                queue.busy = false;
                continue;
            }
            self.idle.notify_all();
            if queue.closing {
                return;
            }
            queue = self.more.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn threaded() -> (Helper, Receiver<()>) {
        let (tx, rx) = channel();
        let tx = Mutex::new(tx);
        (Helper::threaded(Arc::new(move || lock(&tx).send(()).unwrap_or(()))), rx)
    }

    #[test]
    fn jobs_are_done_in_order_and_results_come_back_to_their_hand() {
        let (helper, woken) = threaded();
        let (mut a, mut b) = (helper.hand(), helper.hand());
        let (tx, order) = channel();
        for i in 0..6 {
            let tx = tx.clone();
            let job = move || {
                tx.send(i).map_err(|_| io::Error::other("gone"))?;
                if i == 4 { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
            };
            let hand = if i % 2 == 0 { &mut a } else { &mut b };
            assert!(hand.submit(i, Box::new(job)).is_ok());
        }
        for _ in 0..6 {
            woken.recv().unwrap();
        }
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let ids = |hand: &mut Hand| std::iter::from_fn(|| hand.poll()).map(|(i, r)| (i, r.is_ok())).collect::<Vec<_>>();
        assert_eq!(ids(&mut a), [(0, true), (2, true), (4, false)]);
        assert_eq!(ids(&mut b), [(1, true), (3, true), (5, true)]);
    }

    #[test]
    fn the_queue_has_an_end_and_dropping_the_helper_does_what_waits() {
        let (helper, _woken) = threaded();
        let mut hand = helper.hand();
        let (go, gate) = channel::<()>();
        let (tx, done) = channel();
        assert!(hand.submit(0, Box::new(move || gate.recv().map_err(io::Error::other))).is_ok());
        let mut taken = 0;
        while taken <= JOBS {
            let tx = tx.clone();
            let job: Job = Box::new(move || tx.send(()).map_err(io::Error::other));
            match hand.submit(1, job) {
                Ok(()) => taken += 1,
                Err(_) => break,
            }
        }
        // The first may have been taken off the queue by then, or not.
        assert!((JOBS - 1..=JOBS).contains(&taken), "{taken}");
        go.send(()).unwrap();
        drop(helper);
        assert_eq!(done.try_iter().count(), taken);
        assert!(hand.submit(2, Box::new(|| Ok(()))).is_err(), "the helper is gone");
    }

    #[test]
    fn without_a_thread_each_call_does_one() {
        let helper = Helper::inline();
        let (mut a, mut b) = (helper.hand(), helper.hand());
        for i in 0..2 {
            assert!(a.submit(i, Box::new(|| Ok(()))).is_ok());
        }
        assert!(a.poll().is_none());
        assert!(b.work(), "whoever works does whoever's job");
        assert!(b.poll().is_none());
        assert!(matches!(a.poll(), Some((0, Ok(())))));
        assert!(!b.work());
        assert!(matches!(a.poll(), Some((1, Ok(())))));
        assert!(!b.work());
    }
}
