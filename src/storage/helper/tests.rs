//! In which order jobs are done, by how many threads, and what is left when the helper is dropped.

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};

fn threaded() -> (Helper, Receiver<()>) {
    let (tx, rx) = channel();
    let tx = Mutex::new(tx);
    (Helper::threaded(Arc::new(move || lock(&tx).send(()).unwrap_or(()))), rx)
}

/// A job that is over when it is told.
fn gate() -> (Sender<()>, Job) {
    let (go, gate) = channel::<()>();
    (go, Box::new(move || gate.recv().map_err(io::Error::other)))
}

fn ids(hand: &mut Hand) -> Vec<u64> {
    std::iter::from_fn(|| hand.poll()).map(|(id, _)| id).collect()
}

#[test]
fn jobs_of_a_volume_are_done_in_order_and_results_come_back_to_their_hand() {
    let (helper, woken) = threaded();
    let (mut a, mut b) = (helper.hand(), helper.hand());
    let (tx, order) = channel();
    for i in 0..6 {
        let tx = tx.clone();
        let job = move || {
            tx.send(i).map_err(|_| io::Error::other("gone"))?;
            if i == 4 { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
        };
        let hand = if i % 2 == 0 { &mut a } else { &mut b };
        hand.submit(7, i, Box::new(job));
    }
    for _ in 0..6 {
        woken.recv().unwrap();
    }
    assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let results = |hand: &mut Hand| std::iter::from_fn(|| hand.poll()).map(|(i, r)| (i, r.is_ok())).collect::<Vec<_>>();
    assert_eq!(results(&mut a), [(0, true), (2, true), (4, false)]);
    assert_eq!(results(&mut b), [(1, true), (3, true), (5, true)]);
}

#[test]
fn a_volume_that_hangs_keeps_no_other_waiting() {
    let (helper, woken) = threaded();
    let mut hand = helper.hand();
    let mut gates = Vec::new();
    for volume in 0..THREADS as u64 - 1 {
        let (go, closed) = gate();
        hand.submit(volume, volume, closed);
        gates.push(go);
    }
    // Behind one that hangs, and beside it.
    hand.submit(0, 100, Box::new(|| Ok(())));
    for id in 101..104 {
        hand.submit(99, id, Box::new(|| Ok(())));
    }
    for _ in 0..3 {
        woken.recv().unwrap();
    }
    assert_eq!(ids(&mut hand), [101, 102, 103]);
    gates[0].send(()).unwrap();
    for _ in 0..2 {
        woken.recv().unwrap();
    }
    assert_eq!(ids(&mut hand), [0, 100]);
    gates[1..].iter().for_each(|go| go.send(()).unwrap());
}

#[test]
fn there_are_only_so_many_threads_and_a_volumes_order_survives_sharing_one() {
    let (helper, woken) = threaded();
    let mut hand = helper.hand();
    let mut gates = Vec::new();
    for volume in 0..THREADS as u64 {
        let (go, closed) = gate();
        hand.submit(volume, volume, closed);
        gates.push(go);
    }
    // No thread is free, so it waits behind a volume that hangs, and stays there when another is free.
    hand.submit(99, 100, Box::new(|| Ok(())));
    let lane = lock(&hand.shared.pool).volumes[&99].0;
    let other = (lane + 1) % THREADS;
    gates[other].send(()).unwrap();
    woken.recv().unwrap();
    hand.submit(99, 101, Box::new(|| Ok(())));
    assert_eq!(lock(&hand.shared.pool).lanes.len(), THREADS);
    assert_eq!(ids(&mut hand), [other as u64]);
    gates[lane].send(()).unwrap();
    for _ in 0..3 {
        woken.recv().unwrap();
    }
    assert_eq!(ids(&mut hand), [lane as u64, 100, 101]);
    gates.iter().for_each(|go| go.send(()).unwrap_or(()));
}

#[test]
fn one_volume_at_a_time_needs_one_thread() {
    let (helper, woken) = threaded();
    let mut hand = helper.hand();
    for volume in 0..20 {
        hand.submit(volume, volume, Box::new(|| Ok(())));
        woken.recv().unwrap();
        // Its last step is behind the wake-up.
        while !lock(&hand.shared.pool).lanes[0].is_idle() {
            std::thread::yield_now();
        }
    }
    assert_eq!(lock(&hand.shared.pool).lanes.len(), 1);
}

#[test]
fn dropping_the_helper_does_what_waits() {
    let (helper, _woken) = threaded();
    let mut hand = helper.hand();
    let (go, closed) = gate();
    hand.submit(0, 0, closed);
    let (tx, done) = channel();
    for i in 0..100 {
        let tx = tx.clone();
        hand.submit(i % 2, 1, Box::new(move || tx.send(()).map_err(io::Error::other)));
    }
    go.send(()).unwrap();
    drop(helper);
    assert_eq!(done.try_iter().count(), 100);
}

#[test]
fn without_a_thread_each_call_does_one() {
    let helper = Helper::inline();
    let (mut a, mut b) = (helper.hand(), helper.hand());
    for i in 0..2 {
        a.submit(i, i, Box::new(|| Ok(())));
    }
    assert!(a.poll().is_none());
    assert!(b.work(), "whoever works does whoever's job");
    assert!(b.poll().is_none());
    assert!(matches!(a.poll(), Some((0, Ok(())))));
    assert!(!b.work());
    assert!(matches!(a.poll(), Some((1, Ok(())))));
    assert!(!b.work());
    assert!(lock(&a.shared.pool).volumes.is_empty());
}
