//! The have-journal, from a file of unknown origin and from records that are whole and say anything.

use std::collections::BTreeMap;

use btmio::api::{Add, Input};
use btmio::id::{InfoHash, PieceIndex};
use btmio::torrent::journal::{self, Claims, Kind, Phase, RECORD, Record, Replay, Writer};

use super::Bytes;
use super::session::{STAMP, World, metas};

const BOOT: u64 = 0xB007;
const KINDS: [Kind; 6] = [Kind::Verified, Kind::Durable, Kind::Lost, Kind::Trading, Kind::Checking, Kind::Closed];
/// Longest history.
const RECORDS: usize = 64;

/// The first byte chooses. Odd: the rest is the file. Even: the rest is a program that writes one, then damages it.
pub(super) fn journal(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let meta = &metas()[0];
    let (hash, pieces) = (meta.info_hash.expect("version 1"), meta.hashes.len() as u32);
    let layout = meta.layout();
    let generation = |p| journal::generation(&layout, p, &mut |_| Some(STAMP));
    let own = generation(PieceIndex::new(0)).expect("the file is there");
    let bytes = if mode & 1 == 1 { rest.to_vec() } else { written(rest, &hash, pieces, own) };
    let replay = Replay::of(&hash, &bytes, pieces);
    read(&hash, &bytes, pieces, &replay);
    let boot = if mode & 2 == 0 { BOOT } else { 0 };
    let generations: Vec<_> =
        (0..pieces).map(|p| generation(PieceIndex::new(p)).filter(|_| mode >> 2 != p as u8)).collect();
    let claims = Claims::of(&replay, &generations, boot);
    believed(&replay, &claims, &generations, boot);
    rewritten(&hash, &claims, own);
    started(bytes, boot, &Claims::of(&replay, &vec![Some(own); pieces as usize], boot));
}

/// A journal with good checksums.
fn written(program: &[u8], hash: &InfoHash, pieces: u32, own: u32) -> Vec<u8> {
    let mut b = Bytes(program);
    let mut w = Writer { info_hash: *hash, next: u32::from(b.u8()), boot: BOOT };
    let mut out = Vec::new();
    let snapshot = Record {
        seq: w.next,
        boot: BOOT,
        kind: Kind::Snapshot,
        first: u32::from(b.u8() & 3),
        count: pieces + u32::from(b.u8() == 255),
        generation: u32::from(b.u8() & 3),
    };
    out.extend_from_slice(&snapshot.encode(hash));
    w.next += 1;
    for _ in 0..RECORDS {
        if b.0.is_empty() {
            break;
        }
        let how = b.u8();
        match how >> 5 {
            // Numbers that jump, another boot, a snapshot in the middle, a bit that flips, an end that is torn.
            5 => w.next = w.next.wrapping_add(u32::from(b.u16())),
            6 if how & 16 == 0 => w.boot = if how & 1 == 0 { BOOT } else { u64::from(b.u8()) },
            6 => out.extend_from_slice(&snapshot.encode(hash)),
            7 if how & 16 == 0 => {
                let at = usize::from(b.u16()) % out.len();
                out[at] ^= 1 << (how & 7);
            }
            7 => out.truncate(out.len() - usize::from(b.u8()) % out.len()),
            _ => {
                let kind = KINDS[usize::from(how & 7) % KINDS.len()];
                let generation = match how >> 3 & 3 {
                    0 | 1 => own,
                    2 => own & 0xFFFF,
                    _ => own ^ u32::from(b.u8()) << 12,
                };
                let (first, count) = (u32::from(b.u8() & 7), u32::from(b.u8() & 7));
                w.push(&mut out, kind, first, count, generation);
            }
        }
    }
    out
}

/// What was read was there, is in order, and is of this torrent.
fn read(hash: &InfoHash, bytes: &[u8], pieces: u32, replay: &Replay) {
    let there: Vec<_> = bytes.chunks_exact(RECORD).filter_map(|s| Some((s, Record::decode(hash, s)?))).collect();
    for (slot, record) in &there {
        assert_eq!(record.encode(hash), **slot, "what was read is written the same");
    }
    let mut before = 0;
    for r in &replay.records {
        assert!(there.iter().any(|(_, t)| t == r), "{r:?} is from nowhere");
        assert!(r.count > 0 && r.first.checked_add(r.count).is_some_and(|end| end <= pieces), "{r:?}");
        assert!(r.seq > before || before == 0, "{r:?} behind {before}");
        before = r.seq;
    }
    assert!(replay.next >= before);
    assert!(replay.torn || bytes.len() % RECORD == 0, "part of a record is no end");
    assert!(replay.damaged || Record::decode(hash, &bytes[..RECORD]).is_some_and(|r| r.kind == Kind::Snapshot));
}

/// No more is believed than the last word on each piece allows, under this boot and in these files.
fn believed(replay: &Replay, claims: &Claims, generations: &[Option<u32>], boot: u64) {
    let mut last = BTreeMap::new();
    for r in &replay.records {
        (r.first..r.first + r.count).for_each(|p| _ = last.insert(p, *r));
    }
    for (p, generation) in (0..).zip(generations) {
        let piece = PieceIndex::new(p);
        let (durable, verified) = (claims.durable.get(piece), claims.verified.get(piece));
        assert!(!durable || !verified, "piece {p} is both");
        assert!(!claims.believes(piece) || !claims.doubted.get(piece), "piece {p} is believed and doubted");
        assert!(durable || !claims.seen.get(piece), "piece {p} was seen, and is not known");
        if !claims.believes(piece) {
            continue;
        }
        let r = last.get(&p).expect("nothing is believed that is not named");
        let now = generation.expect("its file is there");
        assert!(!replay.damaged, "piece {p} is believed of a journal that is damaged");
        assert_eq!(r.kind, if durable { Kind::Durable } else { Kind::Verified });
        assert_eq!(r.generation & 0xFFFF, now & 0xFFFF, "in another file");
        assert!(durable || (boot != 0 && r.boot == boot && r.generation == now), "it may not have come to the device");
    }
}

/// A journal made of what is believed says the same.
fn rewritten(hash: &InfoHash, claims: &Claims, own: u32) {
    let pieces = claims.durable.len();
    let mut w = Writer { info_hash: *hash, next: 1, boot: BOOT };
    let verified = claims.verified.iter_set();
    let bytes = w.snapshot(pieces, &claims.durable, verified, Phase::Trading, &mut |_| Some(own));
    let replay = Replay::of(hash, &bytes, pieces);
    assert!(!replay.damaged && !replay.torn && replay.next == w.next);
    let again = Claims::of(&replay, &vec![Some(own); pieces as usize], BOOT);
    assert!(again.fits && again.durable == claims.durable && again.verified == claims.verified);
}

/// A session starts with it, whatever it is, and has no more than is believed when nothing passes its hash.
fn started(journal: Vec<u8>, boot: u64, claims: &Claims) {
    let meta = &metas()[0];
    let mut w = World::new();
    let add = Add { journal: Some(journal), boot, ..Add::new(meta.clone(), "d") };
    let key = w.s.add(w.now, add).expect("the only torrent");
    w.drain();
    w.s.handle(w.now, Input::Opened { torrent: key, files: vec![Some(STAMP); meta.files.len()] });
    w.drain();
    w.refuse_hashes();
    let status = w.s.status(w.now, key).expect("it was added");
    let most = claims.durable.count() + claims.verified.count();
    assert!(status.pieces.0 <= most, "{} pieces, and {most} are believed", status.pieces.0);
}
