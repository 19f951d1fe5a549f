//! T25: ten seeds, one of which spoils a byte of every piece. The liar must be found by the second bad
//! piece, at most 2 % of the payload may be in pieces that failed, and the download completes. What the end
//! game fetches twice is told, but not held against anyone.

use crate::clients::{Client, Role};
use crate::report::Outcome;
use crate::seeds::Seeds;
use crate::{World, complete};
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tools::process::wait_for;

const NAME: &str = "T25";
const WHAT: &str = "corrupt data";
const LIAR: u8 = 3;
/// Longest a download may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(world: &World, client: Client, nofile: u64) -> Outcome {
    attempt(world, client, nofile).unwrap_or_else(|e| Outcome::failed(client, nofile, NAME, WHAT, e))
}

fn attempt(world: &World, client: Client, nofile: u64) -> Result<Outcome, String> {
    let torrent = world.scratch.join("corrupt.torrent");
    let seeds = Seeds::start(&world.payload, 10, Some(LIAR), &torrent)?;
    let mut job = world.job(client, Role::Leech, nofile, NAME);
    job.torrent = torrent;
    let mut node = client.start(&job)?;
    let begin = Instant::now();
    let done = wait_for(PATIENCE, || match node.child.exited() {
        None => complete(&world.payload, &job.dir).then_some(Ok(())),
        Some(status) => Some(Err(format!("ended with {status}\n{}", node.child.tail()))),
    });
    let took = begin.elapsed().as_secs_f64();
    let spoiled = seeds.counts.spoiled.load(Ordering::Relaxed);
    done.unwrap_or_else(|| Err(format!("not complete in {} s, took {spoiled} spoiled blocks", PATIENCE.as_secs())))?;
    let share = seeds.counts.bytes.load(Ordering::Relaxed) as f64 * 100.0 / world.payload.total() as f64 - 100.0;
    let mut text = format!("complete in {took:.1} s, {share:.1} % fetched twice, {spoiled} spoiled blocks taken");
    let mut good = true;
    if client == Client::Btmio {
        // The events are written a moment after the last piece.
        let events = wait_for(Duration::from_secs(5), || {
            let events = node.events();
            events.iter().any(|e| e["event"] == "done").then_some(events)
        });
        let (bans, failed, all) = account(&events.ok_or("no event tells that it is done")?);
        let wasted = (all * world.payload.piece_len) as f64 * 100.0 / world.payload.total() as f64;
        text += &format!(", {failed} bad pieces until {} was banned, {wasted:.1} % in bad pieces", bans.join(", "));
        let liar = Seeds::address(LIAR);
        good = !bans.is_empty() && bans.iter().all(|b| b.starts_with(&liar)) && failed <= 2 && wasted <= 2.0;
    }
    Ok(Outcome { good, ..Outcome::told(client, nofile, NAME, WHAT, text) })
}

/// Who was banned, how many pieces failed until then, and how many in all.
fn account(events: &[Value]) -> (Vec<String>, usize, usize) {
    let ban = |e: &Value| e["event"] == "warning" && e["addr"].is_string();
    let bans = events.iter().filter(|e| ban(e)).filter_map(|e| e["addr"].as_str()).map(str::to_owned).collect();
    // What was under way when the liar was found fails later on, and does not count.
    let until = events.iter().position(ban).unwrap_or(events.len());
    let failed = |events: &[Value]| events.iter().filter(|e| e["event"] == "warning" && e["piece"].is_u64()).count();
    (bans, failed(&events[..until]), failed(events))
}
