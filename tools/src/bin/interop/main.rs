//! Real clients against btmio, both directions, with faults: `interop`, `interop --list`, `interop NAME...`.
//!
//! Each scenario is this program once more, as the first process of a network and process namespace of
//! its own (`unshare`): addresses 10.77.0.1 to 10.77.0.9 and fd77::1 to fd77::9 on a loopback device that
//! nothing else is on. So
//! clients that refuse 127/8 as a peer's address work, ports never clash, nothing reaches a real network,
//! and when the scenario's process ends the kernel ends everything it started. `unshare`, `setpriv` and
//! `ip` are all that is needed besides the clients; without root, a user namespace is asked for.
//!
//! Nothing is skipped: a client that is not installed is a scenario that failed.
//!
//! `A-to-B` runs for any two clients (`interop aria2-to-transmission`), which tells a fault of the runner
//! from a fault of btmio.

mod binding;
mod clients;
mod finding;
mod gateway;
mod host;
mod http;
mod https;
mod large;
mod scenarios;
mod trackers;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tools::payload::Payload;
use tools::process::{Child, program};

/// Longest a scenario may take before it is killed.
const SCENARIO: Duration = Duration::from_secs(240);

const USAGE: &str = "interop [--list] [--jobs=N] [--keep] [--dir=DIR] [NAME | A-to-B]...";

/// What the command line asks for.
struct Options {
    jobs: usize,
    keep: bool,
    list: bool,
    inside: bool,
    dir: PathBuf,
    names: Vec<String>,
}

fn options() -> Result<Options, String> {
    let dir = std::env::temp_dir().join(format!("btmio-interop-{}", std::process::id()));
    let mut o = Options { jobs: 2, keep: false, list: false, inside: false, dir, names: Vec::new() };
    for arg in std::env::args().skip(1) {
        match arg.split_once('=').unwrap_or((&arg, "")) {
            ("--jobs", n) => o.jobs = n.parse().ok().filter(|&n| n > 0).ok_or(format!("{arg}: a number above 0"))?,
            ("--dir", dir) if !dir.is_empty() => o.dir = dir.into(),
            ("--keep", "") => o.keep = true,
            ("--list", "") => o.list = true,
            ("--inside", "") => o.inside = true,
            _ if arg.starts_with('-') => return Err(format!("{arg}: unknown\nusage: {USAGE}")),
            _ => o.names.push(arg),
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(e) => {
            eprintln!("interop: {e}");
            return ExitCode::from(2);
        }
    };
    let result = if options.inside { inside(&options) } else { outside(options) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// The scenario itself, alone on its network.
fn inside(options: &Options) -> Result<(), String> {
    let ip = |args: &str| match Command::new("ip").args(args.split(' ')).status() {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("ip {args}: {other:?}")),
    };
    ip("link set lo up")?;
    (1..10).try_for_each(|n| ip(&format!("address add 10.77.0.{n}/24 dev lo")))?;
    (1..10).try_for_each(|n| ip(&format!("-6 address add fd77::{n}/64 dev lo nodad")))?;
    let name = options.names.first().ok_or("which scenario?")?;
    let world = scenarios::World { dir: options.dir.clone(), payload: Payload::interop(), net: "10.77.0." };
    println!("{}", scenarios::run(name, &world)?);
    Ok(())
}

/// A scenario's end.
struct Outcome {
    name: String,
    took: Duration,
    result: Result<String, String>,
}

fn outside(options: Options) -> Result<(), String> {
    let names = if options.names.is_empty() { scenarios::names() } else { options.names.clone() };
    if options.list {
        names.iter().for_each(|n| println!("{n}"));
        return Ok(());
    }
    // Once, here: inside, several cargos would wait for each other.
    let btmio = program("btmio")?;
    let queue = Mutex::new(names.into_iter().collect::<VecDeque<_>>());
    let outcomes = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let Some(name) = queue.lock().expect("no worker panics").pop_front() else { return };
            let begin = Instant::now();
            let result = one(&name, &options.dir, &btmio);
            let outcome = Outcome { name, took: begin.elapsed(), result };
            println!("{}", line(&outcome));
            if !options.keep {
                let _ = std::fs::remove_dir_all(options.dir.join(&outcome.name));
            }
            outcomes.lock().expect("no worker panics").push(outcome);
        }
    };
    std::thread::scope(|s| (0..options.jobs).for_each(|_| drop(s.spawn(worker))));
    let outcomes = outcomes.into_inner().expect("no worker panics");
    let failed: Vec<_> = outcomes.iter().filter(|o| o.result.is_err()).collect();
    for outcome in &failed {
        println!("\n-- {}\n{}", outcome.name, outcome.result.as_ref().expect_err("only failures are here").trim_end());
    }
    println!("\n{} of {} scenarios passed", outcomes.len() - failed.len(), outcomes.len());
    outcomes.iter().for_each(|o| println!("{}", line(o)));
    match options.keep {
        true => println!("everything is kept in {}", options.dir.display()),
        false => drop(std::fs::remove_dir_all(&options.dir)),
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("interop: {} failed", failed.len())) }
}

/// One row of the table.
fn line(o: &Outcome) -> String {
    let (word, note) = match &o.result {
        Ok(note) => ("ok", note.as_str()),
        Err(e) => ("FAILED", e.lines().next().unwrap_or("")),
    };
    format!("{:<26} {word:<7} {:>6.1} s  {note}", o.name, o.took.as_secs_f64())
}

/// Starts a scenario in its namespaces and waits for it.
fn one(name: &str, dir: &Path, btmio: &Path) -> Result<String, String> {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    // If this program is killed, so is `unshare`, and with it all that is in there.
    let mut c = Command::new("setpriv");
    c.args(["--pdeathsig=KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // Root's own namespaces if we may, else those of a user namespace in which we are root.
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    if !root {
        c.arg("--map-root-user");
    }
    c.arg(std::env::current_exe().map_err(|e| e.to_string())?);
    c.args(["--inside", name]).arg(format!("--dir={}", dir.display())).env("BTMIO", btmio);
    let mut child = Child::spawn("scenario", &dir, c).map_err(|e| format!("starting {e}"))?;
    let status = child.wait(SCENARIO);
    let errors = std::fs::read_to_string(&child.stderr).unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(child.output().trim().to_owned()),
        Some(status) if errors.is_empty() => Err(format!("ended with {status}")),
        Some(_) => Err(errors),
        None => Err(format!("not over in {SCENARIO:?}: killed\n{errors}")),
    }
}
