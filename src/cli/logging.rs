//! The sink of the `log` macros: standard error, and the file of `--log`.
//!
//! - Standard error gets warnings and errors; `-v` adds information, `-vv` and `-vvv` debugging; `-q`
//!   leaves errors. With `--log` it gets warnings and errors only, and the file gets the rest, from
//!   information on.
//! - Every message is escaped: much of it comes from other people's computers.
//! - At most [`PER_SECOND`] lines a second are written, and [`PER_KIND`] of one kind, which is one place in the
//!   code; how many more there were is told afterwards. A line is at most [`LINE`] bytes long. A peer that provokes
//!   a message per packet shall not fill a disk, nor keep the other messages from being read.
//! - Only this crate's own messages are taken: a `-vvv` is no reason to hear every poll registration.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
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
/// Most of them from one place in the code.
const PER_KIND: u32 = 20;
/// Longest message, in bytes before it is escaped.
const LINE: usize = 1024;

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
        let kind = (record.module_path_static().unwrap_or_default(), record.line().unwrap_or(0));
        let mut told = Vec::new();
        let verdict = self.flow.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now(), kind, &mut told);
        self.tell(told);
        let text = || escape(&cut(record.args())).into_owned();
        match verdict {
            Verdict::Passes => self.write(record.level(), record.target(), &text()),
            Verdict::First => {
                let sample = text();
                self.flow.lock().unwrap_or_else(PoisonError::into_inner).sample(kind, sample);
            }
            Verdict::Dropped => {}
        }
    }

    /// Tells of what was left out last.
    fn flush(&self) {
        let told = self.flow.lock().unwrap_or_else(PoisonError::into_inner).drain();
        self.tell(told);
    }
}

impl Sink {
    fn tell(&self, told: Vec<Told>) {
        for Told { target, count, sample } in told {
            self.write(Level::Warn, target, &format!("{count} more suppressed, such as: {sample}"));
        }
    }

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

/// The text of a message, as far as it may go: what is beyond that is not even made.
fn cut(args: &fmt::Arguments<'_>) -> String {
    struct Short(String);
    impl fmt::Write for Short {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let room = LINE - self.0.len();
            if s.len() <= room {
                self.0.push_str(s);
                return Ok(());
            }
            self.0.push_str(&s[..(0..=room).rev().find(|i| s.is_char_boundary(*i)).unwrap_or(0)]);
            Err(fmt::Error)
        }
    }
    let mut out = Short(String::new());
    match out.write_fmt(*args) {
        Ok(()) => out.0,
        Err(_) => out.0 + "...",
    }
}

/// A place in the code: its module, and the line.
type Kind = (&'static str, u32);

/// What becomes of a message.
#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    Passes,
    /// It is left out, and is wanted as the [`Flow::sample`] of those that are.
    First,
    Dropped,
}

/// How many of one kind were left out.
#[derive(PartialEq, Eq, Debug)]
struct Told {
    target: &'static str,
    count: u32,
    sample: String,
}

/// Counts lines in windows of one second.
#[derive(Default)]
struct Flow {
    since: Option<Instant>,
    lines: u32,
    /// Of each kind that was seen in this second: lines, those left out, and the first of these. There are no more
    /// kinds than places in the code.
    kinds: BTreeMap<Kind, (u32, u32, String)>,
}

impl Flow {
    /// Whether a message is written. In `told` comes what was left out in a second that is over.
    fn pass(&mut self, now: Instant, kind: Kind, told: &mut Vec<Told>) -> Verdict {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            self.since = Some(now);
            *told = self.drain();
            // These lines count too.
            self.lines = told.len() as u32;
        }
        let (lines, left_out, _) = self.kinds.entry(kind).or_default();
        if self.lines < PER_SECOND && *lines < PER_KIND {
            (self.lines, *lines) = (self.lines + 1, *lines + 1);
            return Verdict::Passes;
        }
        *left_out = left_out.saturating_add(1);
        if *left_out == 1 { Verdict::First } else { Verdict::Dropped }
    }

    /// What was left out since it was last told.
    fn drain(&mut self) -> Vec<Told> {
        let all = std::mem::take(&mut self.kinds).into_iter();
        let told = all.map(|((target, _), (_, count, sample))| Told { target, count, sample });
        told.filter(|t| t.count > 0).collect()
    }

    /// Keeps the text of the first message of a kind that was left out.
    fn sample(&mut self, kind: Kind, text: String) {
        if let Some((.., sample)) = self.kinds.get_mut(&kind) {
            *sample = text;
        }
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
    fn a_flood_of_one_kind_is_cut_and_told_of_and_leaves_room_for_the_others() {
        let (mut flow, t, mut told) = (Flow::default(), Instant::now(), Vec::new());
        let (bad, rare) = (("btmio::wire", 7), ("btmio::cli", 9));
        let mut all: Vec<_> = (0..1000).map(|_| flow.pass(t, bad, &mut told)).collect();
        assert_eq!(all.iter().filter(|v| **v == Verdict::Passes).count(), PER_KIND as usize);
        assert_eq!(all.swap_remove(PER_KIND as usize), Verdict::First);
        assert_eq!(all.iter().filter(|v| **v == Verdict::First).count(), 0, "one sample is enough");
        flow.sample(bad, "a bad message".into());
        assert_eq!(flow.pass(t, rare, &mut told), Verdict::Passes);
        assert_eq!(told, [], "while it lasts, it is not told of");
        assert_eq!(flow.pass(t + Duration::from_secs(1), rare, &mut told), Verdict::Passes);
        assert_eq!(told, [Told { target: "btmio::wire", count: 980, sample: "a bad message".into() }]);
        told.clear();
        assert_eq!(flow.pass(t + Duration::from_secs(2), bad, &mut told), Verdict::Passes);
        assert_eq!(told, [], "it is told of once");
    }

    #[test]
    fn all_kinds_together_have_a_limit_too() {
        let (mut flow, t, mut told) = (Flow::default(), Instant::now(), Vec::new());
        let mut pass = |t, line| flow.pass(t, ("btmio", line), &mut told) == Verdict::Passes;
        let passed = (0..1000).filter(|i| pass(t, i % 50)).count();
        assert_eq!(passed, PER_SECOND as usize);
        // What tells of fifty kinds counts.
        let t = t + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|i| pass(t, i % 50)).count(), PER_SECOND as usize - 50);
        assert_eq!(told.len(), 50);
    }

    #[test]
    fn a_message_is_as_long_as_it_may_be_and_no_longer() {
        let (fits, long) = ("x".repeat(LINE), "x".repeat(LINE - 1) + "\u{e9}");
        assert_eq!(cut(&format_args!("{fits}")), fits);
        assert_eq!(cut(&format_args!("{fits}y")), fits.clone() + "...");
        assert_eq!(cut(&format_args!("{long}")), "x".repeat(LINE - 1) + "...", "between two characters");
        assert!(cut(&format_args!("{:?}", vec![7u8; 100_000])).len() < LINE + 4);
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
