//! T53: a hundred files to download with hardly any descriptors, while idle connections want them all. It must
//! complete, and must not spin over connections that it cannot accept.

use crate::attacks::{Bots, CROWD};
use crate::clients::{Client, Role};
use crate::report::Outcome;
use crate::seeds::Seeds;
use crate::{World, complete, cpu};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tools::process::wait_for;

/// Longest the download may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is watched with nothing to do but to refuse.
const WATCHED: Duration = Duration::from_secs(5);
/// Processor time that this may take, in percent.
const IDLE: f64 = 2.0;

pub(crate) fn run(world: &World, client: Client, nofile: u64) -> Outcome {
    attempt(world, client, nofile).unwrap_or_else(|e| Outcome::failed(client, nofile, CROWD.name, CROWD.what, e))
}

fn attempt(world: &World, client: Client, nofile: u64) -> Result<Outcome, String> {
    let torrent = world.scratch.join("starve.torrent");
    let _seeds = Seeds::start(&world.payload, 1, None, &torrent)?;
    let mut job = world.job(client, Role::Leech, nofile, CROWD.name);
    job.torrent = torrent;
    let mut node = client.start(&job)?;
    let pid = node.child.id();
    let over = AtomicBool::new(false);
    let (took, percent) = std::thread::scope(|s| {
        s.spawn(|| {
            let mut bots = Bots::new(&CROWD, world.payload.info_hash(), world.payload.pieces() as u32);
            bots.run(|| !over.load(Ordering::Relaxed));
        });
        let begin = Instant::now();
        let done = wait_for(PATIENCE, || match node.child.exited() {
            None => complete(&world.payload, &job.dir).then_some(Ok(begin.elapsed())),
            Some(status) => Some(Err(format!("ended with {status}"))),
        });
        // What comes after the last piece is over.
        std::thread::sleep(Duration::from_secs(1));
        let (before, begin) = (cpu(pid), Instant::now());
        std::thread::sleep(WATCHED);
        let percent = (cpu(pid) - before) as f64 / begin.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        (done, percent)
    });
    let took = match took {
        Some(result) => result.map_err(|e| format!("{e}\n{}", node.child.tail()))?,
        None => {
            let good = world.payload.good_pieces(&job.dir).len();
            let of = world.payload.pieces();
            return Err(format!("{good} of {of} pieces in {} s; then {percent:.1} % of a core", PATIENCE.as_secs()));
        }
    };
    let text = format!("complete in {:.1} s, then {percent:.1} % of a core", took.as_secs_f64());
    Ok(Outcome { good: percent <= IDLE, cpu: percent, ..Outcome::told(client, nofile, CROWD.name, CROWD.what, text) })
}
