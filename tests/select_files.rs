//! Only the chosen files come, whole; their neighbours get no more than the pieces they share.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use btmio::api::{Add, Alert, Priority, State};
use btmio::error::Error;
use common::{Node, Sample, Temp, complete, files_below, until};

use Priority::{High, Low, Normal, Skip};

/// Six files; the pieces of `b` reach into `a` and `c`, those of `e` into `d` and `f`.
fn sample() -> Sample {
    let files = [
        ("a", 1_500_000),
        ("in/b", 900_001),
        ("in/c", 2_000_003),
        ("other/d", 1_200_000),
        ("other/e", 700_000),
        ("f", 600_000),
    ];
    Sample::new("t", 128 << 10, &files)
}

#[test]
fn only_the_chosen_files_come() {
    let temp = Temp::new();
    let (sample, dir) = (sample(), temp.path("leech"));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::new();
    let priorities = vec![Skip, Normal, Skip, Skip, Skip, Skip];
    let add = Add { priorities, peers: vec![seed.addr()], ..Add::new(sample.meta(), &dir) };
    let key = leech.lp.add(add).expect("added");
    assert_eq!((leech.status(key).wanted, leech.status(key).size), (900_001, sample.size()));
    complete(&mut [&mut leech, &mut seed], key);

    sample.assert_file_in(&dir, 1);
    let mut pieces = leech.take_pieces();
    pieces.sort_unstable();
    assert_eq!(pieces, sample.pieces_of(1).into_iter().collect::<Vec<_>>(), "its pieces, and no others");
    assert_eq!(leech.received(), sample.bytes_of(&sample.pieces_of(1)));
    // The neighbours may hold their part of a shared piece, and take no more room than that.
    let there = files_below(&dir);
    assert!(there.iter().all(|f| ["t/a", "t/in/b", "t/in/c"].contains(&f.as_str())), "{there:?}");
    for neighbour in [0, 2] {
        if let Ok(m) = fs::metadata(sample.at(&dir, neighbour)) {
            assert!(m.blocks() * 512 <= 256 << 10, "{neighbour} takes {} bytes", m.blocks() * 512);
        }
    }
    let status = leech.status(key);
    assert_eq!((status.state, status.have, status.wanted), (State::Seeding, 900_001, 900_001));
    let files = leech.lp.session().files(key);
    assert_eq!((files[1].have, files[4].have), (900_001, 0));
}

#[test]
fn the_choice_changes_while_it_runs() {
    let temp = Temp::new();
    let (sample, dir) = (sample(), temp.path("leech"));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::new();
    let add = Add {
        priorities: vec![Skip, Normal, Skip, Skip, Skip, Skip],
        peers: vec![seed.addr()],
        ..Add::new(sample.meta(), &dir)
    };
    let key = leech.lp.add(add).expect("added");
    let select = |n: &mut Node, p: [Priority; 6]| n.lp.command(|s, now| s.select(now, key, p.to_vec()));
    // While it fetches `b`: `e` too.
    until(&mut [&mut leech, &mut seed], |n| n[0].status(key).have > 0);
    // That may have been all of it.
    let early = usize::from(leech.status(key).is_complete());
    select(&mut leech, [Skip, Normal, Skip, Skip, High, Skip]).expect("it is there");
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_file_in(&dir, 1);
    sample.assert_file_in(&dir, 4);
    assert_eq!(leech.received(), sample.bytes_of(sample.pieces_of(1).union(&sample.pieces_of(4))));

    // After completion: the rest, a part of which is there already.
    select(&mut leech, [Normal, Normal, Low, Normal, Normal, Skip]).expect("it is there");
    assert_eq!(leech.status(key).state, State::Downloading);
    complete(&mut [&mut leech, &mut seed], key);
    (0..5).for_each(|f| sample.assert_file_in(&dir, f));
    select(&mut leech, [Normal; 6]).expect("it is there");
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_in(&dir);
    assert_eq!(leech.received(), sample.size(), "nothing came twice");
    let finished = leech.alerts.iter().filter(|a| matches!(a, Alert::Finished { .. })).count();
    assert_eq!(finished, 3 + early, "it was complete three times, or once before that");
}

#[test]
fn what_is_not_wanted_any_more_is_not_fetched() {
    let temp = Temp::new();
    let (sample, dir) = (sample(), temp.path("leech"));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::new();
    let key = leech.get(&sample, &dir, &[&seed]);
    until(&mut [&mut leech, &mut seed], |n| n[0].status(key).have > 0);
    let choice = vec![Skip, Skip, Skip, Skip, Skip, Normal];
    leech.lp.command(|s, now| s.select(now, key, choice)).expect("it is there");
    complete(&mut [&mut leech, &mut seed], key);
    sample.assert_file_in(&dir, 5);
    assert!(leech.status(key).pieces.0 < leech.status(key).pieces.1);

    let none = vec![Skip; 6];
    leech.lp.command(|s, now| s.select(now, key, none)).expect("it is there");
    assert_eq!((leech.status(key).wanted, leech.status(key).is_complete()), (0, true));
}

#[test]
fn the_choice_outlives_a_restart_with_the_pieces_it_left() {
    let temp = Temp::new();
    let (sample, dir) = (sample(), temp.path("leech"));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let add = |choice: [Priority; 6], from: &Node| {
        let mut node = Node::remembering(temp.path("state"));
        let add = Add { priorities: choice.to_vec(), peers: vec![from.addr()], ..Add::new(sample.meta(), &dir) };
        let key = node.lp.add(add).expect("added");
        (node, key)
    };
    let (mut first, key) = add([Skip, Normal, Skip, Skip, Skip, Skip], &seed);
    complete(&mut [&mut first, &mut seed], key);
    first.leave(&mut [&mut seed]);
    let (mut second, key) = add([Normal; 6], &seed);
    assert_eq!(second.status(key).state, State::Downloading, "nothing to check");
    complete(&mut [&mut second, &mut seed], key);
    sample.assert_in(&dir);
    assert_eq!(second.received(), sample.size() - sample.bytes_of(&sample.pieces_of(1)));
}

#[test]
fn a_choice_of_the_wrong_length_is_refused() {
    let temp = Temp::new();
    let sample = sample();
    let mut node = Node::new();
    let add = Add { priorities: vec![Skip; 5], ..Add::new(sample.meta(), temp.path("t")) };
    assert!(matches!(node.lp.add(add), Err(Error::FileCount { wanted: 6, got: 5 })));
    let key = node.lp.add(Add::new(sample.meta(), temp.path("t"))).expect("added");
    let refused = node.lp.command(|s, now| s.select(now, key, vec![Skip; 7]));
    assert!(matches!(refused, Err(Error::FileCount { wanted: 6, got: 7 })));
}
