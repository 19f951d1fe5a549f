//! The rows of the table: what is done, how often, and which figures come of it.

use super::clients::{Client, Place, What};
use super::content::{BLOCK, Content};
use super::measure::{Figures, quantile};
use super::{PATIENCE, limit, nullpeer};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an idle client is watched.
const WATCH: Duration = Duration::from_secs(10);
/// Bytes per second of each of many slow seeders.
const SLOW: f64 = 1e6;

/// A kind of work. `figures` names its columns, with decimals.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// MiB of payload unless `--size` says otherwise.
    pub(crate) size: u64,
    pub(crate) figures: &'static [(&'static str, usize)],
    /// So many columns from the first on are also given as ratios.
    pub(crate) ratios: usize,
}

const TRANSFER: &[(&str, usize)] =
    &[("wall s", 3), ("CPU s/GiB", 3), ("MB/s", 0), ("peak RssAnon MiB", 1), ("peak resident MiB", 1)];

pub(crate) const WORKS: &[Work] = &[
    Work {
        name: "download",
        title: "download from one unlimited seeder; the last row is one thread without any protocol",
        size: 1024,
        figures: TRANSFER,
        ratios: 2,
    },
    Work { name: "memory", title: "the same in little memory", size: 1024, figures: TRANSFER, ratios: 2 },
    Work { name: "seed", title: "upload to one unlimited leecher", size: 1024, figures: TRANSFER, ratios: 2 },
    Work {
        name: "slow",
        title: "download from 50 seeders of 1 MB/s each",
        size: 256,
        figures: &[("wall s", 3), ("CPU s/GiB", 3), ("% of 50 MB/s", 1), ("peak RssAnon MiB", 1)],
        ratios: 2,
    },
    Work { name: "small", title: "download of 10,000 small files", size: 256, figures: TRANSFER, ratios: 2 },
    Work {
        name: "check",
        title: "check of files in the page cache; the last row is `openssl speed -evp sha1`",
        size: 1024,
        figures: &[("CPU s/GiB", 3), ("wall s", 3), ("peak RssAnon MiB", 1)],
        ratios: 1,
    },
    Work {
        name: "idle",
        title: "peers that do nothing, held for ten seconds",
        size: 64,
        figures: &[("bytes a peer", 0), ("RssAnon MiB", 1), ("CPU s in 10 s", 2), ("waits a second", 1)],
        ratios: 1,
    },
    Work {
        name: "many",
        title: "small seeded torrents, loaded from what is known of them",
        size: 1,
        figures: &[("ready after s", 3), ("KiB a torrent", 2), ("CPU s in 10 s", 2), ("waits a second", 1)],
        ratios: 2,
    },
    Work {
        name: "cold",
        title: "latency of a hot torrent's blocks, alone and beside a cold torrent's",
        size: 4096,
        figures: &[
            ("alone p50 ms", 2),
            ("alone p99 ms", 2),
            ("beside p50 ms", 2),
            ("beside p99 ms", 2),
            ("cold MB/s", 0),
            ("cold p99 ms", 1),
        ],
        ratios: 0,
    },
    Work { name: "wire", title: "wire parsing", size: 1, figures: &[("GB/s", 1), ("M haves/s", 0)], ratios: 0 },
];

/// What a work has at its disposal.
pub(crate) struct Bench {
    pub(crate) work: &'static Work,
    pub(crate) content: Content,
    pub(crate) torrent: PathBuf,
    /// Where the payload is complete, if the work needs that.
    pub(crate) whole: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) peers: u32,
    pub(crate) torrents: u32,
}

/// Who takes part in a work.
pub(crate) enum Runner {
    Client(Client),
    Limit,
    Openssl,
    Wire,
}

impl Runner {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Client(c) => &c.name,
            Self::Limit => "one thread, no protocol",
            Self::Openssl => "openssl",
            Self::Wire => "btmio",
        }
    }
}

impl Bench {
    pub(crate) fn new(work: &'static Work, size: Option<u64>, dir: &Path, counts: (u32, u32)) -> Result<Self, String> {
        let files = if work.name == "small" { 10_000 } else { 1 };
        let content = Content::new("payload", size.unwrap_or(work.size) << 20, files);
        let text = |e: std::io::Error| format!("{}: {e}", dir.display());
        let torrent = content.torrent(dir).map_err(text)?;
        let whole = dir.join("whole");
        if ["seed", "check", "idle"].contains(&work.name) {
            content.write(&whole).map_err(text)?;
        }
        Ok(Self { work, content, torrent, whole, dir: dir.to_owned(), peers: counts.0, torrents: counts.1 })
    }

    /// Who takes part.
    pub(crate) fn runners(&self, clients: &[Client]) -> Vec<Runner> {
        let all = clients.iter().cloned();
        let mut out: Vec<Runner> = match self.work.name {
            "memory" => {
                let ours = all.filter(Client::is_btmio);
                ours.flat_map(|c| [Some(c.clone()), c.with("--memory=4M")]).flatten().map(Runner::Client).collect()
            }
            "many" => all.filter(Client::can_trust).map(Runner::Client).collect(),
            "cold" => all.filter(Client::is_btmio).map(Runner::Client).collect(),
            "check" => all.filter(Client::can_check).map(Runner::Client).collect(),
            "wire" => vec![Runner::Wire],
            _ => all.map(Runner::Client).collect(),
        };
        match self.work.name {
            "download" => out.push(Runner::Limit),
            "check" => out.push(Runner::Openssl),
            _ => {}
        }
        out
    }

    /// One run.
    pub(crate) fn run(&self, runner: &Runner) -> Result<Vec<f64>, String> {
        let client = match runner {
            Runner::Client(c) => c,
            Runner::Limit => return limit::limit(&self.content, &self.dir).map(|f| self.transfer(&f)),
            Runner::Openssl => return openssl(),
            Runner::Wire => return Ok(super::wire::wire()),
        };
        match self.work.name {
            "download" | "small" | "memory" => self.download(client, 1, None).map(|f| self.transfer(&f)),
            "slow" => {
                const PEERS: u32 = 50;
                let f = self.download(client, PEERS, Some(SLOW))?;
                let ideal = self.content.len() as f64 / (f64::from(PEERS) * SLOW);
                Ok(vec![f.wall, f.cpu / self.content.gib(), 100.0 * ideal / f.wall, f.anon])
            }
            "seed" => self.seed(client).map(|f| self.transfer(&f)),
            "check" => {
                let (home, _) = self.folders()?;
                let place = self.place(&self.whole, &home, 0);
                let f = client.start(What::Check, &place)?.until_the_end(PATIENCE)?;
                Ok(vec![f.cpu / self.content.gib(), f.wall, f.anon])
            }
            "idle" => self.idle(client),
            "many" => self.many(client),
            _ => self.cold(client),
        }
    }

    fn transfer(&self, f: &Figures) -> Vec<f64> {
        vec![f.wall, f.cpu / self.content.gib(), self.content.len() as f64 / f.wall / 1e6, f.anon, f.peak]
    }

    fn place<'a>(&'a self, dir: &'a Path, home: &'a Path, port: u16) -> Place<'a> {
        Place { torrents: std::slice::from_ref(&self.torrent), dir, home, port }
    }

    /// An empty home and an empty download folder, on a disk that has nothing left to write of the run before.
    fn folders(&self) -> Result<(PathBuf, PathBuf), String> {
        let both = (self.dir.join("home"), self.dir.join("download"));
        if self.content.is_many() && both.1.exists() {
            // ext4 looks long for a file's number among those deleted within the last minutes: they stay till the end.
            let old = (0..).map(|n| self.dir.join(format!("old-{n}"))).find(|old| !old.exists()).unwrap_or_default();
            std::fs::rename(&both.1, &old).map_err(|e| format!("{}: {e}", old.display()))?;
        }
        for d in [&both.0, &both.1] {
            let _ = std::fs::remove_dir_all(d);
            std::fs::create_dir_all(d).map_err(|e| format!("{}: {e}", d.display()))?;
        }
        rustix::fs::sync();
        Ok(both)
    }

    fn download(&self, client: &Client, peers: u32, rate: Option<f64>) -> Result<Figures, String> {
        let (home, fresh) = self.folders()?;
        let port = free_port()?;
        let subject = client.start(What::Download, &self.place(&fresh, &home, port))?;
        let seeders = nullpeer::seed(&self.content, at(port), peers, rate);
        let figures = subject.until_the_end(PATIENCE)?;
        drop(seeders);
        self.content.is_in(&fresh)?;
        Ok(figures)
    }

    fn seed(&self, client: &Client) -> Result<Figures, String> {
        let (home, _) = self.folders()?;
        let port = free_port()?;
        let mut subject = client.start(What::Seed, &self.place(&self.whole, &home, port))?;
        let pid = subject.id();
        let leeched = nullpeer::leech(&self.content, at(port), pid, PATIENCE);
        let leecher = leeched.map_err(|e| format!("the null leecher: {e}"))?;
        // What came before the transfer is checking.
        let figures = subject.now(leecher.cpu_before, leecher.seconds)?;
        subject.stop();
        Ok(figures)
    }

    fn idle(&self, client: &Client) -> Result<Vec<f64>, String> {
        let (home, _) = self.folders()?;
        let port = free_port()?;
        let client = client.with(&format!("--max-peers={}", self.peers + 10)).unwrap_or_else(|| client.clone());
        let subject = client.start(What::Seed, &self.place(&self.whole, &home, port))?;
        let hash = &self.content.info_hash;
        let meet = |number| {
            nullpeer::acquaintance(hash, at(port), number, PATIENCE).map_err(|e| format!("idle peer {number}: {e}"))
        };
        // A few come first: what is allocated once is not theirs.
        let mut held = (1..=8).map(&meet).collect::<Result<Vec<_>, _>>()?;
        std::thread::sleep(Duration::from_secs(1));
        let before = subject.anon();
        for number in 0..self.peers {
            held.push(meet(9 + number)?);
        }
        std::thread::sleep(Duration::from_secs(1));
        let after = subject.anon();
        let (cpu, waits) = subject.usage()?;
        std::thread::sleep(WATCH);
        let (cpu_after, waits_after) = subject.usage()?;
        let gone = held.iter().filter(|s| ended(s)).count();
        if gone > 0 {
            return Err(format!("{gone} of {} idle peers were not kept", held.len()));
        }
        let per_peer = (after - before) / f64::from(self.peers);
        Ok(vec![per_peer, after / 1048576.0, cpu_after - cpu, (waits_after - waits) / WATCH.as_secs_f64()])
    }

    fn many(&self, client: &Client) -> Result<Vec<f64>, String> {
        let (home, whole) = self.folders()?;
        let contents: Vec<_> = (0..self.torrents).map(small_torrent).collect();
        let torrents = home.join("torrents");
        std::fs::create_dir_all(&torrents).map_err(|e| e.to_string())?;
        let mut paths = Vec::new();
        let mut hash = [0; 20];
        for (name, bytes, info, info_hash) in &contents {
            let path = torrents.join(format!("{name}.torrent"));
            let made = std::fs::write(whole.join(name), bytes).and_then(|()| std::fs::write(&path, info));
            made.map_err(|e| e.to_string())?;
            paths.push(PathBuf::from("torrents").join(format!("{name}.torrent")));
            hash = *info_hash;
        }
        let first = contents[0].3;
        let ready = |torrents: &[PathBuf], hash: &[u8; 20], what| {
            let port = free_port()?;
            let place = Place { torrents, dir: &whole, home: &home, port };
            let subject = client.start(what, &place)?;
            // The last one answers: all are there.
            let met = nullpeer::acquaintance(hash, at(port), 0, PATIENCE).map_err(|e| e.to_string())?;
            Ok::<_, String>((subject.age(), subject, met))
        };
        // Once to get to know them, once with one torrent alone, and once for the figures.
        let (_, subject, _) = ready(&paths, &hash, What::Seed)?;
        subject.rest(3 * PATIENCE)?;
        subject.interrupt(PATIENCE);
        let (_, one, _) = ready(&paths[..1], &first, What::Trust)?;
        std::thread::sleep(Duration::from_secs(1));
        let alone = one.anon();
        one.interrupt(PATIENCE);
        let (seconds, subject, _) = ready(&paths, &hash, What::Trust)?;
        std::thread::sleep(Duration::from_secs(2));
        let each = (subject.anon() - alone) / f64::from(self.torrents - 1) / 1024.0;
        let (cpu, waits) = subject.usage()?;
        std::thread::sleep(WATCH);
        let (cpu_after, waits_after) = subject.usage()?;
        subject.interrupt(PATIENCE);
        Ok(vec![seconds, each, cpu_after - cpu, (waits_after - waits) / WATCH.as_secs_f64()])
    }

    /// A hot torrent is read all the time; after a while a cold one is as well.
    fn cold(&self, client: &Client) -> Result<Vec<f64>, String> {
        const TIME: Duration = Duration::from_secs(5);
        let (home, _) = self.folders()?;
        let text = |e: std::io::Error| e.to_string();
        let hot = Content::new("hot", 256 << 20, 1);
        let cold = Content::new("cold", self.content.len(), 1);
        let both = [hot.torrent(&self.dir).map_err(text)?, cold.torrent(&self.dir).map_err(text)?];
        let whole = self.dir.join("both");
        for content in [&hot, &cold] {
            if content.is_in(&whole).is_err() {
                content.write(&whole).map_err(text)?;
            }
        }
        let place = |port| Place { torrents: &both, dir: &whole, home: &home, port };
        // Checked once, so that it is known; then out of the cache with the cold one.
        let port = free_port()?;
        let subject = client.start(What::Seed, &place(port))?;
        nullpeer::latencies(&cold, at(port), 1, Duration::ZERO)
            .or_else(|_| {
                let begin = Instant::now();
                loop {
                    std::thread::sleep(Duration::from_millis(50));
                    match nullpeer::latencies(&cold, at(port), 1, Duration::ZERO) {
                        Ok(l) if !l.is_empty() => break Ok(l),
                        Ok(_) | Err(_) if begin.elapsed() < PATIENCE => {}
                        other => break other,
                    }
                }
            })
            .map_err(text)?;
        subject.interrupt(PATIENCE);
        drop_from_cache(&whole.join("cold"))?;
        let port = free_port()?;
        let mut subject = client.start(What::Trust, &place(port))?;
        nullpeer::acquaintance(&hot.info_hash, at(port), 9, PATIENCE).map_err(text)?;
        let read =
            |content: Content, depth| std::thread::spawn(move || nullpeer::latencies(&content, at(port), depth, TIME));
        let end = |t: std::thread::JoinHandle<std::io::Result<Vec<f64>>>| {
            t.join().map_err(|_| "a leecher panicked".to_owned())?.map_err(text)
        };
        let mut alone = end(read(hot.clone(), 16))?;
        let (h, c) = (read(hot.clone(), 16), read(cold.clone(), 256));
        let (mut beside, mut slow) = (end(h)?, end(c)?);
        subject.stop();
        let speed = slow.len() as f64 * BLOCK as f64 / TIME.as_secs_f64() / 1e6;
        let ms = |of: &mut Vec<f64>, q| quantile(of, q) * 1e3;
        Ok(vec![
            ms(&mut alone, 0.5),
            ms(&mut alone, 0.99),
            ms(&mut beside, 0.5),
            ms(&mut beside, 0.99),
            speed,
            ms(&mut slow, 0.99),
        ])
    }
}

/// A torrent of one piece: name, payload, torrent file and info hash.
fn small_torrent(i: u32) -> (String, Vec<u8>, Vec<u8>, [u8; 20]) {
    let lanes = btmio::storage::lanes::Lanes::new(1);
    let name = format!("small-{i:05}");
    let payload = name.repeat(16 << 10).into_bytes()[..BLOCK].to_vec();
    let mut info = format!("d6:lengthi{BLOCK}e4:name11:{name}12:piece lengthi{BLOCK}e6:pieces20:").into_bytes();
    info.extend(lanes.digest_many(&[&payload])[0]);
    info.push(b'e');
    let hash = lanes.digest_many(&[&info])[0];
    (name, payload, [b"d4:info", &info[..], b"e"].concat(), hash)
}

/// The other side has closed it.
fn ended(stream: &std::net::TcpStream) -> bool {
    let mut buf = [0; 65536];
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    loop {
        match std::io::Read::read(&mut &*stream, &mut buf) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// Has the kernel forget a file's pages, once they are on the disk.
fn drop_from_cache(path: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = std::fs::File::open(path).map_err(text)?;
    file.sync_all().map_err(text)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| text(e.into()))
}

/// CPU seconds per GiB of SHA-1, by openssl, in blocks of 1 MiB.
fn openssl() -> Result<Vec<f64>, String> {
    let mut c = Command::new("openssl");
    c.args(["speed", "-seconds", "2", "-bytes", "1048576", "-evp", "sha1"]).stdin(Stdio::null());
    let out = c.output().map_err(|e| format!("openssl: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let rate = text.lines().rev().find_map(|l| l.strip_prefix("sha1")?.trim().strip_suffix('k')?.parse::<f64>().ok());
    let rate = rate.ok_or(format!("openssl: wanted a line of sha1, got {text:?}"))?;
    Ok(vec![(1u64 << 30) as f64 / (rate * 1000.0), f64::NAN, f64::NAN])
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn free_port() -> Result<u16, String> {
    let l = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    l.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}
