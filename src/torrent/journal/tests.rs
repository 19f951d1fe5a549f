//! A journal says what it said before, or less; never more.

use super::*;
use crate::rng::{self, Rng};
use crate::torrent::layout::{Layout, LayoutFile};

const BOOT: u64 = 0xB007;

fn hash() -> InfoHash {
    InfoHash::new([7; 20])
}

fn p(i: u32) -> PieceIndex {
    PieceIndex::new(i)
}

fn writer() -> Writer {
    Writer { info_hash: hash(), next: 1, boot: BOOT }
}

fn set(pieces: u32, of: impl IntoIterator<Item = u32>) -> Bitfield {
    let mut b = Bitfield::none(pieces);
    of.into_iter().for_each(|i| _ = b.set(p(i)));
    b
}

/// Pieces below 10 lie in one file set, the others in another.
fn generation_of(piece: PieceIndex) -> Option<u32> {
    Some(if piece.get() < 10 { 0x0001_0001 } else { 0x0001_0002 })
}

fn generations(pieces: u32) -> Vec<Option<u32>> {
    (0..pieces).map(|i| generation_of(p(i))).collect()
}

/// A snapshot and what came behind it.
fn sample() -> Vec<u8> {
    let mut w = writer();
    let mut out = w.snapshot(20, &set(20, [0, 1, 2, 9, 10]), [p(4)].into_iter(), Phase::Trading, &mut generation_of);
    for i in [5, 6, 12] {
        w.push_pieces(&mut out, Kind::Verified, [p(i)].into_iter(), &mut generation_of);
    }
    w.push_pieces(&mut out, Kind::Durable, [4, 5].map(p).into_iter(), &mut generation_of);
    w.push(&mut out, Kind::Lost, 6, 1, 0);
    out
}

fn claims(bytes: &[u8], boot: u64) -> Claims {
    Claims::of(&Replay::of(&hash(), bytes, 20), &generations(20), boot)
}

fn list(b: &Bitfield) -> Vec<u32> {
    b.iter_set().map(PieceIndex::get).collect()
}

#[test]
fn a_record_has_its_bytes() {
    let r = Record { seq: 1, boot: 2, kind: Kind::Durable, first: 3, count: 4, generation: 5 };
    let b = r.encode(&hash());
    assert_eq!(b[..28], *b"hj\x01D\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04\0\0\0\x05\0\0\0");
    assert_eq!(Record::decode(&hash(), &b), Some(r));
    assert_eq!(Record::decode(&InfoHash::new([8; 20]), &b), None, "it is of use for its own torrent only");
}

#[test]
fn what_was_written_is_read() {
    let c = claims(&sample(), BOOT);
    assert_eq!((list(&c.durable), list(&c.verified)), (vec![0, 1, 2, 4, 5, 9, 10], vec![12]));
    assert_eq!((list(&c.doubted), c.seen == c.durable), (vec![], true));
    assert!(c.fits && !c.damaged && c.phase == Phase::Trading);
}

#[test]
fn after_another_boot_only_what_was_synced_is_believed() {
    for boot in [BOOT + 1, 0] {
        let c = claims(&sample(), boot);
        assert_eq!((list(&c.durable), list(&c.verified)), (vec![0, 1, 2, 4, 5, 9, 10], vec![]));
        assert_eq!(list(&c.doubted), [12], "and the rest is to be looked at");
        assert!(c.seen.is_none(), "by samples");
        assert!(!c.fits, "it must be written anew");
    }
}

#[test]
fn other_files_are_not_believed() {
    let replay = Replay::of(&hash(), &sample(), 20);
    // Another mount of the same files, such as a device that was plugged in again.
    let again: Vec<_> = generations(20).iter().map(|g| g.map(|g| g ^ 0x8000_0000)).collect();
    let c = Claims::of(&replay, &again, BOOT);
    assert_eq!((c.durable.count(), list(&c.verified), list(&c.doubted)), (7, vec![], vec![12]));
    assert!(c.seen.is_none() && !c.fits);
    // Another inode; and a file that is gone.
    let mut other = generations(20);
    other[9] = Some(0x0001_0009);
    other[10] = None;
    let c = Claims::of(&replay, &other, BOOT);
    assert_eq!((list(&c.durable), list(&c.doubted)), (vec![0, 1, 2, 4, 5], vec![9]));
}

#[test]
fn every_truncation_is_the_old_state_or_a_check() {
    let (all, whole) = (sample(), claims(&sample(), BOOT));
    let snapshot = 1 + 4;
    for n in 0..all.len() {
        let replay = Replay::of(&hash(), &all[..n], 20);
        let c = claims(&all[..n], BOOT);
        let records = n / RECORD;
        assert_eq!(replay.damaged, records < snapshot, "cut at {n}: a snapshot is whole or damaged");
        assert_eq!(replay.torn, n % RECORD != 0);
        // What it believes is what an earlier writer had written.
        assert_eq!(c, Claims { fits: c.fits, ..claims(&all[..records * RECORD], BOOT) });
        for i in (0..20).map(p).filter(|i| c.durable.get(*i)) {
            assert!(whole.durable.get(i), "cut at {n}: {i} was never durable");
        }
    }
}

#[test]
fn after_any_flipped_bit_nothing_is_believed() {
    let all = sample();
    let records: Vec<_> = all.chunks(RECORD).filter_map(|s| Record::decode(&hash(), s)).collect();
    for bit in 0..all.len() * 8 {
        let mut bytes = all.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let replay = Replay::of(&hash(), &bytes, 20);
        assert!(replay.records.iter().all(|r| records.contains(r)), "bit {bit} makes a record");
        assert!(replay.damaged, "bit {bit}");
        for boot in [BOOT, BOOT + 1, 0] {
            let c = claims(&bytes, boot);
            assert!(c.durable.is_none() && c.verified.is_none() && c.damaged && !c.fits, "bit {bit}");
        }
    }
}

#[test]
fn a_torn_end_is_ignored() {
    let (all, whole) = (sample(), claims(&sample(), BOOT));
    // What a file system may leave of a write that a power cut met: part of it, or a length without content.
    for tail in [&all[..RECORD - 1], &[0; 2 * RECORD], &[0; RECORD + 3]] {
        let bytes = [&all, tail].concat();
        let replay = Replay::of(&hash(), &bytes, 20);
        assert!(replay.torn && !replay.damaged, "{} bytes", tail.len());
        assert_eq!(claims(&bytes, BOOT), Claims { fits: false, ..whole.clone() });
    }
}

#[test]
fn bytes_of_an_older_journal_behind_the_end_say_nothing() {
    let old = sample();
    let mut w = Writer { next: 100, ..writer() };
    let mut new = w.snapshot(20, &Bitfield::none(20), [].into_iter(), Phase::Trading, &mut generation_of);
    new.extend_from_slice(&old[RECORD..]);
    let replay = Replay::of(&hash(), &new, 20);
    assert_eq!((replay.records.len(), replay.torn, replay.damaged), (0, true, true));
    // Nor do those of another torrent, or of one with another number of pieces.
    for (h, pieces) in [(InfoHash::new([8; 20]), 20), (hash(), 21)] {
        let replay = Replay::of(&h, &old, pieces);
        assert!(replay.damaged && Claims::of(&replay, &generations(pieces), BOOT).durable.is_none() || pieces == 21);
        assert!(replay.damaged);
    }
}

#[test]
fn another_version_is_not_guessed_at() {
    let mut bytes = sample();
    for slot in bytes.chunks_mut(RECORD) {
        slot[2] = VERSION + 1;
        let sum = checksum(&hash(), &slot[..28]);
        slot[28..].copy_from_slice(&sum.to_le_bytes());
    }
    let replay = Replay::of(&hash(), &bytes, 20);
    assert!(replay.damaged && replay.records.is_empty());
}

#[test]
fn garbage_is_an_answer() {
    let mut rng = rng::seeded(1);
    for n in 0..300 {
        let mut bytes = vec![0; n * 7];
        rng.fill(&mut bytes);
        let replay = Replay::of(&hash(), &bytes, 20);
        assert!(replay.damaged && replay.records.is_empty());
    }
}

/// Whatever is written in whatever order, the reader's account is that of a plain model.
#[test]
fn any_history_is_read_as_it_was_lived() {
    for seed in 0..300 {
        let rng = &mut rng::seeded(seed);
        let pieces = rng.u32(1..60);
        let mut w = writer();
        let (mut durable, mut verified) = (Bitfield::none(pieces), Bitfield::none(pieces));
        let mut out = w.snapshot(pieces, &durable, [].into_iter(), Phase::Trading, &mut generation_of);
        for _ in 0..rng.u32(0..80) {
            let some = pick(rng, pieces);
            match rng.u32(0..8) {
                0..=3 => {
                    w.push_pieces(&mut out, Kind::Verified, some.iter().copied(), &mut generation_of);
                    some.iter().for_each(|i| _ = (verified.set(*i), durable.clear(*i)));
                }
                4..=5 => {
                    w.push_pieces(&mut out, Kind::Durable, some.iter().copied(), &mut generation_of);
                    some.iter().for_each(|i| _ = (durable.set(*i), verified.clear(*i)));
                }
                6 => {
                    some.iter().for_each(|i| w.push(&mut out, Kind::Lost, i.get(), 1, 0));
                    some.iter().for_each(|i| _ = (durable.clear(*i), verified.clear(*i)));
                }
                _ => {
                    let v: Vec<_> = verified.iter_set().collect();
                    out = w.snapshot(pieces, &durable, v.into_iter(), Phase::Trading, &mut generation_of);
                }
            }
        }
        let c = Claims::of(&Replay::of(&hash(), &out, pieces), &generations(pieces), BOOT);
        assert_eq!((list(&c.durable), list(&c.verified)), (list(&durable), list(&verified)), "seed {seed}");
        assert!(c.fits, "seed {seed}");
    }
}

fn pick(rng: &mut Rng, pieces: u32) -> Vec<PieceIndex> {
    let from = rng.u32(0..pieces);
    (from..rng.u32(from..pieces) + 1).map(p).collect()
}

#[test]
fn a_generation_tells_files_and_places_apart() {
    let file = |path: &str, offset, len, pad| LayoutFile { path: path.into(), offset, len, pad, executable: false };
    let layout = Layout::new(10, vec![file("a", 0, 15, false), file("pad", 15, 5, true), file("b", 20, 10, false)]);
    let stamp = |inode, device, mount| Some(FileStamp { inode, device, mount, ..FileStamp::default() });
    let of = |piece, a: Option<FileStamp>, b: Option<FileStamp>| {
        generation(&layout, p(piece), &mut |f| match f {
            0 => a,
            2 => b,
            _ => panic!("a pad is nowhere"),
        })
    };
    let here = (of(0, stamp(1, 2, 3), None), of(2, None, stamp(4, 2, 3)));
    assert!(here.0.is_some() && here.1.is_some() && here.0 != here.1);
    assert_eq!(of(1, stamp(1, 2, 3), None), here.0, "the pad does not count");
    assert_eq!(of(2, stamp(1, 2, 3), None), None, "it is absent");
    let moved = of(0, stamp(1, 2, 9), None).unwrap();
    assert_eq!(moved & 0xFFFF, here.0.unwrap() & 0xFFFF);
    assert_ne!(moved >> 16, here.0.unwrap() >> 16);
    assert_eq!(of(0, stamp(1, 2, 0), None).unwrap() >> 16, 0, "a mount without a number");
    let replaced = of(0, stamp(9, 2, 3), None).unwrap();
    assert_ne!(replaced & 0xFFFF, here.0.unwrap() & 0xFFFF);
    assert_eq!(replaced >> 16, here.0.unwrap() >> 16);
}
