//! The file-system matrix: a torrent on a volume that fails, another beside it that must not feel it.
//!
//! `cargo run --release -p tools --bin fsmatrix [FS...] [-- FAULT...]`, as root: it mounts images through loop devices
//! below a temporary folder. For each file system and fault a loop downloads two torrents from two seeders of 2 MB/s
//! each, one onto the volume under test and one onto a plain folder. The fault comes, lasts a few seconds, and is
//! repaired; nobody tells btmio. The table says: whether the error named file and cause, at which part of its rate the
//! other torrent went on meanwhile, after how many seconds the torrent had got over it, how many bytes were wrong in
//! the end, and how long the loop's longest turn was.
//!
//! What cannot be made here is a skip, with the reason: a missing mkfs, or a fault a file system does not know. A
//! device that fails or is slow is a FUSE file below a loop device.

mod volume;

use btmio::api::{Add, Alert, State};
use btmio::id::TorrentKey;
use btmio::metainfo::Metainfo;
use btmio::net::Loop;
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tools::alone::alone;
use tools::bad_disk::serve_if_asked;
use tools::local::new_loop;
use tools::payload::{bytes_of, single_file};
use volume::{Fault, Kind, Volume};

/// Bytes a second of each seeder.
const RATE: u64 = 2_000_000;
const SIZE: usize = 16_000_000;
const OTHER_SIZE: usize = 400_000_000;
const PIECE: usize = 256 << 10;
/// How long a fault lasts at least, and at most: it is to be noticed.
const LASTS: Duration = Duration::from_secs(6);
const LASTS_MOST: Duration = Duration::from_secs(40);
/// It has to be over so long after the repair.
const OVER: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    serve_if_asked();
    if let Err(e) = alone(&[]) {
        eprintln!("fsmatrix: {e}");
        return ExitCode::FAILURE;
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let (kinds, faults) = (Kind::ALL.map(Kind::name), Fault::ALL.map(Fault::name));
    let known = |w: &&String| *w == "--" || kinds.contains(&w.as_str()) || faults.contains(&w.as_str());
    if let Some(what) = wanted.iter().find(|w| !known(w)) {
        eprintln!("fsmatrix: '{what}' is neither of {kinds:?} nor of {faults:?}");
        return ExitCode::FAILURE;
    }
    let asked = |name: &str, all: &[&str]| {
        wanted.iter().any(|w| w == name) || !wanted.iter().any(|w| all.contains(&w.as_str()))
    };
    let scratch = std::env::temp_dir().join(format!("btmio-fsmatrix-{}", std::process::id()));
    let seeds = match Seeds::start(&scratch) {
        Ok(seeds) => seeds,
        Err(e) => {
            eprintln!("fsmatrix: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "{:10} {:10} {:6} {:>6} {:>8} {:>6} {:>8}  error",
        "fs", "fault", "clean", "other", "resumed", "wrong", "turn"
    );
    let mut bad = 0;
    for kind in Kind::ALL.into_iter().filter(|k| asked(k.name(), &kinds)) {
        for fault in Fault::ALL.into_iter().filter(|f| asked(f.name(), &faults)) {
            let start = format!("{:10} {:10}", kind.name(), fault.name());
            match Volume::make(kind, fault, &scratch) {
                Err(why) => println!("{start} skip: {why}"),
                Ok(mut volume) => match cell(&seeds, &mut volume, fault, &scratch) {
                    Ok(row) => {
                        bad += usize::from(!row.holds(fault));
                        println!("{start} {row}");
                    }
                    Err(e) => {
                        bad += 1;
                        println!("{start} FAILED: {e}");
                    }
                },
            }
        }
    }
    drop(seeds);
    let _ = std::fs::remove_dir_all(&scratch);
    println!("{bad} cells do not hold");
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a cell of the table says.
struct Row {
    /// The first error, and whether it names file and cause.
    error: Option<(String, bool)>,
    other: u64,
    resumed: Option<Duration>,
    wrong: usize,
    turn: Duration,
}

impl Row {
    fn holds(&self, fault: Fault) -> bool {
        let told = self.error.as_ref().map_or(fault == Fault::Slow, |e| e.1);
        told && self.other >= 90 && self.resumed.is_some_and(|d| d <= OVER) && self.wrong == 0
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clean = match &self.error {
            Some((_, true)) => "yes",
            Some((_, false)) => "NO",
            None => "none",
        };
        let resumed = self.resumed.map_or("never".into(), |d| format!("{:.1} s", d.as_secs_f64()));
        let error = self.error.as_ref().map_or("", |e| &e.0);
        let turn = format!("{} ms", self.turn.as_millis());
        write!(f, "{clean:6} {:>4} % {resumed:>8} {:>6} {turn:>8}  {error}", self.other, self.wrong)
    }
}

fn turn(lp: &mut Loop) -> Result<()> {
    lp.turn(Some(Duration::from_millis(20))).map(drop).map_err(|e| e.to_string())
}

/// The two torrents and who seeds them, each on a thread of its own.
struct Seeds {
    metas: [Metainfo; 2],
    data: Vec<u8>,
    addrs: [SocketAddr; 2],
    end: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Seeds {
    fn start(scratch: &Path) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let (mut metas, mut addrs, mut threads, mut first) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (name, seed, size) in [("under-test", 5, SIZE), ("other", 6, OTHER_SIZE)] {
            let data = bytes_of(seed, size);
            let hashes: Vec<[u8; 20]> = data.chunks(PIECE).map(|p| Sha1::digest(p).into()).collect();
            let (torrent, _) = single_file(name, size, PIECE, &hashes, &[]);
            let meta = Metainfo::parse(&torrent).map_err(|e| e.to_string())?;
            let dir = scratch.join(format!("seed-{name}"));
            std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join(name), &data)).map_err(text)?;
            let (tx, rx) = channel();
            let (of, ends) = (meta.clone(), Arc::clone(&end));
            threads.push(std::thread::spawn(move || {
                let run = || -> Result<()> {
                    let mut lp = new_loop(Some(RATE))?;
                    let key = lp.add(Add::new(of, dir)).map_err(|e| e.to_string())?;
                    let mut told = false;
                    while !ends.load(Ordering::Relaxed) {
                        turn(&mut lp)?;
                        while lp.poll_alert().is_some() {}
                        if !told && status(&lp, key)?.0 == State::Seeding {
                            told = tx.send(SocketAddr::from(([127, 0, 0, 1], lp.port()))).is_ok();
                        }
                    }
                    Ok(())
                };
                if let Err(e) = run() {
                    eprintln!("fsmatrix: a seeder ends: {e}");
                }
            }));
            addrs.push(rx.recv().map_err(|_| "a seeder does not start")?);
            metas.push(meta);
            if first.is_empty() {
                first = data;
            }
        }
        Ok(Self {
            metas: metas.try_into().map_err(|_| "there are two")?,
            data: first,
            addrs: addrs.try_into().map_err(|_| "there are two")?,
            end,
            threads,
        })
    }
}

impl Drop for Seeds {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn text(e: std::io::Error) -> String {
    e.to_string()
}

/// State and bytes there.
fn status(lp: &Loop, key: TorrentKey) -> Result<(State, u64, u64)> {
    let s = lp.session().status(lp.now(), key).ok_or("the torrent is gone")?;
    Ok((s.state, s.have, s.downloaded))
}

/// The download of one cell.
struct Run {
    lp: Loop,
    bad: TorrentKey,
    other: TorrentKey,
    error: Option<String>,
    since: (Instant, u64),
}

impl Run {
    fn turn(&mut self) -> Result<()> {
        turn(&mut self.lp)?;
        while let Some(alert) = self.lp.poll_alert() {
            match alert {
                Alert::Error { torrent, error, .. } if torrent == self.bad => {
                    self.error.get_or_insert(error);
                }
                Alert::Error { error, .. } => return Err(format!("the other torrent failed too: {error}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Turns until something holds; false when that takes longer than `most`.
    fn until(&mut self, most: Duration, mut holds: impl FnMut(&mut Self) -> Result<bool>) -> Result<bool> {
        let end = Instant::now() + most;
        while Instant::now() < end {
            self.turn()?;
            if holds(self)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Turns while something that takes its time is done beside.
    fn beside(&mut self, what: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        std::thread::scope(|s| {
            let thread = s.spawn(what);
            while !thread.is_finished() {
                self.turn()?;
            }
            thread.join().map_err(|_| "a thread panicked")?
        })
    }

    fn have(&self) -> Result<u64> {
        Ok(status(&self.lp, self.bad)?.1)
    }

    /// The other torrent's rate since the last call, in percent of what its seeder gives.
    fn other_rate(&mut self) -> Result<u64> {
        let (then, had) = self.since;
        let now = (Instant::now(), status(&self.lp, self.other)?.2);
        self.since = now;
        let could = (RATE as f64 * (now.0 - then).as_secs_f64()).max(1.0);
        Ok(((now.1 - had) as f64 * 100.0 / could).round() as u64)
    }
}

fn cell(seeds: &Seeds, volume: &mut Volume, fault: Fault, scratch: &Path) -> Result<Row> {
    let other_dir = scratch.join("other");
    let _ = std::fs::remove_dir_all(&other_dir);
    let mut lp = new_loop(None)?;
    let mut add = |i: usize, dir: PathBuf, paused| {
        let add = Add { peers: vec![seeds.addrs[i]], paused, ..Add::new(seeds.metas[i].clone(), dir) };
        lp.add(add).map_err(|e| e.to_string())
    };
    let other = add(1, other_dir, false)?;
    let bad = add(0, volume.path().to_owned(), true)?;
    let mut run = Run { lp, bad, other, error: None, since: (Instant::now(), 0) };
    let file = volume.path().join("under-test");
    if !run.until(Duration::from_secs(60), |r| Ok(status(&r.lp, r.other)?.1 > 4_000_000))? {
        return Err("the other torrent does not begin".into());
    }
    if fault.comes_first() {
        run.beside(|| volume.break_it(&file))?;
    }
    run.lp.resume(bad).map_err(|e| e.to_string())?;
    if !fault.comes_first() {
        // The whole of it is to be there before it is cut, or nobody would look.
        let part = if fault == Fault::Truncated { SIZE as u64 } else { SIZE as u64 / 4 };
        if !run.until(Duration::from_secs(60), |r| Ok(r.have()? >= part))? {
            return Err("it does not get on before the fault".into());
        }
    }
    run.other_rate()?;
    if !fault.comes_first() {
        run.beside(|| volume.break_it(&file))?;
    }
    // Whoever wants all of it from us finds out what is missing.
    let mut taker = match fault {
        Fault::Truncated => {
            let mut lp = new_loop(None)?;
            let peers = vec![SocketAddr::from(([127, 0, 0, 1], run.lp.port()))];
            let add = Add { peers, ..Add::new(seeds.metas[0].clone(), scratch.join("taker")) };
            lp.add(add).map_err(|e| e.to_string())?;
            Some(lp)
        }
        _ => None,
    };
    let take = |taker: &mut Option<Loop>| taker.as_mut().map_or(Ok(()), turn);
    let end = Instant::now() + LASTS;
    run.until(LASTS_MOST, |r| {
        take(&mut taker).map(|()| (r.error.is_some() || fault == Fault::Slow) && Instant::now() >= end)
    })?;
    run.beside(|| volume.repair(&file))?;
    let repaired = Instant::now();
    let before = run.have()?;
    let over = |r: &mut Run| {
        take(&mut taker)?;
        let (state, have, _) = status(&r.lp, r.bad)?;
        Ok(state != State::Error && (have > before || have == SIZE as u64))
    };
    let resumed = run.until(OVER + Duration::from_secs(30), over)?.then(|| repaired.elapsed());
    let other_rate = run.other_rate()?;
    let all = run.until(Duration::from_secs(90), |r| Ok(r.have()? == SIZE as u64))?;
    drop(taker);
    run.lp.pause(bad).map_err(|e| e.to_string())?;
    run.until(Duration::from_millis(200), |_| Ok(false))?;
    let found = std::fs::read(&file).map_err(|e| format!("reading what came: {e}"))?;
    let wrong = if all { differing(&found, &seeds.data) } else { SIZE - run.have()? as usize };
    let _ = std::fs::remove_dir_all(scratch.join("taker"));
    let clean = |e: String| {
        let names = e.contains(&*volume.path().to_string_lossy()) && fault.causes().iter().any(|c| e.contains(c));
        (e, names)
    };
    let error = run.error.take().map(clean);
    let turn = run.lp.turn_times().longest();
    drop(run);
    Ok(Row { error, other: other_rate, resumed: resumed.filter(|_| all), wrong, turn })
}

fn differing(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count() + a.len().abs_diff(b.len())
}
