//! From arguments to [`Opts`], in one pure step: nothing is opened, looked up or printed here. What
//! lies at a path is asked through a function, because the last operand's meaning depends on it.
//!
//! ```text
//! btmio [OPTION]... TORRENT... [DIR/]
//! btmio [OPTION]...
//! btmio show  TORRENT [--json]
//! btmio check TORRENT [DIR] [--json]
//! ```
//!
//! - Every option is one row of [`TABLE`]: its letter, name, argument, help text and the commands it
//!   goes with. `--help` is made from the table.
//! - Options may follow operands, `--` ends them, and of an option given twice the last counts
//!   (`--peer`, `--tracker` and `--bind` add up).
//! - The last operand is the folder when it ends in `/`, exists as a folder, or is no torrent: there
//!   is no such file, and it does not look like one or like a URI. `--dir` wins over that.
//! - A file called `show` is reached as `./show`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use getopts::{Fail, Matches, Options};

use super::escape;
use crate::net::PortChoice;
use crate::storage::{Backend, Lane};
use crate::time::Duration;

/// What to do.
#[derive(Debug)]
pub(super) struct Opts {
    pub(super) common: Common,
    pub(super) command: Command,
}

/// What goes with every command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Common {
    /// Errors only.
    pub(super) quiet: bool,
    /// How often `-v` was given.
    pub(super) verbose: usize,
    /// Where the log goes besides standard error.
    pub(super) log: Option<PathBuf>,
    /// Results as JSON.
    pub(super) json: bool,
}

/// The command proper.
#[derive(Debug)]
pub(super) enum Command {
    /// Print the help text.
    Help,
    /// Print name and version.
    Version,
    /// Download, then seed.
    Get(Box<Get>),
    /// Print the torrents' files with their numbers; without a torrent, the torrents that are remembered.
    List(Vec<Source>),
    /// Forget torrents.
    Forget(Vec<Source>),
    /// Print what is in a torrent.
    Show(PathBuf),
    /// Compare what is on disk with a torrent.
    Check {
        /// The torrent.
        file: Source,
        /// The download folder.
        dir: PathBuf,
        /// How files are read.
        storage: Backend,
    },
}

/// Settings of a download.
#[derive(Debug)]
pub(super) struct Get {
    /// None: those that are remembered.
    pub(super) torrents: Vec<Source>,
    pub(super) dir: PathBuf,
    pub(super) select: Option<Selection>,
    /// Only find out what magnet links are.
    pub(super) metadata_only: bool,
    pub(super) sequential: bool,
    pub(super) exit_when_done: bool,
    /// When seeding ends was said, and is not the usual.
    pub(super) goals: bool,
    /// `None`: no such goal.
    pub(super) seed_ratio: Option<f64>,
    /// `None`: no such goal.
    pub(super) seed_time: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) port: PortChoice,
    pub(super) bind: Vec<IpAddr>,
    /// The one network interface to use.
    pub(super) device: Option<String>,
    pub(super) up: Option<u64>,
    pub(super) down: Option<u64>,
    pub(super) max_peers: Option<usize>,
    /// Ask the gateway to forward the port.
    pub(super) portmap: bool,
    /// Files with addresses nothing is to be had to do with.
    pub(super) blocklists: Vec<PathBuf>,
    pub(super) peers: Vec<HostPort>,
    pub(super) trackers: Vec<String>,
    pub(super) no_tracker: bool,
    /// The DHT is used, beginning at these nodes; at the well-known ones if there are none. `None`: it is not.
    pub(super) dht: Option<Vec<HostPort>>,
    /// Peers on the local network are found by multicast.
    pub(super) lsd: bool,
    pub(super) verify: bool,
    /// Give up privileges that are not needed.
    pub(super) sandbox: bool,
    pub(super) storage: Backend,
    pub(super) lane: Lane,
    /// `None`: as the machine allows.
    pub(super) memory: Option<usize>,
}

/// Where a torrent comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
    /// A magnet link, a web address or an info hash.
    Uri(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => f.write_str(&escape(&path.to_string_lossy())),
            // Web addresses carry pass keys behind the question mark.
            Self::Uri(uri) => f.write_str(&escape(uri.split('?').next().unwrap_or_default())),
        }
    }
}

/// A host name or address, and a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

/// File numbers, counted from 1: ranges as given, in any order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection(pub(super) Vec<(u32, u32)>);

impl Selection {
    /// Whether the file with this number, counted from 1, is selected.
    pub(super) fn contains(&self, number: u32) -> bool {
        self.0.iter().any(|&(from, to)| (from..=to).contains(&number))
    }

    /// The first number that a torrent of `files` files does not have.
    pub(super) fn beyond(&self, files: u32) -> Option<u32> {
        let last = |&(from, to): &(u32, u32)| if to == u32::MAX { from } else { to };
        self.0.iter().map(last).find(|&n| n > files)
    }
}

/// What lies at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Probe {
    Folder,
    File,
    Absent,
}

/// A mistake in the command line: where it is, what was wanted there, and what came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UsageError {
    at: String,
    wanted: String,
    got: Option<String>,
}

impl UsageError {
    fn new(at: impl Into<String>, wanted: impl Into<String>) -> Self {
        Self { at: at.into(), wanted: wanted.into(), got: None }
    }

    fn got(self, got: impl AsRef<str>) -> Self {
        Self { got: Some(escape(got.as_ref()).into_owned()), ..self }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: wanted {}", self.at, self.wanted)?;
        self.got.as_ref().map_or(Ok(()), |got| write!(f, ", got '{got}'"))
    }
}

/// One option.
struct Row {
    short: &'static str,
    long: &'static str,
    /// Its argument's name; empty for a flag.
    arg: &'static str,
    /// May be several lines.
    help: &'static str,
    /// Commands it goes with, of [`GET`], [`SHOW`], [`CHECK`].
    with: u8,
}

const GET: u8 = 1;
const SHOW: u8 = 2;
const CHECK: u8 = 4;
const ALL: u8 = GET | SHOW | CHECK;

const fn row(short: &'static str, long: &'static str, arg: &'static str, with: u8, help: &'static str) -> Row {
    Row { short, long, arg, help, with }
}

const RATIO: &str = "\
seed until R times what was downloaded is uploaded,
or 'inf' (default 1.0)";

const TIME: &str = "\
seed for so many minutes, or 90s 5m 2h, or 'inf'
(default 60). What comes first ends seeding; giving
only one of the two goals leaves out the other";

const BLOCKLIST: &str = "nothing to or from these addresses: P2P, DAT or CIDR\nlines, plain or in gzip; repeatable";
const MEMORY: &str = "\
keep buffers, windows and queues within SIZE: 4M, 512K
(default: an eighth of what there is, at most 32M)";

const LIST: &str = "\
list the torrent's files with their numbers, or
without a torrent those not done with, and exit";

const PORT: &str = "\
listen on this port, the first free one of a range,
or 0 for any (default 6881-6999)";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("d", "dir", "DIR", GET | CHECK, "the folder to download to (default: the current one)"),
    row("l", "list", "", GET, LIST),
    row("", "forget", "", GET, "forget these torrents, though not their data, and exit"),
    row("s", "select", "LIST", GET, "only these files, counted from 1 as --list does:\n1-3,7,9-"),
    row("", "metadata-only", "", GET, "write the .torrent of a magnet link, and exit"),
    row("", "sequential", "", GET, "download in order instead of rarest first"),
    row("V", "verify", "", GET, "check everything on disk first"),
    row("e", "exit-when-done", "", GET, "leave as soon as all torrents are complete"),
    row("", "seed-ratio", "R", GET, RATIO),
    row("", "seed-time", "T", GET, TIME),
    row("", "timeout", "T", GET, "give up after T without progress (seconds, or 5m 2h)"),
    row("p", "port", "N[-M]", GET, PORT),
    row(
        "",
        "bind",
        "ADDR|IFACE",
        GET,
        "use only this address or network interface of this\nmachine, for everything; addresses are repeatable",
    ),
    row("U", "up", "RATE", GET, "upload at most so many bytes/s: 500K, 2M, 0 = no limit"),
    row("D", "down", "RATE", GET, "download at most so many bytes/s"),
    row("", "max-peers", "N", GET, "hold at most so many connections"),
    row("", "no-portmap", "", GET, "do not ask the gateway to forward the port"),
    row("", "blocklist", "FILE", GET, BLOCKLIST),
    row("", "peer", "HOST:PORT", GET, "connect to this peer; repeatable"),
    row("", "tracker", "URL", GET, "use this tracker too; repeatable"),
    row("", "no-tracker", "", GET, "do not use the torrent's own trackers"),
    row("", "no-dht", "", GET, "do not find peers through the DHT"),
    row("", "dht-bootstrap", "HOST:PORT", GET, "begin the DHT at this node; repeatable"),
    row("", "no-lsd", "", GET, "do not find peers on the local network (LSD)"),
    row("", "memory", "SIZE", GET, MEMORY),
    row("", "storage", "HOW", GET | CHECK, "file access: auto, map or io"),
    row("", "no-sandbox", "", GET, "do not confine the process to its folders"),
    row("", "lane", "HOW", GET, "way of blocks to disk: auto, direct, gather, scratch"),
    row("", "json", "", ALL, "JSON on standard output: a line per event, or one\nobject from show and check"),
    row("q", "quiet", "", ALL, "no progress; only errors"),
    row("v", "verbose", "", ALL, "say more; -vv and -vvv for debugging"),
    row("", "log", "FILE", ALL, "append the log to FILE"),
    row("h", "help", "", ALL, "this text"),
    row("", "version", "", ALL, "name and version"),
];

const HEAD: &str = "\
Usage: btmio [OPTION]... TORRENT... [DIR/]    download, then seed
       btmio [OPTION]...                      go on with those not done with
       btmio show TORRENT                     show what is in a torrent
       btmio check TORRENT [DIR]              check what is on disk

TORRENT is a .torrent file, a magnet link, an info hash, or - for standard
input. DIR/ ends in a slash, is a folder, or is at least no torrent.

";

const TAIL: &str = "
Examples:
  btmio -e debian.torrent out/               download to out/ and leave
  btmio 'magnet:?xt=urn:btih:...' out/       the same by magnet link
  btmio --seed-time=inf -U 500K a.torrent    seed until interrupted
  btmio                                      go on with all that was interrupted
  btmio -s 1-3,7 --json a.torrent . | jq .   some files, with events as JSON

Exit codes: 0 done, 1 error, 2 usage, 4 bad data, 5 timed out, 6 network,
7 interrupted (run it again to resume), 9 no space, 12 another process has
the torrent, 17 file error, 25 not bencoded, 26 not a usable torrent, 27 not
a magnet link.
";

/// The text of `--help`, in 80 columns.
pub(super) fn help() -> String {
    let mut text = String::from(HEAD);
    for r in TABLE {
        let short = if r.short.is_empty() { "    ".into() } else { format!("-{}, ", r.short) };
        let arg = if r.arg.is_empty() { String::new() } else { format!("={}", r.arg) };
        let mut left = format!("  {short}--{}{arg}", r.long);
        for line in r.help.lines() {
            let _ = writeln!(text, "{left:<24} {line}");
            left.clear();
        }
    }
    text.push_str(TAIL);
    text
}

/// Reads the command line. `args` are without the program's name.
///
/// # Errors
/// The first mistake found, in words for the user.
pub(super) fn parse(
    args: impl IntoIterator<Item = OsString>,
    probe: &dyn Fn(&Path) -> Probe,
) -> Result<Opts, UsageError> {
    let (args, raw) = readable(args)?;
    let mut options = Options::new();
    for r in TABLE {
        if r.arg.is_empty() {
            options.optflagmulti(r.short, r.long, "");
        } else {
            options.optmulti(r.short, r.long, "", r.arg);
        }
    }
    let given = Given { matches: options.parse(args).map_err(|e| from_getopts(&e))?, raw };
    let common = Common {
        quiet: given.flag("quiet"),
        verbose: given.matches.opt_count("verbose"),
        log: given.os("log").map(PathBuf::from),
        json: given.flag("json"),
    };
    let command = command(&given, probe)?;
    Ok(Opts { common, command })
}

fn command(given: &Given, probe: &dyn Fn(&Path) -> Probe) -> Result<Command, UsageError> {
    if given.flag("help") {
        return Ok(Command::Help);
    }
    if given.flag("version") {
        return Ok(Command::Version);
    }
    let operands = given.operands();
    match operands.first().and_then(|o| o.to_str()) {
        Some("show") => {
            given.only(SHOW, "show")?;
            match &operands[1..] {
                [file] => Ok(Command::Show(file.into())),
                [] => Err(UsageError::new("show", "a TORRENT")),
                [_, more, ..] => Err(UsageError::new("show", "one TORRENT").got(more.to_string_lossy())),
            }
        }
        Some("check") => {
            given.only(CHECK, "check")?;
            let (file, dir) = match &operands[1..] {
                [file] => (file, given.os("dir").unwrap_or_else(|| ".".into())),
                [file, dir] => (file, given.os("dir").unwrap_or_else(|| dir.clone())),
                [] => return Err(UsageError::new("check", "a TORRENT")),
                [_, _, more, ..] => {
                    return Err(UsageError::new("check", "one TORRENT and one folder").got(more.to_string_lossy()));
                }
            };
            let storage = given.value("storage", backend)?.unwrap_or_default();
            Ok(Command::Check { file: source(file), dir: dir.into(), storage })
        }
        _ => get(given, operands, probe),
    }
}

fn get(given: &Given, operands: Vec<OsString>, probe: &dyn Fn(&Path) -> Probe) -> Result<Command, UsageError> {
    let (torrents, dir) = operands_of_get(operands, given.os("dir"), probe)?;
    if given.flag("list") {
        return Ok(Command::List(torrents));
    }
    let for_some = ["forget", "select", "metadata-only"].into_iter().find(|o| given.matches.opt_present(o));
    if let Some(option) = for_some.filter(|_| torrents.is_empty()) {
        return Err(UsageError::new(format!("--{option}"), "a TORRENT"));
    }
    if given.flag("forget") {
        return Ok(Command::Forget(torrents));
    }
    let select = given.value("select", selection)?;
    if select.is_some() && torrents.len() > 1 {
        let wanted = "one torrent, because each numbers its files anew";
        return Err(UsageError::new("--select", wanted).got(format!("{} torrents", torrents.len())));
    }
    let metadata_only = given.flag("metadata-only");
    let is_file = |t: &&Source| !matches!(t, Source::Uri(uri) if is_link(uri));
    if let Some(file) = torrents.iter().find(is_file).filter(|_| metadata_only) {
        return Err(UsageError::new("--metadata-only", "magnet links or info hashes").got(file.to_string()));
    }
    let (bind, device) = bound(given.values("bind", |s| Ok(s.to_owned()))?)?;
    // Naming one goal means that goal: the other's default would only surprise.
    let ratio = given.value("seed-ratio", ratio)?;
    let time = given.value("seed-time", |s| goal(s, 60.0))?;
    let (seed_ratio, seed_time) = match (ratio, time) {
        (None, None) => (Some(1.0), Some(Duration::from_secs(3600))),
        (ratio, time) => (ratio.flatten(), time.flatten()),
    };
    Ok(Command::Get(Box::new(Get {
        torrents,
        dir,
        select,
        metadata_only,
        sequential: given.flag("sequential"),
        exit_when_done: given.flag("exit-when-done"),
        goals: ratio.is_some() || time.is_some(),
        seed_ratio,
        seed_time,
        timeout: given
            .value("timeout", |s| duration(s, 1.0).filter(|t| !t.is_zero()).ok_or("a time, as 30, 90s or 5m"))?,
        port: given.value("port", ports)?.unwrap_or(PortChoice::Range(6881, 6999)),
        bind,
        device,
        up: given.value("up", rate)?.flatten(),
        down: given.value("down", rate)?.flatten(),
        portmap: !given.flag("no-portmap"),
        blocklists: given.paths("blocklist")?,
        max_peers: given.value("max-peers", |s| s.parse().ok().filter(|&n| n > 0).ok_or("a number of peers"))?,
        peers: given.values("peer", host_port)?,
        trackers: given.values("tracker", tracker)?,
        no_tracker: given.flag("no-tracker"),
        dht: Some(given.values("dht-bootstrap", host_port)?).filter(|_| !given.flag("no-dht")),
        lsd: !given.flag("no-lsd"),
        verify: given.flag("verify"),
        sandbox: !given.flag("no-sandbox"),
        storage: given.value("storage", backend)?.unwrap_or_default(),
        lane: given.value("lane", lane)?.unwrap_or_default(),
        memory: given.value("memory", memory)?,
    })))
}

/// Splits the operands into torrents and the folder.
fn operands_of_get(
    mut operands: Vec<OsString>,
    dir: Option<OsString>,
    probe: &dyn Fn(&Path) -> Probe,
) -> Result<(Vec<Source>, PathBuf), UsageError> {
    let is_folder = |o: &OsString| o.as_encoded_bytes().ends_with(b"/") || probe(Path::new(o)) == Probe::Folder;
    let dir = match (dir, operands.last()) {
        (Some(dir), _) => Some(dir),
        (None, Some(last)) if is_folder(last) => operands.pop(),
        // A single operand that is not there is a mistyped torrent rather than a folder.
        (None, Some(last))
            if operands.len() > 1 && probe(Path::new(last)) == Probe::Absent && !looks_like_torrent(last) =>
        {
            operands.pop()
        }
        (None, _) => None,
    };
    if operands.is_empty() {
        return match dir {
            Some(dir) => {
                let got = format!("only the folder {}", dir.to_string_lossy());
                Err(UsageError::new("operands", "a TORRENT").got(got))
            }
            None => Ok((Vec::new(), ".".into())),
        };
    }
    if let Some(folder) = operands.iter().find(|o| is_folder(o)) {
        let wanted = "torrents, and at most one folder behind them";
        return Err(UsageError::new("operands", wanted).got(folder.to_string_lossy()));
    }
    if operands.iter().filter(|o| *o == "-").count() > 1 {
        return Err(UsageError::new("operands", "standard input at most once").got("-"));
    }
    Ok((operands.iter().map(|o| source(o)).collect(), dir.map_or_else(|| ".".into(), PathBuf::from)))
}

fn looks_like_torrent(operand: &OsStr) -> bool {
    let ends = operand.as_encoded_bytes().to_ascii_lowercase().ends_with(b".torrent");
    ends || !matches!(source(operand), Source::File(_))
}

/// Whether an operand looks like a magnet link or a bare info hash, hexadecimal or base32.
pub(super) fn is_link(text: &str) -> bool {
    let magnet = text.get(..7).is_some_and(|p| p.eq_ignore_ascii_case("magnet:"));
    let hex = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let base32 = text.len() == 32 && text.bytes().all(|b| b.is_ascii_alphabetic() || matches!(b, b'2'..=b'7'));
    magnet || hex || base32
}

fn source(operand: &OsStr) -> Source {
    let Some(text) = operand.to_str() else { return Source::File(operand.into()) };
    let lower = text.to_ascii_lowercase();
    let is_uri = ["magnet:", "http://", "https://"].iter().any(|scheme| lower.starts_with(scheme));
    let is_hash = is_link(text) || text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match text {
        "-" => Source::Stdin,
        _ if is_uri || is_hash => Source::Uri(text.into()),
        _ => Source::File(text.into()),
    }
}

/// Arguments as text. One that is not UTF-8 (a file name may be anything) is replaced by a stand-in
/// that no real argument can be, because it holds a NUL, and kept beside.
///
/// # Errors
/// An option that is not UTF-8: its name and its argument could not be told apart.
fn readable(args: impl IntoIterator<Item = OsString>) -> Result<(Vec<String>, Vec<OsString>), UsageError> {
    let mut raw = Vec::new();
    let text = args.into_iter().map(|arg| {
        arg.into_string().or_else(|arg| {
            if arg.as_encoded_bytes().starts_with(b"-") {
                let wanted = "UTF-8, or the argument as a word of its own, as in -d DIR";
                return Err(UsageError::new("options", wanted).got(arg.to_string_lossy()));
            }
            raw.push(arg);
            Ok(format!("\0{}", raw.len() - 1))
        })
    });
    Ok((text.collect::<Result<_, _>>()?, raw))
}

/// What `getopts` found, with arguments by their long names.
struct Given {
    matches: Matches,
    raw: Vec<OsString>,
}

impl Given {
    fn flag(&self, name: &str) -> bool {
        self.matches.opt_present(name)
    }

    fn original(&self, text: String) -> OsString {
        let index = text.strip_prefix('\0').and_then(|i| i.parse::<usize>().ok());
        match index.and_then(|i| self.raw.get(i)) {
            Some(raw) => raw.clone(),
            None => text.into(),
        }
    }

    fn operands(&self) -> Vec<OsString> {
        self.matches.free.iter().map(|o| self.original(o.clone())).collect()
    }

    fn os(&self, name: &str) -> Option<OsString> {
        self.matches.opt_strs(name).pop().map(|v| self.original(v))
    }

    /// All values of an option that are names of files.
    fn paths(&self, name: &str) -> Result<Vec<PathBuf>, UsageError> {
        if self.matches.opt_strs(name).iter().any(String::is_empty) {
            return Err(UsageError::new(format!("--{name}"), "the name of a file").got(""));
        }
        Ok(self.matches.opt_strs(name).into_iter().map(|v| self.original(v).into()).collect())
    }

    /// All values of an option, each read by `read`, whose error says what was wanted.
    fn values<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, &'static str>) -> Result<Vec<T>, UsageError> {
        let one = |v: String| read(&v).map_err(|wanted| UsageError::new(format!("--{name}"), wanted).got(v));
        self.matches.opt_strs(name).into_iter().map(one).collect()
    }

    /// As `values`; the last one counts, but each is checked.
    fn value<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, &'static str>) -> Result<Option<T>, UsageError> {
        Ok(self.values(name, read)?.pop())
    }

    /// Refuses options that do not go with `command`.
    fn only(&self, with: u8, command: &str) -> Result<(), UsageError> {
        match TABLE.iter().find(|r| r.with & with == 0 && self.flag(r.long)) {
            Some(r) => Err(UsageError::new(command, "options that go with it").got(format!("--{}", r.long))),
            None => Ok(()),
        }
    }
}

fn from_getopts(e: &Fail) -> UsageError {
    let dashed = |name: &str| if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") };
    match e {
        Fail::ArgumentMissing(name) => UsageError::new(dashed(name), "an argument"),
        Fail::UnrecognizedOption(name) => UsageError::new("options", "a known option").got(dashed(name)),
        Fail::UnexpectedArgument(name) => UsageError::new(dashed(name), "no argument"),
        Fail::OptionMissing(name) | Fail::OptionDuplicated(name) => UsageError::new(dashed(name), "it once"),
    }
}

fn selection(text: &str) -> Result<Selection, &'static str> {
    const WANTED: &str = "file numbers from 1 on, as 1-3,7,9-";
    let number = |s: &str| s.parse::<u32>().ok().filter(|&n| n > 0 && n < u32::MAX).ok_or(WANTED);
    let range = |part: &str| match part.trim().split_once('-') {
        None => number(part.trim()).map(|n| (n, n)),
        Some((from, "")) => Ok((number(from)?, u32::MAX)),
        Some((from, to)) => Ok((number(from)?, number(to)?)),
    };
    let ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
    if ranges.iter().all(|(from, to)| from <= to) { Ok(Selection(ranges)) } else { Err(WANTED) }
}

/// A number and the unit behind it, of those that are plain decimal numbers.
fn decimal(text: &str) -> Option<(f64, &str)> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    Some((text[..unit].parse().ok()?, &text[unit..]))
}

/// A time with an optional unit; a bare number counts `bare` seconds.
fn duration(text: &str, bare: f64) -> Option<Duration> {
    let (n, unit) = decimal(text)?;
    let seconds = match unit {
        "" => bare,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    // A century is for ever enough, and nothing overflows on the way.
    Some(Duration::from_secs_f64((n * seconds).min(3.2e9)))
}

/// A seeding time, or `inf` for none.
fn goal(text: &str, bare: f64) -> Result<Option<Duration>, &'static str> {
    match text {
        "inf" => Ok(None),
        _ => duration(text, bare).map(Some).ok_or("minutes, or a time as 90s, 5m or 2h, or 'inf'"),
    }
}

fn ratio(text: &str) -> Result<Option<f64>, &'static str> {
    match (text, decimal(text)) {
        ("inf", _) => Ok(None),
        (_, Some((r, ""))) => Ok(Some(r)),
        _ => Err("a ratio, as 1.5, or 'inf'"),
    }
}

/// Bytes per second; 0 is no limit.
fn memory(text: &str) -> Result<usize, &'static str> {
    const WANTED: &str = "a size from 1M on, as 4M or 1500K";
    let size = rate(text).ok().flatten().and_then(|n| usize::try_from(n).ok());
    size.filter(|&n| n >= crate::net::LoopConfig::MEMORY_LEAST).ok_or(WANTED)
}

fn rate(text: &str) -> Result<Option<u64>, &'static str> {
    const WANTED: &str = "bytes per second, as 64000, 500K or 2.5M";
    let (n, unit) = decimal(text).ok_or(WANTED)?;
    let factor = match unit.to_ascii_uppercase().trim_end_matches("IB") {
        "" if unit.is_empty() => 1u64,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(WANTED),
    };
    let rate = n * factor as f64;
    // Beyond 2^53 a float no longer counts single bytes; no link is that fast.
    if rate > 9e15 || (n > 0.0 && rate < 1.0) { Err(WANTED) } else { Ok(Some(rate as u64).filter(|&r| r > 0)) }
}

fn ports(text: &str) -> Result<PortChoice, &'static str> {
    const WANTED: &str = "a port from 0 to 65535, or a range as 6881-6999";
    let port = |s: &str| s.parse::<u16>().map_err(|_| WANTED);
    match text.split_once('-') {
        None => port(text).map(PortChoice::Exact),
        Some((from, to)) => match (port(from)?, port(to)?) {
            (from, to) if 0 < from && from <= to => Ok(PortChoice::Range(from, to)),
            _ => Err(WANTED),
        },
    }
}

fn host_port(text: &str) -> Result<HostPort, &'static str> {
    const WANTED: &str = "HOST:PORT, as 10.0.0.2:6881 or [::1]:6881";
    let (host, port) = text.rsplit_once(':').ok_or(WANTED)?;
    let port = port.parse().ok().filter(|&p| p > 0).ok_or(WANTED)?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|h| h.parse::<std::net::Ipv6Addr>().is_ok()).ok_or(WANTED)?,
        None if host.is_empty() || host.contains(':') => return Err(WANTED),
        None => host,
    };
    Ok(HostPort { host: host.into(), port })
}

/// Addresses and at most one interface. One that is not there is found out later.
fn bound(given: Vec<String>) -> Result<(Vec<IpAddr>, Option<String>), UsageError> {
    let (mut ips, mut device) = (Vec::new(), None);
    for text in given {
        // A scope behind an address, or a name that no interface can have.
        let is_name =
            (1..16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
        match text.parse::<IpAddr>() {
            Ok(ip) => ips.push(ip),
            Err(_) if !is_name || text.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
                return Err(UsageError::new("--bind", "an IP address or a network interface of this machine").got(text));
            }
            Err(_) if device.as_ref().is_some_and(|d| *d != text) => {
                return Err(UsageError::new("--bind", "one network interface").got(text));
            }
            Err(_) => device = Some(text),
        }
    }
    Ok((ips, device))
}

fn tracker(text: &str) -> Result<String, &'static str> {
    let known = ["http://", "https://", "udp://"]
        .iter()
        .any(|s| text.get(..s.len()).is_some_and(|head| head.eq_ignore_ascii_case(s)) && text.len() > s.len());
    if known { Ok(text.into()) } else { Err("a URL that begins with http://, https:// or udp://") }
}

fn backend(text: &str) -> Result<Backend, &'static str> {
    match text {
        "auto" => Ok(Backend::Auto),
        "map" => Ok(Backend::Map),
        "io" => Ok(Backend::Io),
        _ => Err("auto, map or io"),
    }
}

fn lane(text: &str) -> Result<Lane, &'static str> {
    match text {
        "auto" => Ok(Lane::Auto),
        "direct" => Ok(Lane::Direct),
        "gather" => Ok(Lane::Gather),
        "scratch" => Ok(Lane::Scratch),
        _ => Err("auto, direct, gather or scratch"),
    }
}

#[cfg(test)]
mod tests;
