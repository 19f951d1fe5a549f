//! Attacks on a seeding client, and how it fares: `hostile [--nofile=N]... [--client=NAME]... [T15]...`.
//!
//! The client under attack is on 127.0.0.1 with so many descriptors, the attackers come from 127.0.0.66,
//! and an honest peer at 127.0.0.2 asks for one block again and again. Measured for each attack: memory
//! (`RssAnon`) above what it was before, at worst and ten seconds later; how long the honest peer waited for
//! its block during the attack, at worst; how long after the attackers had left; processor time.
//! Everything is on loopback and bounded: some seconds and some thousand connections an attack.
//! The payload has a hundred files, so that they want descriptors too (T53).
//!
//! T25 is the other way round: ten seeds, one of which spoils a byte of every piece, and a download.
//!
//! With neither `--client` nor `--nofile`: btmio at 64 and 256. `--all` adds libtorrent, Transmission, aria2.

mod attacks;
mod corrupt;
mod honest;
// Started the same way as for interoperability.
#[path = "../interop/clients.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod clients;
#[path = "../interop/http.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod http;

use attacks::{ATTACKS, Attack, Bots};
use clients::{Client, Job, PORT, Role};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tools::payload::Payload;
use tools::process::wait_for;

/// Where the client under attack listens.
pub(crate) const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);
/// How long each attack goes on.
const ATTACK: Duration = Duration::from_secs(5);
/// How long the memory may take to come back.
const BACK: Duration = Duration::from_secs(10);
/// What counts as come back, and the goal for the peak, in KiB.
const SLACK: u64 = 1 << 10;
const GOAL: u64 = 8 << 10;

fn payload() -> Payload {
    let names: Vec<String> = (0..100).map(|i| format!("file {i}")).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|n| (n.as_str(), 163_841)).collect();
    Payload::new("hostile payload", 64 << 10, 0xbad, &files)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("hostile: {e}");
            ExitCode::from(2)
        }
    }
}

/// True when btmio met its goals everywhere.
fn run() -> Result<bool, String> {
    let (mut limits, mut subjects, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for arg in std::env::args().skip(1) {
        match arg.split_once('=').unwrap_or((&arg, "")) {
            ("--nofile", n) => limits.push(n.parse::<u64>().map_err(|e| format!("{arg}: {e}"))?),
            ("--client", name) => subjects.push(Client::from_name(name).ok_or(format!("{arg}: not known"))?),
            ("--all", "") => {
                subjects.extend([Client::Btmio, Client::Libtorrent, Client::Transmission, Client::Aria2]);
            }
            (name, "") if name.starts_with('T') => names.push(name.to_owned()),
            _ => return Err(format!("{arg}: unknown; hostile [--all] [--client=NAME] [--nofile=N] [T15]...")),
        }
    }
    if limits.is_empty() {
        limits = vec![64, 256];
    }
    if subjects.is_empty() {
        subjects.push(Client::Btmio);
    }
    let chosen = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let scratch = std::env::temp_dir().join(format!("btmio-hostile-{}", std::process::id()));
    let payload = payload();
    payload.write(&scratch.join("seed")).map_err(|e| e.to_string())?;
    std::fs::write(scratch.join("t.torrent"), payload.torrent(&[])).map_err(|e| e.to_string())?;
    println!(
        "{:<13} {:>6}  {:<24} {:>9} {:>9} {:>9} {:>10} {:>9} {:>6}",
        "client", "nofile", "attack", "base KiB", "peak +", "after +", "honest s", "after s", "cpu %"
    );
    let mut good = true;
    for &client in &subjects {
        for &nofile in &limits {
            for attack in ATTACKS.iter().filter(|a| chosen(a.name)) {
                match one(client, nofile, attack, &payload, &scratch) {
                    Ok(ok) => good &= ok || client != Client::Btmio,
                    Err(e) => {
                        println!("{:<13} {nofile:>6}  {:<24} FAILED: {}", client.name(), attack.name, e.trim_end());
                        good &= client != Client::Btmio;
                    }
                }
            }
            if client == Client::Btmio && chosen("T25") {
                let verdict = with_nofile(nofile, || corrupt::run(&payload, &scratch.join(format!("t25-{nofile}"))));
                println!(
                    "{:<13} {nofile:>6}  T25 corrupt data          {}",
                    client.name(),
                    match &verdict {
                        Ok(text) | Err(text) => text,
                    }
                );
                good &= verdict.is_ok();
            }
        }
    }
    let _ = std::fs::remove_dir_all(&scratch);
    Ok(good)
}

/// Runs `f` with so many descriptors for what it starts, then has its own again.
fn with_nofile<T>(n: u64, f: impl FnOnce() -> T) -> T {
    let own = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(n), maximum: own.maximum });
    let out = f();
    let _ = setrlimit(Resource::Nofile, Rlimit { current: own.maximum, maximum: own.maximum });
    out
}

/// Anonymous memory in KiB.
fn rss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor time used, in hundredths of a second.
fn cpu(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum()
}

fn one(client: Client, nofile: u64, attack: &Attack, payload: &Payload, scratch: &Path) -> Result<bool, String> {
    let home = scratch.join(format!("{}-{nofile}-{}", client.name(), attack.name));
    let job = Job {
        client,
        role: Role::Seed,
        ip: "127.0.0.1".into(),
        torrent: scratch.join("t.torrent"),
        dir: scratch.join("seed"),
        home: home.clone(),
        pex: false,
        dht: Vec::new(),
        host: None,
        lsd: false,
        up_limit: 0,
        down_limit: 0,
        bind: true,
        portmap: false,
        roots: None,
        extra: vec!["--seed-time=10m".into()],
    };
    let mut node = with_nofile(nofile, || client.start(&job))?;
    let hash = payload.info_hash();
    let pid = node.child.id();
    let first = honest::first_block(hash, Duration::from_secs(20));
    first.ok_or_else(|| format!("does not serve at all\n{}", node.child.tail()))?;
    std::thread::sleep(Duration::from_millis(500));
    let base = rss(pid);
    let (before, begin) = (cpu(pid), Instant::now());
    let over = AtomicBool::new(false);
    let pieces = payload.total().div_ceil(payload.piece_len) as u32;
    let (peak, waited) = std::thread::scope(|s| {
        let memory = s.spawn(|| {
            let mut peak = base;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(rss(pid));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let honest = s.spawn(|| {
            // The attack is given a moment to unfold.
            std::thread::sleep(Duration::from_millis(700));
            let mut worst = Some(Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let t = honest::first_block(hash, Duration::from_secs(10));
                worst = worst.and_then(|w| Some(w.max(t?)));
                std::thread::sleep(Duration::from_millis(200));
            }
            worst
        });
        Bots::new(attack, hash, pieces).run(ATTACK);
        over.store(true, Ordering::Relaxed);
        (memory.join().unwrap_or(0), honest.join().ok().flatten())
    });
    let used = cpu(pid) - before;
    let percent = used as f64 / begin.elapsed().as_secs_f64();
    let after = honest::first_block(hash, Duration::from_secs(20));
    let back = wait_for(BACK, || Some(rss(pid)).filter(|now| *now <= base + SLACK)).unwrap_or_else(|| rss(pid));
    let ended = node.child.exited();
    let seconds = |t: Option<Duration>| t.map_or("never".into(), |t| format!("{:.2}", t.as_secs_f64()));
    println!(
        "{:<13} {nofile:>6}  {:<24} {base:>9} {:>9} {:>9} {:>10} {:>9} {percent:>6.0}{}",
        client.name(),
        format!("{} {}", attack.name, attack.what),
        peak.saturating_sub(base),
        back.saturating_sub(base),
        seconds(waited),
        seconds(after),
        if ended.is_some() { "  DIED" } else { "" }
    );
    drop(node);
    let _ = std::fs::remove_dir_all(home);
    let soon = |t: Option<Duration>| t.is_some_and(|t| t <= Duration::from_secs(2));
    Ok(ended.is_none() && peak <= base + GOAL && soon(waited) && soon(after))
}
