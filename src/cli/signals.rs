//! The process's signals, as events of the loop. A library must not touch them; this is the command.
//!
//! | signal | meaning |
//! |---|---|
//! | `INT`, `TERM`, `HUP` | stop: save and say goodbye; the second time: leave at once |
//! | `USR1` | a status line to standard error, and what the session has met with |
//! | `WINCH`, `CONT` | draw the progress anew |
//! | `TSTP` | clear the progress, then stop as the shell wants it |
//!
//! `PIPE` is ignored by Rust's runtime. A signal that was ignored when the command started stays
//! ignored where that is a wish: `HUP` under nohup, `TSTP` under a shell without job control.

use std::io;

use libc::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1, SIGWINCH, c_int};
use mio::Token;
use signal_hook_mio::v1_0::Signals;

use crate::net::Loop;

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// Stop.
    Stop,
    /// Say how it goes.
    Status,
    /// The screen has changed.
    Redraw,
    /// Stop the process until `CONT`; see [`suspend`].
    Suspend,
}

/// The source, registered with a loop.
pub(super) struct Source {
    signals: Signals,
    token: Token,
}

impl Source {
    /// Installs the handlers. `ignored` is what [`ignored`] has found.
    ///
    /// # Errors
    /// The system refuses a handler or the pipe behind it.
    pub(super) fn new(lp: &mut Loop, ignored: u64) -> io::Result<Self> {
        let stays = |signal: &c_int| matches!(*signal, SIGHUP | SIGTSTP) && ignored >> (signal - 1) & 1 == 1;
        let wanted = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGWINCH, SIGTSTP, SIGCONT];
        let mut signals = Signals::new(wanted.into_iter().filter(|s| !stays(s)))?;
        let token = lp.register(&mut signals)?;
        Ok(Self { signals, token })
    }

    /// The loop's name for it.
    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// The wishes that have come since the last call.
    pub(super) fn pending(&mut self) -> Vec<Wish> {
        let wish = |signal| match signal {
            SIGINT | SIGTERM | SIGHUP => Wish::Stop,
            SIGUSR1 => Wish::Status,
            SIGTSTP => Wish::Suspend,
            _ => Wish::Redraw,
        };
        self.signals.pending().map(wish).collect()
    }
}

/// Stops this process, as `TSTP` would have done without a handler. Returns after `CONT`.
pub(super) fn suspend() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
}

/// The signals that are ignored now: bit n - 1 is signal n. To be asked before file access is given up.
pub(super) fn ignored() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_of(&status))
}

/// The same from the text of `/proc/self/status`.
fn ignored_of(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_file() {
        let set = ignored_of("Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0\n");
        assert_eq!(set, 0x1001);
        assert_eq!(set >> (SIGHUP - 1) & 1, 1);
        assert_eq!(ignored_of("nothing"), 0);
    }
}
