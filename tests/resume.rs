//! Stopping and starting again: nothing is fetched twice, nothing is believed that has changed, and only what is
//! in doubt is looked at.

mod common;

use std::collections::BTreeSet;
use std::fs;

use btmio::api::{Add, Alert, State};
use btmio::id::TorrentKey;
use common::{Node, Sample, Temp, complete, until};

const BLOCK: u64 = 16 << 10;

/// A torrent of which a first run has fetched a part, in order, and the loop that seeds it.
struct Scene {
    sample: Sample,
    seed: Node,
    temp: Temp,
}

impl Scene {
    fn new() -> Self {
        let temp = Temp::new();
        let sample =
            Sample::new("t", 64 << 10, &[("a.bin", 9_000_001), ("sub/b.bin", 8_000_003), ("c.bin", 7_000_000)]);
        let seed = Node::seed(&sample, &temp.path("seed"));
        Self { sample, seed, temp }
    }

    fn node(&self) -> Node {
        Node::remembering(self.temp.path("state"))
    }

    fn add(&self, node: &mut Node) -> TorrentKey {
        node.get(&self.sample, &self.temp.path("leech"), &[&self.seed])
    }

    fn total(&self) -> usize {
        self.sample.data().len().div_ceil(self.sample.piece_len)
    }

    /// Fetches until so many pieces are there.
    fn fetch(&mut self, node: &mut Node, key: TorrentKey, pieces: usize) {
        until(&mut [node, &mut self.seed], |n| n[0].status(key).pieces.0 as usize >= pieces);
    }

    /// A run that fetches so many pieces and leaves. Returns the pieces it has verified and the bytes it has received.
    fn first_run(&mut self, pieces: usize) -> (BTreeSet<usize>, u64) {
        let mut node = self.node();
        let key = self.add(&mut node);
        self.fetch(&mut node, key, pieces);
        let (have, received) = (node.take_pieces().into_iter().collect(), node.received());
        node.leave(&mut [&mut self.seed]);
        (have, received)
    }

    /// A run to the end. `checks` is what it may look at before it trades. Returns the pieces that it fetched and the
    /// bytes it received.
    #[track_caller]
    fn last_run(&mut self, checks: u32) -> (BTreeSet<usize>, u64) {
        let mut node = self.node();
        let key = self.add(&mut node);
        let state = node.status(key).state;
        if checks == 0 {
            assert_eq!(state, State::Downloading, "nothing to check");
        } else {
            assert_eq!(state, State::Checking { done: 0, total: checks });
        }
        complete(&mut [&mut node, &mut self.seed], key);
        let fetched = node.take_pieces().into_iter().collect();
        let received = node.received();
        self.sample.assert_in(&self.temp.path("leech"));
        node.leave(&mut [&mut self.seed]);
        (fetched, received)
    }

    /// Everything is there at once.
    #[track_caller]
    fn last_run_seeds(&self) {
        let mut node = self.node();
        let key = self.add(&mut node);
        assert_eq!(node.status(key).state, State::Seeding);
    }
}

#[test]
fn nothing_is_fetched_twice_nor_checked_again() {
    let mut s = Scene::new();
    let all = s.total();
    let (had, first) = s.first_run(all / 2);
    assert!(had.len() < all, "it was stopped on the way");
    let mut node = s.node();
    let key = s.add(&mut node);
    let status = node.status(key);
    assert_eq!(status.pieces.0 as usize, had.len(), "all that was verified is there before anything is looked at");
    assert_eq!(status.downloaded, s.sample.bytes_of(&had), "the totals go on where they were");
    // Looked at are the few pieces that had come but were not hashed any more.
    let unhashed = if let State::Checking { total, .. } = status.state { total as usize } else { 0 };
    until(&mut [&mut node], |n| n[0].status(key).state == State::Downloading);
    assert_eq!(node.status(key).pieces.0 as usize, had.len() + unhashed);
    complete(&mut [&mut node, &mut s.seed], key);
    let fetched: BTreeSet<usize> = node.take_pieces().into_iter().collect();
    assert!(had.is_disjoint(&fetched), "a piece is fetched twice");
    assert_eq!(had.len() + unhashed + fetched.len(), all);
    // The one block that was on its way when it stopped had no place to rest yet.
    let twice = first + node.received() - s.sample.size();
    assert!(twice < BLOCK, "{twice} bytes came twice");
    s.sample.assert_in(&s.temp.path("leech"));
    node.leave(&mut [&mut s.seed]);
}

#[test]
fn of_a_changed_file_only_its_pieces_are_checked() {
    let mut s = Scene::new();
    let all = s.total();
    s.first_run(all);
    // One byte of the second file, and its time with it.
    let path = s.sample.at(&s.temp.path("leech"), 1);
    let mut data = fs::read(&path).expect("a file");
    data[3_000_000] ^= 1;
    fs::write(&path, data).expect("a file");
    let (fetched, received) = s.last_run(s.sample.pieces_of(1).len() as u32);
    let bad = (9_000_001 + 3_000_000) / s.sample.piece_len;
    assert_eq!((fetched, received), (BTreeSet::from([bad]), s.sample.bytes_of([&bad])));
}

#[test]
fn a_missing_file_is_fetched_again_and_no_other() {
    let mut s = Scene::new();
    let all = s.total();
    s.first_run(all);
    fs::remove_file(s.sample.at(&s.temp.path("leech"), 1)).expect("it was there");
    // Of a piece that has bytes elsewhere too nobody can tell without looking: first and last of the file.
    let (fetched, received) = s.last_run(2);
    let gone = s.sample.pieces_of(1);
    assert_eq!(received, s.sample.bytes_of(&gone));
    assert_eq!(fetched, gone);
}

#[test]
fn a_file_that_was_cut_short_is_not_believed() {
    let mut s = Scene::new();
    let all = s.total();
    s.first_run(all);
    let path = s.sample.at(&s.temp.path("leech"), 2);
    fs::OpenOptions::new().write(true).open(path).expect("a file").set_len(3_000_000).expect("it is cut");
    let (fetched, _) = s.last_run(s.sample.pieces_of(2).len() as u32);
    let first = (17_000_004 + 3_000_000) / s.sample.piece_len;
    assert_eq!(fetched, (first..all).collect());
}

#[test]
fn what_lies_there_without_a_record_is_found() {
    let mut s = Scene::new();
    let leech = s.temp.path("leech");
    s.sample.write_one(&leech, 0);
    let half = &s.sample.files[2].1[..3_500_000];
    fs::write(s.sample.at(&leech, 2), half).expect("a file");
    let looked_at: BTreeSet<usize> = s.sample.pieces_of(0).union(&s.sample.pieces_of(2)).copied().collect();
    let (fetched, received) = s.last_run(looked_at.len() as u32);
    // Whole pieces of what is there need not come.
    let (first, last) = (9_000_001 / s.sample.piece_len, (17_000_004 + 3_500_000) / s.sample.piece_len);
    let there: BTreeSet<usize> = (0..first).chain(17_000_004usize.div_ceil(s.sample.piece_len)..last).collect();
    assert_eq!(fetched, (0..s.total()).filter(|p| !there.contains(p)).collect());
    assert_eq!(received, s.sample.bytes_of(&fetched));
}

#[test]
fn a_run_that_ends_without_a_word_loses_no_verified_piece() {
    let mut s = Scene::new();
    let all = s.total();
    // A record of a quarter, then a run that is cut off: the record is older than the files.
    let (had, _) = s.first_run(all / 4);
    let mut node = s.node();
    let key = s.add(&mut node);
    s.fetch(&mut node, key, all * 3 / 4);
    let more: BTreeSet<usize> = node.take_pieces().into_iter().collect();
    drop(node);
    let mut node = s.node();
    let key = s.add(&mut node);
    let status = node.status(key);
    // The last turn may have brought all of it.
    let state = &status.state;
    let on = matches!(state, State::Downloading | State::Seeding);
    assert!(on, "nothing to check: the journal tells what was verified, but {state:?}");
    // And those that had come whole when the first run ended, which were hashed at the start of the second.
    assert!(status.pieces.0 as usize >= had.len() + more.len(), "{:?}", status.pieces);
    complete(&mut [&mut node, &mut s.seed], key);
    let fetched: BTreeSet<usize> = node.take_pieces().into_iter().collect();
    assert!(had.is_disjoint(&fetched) && more.is_disjoint(&fetched), "a piece that was told is fetched again");
    s.sample.assert_in(&s.temp.path("leech"));
}

#[test]
fn a_record_that_is_garbage_costs_a_check_and_no_more() {
    let mut s = Scene::new();
    let all = s.total();
    s.first_run(all);
    let record = s.temp.path("state").join(format!("{}.resume", s.sample.meta().info_hash.expect("version 1")));
    for garbage in [&b""[..], b"d4:have", b"i1e", &[0xff; 5000]] {
        fs::write(&record, garbage).expect("a record");
        let (fetched, received) = s.last_run(all as u32);
        assert_eq!((fetched.len(), received), (0, 0), "{garbage:?}");
    }
    // And leaves a good one behind.
    s.last_run_seeds();
}

#[test]
fn a_record_is_of_use_only_for_its_own_torrent() {
    let mut s = Scene::new();
    s.first_run(20);
    let records: Vec<_> = fs::read_dir(s.temp.path("state")).expect("a folder").collect();
    let record = fs::read(records[0].as_ref().expect("a record").path()).expect("a record");
    // Handed over by the embedder, for a torrent of fewer pieces.
    let other = Sample::usual("other");
    let mut node = Node::new();
    let add = Add { resume: Some(record), ..Add::new(other.meta(), s.temp.path("other")) };
    let key = node.lp.add(add).expect("added");
    assert_eq!(node.status(key).pieces.0, 0);
    assert!(!node.alerts.iter().any(|a| matches!(a, Alert::Finished { .. })));
}

#[test]
fn verify_looks_at_everything_again() {
    let mut s = Scene::new();
    let all = s.total();
    s.first_run(all);
    // Changed behind our back, with size and time kept: only a look can tell.
    let path = s.sample.at(&s.temp.path("leech"), 0);
    let times = fs::metadata(&path).expect("a file").modified().expect("a time");
    let mut data = s.sample.files[0].1.clone();
    data[5 * s.sample.piece_len] ^= 1;
    let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
    std::os::unix::fs::FileExt::write_all_at(&file, &data, 0).expect("written");
    file.set_modified(times).expect("a time");
    drop(file);
    let mut node = s.node();
    let key = s.add(&mut node);
    assert_eq!(node.status(key).state, State::Seeding, "the record still fits");
    node.lp.command(|session, now| session.verify(now, key)).expect("it is there");
    assert_eq!(node.status(key).state, State::Checking { done: 0, total: all as u32 });
    complete(&mut [&mut node, &mut s.seed], key);
    assert_eq!(node.take_pieces(), [5]);
    s.sample.assert_in(&s.temp.path("leech"));
}
