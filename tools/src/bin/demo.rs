//! The demo: a tracker, a seeding `btmio` and a downloading `btmio` on 127.0.0.1, and a verified file.
//!
//! `cargo run --release -p tools --bin demo`. With `-- --magnet` there is no tracker: the download has a magnet link with
//! nothing in it but the hash, and finds the seeder through a DHT of the two of them and a node. The sample torrent is made on the spot (see
//! [`tools::payload`]); the download lands in `out/`, everything else in a temporary folder that is gone
//! at the end, as are the processes. What arrived is compared with the formula it was made from, not
//! with what btmio says about it; then `btmio check` has to agree. Ends with 0 if all of that held.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tools::dht_node::{self, DhtNode};
use tools::payload::Payload;
use tools::process::{Child, program, wait_for};
use tools::tracker::{Options, Tracker};

/// Longest until the seeder has checked its files and announced itself.
const START: Duration = Duration::from_secs(30);
/// Longest for the download.
const DOWNLOAD: Duration = Duration::from_secs(90);
/// Longest for the seeder to end when asked to.
const STOP: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let scratch = std::env::temp_dir().join(format!("btmio-demo-{}", std::process::id()));
    let magnet = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [arg] if arg == "--magnet" => true,
        other => {
            eprintln!("demo: wanted nothing or --magnet, got '{}'", other.join(" "));
            return ExitCode::from(2);
        }
    };
    let result = demo(&scratch, Path::new("out"), magnet);
    let _ = std::fs::remove_dir_all(&scratch);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Who tells the download of the seeder.
enum Finder {
    Tracker(Tracker),
    Dht(DhtNode),
}

impl Finder {
    /// The seeder has told it that it is there.
    fn knows(&self, sample: &Payload) -> bool {
        match self {
            Self::Tracker(tracker) => !tracker.peers(&sample.info_hash()).is_empty(),
            Self::Dht(node) => node.counts().1 > 0,
        }
    }
}

fn demo(scratch: &Path, out: &Path, magnet: bool) -> Result<(), String> {
    let binary = program("btmio")?;
    let sample = Payload::sample();
    let (torrent, seed) = (scratch.join("sample.torrent"), scratch.join("seed"));
    let text = |e: std::io::Error| e.to_string();
    if out.join(sample.name).exists() {
        std::fs::remove_dir_all(out.join(sample.name)).map_err(text)?;
    }
    std::fs::create_dir_all(out).and_then(|()| sample.write(&seed)).map_err(text)?;

    println!("sample    {}: {} bytes", sample.name, sample.total());
    let (finder, dht, tracker) = if magnet {
        let node = DhtNode::start(dht_node::Options::default())?;
        println!("DHT node  {}", node.addr());
        let option = format!("--dht-bootstrap={}", node.addr());
        (Finder::Dht(node), option, None)
    } else {
        let tracker = Tracker::start(Options::default(), |_| ()).map_err(|e| format!("tracker: {e}"))?;
        let url = tracker.announce_url();
        println!("tracker   {url}");
        (Finder::Tracker(tracker), "--no-dht".to_owned(), Some(url))
    };
    std::fs::write(&torrent, sample.torrent(&tracker.as_deref().into_iter().collect::<Vec<_>>())).map_err(text)?;
    let hash: String = sample.info_hash().iter().map(|b| format!("{b:02x}")).collect();
    let link = if magnet { PathBuf::from(format!("magnet:?xt=urn:btih:{hash}")) } else { torrent.clone() };

    let run = |name: &str, torrent: &Path, dir: &Path, options: &[&str]| {
        let mut c = Command::new(&binary);
        c.args(["--json", &dht, "--no-lsd", "--no-portmap", "--port=0", "--bind=127.0.0.1"]).args(options);
        c.arg("--dir").arg(dir).arg(torrent);
        c.env("XDG_STATE_HOME", state(scratch, name));
        Child::spawn(name, scratch, c).map_err(|e| format!("starting {e}"))
    };
    // By default btmio stops seeding at a ratio of one, which is this one download.
    let mut seeder = run("seeder", &torrent, &seed, &["--verify", "--seed-ratio=1000", "--seed-time=5m"])?;
    let announced = wait_for(START, || match seeder.exited() {
        Some(status) => Some(Err(format!("the seeder ended with {status}\n{}", seeder.tail()))),
        None => finder.knows(&sample).then_some(Ok(())),
    });
    announced.unwrap_or_else(|| Err(format!("the seeder has not announced itself\n{}", seeder.tail())))?;
    println!("seeder    btmio, announced");

    println!("download  {}, into {}", link.display(), out.display());
    let begin = Instant::now();
    let mut leecher = run("download", &link, out, &["-e", "--timeout=60s"])?;
    match leecher.wait(DOWNLOAD) {
        Some(status) if status.success() => {}
        Some(status) => return Err(format!("the download ended with {status}\n{}{}", leecher.tail(), seeder.tail())),
        None => return Err(format!("the download takes too long\n{}{}", leecher.tail(), seeder.tail())),
    }
    let took = begin.elapsed();
    sample.check(out)?;
    let mut check = Command::new(&binary);
    check.args(["-q", "check"]).arg(&torrent).arg(out);
    let status = check.status().map_err(text)?;
    if !status.success() {
        return Err(format!("the files are right, and yet `btmio check` ends with {status}"));
    }

    seeder.signal("INT");
    if seeder.wait(STOP).is_none() {
        return Err("the seeder does not end on SIGINT".to_owned());
    }
    println!("verified  {} in {:.2} s: every file is right", out.join(sample.name).display(), took.as_secs_f64());
    Ok(())
}

/// Where a btmio keeps what it resumes from: a folder of its own, nothing of the user's.
fn state(scratch: &Path, name: &str) -> PathBuf {
    scratch.join(format!("{name}-state"))
}
