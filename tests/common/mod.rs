//! What the scenarios share: folders that vanish, torrents made on the spot, loops that are turned together,
//! and the real binary.
//!
//! Nothing sleeps. A scenario turns its loops in rounds until something holds; only the number of rounds
//! is bounded, so that a slow machine is slow and a failure is a failure.
#![allow(dead_code)] // each scenario uses some of it

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use btmio::api::{Add, Alert, State, Status};
use btmio::bencode::Writer;
use btmio::id::{PieceIndex, TorrentKey};
use btmio::metainfo::Metainfo;
use btmio::net::{Loop, LoopConfig, PortChoice};
use sha1::{Digest, Sha1};

/// Rounds until a scenario has failed. A round waits 1 ms at least when nothing happens, and most rounds do
/// something: some minutes in all.
const ROUNDS: usize = 100_000;

/// A folder of its own for each test, gone afterwards.
pub(crate) struct Temp(pub(crate) PathBuf);

impl Temp {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("btmio-test-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary folder");
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn file(&self, name: &str, data: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("folders");
        fs::write(&path, data).expect("a file");
        path
    }

    /// The binary with these arguments: at home in this folder, without a terminal.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btmio"));
        // No test calls at well-known nodes, or is heard in the network; the other commands have no such options.
        if !args.iter().any(|a| ["show", "check"].contains(a)) {
            command.args(["--no-dht", "--no-lsd", "--no-portmap"]);
        }
        command.args(args).current_dir(&self.0).env("XDG_STATE_HOME", self.path("state")).env_remove("HOME");
        command.env_remove("STATE_DIRECTORY").stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().expect("the binary runs"))
    }

    /// Starts the binary.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::new(self.command(args))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    btmio::rng::seeded(seed).fill(&mut data);
    data
}

/// A torrent with its content: random bytes, in files below a folder of its name.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) piece_len: usize,
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl Sample {
    /// Files by path, with `/` in between, and length. Two of different names have different content.
    pub(crate) fn new(name: &str, piece_len: usize, files: &[(&str, usize)]) -> Self {
        let salt: u64 = name.bytes().fold(7, |sum, b| sum * 31 + u64::from(b));
        let file = |(i, (path, len)): (u64, &(&str, usize))| ((*path).to_owned(), noise(*len, salt + i));
        Self { name: name.to_owned(), piece_len, files: (0..).zip(files).map(file).collect() }
    }

    /// A large file between two smaller ones.
    pub(crate) fn usual(name: &str) -> Self {
        Self::new(name, 64 << 10, &[("a.bin", 1_000_003), ("sub/b.bin", 6_000_001), ("empty", 0), ("z.bin", 700_001)])
    }

    /// All files one behind the other.
    pub(crate) fn data(&self) -> Vec<u8> {
        self.files.iter().flat_map(|(_, data)| data.iter().copied()).collect()
    }

    pub(crate) fn size(&self) -> u64 {
        self.files.iter().map(|(_, data)| data.len() as u64).sum()
    }

    /// The pieces that touch a file.
    pub(crate) fn pieces_of(&self, file: usize) -> BTreeSet<usize> {
        let start: usize = self.files[..file].iter().map(|(_, data)| data.len()).sum();
        let end = start + self.files[file].1.len();
        if start == end { BTreeSet::new() } else { (start / self.piece_len..=(end - 1) / self.piece_len).collect() }
    }

    /// Bytes of these pieces.
    pub(crate) fn bytes_of<'a>(&self, pieces: impl IntoIterator<Item = &'a usize>) -> u64 {
        let size = self.size() as usize;
        pieces.into_iter().map(|p| (size - p * self.piece_len).min(self.piece_len) as u64).sum()
    }

    pub(crate) fn torrent(&self) -> Vec<u8> {
        let files: Vec<_> =
            self.files.iter().map(|(path, data)| (path.split('/').map(str::as_bytes).collect(), data.len())).collect();
        torrent(self.name.as_bytes(), &files, self.piece_len, &piece_hashes(&self.data(), self.piece_len))
    }

    pub(crate) fn meta(&self) -> Metainfo {
        Metainfo::parse(&self.torrent()).expect("a torrent")
    }

    /// Where a file of it lies below `dir`.
    pub(crate) fn at(&self, dir: &Path, file: usize) -> PathBuf {
        dir.join(&self.name).join(&self.files[file].0)
    }

    /// Writes all files below `dir`.
    pub(crate) fn write(&self, dir: &Path) {
        (0..self.files.len()).for_each(|i| self.write_one(dir, i));
    }

    pub(crate) fn write_one(&self, dir: &Path, file: usize) {
        let to = self.at(dir, file);
        fs::create_dir_all(to.parent().expect("it has one")).expect("folders");
        fs::write(to, &self.files[file].1).expect("a file");
    }

    /// All files are below `dir` as they should be.
    #[track_caller]
    pub(crate) fn assert_in(&self, dir: &Path) {
        (0..self.files.len()).for_each(|i| self.assert_file_in(dir, i));
    }

    #[track_caller]
    pub(crate) fn assert_file_in(&self, dir: &Path, file: usize) {
        let path = self.at(dir, file);
        let data = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(data == self.files[file].1, "{} differs", path.display());
    }
}

/// The SHA-1 of each piece.
pub(crate) fn piece_hashes(data: &[u8], piece_len: usize) -> Vec<u8> {
    data.chunks(piece_len).flat_map(|p| Sha1::digest(p).to_vec()).collect()
}

/// A torrent of files, each with its path as the torrent is to name it.
pub(crate) fn torrent(name: &[u8], files: &[(Vec<&[u8]>, usize)], piece_len: usize, hashes: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin_dict();
    w.key(b"info");
    w.begin_dict();
    w.key(b"files");
    w.begin_list();
    for (path, len) in files {
        w.begin_dict();
        w.key(b"length");
        w.int(*len as i64);
        w.key(b"path");
        w.begin_list();
        for part in path {
            w.bytes(part);
        }
        w.end();
        w.end();
    }
    w.end();
    w.key(b"name");
    w.bytes(name);
    w.key(b"piece length");
    w.int(piece_len as i64);
    w.key(b"pieces");
    w.bytes(hashes);
    w.end();
    w.end();
    w.into_bytes()
}

/// All paths of plain files below a folder, relative to it, in order.
pub(crate) fn files_below(dir: &Path) -> BTreeSet<String> {
    fn walk(dir: &Path, from: &Path, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                walk(&entry.path(), from, out);
            } else {
                let path = entry.path();
                out.insert(path.strip_prefix(from).expect("it is below").to_str().expect("UTF-8").to_owned());
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(dir, dir, &mut out);
    out
}

/// A loop on 127.0.0.1 that remembers its alerts.
pub(crate) struct Node {
    pub(crate) lp: Loop,
    pub(crate) alerts: Vec<Alert>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A loop with some settings of its own.
    pub(crate) fn with(change: impl FnOnce(&mut LoopConfig)) -> Self {
        let bind = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let mut config = LoopConfig { port: PortChoice::Exact(0), bind, ..LoopConfig::default() };
        change(&mut config);
        Self { lp: Loop::new(config).expect("a loop"), alerts: Vec::new() }
    }

    /// A loop that keeps its state in a folder.
    pub(crate) fn remembering(dir: PathBuf) -> Self {
        Self::with(|c| c.state_dir = Some(dir))
    }

    /// A loop that seeds what it finds below `dir`, which is all of it.
    pub(crate) fn seed(sample: &Sample, dir: &Path) -> Self {
        sample.write(dir);
        Self::new().seeding(sample, dir)
    }

    /// Adds what lies below `dir`, and waits until it seeds.
    pub(crate) fn seeding(mut self, sample: &Sample, dir: &Path) -> Self {
        let key = self.lp.add(Add::new(sample.meta(), dir)).expect("added");
        until(&mut [&mut self], |n| matches!(n[0].status(key).state, State::Seeding));
        self
    }

    /// Adds a torrent that is to come from these loops.
    pub(crate) fn get(&mut self, sample: &Sample, dir: &Path, from: &[&Node]) -> TorrentKey {
        let peers = from.iter().map(|n| n.addr()).collect();
        self.lp.add(Add { peers, ..Add::new(sample.meta(), dir) }).expect("added")
    }

    /// Where it can be dialled.
    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.lp.port()))
    }

    pub(crate) fn turn(&mut self) {
        self.lp.turn(Some(Duration::from_millis(1))).expect("a turn");
        self.alerts.extend(std::iter::from_fn(|| self.lp.poll_alert()));
    }

    #[track_caller]
    pub(crate) fn status(&self, key: TorrentKey) -> Status {
        self.lp.session().status(self.lp.now(), key).expect("it is there")
    }

    pub(crate) fn received(&self) -> u64 {
        self.lp.session().stats(self.lp.now()).received
    }

    /// Pieces verified since the last look, in order.
    pub(crate) fn take_pieces(&mut self) -> Vec<usize> {
        let piece = |a: Alert| if let Alert::Piece { piece, .. } = a { Some(PieceIndex::idx(piece)) } else { None };
        self.alerts.drain(..).filter_map(piece).collect()
    }

    /// Takes leave as it should be done. `others` go on meanwhile.
    pub(crate) fn leave(mut self, others: &mut [&mut Node]) {
        self.lp.shutdown();
        for _ in 0..ROUNDS {
            if self.lp.stopped() {
                return;
            }
            self.turn();
            others.iter_mut().for_each(|o| o.turn());
        }
        panic!("it does not stop");
    }
}

/// Turns all loops until something holds.
#[track_caller]
pub(crate) fn until(nodes: &mut [&mut Node], mut holds: impl FnMut(&[&mut Node]) -> bool) {
    for _ in 0..ROUNDS {
        nodes.iter_mut().for_each(|n| n.turn());
        if holds(nodes) {
            return;
        }
    }
    for node in nodes {
        for key in node.lp.session().torrents() {
            eprintln!("{:#?}", node.status(key));
        }
    }
    panic!("that never came to hold");
}

/// Turns all loops until this torrent of the first has all it wants.
#[track_caller]
pub(crate) fn complete(nodes: &mut [&mut Node], key: TorrentKey) {
    until(nodes, |n| n[0].status(key).is_complete());
}

/// A loop that is turned on a thread of its own until this is dropped, for the binary to talk to.
pub(crate) struct Background {
    addr: SocketAddr,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Makes a node on the thread, since a loop stays where it is made.
    pub(crate) fn run(make: impl FnOnce() -> Node + Send + 'static) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ends = std::sync::Arc::clone(&stop);
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut node = make();
            send.send(node.addr()).expect("somebody waits");
            while !ends.load(Ordering::Relaxed) {
                node.turn();
                node.alerts.clear();
            }
        });
        let addr = receive.recv().expect("the loop runs");
        Self { addr, stop, thread: Some(thread) }
    }

    /// Seeds a sample at so many bytes a second at most.
    pub(crate) fn seed(sample: &Sample, dir: PathBuf, rate: Option<u64>) -> Self {
        sample.write(&dir);
        let sample = Sample { name: sample.name.clone(), piece_len: sample.piece_len, files: sample.files.clone() };
        Self::run(move || Node::with(|c| c.session.up_limit = rate).seeding(&sample, &dir))
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// As `--peer` takes it.
    pub(crate) fn option(&self) -> String {
        format!("--peer={}", self.addr)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the binary said, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: o.status.code(), out: text(o.stdout), err: text(o.stderr) }
    }
}

impl Ran {
    /// Its lines as JSON.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

/// The binary while it runs; killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) out: BufReader<ChildStdout>,
    pub(crate) err: BufReader<ChildStderr>,
    ended: Cell<bool>,
}

impl Running {
    pub(crate) fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let (out, err) = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        Self { child, out: BufReader::new(out), err: BufReader::new(err), ended: Cell::new(false) }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Reads standard output up to the line for which `f` has an answer.
    #[track_caller]
    pub(crate) fn line<T>(&mut self, f: impl FnMut(&str) -> Option<T>) -> T {
        find(&mut self.out, f)
    }

    /// The same with standard error.
    #[track_caller]
    pub(crate) fn err_line<T>(&mut self, f: impl FnMut(&str) -> Option<T>) -> T {
        find(&mut self.err, f)
    }

    /// Reads events up to one of this name that `f` likes.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str, f: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        self.line(|line| {
            let event: serde_json::Value = serde_json::from_str(line).expect(line);
            (event["event"] == name && f(&event)).then_some(event)
        })
    }

    /// Waits for the end; what has not been read comes along.
    pub(crate) fn end(mut self) -> Ran {
        let (mut out, mut err) = (String::new(), String::new());
        // Standard error is a few lines: it does not fill its pipe meanwhile.
        std::io::Read::read_to_string(&mut self.out, &mut out).expect("UTF-8");
        std::io::Read::read_to_string(&mut self.err, &mut err).expect("UTF-8");
        self.ended.set(true);
        Ran { code: self.child.wait().expect("it ends").code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended.get() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[track_caller]
fn find<T>(from: &mut impl BufRead, mut f: impl FnMut(&str) -> Option<T>) -> T {
    let (mut seen, mut line) = (String::new(), String::new());
    loop {
        line.clear();
        if from.read_line(&mut line).expect("UTF-8") == 0 {
            panic!("it said no such thing:\n{seen}");
        }
        if let Some(found) = f(line.trim_end()) {
            return found;
        }
        seen += &line;
    }
}
