//! Two loops in one process: one seeds, one downloads, over loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use btmio::api::{Add, Alert, State};
use btmio::bencode::Writer;
use btmio::metainfo::Metainfo;
use btmio::net::{Loop, LoopConfig, PortChoice};
use sha1::{Digest, Sha1};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A folder of its own for each test, gone afterwards.
struct Temp(PathBuf);
impl Temp {
    fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("btmio-swarm-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        Self(dir)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = btmio::rng::seeded(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// Writes files below `dir/name` and returns the torrent of them.
fn make(dir: &Path, name: &str, files: &[(&str, usize)], piece_len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for (i, (path, len)) in files.iter().enumerate() {
        let data = noise(*len, i as u64 + 7);
        let to = dir.join(name).join(path);
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("folders");
        std::fs::write(&to, &data).expect("a file");
        all.extend(data);
    }
    let pieces: Vec<u8> = all.chunks(piece_len).flat_map(|p| Sha1::digest(p).to_vec()).collect();
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
        for part in path.split('/') {
            w.bytes(part.as_bytes());
        }
        w.end();
        w.end();
    }
    w.end();
    w.key(b"name");
    w.bytes(name.as_bytes());
    w.key(b"piece length");
    w.int(piece_len as i64);
    w.key(b"pieces");
    w.bytes(&pieces);
    w.end();
    w.end();
    w.into_bytes()
}

fn start() -> Loop {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Loop::new(LoopConfig { port: PortChoice::Exact(0), bind: vec![local], ..LoopConfig::default() }).expect("a loop")
}

fn turn(l: &mut Loop) -> Vec<Alert> {
    l.turn(Some(Duration::from_millis(5))).expect("a turn");
    std::iter::from_fn(|| l.poll_alert()).collect()
}

fn assert_same(a: &Path, b: &Path, files: &[(&str, usize)]) {
    for (path, _) in files {
        let (x, y) =
            (std::fs::read(a.join(path)).expect("the original"), std::fs::read(b.join(path)).expect("the copy"));
        assert!(x == y, "{path} differs");
    }
}

const FILES: [(&str, usize); 5] =
    [("a.bin", 3_000_001), ("sub/b.bin", 700_003), ("empty", 0), ("sub/deep/c.bin", 1), ("z.bin", 123_457)];

#[test]
fn one_seeds_one_downloads() {
    let temp = Temp::new();
    let torrent = make(&temp.path("seed"), "t", &FILES, 64 << 10);
    let meta = || Metainfo::parse(&torrent).expect("a torrent");
    let mut seed = start();
    let s = seed.add(Add::new(meta(), temp.path("seed"))).expect("added");
    while seed.session().status(seed.now(), s).expect("there").state != State::Seeding {
        turn(&mut seed);
    }
    let mut leech = start();
    let mut add = Add::new(meta(), temp.path("leech"));
    add.peers = vec![SocketAddr::from(([127, 0, 0, 1], seed.port()))];
    let l = leech.add(add).expect("added");
    let mut finished = false;
    for _ in 0..20_000 {
        turn(&mut seed);
        finished |= turn(&mut leech).iter().any(|a| matches!(a, Alert::Finished { .. }));
        if finished {
            break;
        }
    }
    assert!(finished, "{:?}", leech.session().status(leech.now(), l));
    let status = leech.session().status(leech.now(), l).expect("there");
    assert_eq!((status.downloaded, status.wasted), (status.size, 0));
    assert_same(&temp.path("seed/t"), &temp.path("leech/t"), &FILES);
}
