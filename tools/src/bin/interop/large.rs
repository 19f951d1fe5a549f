//! A file larger than 4 GiB, mostly holes, that arrives through mapped windows.
//!
//! ```text
//!   0        1 GiB      2 GiB      3 GiB      4 GiB      5 GiB + 12345
//!   |i.......|...i......|......i...|..i....i..|i.i.......|......i|     i: an island of noise; all else is zeros
//! ```
//!
//! Islands lie at the start, across 2^31 and 2^32, at the very end, and here and there. The seeder's
//! file has holes between them, so it costs little to make; every byte of it is sent, hashed, and
//! written through a window all the same. What is mapped is read off the process's own map while it runs.

use crate::clients::{Client, Node, Role};
use crate::scenarios::World;
use crate::trackers::{Over, Tracker};
use sha1::{Digest, Sha1};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tools::payload::{bytes_of, single_file};
use tools::process::wait_for;
use tools::tracker::Options;

const PIECE: usize = 4 << 20;
const SIZE: u64 = (5 << 30) + 12_345;
/// Most bytes of the file that may be mapped at once.
const MAPPED: u64 = 64 << 20;
const NAME: &str = "five GiB.img";
/// Longest the transfer may take: the disk may have to keep up with some of it.
const TRANSFER: Duration = Duration::from_secs(180);

/// Where the noise begins and how long it is.
const ISLANDS: [(u64, usize); 9] = [
    (0, 100_003),
    ((1 << 30) + 77, 1 << 20),
    ((1 << 31) - 50_000, 100_000),
    ((3 << 30) + (5 << 20), 3),
    ((3 << 30) + (900 << 20) + 1, 2_000_001),
    ((1 << 32) - 1_000_000, 2_000_000),
    ((1 << 32) + (8 << 20), PIECE),
    ((4 << 30) + (500 << 20) - 9, 18),
    (SIZE - 54_321, 54_321),
];

/// Writes the file and returns the SHA-1 of each piece.
fn make(path: &Path) -> Result<Vec<[u8; 20]>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(failed)?;
    file.set_len(SIZE).map_err(failed)?;
    for (seed, (at, len)) in (100..).zip(ISLANDS) {
        file.write_all_at(&bytes_of(seed, len), at).map_err(failed)?;
    }
    let zeros: [u8; 20] = Sha1::digest(vec![0; PIECE]).into();
    let mut piece = vec![0; PIECE];
    let mut hashes = Vec::new();
    for at in (0..SIZE).step_by(PIECE) {
        let len = (SIZE - at).min(PIECE as u64) as usize;
        let touched = ISLANDS.iter().any(|&(from, n)| from < at + len as u64 && at < from + n as u64);
        hashes.push(if touched || len < PIECE {
            file.read_exact_at(&mut piece[..len], at).map_err(failed)?;
            Sha1::digest(&piece[..len]).into()
        } else {
            zeros
        });
    }
    Ok(hashes)
}

/// Compares two files of [`SIZE`] byte by byte.
fn same(a: &Path, b: &Path) -> Result<(), String> {
    let open = |p: &Path| File::open(p).map_err(|e| format!("{}: {e}", p.display()));
    let (mut x, mut y) = (open(a)?, open(b)?);
    let (mut p, mut q) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0u64;
    while at < SIZE {
        let n = (SIZE - at).min(p.len() as u64) as usize;
        let read = x.read_exact(&mut p[..n]).and_then(|()| y.read_exact(&mut q[..n]));
        read.map_err(|e| format!("{} from byte {at}: {e}", b.display()))?;
        if p[..n] != q[..n] {
            return Err(format!("{} differs within {n} bytes from {at}", b.display()));
        }
        at += n as u64;
    }
    match y.read(&mut q) {
        Ok(0) => Ok(()),
        other => Err(format!("{} is longer than {SIZE} bytes: {other:?}", b.display())),
    }
}

/// Bytes of files below `dir` that a process has mapped; `None` when it has ended.
fn mapped(node: &Node, dir: &Path) -> Option<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", node.child.id())).ok()?;
    let below = format!("{}/", dir.display());
    let ours = maps.lines().filter(|l| l.contains(&below)).filter_map(|l| {
        let (from, to) = l.split_whitespace().next()?.split_once('-')?;
        u64::from_str_radix(to, 16).ok()?.checked_sub(u64::from_str_radix(from, 16).ok()?)
    });
    Some(ours.sum())
}

impl World {
    pub(crate) fn large(&self) -> Result<String, String> {
        let source = self.dir.join("2-data");
        std::fs::create_dir_all(&source).map_err(|e| e.to_string())?;
        let hashes = make(&source.join(NAME))?;
        let (_, hash) = single_file(NAME, SIZE as usize, PIECE, &hashes, &[]);
        let tracker = Tracker::ours(&hash, Options::default(), Over::Http)?;
        let (torrent, _) = single_file(NAME, SIZE as usize, PIECE, &hashes, &[&tracker.url]);
        let path = self.dir.join("t.torrent");
        std::fs::write(&path, torrent).map_err(|e| e.to_string())?;
        let seed = self.empty_job(2, Client::Libtorrent, Role::Seed, &path)?;
        let mut leech = self.empty_job(3, Client::Btmio, Role::Leech, &path)?;
        leech.extra.extend(["-e", "--lane=direct", "--storage=map", "--memory=32M"].map(str::to_owned));
        let seeder = self.start(&seed, &tracker)?;
        let begin = Instant::now();
        let mut leecher = Client::Btmio.start(&leech)?;
        let (mut most, mut looks) = (0, 0u32);
        let status = wait_for(TRANSFER, || {
            if let Some(now) = mapped(&leecher, &leech.dir) {
                most = most.max(now);
                looks += u32::from(now > 0);
            }
            leecher.child.exited()
        });
        let took = begin.elapsed();
        match status {
            Some(status) if status.success() => {}
            other => {
                return Err(format!(
                    "btmio: {other:?} after {took:?}\n{}{}",
                    leecher.child.tail(),
                    seeder.child.tail()
                ));
            }
        }
        if most == 0 || most > MAPPED {
            return Err(format!("{most} bytes were mapped at most; wanted some, and no more than {MAPPED}"));
        }
        same(&source.join(NAME), &leech.dir.join(NAME))?;
        Ok(format!(
            "{SIZE} bytes in {:.1} s, never more than {} MiB mapped ({looks} looks)",
            took.as_secs_f64(),
            most >> 20
        ))
    }
}
