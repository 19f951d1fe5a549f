//! Peers find each other with nothing but the DHT (BEP 5): no tracker, no address given but that of one node.

mod common;

use btmio::api::{Add, State};
use btmio::config::DhtConfig;
use common::{Node, Sample, Temp, until};

/// A loop with a DHT node that begins at these others.
fn node(first: &[&Node], state: Option<&std::path::Path>) -> Node {
    let bootstrap = first.iter().map(|n| ("127.0.0.1".to_owned(), n.lp.port())).collect();
    Node::with(|c| {
        c.session.dht = Some(DhtConfig { bootstrap, read_only: false });
        c.state_dir = state.map(Into::into);
    })
}

fn nodes_known(n: &Node) -> usize {
    n.lp.session().dht_counts().expect("it has a node").nodes.0
}

#[test]
fn a_seed_is_found_by_the_dht_alone_and_a_private_torrent_is_not() {
    let temp = Temp::new();
    let sample = Sample::usual("t");
    let secret = Sample::new("secret", 64 << 10, &[("a", 100_001)]);
    [&sample, &secret].into_iter().for_each(|s| s.write(&temp.path("seed")));
    let private = || {
        let mut meta = secret.meta();
        meta.private = true;
        meta
    };
    let mut first = node(&[], None);
    let mut seed = node(&[&first], None);
    let mut leech = node(&[&first], None);
    let key = seed.lp.add(Add::new(sample.meta(), temp.path("seed"))).expect("added");
    seed.lp.add(Add::new(private(), temp.path("seed"))).expect("added");
    until(&mut [&mut seed, &mut first], |n| {
        n[0].status(key).state == State::Seeding && n[1].lp.session().dht_counts().is_some_and(|c| c.stored.1 > 0)
    });
    let key = leech.lp.add(Add::new(sample.meta(), temp.path("leech"))).expect("added");
    let hidden = leech.lp.add(Add::new(private(), temp.path("leech"))).expect("added");
    until(&mut [&mut leech, &mut seed, &mut first], |n| n[0].status(key).is_complete());
    sample.assert_in(&temp.path("leech"));
    // The node that everybody told has heard of one torrent only.
    assert_eq!(first.lp.session().dht_counts().expect("it has a node").stored.0, 1);
    assert_eq!(leech.status(hidden).peers, 0);
}

#[test]
fn what_the_node_knows_outlives_a_restart() {
    let temp = Temp::new();
    let mut first = node(&[], None);
    let mut once = node(&[&first], Some(&temp.path("state")));
    until(&mut [&mut once, &mut first], |n| nodes_known(n[0]) > 0);
    once.leave(&mut [&mut first]);
    // It is told of nobody this time.
    let mut again = node(&[], Some(&temp.path("state")));
    until(&mut [&mut again, &mut first], |n| nodes_known(n[0]) > 0);
}

/// A peer's PORT message leads to its node.
#[test]
fn nodes_are_found_through_peers() {
    let temp = Temp::new();
    let sample = Sample::usual("t");
    sample.write(&temp.path("seed"));
    let mut seed = node(&[], None).seeding(&sample, &temp.path("seed"));
    let mut leech = node(&[], None);
    let key = leech.get(&sample, &temp.path("leech"), &[&seed]);
    until(&mut [&mut leech, &mut seed], |n| {
        n[0].status(key).is_complete() && nodes_known(n[0]) > 0 && nodes_known(n[1]) > 0
    });
}
