//! A torrent that was added is there again after whatever may come, until it is removed.

mod common;

use std::fs;

use btmio::api::{Add, Alert};
use btmio::error::Error;
use btmio::net;
use common::{Node, Sample, Temp, until};
use rustix::process::Signal;

fn names(temp: &Temp) -> Vec<String> {
    net::remembered(&temp.path("state")).expect("a folder").into_iter().map(|add| add.meta.name).collect()
}

/// Turns until it is said to be added.
fn accepted(node: &mut Node) {
    until(&mut [node], |n| n[0].alerts.iter().any(|a| matches!(a, Alert::Added { .. })));
}

#[test]
fn what_is_said_to_be_added_is_there_without_a_goodbye() {
    let temp = Temp::new();
    let (one, two) = (Sample::usual("one"), Sample::usual("two"));
    assert_eq!(names(&temp), Vec::<String>::new(), "there is no folder yet");
    let mut node = Node::remembering(temp.path("state"));
    node.lp.add(Add { seed_ratio: Some(2.5), ..Add::new(one.meta(), temp.path("out")) }).expect("added");
    accepted(&mut node);
    assert_eq!(names(&temp), ["one"]);
    // And another process cannot have it meanwhile.
    let mut other = Node::remembering(temp.path("state"));
    let busy = other.lp.add(Add::new(one.meta(), temp.path("out")));
    assert!(matches!(busy, Err(Error::Busy(_))), "{busy:?}");
    other.lp.add(Add::new(two.meta(), temp.path("out"))).expect("nobody else has that");
    accepted(&mut other);
    drop(other);
    drop(node);
    let mut all = net::remembered(&temp.path("state")).expect("a folder");
    all.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
    assert_eq!(all.iter().map(|a| a.meta.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!((all[0].seed_ratio, &all[0].dir), (Some(2.5), &temp.path("out")));
    // One that is removed is gone, and the others stay.
    let mut node = Node::remembering(temp.path("state"));
    let keys: Vec<_> = all.into_iter().map(|add| node.lp.add(add).expect("added")).collect();
    node.lp.remove(keys[0], false).expect("it is there");
    node.leave(&mut []);
    assert_eq!(names(&temp), ["two"]);
}

/// The command: killed on its way, it goes on without being told with what; done, it has nothing to go on with.
#[test]
fn the_command_goes_on_with_what_was_interrupted() {
    let temp = Temp::new();
    let sample = Sample::usual("t");
    temp.file("t.torrent", sample.torrent());
    let alone = ["--port=0", "--bind=127.0.0.1", "--no-tracker", "--json"];
    let mut first = temp.start(&[&alone[..], &["t.torrent", "out/"]].concat());
    assert_eq!(first.event("added", |_| true)["kept"], true);
    let ran = temp.run(&[&alone[..], &["t.torrent", "out/"]].concat());
    assert_eq!(ran.code, Some(12), "{ran:?}");
    first.signal(Signal::KILL);
    assert_eq!(first.end().code, None);
    // What is there by now is found, from another folder.
    sample.write(&temp.path("out"));
    fs::remove_file(temp.path("t.torrent")).expect("it was there");
    let ran = temp.run(&[&alone[..], &["-e", "--verify"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.events().iter().any(|e| e["event"] == "done" && e["name"] == "t"), "{ran:?}");
    let ran = temp.run(&alone);
    assert_eq!(ran.code, Some(2), "it was done with: {ran:?}");
}
