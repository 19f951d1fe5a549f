//! The trackers of a scenario: the `tracker` tool with its faults, or opentracker.

use crate::http;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tools::process::{Child, wait_for};
use tools::tracker::{self, Options};

/// Trackers live on these addresses, each on a port of its own.
const IP: &str = "10.77.0.1";
const IP6: &str = "fd77::1";

/// How a tracker is to be spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// HTTP over IPv4.
    Http,
    /// HTTP over IPv6.
    Http6,
    /// UDP over IPv4.
    Udp,
    /// UDP over IPv6.
    Udp6,
}

/// A running tracker.
pub(crate) struct Tracker {
    kind: Kind,
    /// The announce URL.
    pub(crate) url: String,
    /// The one over HTTP; the same tracker.
    pub(crate) http: String,
    /// `%xx` of the one info hash that is asked for.
    hash: String,
}

enum Kind {
    /// Ours runs on threads of this process and ends with them.
    Ours {
        _tracker: tracker::Tracker,
        log: Arc<Mutex<Vec<String>>>,
    },
    Open(Child),
}

impl Tracker {
    /// Starts our own, misbehaving as the options say.
    pub(crate) fn ours(hash: &[u8; 20], options: Options, over: Over) -> Result<Self, String> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        // Long enough that a client that announces once a minute is not forgotten.
        let udp = matches!(over, Over::Udp | Over::Udp6);
        let ip = if matches!(over, Over::Udp6 | Over::Http6) { IP6 } else { IP };
        let bind = ip.parse().expect("an address");
        let options = Options { bind, udp, interval: 60, ..options };
        let keep = move |line: &str| lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
        let tracker = tracker::Tracker::start(options, keep).map_err(|e| format!("tracker: {e}"))?;
        let http = tracker.announce_url();
        let url = if udp { tracker.udp_url() } else { http.clone() };
        Ok(Self { kind: Kind::Ours { _tracker: tracker, log }, url, http, hash: percent(hash) })
    }

    /// Starts opentracker. Debian's build serves a white list of info hashes only, and IPv4 only: for IPv6
    /// another build is needed, called `opentracker-ipv6`, which serves any hash. It insists on not being
    /// root, and in a user namespace of one there is nobody else to become: then it gets one in which it is.
    pub(crate) fn open(dir: &Path, hash: &[u8; 20], over: Over) -> Result<Self, String> {
        let list: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        fs::write(dir.join("whitelist"), list + "\n").map_err(|e| e.to_string())?;
        let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let alone = users.split_whitespace().nth(2) == Some("1");
        let (program, ip) = if over == Over::Udp6 { ("opentracker-ipv6", IP6) } else { ("opentracker", IP) };
        let mut c = Command::new(if alone { "unshare" } else { program });
        if alone {
            c.args(["--user", "--map-user=1000", "--map-group=1000", program]);
        }
        c.args(["-i", ip, "-p", "6969", "-P", "6969", "-d"]).arg(dir).current_dir(dir);
        if over != Over::Udp6 {
            c.args(["-w", "whitelist"]);
        }
        let child = Child::spawn("opentracker", dir, c).map_err(|e| format!("starting {e}"))?;
        let host = if over == Over::Udp6 { format!("[{ip}]") } else { ip.to_owned() };
        let url = |scheme: &str| format!("{scheme}://{host}:6969/announce");
        let announce = url(if over == Over::Http { "http" } else { "udp" });
        let tracker = Self { kind: Kind::Open(child), url: announce, http: url("http"), hash: percent(hash) };
        let up = wait_for(Duration::from_secs(10), || tracker.counts());
        up.map(|_| ()).ok_or_else(|| format!("opentracker does not answer\n{}", tracker.tail()))?;
        Ok(tracker)
    }

    /// `host:port`, as a message about this tracker would name it.
    pub(crate) fn host(&self) -> &str {
        self.http.trim_start_matches("http://").split('/').next().unwrap_or_default()
    }

    /// The end of its log, for a report of a failure.
    pub(crate) fn tail(&self) -> String {
        match &self.kind {
            Kind::Open(child) => child.tail(),
            Kind::Ours { log, .. } => {
                let log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log[log.len().saturating_sub(8)..].iter().map(|l| format!("    tracker | {l}\n")).collect()
            }
        }
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
