//! The record of a torrent, and the golden files of every format that was ever written.

use std::path::Path;

use super::super::journal::{Claims, Phase, Replay};
use super::super::resume::Record;
use super::*;
use crate::api::FileStamp;
use crate::config::Config;
use crate::id::PieceIndex;
use crate::session::Session;

const TORRENT: &[u8] = include_bytes!("../../../testdata/state/torrent-1");
const LINK: &[u8] = include_bytes!("../../../testdata/state/torrent-1-magnet");
const INFO: &[u8] = include_bytes!("../../../testdata/state/info");
const HAVE: &[u8] = include_bytes!("../../../testdata/state/have-1");
const RESUME: [&[u8]; 2] =
    [include_bytes!("../../../testdata/state/resume-1"), include_bytes!("../../../testdata/state/resume-2")];

fn hash() -> InfoHash {
    InfoHash::from_hex("e4667bb9b58f1c6bdedb414d2062d10c185863c0").expect("40 digits")
}

#[test]
fn what_was_remembered_is_added_again() {
    let add = recall(&hash(), TORRENT).expect("it was written so");
    assert_eq!((add.meta.name.as_str(), add.meta.info_hash, add.meta.size()), ("gold", Some(hash()), 65_536));
    assert_eq!(add.meta.trackers, [vec!["http://t.example/a"], vec!["udp://u.example:1", "http://v.example/a"]]);
    assert_eq!((add.meta.url_seeds.len(), add.dir.as_path()), (1, Path::new("/srv/dl")));
    assert_eq!(add.priorities, [Priority::Skip, Priority::High]);
    assert_eq!((add.paused, add.sequential, add.seed_ratio), (true, true, Some(1.5)));
    assert_eq!((add.seed_time, add.peers.len()), (Some(Duration::from_secs(90)), 1));

    let add = recall(&hash(), LINK).expect("it was written so");
    assert_eq!((add.meta.is_known(), add.meta.info_hash, add.meta.trackers.len()), (false, Some(hash()), 1));
    assert_eq!((add.select, add.paused, add.seed_ratio, add.seed_time), (vec![(0, 0), (2, 5)], false, None, None));
}

#[test]
fn it_is_written_as_it_was_read() {
    for golden in [TORRENT, LINK] {
        let mut s = Session::new(Config::default(), [1; 32]);
        let add = recall(&hash(), golden).expect("it was written so");
        let key = s.add(Instant::ZERO, add).expect("it is new");
        let written = s.recollection(key).expect("it is there");
        assert_eq!(written.escape_ascii().to_string(), golden.escape_ascii().to_string());
    }
}

#[test]
fn damage_makes_no_other_torrent_of_it() {
    let other = InfoHash::new([7; 20]);
    assert!(matches!(recall(&other, TORRENT), Err(RecallError::Bad(_))), "it is another's");
    let newer = String::from_utf8_lossy(LINK).replace("7:versioni1e", "7:versioni2e").into_bytes();
    assert_eq!(recall(&hash(), &newer).map(|_| ()), Err(RecallError::Version(2)));
    for golden in [TORRENT, LINK] {
        for n in 0..golden.len() {
            assert!(matches!(recall(&hash(), &golden[..n]), Err(RecallError::Bad(_))), "truncated at {n}");
            for bit in 0..8 {
                let mut flipped = golden.to_vec();
                flipped[n] ^= 1 << bit;
                if let Ok(add) = recall(&hash(), &flipped) {
                    assert_eq!(add.meta.info_hash, Some(hash()));
                    assert!(!add.meta.is_known() || add.meta.info == INFO, "bit {bit} of {n}");
                }
            }
        }
    }
}

#[test]
fn every_format_of_the_rest_is_still_read() {
    let stamp = FileStamp { len: 40_000, mtime: (1_700_000_000, 5), inode: 77, ..FileStamp::default() };
    for (bytes, durable) in RESUME.into_iter().zip([None, Some(vec![0xa0])]) {
        let record = Record {
            have: vec![0xe0],
            durable,
            files: vec![Some(stamp), None],
            home: None,
            partial: vec![(PieceIndex::new(3), vec![0x80])],
            peers: vec!["192.0.2.1:6881".parse().expect("one"), "[2001:db8::1]:51413".parse().expect("one")],
            uploaded: 1,
            downloaded: 2,
            wasted: 3,
            seeding_for: 4,
        };
        assert_eq!(Record::decode(bytes), Some(record));
    }
    let replay = Replay::of(&hash(), HAVE, 4);
    assert_eq!((replay.phase, replay.damaged, replay.torn, replay.next), (Phase::Trading, false, false, 17));
    let claims = Claims::of(&replay, &[Some(0x0007_0009); 4], 0x1122_3344_5566_7788);
    let set = |b: &crate::bitfield::Bitfield| b.iter_set().map(PieceIndex::get).collect::<Vec<_>>();
    assert_eq!((set(&claims.durable), set(&claims.verified), set(&claims.doubted)), (vec![1, 2], vec![3], vec![]));
    let mut meta = recall(&hash(), LINK).expect("it was written so").meta;
    meta.learn(INFO).expect("the same torrent");
    assert_eq!(meta.files.len(), 2);
}
