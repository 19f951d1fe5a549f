//! Attacks on a client, and how it fares: `hostile [--all] [--client=NAME]... [--nofile=N]... [T15]...`.
//!
//! The client under attack seeds from one address with so many descriptors, the attackers come from a second,
//! and an honest peer at a third asks for one block again and again. Measured for each attack: memory
//! (`RssAnon`) above what it was before, at worst and up to ten seconds later; how long the honest peer waited for
//! its block during the attack, at worst; how long after the attackers had left; processor time.
//! The payload has a hundred files, so that they want descriptors too.
//!
//! Two are the other way round, a download: T25 from ten seeds, one of which spoils a byte of every piece; T53 with
//! 32 and 64 descriptors, while three hundred idle connections want them.
//!
//! With neither `--client` nor `--all`: btmio. `--all` is btmio, libtorrent, Transmission, aria2, and rqbit if it is
//! installed. Without `--nofile`: 64 and 256. `--record=FILE` appends each result to a file as a line of JSON,
//! `--table=FILE` prints what is in one as a table and does nothing else, `--keep` leaves the clients' logs.
//!
//! It runs as the first process of namespaces of its own, like the scenarios of `interop`: nothing reaches a network,
//! and nothing is left when it ends. Everything is bounded: some seconds and some thousand connections an attack.

mod attacks;
mod corrupt;
mod honest;
mod report;
mod seeds;
mod starve;
// Started the same way as for interoperability.
#[path = "../interop/clients.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod clients;
#[path = "../interop/http.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod http;

use attacks::{ATTACKS, Attack, Bots};
use clients::{Client, Job, PORT, Role};
use report::Outcome;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tools::payload::Payload;
use tools::process::{program, wait_for};

/// An address of the private network: not on loopback, whose peers Transmission refuses.
pub(crate) const fn host(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 78, 0, n))
}

/// Where the client under attack listens.
pub(crate) const TARGET: SocketAddr = SocketAddr::new(host(1), PORT);
/// Where the honest peer is.
pub(crate) const HONEST: IpAddr = host(2);
/// Where trackers are.
pub(crate) const TRACKER: IpAddr = host(3);
/// Where the attackers come from.
pub(crate) const ATTACKER: IpAddr = host(66);
/// The first of the seeds.
pub(crate) const SEEDS: u8 = 100;
/// How long an honest peer waits for its block: two rounds of anybody's choker.
const PATIENCE: Duration = Duration::from_secs(21);
/// How long the memory may take to come back.
const BACK: Duration = Duration::from_secs(10);
/// What counts as come back (some buffers for files are kept on purpose), and the goal for the peak, in KiB.
const SLACK: u64 = 2 << 10;
const GOAL: u64 = 8 << 10;

/// What the command line asks for.
#[derive(Default)]
struct Options {
    limits: Vec<u64>,
    subjects: Vec<Client>,
    names: Vec<String>,
    record: Option<PathBuf>,
    table: Option<PathBuf>,
    keep: bool,
    inside: bool,
}

fn options() -> Result<Options, String> {
    let mut o = Options::default();
    for arg in std::env::args().skip(1) {
        match arg.split_once('=').unwrap_or((&arg, "")) {
            ("--nofile", n) => o.limits.push(n.parse().map_err(|e| format!("{arg}: {e}"))?),
            ("--client", name) => o.subjects.push(Client::from_name(name).ok_or(format!("{arg}: not known"))?),
            ("--all", "") => {
                o.subjects.extend([Client::Btmio, Client::Libtorrent, Client::Transmission, Client::Aria2]);
                o.subjects.extend(rqbit_answers().then_some(Client::Rqbit));
            }
            ("--record", file) if !file.is_empty() => o.record = Some(file.into()),
            ("--table", file) if !file.is_empty() => o.table = Some(file.into()),
            ("--keep", "") => o.keep = true,
            ("--inside", "") => o.inside = true,
            (name, "") if name == "T25" || name == "T53" || ATTACKS.iter().any(|a| a.name == name) => {
                o.names.push(name.to_owned());
            }
            _ => {
                return Err(format!(
                    "{arg}: unknown; hostile [--all] [--client=NAME] [--nofile=N] [--record=FILE] [--table=FILE] \
                     [--keep] [T15]..."
                ));
            }
        }
    }
    if o.limits.is_empty() {
        o.limits = vec![64, 256];
    }
    if o.subjects.is_empty() {
        o.subjects.push(Client::Btmio);
    }
    Ok(o)
}

fn main() -> ExitCode {
    let result = options().and_then(|o| match (&o.table, o.inside) {
        (Some(file), _) => report::table(file).map(|text| {
            print!("{text}");
            true
        }),
        (None, true) => inside(&o),
        (None, false) => outside(&o),
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("hostile: {e}");
            ExitCode::from(2)
        }
    }
}

/// rqbit is installed.
fn rqbit_answers() -> bool {
    let mut c = Command::new(clients::rqbit_program());
    c.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Runs this program once more, alone on a network.
fn outside(o: &Options) -> Result<bool, String> {
    let mut c = Command::new("setpriv");
    c.args(["--pdeathsig=KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        c.arg("--map-root-user");
    }
    c.arg(std::env::current_exe().map_err(|e| e.to_string())?).arg("--inside").args(std::env::args_os().skip(1));
    if o.subjects.contains(&Client::Btmio) {
        c.env("BTMIO", program("btmio")?);
    }
    c.status().map(|s| s.success()).map_err(|e| format!("setpriv: {e}"))
}

/// True when btmio met its goals everywhere.
fn inside(o: &Options) -> Result<bool, String> {
    let ip = |args: &str| match Command::new("ip").args(args.split(' ')).status() {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("ip {args}: {other:?}")),
    };
    ip("link set lo up")?;
    let hosts = [1, 2, 3, 66].into_iter().chain(SEEDS..SEEDS + 10);
    hosts.map(|n| format!("address add {}/24 dev lo", host(n))).try_for_each(|args| ip(&args))?;
    // Ten thousand connections a second want ports.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "2000 65000");
    let scratch = std::env::temp_dir().join(format!("btmio-hostile-{}", uuid()));
    let world = World { payload: payload(), scratch };
    let good = world.run(o);
    match o.keep {
        true => println!("everything is kept in {}", world.scratch.display()),
        false => drop(std::fs::remove_dir_all(&world.scratch)),
    }
    good
}

/// Something no other run has: inside, all have the same process ids.
fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default().trim().to_owned()
}

fn payload() -> Payload {
    let names: Vec<String> = (0..100).map(|i| format!("file {i}")).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|n| (n.as_str(), 163_841)).collect();
    Payload::new("hostile payload", 64 << 10, 0xbad, &files)
}

/// What all attacks share.
pub(crate) struct World {
    pub(crate) payload: Payload,
    pub(crate) scratch: PathBuf,
}

impl World {
    fn run(&self, o: &Options) -> Result<bool, String> {
        self.payload.write(&self.scratch.join("seed")).map_err(|e| e.to_string())?;
        std::fs::write(self.scratch.join("t.torrent"), self.payload.torrent(&[])).map_err(|e| e.to_string())?;
        println!("{}", report::HEAD);
        let chosen = |name: &str| o.names.is_empty() || o.names.iter().any(|n| n == name);
        let mut good = true;
        let mut note = |outcome: Outcome| {
            println!("{}", outcome.line());
            good &= outcome.good || outcome.client != Client::Btmio.name();
            o.record.as_deref().map_or(Ok(()), |file| outcome.record(file))
        };
        for &client in &o.subjects {
            for &nofile in &o.limits {
                for attack in ATTACKS.iter().filter(|a| chosen(a.name)) {
                    let outcome = self.one(client, nofile, attack);
                    note(outcome.unwrap_or_else(|e| Outcome::failed(client, nofile, attack.name, attack.what, e)))?;
                }
                if chosen("T25") {
                    note(corrupt::run(self, client, nofile))?;
                }
            }
            if chosen("T53") {
                for nofile in [32, 64] {
                    note(starve::run(self, client, nofile))?;
                }
            }
        }
        Ok(good)
    }

    /// A client's job in a folder of its own, with nothing that finds peers but what is said.
    pub(crate) fn job(&self, client: Client, role: Role, nofile: u64, name: &str) -> Job {
        let home = self.scratch.join(format!("{}-{nofile}-{name}", client.name()));
        let dir = if role == Role::Seed { self.scratch.join("seed") } else { home.join("to") };
        Job {
            client,
            role,
            ip: TARGET.ip().to_string(),
            torrent: self.scratch.join("t.torrent"),
            dir,
            home,
            pex: false,
            dht: Vec::new(),
            host: None,
            lsd: false,
            bind: true,
            portmap: false,
            up_limit: 0,
            down_limit: 0,
            roots: None,
            nofile: Some(nofile),
            extra: vec!["--seed-time=10m".into(), "--seed-ratio=1000".into()],
        }
    }

    /// One attack on a seed.
    fn one(&self, client: Client, nofile: u64, attack: &Attack) -> Result<Outcome, String> {
        let job = self.job(client, Role::Seed, nofile, attack.name);
        let mut node = client.start(&job)?;
        let hash = self.payload.info_hash();
        let pid = node.child.id();
        // Who dials before the data has been checked is refused, and by some for good.
        std::thread::sleep(Duration::from_secs(4));
        let first = honest::first_block(hash, PATIENCE);
        first.ok_or_else(|| format!("does not serve at all\n{}", node.child.tail()))?;
        std::thread::sleep(Duration::from_millis(500));
        let base = rss(pid);
        let (before, begin) = (cpu(pid), Instant::now());
        let over = AtomicBool::new(false);
        let mut bots = Bots::new(attack, hash, self.payload.pieces() as u32);
        let (peak, waited) = std::thread::scope(|s| {
            let memory = s.spawn(|| {
                let mut peak = base;
                while !over.load(Ordering::Relaxed) {
                    peak = peak.max(rss(pid));
                    std::thread::sleep(Duration::from_millis(20));
                }
                peak
            });
            let honest = s.spawn(|| {
                // The attack is given a moment to unfold, and goes on while someone waits.
                std::thread::sleep(Duration::from_millis(700));
                let mut worst = Some(Duration::ZERO);
                while begin.elapsed() < Duration::from_secs(attack.seconds) {
                    let t = honest::first_block(hash, PATIENCE);
                    worst = worst.and_then(|w| Some(w.max(t?)));
                    std::thread::sleep(Duration::from_millis(200));
                }
                over.store(true, Ordering::Relaxed);
                worst
            });
            bots.run(|| !over.load(Ordering::Relaxed));
            (memory.join().unwrap_or(0), honest.join().ok().flatten())
        });
        let took = begin.elapsed().as_secs_f64();
        let (used, rate) = (cpu(pid) - before, bots.made as f64 / took);
        let after = honest::first_block(hash, PATIENCE);
        let back = wait_for(BACK, || Some(rss(pid)).filter(|now| *now <= base + SLACK)).unwrap_or_else(|| rss(pid));
        let ended = node.child.exited();
        let soon = |t: Option<Duration>| t.is_some_and(|t| t <= Duration::from_secs(2));
        let seconds = |t: Option<Duration>| t.map(|t| t.as_secs_f64());
        Ok(Outcome {
            client: client.name().into(),
            nofile,
            name: attack.name.into(),
            what: attack.what.into(),
            good: ended.is_none() && peak <= base + GOAL && back <= base + SLACK && soon(waited) && soon(after),
            base,
            peak: peak.saturating_sub(base),
            back: back.saturating_sub(base),
            honest: seconds(waited),
            after: seconds(after),
            cpu: used as f64 / took,
            rate,
            text: ended.map(|s| format!("ended with {s}")),
        })
    }
}

/// Anonymous memory in KiB.
fn rss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor time used, in hundredths of a second.
pub(crate) fn cpu(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum()
}

/// The download is complete.
pub(crate) fn complete(payload: &Payload, dir: &Path) -> bool {
    payload.good_pieces(dir).len() == payload.pieces()
}
