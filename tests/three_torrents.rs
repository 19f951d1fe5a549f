//! Several torrents in one loop: each gets its own bytes, and they share what there is one of.

mod common;

use btmio::api::Add;
use common::{Node, Sample, Temp, until};

fn samples() -> [Sample; 3] {
    ["one", "two", "three"].map(|name| Sample::new(name, 64 << 10, &[("a", 2_000_003), ("b/c", 700_001)]))
}

/// A node that seeds all of them.
fn seeder(samples: &[Sample], temp: &Temp) -> Node {
    samples.iter().fold(Node::new(), |node, sample| {
        let dir = temp.path(&format!("seed {}", sample.name));
        sample.write(&dir);
        node.seeding(sample, &dir)
    })
}

/// Into one folder, with both sides' connections shared between torrents: three of them on the one port.
#[test]
fn three_torrents_at_once() {
    let (temp, samples) = (Temp::new(), samples());
    let mut seed = seeder(&samples, &temp);
    // Room for one extent a torrent and some: they take turns at the buffers.
    let mut leech = Node::with(|c| c.storage.gather_limit = 512 << 10);
    let keys: Vec<_> = samples.iter().map(|s| leech.get(s, &temp.path("leech"), &[&seed])).collect();
    let mut together = false;
    until(&mut [&mut leech, &mut seed], |n| {
        let statuses: Vec<_> = keys.iter().map(|k| n[0].status(*k)).collect();
        together |= statuses.iter().all(|s| s.have > 0 && !s.is_complete());
        statuses.iter().all(|s| s.is_complete())
    });
    for (sample, key) in samples.iter().zip(&keys) {
        sample.assert_in(&temp.path("leech"));
        let status = leech.status(*key);
        assert_eq!((status.downloaded, status.wasted), (sample.size(), 0), "{}", sample.name);
    }
    assert!(together, "none had to wait until another was done");
}

/// One of three has nobody to get it from, and one nowhere to put it: the third does not mind.
#[test]
fn one_that_fails_or_waits_leaves_the_others_alone() {
    let (temp, samples) = (Temp::new(), samples());
    let mut seed = seeder(&samples, &temp);
    let mut leech = Node::new();
    let lonely = leech.lp.add(Add::new(samples[0].meta(), temp.path("lonely"))).expect("added");
    let blocked = temp.file("blocked", "a file where the folder should be");
    leech.get(&samples[1], &blocked, &[&seed]);
    let key = leech.get(&samples[2], &temp.path("leech"), &[&seed]);
    until(&mut [&mut leech, &mut seed], |n| n[0].status(key).is_complete());
    samples[2].assert_in(&temp.path("leech"));
    assert_eq!(leech.status(lonely).have, 0);
    assert!(
        leech.alerts.iter().any(|a| matches!(a, btmio::api::Alert::Error { error, .. } if error.contains("blocked")))
    );
}

/// The command takes several torrents and one folder.
#[test]
fn the_command_downloads_three() {
    let (temp, samples) = (Temp::new(), samples());
    for sample in &samples {
        temp.file(&format!("{}.torrent", sample.name), sample.torrent());
        sample.write(&temp.path("seed"));
    }
    let dir = temp.path("seed");
    let metas: Vec<_> = samples.iter().map(Sample::meta).collect();
    let seed = common::Background::run(move || {
        let mut node = Node::new();
        let keys: Vec<_> = metas.into_iter().map(|m| node.lp.add(Add::new(m, &dir)).expect("added")).collect();
        until(&mut [&mut node], |n| keys.iter().all(|k| n[0].status(*k).is_complete()));
        node
    });
    let mut args = vec!["-e", "--json", "--port=0", "--bind=127.0.0.1", "--no-tracker"];
    let peer = seed.option();
    args.extend([peer.as_str(), "one.torrent", "two.torrent", "three.torrent", "out/"]);
    let ran = temp.run(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.events().iter().filter(|e| e["event"] == "done").count(), 3, "{ran:?}");
    samples.iter().for_each(|s| s.assert_in(&temp.path("out")));
}
