//! Power cuts at random instants.
//!
//! Volumes go on from cut to cut until the torrent is complete, so that recovery is cut too, and then begin anew.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use btmio::rng;
use tools::payload::Payload;
use tools::process::Child;

use crate::rig::{Outcome, Seeder, Swarm, Told, Work};
use crate::volume::Volume;

const PIECE: usize = 256 << 10;
/// Bytes a second: what is not synced yet is then less than what may be lost.
const RATE: u64 = 16 << 20;
/// What may be lost and looked at again: either bound is enough.
const LOSS: u64 = 8 << 20;
const LOSS_TIME: f64 = 2.0;
/// A start without a full check takes no longer.
const START: Duration = Duration::from_secs(1);

fn payload() -> Payload {
    let files = [("first.bin", 9_000_001), ("sub/second.bin", 20_000_003), ("sub/empty", 0), ("third.bin", 11_000_000)];
    Payload::new("crash payload", PIECE, 0xC0_FFEE, &files)
}

pub(crate) fn run(work: &Work, volume: Volume, cuts: u32, seed: u64) -> Result<Outcome, String> {
    let swarm = Swarm::new(work, &format!("seed-{}", volume.kind), payload(), Seeder::Other)?;
    let mut out = Outcome { what: format!("power cuts, {}", volume.kind), ..Outcome::default() };
    let mut rng = rng::seeded(seed ^ u64::from(volume.kind == "xfs") << 32);
    let dir = volume.dir.join("w");
    let (mut complete, mut slow, mut same, mut over) = (0, 0, 0, Vec::new());
    while out.runs < cuts {
        let n = out.runs;
        // A whole download takes 2.5 s; one cut in five comes while it starts.
        let wait = if rng.u32(..5) == 0 { rng.u64(..200) } else { rng.u64(..4000) };
        let mut cut = one(work, &swarm, &volume, &dir, Duration::from_millis(wait))?;
        out.runs += 1;
        same += u32::from(cut.same_id);
        // Sometimes the next start is cut before anything else has looked at what is there.
        if rng.u32(..4) == 0 {
            let first = cut.told;
            let recent = cut.recent;
            cut = one(work, &swarm, &volume, &dir, Duration::from_millis(rng.u64(..300)))?;
            cut.recent += recent;
            out.runs += 1;
            same += u32::from(cut.same_id);
            cut.told.done |= first.done;
            cut.told.durable = cut.told.durable.max(first.durable);
            cut.told.errors.extend(first.errors);
        }
        let fail = |out: &mut Outcome, what: String| out.wrong.push(format!("cut {n} after {wait} ms: {what}"));
        let claims = match swarm.claims(&dir) {
            Ok(claims) => claims,
            Err(e) => {
                fail(&mut out, e);
                let _ = fs::remove_dir_all(&dir);
                continue;
            }
        };
        let truth = swarm.payload.good_pieces(&dir.join("data"));
        let lies: Vec<_> = claims.have.iter().filter(|p| !truth.contains(p)).collect();
        out.claimed += claims.have.len();
        out.false_have += lies.len();
        if !lies.is_empty() {
            fail(&mut out, format!("pieces {lies:?} are claimed and not there"));
        }
        let lost: Vec<_> = cut.told.pieces.iter().filter(|(p, _)| !claims.have.contains(p)).collect();
        let bytes = (lost.len() * PIECE) as u64;
        let oldest = lost.iter().map(|(_, t)| cut.at - t).fold(0.0, f64::max);
        out.lost = out.lost.max(bytes);
        let mut bound = Vec::new();
        if bytes > LOSS && oldest > LOSS_TIME {
            bound.push(format!("{bytes} bytes are lost, the oldest verified {oldest:.1} s before"));
        }
        let have: u64 = claims.have.len() as u64 * PIECE as u64;
        if cut.told.done && claims.have.len() < swarm.payload.pieces() {
            fail(&mut out, format!("{} pieces are there, and it had said that it is done", claims.have.len()));
        }
        if cut.told.durable > have {
            fail(&mut out, format!("{} bytes were told to be durable, {have} are there", cut.told.durable));
        }
        for e in &cut.told.errors {
            fail(&mut out, format!("before the cut: {e}"));
        }
        let checked = (claims.checked * PIECE) as u64;
        out.checked = out.checked.max(checked);
        out.start = out.start.max(claims.took);
        slow += u32::from(claims.took > START);
        // What was verified last, and samples: first and last of three files and some more.
        if checked > LOSS.max(cut.recent) + 16 * PIECE as u64 {
            bound.push(format!("{checked} bytes were looked at"));
        }
        for what in bound {
            over.push(format!("cut {n} after {wait} ms: {what}"));
        }
        if claims.have.len() == swarm.payload.pieces() {
            complete += 1;
            fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
    }
    // A device that is kept busy by others for seconds has saved nothing meanwhile.
    let (bounds, runs) = (over.len(), out.runs as usize);
    if bounds * 10 > runs {
        out.wrong.append(&mut over);
    }
    out.more = format!(
        "{bounds} over a bound, {slow} starts over {} ms, {complete} downloads from {}, {same} times the same mount \
         number",
        START.as_millis(),
        swarm.by
    );
    Ok(out)
}

/// What is known of a run that was cut.
struct Cut {
    told: Told,
    /// Seconds after its start.
    at: f64,
    /// Bytes verified in the last seconds, as many as may be lost.
    recent: u64,
    /// The volume came back under the number it had.
    same_id: bool,
}

/// Runs btmio until the power fails, and has the volume mounted again.
fn one(work: &Work, swarm: &Swarm, volume: &Volume, dir: &Path, wait: Duration) -> Result<Cut, String> {
    fs::create_dir_all(dir.join("state")).map_err(|e| format!("{}: {e}", dir.display()))?;
    // The folders are there for good: only what btmio makes is in question.
    rustix::fs::syncfs(fs::File::open(dir).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let began = Instant::now();
    let mut child =
        Child::spawn(&format!("btmio-{}", volume.kind), &work.dir, swarm.download(work, dir, Some(RATE), true))
            .map_err(|e| e.to_string())?;
    std::thread::sleep(wait);
    // What is told from here on may be true or not: the power may have failed already.
    let told = Told::by(&child);
    let at = began.elapsed().as_secs_f64();
    volume.cut()?;
    child.signal("KILL");
    child.wait(Duration::from_secs(20)).ok_or("btmio does not die")?;
    let same_id = volume.mount_again()?;
    let recent = told.pieces.iter().filter(|(_, t)| at - t <= LOSS_TIME).count() * PIECE;
    Ok(Cut { told, at, recent: recent as u64, same_id })
}
