//! The predicted receive path gives what the plain one gives, whatever comes in between and wherever reads end.

use super::rig::*;
use crate::config::Config;
use crate::id::{Block, ConnKey, TorrentKey};
use crate::wire::{self, Message};

const PIECES: u32 = 4;
const BLOCKS: u32 = 3;

/// Pieces of two and a bit blocks, the last one short.
fn content() -> Content {
    let len = u64::from(PIECES * (2 * B + 700) - 900);
    Content::of(7, 2 * B + 700, &[(len, false)])
}

fn start(c: &Content, predict: bool) -> (Rig, TorrentKey, ConnKey) {
    let (mut rig, t) = Rig::leech_with(c, Config { predict, ..Config::default() });
    let conn = rig.seeder(t, 1);
    rig.p_mut(conn).stride = if predict { 64 } else { 0 };
    (rig, t, conn)
}

/// Feeds `stream` cut at these places; answers later requests plainly until all is there.
fn play(mut rig: Rig, t: TorrentKey, conn: ConnKey, c: &Content, stream: &[u8], cuts: &[usize]) -> (u64, u64) {
    let predict = rig.s.config().predict;
    let mut from = 0;
    for &cut in cuts.iter().chain([&stream.len()]) {
        if predict && rig.is_open(conn) {
            rig.p_mut(conn).stride = 64;
        }
        rig.bytes(conn, &stream[from..cut.max(from)]);
        from = cut.max(from);
    }
    for _ in 0..50 {
        if rig.status(t).is_complete() {
            break;
        }
        rig.pass(secs(1));
        for a in rig.p(conn).trade.asked.clone() {
            rig.gives(conn, a.block);
        }
    }
    assert!(rig.status(t).is_complete(), "{:?}", rig.closed);
    for (i, piece) in c.data.chunks(c.meta.piece_len as usize).enumerate() {
        assert!(rig.disk.piece(t, p(i as u32)) == Some(piece), "piece {i}");
    }
    assert!(rig.banned().is_empty());
    let s = rig.status(t);
    (s.downloaded, s.wasted)
}

#[test]
fn a_run_of_sixty_four_in_one_read() {
    let c = Content::pieces(8, 8);
    let (mut rig, t, conn) = start(&c, true);
    rig.p_mut(conn).stride = 64;
    let asked = requests(&rig.said(conn));
    let stream: Vec<u8> = asked.iter().flat_map(|b| rig.piece(conn, *b)).collect();
    let mut run = Vec::new();
    let now = rig.now;
    match rig.s.want(now, conn, &mut run) {
        crate::session::Want::Payload { run, at_header, .. } => {
            assert_eq!((run.len(), at_header), (asked.len().min(64), true))
        }
        other => panic!("{other:?}"),
    }
    rig.bytes(conn, &stream);
    for _ in 0..20 {
        let said = rig.said(conn);
        let stream: Vec<u8> = requests(&said).iter().flat_map(|b| rig.piece(conn, *b)).collect();
        rig.bytes(conn, &stream);
    }
    assert!(rig.status(t).is_complete());
    assert_eq!(rig.status(t).wasted, 0);
}

#[test]
fn every_kind_of_misprediction_at_every_header_and_every_split_of_it() {
    let c = content();
    let between: [Vec<Message<'_>>; 6] = [
        vec![],
        vec![Message::Have(p(1))],
        vec![Message::KeepAlive],
        vec![Message::Choke, Message::Unchoke],
        vec![Message::Extended { id: 0, payload: b"d1:v50:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaae" }],
        vec![Message::Unknown { id: 77, len: 3 }],
    ];
    let (rig, _, conn) = start(&c, true);
    let asked: Vec<Block> = rig.p(conn).trade.asked.iter().map(|a| a.block).collect();
    assert_eq!(asked.len() as u32, PIECES * BLOCKS - 1, "the last piece is short of one");
    for (i, extra) in between.iter().enumerate() {
        for at in [0, 1, 4, asked.len() - 1] {
            let mut stream = Vec::new();
            let mut here = 0;
            for (k, b) in asked.iter().enumerate() {
                if k == at {
                    here = stream.len();
                    extra.iter().for_each(|m| wire::encode(m, &mut stream));
                }
                stream.extend(rig.piece(conn, *b));
            }
            let end = here + 20 + extra.len() * 60;
            for cut in (here.saturating_sub(2)..end.min(stream.len())).step_by(if i == 0 { 1 } else { 3 }) {
                let (rig, t, conn) = start(&c, true);
                let got = play(rig, t, conn, &c, &stream, &[cut]);
                assert_eq!(got, (c.data.len() as u64, 0), "{extra:?} before block {at}, cut at {cut}");
            }
        }
    }
}

/// A stream that answers the requests in some order, with other messages, repeats and rejects in between.
fn scramble(rig: &Rig, conn: ConnKey, rng: &mut crate::rng::Rng) -> Vec<u8> {
    let mut order: Vec<Block> = rig.p(conn).trade.asked.iter().map(|a| a.block).collect();
    for _ in 0..rng.usize(0..4) {
        let (a, b) = (rng.usize(0..order.len()), rng.usize(0..order.len()));
        order.swap(a, b);
    }
    let mut out = Vec::new();
    for b in order {
        match rng.u8(0..12) {
            0 => wire::encode(&Message::Have(p(rng.u32(0..PIECES))), &mut out),
            1 => wire::encode(&Message::KeepAlive, &mut out),
            2 => wire::encode(&Message::Choke, &mut out),
            3 => wire::encode(&Message::Unchoke, &mut out),
            4 => wire::encode(&Message::Suggest(p(1)), &mut out),
            5 => {
                wire::encode(&Message::Reject(b), &mut out);
                continue;
            }
            6 => {
                out.extend(rig.piece(conn, b));
            }
            7 => out.extend(wire::piece_header(&Block::new(1, 5, 0))),
            8 => {
                // Something that nobody asked for.
                out.extend(wire::piece_header(&Block::new(0, 3, 40)));
                out.extend([0xEE; 40]);
            }
            _ => {}
        }
        out.extend(rig.piece(conn, b));
    }
    wire::encode(&Message::Unchoke, &mut out);
    out
}

#[test]
fn random_streams_in_random_splits_give_the_same_on_both_paths() {
    let c = content();
    for seed in 0..150 {
        let mut rng = crate::rng::seeded(seed);
        let (rig, _, conn) = start(&c, true);
        let stream = scramble(&rig, conn, &mut rng);
        let cuts = if seed % 3 == 0 { 2 } else { rng.usize(0..30) };
        let mut cuts: Vec<_> = (0..cuts).map(|_| rng.usize(0..stream.len())).collect();
        cuts.sort_unstable();
        let mut results = Vec::new();
        for predict in [true, false] {
            let (rig, t, conn) = start(&c, predict);
            results.push(play(rig, t, conn, &c, &stream, &cuts));
        }
        assert_eq!(results[0], results[1], "seed {seed}");
        assert_eq!(results[0].0, c.data.len() as u64);
    }
}

#[test]
fn a_wrong_guess_touches_nothing_that_is_there() {
    // Two peers share a piece; one's stream is predicted wrongly over blocks the other has delivered or is delivering.
    let c = Content::pieces(2, 8);
    for seed in 0..40 {
        let mut rng = crate::rng::seeded(seed);
        let (mut rig, t) = Rig::leech(&c);
        let conns = [1, 2].map(|n| rig.seeder(t, n));
        let mut streams = [0, 1].map(|i| {
            let mut order: Vec<Block> = rig.p(conns[i]).trade.asked.iter().map(|a| a.block).collect();
            if rng.bool() {
                rng.shuffle(&mut order);
            }
            order.iter().flat_map(|b| rig.piece(conns[i], *b)).collect::<Vec<u8>>()
        });
        while streams.iter().any(|s| !s.is_empty()) && !rig.status(t).is_complete() {
            let i = rng.usize(0..2);
            let n = rng.usize(0..60_000).min(streams[i].len());
            rig.p_mut(conns[i]).stride = if rng.bool() { 64 } else { 0 };
            let part: Vec<u8> = streams[i].drain(..n).collect();
            rig.bytes(conns[i], &part);
            assert!(rig.alerts.iter().all(|a| !matches!(a, crate::session::Alert::PieceFailed { .. })), "seed {seed}");
            rig.pass(millis(rng.u64(0..1500)));
            if !rig.is_open(conns[i]) {
                break;
            }
        }
        assert!(rig.status(t).is_complete(), "seed {seed}");
    }
}
