//! What is shown: who has the data, who wants it, what is in the way.

use crate::clients::{Client, Job, Node, OTHERS, PORT, Role};
use crate::trackers::{Over, Tracker};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tools::payload::Payload;
use tools::process::wait_for;
use tools::tracker::{Options, Redirect};

/// Longest a transfer may take; the slow ones are rate-limited to about ten seconds.
pub(crate) const TRANSFER: Duration = Duration::from_secs(100);
/// Longest until a client has started, hash-checked 64 MiB and announced.
const START: Duration = Duration::from_secs(40);
/// Longest between a client's word that it is done and correct bytes in all files.
const SETTLE: Duration = Duration::from_secs(10);

/// One scenario's own folder and payload.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) payload: Payload,
    /// What clients' addresses begin with.
    pub(crate) net: &'static str,
}

/// The names of all scenarios, in the order they are run.
pub(crate) fn names() -> Vec<String> {
    let both = |c: &Client| [format!("{}-to-btmio", c.name()), format!("btmio-to-{}", c.name())];
    let magnets = |c: &Client| [format!("magnet-{}-to-btmio", c.name()), format!("magnet-btmio-to-{}", c.name())];
    let rest = [
        // Those of the others are run by name: Transmission and aria2 look into the DHT when they see fit, which may be
        // after our patience.
        "dht-libtorrent-to-btmio",
        "dht-btmio-to-libtorrent",
        "dht-aria2-to-btmio",
        "magnet-peer",
        "magnet-kept",
        "metadata-only",
        // Not "pex-transmission", which is run by name: it names its peers after 90 s.
        "pex-libtorrent",
        "pex-to-libtorrent",
        "pex-to-transmission",
        // Not "lsd-A-to-B" with libtorrent, transmission or aria2 and btmio, nor "lsd6-A-to-B" with libtorrent
        // (Transmission 3.00 and aria2 1.36 join the IPv4 group alone): run by name.
        "opentracker",
        "opentracker-udp",
        // Not "bind": run by name.
        // Not "https", "https-nginx" and "gateway": the latter need nginx, and miniupnpd with nftables.
        // Not "opentracker-udp6": Debian's opentracker has no IPv6. It is run by name where a build has it.
        "udp",
        "udp6",
        "scrape",
        "scrape6",
        "mixed",
        "resume",
        "large",
        "tracker-silent",
        "tracker-garbage",
        "tracker-redirect",
        "tracker-self",
    ];
    let all = OTHERS.iter().flat_map(both).chain(OTHERS.iter().flat_map(magnets));
    all.chain(rest.map(str::to_owned)).collect()
}

/// Runs one scenario, or `A-to-B` for any two clients; what was shown, or what went wrong.
pub(crate) fn run(name: &str, world: &World) -> Result<String, String> {
    match name {
        "opentracker" => world.transfer(Client::Transmission, Client::Btmio, &world.opentracker(Over::Http)?),
        "opentracker-udp" => world.transfer(Client::Transmission, Client::Btmio, &world.opentracker(Over::Udp)?),
        "opentracker-udp6" => {
            world.over_v6().transfer(Client::Libtorrent, Client::Btmio, &world.opentracker(Over::Udp6)?)
        }
        "udp" => world.transfer(Client::Libtorrent, Client::Btmio, &world.ours(Over::Udp)?),
        "udp6" => world.over_v6().transfer(Client::Btmio, Client::Libtorrent, &world.ours(Over::Udp6)?),
        "magnet-peer" => world.magnet_peer(),
        "magnet-kept" => world.magnet_kept(),
        "metadata-only" => world.metadata_only(),
        "pex-transmission" => world.pex(Client::Libtorrent, Client::Transmission, Client::Btmio),
        "pex-libtorrent" => world.pex(Client::Libtorrent, Client::Libtorrent, Client::Btmio),
        "pex-to-libtorrent" => world.pex(Client::Btmio, Client::Btmio, Client::Libtorrent),
        "pex-to-transmission" => world.pex(Client::Btmio, Client::Btmio, Client::Transmission),
        "https" => world.https(),
        "gateway" => world.gateway(),
        "https-nginx" => world.https_nginx(),
        "scrape" => world.scrape(Client::Transmission, &world.opentracker(Over::Udp)?),
        "scrape6" => world.over_v6().scrape(Client::Libtorrent, &world.ours(Over::Udp6)?),
        "bind" => world.bound(),
        "mixed" => world.mixed(),
        "resume" => world.resume(),
        "large" => world.large(),
        "tracker-silent" => world.bad_tracker(Options { silent: true, ..Options::default() }),
        "tracker-garbage" => world.bad_tracker(Options { garbage: true, ..Options::default() }),
        "tracker-redirect" => world.bad_tracker(Options { redirect: Some(Redirect::Loop), ..Options::default() }),
        "tracker-self" => world.names_ourselves(),
        _ if name.starts_with("dht-") => {
            let (from, to) = pair(&name[4..])?;
            world.dht(from, to)
        }
        _ if name.starts_with("lsd-") => {
            let (from, to) = pair(&name[4..])?;
            world.on("10.78.0.").lsd(from, to)
        }
        _ if name.starts_with("lsd6-") => {
            let (from, to) = pair(&name[5..])?;
            world.on("fd78::").lsd(from, to)
        }
        _ => {
            let (magnet, rest) = name.strip_prefix("magnet-").map_or((false, name), |rest| (true, rest));
            let ((from, to), tracker) = (pair(rest)?, world.tracker(Options::default())?);
            if magnet { world.magnet(from, to, &tracker) } else { world.transfer(from, to, &tracker) }
        }
    }
}

/// The clients of `A-to-B`.
fn pair(name: &str) -> Result<(Client, Client), String> {
    let (from, to) = name.split_once("-to-").ok_or(format!("no scenario called {name}"))?;
    let client = |name| Client::from_name(name).ok_or(format!("no client called {name}"));
    Ok((client(from)?, client(to)?))
}

impl World {
    pub(crate) fn hash(&self) -> [u8; 20] {
        self.payload.info_hash()
    }

    pub(crate) fn tracker(&self, options: Options) -> Result<Tracker, String> {
        Tracker::ours(&self.hash(), options, Over::Http)
    }

    fn ours(&self, over: Over) -> Result<Tracker, String> {
        Tracker::ours(&self.hash(), Options::default(), over)
    }

    pub(crate) fn opentracker(&self, over: Over) -> Result<Tracker, String> {
        Tracker::open(&self.dir, &self.hash(), over)
    }

    /// This world.
    pub(crate) fn on_v4(&self) -> Self {
        Self { dir: self.dir.clone(), payload: Payload::interop(), net: self.net }
    }

    /// The same with clients on IPv6 addresses. btmio and libtorrent only.
    pub(crate) fn over_v6(&self) -> Self {
        self.on("fd77::")
    }

    /// The same with clients on other addresses.
    fn on(&self, net: &'static str) -> Self {
        Self { net, ..self.on_v4() }
    }

    /// Writes a `.torrent` with these tracker tiers.
    pub(crate) fn torrent(&self, name: &str, tiers: &[&str]) -> Result<PathBuf, String> {
        let path = self.dir.join(format!("{name}.torrent"));
        std::fs::write(&path, self.payload.torrent(tiers)).map_err(|e| e.to_string())?;
        Ok(path)
    }

    /// A client's job: address 10.77.0.`n`, folders of its own, all data in place if it is a seed.
    pub(crate) fn job(&self, n: u8, client: Client, role: Role, torrent: &Path) -> Result<Job, String> {
        let job = self.empty_job(n, client, role, torrent)?;
        if role == Role::Seed {
            self.payload.write(&job.dir).map_err(|e| e.to_string())?;
        }
        Ok(job)
    }

    /// The same with whatever data is in the folder already.
    pub(crate) fn empty_job(&self, n: u8, client: Client, role: Role, torrent: &Path) -> Result<Job, String> {
        let (dir, home) = (self.dir.join(format!("{n}-data")), self.dir.join(format!("{n}-{}", client.name())));
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let (torrent, ip) = (torrent.to_owned(), format!("{}{n}", self.net));
        let (pex, dht, lsd, host) = (false, Vec::new(), false, None);
        let (up_limit, down_limit, roots, nofile) = (0, 0, None, None);
        let (extra, bind, portmap) = (Vec::new(), true, false);
        Ok(Job {
            client,
            role,
            ip,
            torrent,
            dir,
            home,
            pex,
            dht,
            lsd,
            host,
            up_limit,
            down_limit,
            roots,
            nofile,
            extra,
            bind,
            portmap,
        })
    }

    /// Starts a client and waits until the tracker knows of it, as a seed or as a leech.
    pub(crate) fn start(&self, job: &Job, tracker: &Tracker) -> Result<Node, String> {
        let mut node = job.client.start(job)?;
        let known = wait_for(START, || match (node.child.exited(), tracker.counts(), job.role) {
            (Some(status), ..) => Some(Err(format!("{} ended with {status}", job.client.name()))),
            (_, Some((seeds, _)), Role::Seed) if seeds > 0 => Some(Ok(())),
            (_, Some((_, leeches)), Role::Leech) if leeches > 0 => Some(Ok(())),
            _ => None,
        });
        let late = || Err(format!("{} has not announced itself in {START:?}", job.client.name()));
        match known.unwrap_or_else(late) {
            Ok(()) => Ok(node),
            Err(e) => Err(format!("{e}\n{}{}", node.child.tail(), tracker.tail())),
        }
    }

    /// Waits until `node` is done, and checks every file. btmio started with `-e` must end first, with 0.
    pub(crate) fn arrives(&self, node: &mut Node, job: &Job, others: &[&Node]) -> Result<(), String> {
        self.arrives_within(TRANSFER, node, job, others)
    }

    /// The same for those with a slow schedule.
    pub(crate) fn arrives_within(
        &self,
        patience: Duration,
        node: &mut Node,
        job: &Job,
        others: &[&Node],
    ) -> Result<(), String> {
        let done = wait_for(patience, || match node.done() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(e) => Some(Err(e)),
        });
        let mut result = done.unwrap_or_else(|| Err(format!("{} is not done in {patience:?}", job.client.name())));
        if result.is_ok() && job.extra.iter().any(|e| e == "-e") {
            result = match node.child.wait(Duration::from_secs(10)) {
                Some(status) if status.success() => Ok(()),
                Some(status) => Err(format!("btmio finished and then ended with {status}")),
                None => Err("btmio -e does not end".to_owned()),
            };
        }
        if result.is_ok() {
            let mut last = String::new();
            // Transmission does not create files of no length.
            let empty = job.client != Client::Transmission;
            // What has ended has nothing left to write.
            let settle = if node.child.exited().is_some() { Duration::ZERO } else { SETTLE };
            let right = wait_for(settle, || match self.payload.check_some(&job.dir, empty) {
                Ok(()) => Some(()),
                Err(e) => {
                    last = e;
                    None
                }
            });
            result = right.ok_or(last);
        }
        result.map_err(|e| {
            let tails: String = others.iter().map(|n| n.child.tail()).collect();
            format!("{e}\n{}{tails}", node.child.tail())
        })
    }

    /// SIGINT ends btmio within seconds, whatever it was doing.
    fn leaves(&self, node: &mut Node) -> Result<Option<i32>, String> {
        node.child.signal("INT");
        match node.child.wait(Duration::from_secs(5)) {
            Some(status) => Ok(status.code()),
            None => Err(format!("btmio does not end within 5 s of SIGINT\n{}", node.child.tail())),
        }
    }

    /// One seeds, one downloads, which learns of the other from the tracker.
    fn transfer(&self, from: Client, to: Client, tracker: &Tracker) -> Result<String, String> {
        let torrent = self.torrent("t", &[&tracker.url])?;
        let (seed, mut leech) = (self.job(2, from, Role::Seed, &torrent)?, self.job(3, to, Role::Leech, &torrent)?);
        if to == Client::Btmio {
            leech.extra.push("-e".to_owned());
        }
        let mut seeder = self.start(&seed, tracker)?;
        let begin = Instant::now();
        let mut leecher = to.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&seeder])?;
        let took = begin.elapsed();
        if from == Client::Btmio {
            self.leaves(&mut seeder)?;
        }
        Ok(format!("{} bytes in {:.1} s", self.payload.total(), took.as_secs_f64()))
    }

    /// The payload's magnet link; a path, because that is what clients are given.
    pub(crate) fn link(&self, more: &str) -> PathBuf {
        let hash: String = self.hash().iter().map(|b| format!("{b:02x}")).collect();
        format!("magnet:?xt=urn:btih:{hash}{more}").into()
    }

    /// As `transfer`, but the one who downloads has only a magnet link with the tracker in it.
    fn magnet(&self, from: Client, to: Client, tracker: &Tracker) -> Result<String, String> {
        let seed = self.job(2, from, Role::Seed, &self.torrent("t", &[&tracker.url])?)?;
        let url = tracker.url.replace(':', "%3A").replace('/', "%2F");
        let mut leech = self.job(3, to, Role::Leech, &self.link(&format!("&tr={url}")))?;
        if to == Client::Btmio {
            leech.extra.push("-e".to_owned());
        }
        let mut seeder = self.start(&seed, tracker)?;
        let begin = Instant::now();
        let mut leecher = to.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&seeder])?;
        let took = begin.elapsed();
        if from == Client::Btmio {
            self.leaves(&mut seeder)?;
        }
        Ok(format!("{} bytes in {:.1} s", self.payload.total(), took.as_secs_f64()))
    }

    /// No tracker: the link names one peer, and that is all.
    fn magnet_peer(&self) -> Result<String, String> {
        let tracker = self.tracker(Options::default())?;
        let seed = self.job(2, Client::Libtorrent, Role::Seed, &self.torrent("t", &[&tracker.url])?)?;
        let mut leech = self.job(3, Client::Btmio, Role::Leech, &self.link(&format!("&x.pe={}:{PORT}", seed.ip)))?;
        leech.extra.push("-e".to_owned());
        let seeder = self.start(&seed, &tracker)?;
        let mut leecher = Client::Btmio.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&seeder])?;
        let seen = leecher.events().iter().any(|e| e["event"] == "metadata" && e["name"].is_string());
        if seen { Ok("by x.pe alone".to_owned()) } else { Err("no `metadata` event".to_owned()) }
    }

    /// Interrupted and started again by the same link, btmio needs nobody to tell it what the torrent is: with all
    /// data there, and nobody to ask, it is done at once.
    fn magnet_kept(&self) -> Result<String, String> {
        let tracker = self.tracker(Options::default())?;
        let seed = self.job(2, Client::Transmission, Role::Seed, &self.torrent("t", &[&tracker.url])?)?;
        let mut leech = self.job(3, Client::Btmio, Role::Leech, &self.link(""))?;
        leech.extra = vec!["-e".to_owned(), format!("--peer={}:{PORT}", seed.ip)];
        let mut seeder = self.start(&seed, &tracker)?;
        let mut first = Client::Btmio.start(&leech)?;
        self.arrives(&mut first, &leech, &[&seeder])?;
        drop(first);
        seeder.child.stop();
        leech.extra.truncate(1);
        let begin = Instant::now();
        let mut second = Client::Btmio.start(&leech)?;
        self.arrives(&mut second, &leech, &[])?;
        Ok(format!("again from what was kept in {:.1} s", begin.elapsed().as_secs_f64()))
    }

    /// `--metadata-only` writes a torrent that another client takes, and nothing else.
    fn metadata_only(&self) -> Result<String, String> {
        let tracker = self.tracker(Options::default())?;
        let torrent = self.torrent("t", &[&tracker.url])?;
        let seed = self.job(2, Client::Aria2, Role::Seed, &torrent)?;
        let more = format!("&tr={}&x.pe={}:{PORT}", tracker.url, seed.ip);
        let mut leech = self.job(3, Client::Btmio, Role::Leech, &self.link(&more))?;
        leech.extra.push("--metadata-only".to_owned());
        let seeder = self.start(&seed, &tracker)?;
        let mut btmio = Client::Btmio.start(&leech)?;
        match btmio.child.wait(Duration::from_secs(30)) {
            Some(status) if status.success() => {}
            other => return Err(format!("btmio: {other:?}\n{}{}", btmio.child.tail(), seeder.child.tail())),
        }
        let files: Vec<_> = std::fs::read_dir(&leech.dir).map_err(|e| e.to_string())?.flatten().collect();
        let [file] = &files[..] else { return Err(format!("{} files are in the folder, wanted one", files.len())) };
        let read = |path: &Path| std::fs::read(path).map_err(|e| e.to_string());
        let meta = |bytes: &[u8]| btmio::metainfo::Metainfo::parse(bytes).map_err(|e| e.to_string());
        if meta(&read(&file.path())?)?.info != meta(&read(&torrent)?)?.info {
            return Err("another info dictionary was written".to_owned());
        }
        // And it serves: transmission takes it for a torrent.
        let again = self.job(4, Client::Transmission, Role::Leech, &file.path())?;
        let mut node = self.start(&again, &tracker)?;
        self.arrives(&mut node, &again, &[&seeder])?;
        Ok(format!("{} written, and taken by transmission", file.file_name().to_string_lossy()))
    }

    /// The library asks a tracker for its counts, over HTTP and over UDP, while one seed is there.
    fn scrape(&self, seed: Client, tracker: &Tracker) -> Result<String, String> {
        use btmio::net::{Loop, LoopConfig, PortChoice};
        use btmio::session::{Add, Alert, TrackerOutcome};
        let torrent = self.torrent("t", &[&tracker.url, &tracker.http])?;
        let _seeder = self.start(&self.job(2, seed, Role::Seed, &torrent)?, tracker)?;
        let data = std::fs::read(&torrent).map_err(|e| e.to_string())?;
        let meta = btmio::metainfo::Metainfo::parse(&data).map_err(|e| e.to_string())?;
        let config = LoopConfig { port: PortChoice::Exact(0), ..LoopConfig::default() };
        let mut l = Loop::new(config).map_err(|e| e.to_string())?;
        let mut add = Add::new(meta, &self.dir);
        add.paused = true;
        let key = l.add(add).map_err(|e| e.to_string())?;
        l.command(|s, now| s.scrape(now, key)).map_err(|e| e.to_string())?;
        let (mut told, end) = (Vec::new(), Instant::now() + START);
        while told.len() < 2 && Instant::now() < end {
            l.turn(Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
            while let Some(alert) = l.poll_alert() {
                if let Alert::Tracker { url, outcome, .. } = alert {
                    let right = matches!(outcome, TrackerOutcome::Scrape { seeders: Some(1), leechers: Some(0), .. });
                    told.push((url, right, format!("{outcome:?}")));
                }
            }
        }
        match told.len() == 2 && told.iter().all(|(_, right, _)| *right) {
            true => Ok("one seed, by HTTP and by UDP".to_owned()),
            false => Err(format!("answers to the scrapes: {told:?}\n{}", tracker.tail())),
        }
    }

    /// btmio leeches from three clients that hold a third of the pieces each and cannot see each other,
    /// while a fourth can get everything from btmio alone. That it completes proves that each gave.
    fn mixed(&self) -> Result<String, String> {
        let three = [Client::Transmission, Client::Aria2, Client::Libtorrent];
        let (mut nodes, mut peers) = (Vec::new(), Vec::new());
        for (third, client) in three.into_iter().enumerate() {
            // A tracker for each: it tells that the client is ready, and nobody of anybody.
            let tracker = self.tracker(Options::default())?;
            let torrent = self.torrent(client.name(), &[&tracker.url])?;
            let job = self.job(3 + third as u8, client, Role::Leech, &torrent)?;
            self.payload.write_some(&job.dir, |piece| piece % 3 == third).map_err(|e| e.to_string())?;
            peers.push(format!("--peer={}:{PORT}", job.ip));
            nodes.push((self.start(&job, &tracker)?, tracker));
        }
        let tracker = self.tracker(Options::default())?;
        let torrent = self.torrent("t", &[&tracker.url])?;
        let mut ours = self.job(2, Client::Btmio, Role::Leech, &torrent)?;
        ours.extra = peers;
        ours.extra.extend(["--seed-ratio=1000".to_owned(), "--seed-time=60".to_owned()]);
        let fourth = self.job(6, Client::Qbittorrent, Role::Leech, &torrent)?;
        let begin = Instant::now();
        let mut fourth_node = self.start(&fourth, &tracker)?;
        let mut btmio = Client::Btmio.start(&ours)?;
        let others: Vec<&Node> = nodes.iter().map(|(n, _)| n).collect();
        self.arrives(&mut btmio, &ours, &others)?;
        self.arrives(&mut fourth_node, &fourth, &[&btmio])?;
        self.leaves(&mut btmio)?;
        Ok(format!("a third from each of three, all of it to a fourth, in {:.1} s", begin.elapsed().as_secs_f64()))
    }

    /// Interrupted at half, btmio ends with 7; started again, it fetches only what was missing, by the
    /// seeder's count of what it sent.
    fn resume(&self) -> Result<String, String> {
        let tracker = self.tracker(Options::default())?;
        let torrent = self.torrent("t", &[&tracker.url])?;
        let mut seed = self.job(2, Client::Aria2, Role::Seed, &torrent)?;
        seed.up_limit = 10 << 10;
        let mut leech = self.job(3, Client::Btmio, Role::Leech, &torrent)?;
        leech.extra.push("-e".to_owned());
        let seeder = self.start(&seed, &tracker)?;
        let total = self.payload.total() as u64;
        let mut first = Client::Btmio.start(&leech)?;
        let had = |n: &Node| n.events().iter().rev().find_map(|e| e["downloaded"].as_u64()).unwrap_or(0);
        let half = wait_for(TRANSFER, || (had(&first) >= total / 2 || first.child.exited().is_some()).then_some(()));
        let at = had(&first);
        if half.is_none() || first.child.exited().is_some() {
            return Err(format!("no second half to interrupt: {at} of {total} bytes\n{}", first.child.tail()));
        }
        let code = self.leaves(&mut first)?;
        if code != Some(7) {
            return Err(format!(
                "btmio interrupted at {at} of {total} bytes ended with {code:?}, wanted 7\n{}",
                first.child.tail()
            ));
        }
        if self.payload.check(&leech.dir).is_ok() {
            return Err("nothing was missing after the interruption".to_owned());
        }
        drop(first);
        let mut second = Client::Btmio.start(&leech)?;
        self.arrives(&mut second, &leech, &[&seeder])?;
        // What was on its way and the unfinished pieces of a hard stop may be fetched twice, no more.
        let (sent, allowed) = (seeder.aria2_uploaded()?, total + (4 << 20));
        if sent > allowed {
            return Err(format!("the seeder sent {sent} bytes for {total}: more than {allowed}"));
        }
        Ok(format!("stopped at {} %, sent in all {:.1} %", at * 100 / total, sent as f64 * 100.0 / total as f64))
    }

    /// The first tier's tracker is of no use; btmio goes on to the second, and says once what is wrong.
    fn bad_tracker(&self, fault: Options) -> Result<String, String> {
        let (bad, good) = (self.tracker(fault)?, self.tracker(Options::default())?);
        let seed = self.job(2, Client::Libtorrent, Role::Seed, &self.torrent("good", &[&good.url])?)?;
        let mut leech = self.job(3, Client::Btmio, Role::Leech, &self.torrent("t", &[&bad.url, &good.url])?)?;
        leech.extra.push("-e".to_owned());
        let seeder = self.start(&seed, &good)?;
        let begin = Instant::now();
        let mut leecher = Client::Btmio.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&seeder])?;
        let names = |e: &&Value| {
            let failure = e["event"] == "warning" || e["event"] == "tracker" && e["ok"] == false;
            failure && e.to_string().contains(bad.host())
        };
        match leecher.events().iter().filter(names).count() {
            1 => Ok(format!("through the second tier in {:.1} s, said once", begin.elapsed().as_secs_f64())),
            n => Err(format!("{n} failures of {} told, wanted one\n{}", bad.host(), leecher.child.tail())),
        }
    }

    /// The tracker names btmio as a peer before the real one.
    fn names_ourselves(&self) -> Result<String, String> {
        let own = format!("10.77.0.3:{PORT}");
        let peers = vec![own.parse().expect("an address")];
        let tracker = self.tracker(Options { peers, ..Options::default() })?;
        let torrent = self.torrent("t", &[&tracker.url])?;
        let seed = self.job(2, Client::Libtorrent, Role::Seed, &torrent)?;
        let mut leech = self.job(3, Client::Btmio, Role::Leech, &torrent)?;
        leech.extra.push("-e".to_owned());
        let seeder = self.start(&seed, &tracker)?;
        let mut leecher = Client::Btmio.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&seeder])?;
        let tries = leecher.events().iter().filter(|e| e["event"] == "peer" && e.to_string().contains(&own)).count();
        match tries {
            0..=4 => Ok("named as its own peer, it completes from the other".to_owned()),
            n => Err(format!("{n} peer events about its own address")),
        }
    }
}
