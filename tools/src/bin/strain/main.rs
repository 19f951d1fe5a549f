//! btmio where there is little: a slow disk, one that hangs, one that has to be read from afresh, little memory.
//!
//! ```text
//! strain [write] [hang] [state] [read] [small]  all of them when none is named
//!
//!   write   a torrent at 20 MB/s onto a disk that takes 10 MB/s and may have 16 MiB in memory, for 20 s
//!   hang    the same, and the disk answers nothing for 3 s
//!   state   as write, with the state on the bad disk too
//!   read    a peer asks for 300 random blocks of a torrent on a disk that gives 2 MB/s, nothing of it in memory
//!   small   1 GiB from 50 peers, in a control group that may use 32 MiB, files included, with 64 descriptors
//! ```
//!
//! The disk is a FUSE file below a loop device, with ext4 on it. During the first three another torrent comes at
//! 10 MB/s onto a plain folder: its rate is compared with what it was before. A turn is what the library counts as one
//! (`Loop::turn_times`), from the end of the wait to its end; a quantile is at most twice too large. Wants root,
//! a release build and an otherwise quiet machine. `TMPDIR` names a folder on a fast disk.

mod reader;
mod small;

use btmio::api::{Add, Alert, State};
use btmio::id::TorrentKey;
use btmio::metainfo::Metainfo;
use btmio::net::{Loop, TurnTimes};
use sha1::{Digest, Sha1};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tools::alone::alone;
use tools::bad_disk::{BadDisk, serve_if_asked};
use tools::local::{new_loop, new_loop_with};
use tools::payload::{bytes_of, single_file};
use tools::process::program;

type Result<T> = std::result::Result<T, String>;

const MB: u64 = 1_000_000;
const PIECE: usize = 256 << 10;
/// Of each torrent; the one on the bad disk is not to end while it is looked at.
const SIZE: usize = 400 << 20;
const IMAGE: u64 = 700 << 20;

/// One torrent and who seeds it, on a thread of its own.
struct Seed {
    meta: Metainfo,
    addr: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A turn; an error of any torrent ends it all.
fn turn(lp: &mut Loop) -> Result<()> {
    lp.turn(Some(Duration::from_millis(20))).map_err(|e| e.to_string())?;
    while let Some(alert) = lp.poll_alert() {
        if let Alert::Error { error, .. } = alert {
            return Err(error);
        }
    }
    Ok(())
}

fn text(e: std::io::Error) -> String {
    e.to_string()
}

impl Seed {
    fn start(scratch: &Path, name: &str, seed: u64, size: usize, rate: u64) -> Result<Self> {
        let data = bytes_of(seed, size);
        let hashes: Vec<[u8; 20]> = data.chunks(PIECE).map(|p| Sha1::digest(p).into()).collect();
        let (torrent, _) = single_file(name, size, PIECE, &hashes, &[]);
        let meta = Metainfo::parse(&torrent).map_err(|e| e.to_string())?;
        let dir = scratch.join(format!("seed-{name}"));
        fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(name), &data)).map_err(text)?;
        let (tx, rx) = channel();
        let end = Arc::new(AtomicBool::new(false));
        let (of, ends) = (meta.clone(), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let run = || -> Result<()> {
                let mut lp = new_loop(Some(rate))?;
                let key = lp.add(Add::new(of, dir)).map_err(|e| e.to_string())?;
                let mut told = false;
                while !ends.load(Ordering::Relaxed) {
                    turn(&mut lp)?;
                    let seeds = lp.session().status(lp.now(), key).is_some_and(|s| s.state == State::Seeding);
                    if !told && seeds {
                        told = tx.send(SocketAddr::from(([127, 0, 0, 1], lp.port()))).is_ok();
                    }
                }
                Ok(())
            };
            if let Err(e) = run() {
                eprintln!("strain: a seeder ends: {e}");
            }
        });
        let addr = rx.recv().map_err(|_| "a seeder does not start")?;
        Ok(Self { meta, addr, end, thread: Some(thread) })
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// ext4 on the bad disk.
struct Volume {
    disk: BadDisk,
    at: PathBuf,
}

fn command(name: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(name).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

impl Volume {
    fn new(scratch: &Path) -> Result<Self> {
        let at = scratch.join("volume");
        fs::create_dir_all(&at).map_err(text)?;
        let disk = BadDisk::new(&scratch.join("bad"), IMAGE)?;
        // Nothing but the torrent writes to it: no tables made afterwards.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        command("mkfs.ext4", &["-q", "-E", lazy, disk.device()])?;
        command("mount", &[disk.device(), at.to_str().ok_or("a folder's name is not UTF-8")?])?;
        Ok(Self { disk, at })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for (name, value) in [("hang", 0), ("wbps", 0), ("rbps", 0)] {
            let _ = self.disk.tell(name, value);
        }
        if let Err(e) = command("umount", &[&self.at.to_string_lossy()]) {
            eprintln!("strain: {e}");
        }
    }
}

/// What came of one run.
struct Row {
    what: &'static str,
    turns: TurnTimes,
    /// What the 99.9 % and the longest turn may take.
    bounds: [Duration; 2],
    /// The other torrent's rate, in percent of what it was before.
    other: Option<u64>,
    more: String,
}

impl Row {
    fn holds(&self) -> bool {
        let took = [self.turns.quantile(0.999), self.turns.longest()];
        took.iter().zip(self.bounds).all(|(t, b)| *t <= b) && self.other.is_none_or(|o| o >= 90)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let t = &self.turns;
        let other = self.other.map_or(String::new(), |o| format!("{o} %"));
        let holds = if self.holds() { "yes" } else { "NO" };
        let (p, most) = (ms(t.quantile(0.999)), ms(t.longest()));
        write!(f, "{:6} {:>8} {p:>8.2} {most:>8.2} {other:>6} {holds:>6}  {}", self.what, t.count(), self.more)
    }
}

/// A loop that downloads, and how far its torrents are.
struct Run {
    lp: Loop,
}

impl Run {
    fn downloaded(&self, key: TorrentKey) -> Result<u64> {
        Ok(self.lp.session().status(self.lp.now(), key).ok_or("the torrent is gone")?.downloaded)
    }

    /// Turns for so long; bytes a second each torrent got.
    fn rates<const N: usize>(&mut self, time: Duration, keys: [TorrentKey; N]) -> Result<[f64; N]> {
        let before = keys.map(|k| self.downloaded(k));
        let begin = Instant::now();
        while begin.elapsed() < time {
            turn(&mut self.lp)?;
        }
        let took = begin.elapsed().as_secs_f64();
        let mut rates = [0.0; N];
        for ((rate, key), before) in rates.iter_mut().zip(keys).zip(before) {
            *rate = (self.downloaded(key)? - before?) as f64 / took;
        }
        Ok(rates)
    }
}

/// Downloads onto the bad disk and beside it.
fn write(scratch: &Path, seeds: &[Seed; 2], what: &'static str) -> Result<Row> {
    let hang = what == "hang";
    let mut volume = Volume::new(scratch)?;
    volume.disk.cap_dirty(16 << 20)?;
    volume.disk.tell("wbps", 10 * MB)?;
    let fast = scratch.join("fast");
    let mut lp = new_loop_with(None, (what == "state").then(|| volume.at.join("state")))?;
    let mut add = |seed: &Seed, dir: &Path, paused| {
        let add = Add { peers: vec![seed.addr], paused, ..Add::new(seed.meta.clone(), dir.to_owned()) };
        lp.add(add).map_err(|e| e.to_string())
    };
    let (other, bad) = (add(&seeds[1], &fast, false)?, add(&seeds[0], &volume.at, true)?);
    let mut run = Run { lp };
    // It has to begin, and then to be judged by itself.
    run.rates(Duration::from_secs(2), [other])?;
    let [alone] = run.rates(Duration::from_secs(5), [other])?;
    run.lp.resume(bad).map_err(|e| e.to_string())?;
    let [beside, onto] = if hang {
        run.rates(Duration::from_secs(8), [other, bad])?;
        volume.disk.tell("hang", 1)?;
        let rates = run.rates(Duration::from_secs(3), [other, bad])?;
        volume.disk.tell("hang", 0)?;
        run.rates(Duration::from_secs(5), [other, bad])?;
        rates
    } else {
        run.rates(Duration::from_secs(20), [other, bad])?
    };
    let turns = run.lp.take_turn_times();
    drop(run);
    let _ = fs::remove_dir_all(&fast);
    let longest = Duration::from_millis(100);
    Ok(Row {
        what,
        turns,
        // Nothing is said of the 99.9 % while the disk hangs.
        bounds: [if hang { longest } else { Duration::from_millis(20) }, longest],
        other: Some((beside * 100.0 / alone).round() as u64),
        more: format!("{:.1} MB/s beside {:.1} MB/s onto the bad disk", beside / 1e6, onto / 1e6),
    })
}

/// Seeds from the bad disk what nobody has in memory.
fn read(scratch: &Path, seed: &Seed) -> Result<Row> {
    const BLOCKS: usize = 300;
    let mut volume = Volume::new(scratch)?;
    let name = &seed.meta.name;
    let (from, to) = (scratch.join("seed-bad").join(name), volume.at.join(name));
    fs::copy(&from, &to).map_err(text)?;
    let file = fs::File::open(&to).map_err(text)?;
    file.sync_all().map_err(text)?;
    let mut lp = new_loop(None)?;
    let key = lp.add(Add::new(seed.meta.clone(), volume.at.clone())).map_err(|e| e.to_string())?;
    while lp.session().status(lp.now(), key).ok_or("the torrent is gone")?.state != State::Seeding {
        turn(&mut lp)?;
    }
    // The check read all of it.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| e.to_string())?;
    volume.disk.tell("rbps", 2 * MB)?;
    let hash = seed.meta.info_hash.ok_or("it has no hash")?;
    let addr = SocketAddr::from(([127, 0, 0, 1], lp.port()));
    let peer = std::thread::spawn(move || reader::read(addr, hash, SIZE, PIECE, BLOCKS));
    // The check is not what is looked at.
    lp.take_turn_times();
    while !peer.is_finished() {
        turn(&mut lp)?;
    }
    let took = peer.join().map_err(|_| "the reader panicked")??;
    Ok(Row {
        what: "read",
        turns: lp.take_turn_times(),
        bounds: [Duration::from_millis(5); 2],
        other: None,
        more: format!("{BLOCKS} blocks in {:.1} s", took.as_secs_f64()),
    })
}

fn run() -> Result<bool> {
    let asked: Vec<_> = std::env::args().skip(1).collect();
    let all = ["write", "hang", "state", "read", "small"];
    if let Some(other) = asked.iter().find(|a| !all.contains(&a.as_str())) {
        return Err(format!("wanted {}, got '{other}'", all.join(", ")));
    }
    alone(&[("BTMIO", program("btmio")?.as_os_str())])?;
    let wants = |what: &str| asked.is_empty() || asked.iter().any(|a| a == what);
    let scratch = std::env::temp_dir().join(format!("btmio-strain-{}", std::process::id()));
    let rows = || -> Result<Vec<Row>> {
        let seeds = [("bad", 5, 20 * MB), ("other", 6, 10 * MB)];
        let [bad, other] = seeds.map(|(name, seed, rate)| Seed::start(&scratch, name, seed, SIZE, rate));
        let seeds = [bad?, other?];
        let wanted = all.into_iter().filter(|w| *w != "small" && wants(w));
        wanted
            .map(|what| if what == "read" { read(&scratch, &seeds[0]) } else { write(&scratch, &seeds, what) })
            .collect()
    };
    let rows = if ["write", "hang", "state", "read"].into_iter().any(wants) { rows() } else { Ok(Vec::new()) };
    let small = if wants("small") { small::run(&scratch, &program("btmio")?).map(Some) } else { Ok(None) };
    let _ = fs::remove_dir_all(&scratch);
    println!("what      turns  99.9 ms   max ms  other  holds");
    let (rows, small) = (rows?, small?);
    rows.iter().for_each(|r| println!("{r}"));
    let mut good = rows.iter().all(Row::holds);
    if let Some((line, holds)) = small {
        println!("{line}");
        good &= holds;
    }
    Ok(good)
}

fn main() -> ExitCode {
    serve_if_asked();
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("strain: {e}");
            ExitCode::from(2)
        }
    }
}
