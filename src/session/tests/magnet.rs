//! Magnet links: metadata from peers, the way from there to the data over the same connections, and giving it away.

use sha1::{Digest, Sha1};

use super::rig::*;
use crate::bencode::Writer;
use crate::config::{Config, limits};
use crate::id::{ConnKey, InfoHash, TorrentKey};
use crate::metainfo::Metainfo;
use crate::metainfo::magnet::Magnet;
use crate::session::{Add, Alert, CloseReason, ErrorKind, State};
use crate::wire::metadata::{PIECE, piece_len};
use crate::wire::{Ext, Message, Metadata};

/// The peers' own numbers for their extensions.
const META_ID: u8 = 9;
const PEX_ID: u8 = 8;

/// As `Content::pieces`, with an info dictionary that is right, and `more` at its end.
fn real(pieces: u32, blocks: u32, more: &str) -> Content {
    let mut c = Content::pieces(pieces, blocks);
    let mut w = Writer::new();
    w.begin_dict().key(b"length").int(c.data.len() as i64).key(b"name").bytes(b"t");
    w.key(b"piece length").int(c.meta.piece_len.into()).key(b"pieces").bytes(c.meta.hashes.as_flattened()).end();
    let mut info = w.into_bytes();
    info.pop();
    info.extend_from_slice(more.as_bytes());
    info.push(b'e');
    c.meta = Metainfo::from_info(&info).expect("a torrent");
    c
}

fn magnet(c: &Content, more: &str) -> Add {
    let link = format!("magnet:?xt=urn:btih:{}{more}", c.meta.info_hash.expect("version 1"));
    Add::magnet(&Magnet::parse(&link).expect("a link"), "d").expect("version 1")
}

/// A session that knows nothing of the torrent but its hash.
fn fetching(c: &Content, add: Add) -> (Rig, TorrentKey) {
    let mut rig = Rig::new(Config::default());
    let t = rig.s.add(rig.now, add).expect("a new one");
    rig.content.insert(t, c.clone());
    rig.drive();
    (rig, t)
}

fn ext(size: Option<usize>) -> Vec<u8> {
    let size = size.map_or_else(String::new, |n| format!("13:metadata_sizei{n}e"));
    format!("d1:md11:ut_metadatai{META_ID}e6:ut_pexi{PEX_ID}ee{size}e").into_bytes()
}

impl Rig {
    /// A peer that dialled us and gives metadata of this size; its handshake is over.
    fn giver(&mut self, t: TorrentKey, n: u8, size: Option<usize>) -> ConnKey {
        let conn = self.knock(ip(n)).expect("there is room");
        let hello = self.handshake_ext(t, id(n));
        self.bytes(conn, &hello);
        self.says_ext(conn, 0, &ext(size));
        conn
    }
    fn says_ext(&mut self, conn: ConnKey, id: u8, payload: &[u8]) {
        self.says(conn, &Message::Extended { id, payload });
    }
    /// Pieces of the info dictionary that were asked of it.
    fn asked_info(&mut self, conn: ConnKey) -> Vec<u32> {
        let ask = |s: &String| {
            let text = s.strip_prefix(&format!("extended {META_ID} "))?;
            let Some(Metadata::Request { piece }) = Metadata::parse(text.as_bytes()) else { return None };
            Some(piece)
        };
        self.said(conn).iter().filter_map(ask).collect()
    }
    fn gives_info(&mut self, conn: ConnKey, info: &[u8], piece: u32) {
        let from = (piece * PIECE) as usize;
        let data = &info[from..from + piece_len(info.len() as u32, piece) as usize];
        let payload = Metadata::Data { piece, total: Some(info.len() as u32), data }.encode();
        self.says_ext(conn, Ext::Metadata.id(), &payload);
    }
    /// It gives what it is asked for, until nothing is.
    fn gives_all_info(&mut self, conn: ConnKey, info: &[u8]) {
        loop {
            let asked = self.asked_info(conn);
            if asked.is_empty() {
                return;
            }
            asked.into_iter().for_each(|piece| self.gives_info(conn, info, piece));
        }
    }
}

#[test]
fn from_a_hash_to_the_data_over_one_connection() {
    let c = real(4, 1, "");
    let (mut rig, t) = fetching(&c, magnet(&c, "&x.pe=10.0.0.1:50000&dn=shown"));
    assert_eq!(rig.status(t).name, "shown");
    assert_eq!(rig.status(t).state, State::FetchingMetadata { done: 0, total: 0 });
    assert!(!rig.status(t).is_complete());
    let (conn, addr) = rig.dialled[0];
    assert_eq!(addr, ip(1));
    rig.connect(conn);
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    let said = rig.said(conn);
    assert!(said[1].contains("ut_metadatai2e") && !said[1].contains("metadata_size"), "{said:?}");
    assert_eq!(said[2..], ["have none"]);
    // Before we know how many pieces there are, it speaks of them.
    rig.says(conn, &Message::HaveAll);
    rig.says(conn, &Message::Unchoke);
    rig.says(conn, &Message::AllowedFast(p(3)));
    rig.says(conn, &Message::Request(blk(0, 0)));
    assert_eq!(rig.said(conn), ["reject 0.0"]);
    rig.says_ext(conn, 0, &ext(Some(c.meta.info.len())));
    assert_eq!(rig.said(conn), [format!("extended {META_ID} d8:msg_typei0e5:piecei0ee")]);
    rig.gives_info(conn, &c.meta.info, 0);
    assert!(rig.alerts.iter().any(|a| matches!(a, Alert::Metadata { .. })));
    assert_eq!((rig.status(t).state, rig.status(t).name.as_str()), (State::Downloading, "t"));
    assert_eq!(rig.s.metainfo(t).map(|m| &m.info), Some(&c.meta.info));
    let said = rig.said(conn);
    assert_eq!(said[0], "interested");
    assert_eq!(requests(&said).len(), 4);
    rig.answers(conn, &said);
    assert!(rig.status(t).is_complete());
}

#[test]
fn a_dictionary_of_many_pieces_comes_from_all_at_once() {
    let c = real(3000, 1, "");
    let size = c.meta.info.len();
    let (mut rig, t) = fetching(&c, magnet(&c, ""));
    let conns: Vec<_> = (1..=3).map(|n| rig.giver(t, n, Some(size))).collect();
    let mut asked: Vec<_> = conns.iter().map(|conn| rig.asked_info(*conn)).collect();
    let mut all: Vec<_> = asked.concat();
    all.sort_unstable();
    assert_eq!(all, (0..4).collect::<Vec<_>>());
    asked.sort_by_key(Vec::len);
    for conn in &conns {
        rig.says(*conn, &Message::HaveNone);
    }
    // The first was asked for everything before there were others.
    let first = conns[0];
    for piece in 0..3 {
        rig.gives_info(first, &c.meta.info, piece);
    }
    assert_eq!(rig.status(t).state, State::FetchingMetadata { done: 3, total: 4 });
    rig.pass(secs(3));
    assert_eq!(rig.asked_info(conns[1]), [3], "the first is slow with it");
    rig.gives_info(conns[1], &c.meta.info, 3);
    assert_eq!(rig.status(t).state, State::Downloading);
    rig.gives_info(first, &c.meta.info, 3);
    assert_eq!(rig.status(t).peers, 3);
}

#[test]
fn what_peers_said_before_is_checked_afterwards() {
    let c = real(9, 1, "");
    let (mut rig, t) = fetching(&c, magnet(&c, ""));
    let good = rig.giver(t, 1, Some(c.meta.info.len()));
    let [short, spare, beyond, haves] = [2, 3, 4, 5].map(|n| rig.giver(t, n, None));
    rig.says(good, &Message::Bitfield(&[0xF0, 0x80]));
    rig.says(short, &Message::Bitfield(&[0xF0]));
    rig.says(spare, &Message::Bitfield(&[0xF0, 0x01]));
    rig.says(beyond, &Message::Have(p(9)));
    rig.says(haves, &Message::Have(p(8)));
    rig.says(haves, &Message::Interested);
    rig.gives_all_info(good, &c.meta.info);
    for conn in [short, spare, beyond] {
        assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))), "{:?}", rig.why_closed(conn));
    }
    assert_eq!((rig.p(good).have.count(), rig.p(haves).have.count()), (5, 1));
    assert!(rig.p(good).interested && rig.p(haves).interested && rig.p(haves).wants_us);
    // From here on they are peers like any other.
    rig.says(haves, &Message::Have(p(9)));
    assert!(matches!(rig.why_closed(haves), Some(CloseReason::Protocol(_))));
}

#[test]
fn whoever_gives_other_metadata_is_banned_and_the_others_are_used() {
    let c = real(4, 1, "");
    let mut wrong = c.meta.info.clone();
    *wrong.last_mut().unwrap() = b'x';
    let (mut rig, t) = fetching(&c, magnet(&c, ""));
    let liar = rig.giver(t, 1, Some(wrong.len()));
    let honest = rig.giver(t, 2, Some(wrong.len()));
    rig.gives_all_info(liar, &wrong);
    assert_eq!(rig.why_closed(liar), Some(&CloseReason::Banned));
    assert_eq!(rig.banned(), [ip(1).ip()]);
    rig.gives_all_info(honest, &c.meta.info);
    assert_eq!(rig.status(t).state, State::Downloading);
}

#[test]
fn sizes_and_pieces_that_make_no_sense() {
    let c = real(4, 1, "");
    let (mut rig, t) = fetching(&c, magnet(&c, ""));
    for (n, size) in [(1, "-1"), (2, "0"), (3, "2147483647"), (4, "8388609"), (5, "99999999999999999999")] {
        let conn = rig.giver(t, n, None);
        rig.says_ext(conn, 0, format!("d1:md11:ut_metadatai9ee13:metadata_sizei{size}ee").as_bytes());
        assert!(rig.asked_info(conn).is_empty(), "{size}");
    }
    let conn = rig.giver(t, 6, Some(c.meta.info.len()));
    assert_eq!(rig.asked_info(conn), [0]);
    rig.says_ext(conn, 2, b"d8:msg_typei1e5:piecei0e10:total_sizei7eeabcdefg");
    assert!(matches!(rig.why_closed(conn), Some(CloseReason::Protocol(_))));
    let late = rig.giver(t, 7, Some(c.meta.info.len()));
    rig.gives_all_info(late, &c.meta.info);
    assert_eq!((rig.status(t).state, rig.status(t).peers), (State::Downloading, 6));
}

#[test]
fn we_give_what_we_have_to_whoever_asks_but_not_for_ever() {
    let c = real(3000, 1, "");
    let size = c.meta.info.len();
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    assert!(rig.said(conn)[1].contains(&format!("13:metadata_sizei{size}e")));
    rig.says_ext(conn, 0, &ext(None));
    let request = |piece| Metadata::Request { piece }.encode();
    rig.says_ext(conn, 2, &request(3));
    let data = &c.meta.info[3 * PIECE as usize..];
    let wanted = Metadata::Data { piece: 3, total: Some(size as u32), data }.encode();
    assert_eq!(rig.said(conn), [format!("extended {META_ID} {}", wanted.escape_ascii())]);
    for piece in [4, u32::MAX] {
        rig.says_ext(conn, 2, &request(piece));
        assert_eq!(rig.said(conn), [format!("extended {META_ID} d8:msg_typei2e5:piecei{piece}ee")]);
    }
    // Its socket takes nothing: so much waits, and no more.
    rig.wires.get_mut(&conn).unwrap().room = 0;
    for _ in 0..10_000 {
        rig.says_ext(conn, 2, &request(0));
        if !rig.is_open(conn) {
            break;
        }
        let waiting = rig.p(conn).trade.info_wanted.len();
        assert!(waiting <= limits::METADATA_REQUESTS, "{waiting} wait");
    }
    assert_eq!(rig.why_closed(conn), Some(&CloseReason::Stuck), "it reads none of the refusals");
}

#[test]
fn ten_thousand_requests_are_not_ten_thousand_answers() {
    let c = real(4, 1, "");
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.giver(t, 1, None);
    rig.said(conn);
    let mut given = 0;
    for _ in 0..10_000 {
        rig.says_ext(conn, 2, &Metadata::Request { piece: 0 }.encode());
        given += rig.said(conn).iter().filter(|s| s.contains("msg_typei1e")).count();
    }
    assert_eq!(given, 20);
}

#[test]
fn private_metadata_is_not_given_away() {
    let c = real(4, 1, "7:privatei1e");
    assert!(c.meta.private);
    let (mut rig, t) = Rig::seed(&c);
    let conn = rig.knock(ip(1)).unwrap();
    let hello = rig.handshake_ext(t, id(1));
    rig.bytes(conn, &hello);
    assert!(!rig.said(conn)[1].contains("metadata_size"));
    rig.says_ext(conn, 0, &ext(None));
    rig.says_ext(conn, 2, &Metadata::Request { piece: 0 }.encode());
    assert_eq!(rig.said(conn), [format!("extended {META_ID} d8:msg_typei2e5:piecei0ee")]);
}

#[test]
fn whoever_waits_for_metadata_too_hears_that_we_have_it() {
    let c = real(4, 1, "");
    let (mut rig, t) = fetching(&c, magnet(&c, ""));
    let other = rig.giver(t, 2, None);
    rig.said(other);
    let giver = rig.giver(t, 1, Some(c.meta.info.len()));
    rig.gives_all_info(giver, &c.meta.info);
    let said = rig.said(other);
    let size = c.meta.info.len();
    assert_eq!(said, [format!("extended 0 d1:md11:ut_metadatai2ee13:metadata_sizei{size}ee")]);
    assert!(!rig.said(giver).iter().any(|s| s.starts_with("extended 0")));
}

#[test]
fn metadata_only_stops_there_and_touches_no_file() {
    let c = real(4, 1, "");
    let (mut rig, t) = fetching(&c, Add { metadata_only: true, ..magnet(&c, "") });
    let giver = rig.giver(t, 1, Some(c.meta.info.len()));
    rig.gives_all_info(giver, &c.meta.info);
    assert_eq!(rig.status(t).state, State::Paused);
    assert!(rig.wanted.is_empty(), "no file was opened");
    assert_eq!(rig.why_closed(giver), Some(&CloseReason::TorrentStopped));
    assert!(rig.alerts.iter().any(|a| matches!(a, Alert::Metadata { .. })));
}

#[test]
fn a_link_chooses_files_it_cannot_know() {
    let c = real(4, 1, "");
    let (mut rig, t) = fetching(&c, magnet(&c, "&so=1,5-9"));
    let giver = rig.giver(t, 1, Some(c.meta.info.len()));
    rig.gives_all_info(giver, &c.meta.info);
    assert_eq!(rig.wanted, [false], "the only file is number 0");
    let (mut rig, t) = fetching(&c, magnet(&c, "&so=0"));
    let giver = rig.giver(t, 1, Some(c.meta.info.len()));
    rig.gives_all_info(giver, &c.meta.info);
    assert_eq!((rig.wanted.clone(), rig.status(t).wanted), (vec![true], u64::from(4 * B)));
}

#[test]
fn right_metadata_of_no_use_is_an_error_of_the_torrent() {
    let c = real(4, 1, "");
    let info = b"d4:name1:ae";
    let hash = InfoHash::new(Sha1::digest(info).into());
    let (mut rig, t) = {
        let mut c = c.clone();
        c.meta.info_hash = Some(hash);
        fetching(&c, magnet(&c, ""))
    };
    let giver = rig.giver(t, 1, Some(info.len()));
    rig.gives_all_info(giver, info);
    let told = |a: &Alert| matches!(a, Alert::Error { kind: ErrorKind::Metadata, .. });
    assert!(rig.alerts.iter().any(told));
    assert_eq!(rig.status(t).state, State::Error);
}

#[test]
fn pausing_and_resuming_a_fetch() {
    let c = real(4, 1, "");
    let (mut rig, t) = fetching(&c, magnet(&c, ""));
    let giver = rig.giver(t, 1, Some(c.meta.info.len()));
    rig.s.pause(rig.now, t).unwrap();
    rig.drive();
    assert_eq!((rig.status(t).state, rig.status(t).is_complete()), (State::Paused, false));
    assert_eq!(rig.why_closed(giver), Some(&CloseReason::TorrentStopped));
    rig.s.resume(rig.now, t).unwrap();
    rig.drive();
    let giver = rig.giver(t, 1, Some(c.meta.info.len()));
    rig.gives_all_info(giver, &c.meta.info);
    assert_eq!(rig.status(t).state, State::Downloading);
}

#[test]
fn what_lay_on_disk_is_told_to_those_who_waited() {
    let c = real(4, 1, "");
    let (mut rig, t) = fetching(&c, magnet(&c, ""));
    rig.stamps = c.meta.files.iter().map(|f| stamp(f.len)).collect();
    let giver = rig.giver(t, 1, Some(c.meta.info.len()));
    rig.says(giver, &Message::HaveNone);
    rig.says(giver, &Message::Interested);
    rig.slow_disk = true;
    rig.gives_all_info(giver, &c.meta.info);
    assert_eq!(rig.status(t).state, State::Checking { done: 0, total: 4 });
    assert!(rig.is_open(giver), "it waits");
    let late = rig.knock(ip(3)).unwrap();
    let hello = rig.handshake_ext(t, id(3));
    rig.bytes(late, &hello);
    assert_eq!(rig.why_closed(late), Some(&CloseReason::UnknownInfoHash), "not now");
    rig.fill(t);
    rig.slow_disk = false;
    rig.drive();
    assert_eq!(rig.status(t).state, State::Seeding);
    let said = rig.said(giver);
    assert_eq!(said.iter().filter(|s| s.starts_with("have ")).count(), 4, "{said:?}");
}
