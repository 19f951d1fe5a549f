//! What the helper writes: in which order it is reported, and when a flush of it is over.

use super::super::helper::{Helper, Job};
use super::super::tests::{Rig, T, TempDir, config, good, layout, p};
use super::super::{Disk, Done, Lane, Storage, StorageConfig};
use super::*;
use crate::id::Block;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};

/// A disk whose helper does nothing before it is told.
struct Scene {
    rig: Rig<Disk>,
    go: Sender<()>,
    woken: Receiver<()>,
    _tmp: TempDir,
    _helper: Helper,
}

impl Scene {
    fn new(pieces: u64, change: impl FnOnce(&mut StorageConfig)) -> Self {
        Self::of(&[("a", pieces * 65_536)], change)
    }

    fn of(files: &[(&str, u64)], change: impl FnOnce(&mut StorageConfig)) -> Self {
        let (tmp, layout) = (TempDir::new(), layout(65_536, files));
        let (tx, woken) = channel();
        let helper = Helper::threaded(Arc::new(move || tx.send(()).unwrap_or(())));
        let mut config = config(Lane::Gather);
        change(&mut config);
        let rig = Rig::new(Disk::with_helper(config, helper.hand()), &layout, tmp.path());
        let (go, gate) = channel();
        let closed: Job = Box::new(move || gate.recv().map_err(|e: RecvError| io::Error::other(e)));
        let lane = super::super::file_system_of(tmp.path());
        helper.hand().submit(lane, 0, closed);
        Self { rig, go, woken, _tmp: tmp, _helper: helper }
    }

    fn fetch(&mut self, piece: u32) {
        self.rig.receive_piece(piece);
        self.rig.hash(piece);
        while self.rig.s.work(usize::MAX) {}
    }

    fn done(&mut self) -> Vec<Done> {
        std::iter::from_fn(|| self.rig.s.poll_done()).collect()
    }

    /// The helper goes on until so many results are there.
    fn results(&mut self, n: usize) -> Vec<Done> {
        let mut all = self.done();
        while all.len() < n {
            self.woken.recv().unwrap();
            self.rig.s.work(usize::MAX);
            all.extend(self.done());
        }
        all
    }

    /// From now on the loop writes.
    fn is_fast(&mut self) {
        while self.rig.s.files.is_slow(T) {
            self.rig.s.files.probed(0, 1 << 20, Duration::ZERO);
        }
    }
}

#[test]
fn good_pieces_are_reported_in_order_whoever_writes_them() {
    let mut s = Scene::new(6, |c| c.allocate = super::super::Allocate::None);
    s.fetch(3);
    s.fetch(1);
    s.is_fast();
    s.fetch(5);
    s.fetch(0);
    assert_eq!(s.done(), [], "what the loop has written waits for what the helper has not");
    s.go.send(()).unwrap();
    assert_eq!(s.results(4).iter().map(good).collect::<Vec<_>>(), [3, 1, 5, 0]);
    s.fetch(2);
    assert_eq!(s.done().iter().map(good).collect::<Vec<_>>(), [2]);
    assert!(s.rig.s.flights.order.is_empty());
}

#[test]
fn a_piece_that_is_lost_keeps_no_other_waiting() {
    let mut s = Scene::new(4, |c| c.allocate = super::super::Allocate::None);
    s.fetch(0);
    s.is_fast();
    s.fetch(1);
    assert_eq!(s.done(), []);
    s.rig.s.forget(T, p(0));
    assert!(s.results(1).iter().map(good).eq([1]));
    s.go.send(()).unwrap();
    s.fetch(2);
    assert!(s.results(1).iter().map(good).eq([2]));
}

#[test]
fn a_flush_is_over_when_what_had_landed_is_in_its_file() {
    let mut s = Scene::new(64, |c| c.writer = Writer::Helper);
    s.fetch(0);
    s.rig.receive_block(1, 2);
    s.rig.s.flush(T).unwrap();
    assert!(s.rig.s.flushing(T));
    assert_eq!(s.rig.s.dirty(), 65_536 + 16_384);
    // What comes later is not waited for.
    s.go.send(()).unwrap();
    while s.rig.s.flushing(T) {
        s.woken.recv().unwrap();
        s.rig.s.work(usize::MAX);
    }
    assert_eq!(s.rig.s.dirty(), 0);
    let file = FileIndex::new(0);
    let before = s.rig.s.file_stat(T, file);
    s.rig.s.close(T).unwrap();
    let Scene { rig, _tmp: tmp, _helper: helper, .. } = s;
    drop(helper);
    let data = std::fs::read(tmp.path().join("a")).unwrap();
    assert!(data[..65_536] == rig.bytes(0, 0, 65_536) && data[98_304..114_688] == rig.bytes(1, 32_768, 16_384));
    let mut again = Rig::new(Disk::new(config(Lane::Gather)), &rig.layout, tmp.path());
    assert_eq!(again.s.file_stat(T, file), before, "nothing has changed the file since");
}

#[test]
fn a_flush_does_not_wait_for_what_comes_after_it() {
    let mut s = Scene::new(64, |c| c.writer = Writer::Helper);
    s.rig.receive_block(0, 0);
    s.rig.s.flush(T).unwrap();
    s.go.send(()).unwrap();
    while s.rig.s.flushing(T) {
        // Always something under way.
        s.woken.recv().unwrap();
        s.rig.s.work(usize::MAX);
    }
    let (go, gate) = channel::<()>();
    let closed: Job = Box::new(move || gate.recv().map_err(|e: RecvError| io::Error::other(e)));
    s._helper.hand().submit(super::super::file_system_of(s._tmp.path()), 0, closed);
    s.fetch(1);
    assert!(!s.rig.s.flushing(T) && s.rig.s.dirty() > 0);
    s.rig.s.flush(T).unwrap();
    assert!(s.rig.s.flushing(T));
    go.send(()).unwrap();
    assert!(s.results(1).iter().map(good).eq([1]));
}

#[test]
fn opened_again_it_is_told_of_what_it_fetches_itself() {
    let mut s = Scene::new(64, |c| c.writer = Writer::Helper);
    s.fetch(0);
    s.rig.s.close(T).unwrap();
    assert_eq!(s.rig.s.dirty(), 65_536);
    s.rig.open(s._tmp.path());
    s.fetch(0);
    s.go.send(()).unwrap();
    assert!(s.results(1).iter().map(good).eq([0]));
    assert_eq!(s.done(), []);
    s.rig.send_block(Block { piece: p(0), begin: 0, len: 16_384 }).unwrap();
}

#[test]
fn a_volume_that_hangs_holds_back_only_its_own() {
    let mut s = Scene::new(64, |c| (c.writer, c.unwritten) = (Writer::Helper, 128 << 10));
    let (other, tmp) = (TorrentKey::new(1, 1), TempDir::new());
    let spec = super::super::OpenSpec { dir: tmp.path().into() };
    s.rig.s.open(other, Arc::clone(&s.rig.layout), spec).unwrap();
    s.rig.s.files.set_lane(other, 1);
    for piece in 0..3 {
        s.fetch(piece);
    }
    assert!(s.rig.s.holds_back(T) && !s.rig.s.holds_back(other));
    let good = |d: &Done| matches!(d, Done::Hashed { torrent, ok: true, .. } if *torrent == other);
    for piece in 0..8 {
        let (bytes, expected) = (s.rig.bytes(piece, 0, 65_536), s.rig.expected(piece));
        s.rig.s.write(other, p(piece), 0, &bytes).unwrap();
        s.rig.s.hash(other, p(piece), expected, false);
        while s.rig.s.work(usize::MAX) {}
        assert!(s.results(1).iter().all(good));
        assert!(!s.rig.s.holds_back(other));
    }
    s.rig.s.sync(other, 5);
    assert_eq!(s.results(1), [Done::Synced { torrent: other, ticket: 5, result: Ok(()) }]);
    assert!(s.rig.s.holds_back(T));
    s.go.send(()).unwrap();
    assert!(s.results(3).iter().map(super::super::tests::good).eq([0, 1, 2]));
    assert!(s.rig.s.dirty() == 0 && s.rig.s.flights.of_lane.is_empty());
}

#[test]
fn what_is_under_way_holds_no_more_descriptors_than_there_are() {
    let names: Vec<String> = (0..64).map(|i| i.to_string()).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|n| (n.as_str(), 16_384)).collect();
    let mut s = Scene::of(&files, |c| (c.writer, c.max_open_files) = (Writer::Helper, 8));
    s.fetch(0);
    assert!(!s.rig.s.holds_back(T));
    assert_eq!((s.rig.s.flights.handles, s.rig.s.files.open_count()), (4, 4));
    s.fetch(1);
    assert!(s.rig.s.holds_back(T), "as many as may be open are under way");
    // Pieces that had landed before that come too.
    s.fetch(2);
    assert_eq!((s.rig.s.flights.handles, s.rig.s.files.open_count()), (12, 2));
    s.go.send(()).unwrap();
    assert_eq!(s.results(3).iter().map(good).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(!s.rig.s.holds_back(T));
    assert_eq!(s.rig.s.flights.handles, 0);
}
