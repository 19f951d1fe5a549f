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
//! Without a choice everything runs, at the size continuous integration has time for. Cuts need root, loop devices,
//! `mkfs.ext4`, `mkfs.xfs` and `xfs_io`; calls need `strace`. Where loop mounts cannot be made, that is said
//! loudly, and it is a failure only for root. A libtorrent for Python (`BTMIO_PYTHON`) seeds when there is one, else
//! btmio. Everything listens on the loopback interface alone.

mod calls;
mod cuts;
mod kills;
mod rig;
mod volume;

use std::path::PathBuf;
use std::process::ExitCode;

use rig::Outcome;

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

fn run() -> Result<bool, String> {
    let asked = asked()?;
    let base = asked.dir.clone().unwrap_or_else(std::env::temp_dir);
    let work = rig::Work::new(&base.join(format!("btmio-crash-{}", std::process::id())))?;
    let (mut good, mut table) = (true, vec![Outcome::head()]);
    let mut note = |what: Result<Outcome, (String, bool)>| {
        let (line, well) = match what {
            Ok(outcome) => (outcome.line(), outcome.is_good()),
            Err(not_run) => not_run,
        };
        eprintln!("{line}");
        good &= well;
        table.push(line);
    };
    for (kind, cuts) in [("ext4", asked.ext4), ("xfs", asked.xfs)] {
        if cuts == 0 {
            continue;
        }
        match volume::Volume::new(&work.dir, kind) {
            Ok(volume) => note(Ok(cuts::run(&work, volume, cuts, asked.seed)?)),
            Err(e) => {
                let text = format!("*** NO POWER CUTS ON {kind}: a loop mount cannot be made here: {e} ***");
                note(Err((text, !volume::is_root())));
            }
        }
    }
    if asked.kills > 0 {
        note(Ok(kills::run(&work, asked.kills, asked.seed)?));
    }
    if asked.calls {
        note(Ok(calls::run(&work)?));
    }
    println!("{}", table.join("\n"));
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
