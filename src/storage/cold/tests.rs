//! Blocks that do not come into the cache, and one that cannot be read at all.

use super::*;
use crate::id::BLOCK_LEN;
use crate::storage::tests::{Rig, T, TempDir, layout, p};
use crate::storage::{DiskErrorKind, Lane, StorageConfig};
use crate::torrent::layout::Span;
use std::fs::{self, OpenOptions};
use std::sync::Arc;

const NS: Duration = Duration::from_nanos(1);

fn blk(piece: u32, i: u32) -> Block {
    Block::new(piece, i * BLOCK_LEN, BLOCK_LEN)
}

fn broken() -> DiskError {
    DiskError { kind: DiskErrorKind::Io, path: "d/f".into(), op: "read", source_errno: libc::EIO }
}

#[test]
fn what_is_long_in_coming_is_read_one_at_a_time_and_its_error_told_for_a_while() {
    let (start, other) = (Instant::now(), TorrentKey::new(9, 9));
    let mut c = Colds::default();
    assert!(!c.wait(T, blk(0, 0), start) && !c.wait(T, blk(0, 1), start) && !c.wait(other, blk(0, 0), start));
    let later = start + PATIENCE;
    assert!(!c.wait(T, blk(0, 0), later - NS) && c.wait(T, blk(0, 0), later));
    c.reading(T, blk(0, 0), 5);
    let more = [(T, 0, false), (T, 1, false), (other, 0, true)];
    more.iter().for_each(|&(t, i, read)| assert_eq!(c.wait(t, blk(0, i), later), read, "{i}"));
    // It could be read, and is not cached all the same: it has as long again.
    c.over(5, later, Ok(()));
    assert!(!c.wait(T, blk(0, 0), later + PATIENCE - NS) && c.wait(T, blk(0, 1), later));
    assert!(c.wait(T, blk(0, 0), later + PATIENCE));
    c.reading(T, blk(0, 0), 6);
    c.over(5, later, Err(broken()));
    assert_eq!(c.error(T, p(0), later), None, "an errand of before");
    c.over(6, later, Err(broken()));
    let told = |c: &Colds, at| [(T, 0), (T, 1), (other, 0)].map(|(t, i)| c.error(t, p(i), at).is_some());
    assert_eq!(told(&c, later + MEMORY - NS), [true, false, false]);
    assert_eq!(told(&c, later + MEMORY), [false; 3]);
    let anew = later + MEMORY;
    assert!(!c.wait(T, blk(0, 0), anew) && c.wait(T, blk(0, 0), anew + PATIENCE));
    c.warm(T, blk(0, 1));
    assert!(!c.wait(T, blk(0, 1), anew + PATIENCE), "it was lent meanwhile");
    c.forget(T, Some(p(0)));
    assert_eq!(c.0.len(), 1);
    c.forget(other, None);
    assert_eq!(c.0.len(), 0);
}

#[test]
fn so_many_blocks_are_waited_for_at_once() {
    let mut c = Colds::default();
    let now = Instant::now();
    c.wait(T, blk(0, 0), now);
    c.reading(T, blk(0, 0), 1);
    for i in 1..MOST as u32 {
        c.wait(T, blk(i, 0), now);
    }
    assert_eq!(c.0.len(), MOST);
    c.wait(T, blk(1000, 0), now);
    assert_eq!(c.0.len(), 2, "who is being read, and the new one");
}

/// One that can be opened and not read stands for a bad sector.
#[test]
fn a_block_that_the_helper_cannot_read_is_an_error_until_its_piece_is_there_again() {
    let (tmp, layout) = (TempDir::new(), layout(2 * BLOCK_LEN, &[("f", u64::from(6 * BLOCK_LEN))]));
    let mut rig =
        Rig::new(Disk::new(StorageConfig { lane: Lane::Gather, ..StorageConfig::default() }), &layout, tmp.path());
    for i in 0..3 {
        rig.receive_piece(i);
        rig.hash(i);
    }
    assert_eq!(rig.settle().len(), 3);
    let path = tmp.path().join("f");
    let blind = Arc::new(OpenOptions::new().write(true).open(&path).unwrap());
    let span = Span { file: FileIndex::new(0), at: u64::from(2 * BLOCK_LEN), len: u64::from(BLOCK_LEN), pad: false };
    rig.s.colds.wait(T, blk(1, 0), Instant::now());
    let id = rig.s.send_wanted(T, blind, span);
    rig.s.colds.reading(T, blk(1, 0), id);
    assert!(rig.settle().is_empty());
    let error = rig.send_block(blk(1, 1)).unwrap_err();
    assert_eq!((error.path.as_path(), error.op, error.source_errno), (path.as_path(), "read", libc::EBADF));
    rig.send_block(blk(0, 0)).unwrap();
    rig.receive_piece(1);
    rig.hash(1);
    assert_eq!(rig.settle().len(), 1);
    rig.send_block(blk(1, 1)).unwrap();
    rig.send_block(blk(1, 0)).unwrap();
    // A file that has become shorter is for the usual read to find.
    rig.s.colds.wait(T, blk(1, 0), Instant::now());
    let handle = Arc::new(fs::File::open(&path).unwrap());
    let id = rig.s.send_wanted(T, handle, Span { at: u64::from(6 * BLOCK_LEN), ..span });
    rig.s.colds.reading(T, blk(1, 0), id);
    assert!(rig.settle().is_empty());
    rig.send_block(blk(1, 0)).unwrap();
    // What comes at last is not read again.
    rig.s.colds.wait(T, blk(2, 0), rig.s.windows.now);
    rig.s.windows.now += PATIENCE;
    rig.s.wait_for(T, blk(2, 0), 0);
    assert!(rig.s.colds.0.is_empty());
}
