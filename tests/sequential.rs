//! In order: each piece is begun after those before it, so that what has come is a whole beginning.

mod common;

use btmio::api::Add;
use btmio::config::limits;
use common::{Node, Sample, Temp, complete};

/// The most that a piece runs ahead of one that is still missing.
fn ahead(order: &[usize]) -> usize {
    let last = order.iter().max().expect("some");
    let (mut done, mut first, mut most) = (vec![false; last + 1], 0, 0);
    // A gift of an earlier moment leaves no gap.
    (0..=*last).filter(|p| !order.contains(p)).for_each(|p| done[p] = true);
    for &p in order {
        done[p] = true;
        while first < done.len() && done[first] {
            first += 1;
        }
        most = most.max(p.saturating_sub(first));
    }
    most
}

/// What came, without the pieces that a peer lets anyone have while it still chokes (BEP 6): nothing else is to be had
/// then.
fn without_gifts(pieces: Vec<usize>) -> Vec<usize> {
    let mut gifts = limits::ALLOWED_FAST;
    let first = pieces.iter().position(|p| *p == 0).expect("the first piece");
    let is_gift = |(i, p): (usize, usize)| {
        let early = i < first && gifts > 0;
        gifts -= usize::from(early);
        (!early).then_some(p)
    };
    pieces.into_iter().enumerate().filter_map(is_gift).collect()
}

#[test]
fn sequential_order() {
    let temp = Temp::new();
    let sample = Sample::new("t", 64 << 10, &[("a", 20_000_000)]);
    let mut seed = Node::seed(&sample, &temp.path("seed"));
    let mut fetch = |name: &str, sequential, later| {
        let mut leech = Node::new();
        let peers = vec![seed.addr()];
        let add = Add { sequential, peers, paused: true, ..Add::new(sample.meta(), temp.path(name)) };
        let key = leech.lp.add(add).expect("added");
        leech.lp.command(|s, now| s.set_sequential(now, key, later)).expect("it is there");
        leech.lp.resume(key).expect("it is there");
        complete(&mut [&mut leech, &mut seed], key);
        sample.assert_in(&temp.path(name));
        without_gifts(leech.take_pieces())
    };
    let in_order = fetch("in order", true, true);
    assert!(in_order.len() >= 20_000_000usize.div_ceil(64 << 10) - limits::ALLOWED_FAST);
    // One peer sends in the order it was asked; only hashing takes several at once.
    assert!(ahead(&in_order) <= 8, "{in_order:?}");
    let by_command = fetch("by command", false, true);
    assert!(ahead(&by_command) <= 8, "{by_command:?}");
    for (name, first, later) in [("rarest", false, false), ("changed", true, false)] {
        let order = fetch(name, first, later);
        assert!(ahead(&order) > 100, "{name}: {order:?}");
    }
}
