//! Runs seeds of the simulator, each twice, and says which failed.
//!
//! `sim [--seeds N] [--from S] [--nodes N] [--threads N] [--seconds T]` runs many, and begins none after T seconds;
//! `--fresh` draws S from the clock, and prints it, so that the batch can be run again;
//! `sim --seed S [--nodes N] [--trace] [--pcap FILE]` runs one, with a transcript on standard output.
//! A line of `testdata/seeds.txt` is `NODES SEED`, and `sim --list FILE` runs every one;
//! `sim --table [--check FILE]` prints how long swarms take, and compares that with a table that was kept.

mod table;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use btmio::sim::{Options, Report, run};

struct Log;
impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        println!("              | {} {}", record.target(), record.args());
    }
    fn flush(&self) {}
}

thread_local! {
    /// What the last panic of this thread said, and where.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    /// Where the capture goes.
    static CAPTURE: RefCell<Option<BufWriter<File>>> = const { RefCell::new(None) };
}

/// A panic is a finding; its message comes from the hook.
fn attempt(seed: u64, options: &Options) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, options))).map_err(|_| PANIC.take())
}

/// What is wrong with a seed, if anything; and what its run was like.
fn judge(seed: u64, options: &Options) -> (Vec<String>, Option<Report>) {
    let first = match attempt(seed, options) {
        Ok(r) => r,
        Err(e) => return (vec![e], None),
    };
    let mut wrong = first.violations.clone();
    match attempt(seed, options) {
        Ok(second) if second.hash == first.hash => {}
        Ok(_) => wrong.push("the second run differs from the first".to_owned()),
        Err(e) => wrong.push(format!("the second run: {e}")),
    }
    (wrong, Some(first))
}

fn one(seed: u64, options: &Options, trace: bool, pcap: Option<&str>) -> bool {
    let mut options = *options;
    if trace {
        let _ = log::set_logger(&Log);
        log::set_max_level(log::LevelFilter::Trace);
        options.lines = Some(|line| println!("{line}"));
    }
    if let Some(path) = pcap {
        let file = File::create(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        CAPTURE.set(Some(BufWriter::new(file)));
        options.pcap = Some(|bytes| {
            CAPTURE.with_borrow_mut(|c| c.iter_mut().for_each(|c| c.write_all(bytes).expect("room for the capture")));
        });
    }
    let result = attempt(seed, &options);
    if let Some(mut capture) = CAPTURE.take() {
        capture.flush().expect("room for the capture");
    }
    match result {
        Ok(report) => {
            println!("{report:#?}");
            report.violations.is_empty()
        }
        Err(e) => {
            println!("{e}");
            false
        }
    }
}

fn many(seeds: &[(u32, u64)], threads: usize, seconds: u64) -> bool {
    let (next, events, virtual_us) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let counts = Mutex::new(BTreeMap::<&str, u64>::new());
    let ran = AtomicUsize::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&(nodes, seed)) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if begin.elapsed().as_secs() >= seconds {
                        break;
                    }
                    ran.fetch_add(1, Ordering::Relaxed);
                    let (wrong, report) = judge(seed, &Options { nodes, ..Options::default() });
                    if let Some(r) = report {
                        events.fetch_add(r.events, Ordering::Relaxed);
                        virtual_us.fetch_add(r.ended.as_micros(), Ordering::Relaxed);
                        let mut counts = counts.lock().expect("no thread panics with the lock");
                        r.counts.iter().for_each(|(what, n)| *counts.entry(what).or_default() += n);
                    }
                    if !wrong.is_empty() {
                        println!("{nodes} {seed} FAILED: {}", wrong.join("; "));
                        failed.lock().expect("no thread panics with the lock").push((nodes, seed));
                    }
                }
            });
        }
    });
    let secs = begin.elapsed().as_secs_f64();
    let mut failed = failed.into_inner().expect("no thread panics with the lock");
    failed.sort_unstable();
    println!(
        "{} seeds, each twice, {} failed; {:.0} seeds a minute on {threads} threads, {:.2} M events, {:.1} virtual hours",
        ran.load(Ordering::Relaxed),
        failed.len(),
        ran.load(Ordering::Relaxed) as f64 * 60.0 / secs,
        events.into_inner() as f64 / 1e6,
        virtual_us.into_inner() as f64 / 3.6e9,
    );
    let counts = counts.into_inner().expect("no thread panics with the lock");
    let told: Vec<_> = counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
    println!("went wrong: {}", told.join(", "));
    failed.iter().for_each(|(nodes, seed)| println!("{nodes} {seed}"));
    failed.is_empty()
}

fn listed(path: &str) -> Vec<(u32, u64)> {
    let text = std::fs::read_to_string(path).expect("the list can be read");
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or("").trim()).filter(|l| !l.is_empty());
    lines
        .map(|l| {
            let (nodes, seed) = l.split_once(' ').expect("a line is `NODES SEED`");
            (nodes.parse().expect("a number of nodes"), seed.trim().parse().expect("a seed"))
        })
        .collect()
}

fn main() {
    std::panic::set_hook(Box::new(|info| PANIC.set(info.to_string().replace('\n', " "))));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).map(String::as_str);
    let number = |name: &str, or: u64| value(name).map_or(or, |v| v.parse().expect("a number"));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let nodes = number("--nodes", 8) as u32;
    let threads = number("--threads", cores) as usize;
    let seconds = number("--seconds", u64::MAX);
    let ok = if let Some(seed) = value("--seed") {
        let options = Options { nodes, ..Options::default() };
        one(seed.parse().expect("a seed"), &options, args.iter().any(|a| a == "--trace"), value("--pcap"))
    } else if args.iter().any(|a| a == "--table") {
        table::table(threads, value("--check"))
    } else if let Some(path) = value("--list") {
        many(&listed(path), threads, seconds)
    } else {
        let mut from = number("--from", 0);
        if args.iter().any(|a| a == "--fresh") {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            from = now.map_or(0, |d| d.as_micros() as u64);
        }
        let count = number("--seeds", 1000);
        println!("--nodes {nodes} --from {from} --seeds {count}");
        let seeds: Vec<_> = (from..from + count).map(|s| (nodes, s)).collect();
        many(&seeds, threads, seconds)
    };
    std::process::exit(i32::from(!ok));
}
