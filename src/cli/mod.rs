//! The command line: `btmio [OPTION]... TORRENT... [DIR/]`, `btmio show`, `btmio check`.
//!
//! This is a face of the library, not part of it: it owns what a library must not touch – the
//! process's signals, its standard streams, its exit code, its logger and its panic hook.
//!
//! - **Streams.** Standard output carries results only: `--json` lines, `--list`, `show`, `check`.
//!   Progress, log and summary go to standard error. A reader that closes standard output ends the
//!   command quietly.
//! - **Exit codes** are in [`exit`]; with several torrents the last failure counts.
//! - **Text from outside** – names, tracker messages, client names – passes [`escape`] before it is
//!   shown or logged, so that no torrent can drive a terminal.
//!
//! ```text
//! args      arguments -> Opts, pure
//! load      TORRENT -> Metainfo or Magnet, with the exit code of each way to fail
//! metadata  magnet links: names of peers, and the .torrent that is made of one
//! remember  torrents that are remembered: taken up again, listed, forgotten
//! get       the download: driver loop, alerts, exit
//!   confine   privileges that are given up; landlock: file access, the system calls
//!   signals   INT TERM HUP USR1 WINCH TSTP CONT -> the loop
//!   progress  statuses -> lines of text, pure
//!   term      the terminal: its size, the block of lines that is redrawn
//!   json      events -> JSON Lines
//! check     what lies on disk against a torrent
//! show      what is in a torrent
//! logging   the `log` sink
//! ```

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod args;
mod check;
mod confine;
mod get;
mod heap;
mod json;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod landlock;
mod load;
mod logging;
mod memory;
mod metadata;
mod progress;
mod remember;
mod show;
mod signals;
mod term;

pub use show::{ShowError, show, show_magnet, show_torrent};

/// Exit codes. They keep aria2's numbers where the meaning is the same.
pub mod exit {
    /// All done.
    pub const DONE: u8 = 0;
    /// An error without a code of its own.
    pub const ERROR: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// `check` found bad or missing data.
    pub const BAD_DATA: u8 = 4;
    /// No progress for `--timeout`.
    pub const TIMED_OUT: u8 = 5;
    /// The network cannot be used: no port to listen on, no such host.
    pub const NETWORK: u8 = 6;
    /// Interrupted before the end; the same command resumes.
    pub const INTERRUPTED: u8 = 7;
    /// No space left.
    pub const NO_SPACE: u8 = 9;
    /// Another process has the torrent already.
    pub const RUNNING: u8 = 12;
    /// A file cannot be read or written.
    pub const FILE_IO: u8 = 17;
    /// Not bencoded.
    pub const BAD_BENCODE: u8 = 25;
    /// Bencoded, but not a torrent that can be used.
    pub const BAD_TORRENT: u8 = 26;
    /// Not a magnet link, nor an info hash.
    pub const BAD_MAGNET: u8 = 27;
}

/// Why a command failed: the exit code, and one line for the user.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// A failed write of results. A reader that has gone is no failure to speak of.
    fn stdout(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::new(exit::DONE, ""),
            _ => Self::new(exit::FILE_IO, format!("standard output: {e}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Runs the command and returns its exit code. `args` begins with the program's name.
///
/// Installs the process's panic hook, logger and (for a download) signal handlers.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(panicked));
    // A second line: without it everything is as ever.
    let _ = crate::storage::guard::install();
    let code = match args::parse(args.into_iter().skip(1), &probe) {
        Ok(opts) => match command(opts) {
            Ok(code) => code,
            Err(failure) => {
                if !failure.text.is_empty() {
                    term::print(&format!("btmio: {failure}"));
                }
                failure.code
            }
        },
        Err(usage) => {
            term::print(&format!("btmio: {usage}\nTry 'btmio --help'."));
            exit::USAGE
        }
    };
    log::logger().flush();
    ExitCode::from(code)
}

/// Reads a command line as [`run`] does: the words about what is wrong with it. For the fuzzer, which
/// must not start anything.
#[doc(hidden)]
pub fn read_arguments(args: &[&str]) -> Result<(), String> {
    let opts = args::parse(args.iter().map(OsString::from), &|_| args::Probe::Absent);
    opts.map(|_| ()).map_err(|usage| usage.to_string())
}

fn command(opts: args::Opts) -> Result<u8, Failure> {
    logging::init(&opts.common)?;
    match opts.command {
        args::Command::Help => results(&args::help()).map(|()| exit::DONE),
        args::Command::Version => {
            let text = concat!("btmio ", env!("CARGO_PKG_VERSION"), "\n", env!("CARGO_PKG_LICENSE"), "\n");
            let tls = if cfg!(feature = "tls") { "with TLS\n" } else { "without TLS\n" };
            let text = &[text, tls].concat();
            results(text).map(|()| exit::DONE)
        }
        args::Command::Get(get) => get::get(&get, &opts.common),
        args::Command::List(torrents) if torrents.is_empty() => remember::list(opts.common.json).map(|()| exit::DONE),
        args::Command::Forget(torrents) => remember::forget(&torrents).map(|()| exit::DONE),
        args::Command::List(torrents) => list(&torrents, opts.common.json).map(|()| exit::DONE),
        args::Command::Show(file) => run_show(&file, opts.common.json).map(|()| exit::DONE),
        args::Command::Check { file, dir, storage } => {
            let config = crate::storage::StorageConfig { backend: storage, ..Default::default() };
            check::check(&file, &dir, config, &opts.common)
        }
    }
}

/// Writes results to standard output: text, or lines of JSON.
fn results(text: &str) -> Result<(), Failure> {
    debug_assert!(matches!(lines(text), Cow::Borrowed(_)), "names are escaped by whoever makes the text");
    let mut out = io::stdout().lock();
    out.write_all(lines(text).as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))
}

fn run_show(file: &Path, json: bool) -> Result<(), Failure> {
    // A file of that name goes first.
    if let Some(link) = file.to_str().filter(|text| args::is_link(text) && !file.exists()) {
        let mut text = Vec::new();
        show_magnet(link, json, &mut text).map_err(|e| load::show_failure(&e))?;
        return results(&String::from_utf8_lossy(&text));
    }
    let file = if file == Path::new("-") { Path::new("/dev/stdin") } else { file };
    // The text is small (a torrent file has a limit), and nothing may appear before an error.
    let mut text = Vec::new();
    show(file, json, &mut text).map_err(|e| load::show_failure(&e))?;
    results(&String::from_utf8_lossy(&text))
}

/// `--list`: the files of each torrent with the numbers that `--select` takes. They count pad files
/// too, which are not shown, so that they agree with the file indices of everything else.
fn list(torrents: &[args::Source], json: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for source in torrents {
        let meta = load::load(source)?;
        if !json && torrents.len() > 1 {
            let _ = writeln!(text, "{}:", escape(&meta.name));
        }
        let files = meta.files.iter().enumerate().filter(|(_, f)| !f.pad);
        for (i, file) in files {
            if json {
                let _ = writeln!(
                    text,
                    "{{\"file\":{},\"size\":{},\"path\":{}}}",
                    i + 1,
                    file.len,
                    json::quoted(&file.path)
                );
            } else {
                let _ = writeln!(text, "{:>5}  {:>10}  {}", i + 1, progress::bytes(file.len), escape(&file.path));
            }
        }
    }
    results(&text)
}

/// What lies at a path, for telling a folder from a torrent.
fn probe(path: &Path) -> args::Probe {
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => args::Probe::Folder,
        Ok(_) => args::Probe::File,
        Err(_) => args::Probe::Absent,
    }
}

/// The folder for what a run leaves for the next one: `$STATE_DIRECTORY` (set by systemd),
/// `$XDG_STATE_HOME/btmio` or `~/.local/state/btmio`, made readable for its owner only.
///
/// `None`, after a warning, when there is none: the client works without it, but has to look
/// through all data again.
fn state_dir() -> Option<PathBuf> {
    let Some(dir) = state_path(|name| std::env::var_os(name)) else {
        log::warn!("no HOME and no XDG_STATE_HOME: nothing is remembered for the next run");
        return None;
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(&dir) {
        Ok(()) => Some(dir),
        Err(e) => {
            log::warn!("{}: {e}: nothing is remembered for the next run", dir.display());
            None
        }
    }
}

fn state_path(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(dirs) = var("STATE_DIRECTORY").filter(|d| !d.is_empty()) {
        // systemd separates several with colons.
        return std::env::split_paths(&dirs).next();
    }
    // The XDG specification says to ignore relative paths.
    let absolute = |name| var(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("btmio"))
}

/// `text` with everything escaped that could drive a terminal or disguise what is shown: control
/// characters, line separators, characters that reverse the writing direction or have no width.
///
/// ```
/// assert_eq!(btmio::cli::escape("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
/// ```
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(unsafe_to_show) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if unsafe_to_show(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The same for text of several lines whose parts were escaped before: a second net, at the door.
fn lines(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| c != '\n' && unsafe_to_show(c)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split('\n').map(escape).collect::<Vec<_>>().join("\n"))
}

fn unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line to standard error, then the end: a panic is a bug, and going on after one risks data.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let what = match payload.downcast_ref::<String>() {
        Some(text) => text.as_str(),
        None => payload.downcast_ref::<&str>().copied().unwrap_or("panic"),
    };
    let place = info.location().map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
    let _ = writeln!(io::stderr(), "\nbtmio: this is a bug: {}{place}", escape(what));
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_drives_a_terminal_passes() {
        let nasty = "\x1b]0;x\x07 \x08\r\n\t \u{9b}31m \u{202e}gpj.exe \u{200b}\u{7f}";
        let shown = escape(nasty);
        assert!(shown.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{shown:?}");
        assert!(matches!(escape("Ünïcode 漢字 ok"), Cow::Borrowed("Ünïcode 漢字 ok")));
    }

    #[test]
    fn what_passed_unescaped_is_caught_at_the_door() {
        assert!(matches!(lines("a\nb \u{e9}\n"), Cow::Borrowed(_)));
        assert_eq!(lines("a\n\x1b[2J\r\n\u{202e}b\n"), "a\n\\u{1b}[2J\\r\n\\u{202e}b\n");
    }

    #[test]
    fn the_state_folder_is_found_in_order() {
        let env = |pairs: &'static [(&'static str, &'static str)]| {
            state_path(move |name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v)))
        };
        assert_eq!(env(&[]), None);
        assert_eq!(env(&[("HOME", "/h")]), Some("/h/.local/state/btmio".into()));
        assert_eq!(env(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), Some("/s/btmio".into()));
        assert_eq!(env(&[("HOME", "/h"), ("XDG_STATE_HOME", "rel")]), Some("/h/.local/state/btmio".into()));
        assert_eq!(env(&[("STATE_DIRECTORY", "/a:/b"), ("HOME", "/h")]), Some("/a".into()));
    }
}
