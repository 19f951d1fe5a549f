//! The trackers of a scenario: the `tracker` tool with its faults, or opentracker.

use crate::http;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tools::process::{Child, program, wait_for};

/// Trackers live on this address, each on a port of its own.
const IP: &str = "10.77.0.1";

/// A running tracker.
pub(crate) struct Tracker {
    pub(crate) child: Child,
    /// The announce URL.
    pub(crate) url: String,
    /// `%xx` of the one info hash that is asked for.
    hash: String,
}

impl Tracker {
    /// Starts the `tracker` tool with these options.
    pub(crate) fn ours(name: &str, dir: &Path, hash: &[u8; 20], options: &[&str]) -> Result<Self, String> {
        let mut c = Command::new(program("tracker")?);
        c.arg(format!("--bind={IP}")).args(["--port=0", "--interval=5"]).args(options);
        let mut child = Child::spawn(name, dir, c).map_err(|e| format!("starting {e}"))?;
        let url = wait_for(Duration::from_secs(10), || match child.exited() {
            Some(status) => Some(Err(format!("tracker ended with {status}\n{}", child.tail()))),
            None => child.output().split_once('\n').map(|(url, _)| Ok(url.trim().to_owned())),
        });
        let url = url.unwrap_or(Err("tracker does not say its URL".to_owned()))?;
        Ok(Self { child, url, hash: percent(hash) })
    }

    /// Starts opentracker. Debian's build serves a white list of info hashes only.
    pub(crate) fn open(dir: &Path, hash: &[u8; 20]) -> Result<Self, String> {
        let list: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        fs::write(dir.join("whitelist"), list + "\n").map_err(|e| e.to_string())?;
        let mut c = Command::new("opentracker");
        c.args(["-i", IP, "-p", "6969", "-P", "6969", "-w", "whitelist", "-d"]).arg(dir).current_dir(dir);
        let child = Child::spawn("opentracker", dir, c).map_err(|e| format!("starting {e}"))?;
        let tracker = Self { child, url: format!("http://{IP}:6969/announce"), hash: percent(hash) };
        let up = wait_for(Duration::from_secs(10), || tracker.counts());
        up.map(|_| ()).ok_or_else(|| format!("opentracker does not answer\n{}", tracker.child.tail()))?;
        Ok(tracker)
    }

    /// `host:port`, as a message about this tracker would name it.
    pub(crate) fn host(&self) -> &str {
        self.url.trim_start_matches("http://").split('/').next().unwrap_or_default()
    }

    /// Seeds and leeches it knows of, by scrape.
    pub(crate) fn counts(&self) -> Option<(u64, u64)> {
        let answer = http::request(self.host(), &format!("/scrape?info_hash={}", self.hash), &[], None).ok()?;
        let number = |key: &[u8]| {
            let at = answer.body.windows(key.len()).position(|w| w == key)? + key.len();
            let digits: String =
                answer.body[at..].iter().take_while(|b| b.is_ascii_digit()).map(|&b| b as char).collect();
            digits.parse::<u64>().ok()
        };
        match answer.status {
            200 => Some((number(b"8:completei").unwrap_or(0), number(b"10:incompletei").unwrap_or(0))),
            _ => None,
        }
    }
}

fn percent(hash: &[u8; 20]) -> String {
    hash.iter().map(|b| format!("%{b:02x}")).collect()
}
