//! `kill -9` at random instants: the system lives on, so what was written is there.

use std::fs;
use std::time::Duration;

use btmio::rng;
use tools::payload::Payload;
use tools::process::Child;

use crate::SOCKET;
use crate::rig::{Outcome, PATIENCE, Seeder, Swarm, Told, Work};

const PIECE: usize = 256 << 10;
const RATE: u64 = 12 << 20;

pub(crate) fn run(work: &Work, kills: u32, seed: u64) -> Result<Outcome, String> {
    let payload = Payload::new("kill payload", PIECE, 0xDEAD, &[("a.bin", 14_000_001), ("b/c.bin", 20_000_000)]);
    let swarm = Swarm::new(work, "seed-kills", payload, Seeder::Btmio(RATE))?;
    let mut out = Outcome { what: "kill -9".into(), ..Outcome::default() };
    let mut rng = rng::seeded(seed);
    let dir = work.dir.join("kills");
    let (mut total, mut done) = (0, 0);
    for n in 0..kills {
        let wait = rng.u64(..2500);
        let fail = |out: &mut Outcome, what: String| out.wrong.push(format!("kill {n} after {wait} ms: {what}"));
        let command = swarm.download(work, &dir, None, true);
        let mut child = Child::spawn("btmio", &work.dir, command).map_err(|e| e.to_string())?;
        std::thread::sleep(Duration::from_millis(wait));
        child.signal("KILL");
        child.wait(PATIENCE).ok_or("btmio does not die")?;
        let told = Told::by(&child);
        out.runs += 1;
        let claims = match swarm.claims(&dir) {
            Ok(claims) => claims,
            Err(e) => {
                fail(&mut out, e);
                break;
            }
        };
        let truth = swarm.payload.good_pieces(&dir.join("data"));
        let lies: Vec<_> = claims.have.iter().filter(|p| !truth.contains(p)).collect();
        out.claimed += claims.have.len();
        out.false_have += lies.len();
        let lost: Vec<_> = told.names().difference(&claims.have).copied().collect();
        out.lost = out.lost.max((lost.len() * PIECE) as u64);
        if !lost.is_empty() {
            fail(&mut out, format!("pieces {lost:?} had been verified and are lost"));
        }
        out.checked = out.checked.max((claims.checked * PIECE) as u64);
        out.start = out.start.max(claims.took);
        if claims.have.len() == swarm.payload.pieces() || n + 1 == kills {
            // To the end, so that all that was fetched can be counted.
            let mut last =
                Child::spawn("btmio", &work.dir, swarm.download(work, &dir, None, false)).map_err(|e| e.to_string())?;
            match last.wait(PATIENCE) {
                Some(status) if status.success() => {
                    swarm.payload.check(&dir.join("data")).unwrap_or_else(|e| fail(&mut out, e))
                }
                status => fail(&mut out, format!("the last run ended with {status:?}\n{}", last.tail())),
            }
            (total, done) = (total + swarm.payload.total(), done + 1);
            fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
    }
    let mut swarm = swarm;
    swarm.seeder.stop();
    let sent = sent(&swarm.seeder);
    let again = sent.saturating_sub(total as u64);
    // One piece for each kill and peer, of which there is one, and what lay in the sockets.
    if again > u64::from(out.runs) * (PIECE as u64 + 2 * SOCKET) {
        out.wrong.push(format!("{again} bytes were fetched again"));
    }
    out.more =
        format!("{done} downloads, {} KiB fetched again: {} a kill", again >> 10, (again >> 10) / u64::from(kills));
    Ok(out)
}

/// Payload the seeder has sent.
fn sent(seeder: &Child) -> u64 {
    let lines = seeder.output();
    let lines = lines.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    lines.filter_map(|v| v["uploaded"].as_u64()).next_back().unwrap_or(0)
}
