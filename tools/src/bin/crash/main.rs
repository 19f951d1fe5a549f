//! What survives: power cuts, kills, and a kill at each system call that changes something.
//!
//! ```text
//! crash [--ext4 N] [--xfs N] [--kills N] [--calls] [--seed N] [--dir DIR]
//!
//!   cuts    seeder ─▶ btmio, its files and its state on a loop-mounted volume ─▶ shut down without flushing the log,
//!           at a random instant ─▶ mounted again ─▶ every piece it claims is compared with the truth
//!   kills   kill -9 at a random instant ─▶ nothing that was verified is lost, little is fetched again
//!   calls   killed at every call that changes a file or a folder, one after the other ─▶ each restart completes
//! ```
//!
//! Without a choice everything runs, at the size continuous integration has time for. It needs root, for mounts and a
//! network of its own; cuts need loop devices, `mkfs.ext4`, `mkfs.xfs` and `xfs_io`, calls need `strace`. What is
//! missing is a failure, never a skip. A libtorrent for Python (`BTMIO_PYTHON`) seeds when there is one, else btmio.

mod calls;
mod cuts;
mod kills;
mod rig;
mod volume;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use rig::{Outcome, Work};
use tools::alone::alone;
use tools::process::program;

/// What was asked for.
#[derive(Default)]
struct Asked {
    ext4: u32,
    xfs: u32,
    kills: u32,
    calls: bool,
    seed: u64,
    dir: Option<PathBuf>,
}

fn asked() -> Result<Asked, String> {
    let mut a = Asked { seed: 1, ..Asked::default() };
    let mut args = std::env::args().skip(1);
    let mut some = false;
    while let Some(name) = args.next() {
        let mut number = || {
            let text = args.next().ok_or(format!("{name}: wanted a number, got nothing"))?;
            text.parse().map_err(|_| format!("{name}: wanted a number, got '{text}'"))
        };
        some |= !matches!(name.as_str(), "--seed" | "--dir");
        match name.as_str() {
            "--ext4" => a.ext4 = number()?,
            "--xfs" => a.xfs = number()?,
            "--kills" => a.kills = number()?,
            "--calls" => a.calls = true,
            "--seed" => a.seed = number()?.into(),
            "--dir" => a.dir = Some(args.next().ok_or("--dir: wanted a folder, got nothing")?.into()),
            _ => return Err(format!("'{name}' is not known: see the head of tools/src/bin/crash/main.rs")),
        }
    }
    Ok(if some { a } else { Asked { ext4: 10, xfs: 10, kills: 4, calls: true, ..a } })
}

/// Bytes a socket may hold in each direction: what a seeder has sent is then what btmio has read, but for a little.
const SOCKET: u64 = 128 << 10;

fn small_buffers() -> Result<(), String> {
    for name in ["tcp_rmem", "tcp_wmem"] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, format!("4096 65536 {SOCKET}")).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}

/// Cuts on both file systems side by side: most of the time is waiting.
fn all_cuts(work: &Work, asked: &Asked) -> Vec<Result<Outcome, String>> {
    let one = |kind, cuts| {
        let volume = volume::Volume::new(&work.dir, kind)
            .map_err(|e| format!("*** NO POWER CUTS ON {kind}: a loop mount cannot be made here: {e} ***"))?;
        cuts::run(work, volume, cuts, asked.seed).map_err(|e| format!("power cuts, {kind}: {e}"))
    };
    let kinds = [("ext4", asked.ext4), ("xfs", asked.xfs)];
    std::thread::scope(|s| {
        let wanted = kinds.into_iter().filter(|k| k.1 > 0);
        let threads: Vec<_> = wanted.map(|(kind, cuts)| s.spawn(move || one(kind, cuts))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a run panicked".into()))).collect()
    })
}

fn run() -> Result<bool, String> {
    let asked = asked()?;
    alone(&[("BTMIO", program("btmio")?.as_os_str())])?;
    small_buffers()?;
    let base = asked.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut work = Work::new(&base.join(format!("btmio-crash-{}", std::process::id())))?;
    let mut all = all_cuts(&work, &asked);
    if asked.kills > 0 {
        all.push(kills::run(&work, asked.kills, asked.seed).map_err(|e| format!("kill -9: {e}")));
    }
    if asked.calls {
        all.push(calls::run(&work).map_err(|e| format!("kill at each call: {e}")));
    }
    println!("{}", Outcome::head());
    let mut good = true;
    for one in all {
        match one {
            Ok(outcome) => {
                good &= outcome.is_good();
                println!("{}", outcome.line());
            }
            Err(e) => {
                good = false;
                println!("{e}");
            }
        }
    }
    if !good {
        work.keep();
    }
    Ok(good)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("crash: {e}");
            ExitCode::from(2)
        }
    }
}
