//! How each client is told to do the work. Loopback only, no DHT, no trackers; the null peers dial in.

use super::measure::Subject;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// libtorrent has no program of its own: download and leave, seed until killed, or check and leave.
const LIBTORRENT: &str = "\
import sys, time, libtorrent as lt
what, torrent, folder, port = sys.argv[1:5]
s = lt.session({'listen_interfaces': '127.0.0.1:' + port, 'enable_dht': False, 'enable_lsd': False,
                'enable_upnp': False, 'enable_natpmp': False, 'alert_mask': 0})
h = s.add_torrent({'ti': lt.torrent_info(torrent), 'save_path': folder, 'flags': lt.torrent_flags.default_flags &
                   ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused})
while what == 'seed' or not h.status().is_seeding:
    time.sleep(0.005)
h.flush_cache()
";

enum Kind {
    Btmio { program: PathBuf, extra: Vec<String> },
    Aria2,
    Libtorrent,
}

/// A client that is there.
pub(crate) struct Client(Kind);

/// The clients asked for, or all that answer.
pub(crate) fn installed(names: Option<&[String]>, extra: &[String]) -> Result<Vec<Client>, String> {
    let answers = |program: &str, args: &[&str]| {
        let mut c = Command::new(program);
        c.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        c.status().is_ok_and(|s| s.success())
    };
    let mut all = vec![Client(Kind::Btmio { program: tools::process::program("btmio")?, extra: extra.to_vec() })];
    if answers("aria2c", &["--version"]) {
        all.push(Client(Kind::Aria2));
    }
    if answers("python3", &["-c", "import libtorrent"]) {
        all.push(Client(Kind::Libtorrent));
    }
    if let Some(names) = names {
        if let Some(missing) = names.iter().find(|n| !all.iter().any(|c| c.name() == n.as_str())) {
            return Err(format!("{missing}: not known, or not installed"));
        }
        all.retain(|c| names.iter().any(|n| n == c.name()));
    }
    Ok(all)
}

impl Client {
    pub(crate) fn name(&self) -> &'static str {
        match self.0 {
            Kind::Btmio { .. } => "btmio",
            Kind::Aria2 => "aria2",
            Kind::Libtorrent => "libtorrent",
        }
    }

    fn command(&self, what: &str, torrent: &Path, dir: &Path, home: &Path, port: u16) -> Command {
        let mut c = match &self.0 {
            Kind::Btmio { program, extra } => {
                let mut c = Command::new(program);
                match what {
                    "check" => c.arg("check").arg("-q"),
                    "seed" => c.args(["-q", "--no-tracker", "--seed-ratio=inf", "--seed-time=inf"]).args(extra),
                    _ => c.args(["-q", "-e", "--no-tracker"]).args(extra),
                };
                if what != "check" {
                    c.arg("--bind=127.0.0.1").arg(format!("--port={port}"));
                }
                c.arg("-d").arg(dir).arg(torrent);
                c
            }
            Kind::Aria2 => {
                let mut c = Command::new("aria2c");
                c.args([
                    "--no-conf",
                    "-q",
                    "--enable-dht=false",
                    "--enable-dht6=false",
                    "--enable-peer-exchange=false",
                ]);
                c.args(["--bt-enable-lpd=false", "--file-allocation=falloc", "--allow-overwrite=true"]);
                c.arg(format!("--listen-port={port}")).arg("-d").arg(dir);
                match what {
                    "check" => c.args(["--check-integrity=true", "--hash-check-only=true"]),
                    "seed" => c.args(["--check-integrity=true", "--seed-ratio=0.0"]),
                    _ => c.arg("--seed-time=0"),
                };
                c.arg(torrent);
                c
            }
            Kind::Libtorrent => {
                let mut c = Command::new("python3");
                c.args(["-c", LIBTORRENT, what]).arg(torrent).arg(dir).arg(port.to_string());
                c
            }
        };
        c.env("HOME", home).env("XDG_STATE_HOME", home).env("XDG_CACHE_HOME", home).current_dir(home);
        c
    }

    /// Downloads and leaves.
    pub(crate) fn download(&self, torrent: &Path, dir: &Path, home: &Path, port: u16) -> Result<Subject, String> {
        Subject::start(self.command("download", torrent, dir, home, port))
    }

    /// Seeds until it is stopped.
    pub(crate) fn seed(&self, torrent: &Path, dir: &Path, home: &Path, port: u16) -> Result<Subject, String> {
        Subject::start(self.command("seed", torrent, dir, home, port))
    }

    /// Checks its files and leaves.
    pub(crate) fn check(&self, torrent: &Path, dir: &Path, home: &Path) -> Result<Subject, String> {
        Subject::start(self.command("check", torrent, dir, home, 0))
    }
}
