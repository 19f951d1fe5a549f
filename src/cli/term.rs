//! The terminal behind standard error: what it can do, and the block of lines that is drawn over and
//! over at its end.
//!
//! Everything the command says on standard error goes through [`print`], which takes the block away,
//! writes, and draws it again below; so a log line never lands in the middle of a progress bar. The
//! block is state of the process, as the terminal is, and log lines come from everywhere: hence the
//! one global of this module.
//!
//! ```text
//! name                          the block: draw() replaces it, clear() takes it away;
//! ▕████▏ 43 % ...▮              the cursor rests behind its last character
//! ```
//!
//! Nothing but `\r`, `\n`, cursor up, and the two erase sequences that every terminal knows is used,
//! and the cursor is never hidden, so there is nothing to restore after a crash.
//! Failed writes are ignored: with standard error gone there is nobody left to tell.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use super::progress::columns;

/// The lines that stand at the end of the terminal now.
static BLOCK: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What standard error can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Abilities {
    /// Lines can be drawn over.
    pub(super) redraw: bool,
    /// Characters beyond ASCII are shown.
    pub(super) unicode: bool,
}

/// Looks at standard error and the environment.
pub(super) fn abilities() -> Abilities {
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let dumb = var("TERM").is_none_or(|term| term == "dumb");
    Abilities { redraw: io::stderr().is_terminal() && !dumb, unicode: is_utf8(var) }
}

/// Whether the locale writes UTF-8: the first variable that is set decides, as POSIX says.
fn is_utf8(var: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(var).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Columns and rows of the terminal; 80 by 24 when it does not tell.
pub(super) fn size() -> (usize, usize) {
    let asked = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let (columns, rows) = asked.map_or((0, 0), |w| (usize::from(w.ws_col), usize::from(w.ws_row)));
    (if columns == 0 { 80 } else { columns }, if rows == 0 { 24 } else { rows })
}

/// Whether this process may draw: one that was sent to the background leaves the terminal alone.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(io::stderr()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Writes lines to standard error, above the block. `text` has no line end at its end.
pub(super) fn print(text: &str) {
    let block = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = erase(&block, size().0);
    out.push_str(&super::lines(text));
    out.push('\n');
    out.push_str(&block.join("\n"));
    put(&out);
}

/// Lets `write` write lines to standard error above the block.
pub(super) fn above(write: impl FnOnce()) {
    if !stderr_is_read() {
        return;
    }
    let block = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    put(&erase(&block, size().0));
    write();
    put(&block.join("\n"));
}

/// Nobody reads standard error any more: a pipe without a reader.
fn stderr_is_read() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let err = io::stderr();
    let mut fds = [PollFd::new(&err, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL)
}

/// Replaces the block.
pub(super) fn draw(mut lines: Vec<String>) {
    if !in_foreground() {
        return;
    }
    lines.iter_mut().filter(|l| l.contains(super::unsafe_to_show)).for_each(|l| *l = super::escape(l).into_owned());
    let mut block = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if *block != lines {
        put(&redraw(&block, &lines, size().0));
        *block = lines;
    }
}

/// Takes the block away and leaves the cursor at the start of an empty line.
pub(super) fn clear() {
    let mut block = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    put(&erase(&block, size().0));
    block.clear();
}

fn put(text: &str) {
    if !text.is_empty() {
        let mut err = io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

/// Moves the cursor to the start of the block. Its lines were cut to the width of that time: in a
/// terminal that has shrunk since they take more rows.
fn to_start(block: &[String], width: usize) -> String {
    let mut out = String::from("\r");
    let rows: usize = block.iter().map(|line| columns(line).div_ceil(width).max(1)).sum();
    if rows > 1 {
        let _ = write!(out, "\x1b[{}A", rows - 1);
    }
    out
}

fn erase(block: &[String], width: usize) -> String {
    if block.is_empty() { String::new() } else { to_start(block, width) + "\x1b[J" }
}

/// Writes the new lines over the old ones, without a blank in between that would flicker.
fn redraw(old: &[String], new: &[String], width: usize) -> String {
    let mut out = to_start(old, width);
    for (i, line) in new.iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        out.push_str(line);
        out.push_str("\x1b[K");
    }
    out.push_str("\x1b[J");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|&l| l.to_owned()).collect()
    }

    #[test]
    fn the_block_is_left_by_as_many_rows_as_it_takes() {
        assert_eq!(erase(&[], 80), "");
        assert_eq!(erase(&lines(&["a"]), 80), "\r\x1b[J");
        assert_eq!(erase(&lines(&["a", "b"]), 80), "\r\x1b[1A\x1b[J");
        // 30 columns in a terminal that is now 20 wide: two rows, and one for the other line.
        assert_eq!(erase(&lines(&[&"x".repeat(30), "b"]), 20), "\r\x1b[2A\x1b[J");
    }

    #[test]
    fn redrawing_writes_over() {
        assert_eq!(redraw(&[], &lines(&["a", "b"]), 80), "\ra\x1b[K\nb\x1b[K\x1b[J");
        assert_eq!(redraw(&lines(&["a", "b"]), &lines(&["c"]), 80), "\r\x1b[1Ac\x1b[K\x1b[J");
    }

    #[test]
    fn the_first_locale_variable_decides() {
        let env = |pairs: &'static [(&'static str, &'static str)]| {
            is_utf8(move |name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(!env(&[]));
        assert!(env(&[("LANG", "de_DE.UTF-8")]));
        assert!(env(&[("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!env(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
    }
}
