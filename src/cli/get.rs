//! The download: one loop for all torrents, from adding them to the exit code.
//!
//! ```text
//!           all pieces           goal reached
//! Running ------------> Complete ------------> Over
//!    |  ^                   |  ^
//!    v  | going again       v  |
//!   Failed(code)           Failed(code)
//! ```
//!
//! A turn of the loop waits for events, signals or the next tick; then alerts become log lines and
//! JSON, statuses become the progress display, and the phases above decide whether to stay. The
//! command ends when every torrent is `Over` or `Failed` – with `--exit-when-done`, `Complete` will
//! do – or on a signal, or when standard output's reader has gone.
//!
//! The end is the same for all of them: `shutdown` saves and tells the trackers, and the loop turns on
//! until that is done, for [`GOODBYE`] at most. A second signal does not wait.
//!
//! A torrent that failed does not hold up the others. The session tries again by itself, and when that works the
//! failure is forgotten. It is waited for, also when nothing else is left to do, if it is one that may pass: a full
//! disk, a volume that is away. `--timeout` ends that, and the exit code is the failure's.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::args::{Common, Get, HostPort};
use super::confine::{self, Needs};
use super::json::{self, Line};
use super::load::{self, Loaded};
use super::signals::{self, Source, Wish};
use super::{Failure, escape, exit, metadata, progress, remember, state_dir, term};
use crate::config::{Config, DhtConfig};
use crate::error::Error;
use crate::id::{InfoHash, TorrentKey};
use crate::metainfo::Metainfo;
use crate::net::{Loop, LoopConfig};
use crate::session::{Add, Alert, ErrorKind, Kept, Priority, State, Status, TrackerOutcome};
use crate::storage::StorageConfig;
use crate::time::{Duration, Instant};

/// Longest wait at the end for trackers to take the goodbye.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long that wait may be before a word about it.
const PATIENCE: Duration = Duration::from_millis(300);
/// The display changes this often at first, and every second later on.
const BRISK: Duration = Duration::from_millis(200);
/// How long it stays brisk.
const BRISK_FOR: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// Lines about the progress, where there is no terminal, come this often.
const PLAIN: Duration = Duration::from_secs(10);

/// How far a torrent has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// All selected files are there; it is seeding.
    Complete,
    /// It has nothing left to do.
    Over,
    /// It stopped on an error, which has this exit code.
    Failed(u8),
}

/// One torrent of this run.
struct Job {
    key: TorrentKey,
    info_hash: InfoHash,
    name: String,
    phase: Phase,
    /// Its status when last looked at.
    status: Option<Status>,
    /// What had been downloaded and uploaded before this run.
    before: (u64, u64),
    /// How long it took to complete.
    took: Option<Duration>,
    /// When it last got on, and what the sum of its counters was then.
    progress: (Instant, u64),
    /// It failed, and is waited for: what it failed on may pass.
    waits: bool,
    dir: PathBuf,
    /// It came by magnet link, and its metadata is here from an earlier run: to be told of.
    metadata_due: bool,
}

impl Job {
    /// Payload that this run has downloaded and uploaded; a status counts the torrent's whole life.
    fn transferred(&self, s: &Status) -> (u64, u64) {
        (s.downloaded.saturating_sub(self.before.0), s.uploaded.saturating_sub(self.before.1))
    }
}

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Show {
    /// Not at all.
    Nothing,
    /// As a block that is drawn over.
    Block(term::Abilities),
    /// As a line now and then.
    Lines,
}

struct Run<'a> {
    opts: &'a Get,
    lp: Loop,
    signals: Source,
    jobs: Vec<Job>,
    json: bool,
    quiet: bool,
    show: Show,
    start: Instant,
    now: Instant,
    /// When the statuses are next looked at, and progress is next shown.
    tick: Instant,
    heap: super::heap::Heap,
    json_due: Instant,
    peer_lines: json::PeerLines,
    plain_due: Instant,
    /// A signal came.
    interrupted: bool,
    /// The user knows that a disk error may pass.
    told_to_wait: bool,
    /// Standard output cannot be written any more.
    deaf: Option<Failure>,
    /// The code of the last failure.
    code: u8,
}

/// Downloads and seeds. Returns the exit code.
///
/// # Errors
/// What keeps the run from starting at all.
pub(super) fn get(opts: &Get, common: &Common) -> Result<u8, Failure> {
    let (loaded, mut code) = load_all(opts, common)?;
    let peers = resolve(&opts.peers, opts.bind.is_empty() && opts.device.is_none())?;
    let blocked = load::blocklists(&opts.blocklists)?;
    let config = config(opts);
    let ignored = signals::ignored();
    let dirs = folders(&loaded, opts, config.state_dir.as_deref());
    confine::confine(opts.sandbox, &Needs { dirs: &dirs, state: config.state_dir.as_deref() });
    let mut lp = Loop::new(config).map_err(|e| Failure::new(code_of(&e), escape(&e.to_string())))?;
    let signals = Source::new(&mut lp, ignored)
        .map_err(|e| Failure::new(exit::ERROR, format!("cannot watch for signals: {e}")))?;
    lp.command(|s, now| s.set_blocklist(now, blocked));
    let start = lp.now();
    let abilities = term::abilities();
    let show = match abilities.redraw {
        _ if common.quiet => Show::Nothing,
        // Lines of JSON on the same screen would tear it; and who reads JSON reads progress there.
        _ if common.json => Show::Nothing,
        true => Show::Block(abilities),
        false => Show::Lines,
    };
    let mut run = Run {
        opts,
        lp,
        signals,
        jobs: Vec::new(),
        json: common.json,
        quiet: common.quiet,
        show,
        start,
        now: start,
        tick: start,
        heap: super::heap::Heap::default(),
        json_due: start + SECOND,
        peer_lines: json::PeerLines::default(),
        plain_due: start + PLAIN,
        interrupted: false,
        told_to_wait: false,
        deaf: None,
        code: exit::DONE,
    };
    for loaded in loaded {
        if let Err(failure) = run.add(loaded, &peers) {
            code = failure.code;
            run.fail(None, &failure);
        }
    }
    run.accept();
    run.drive();
    run.end();
    run.summarise();
    Ok(run.exit_code(code))
}

/// Reads all torrents. With several, one that cannot be read costs its exit code, not the others.
fn load_all(opts: &Get, common: &Common) -> Result<(Vec<Loaded>, u8), Failure> {
    if opts.torrents.is_empty() {
        return Ok((remember::load(opts)?, exit::DONE));
    }
    let (mut all, mut code) = (Vec::new(), exit::DONE);
    for source in &opts.torrents {
        match load::load_any(source) {
            Ok(loaded) => all.push(loaded),
            Err(failure) => {
                code = failure.code;
                if common.json {
                    let line = Line::new(0.0, "error", None);
                    let _ = line.with("error", failure.text.as_str()).with("code", failure.code).send();
                }
                if opts.torrents.len() == 1 {
                    return Err(failure);
                }
                term::print(&format!("btmio: {failure}"));
            }
        }
    }
    if all.is_empty() { Err(Failure::new(code, "none of the torrents can be used")) } else { Ok((all, code)) }
}

/// The download folders, each with whether all of its torrents are known from an earlier run.
fn folders(loaded: &[Loaded], opts: &Get, state: Option<&Path>) -> Vec<(PathBuf, bool)> {
    let mut all: Vec<(PathBuf, bool)> = Vec::new();
    // Read once, however many there are.
    let names = confine::known(state);
    let is_known = |h: Option<InfoHash>| h.is_some_and(|h| names.contains(OsStr::new(&h.to_string())));
    for one in loaded {
        let (dir, known) = match one {
            Loaded::Torrent(meta) => (&opts.dir, is_known(meta.info_hash)),
            Loaded::Magnet(magnet) => (&opts.dir, is_known(magnet.info_hash)),
            Loaded::Remembered(add) => (&add.dir, true),
        };
        match all.iter_mut().find(|(d, _)| d == dir) {
            Some(there) => there.1 &= known,
            None => all.push((dir.clone(), known)),
        }
    }
    all
}

/// Addresses of `--peer`. Names are looked up here, before the loop runs, where waiting does no harm; but only
/// when it does not matter which way the question goes.
fn resolve(peers: &[HostPort], any_way: bool) -> Result<Vec<SocketAddr>, Failure> {
    let mut out = Vec::new();
    for HostPort { host, port } in peers {
        if !any_way && host.parse::<IpAddr>().is_err() && host != "localhost" {
            let text = format!("--peer: wanted an IP address, since --bind is given, got '{}'", escape(host));
            return Err(Failure::new(exit::USAGE, text));
        }
        let found = (host.as_str(), *port)
            .to_socket_addrs()
            .map_err(|e| Failure::new(exit::NETWORK, format!("--peer: {}: {e}", escape(host))))?;
        out.extend(found);
    }
    Ok(out)
}

fn config(opts: &Get) -> LoopConfig {
    let mut session = Config { up_limit: opts.up, down_limit: opts.down, lsd: opts.lsd, ..Config::default() };
    if let Some(n) = opts.max_peers {
        session.max_peers = n;
        session.max_peers_torrent = n;
    }
    session.dht = opts.dht.as_ref().map(|nodes| {
        let mut dht = DhtConfig::default();
        // From loopback addresses no well-known node is reached: they are not even looked up.
        if !nodes.is_empty() || !opts.bind.is_empty() && opts.bind.iter().all(IpAddr::is_loopback) {
            dht.bootstrap = nodes.iter().map(|n| (n.host.clone(), n.port)).collect();
        }
        dht
    });
    let config = LoopConfig {
        session,
        storage: StorageConfig { backend: opts.storage, lane: opts.lane, ..StorageConfig::default() },
        port: opts.port,
        bind: opts.bind.clone(),
        device: opts.device.clone(),
        state_dir: state_dir(),
        portmap: opts.portmap,
        tls_roots: std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(Into::into),
    };
    config.with_memory(opts.memory.unwrap_or_else(super::memory::budget))
}

/// A torrent that failed with this code may get over it by itself.
fn goes_on(code: u8) -> bool {
    matches!(code, exit::FILE_IO | exit::NO_SPACE)
}

pub(super) fn code_of(e: &Error) -> u8 {
    match e {
        Error::Busy(_) => exit::RUNNING,
        Error::Listen { .. } => exit::NETWORK,
        Error::File { .. } => exit::FILE_IO,
        Error::Metainfo(_) | Error::V2Only => exit::BAD_TORRENT,
        _ => exit::ERROR,
    }
}

/// One priority a file from `--select`; empty without it.
fn priorities(opts: &Get, meta: &Metainfo) -> Result<Vec<Priority>, Failure> {
    let Some(selection) = &opts.select else { return Ok(Vec::new()) };
    let files = meta.files.len() as u32;
    if let Some(n) = selection.beyond(files) {
        return Err(beyond_files(files, n));
    }
    let chosen = |n| if selection.contains(n) { Priority::Normal } else { Priority::Skip };
    Ok((1..=files).map(chosen).collect())
}

fn beyond_files(files: u32, n: u32) -> Failure {
    let text = format!("--select: wanted file numbers from 1 to {files}, as --list shows them, got '{n}'");
    Failure::new(exit::USAGE, text)
}

fn file_count(meta: &Metainfo) -> usize {
    meta.files.iter().filter(|f| !f.pad).count()
}

/// `38.1 MiB in 3 files`, as far as it is known.
fn amount(size: Option<u64>, files: Option<usize>) -> String {
    let (Some(size), Some(files)) = (size, files) else { return "fetching metadata".into() };
    format!("{} in {files} file{}", progress::bytes(size), if files == 1 { "" } else { "s" })
}

impl Run<'_> {
    fn add(&mut self, loaded: Loaded, peers: &[SocketAddr]) -> Result<(), Failure> {
        let (is_magnet, again) = (matches!(loaded, Loaded::Magnet(_)), matches!(loaded, Loaded::Remembered(_)));
        let mut add = match loaded {
            Loaded::Torrent(meta) => {
                let priorities = priorities(self.opts, &meta)?;
                Add { priorities, ..Add::new(meta, self.opts.dir.clone()) }
            }
            Loaded::Magnet(magnet) => {
                let named = metadata::named_peers(&magnet);
                let mut add = Add::magnet(&magnet, self.opts.dir.clone())
                    .map_err(|e| Failure::new(code_of(&e), e.to_string()))?;
                add.peers.extend(named);
                if let Some(selection) = &self.opts.select {
                    add.select = metadata::ranges(selection);
                }
                Add { metadata_only: self.opts.metadata_only, ..add }
            }
            Loaded::Remembered(add) => *add,
        };
        add.peers.extend(peers);
        let name = add.meta.name.clone();
        let info_hash = add.meta.info_hash.expect("torrents without a version 1 hash are refused when read");
        add.trackers.clone_from(&self.opts.trackers);
        (add.no_trackers, add.verify) = (self.opts.no_tracker, self.opts.verify);
        if !again {
            add.sequential = self.opts.sequential;
            (add.seed_ratio, add.seed_time) = (self.opts.seed_ratio, self.opts.seed_time);
        }
        let dir = add.dir.clone();
        let key = self.lp.add(add).map_err(|e| Failure::new(code_of(&e), format!("{name}: {e}")))?;
        // The metadata of a magnet link may be there from an earlier run.
        let meta = self.lp.session().metainfo(key).expect("it was just added");
        let (name, known) = (meta.name.clone(), meta.is_known());
        let before = self.lp.session().status(self.now, key).map_or((0, 0), |s| (s.downloaded, s.uploaded));
        self.jobs.push(Job {
            key,
            info_hash,
            name,
            phase: Phase::Running,
            status: None,
            before,
            took: None,
            progress: (self.now, 0),
            waits: false,
            dir,
            metadata_due: is_magnet && known,
        });
        Ok(())
    }

    /// Says of each torrent that it is added, once it is stored: then no crash makes it disappear.
    fn accept(&mut self) {
        let waiting = |run: &Self| run.jobs.iter().any(|job| run.lp.session().kept(job.key) == Some(&Kept::Waiting));
        while waiting(self) && !self.interrupted {
            if !self.step(SECOND) {
                return;
            }
        }
        for i in 0..self.jobs.len() {
            self.announce(i);
        }
    }

    fn announce(&mut self, i: usize) {
        let (key, hash) = (self.jobs[i].key, self.jobs[i].info_hash);
        let Some(meta) = self.lp.session().metainfo(key) else { return };
        let (name, known) = (meta.name.clone(), meta.is_known());
        let (size, files) = (known.then(|| meta.size()), known.then(|| file_count(meta)));
        let dir = self.jobs[i].dir.to_string_lossy().into_owned();
        let kept = self.lp.session().kept(key).is_none_or(|k| *k == Kept::Yes);
        if self.json {
            let line = self.line("added", Some(hash)).with("name", name.as_str()).with("size", size);
            let line = line.with("files", files).with("port", self.lp.port());
            self.send(line.with("dir", dir.as_str()).with("kept", kept));
        }
        if self.show == Show::Lines {
            let (name, what, port) = (escape(&name), amount(size, files), self.lp.port());
            term::print(&format!("{name}: {what}, to {}, listening on port {port}", escape(&dir)));
        }
        if self.jobs[i].metadata_due {
            self.on_metadata(key);
        }
    }

    /// It is known now what a magnet link is.
    fn on_metadata(&mut self, torrent: TorrentKey) {
        let Some(i) = self.jobs.iter().position(|job| job.key == torrent) else { return };
        let Some(meta) = self.lp.session().metainfo(torrent) else { return };
        let (name, size, files, private) = (meta.name.clone(), meta.size(), file_count(meta), meta.private);
        let beyond = self.opts.select.as_ref().and_then(|s| s.beyond(meta.files.len() as u32));
        let written = self.opts.metadata_only.then(|| metadata::write_torrent(meta, &self.opts.dir));
        let wrong = beyond.map(|n| beyond_files(meta.files.len() as u32, n));
        self.jobs[i].name.clone_from(&name);
        let hash = self.jobs[i].info_hash;
        let path = written.as_ref().and_then(|w| w.as_ref().ok()).map(|p| p.to_string_lossy().into_owned());
        self.event(torrent, "metadata", |l| {
            let l = l.with("name", name.as_str()).with("size", size).with("files", files).with("private", private);
            if let Some(path) = &path { l.with("path", path.as_str()) } else { l }
        });
        if self.show == Show::Lines || path.is_some() && !self.quiet && !self.json {
            let what = amount(Some(size), Some(files));
            let to = path.map_or_else(String::new, |p| format!(", written to {}", escape(&p)));
            term::print(&format!("{}: {what}{to}", escape(&name)));
        }
        let failure = match (written, wrong) {
            (Some(Err(failure)), _) | (_, Some(failure)) => failure,
            (Some(Ok(_)), None) => return self.jobs[i].phase = Phase::Over,
            (None, None) => return,
        };
        self.jobs[i].phase = Phase::Failed(failure.code);
        let _ = self.lp.pause(torrent);
        self.fail(Some(hash), &failure);
    }

    /// Turns the loop until there is a reason to leave.
    fn drive(&mut self) {
        while !self.finished() {
            if !self.turn(self.tick.since(self.now)) {
                return;
            }
            if self.now >= self.tick {
                self.look();
            }
        }
    }

    /// One turn: events, signals. `false` when the loop itself is broken.
    fn step(&mut self, timeout: Duration) -> bool {
        if let Err(e) = self.lp.turn(Some(timeout)) {
            self.fail(None, &Failure::new(exit::ERROR, format!("the poll loop failed: {e}")));
            return false;
        }
        self.now = self.lp.now();
        while let Some(token) = self.lp.foreign_ready() {
            if token == self.signals.token() {
                self.obey();
            }
        }
        true
    }

    /// One turn, and the alerts. `false` when the loop itself is broken.
    fn turn(&mut self, timeout: Duration) -> bool {
        if !self.step(timeout) {
            return false;
        }
        // What an alert told may be the end, and nobody should wait a tick for that.
        let mut changed = Vec::new();
        while let Some(alert) = self.lp.poll_alert() {
            match &alert {
                Alert::Checked { torrent, .. } | Alert::Error { torrent, .. } => changed.push(*torrent),
                Alert::Metadata { torrent } => changed.push(*torrent),
                Alert::Finished { torrent } | Alert::GoalReached { torrent } => changed.push(*torrent),
                Alert::Resumed { torrent } | Alert::Paused { torrent } => changed.push(*torrent),
                _ => {}
            }
            self.on_alert(alert);
        }
        if !changed.is_empty() {
            changed.sort_unstable();
            for i in 0..self.jobs.len() {
                if changed.binary_search(&self.jobs[i].key).is_ok() {
                    self.refresh(i);
                }
            }
        }
        true
    }

    fn obey(&mut self) {
        for wish in self.signals.pending() {
            match wish {
                Wish::Stop => self.interrupted = true,
                Wish::Status => {
                    self.say_status();
                    self.say_stats();
                }
                Wish::Redraw => {
                    term::clear();
                    self.draw();
                }
                Wish::Suspend => {
                    term::clear();
                    signals::suspend();
                    // Time spent stopped is no lack of progress.
                    self.now = self.lp.command(|_, now| now);
                    for job in &mut self.jobs {
                        job.progress.0 = self.now;
                    }
                    self.draw();
                }
            }
        }
    }

    fn finished(&self) -> bool {
        let has_ended = |job: &Job| match job.phase {
            Phase::Running => false,
            Phase::Complete => self.opts.exit_when_done,
            Phase::Over => true,
            Phase::Failed(_) => !job.waits,
        };
        self.interrupted || self.deaf.is_some() || self.jobs.iter().all(has_ended)
    }

    /// Tick: fresh statuses, progress, time-outs.
    fn look(&mut self) {
        for i in 0..self.jobs.len() {
            self.refresh(i);
        }
        if self.json && self.now >= self.json_due {
            self.json_due = (self.now + SECOND).floor_second();
            self.json_progress();
            self.json_stats();
        }
        if self.show == Show::Lines && self.now >= self.plain_due {
            self.plain_due = (self.now + PLAIN).floor_second();
            self.say_status();
        }
        self.draw();
        self.give_up();
        self.heap.look(self.now, &mut self.lp);
        let brisk = matches!(self.show, Show::Block(_)) && self.now < self.start + BRISK_FOR;
        // With the session's own work that can wait for a whole second.
        self.tick = if brisk { self.now + BRISK } else { (self.now + SECOND).floor_second() };
    }

    /// Takes a torrent's status and moves its phase.
    fn refresh(&mut self, i: usize) {
        let Some(status) = self.lp.session().status(self.now, self.jobs[i].key) else { return };
        let (was, job) = (self.jobs[i].phase, &mut self.jobs[i]);
        job.phase = match was {
            Phase::Over if self.opts.metadata_only => was,
            // Errors are told by alerts, with their kind, and the end of them too.
            Phase::Failed(_) => was,
            _ if status.goal_reached => Phase::Over,
            _ if status.is_complete() => Phase::Complete,
            _ => Phase::Running,
        };
        job.status = Some(status);
        let complete = matches!(job.phase, Phase::Complete | Phase::Over) && !self.opts.metadata_only;
        if complete && job.took.is_none() {
            job.took = Some(self.now - self.start);
            self.on_complete(i);
        }
    }

    fn on_complete(&mut self, i: usize) {
        let Some(status) = self.jobs[i].status.clone() else { return };
        if self.json {
            let line = self.line("done", Some(status.info_hash)).with("name", status.name.as_str());
            let (down, up) = self.jobs[i].transferred(&status);
            let line = line.with("downloaded", down).with("uploaded", up);
            let seconds = json::rounded((self.now - self.start).as_secs_f64());
            self.send(line.with("size", status.wanted).with("seconds", seconds));
        }
        if self.show == Show::Lines && !self.finished() {
            term::print(&progress::line(&status));
        }
    }

    /// Ends the torrents that have not got on for `--timeout`.
    fn give_up(&mut self) {
        let Some(timeout) = self.opts.timeout else { return };
        // With one torrent every byte received is progress; with several only verified pieces can
        // be told apart.
        let received = if self.jobs.len() == 1 { self.lp.session().stats(self.now).received } else { 0 };
        for i in 0..self.jobs.len() {
            let job = &mut self.jobs[i];
            if job.waits && self.now - job.progress.0 >= timeout {
                // Its error has been told, and has the code.
                job.waits = false;
                let key = job.key;
                let _ = self.lp.pause(key);
                continue;
            }
            let Some(status) = job.status.as_ref().filter(|_| job.phase == Phase::Running) else { continue };
            let looked_at = match status.state {
                State::Checking { done, .. } | State::FetchingMetadata { done, .. } => done.into(),
                _ => u64::from(status.has_metadata),
            };
            let mark = received.wrapping_add(status.have).wrapping_add(status.downloaded).wrapping_add(looked_at);
            if mark != job.progress.1 {
                job.progress = (self.now, mark);
            } else if self.now - job.progress.0 >= timeout {
                job.phase = Phase::Failed(exit::TIMED_OUT);
                let what = if status.has_metadata { "progress" } else { "metadata" };
                let text = format!("no {what} for {} seconds", timeout.as_secs_f64());
                let (key, hash, failure) = (job.key, job.info_hash, Failure::new(exit::TIMED_OUT, text));
                // It can only be gone already, which is as good.
                let _ = self.lp.pause(key);
                self.fail(Some(hash), &failure);
            }
        }
    }

    /// One alert, as JSON; what the core does not log by itself is logged here too.
    fn on_alert(&mut self, alert: Alert) {
        match alert {
            Alert::Metadata { torrent } => self.on_metadata(torrent),
            Alert::Checked { torrent, pieces } => {
                log::info!("{}: {} of {} pieces are there", self.name(torrent), pieces.0, pieces.1);
                self.event(torrent, "checked", |l| l.with("have", pieces.0).with("pieces", pieces.1));
            }
            Alert::Piece { torrent, piece } => self.event(torrent, "piece", |l| l.with("piece", piece.get())),
            Alert::PieceFailed { torrent, piece } => {
                let text = format!("piece {piece} failed its hash and is fetched again");
                self.event(torrent, "warning", |l| l.with("warning", text).with("piece", piece.get()));
            }
            Alert::File { torrent, file } => {
                self.event(torrent, "file", |l| l.with("file", u64::from(file.get()) + 1));
            }
            Alert::Tracker { torrent, url, outcome } => self.on_tracker(torrent, &url, &outcome),
            Alert::PeerConnected { .. } | Alert::PeerClosed { .. } if !self.peer_lines.pass(self.now) => {}
            Alert::PeerConnected { torrent, addr, client, incoming, .. } => {
                self.event(torrent, "peer", |l| {
                    let l = l.with("what", "connected").with("addr", addr.to_string());
                    l.with("client", client.as_str()).with("incoming", incoming)
                });
            }
            Alert::PeerClosed { torrent, addr, why, .. } => {
                self.event(torrent, "peer", |l| {
                    l.with("what", "closed").with("addr", addr.to_string()).with("why", why.to_string())
                });
            }
            Alert::PeerBanned { torrent, addr } => {
                let text = format!("peer {addr} sent bad data and is banned");
                self.event(torrent, "warning", |l| l.with("warning", text).with("addr", addr.to_string()));
            }
            Alert::Error { torrent, error, kind } => {
                let code = match kind {
                    ErrorKind::NoSpace => exit::NO_SPACE,
                    ErrorKind::Metadata => exit::BAD_TORRENT,
                    _ => exit::FILE_IO,
                };
                if let Some(job) = self.jobs.iter_mut().find(|job| job.key == torrent) {
                    job.phase = Phase::Failed(code);
                    job.waits = !matches!(kind, ErrorKind::Refused | ErrorKind::TooBig | ErrorKind::Metadata);
                    job.progress.0 = self.now;
                    let (hash, waits) = (job.info_hash, job.waits);
                    self.fail(Some(hash), &Failure::new(code, error));
                    if waits && !self.quiet && !std::mem::replace(&mut self.told_to_wait, true) {
                        term::print("It goes on by itself when that is over; interrupt to leave.");
                    }
                }
            }
            Alert::NotKept { torrent, error } => {
                let text = format!("it would not be there again after a crash: {error}");
                log::warn!("{}: {text}", escape(self.name(torrent)));
                self.event(torrent, "warning", |l| l.with("warning", text));
            }
            Alert::Resumed { torrent } => {
                if let Some(job) = self.jobs.iter_mut().find(|job| job.key == torrent) {
                    if matches!(job.phase, Phase::Failed(code) if goes_on(code)) {
                        (job.phase, job.waits) = (Phase::Running, false);
                    }
                }
            }
            // The statuses tell the rest.
            _ => {}
        }
    }

    fn on_tracker(&mut self, torrent: TorrentKey, url: &str, outcome: &TrackerOutcome) {
        match outcome {
            TrackerOutcome::Reply { peers, seeders, leechers, interval, warning } => {
                if let Some(warning) = warning {
                    log::warn!("{}: tracker {url} warns: {warning}", self.name(torrent));
                }
                self.event(torrent, "tracker", |l| {
                    let l = l.with("url", url).with("ok", true).with("peers", *peers);
                    let l = l.with("seeders", *seeders).with("leechers", *leechers);
                    l.with("interval", interval.as_secs()).with("warning", warning.as_deref())
                });
            }
            TrackerOutcome::Error(e) => {
                log::warn!("{}: tracker {url}: {e}", self.name(torrent));
                self.event(torrent, "tracker", |l| l.with("url", url).with("ok", false).with("error", e.as_str()));
            }
            // Nothing here scrapes.
            TrackerOutcome::Scrape { .. } | TrackerOutcome::ScrapeError(_) => {}
        }
    }

    fn name(&self, torrent: TorrentKey) -> &str {
        self.jobs.iter().find(|job| job.key == torrent).map_or("", |job| &job.name)
    }

    // What is said, and where.

    fn line(&self, event: &str, info_hash: Option<InfoHash>) -> Line {
        Line::new((self.now - self.start).as_secs_f64(), event, info_hash)
    }

    fn event(&mut self, torrent: TorrentKey, event: &str, fill: impl FnOnce(Line) -> Line) {
        if self.json {
            let hash = self.jobs.iter().find(|job| job.key == torrent).map(|job| job.info_hash);
            let line = fill(self.line(event, hash));
            self.send(line);
        }
    }

    fn send(&mut self, line: Line) {
        if self.deaf.is_none() {
            self.deaf = line.send().err().map(|e| Failure::stdout(&e));
        }
    }

    /// Tells of a failure, and keeps its code.
    fn fail(&mut self, info_hash: Option<InfoHash>, failure: &Failure) {
        self.code = failure.code;
        if self.json {
            let line = self.line("error", info_hash).with("error", failure.text.as_str());
            self.send(line.with("code", failure.code));
        }
        let name = self.jobs.iter().find(|job| Some(job.info_hash) == info_hash).map_or("", |job| &job.name);
        let colon = if name.is_empty() { "" } else { ": " };
        term::print(&format!("btmio: {}{colon}{}", escape(name), escape(&failure.text)));
    }

    fn json_progress(&mut self) {
        for i in 0..self.jobs.len() {
            let job = &self.jobs[i];
            if let Some(status) = &job.status {
                let line = self.line("progress", Some(status.info_hash));
                self.send(json::progress(line, status, job.transferred(status)));
            }
        }
    }

    /// What the session as a whole has met with, as a `stats` line.
    fn json_stats(&mut self) {
        let (s, turns) = (self.lp.session().stats(self.now), self.lp.turn_times());
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let line = self.line("stats", None).with("peers", s.peers).with("half_open", s.half_open);
        let line = line
            .with("wasted", s.wasted)
            .with("pieces_failed", s.pieces_failed)
            .with("sync_errors", s.sync_errors)
            .with("banned", s.banned);
        let line = line.with("turned_away", s.turned_away).with("evicted", s.evicted);
        let line = line.with("peers_untold", self.peer_lines.untold).with("breaches", s.breaches);
        let line = line.with("stuck", s.stuck).with("exhausted", s.exhausted).with("alerts_lost", s.alerts_lost);
        let line = line.with("requests_in", s.requests_in).with("requests_over", s.requests_over);
        let line = line.with("turns", turns.count()).with("turn_p50_us", us(turns.quantile(0.5)));
        let line = line.with("turn_p999_us", us(turns.quantile(0.999))).with("turn_max_us", us(turns.longest()));
        self.send(line.with("turn_log2_us", turns.buckets()));
    }

    /// The same for people, on `USR1`.
    fn say_stats(&self) {
        let (s, turns) = (self.lp.session().stats(self.now), self.lp.turn_times());
        term::print(&format!(
            "{} wasted, {} bad pieces, {} failed syncs, {} banned, {} broke the protocol, {} did not read, \
             {} turned away, {} evicted, {} requests over the limit, {} times out of sockets; \
             {} turns, 99.9 % within {:?}, longest {:?}",
            progress::bytes(s.wasted),
            s.pieces_failed,
            s.sync_errors,
            s.banned,
            s.breaches,
            s.stuck,
            s.turned_away,
            s.evicted,
            s.requests_over,
            s.exhausted,
            turns.count(),
            turns.quantile(0.999),
            turns.longest()
        ));
    }

    fn say_status(&self) {
        let statuses = self.jobs.iter().filter_map(|job| job.status.as_ref());
        let lines: Vec<String> = statuses.map(progress::line).collect();
        if !lines.is_empty() {
            term::print(&lines.join("\n"));
        }
    }

    fn draw(&self) {
        let Show::Block(abilities) = self.show else { return };
        let (width, rows) = term::size();
        // The last column is left free: some terminals wrap when it is written.
        let style =
            progress::Style { width: width - 1, rows: rows.saturating_sub(2).max(2), unicode: abilities.unicode };
        let statuses: Vec<Status> = self.jobs.iter().filter_map(|job| job.status.clone()).collect();
        term::draw(progress::block(&statuses, &self.lp.session().stats(self.now), style));
    }

    /// Saves, says goodbye, and waits for that a little.
    fn end(&mut self) {
        for i in 0..self.jobs.len() {
            self.refresh(i);
            self.dismiss(i);
        }
        let (begin, deadline) = (self.now, self.now + GOODBYE);
        let stopped_by_signal = std::mem::take(&mut self.interrupted);
        let mut patience = stopped_by_signal && !self.quiet;
        self.lp.shutdown();
        while !self.lp.stopped() && self.now < deadline && !self.interrupted {
            let until = if patience { begin + PATIENCE } else { deadline };
            if !self.turn(until.since(self.now)) {
                break;
            }
            if patience && self.now >= until {
                term::print("Telling the trackers; interrupt again to leave at once.");
                patience = false;
            }
        }
        self.interrupted = stopped_by_signal || self.interrupted;
        if self.json {
            self.json_progress();
            self.json_stats();
        }
        term::clear();
    }

    /// A torrent that the command is done with, or that is of no use, is not to come back.
    fn dismiss(&mut self, i: usize) {
        let over = match self.jobs[i].phase {
            Phase::Over => true,
            Phase::Complete => self.opts.exit_when_done,
            Phase::Failed(code) => matches!(code, exit::USAGE | exit::BAD_TORRENT),
            Phase::Running => false,
        };
        if over {
            self.lp.dismiss(self.jobs[i].key);
        }
    }

    fn summarise(&self) {
        if self.quiet || self.json || self.deaf.is_some() {
            return;
        }
        let said = |job: &&Job| self.opts.metadata_only && job.phase == Phase::Over;
        for job in self.jobs.iter().filter(|job| !said(job)) {
            if let Some(status) = &job.status {
                let took = job.took.unwrap_or(self.now - self.start);
                term::print(&progress::summary(
                    status,
                    job.transferred(status),
                    took.as_secs_f64(),
                    job.took.is_some(),
                ));
            }
        }
        if self.interrupted && self.jobs.iter().any(|job| job.took.is_none()) {
            term::print("The same command resumes it.");
        }
    }

    /// The last failure's code; a run that was interrupted before the end has 7.
    fn exit_code(&self, before: u8) -> u8 {
        let failed = |job: &Job| if let Phase::Failed(code) = job.phase { Some(code) } else { None };
        let over = |job: &Job| job.took.is_some() || job.phase == Phase::Over;
        let unfinished = self.jobs.iter().any(|job| !over(job) && failed(job).is_none());
        let broken = self.deaf.as_ref().map_or(exit::DONE, |f| f.code);
        if broken != exit::DONE {
            broken
        } else if let Some(code) = self.jobs.iter().rev().find_map(failed) {
            code
        } else if before != exit::DONE {
            before
        } else if unfinished {
            if self.interrupted || self.deaf.is_some() { exit::INTERRUPTED } else { self.code.max(exit::ERROR) }
        } else {
            exit::DONE
        }
    }
}
