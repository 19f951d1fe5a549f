//! How long swarms take, by size, latency and loss: a table that is kept, so that a slowdown is a diff.
//!
//! Times are virtual, and the same on every machine. Whatever changes what nodes say or when changes them a
//! little, so the check has a tolerance; a change that is meant is written down anew.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use btmio::sim::{Plain, run_plain};
use btmio::time::Duration;

const LEECHERS: [u32; 3] = [1, 4, 16];
const LATENCY_MS: [u64; 3] = [5, 50, 250];
const LOSS_PERMILLE: [u32; 3] = [0, 10, 50];
/// Swarms of each kind: their times are averaged.
const SEEDS: u64 = 2;
/// Slower by so many percent: one line, and all together.
const TOLERANCE: (f64, f64) = (30.0, 8.0);

const HEAD: &str = "\
# Virtual seconds until half of the leechers had everything, and until all had, by `sim --table`: one seed, and
# leechers that know each other and begin together; 8 MiB; everyone sends 1 MB/s and receives 4 MB/s.
# leechers  latency ms  loss %     half      all
";

/// One line: the swarm and its two times.
type Row = (Plain, f64, f64);

fn swarms() -> Vec<Plain> {
    let mut all = Vec::new();
    for leechers in LEECHERS {
        for latency in LATENCY_MS.map(Duration::from_millis) {
            all.extend(LOSS_PERMILLE.map(|loss| Plain { leechers, latency, loss }));
        }
    }
    all
}

fn key(p: &Plain) -> (u32, u128, u32) {
    (p.leechers, p.latency.as_millis(), p.loss)
}

/// Runs the swarms of one line.
fn measure(swarm: Plain) -> Result<Row, String> {
    let (mut half, mut all) = (0.0, 0.0);
    for seed in 0..SEEDS {
        let report = run_plain(seed, &swarm);
        if let Some(what) = report.violations.first() {
            return Err(format!("{swarm:?}, seed {seed}: {what}"));
        }
        let mut times: Vec<_> = report.finished.iter().flatten().map(|t| t.as_micros() as f64 / 1e6).collect();
        times.sort_by(f64::total_cmp);
        let (Some(mid), Some(last)) = (times.get((times.len() - 1) / 2), times.last()) else {
            return Err(format!("{swarm:?}, seed {seed}: nobody finished"));
        };
        half += mid / SEEDS as f64;
        all += last / SEEDS as f64;
    }
    Ok((swarm, half, all))
}

fn run(threads: usize) -> Result<Vec<Row>, String> {
    let swarms = swarms();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // The largest first, so that no thread is left with one at the end.
                while let Some(swarm) = swarms.iter().rev().nth(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = measure(*swarm);
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
    rows.sort_by_key(|(swarm, ..)| key(swarm));
    Ok(rows)
}

fn written(rows: &[Row]) -> String {
    let mut out = HEAD.to_owned();
    for (p, half, all) in rows {
        let (ms, loss) = (p.latency.as_millis(), f64::from(p.loss) / 10.0);
        let _ = writeln!(out, "{:10}  {ms:10}  {loss:6.1}  {half:7.1}  {all:7.1}", p.leechers);
    }
    out
}

/// The times of a table that was kept.
fn read(text: &str) -> Result<Vec<(f64, f64)>, String> {
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    lines
        .map(|line| {
            let words: Option<Vec<f64>> = line.split_whitespace().map(|w| w.parse().ok()).collect();
            match words.as_deref() {
                Some([_, _, _, half, all]) => Ok((*half, *all)),
                _ => Err(format!("\"{line}\": five numbers were wanted")),
            }
        })
        .collect()
}

/// What is slower in `rows` than in the table kept, beyond the tolerance.
fn slower(rows: &[Row], kept: &[(f64, f64)]) -> Vec<String> {
    if rows.len() != kept.len() {
        return vec![format!("{} lines were kept, and there are {} now", kept.len(), rows.len())];
    }
    let mut told = Vec::new();
    let percent = |now: f64, then: f64| (now / then - 1.0) * 100.0;
    for ((p, half, all), then) in rows.iter().zip(kept) {
        for (what, now, then) in [("half", *half, then.0), ("all", *all, then.1)] {
            let more = percent(now, then);
            if more > TOLERANCE.0 {
                told.push(format!("{p:?}: {what} after {now:.1} s, {more:.0} % more than {then:.1} s"));
            }
        }
    }
    let sum = |f: &dyn Fn(usize) -> f64| (0..rows.len()).map(|i| f(i).ln()).sum::<f64>() / rows.len() as f64;
    let more = percent((sum(&|i| rows[i].2) - sum(&|i| kept[i].1)).exp(), 1.0);
    println!("all in all {more:+.1} % against the table kept");
    if more > TOLERANCE.1 {
        told.push(format!("all in all {more:.1} % slower"));
    }
    told
}

/// Prints the table. With `kept`, false when it is slower than that one.
pub(crate) fn table(threads: usize, kept: Option<&str>) -> bool {
    let rows = match run(threads) {
        Ok(rows) => rows,
        Err(e) => {
            println!("{e}");
            return false;
        }
    };
    print!("{}", written(&rows));
    let Some(path) = kept else { return true };
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let told = match read(&text) {
        Ok(kept) => slower(&rows, &kept),
        Err(e) => vec![format!("{path}: {e}")],
    };
    told.iter().for_each(|t| println!("{t}"));
    if !told.is_empty() {
        println!("if that is meant: sim --table > {path}");
    }
    told.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written_and_slowness_is_told() {
        let rows: Vec<Row> = swarms().into_iter().map(|s| (s, 10.0, 20.0)).collect();
        let kept = read(&written(&rows)).expect("it was just written");
        assert_eq!(kept, vec![(10.0, 20.0); rows.len()]);
        assert!(slower(&rows, &kept).is_empty());
        let mut one = rows.clone();
        one[3].1 = 14.0;
        assert_eq!(slower(&one, &kept).len(), 1, "one line by 40 %");
        let all: Vec<Row> = rows.iter().map(|(s, half, all)| (*s, *half, all * 1.1)).collect();
        assert_eq!(slower(&all, &kept).len(), 1, "all lines by 10 %");
        assert_eq!(slower(&rows, &kept[1..]).len(), 1);
        assert!(read("1 2 3 4").is_err());
    }
}
