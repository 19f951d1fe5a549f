//! Side by side: btmio and the clients that are installed, doing the same work on this machine.
//!
//! ```text
//! cargo build --release && cargo run --release -p tools --bin compare -- [WORK]... [OPTION]...
//!   WORK           download, memory, seed, slow, small, check, idle, many, cold, wire (default: all)
//!   --size=MIB     of the payload (default: as each work says)
//!   --runs=N       of each client, taken in turns (default 5); medians are printed
//!   --clients=A,B  of btmio, libtorrent, libtorrent-tuned, aria2, rqbit, rtorrent (default: all that are installed)
//!   --dir=DIR      scratch folder, emptied of what was made (default: the temporary folder)
//!   --peers=N      for idle (default 10000)
//!   --torrents=N   for many (default 10000)
//!   --btmio=ARG    another argument for btmio; repeatable
//! ```
//!
//! A client downloads from null seeders (`nullpeer`: they serve from a few cached MiB, as fast as they are asked or at
//! a rate), uploads to a null leecher, checks its files, or holds on to peers or torrents and does nothing. CPU seconds
//! are the client's own, all threads, user and system; wall time is from its start to its end for a download and a
//! check, and of the transfer for seeding. `BTMIO_PYTHON` names the Python that has libtorrent, `RQBIT` rqbit, `BTMIO`
//! btmio, where they are not found otherwise.
//!
//! `÷` columns are what btmio needs, as a share of what that client needs. Compare numbers of one run only: machines
//! differ, and so does one machine with other things to do. Virtual machines that give free memory back to their host
//! make whoever comes first pay for getting it again. Linux only: the figures come from `/proc`.

mod clients;
mod content;
mod limit;
mod measure;
mod nullpeer;
mod wire;
mod works;

use clients::Client;
use measure::median;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use works::{Bench, WORKS, Work};

/// Longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(100);

struct Options {
    works: Vec<&'static Work>,
    size: Option<u64>,
    runs: usize,
    clients: Vec<Client>,
    dir: PathBuf,
    counts: (u32, u32),
}

fn options() -> Result<Options, String> {
    let mut o = Options {
        works: Vec::new(),
        size: None,
        runs: 5,
        clients: Vec::new(),
        dir: std::env::temp_dir(),
        counts: (10_000, 10_000),
    };
    let (mut names, mut extra) = (None, Vec::new());
    for arg in std::env::args().skip(1) {
        let number = |v: &str| v.parse::<u32>().ok().filter(|n| *n > 0).ok_or(format!("{arg}: wanted a number"));
        match arg.split_once('=') {
            Some(("--size", v)) => o.size = Some(number(v)?.into()),
            Some(("--runs", v)) => o.runs = number(v)? as usize,
            Some(("--clients", v)) => names = Some(v.split(',').map(str::to_owned).collect::<Vec<_>>()),
            Some(("--dir", v)) => o.dir = v.into(),
            Some(("--peers", v)) => o.counts.0 = number(v)?,
            Some(("--torrents", v)) => o.counts.1 = number(v)?.max(2),
            Some(("--btmio", v)) => extra.push(v.to_owned()),
            _ => match WORKS.iter().find(|w| w.name == arg) {
                Some(work) => o.works.push(work),
                None => return Err(format!("{arg}: wanted a work or an option; see the source's head")),
            },
        }
    }
    if o.works.is_empty() {
        o.works = WORKS.iter().collect();
    }
    o.clients = clients::installed(names.as_deref(), &extra)?;
    o.dir = o.dir.join(format!("btmio-compare-{}", std::process::id()));
    Ok(o)
}

fn main() -> ExitCode {
    // Idle peers are many descriptors, here and in the clients, which inherit this.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    let result = options().and_then(|o| {
        o.works.iter().try_for_each(|work| {
            std::fs::create_dir_all(&o.dir).map_err(|e| format!("{}: {e}", o.dir.display()))?;
            let result = run(&o, work);
            let _ = std::fs::remove_dir_all(&o.dir);
            result
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("compare: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(o: &Options, work: &'static Work) -> Result<(), String> {
    let bench = Bench::new(work, o.size, &o.dir, o.counts)?;
    let runners = bench.runners(&o.clients);
    let mut all: Vec<Vec<Vec<f64>>> = vec![Vec::new(); runners.len()];
    for _ in 0..o.runs {
        for (runner, figures) in runners.iter().zip(&mut all) {
            match bench.run(runner) {
                Ok(f) => figures.push(f),
                Err(e) => eprintln!("compare: {}: {}: {e}", work.name, runner.name()),
            }
        }
    }
    println!("\n**{}**: {}; {} MiB, medians of {}\n", work.name, work.title, bench.content.len() >> 20, o.runs);
    let titles: Vec<&str> = work.figures.iter().map(|f| f.0).collect();
    let ratios: Vec<String> = titles[..work.ratios].iter().map(|t| format!(" ÷ {t} |")).collect();
    println!("| | {} |{}", titles.join(" | "), ratios.concat());
    println!("|{}", "---|".repeat(1 + titles.len() + ratios.len()));
    let medians = |figures: &[Vec<f64>]| -> Vec<f64> {
        (0..titles.len()).map(|i| median(figures.iter().map(|f| f[i]).collect())).collect()
    };
    let ours = all.first().map(|f| medians(f)).unwrap_or_default();
    for (runner, figures) in runners.iter().zip(&all).filter(|(_, f)| !f.is_empty()) {
        let theirs = medians(figures);
        let cell = |(value, (_, digits)): (&f64, &(&str, usize))| match value.is_nan() {
            true => " – |".to_owned(),
            false => format!(" {value:.digits$} |"),
        };
        let cells: String = theirs.iter().zip(work.figures).map(cell).collect();
        let ratio = |(a, b): (&f64, &f64)| if b.is_nan() { " – |".to_owned() } else { format!(" {:.2} |", a / b) };
        let ratios: String = ours.iter().zip(&theirs).take(work.ratios).map(ratio).collect();
        let count = if figures.len() < o.runs { format!(" ({} runs)", figures.len()) } else { String::new() };
        println!("| {}{count} |{cells}{ratios}", runner.name());
    }
    Ok(())
}
