//! What a process uses, read from `/proc` while it runs and once more when it has ended but was not waited for.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a run came to. Seconds and MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) anon: f64,
    pub(crate) peak: f64,
}

impl Figures {
    /// Nothing is known.
    pub(crate) const NONE: Self = Self { wall: f64::NAN, cpu: f64::NAN, anon: f64::NAN, peak: f64::NAN };
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    match of.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => of[n / 2],
        n => f64::midpoint(of[n / 2 - 1], of[n / 2]),
    }
}

/// The value below which this share of them lies.
pub(crate) fn quantile(of: &mut [f64], q: f64) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(((of.len() as f64 * q) as usize).min(of.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// A client under measurement; killed when it is dropped.
pub(crate) struct Subject {
    child: Child,
    begin: Instant,
    /// It is done when this file appears; otherwise when it has ended.
    done: Option<PathBuf>,
    anon: f64,
    peak: f64,
}

impl Subject {
    pub(crate) fn start(mut command: Command, done: Option<PathBuf>) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begin = Instant::now();
        let child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        Ok(Self { child, begin, done, anon: 0.0, peak: 0.0 })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Seconds since it was started.
    pub(crate) fn age(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    fn sample(&mut self) {
        let kib = |key: &str| status(self.child.id(), key).unwrap_or(0.0) / 1024.0;
        let (anon, peak) = (kib("RssAnon:"), kib("VmHWM:"));
        self.anon = self.anon.max(anon);
        self.peak = self.peak.max(peak);
    }

    /// Anonymous memory now, in bytes.
    pub(crate) fn anon(&self) -> f64 {
        status(self.child.id(), "RssAnon:").unwrap_or(f64::NAN) * 1024.0
    }

    /// CPU seconds and waits so far.
    pub(crate) fn usage(&self) -> Result<(f64, f64), String> {
        let waits = status(self.child.id(), "voluntary_ctxt_switches:").unwrap_or(f64::NAN);
        Ok((stat(self.child.id())?.1, waits))
    }

    /// Waits until it has nothing left to do, its disk included: a slow one costs little CPU time, but it is waited for.
    pub(crate) fn rest(&self, patience: Duration) -> Result<(), String> {
        const CPU: f64 = 0.05;
        const WAITS: f64 = 20.0;
        let end = Instant::now() + patience;
        let mut before = self.usage()?;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.usage()?;
            if now.0 - before.0 < CPU && now.1 - before.1 < WAITS {
                return Ok(());
            }
            before = now;
        }
        Err("does not come to rest".into())
    }

    /// Waits for it to end well.
    pub(crate) fn until_the_end(mut self, patience: Duration) -> Result<Figures, String> {
        loop {
            let (state, cpu) = stat(self.child.id())?;
            if state == 'Z' {
                let wall = self.age();
                let status = self.child.wait().map_err(|e| e.to_string())?;
                if !status.success() {
                    return Err(format!("ended with {status}"));
                }
                return Ok(Figures { wall, cpu, anon: self.anon, peak: self.peak });
            }
            if self.done.as_ref().is_some_and(|d| d.exists()) {
                return Ok(Figures { wall: self.age(), cpu, anon: self.anon, peak: self.peak });
            }
            if self.begin.elapsed() > patience {
                return Err("took too long".into());
            }
            self.sample();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it has used since it had used `before`, with the time that somebody else measured.
    pub(crate) fn now(&mut self, before: f64, wall: f64) -> Result<Figures, String> {
        self.sample();
        let (_, cpu) = stat(self.child.id())?;
        Ok(Figures { wall, cpu: cpu - before, anon: self.anon, peak: self.peak })
    }

    /// Asks it to leave, as a user does, and waits for that.
    pub(crate) fn interrupt(mut self, patience: Duration) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let end = Instant::now() + patience;
        while Instant::now() < end && self.child.try_wait().is_ok_and(|s| s.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A number from a process's status.
fn status(pid: u32, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A process's state, and the CPU seconds of all its threads.
pub(crate) fn stat(pid: u32) -> Result<(char, f64), String> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // The name in parentheses may hold anything.
    let rest = text.rsplit_once(") ").map_or("", |r| r.1);
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    let state = rest.chars().next().ok_or(format!("{path}: wanted a state"))?;
    // Linux tells user space 100 ticks a second on every architecture we build for.
    Ok((state, (ticks(11) + ticks(12)) / 100.0))
}

/// CPU seconds of this thread.
pub(crate) fn thread_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}
