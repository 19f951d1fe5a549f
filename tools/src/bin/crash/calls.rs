//! Killed at every system call that changes a file or a folder, one after the other.
//!
//! A first run under `strace` counts the calls of each kind and thread; then there is one run for each kind and
//! number, killed when it makes that call, and a run after it that must complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use tools::payload::Payload;
use tools::process::Child;

use crate::rig::{Outcome, PATIENCE, Seeder, Swarm, Told, Work};

const PIECE: usize = 64 << 10;
/// What changes files, folders, or what is known of them. Not every machine has all of them.
const CALLS: [&str; 26] = [
    "openat",
    "openat2",
    "mkdirat",
    "mkdir",
    "unlink",
    "unlinkat",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "truncate",
    "msync",
    "rename",
    "renameat",
    "renameat2",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
    "sync_file_range",
    "fdatasync",
    "fsync",
    "flock",
];

pub(crate) fn run(work: &Work) -> Result<Outcome, String> {
    let payload =
        Payload::new("call payload", PIECE, 0xCA11, &[("a.bin", 150_001), ("sub/b.bin", 200_000), ("empty", 0)]);
    let swarm = Swarm::new(work, "seed-calls", payload, Seeder::Btmio(0))?;
    let mut out = Outcome { what: "kill at each call".into(), ..Outcome::default() };
    let dir = work.dir.join("calls");
    let trace = work.dir.join("trace");
    let known: Vec<_> = CALLS.into_iter().filter(|c| knows(c)).collect();
    let plain = swarm.download(work, &dir, None, false);
    let all = format!("trace={}", known.join(","));
    let mut first = Child::spawn("traced", &work.dir, under(&plain, &["-o", &trace.to_string_lossy(), "-e", &all]))
        .map_err(|e| format!("strace: {e}"))?;
    if !first.wait(PATIENCE).is_some_and(|s| s.success()) {
        return Err(format!("the run to count calls failed\n{}", first.tail()));
    }
    let counts = count(&fs::read_to_string(&trace).map_err(|e| e.to_string())?);
    let mut reached = 0;
    for (call, numbers) in &counts {
        for n in numbers {
            let _ = fs::remove_dir_all(&dir);
            let (set, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={n}"));
            let args = ["-o", "/dev/null", "-e", &set, "-e", &inject];
            let mut killed = Child::spawn("killed", &work.dir, under(&plain, &args)).map_err(|e| e.to_string())?;
            let status = killed.wait(PATIENCE).ok_or("a run to be killed does not end")?;
            reached += u32::from(!status.success());
            let before = Told::by(&killed);
            let mut last = Child::spawn("restarted", &work.dir, swarm.download(work, &dir, None, false))
                .map_err(|e| e.to_string())?;
            out.runs += 1;
            let ended = last.wait(PATIENCE);
            let after = Told::by(&last);
            let mut wrong = Vec::new();
            if !ended.is_some_and(|s| s.success()) || !after.errors.is_empty() {
                wrong.push(format!("the next run ended with {ended:?} {:?}\n{}", after.errors, last.tail()));
            }
            wrong.extend(swarm.payload.check(&dir.join("data")).err());
            let again: Vec<_> = before.names().intersection(&after.names()).copied().collect();
            if !again.is_empty() {
                out.lost = out.lost.max((again.len() * PIECE) as u64);
                wrong.push(format!("pieces {again:?} had been verified and came again"));
            }
            out.wrong.extend(wrong.into_iter().map(|w| format!("{call} {n}: {w}")));
        }
    }
    let kinds: Vec<_> = counts.iter().map(|(c, n)| format!("{c} {}", n.len())).collect();
    out.more = format!("{reached} killed; {}", kinds.join(", "));
    Ok(out)
}

/// Whether this `strace` and this machine have such a call.
fn knows(call: &str) -> bool {
    let set = format!("trace={call}");
    Command::new("strace").args(["-o", "/dev/null", "-e", &set, "true"]).output().is_ok_and(|o| o.status.success())
}

/// A command under `strace`, with what it starts.
fn under(command: &Command, args: &[&str]) -> Command {
    let mut c = Command::new("strace");
    c.args(["-f", "-qq"]).args(args).arg(command.get_program()).args(command.get_args());
    c.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    c
}

/// The numbers of the calls of each kind that change something: `strace` counts for each thread by itself.
fn count(trace: &str) -> BTreeMap<String, BTreeSet<u32>> {
    let mut each: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut found: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for line in trace.lines().filter(|l| !l.contains(" resumed>")) {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next().and_then(|w| w.split_once('('))) else { continue };
        let n = each.entry((call.0, thread)).or_default();
        *n += 1;
        // Reading the libraries and the torrent changes nothing, nor does what it prints.
        let reads = call.0.starts_with("openat") && !["O_CREAT", "O_WRONLY", "O_RDWR"].iter().any(|f| line.contains(f));
        if !reads && !call.1.starts_with("1,") && !call.1.starts_with("2,") {
            found.entry(call.0.to_owned()).or_default().insert(*n);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn calls_are_counted_by_thread_and_only_those_that_change_something() {
        let trace = [
            "7 openat(AT_FDCWD, \"/etc/x\", O_RDONLY) = 3",
            "7 openat(4, \"a\", O_RDWR|O_CREAT, 0666) = 5",
            "8 write(1, \"{}\", 2) = 2",
            "8 write(5, \"hj\", 2 <unfinished ...>",
            "8 <... write resumed>) = 2",
            "7 write(5, \"\", 0) = 0",
        ];
        let found = super::count(&trace.join("\n"));
        assert_eq!(found["openat"].iter().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(found["write"].iter().copied().collect::<Vec<_>>(), [1, 2]);
    }
}
