//! Pausing by library call: the peers go, the files are closed, and afterwards it goes on where it was.

mod common;

use btmio::api::{Add, Alert, State};
use common::{Node, Sample, Temp, complete, until};

#[test]
fn pause_and_resume() {
    let temp = Temp::new();
    let sample = Sample::new("t", 64 << 10, &[("a", 12_000_000), ("b", 9_000_001)]);
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::new();
    let key = leech.get(&sample, &temp.path("leech"), &[&seed]);
    let mut had = 0;
    // Three times, at different places.
    for quarter in 1..4 {
        let pieces = sample.data().len() / sample.piece_len * quarter / 4;
        until(&mut [&mut leech, &mut seed], |n| n[0].status(key).pieces.0 as usize >= pieces);
        leech.lp.pause(key).expect("it is there");
        let status = leech.status(key);
        assert_eq!((status.state, status.peers, status.connecting), (State::Paused, 0, 0));
        assert!(status.have >= had, "what was there stays there");
        had = status.have;
        let received = leech.received();
        // Nothing comes any more, however long it is.
        for _ in 0..300 {
            leech.turn();
            seed.turn();
        }
        assert_eq!((leech.received(), leech.status(key).have), (received, had));
        assert_eq!(seed.lp.session().stats(seed.lp.now()).peers, 0, "the other side has seen it go");

        leech.lp.resume(key).expect("it is there");
        assert_eq!(leech.status(key).have, had, "trusted without a look: nothing has changed");
        if let State::Checking { total, .. } = leech.status(key).state {
            // What had come but was not hashed when it was paused.
            assert!(u64::from(total) * sample.piece_len as u64 <= sample.size() - had);
        }
    }
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_in(&temp.path("leech"));
    let count = |f: fn(&Alert) -> bool| leech.alerts.iter().filter(|a| f(a)).count();
    assert_eq!(count(|a| matches!(a, Alert::Paused { .. })), 3);
    assert_eq!(count(|a| matches!(a, Alert::Resumed { .. })), 3);
    assert_eq!(count(|a| matches!(a, Alert::Finished { .. })), 1);
    // One block at most was on its way each time.
    let twice = leech.received() - sample.size();
    assert!(twice < 3 * (16 << 10), "{twice} bytes came twice");
}

#[test]
fn a_paused_torrent_does_nothing_until_it_is_told() {
    let temp = Temp::new();
    let sample = Sample::usual("t");
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::new();
    let add = Add { paused: true, peers: vec![seed.addr()], ..Add::new(sample.meta(), temp.path("leech")) };
    let key = leech.lp.add(add).expect("added");
    for _ in 0..100 {
        leech.turn();
        seed.turn();
    }
    let status = leech.status(key);
    assert_eq!((status.state, status.peers, leech.received()), (State::Paused, 0, 0));
    assert!(!temp.path("leech").exists(), "no folder is made for it");
    leech.lp.resume(key).expect("it is there");
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_in(&temp.path("leech"));
}

#[test]
fn a_seeder_that_pauses_lets_the_others_wait() {
    let temp = Temp::new();
    let sample = Sample::new("t", 64 << 10, &[("a", 12_000_000)]);
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let seeding = seed.lp.session().torrents().next().expect("one");
    let mut leech = Node::new();
    let key = leech.get(&sample, &temp.path("leech"), &[&seed]);
    until(&mut [&mut leech, &mut seed], |n| n[0].status(key).pieces.0 >= 30);
    seed.lp.pause(seeding).expect("it is there");
    until(&mut [&mut leech, &mut seed], |n| n[0].status(key).peers == 0);
    assert_eq!(leech.status(key).state, State::Downloading);
    seed.lp.resume(seeding).expect("it is there");
    assert_eq!(seed.status(seeding).state, State::Seeding, "it trusts its files");
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_in(&temp.path("leech"));
}
