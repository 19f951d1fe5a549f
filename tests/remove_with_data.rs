//! Removing a torrent: with its data nothing of it stays, without it everything does, and no file of anybody else
//! is touched.

mod common;

use std::fs;

use btmio::api::{Add, Alert};
use btmio::error::Error;
use common::{Node, Sample, Temp, complete, files_below, until};

/// Nothing is kept of any torrent.
fn is_forgotten(node: &mut Node, temp: &Temp) {
    until(&mut [node], |_| files_below(&temp.path("state")).iter().all(|name| name.starts_with("lock")));
}

#[test]
fn remove_with_data() {
    let temp = Temp::new();
    let (sample, dir) = (Sample::usual("t"), temp.path("leech"));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::remembering(temp.path("state"));
    let key = leech.get(&sample, &dir, &[&seed]);
    complete(&mut [&mut leech, &mut seed], key);
    // Its record is written a second after it is complete.
    let recorded = || files_below(&temp.path("state")).iter().any(|name| name.ends_with(".resume"));
    for _ in 0..10_000 {
        if recorded() {
            break;
        }
        leech.lp.turn(Some(std::time::Duration::from_millis(5))).expect("a turn");
    }
    assert!(recorded(), "it is remembered");
    // Files of others, in the torrent's own folder and beside it.
    let mine = temp.file("leech/t/sub/mine", "x");
    let beside = temp.file("leech/beside", "y");
    leech.lp.remove(key, true).expect("it is there");
    leech.turn();
    assert_eq!(files_below(&dir).into_iter().collect::<Vec<_>>(), ["beside", "t/sub/mine"]);
    assert!(mine.exists() && beside.exists());
    is_forgotten(&mut leech, &temp);
    assert!(leech.lp.session().status(leech.lp.now(), key).is_none());
    assert!(
        leech
            .alerts
            .iter()
            .any(|a| matches!(a, Alert::Removed { info_hash } if Some(*info_hash) == sample.meta().info_hash))
    );
    assert!(matches!(leech.lp.remove(key, true), Err(Error::NoSuchTorrent)));
    assert!(matches!(leech.lp.pause(key), Err(Error::NoSuchTorrent)));

    // The same torrent again, from the beginning, in the same folder.
    let again = leech.get(&sample, &dir, &[&seed]);
    assert_ne!(again, key, "a key is never another torrent's");
    assert_eq!(leech.status(again).have, 0);
    complete(&mut [&mut leech, &mut seed], again);
    sample.assert_in(&dir);
    // Emptied folders go, the download folder stays.
    fs::remove_file(mine).expect("it is there");
    fs::remove_file(beside).expect("it is there");
    leech.lp.remove(again, true).expect("it is there");
    leech.turn();
    assert_eq!(fs::read_dir(&dir).expect("it stays").count(), 0);
}

#[test]
fn remove_in_the_middle_of_it() {
    let temp = Temp::new();
    let (sample, other) = (Sample::usual("t"), Sample::usual("other"));
    let dir = temp.path("leech");
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    other.write(&temp.path("seed"));
    seed = seed.seeding(&other, &temp.path("seed"));
    let mut leech = Node::new();
    let (key, stays) = (leech.get(&sample, &dir, &[&seed]), leech.get(&other, &dir, &[&seed]));
    until(&mut [&mut leech, &mut seed], |n| n[0].status(key).have > 0);
    leech.lp.remove(key, true).expect("it is there");
    assert!(!dir.join("t").exists(), "nothing is written to it any more");
    complete(&mut [&mut leech, &mut seed], stays);
    other.assert_in(&dir);
    assert!(!dir.join("t").exists());
}

#[test]
fn remove_without_data_leaves_it() {
    let temp = Temp::new();
    let (sample, dir) = (Sample::usual("t"), temp.path("leech"));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::remembering(temp.path("state"));
    let key = leech.get(&sample, &dir, &[&seed]);
    complete(&mut [&mut leech, &mut seed], key);
    leech.lp.remove(key, false).expect("it is there");
    sample.assert_in(&dir);
    // The record goes all the same.
    is_forgotten(&mut leech, &temp);
}

#[test]
fn remove_what_was_paused_or_never_ran() {
    let temp = Temp::new();
    let (sample, dir) = (Sample::usual("t"), temp.path("leech"));
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut leech = Node::new();
    let key = leech.get(&sample, &dir, &[&seed]);
    complete(&mut [&mut leech, &mut seed], key);
    leech.lp.pause(key).expect("it is there");
    leech.lp.remove(key, true).expect("it is there");
    assert!(!dir.join("t").exists());
    let add = Add { paused: true, ..Add::new(sample.meta(), temp.path("never")) };
    let key = leech.lp.add(add).expect("added");
    leech.lp.remove(key, true).expect("it is there");
    assert!(!temp.path("never").exists(), "no folder is made to delete nothing");
}
