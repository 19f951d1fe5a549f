//! The sink of the `log` macros: standard error, and the file of `--log`.
//!
//! - Standard error gets warnings and errors; `-v` adds information, `-vv` and `-vvv` debugging; `-q`
//!   leaves errors. With `--log` it gets warnings and errors only, and the file gets the rest, from
//!   information on.
//! - Every message is escaped: much of it comes from other people's computers.
//! - At most [`PER_SECOND`] lines a second are written; how many were left out is told afterwards. A
//!   peer that provokes a warning per packet shall not fill a disk.
//! - Only this crate's own messages are taken: a `-vvv` is no reason to hear every poll registration.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use simple_logger::SimpleLogger;

use super::args::Common;
use super::{Failure, escape, exit, term};

/// Most lines written in one second.
const PER_SECOND: u32 = 100;

struct Sink {
    terminal: LevelFilter,
    /// Writes to standard error.
    logger: SimpleLogger,
    file: Option<File>,
    flow: Mutex<Flow>,
}

/// Installs the sink. A second call changes nothing.
///
/// # Errors
/// The log file cannot be opened.
pub(super) fn init(common: &Common) -> Result<(), Failure> {
    let open = |path| OpenOptions::new().create(true).append(true).open(path);
    let file = match &common.log {
        Some(path) => Some(
            open(path).map_err(|e| Failure::new(exit::FILE_IO, format!("{}: {e}", escape(&path.to_string_lossy()))))?,
        ),
        None => None,
    };
    let (terminal, max) = levels(common);
    if log::set_boxed_logger(Box::new(Sink {
        terminal,
        logger: SimpleLogger::new().with_level(terminal),
        file,
        flow: Mutex::new(Flow::default()),
    }))
    .is_ok()
    {
        log::set_max_level(max);
    }
    Ok(())
}

/// What goes to standard error, and what is taken at all.
fn levels(common: &Common) -> (LevelFilter, LevelFilter) {
    let asked = match common.verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let quiet = |level| if common.quiet { LevelFilter::Error } else { level };
    if common.log.is_some() {
        (quiet(LevelFilter::Warn), asked.max(LevelFilter::Info))
    } else {
        (quiet(asked), quiet(asked))
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        target == "btmio" || target.starts_with("btmio::")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let verdict = self.flow.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now());
        let Some(left_out) = verdict else { return };
        if left_out > 0 {
            self.write(Level::Warn, record.target(), &format!("{left_out} messages left out"));
        }
        self.write(record.level(), record.target(), &escape(&record.args().to_string()));
    }

    fn flush(&self) {}
}

impl Sink {
    fn write(&self, level: Level, target: &str, text: &str) {
        let word = match level {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        if level <= self.terminal && target.starts_with("btmio::cli") {
            // The program speaking to its user, rather than about itself.
            term::print(&format!("btmio: {word}: {text}"));
        } else if level <= self.terminal {
            term::above(|| {
                self.logger.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
            });
        }
        if let Some(mut file) = self.file.as_ref() {
            // One write, so that lines of two processes that append to one file stay whole. There is
            // no better place to tell that the log cannot be written.
            let _ = file.write_all(format!("{} {word}: {text}\n", stamp(SystemTime::now())).as_bytes());
        }
    }
}

/// Counts lines in windows of one second.
#[derive(Default)]
struct Flow {
    since: Option<Instant>,
    lines: u32,
    left_out: u32,
}

impl Flow {
    /// `None` to leave a line out; else how many were left out since the last one that passed.
    fn pass(&mut self, now: Instant) -> Option<u32> {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            self.since = Some(now);
            self.lines = 0;
        }
        self.lines += 1;
        if self.lines > PER_SECOND {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A time as `2026-11-22T18:09:00Z`.
fn stamp(t: SystemTime) -> String {
    let s = t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (day, s) = (s / 86400, s % 86400);
    // Days since 0000-03-01, in eras of 400 years, which have 146097 days; March first makes the leap
    // day the last of its year.
    let z = day + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let m = (5 * doy + 2) / 153;
    let (d, month) = (doy - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = era * 400 + yoe + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{d:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let at = |s| stamp(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_795_370_940), "2026-11-22T18:09:00Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_flood_is_cut_and_told_of() {
        let (mut flow, t) = (Flow::default(), Instant::now());
        let passed = (0..1000).filter(|_| flow.pass(t).is_some()).count();
        assert_eq!(passed, PER_SECOND as usize);
        assert_eq!(flow.pass(t + Duration::from_secs(1)), Some(900));
        assert_eq!(flow.pass(t + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn verbosity_and_the_log_file() {
        let common = |quiet, verbose, log: bool| Common { quiet, verbose, log: log.then(|| "f".into()), json: false };
        assert_eq!(levels(&common(false, 0, false)), (LevelFilter::Warn, LevelFilter::Warn));
        assert_eq!(levels(&common(false, 2, false)), (LevelFilter::Debug, LevelFilter::Debug));
        assert_eq!(levels(&common(true, 2, false)), (LevelFilter::Error, LevelFilter::Error));
        assert_eq!(levels(&common(true, 0, true)), (LevelFilter::Error, LevelFilter::Info));
        assert_eq!(levels(&common(false, 3, true)), (LevelFilter::Warn, LevelFilter::Trace));
    }
}
