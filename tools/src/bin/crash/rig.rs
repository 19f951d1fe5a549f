//! What the runs share: the payload and its seeder, btmio under test, and what it claims after a restart.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use btmio::api::{Add, State};
use btmio::metainfo::Metainfo;
use btmio::net::{Loop, LoopConfig, PortChoice};
use serde_json::Value;
use tools::payload::Payload;
use tools::process::{Child, program, wait_for};

/// So long a run may take for anything that should take a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for one run of this program, and what is made once.
pub(crate) struct Work {
    pub(crate) dir: PathBuf,
    pub(crate) btmio: PathBuf,
    keep: bool,
}

impl Work {
    pub(crate) fn new(dir: &Path) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), btmio: program("btmio")?, keep: false })
    }

    /// The folder stays, to be looked at.
    pub(crate) fn keep(&mut self) {
        eprintln!("what was left is in {}", self.dir.display());
        self.keep = true;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A payload that is seeded for as long as this lives.
pub(crate) struct Swarm {
    pub(crate) payload: Payload,
    pub(crate) torrent: PathBuf,
    pub(crate) seeder: Child,
    port: u16,
    /// Which client seeds.
    pub(crate) by: &'static str,
}

/// A port nobody has at the moment.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}

/// How the payload is seeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seeder {
    /// By libtorrent, where there is one.
    Other,
    /// By btmio, at so many bytes a second.
    Btmio(u64),
}

impl Swarm {
    pub(crate) fn new(work: &Work, name: &str, payload: Payload, by: Seeder) -> Result<Self, String> {
        let home = work.dir.join(name);
        let (data, torrent) = (home.join("data"), home.join("payload.torrent"));
        fs::create_dir_all(&home).map_err(|e| e.to_string())?;
        payload.write(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        fs::write(&torrent, payload.torrent(&[])).map_err(|e| e.to_string())?;
        let (port, script) = (free_port()?, home.join("lt_client.py"));
        fs::write(&script, include_str!("../../../py/lt_client.py")).map_err(|e| e.to_string())?;
        let named = std::env::var_os("BTMIO_PYTHON");
        let python = named.clone().unwrap_or_else(|| "python3".into());
        let there = Command::new(&python).args(["-c", "import libtorrent"]).output().is_ok_and(|o| o.status.success());
        if by == Seeder::Other && named.is_some() && !there {
            return Err(format!("BTMIO_PYTHON, {}, has no libtorrent", python.to_string_lossy()));
        }
        let mut command;
        if by == Seeder::Other && there {
            command = Command::new(python);
            command.arg(script).arg("seed").arg(&torrent).arg(&data).args(["127.0.0.1", &port.to_string()]).arg(&home);
        } else {
            command = Command::new(&work.btmio);
            command.args(["--json", "--bind=127.0.0.1", "--no-dht", "--no-lsd", "--seed-ratio=1000000", "--verify"]);
            command.arg(format!("--port={port}")).arg("--dir").arg(&data).arg(&torrent);
            command.env("XDG_STATE_HOME", home.join("state"));
            if let Seeder::Btmio(rate) = by {
                command.arg(format!("--up={rate}"));
            }
        }
        let seeder = Child::spawn("seeder", &home, command).map_err(|e| e.to_string())?;
        let listens = || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
        wait_for(PATIENCE, listens).ok_or(format!("the seeder does not listen\n{}", seeder.tail()))?;
        let by = if by == Seeder::Other && there { "libtorrent" } else { "btmio" };
        Ok(Self { payload, torrent, seeder, port, by })
    }

    /// btmio with its files and its state below `dir`.
    pub(crate) fn download(&self, work: &Work, dir: &Path, rate: Option<u64>, on: bool) -> Command {
        let mut command = Command::new(&work.btmio);
        command.args(["--json", "--bind=127.0.0.1", "--port=0", "--no-dht", "--no-lsd", "--timeout=60s"]);
        command.arg(format!("--peer=127.0.0.1:{}", self.port)).args(rate.map(|r| format!("--down={r}")));
        command.arg(if on { "--seed-time=1h" } else { "--seed-ratio=0" });
        command.arg("--dir").arg(dir.join("data")).arg(&self.torrent);
        command.env("XDG_STATE_HOME", dir.join("state"));
        command
    }

    /// What a new run claims, having found out without any peer.
    pub(crate) fn claims(&self, dir: &Path) -> Result<Claims, String> {
        let meta = Metainfo::parse(&self.payload.torrent(&[])).map_err(|e| e.to_string())?;
        let began = Instant::now();
        let mut lp = Loop::new(LoopConfig {
            port: PortChoice::Exact(0),
            bind: vec![Ipv4Addr::LOCALHOST.into()],
            state_dir: Some(dir.join("state/btmio")),
            ..LoopConfig::default()
        })
        .map_err(|e| format!("it does not start: {e}"))?;
        let key = lp.add(Add::new(meta, dir.join("data"))).map_err(|e| format!("not added: {e}"))?;
        let mut checked = 0;
        loop {
            let status = lp.session().status(lp.now(), key).ok_or("the torrent is gone")?;
            match status.state {
                State::Checking { total, .. } => checked = checked.max(total),
                State::Downloading | State::Seeding => break,
                state => return Err(format!("after the restart it is {state:?}: {:?}", status.error)),
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("after {PATIENCE:?} it is {:?}", status.state));
            }
            lp.turn(Some(btmio::time::Duration::from_millis(50))).map_err(|e| e.to_string())?;
        }
        let took = began.elapsed();
        let (durable, verified) = lp.session().claims(key).ok_or("the torrent is gone")?;
        let have = durable.iter_set().chain(verified).map(|p| p.get() as usize).collect();
        Ok(Claims { have, checked: checked as usize, took })
    }
}

/// What a restart came to.
pub(crate) struct Claims {
    pub(crate) have: BTreeSet<usize>,
    /// Pieces it looked at.
    pub(crate) checked: usize,
    pub(crate) took: Duration,
}

/// What btmio has told so far.
pub(crate) struct Told {
    /// Pieces verified, each with the time in seconds.
    pub(crate) pieces: Vec<(usize, f64)>,
    /// All is there for good.
    pub(crate) done: bool,
    /// Bytes that were durable.
    pub(crate) durable: u64,
    pub(crate) errors: Vec<String>,
}

impl Told {
    pub(crate) fn by(child: &Child) -> Self {
        let mut told = Self { pieces: Vec::new(), done: false, durable: 0, errors: Vec::new() };
        // The last line may be half written.
        for v in child.output().lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
            match v["event"].as_str() {
                Some("piece") => {
                    told.pieces.push((v["piece"].as_u64().unwrap_or(0) as usize, v["t"].as_f64().unwrap_or(0.0)));
                }
                Some("progress") => told.durable = v["durable"].as_u64().unwrap_or(0),
                Some("done") => told.done = true,
                Some("error") => told.errors.push(v["error"].to_string()),
                _ => {}
            }
        }
        told
    }

    pub(crate) fn names(&self) -> BTreeSet<usize> {
        self.pieces.iter().map(|p| p.0).collect()
    }
}

/// A line of the table.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) what: String,
    pub(crate) runs: u32,
    /// Pieces claimed, over all runs, and those of them that were not true.
    pub(crate) claimed: usize,
    pub(crate) false_have: usize,
    /// Most bytes lost that had been verified.
    pub(crate) lost: u64,
    /// Most bytes looked at, and the longest start.
    pub(crate) checked: u64,
    pub(crate) start: Duration,
    pub(crate) wrong: Vec<String>,
    pub(crate) more: String,
}

impl Outcome {
    pub(crate) fn is_good(&self) -> bool {
        self.false_have == 0 && self.wrong.is_empty()
    }

    pub(crate) fn head() -> String {
        "what                    runs   claimed  false  lost KiB  checked KiB  start ms  wrong".into()
    }

    pub(crate) fn line(&self) -> String {
        let Self { what, runs, claimed, false_have, .. } = self;
        let (lost, checked, start) = (self.lost >> 10, self.checked >> 10, self.start.as_millis());
        let mut line = format!(
            "{what:<22} {runs:>5} {claimed:>9} {false_have:>6} {lost:>9} {checked:>12} {start:>9} {:>6}  {}",
            self.wrong.len(),
            self.more
        );
        for w in self.wrong.iter().take(20) {
            line += &format!("\n    {w}");
        }
        line
    }
}
