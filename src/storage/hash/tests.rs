//! Company: how long a finished piece waits for others.

use super::super::helper::Hand;
use super::super::tests::{Rig, T, TempDir, config, good, layout};
use super::super::{Disk, Lane, Storage, StorageConfig};
use std::time::Duration;

const MIB: usize = 1 << 20;

#[test]
fn pieces_wait_for_company_only_while_bytes_land() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("f", 1 << 20)]));
    let patience = Duration::from_millis(40);
    let config = StorageConfig { hash_patience: patience, ..config(Lane::Gather) };
    let mut rig = Rig::new(Disk::with_helper(config, Hand::alone()), &layout, tmp.path());
    if rig.s.hasher.lanes.width() < 4 {
        eprintln!("skipped: this processor hashes one piece at a time");
        return;
    }
    rig.receive_piece(0);
    rig.hash(0);
    assert!(!rig.s.work(MIB));
    assert_eq!(rig.s.poll_done(), None, "waits: bytes have just landed");
    assert!(rig.s.due().is_some_and(|d| d <= Duration::from_millis(4)), "but not long when none come");
    while rig.s.due().is_some() {
        rig.s.work(MIB);
    }
    assert_eq!(rig.s.poll_done().as_ref().map(good), Some(0));
    let many = 1..=rig.s.hasher.lanes.width() as u32;
    for i in many.clone() {
        rig.receive_piece(i);
        rig.hash(i);
    }
    assert!(!rig.s.work(MIB));
    assert_eq!(rig.good(), many.collect::<Vec<_>>(), "as many as are hashed at once need not wait");
    // What waited and is gone is not to be called for.
    rig.receive_piece(9);
    rig.hash(9);
    rig.s.work(MIB);
    assert!(rig.s.due().is_some());
    rig.s.hasher.forget(T, None);
    assert_eq!(rig.s.due(), None);
    // Company that never comes is not waited for for ever.
    rig.receive_piece(9);
    rig.hash(9);
    while rig.s.poll_done().is_none() {
        rig.receive_block(10, 0);
        assert!(!rig.s.work(MIB));
    }
}
