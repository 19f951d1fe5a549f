//! Many to many: a download from three seeders at once, and leechers that live on each other.

mod common;

use btmio::api::State;
use common::{Node, Sample, Temp, complete, until};

#[test]
fn from_three_seeders_at_once() {
    let temp = Temp::new();
    let sample = Sample::new("t", 64 << 10, &[("a", 20_000_001), ("b", 20_000_000)]);
    let mut seeds: Vec<Node> = (0..3).map(|i| Node::seed(&sample, &temp.path(&format!("seed {i}")))).collect();
    let mut leech = Node::new();
    let key = leech.get(&sample, &temp.path("leech"), &seeds.iter().collect::<Vec<_>>());
    let mut all: Vec<&mut Node> = std::iter::once(&mut leech).chain(&mut seeds).collect();
    complete(&mut all, key);
    sample.assert_in(&temp.path("leech"));
    let status = leech.status(key);
    assert_eq!(status.downloaded, sample.size());
    for seed in &seeds {
        let sent = seed.lp.session().stats(seed.lp.now()).sent;
        assert!(sent > sample.size() / 20, "each gives its part: {sent} of {}", sample.size());
    }
    // In the end game a block may come twice, not a piece from each.
    // (Hundreds of requests are under way at each, so a cancel often comes too late.)
    assert!(status.wasted < sample.size() / 4, "{} wasted", status.wasted);
}

/// One seeder that only the first of four leechers knows, in a chain.
#[test]
fn leechers_live_on_each_other() {
    let temp = Temp::new();
    let sample = Sample::new("t", 64 << 10, &[("a", 8_000_001)]);
    sample.write(&temp.path("seed"));
    // One peer at a time: in the long run the others hear of it too.
    let seed = Node::with(|c| c.session.max_peers_torrent = 1).seeding(&sample, &temp.path("seed"));
    let (mut nodes, mut keys) = (vec![seed], Vec::new());
    for i in 0..4 {
        let mut node = Node::new();
        keys.push(node.get(&sample, &temp.path(&format!("leech {i}")), &[&nodes[i]]));
        nodes.push(node);
    }
    let mut all: Vec<&mut Node> = nodes.iter_mut().collect();
    until(&mut all, |n| keys.iter().zip(&n[1..]).all(|(k, n)| n.status(*k).state == State::Seeding));
    (0..4).for_each(|i| sample.assert_in(&temp.path(&format!("leech {i}"))));
    // The seeder has sent it about once.
    let sent = nodes[0].lp.session().stats(nodes[0].lp.now()).sent;
    assert!((sample.size()..sample.size() * 11 / 10).contains(&sent), "{sent} of {}", sample.size());
}

/// Three that have a third each, and nobody who has it all.
#[test]
fn parts_make_a_whole() {
    let temp = Temp::new();
    let sample = Sample::new("t", 64 << 10, &[("a", 3_000_001), ("b", 3_000_000), ("c", 3_000_000)]);
    let mut nodes: Vec<Node> = Vec::new();
    let mut keys = Vec::new();
    for i in 0..3 {
        let dir = temp.path(&format!("part {i}"));
        // Shared pieces need both files.
        sample.write_one(&dir, i);
        sample.write_one(&dir, (i + 1) % 3);
        let mut node = Node::new();
        keys.push(node.get(&sample, &dir, &nodes.iter().collect::<Vec<_>>()));
        nodes.push(node);
    }
    let mut all: Vec<&mut Node> = nodes.iter_mut().collect();
    until(&mut all, |n| keys.iter().zip(n).all(|(k, n)| n.status(*k).is_complete()));
    (0..3).for_each(|i| sample.assert_in(&temp.path(&format!("part {i}"))));
    let received: u64 = nodes.iter().map(Node::received).sum();
    let wasted: u64 = keys.iter().zip(&nodes).map(|(k, n)| n.status(*k).wasted).sum();
    let missing: u64 = (0..3).map(|i| sample.bytes_of(&sample.pieces_of((i + 2) % 3))).sum();
    // Blocks that came twice in the end game apart: how many those are depends on who is faster. Of one that nobody
    // waits for any more a part may have come when the connection ends.
    let once = received - wasted;
    assert!((missing..missing + 6 * (16 << 10)).contains(&once), "{once} of {missing}: each fetched its third only");
    assert!(wasted < missing, "{wasted}: both were asked for everything");
}
