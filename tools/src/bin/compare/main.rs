//! Side by side: btmio and the clients that are installed, doing the same work on this machine.
//!
//! ```text
//! cargo build --release && cargo run --release -p tools --bin compare -- [WORK]... [OPTION]...
//!   WORK          download, seed, check, limit (default: all)
//!   --size=MIB    of the payload (default 1024)
//!   --runs=N      of each client, taken in turns (default 5); medians are printed
//!   --clients=A,B of btmio, aria2, libtorrent (default: those that are installed)
//!   --dir=DIR     scratch folder, emptied of what was made (default: the temporary folder)
//!   --btmio=ARG   another argument for btmio; repeatable
//! ```
//!
//! A client downloads from a null seeder (`nullpeer`: it serves from a few cached MiB, as fast as it is asked),
//! uploads to a null leecher, or checks its files. CPU seconds are the client's own, all threads, user and system;
//! wall time is from its start to its end for a download and a check, and of the transfer for seeding. `limit` is one
//! thread of this program that receives, hashes four pieces at once and writes, with no protocol at all.
//!
//! Compare numbers of one run only: machines differ, and so does one machine with other things to do. Virtual
//! machines that give free memory back to their host make whoever comes first pay for getting it again. Linux only:
//! the figures come from `/proc`.

mod clients;
mod measure;
mod nullpeer;

use clients::Client;
use measure::{Figures, median};
use nullpeer::Content;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(300);

struct Options {
    works: Vec<String>,
    size: u64,
    runs: usize,
    clients: Vec<Client>,
    dir: PathBuf,
}

fn options() -> Result<Options, String> {
    let mut o = Options { works: Vec::new(), size: 1024, runs: 5, clients: Vec::new(), dir: std::env::temp_dir() };
    let (mut names, mut extra) = (None, Vec::new());
    for arg in std::env::args().skip(1) {
        let number = |v: &str| v.parse::<u64>().ok().filter(|n| *n > 0).ok_or(format!("{arg}: wanted a number"));
        match arg.split_once('=') {
            Some(("--size", v)) => o.size = number(v)?,
            Some(("--runs", v)) => o.runs = number(v)? as usize,
            Some(("--clients", v)) => names = Some(v.split(',').map(str::to_owned).collect::<Vec<_>>()),
            Some(("--dir", v)) => o.dir = v.into(),
            Some(("--btmio", v)) => extra.push(v.to_owned()),
            None if ["download", "seed", "check", "limit"].contains(&arg.as_str()) => o.works.push(arg),
            _ => return Err(format!("{arg}: wanted download, seed, check, limit or an option; see the source's head")),
        }
    }
    if o.works.is_empty() {
        o.works = ["download", "seed", "check", "limit"].map(str::to_owned).into();
    }
    o.clients = clients::installed(names.as_deref(), &extra)?;
    o.dir = o.dir.join(format!("btmio-compare-{}", std::process::id()));
    Ok(o)
}

fn main() -> ExitCode {
    let result = options().and_then(|o| {
        std::fs::create_dir_all(&o.dir).map_err(|e| format!("{}: {e}", o.dir.display()))?;
        let result = run(&o);
        let _ = std::fs::remove_dir_all(&o.dir);
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("compare: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(o: &Options) -> Result<(), String> {
    let content = Content::new(o.size << 20);
    let torrent = o.dir.join("payload.torrent");
    std::fs::write(&torrent, content.torrent()).map_err(|e| format!("{}: {e}", torrent.display()))?;
    let whole = o.dir.join("whole");
    if o.works.iter().any(|w| w == "seed" || w == "check") {
        content.write(&whole).map_err(|e| format!("{}: {e}", whole.display()))?;
    }
    for work in &o.works {
        let gib = content.len() as f64 / (1u64 << 30) as f64;
        println!("\n{work}, {} MiB, medians of {}\n", o.size, o.runs);
        println!("| | wall s | CPU s/GiB | MB/s | peak RssAnon MiB | peak resident MiB |\n|---|---|---|---|---|---|");
        let mut all: Vec<(&str, Vec<Figures>)> = o.clients.iter().map(|c| (c.name(), Vec::new())).collect();
        if work == "limit" {
            all = vec![("one thread, no protocol", Vec::new())];
        }
        for _ in 0..o.runs {
            for (i, (name, figures)) in all.iter_mut().enumerate() {
                let one = match work.as_str() {
                    "limit" => nullpeer::limit(&content, &o.dir),
                    _ => one(work, &o.clients[i], &content, &torrent, &o.dir, &whole),
                };
                match one {
                    Ok(f) => figures.push(f),
                    Err(e) => eprintln!("compare: {name}: {e}"),
                }
            }
        }
        for (name, figures) in &all {
            if figures.is_empty() {
                continue;
            }
            let of = |f: &dyn Fn(&Figures) -> f64| median(figures.iter().map(f).collect());
            let wall = of(&|f| f.wall);
            println!(
                "| {name} | {wall:.3} | {:.3} | {:.0} | {:.1} | {:.1} |",
                of(&|f| f.cpu) / gib,
                content.len() as f64 / wall / 1e6,
                of(&|f| f.anon),
                of(&|f| f.peak)
            );
        }
    }
    Ok(())
}

/// One run of one client.
fn one(
    work: &str,
    client: &Client,
    content: &Content,
    torrent: &Path,
    dir: &Path,
    whole: &Path,
) -> Result<Figures, String> {
    let port = free_port()?;
    let home = dir.join("home");
    let fresh = dir.join("download");
    for d in [&home, &fresh] {
        let _ = std::fs::remove_dir_all(d);
        std::fs::create_dir_all(d).map_err(|e| format!("{}: {e}", d.display()))?;
    }
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match work {
        "download" => {
            let child = client.download(torrent, &fresh, &home, port)?;
            let seeder = nullpeer::seed(content.clone(), to, PATIENCE);
            let figures = child.to_the_end(PATIENCE)?;
            seeder.join().map_err(|_| "the null seeder panicked")?.map_err(|e| format!("the null seeder: {e}"))?;
            let done = std::fs::metadata(fresh.join(Content::NAME)).map_or(0, |m| m.len());
            if done == content.len() { Ok(figures) } else { Err(format!("wanted {} bytes, got {done}", content.len())) }
        }
        "seed" => {
            let mut child = client.seed(torrent, whole, &home, port)?;
            let pid = child.id();
            let leecher = nullpeer::leech(content, to, pid, PATIENCE).map_err(|e| format!("the null leecher: {e}"))?;
            // What came before the transfer is checking.
            let figures = child.now(leecher.cpu_before, leecher.seconds)?;
            child.stop();
            Ok(figures)
        }
        _ => client.check(torrent, whole, &home)?.to_the_end(PATIENCE),
    }
}

fn free_port() -> Result<u16, String> {
    let l = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    l.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}
