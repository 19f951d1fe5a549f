//! How each client is told to do the work. Loopback only, no DHT, no trackers; the null peers dial in.

use super::measure::Subject;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const LIBTORRENT: &str = include_str!("libtorrent.py");

/// rtorrent's settings; its end is told by a file.
const RTORRENT: &str = "\
system.daemon.set = true
network.bind_address.set = 127.0.0.1
network.port_range.set = PORT-PORT
network.port_random.set = no
network.port_open.set = yes
dht.mode.set = disable
protocol.pex.set = no
protocol.encryption.set = none
trackers.use_udp.set = no
session.path.set = HOME/session
directory.default.set = DIR
pieces.hash.on_completion.set = no
pieces.memory.max.set = 4096M
throttle.max_uploads.set = 500
throttle.max_uploads.global.set = 500
throttle.max_peers.normal.set = 4000
throttle.max_peers.seed.set = 4000
method.set_key = event.download.EVENT, done, \"execute.nothrow=touch,HOME/done\"
";

#[derive(Clone, Debug)]
enum Kind {
    Btmio { program: PathBuf, extra: Vec<String> },
    Libtorrent { profile: &'static str },
    Aria2,
    Rqbit,
    Rtorrent,
}

/// A client that is there.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    kind: Kind,
    pub(crate) name: String,
}

/// What a client is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Download and leave.
    Download,
    /// Check, then seed until stopped.
    Seed,
    /// Seed what it knows from before to be complete.
    Trust,
    /// Check and leave.
    Check,
}

/// Where a client works.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) torrents: &'a [PathBuf],
    pub(crate) dir: &'a Path,
    pub(crate) home: &'a Path,
    pub(crate) port: u16,
}

/// The clients asked for, or all that answer.
pub(crate) fn installed(names: Option<&[String]>, extra: &[String]) -> Result<Vec<Client>, String> {
    let answers = |program: &str, args: &[&str]| {
        let mut c = Command::new(program);
        c.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        c.status().is_ok_and(|s| s.success())
    };
    let mut all =
        vec![client("btmio", Kind::Btmio { program: tools::process::program("btmio")?, extra: extra.to_vec() })];
    if answers(&python(), &["-c", "import libtorrent"]) {
        all.push(client("libtorrent", Kind::Libtorrent { profile: "default" }));
        all.push(client("libtorrent-tuned", Kind::Libtorrent { profile: "tuned" }));
    }
    if answers("aria2c", &["--version"]) {
        all.push(client("aria2", Kind::Aria2));
    }
    if answers(&rqbit(), &["--version"]) {
        all.push(client("rqbit, one worker", Kind::Rqbit));
    }
    if answers("rtorrent", &["-h"]) {
        all.push(client("rtorrent", Kind::Rtorrent));
    }
    if let Some(names) = names {
        if let Some(missing) = names.iter().find(|n| !all.iter().any(|c| c.is(n))) {
            return Err(format!("{missing}: not known, or not installed"));
        }
        all.retain(|c| names.iter().any(|n| c.is(n)));
    }
    Ok(all)
}

fn client(name: &str, kind: Kind) -> Client {
    Client { kind, name: name.to_owned() }
}

/// The Python that has libtorrent.
fn python() -> String {
    std::env::var("BTMIO_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn rqbit() -> String {
    std::env::var("RQBIT").unwrap_or_else(|_| "rqbit".to_owned())
}

impl Client {
    fn is(&self, name: &str) -> bool {
        self.name.split(',').next() == Some(name)
    }

    pub(crate) fn is_btmio(&self) -> bool {
        matches!(self.kind, Kind::Btmio { .. })
    }

    /// It can hold several torrents and takes their state on trust.
    pub(crate) fn can_trust(&self) -> bool {
        matches!(self.kind, Kind::Btmio { .. } | Kind::Libtorrent { profile: "default" })
    }

    /// It leaves by itself after a check.
    pub(crate) fn can_check(&self) -> bool {
        !matches!(self.kind, Kind::Rqbit)
    }

    /// The same client with one more argument, if it is btmio.
    pub(crate) fn with(&self, arg: &str) -> Option<Self> {
        let Kind::Btmio { program, extra } = &self.kind else { return None };
        let mut extra = extra.clone();
        extra.push(arg.to_owned());
        Some(Self { name: format!("btmio {arg}"), kind: Kind::Btmio { program: program.clone(), extra } })
    }

    pub(crate) fn start(&self, what: What, place: &Place<'_>) -> Result<Subject, String> {
        let Place { torrents, dir, home, port } = *place;
        let mut done = None;
        let mut c = match &self.kind {
            Kind::Btmio { program, extra } => {
                let mut c = Command::new(program);
                match what {
                    What::Check => c.arg("check").arg("-q"),
                    What::Download => c.args(["-q", "-e", "--no-tracker"]).args(extra),
                    What::Seed | What::Trust => {
                        c.args(["-q", "--no-tracker", "--seed-ratio=inf", "--seed-time=inf"]).args(extra)
                    }
                };
                if what != What::Check {
                    c.args(["--no-dht", "--no-lsd", "--no-portmap", "--bind=127.0.0.1"]).arg(format!("--port={port}"));
                }
                c.arg("-d").arg(dir).args(torrents);
                c
            }
            Kind::Aria2 => {
                let mut c = Command::new("aria2c");
                c.args(["--no-conf", "-q", "--enable-dht=false", "--enable-dht6=false", "--disable-ipv6=true"]);
                c.args(["--enable-peer-exchange=false", "--bt-enable-lpd=false", "--bt-max-peers=0"]);
                c.args(["--file-allocation=none", "--allow-overwrite=true", "--auto-save-interval=0"]);
                c.arg(format!("--listen-port={port}")).arg("-d").arg(dir);
                match what {
                    What::Check => c.args(["--check-integrity=true", "--hash-check-only=true"]),
                    What::Download => c.arg("--seed-time=0"),
                    What::Seed | What::Trust => c.args(["--check-integrity=true", "--seed-ratio=0.0"]),
                };
                c.args(torrents);
                c
            }
            Kind::Libtorrent { profile } => {
                let mut c = Command::new(python());
                let word = match what {
                    What::Check => "check",
                    What::Download => "download",
                    What::Seed => "seed",
                    What::Trust => "trust",
                };
                c.args(["-c", LIBTORRENT, word, profile]).arg(dir).arg(port.to_string());
                let list = home.join("torrents.txt");
                let names: Vec<_> = torrents.iter().map(|t| t.to_string_lossy()).collect();
                std::fs::write(&list, names.join("\n")).map_err(|e| format!("{}: {e}", list.display()))?;
                c.arg(format!("@{}", list.display()));
                c
            }
            Kind::Rqbit => {
                let mut c = Command::new(rqbit());
                c.args(["-v", "error", "--single-thread-runtime", "--disable-dht", "--disable-dht-persistence"]);
                c.args(["--disable-lsd", "--disable-upnp-port-forward", "--disable-trackers", "--ipv4-only"]);
                c.args(["--listen-ip", "127.0.0.1", "--listen-port", &port.to_string(), "--peer-limit", "20000"]);
                c.args(["--http-api-listen-addr", "127.0.0.1:0", "download", "-o"]).arg(dir);
                c.arg(if what == What::Download { "-e" } else { "--overwrite" }).args(torrents);
                c
            }
            Kind::Rtorrent => {
                let mut c = Command::new("rtorrent");
                let event = if what == What::Download { "finished" } else { "hash_done" };
                let text = RTORRENT.replace("PORT", &port.to_string()).replace("EVENT", event);
                let text = text.replace("HOME", &home.to_string_lossy()).replace("DIR", &dir.to_string_lossy());
                let rc = home.join("rtorrent.rc");
                let made = std::fs::create_dir_all(home.join("session")).and_then(|()| std::fs::write(&rc, text));
                made.map_err(|e| format!("{}: {e}", rc.display()))?;
                c.args(["-n", "-o", &format!("import={}", rc.display())]);
                c.args(torrents.iter().map(|t| t.with_extension("tracker")));
                done = matches!(what, What::Download | What::Check).then(|| home.join("done"));
                c
            }
        };
        c.env("HOME", home).env("XDG_STATE_HOME", home).env("XDG_CACHE_HOME", home).current_dir(home);
        Subject::start(c, done)
    }
}
