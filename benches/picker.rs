//! The picker of a large torrent: 100,000 pieces of 64 blocks, 200 peers of whom a quarter are seeds.

#![allow(missing_docs)] // of what criterion_group! makes

use btmio::bitfield::Bitfield;
use btmio::id::{ConnKey, PeerTag, PieceIndex};
use btmio::rng::{Rng, seeded};
use btmio::torrent::picker::{BlockRef, Pick, Picker, Speed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const PIECES: u32 = 100_000;
const BLOCKS: u32 = 64;
const PEERS: u32 = 200;

struct Swarm {
    picker: Picker,
    peers: Vec<Bitfield>,
    rng: Rng,
}

fn some(density: f64, rng: &mut Rng) -> Bitfield {
    let mut have = Bitfield::none(PIECES);
    for i in (0..PIECES).filter(|_| rng.f64() < density) {
        have.set(PieceIndex::new(i));
    }
    have
}

fn swarm() -> Swarm {
    let mut rng = seeded(5);
    let mut picker = Picker::new(BLOCKS, PIECES, BLOCKS, &mut rng);
    (0..10).for_each(|i| picker.set_have(PieceIndex::new(i)));
    let peers: Vec<_> = (0..PEERS)
        .map(|i| if i % 4 == 0 { Bitfield::all(PIECES) } else { some(f64::from(i) / f64::from(PEERS), &mut rng) })
        .collect();
    peers.iter().for_each(|have| picker.on_peer_bitfield(have));
    Swarm { picker, peers, rng }
}

fn ask(peer: u32, have: &Bitfield, count: usize) -> Pick<'_> {
    let conn = ConnKey::new(peer, 1);
    let mine = &|_: BlockRef| false;
    Pick { conn, have, count, speed: Speed::Medium, only: None, suggested: &[], endgame: false, mine }
}

fn peers(c: &mut Criterion) {
    let mut group = c.benchmark_group("picker");
    let mut s = swarm();
    let mut out = Vec::new();
    s.picker.pick(ask(0, &s.peers[0], 1), &mut s.rng, &mut out);
    group.throughput(Throughput::Elements(1));
    group.bench_function("have and its loss", |b| {
        b.iter(|| {
            let piece = PieceIndex::new(s.rng.u32(0..PIECES));
            s.picker.on_peer_have(piece);
            s.picker.on_peer_lost(piece);
        });
    });
    group.bench_function("seed comes and goes", |b| {
        let seed = Bitfield::all(PIECES);
        b.iter(|| {
            s.picker.on_peer_bitfield(black_box(&seed));
            s.picker.on_peer_gone(&seed);
        });
    });
    for density in [0.01, 0.2, 0.5] {
        let have = some(density, &mut s.rng);
        group.bench_function(format!("peer with {density} comes, picks and goes"), |b| {
            b.iter(|| {
                s.picker.on_peer_bitfield(&have);
                out.clear();
                s.picker.pick(ask(900, &have, 4), &mut s.rng, &mut out);
                out.iter().for_each(|b| s.picker.withdraw(*b, ConnKey::new(900, 1)));
                s.picker.on_peer_gone(&have);
            });
        });
    }
    group.bench_function("is a partial peer interesting", |b| b.iter(|| s.picker.wants_any(black_box(&s.peers[7]))));
    group.finish();
}

/// Every peer keeps 64 requests out; one step is one block in and one request out.
fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("picker");
    let mut s = swarm();
    let mut queues: Vec<std::collections::VecDeque<BlockRef>> = vec![Default::default(); PEERS as usize];
    let mut out = Vec::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("a block comes and the next is picked", |b| {
        b.iter(|| {
            let i = s.rng.u32(0..PEERS);
            let (conn, queue) = (ConnKey::new(i, 1), &mut queues[i as usize]);
            if let Some(block) = queue.pop_front() {
                assert!(s.picker.lease(block, conn));
                if s.picker.on_block(block, conn, PeerTag::new(i)) == btmio::torrent::picker::Taken::PieceDone {
                    s.picker.on_piece_ok(block.piece);
                    s.picker.lose(PieceIndex::new(s.rng.u32(0..PIECES)));
                }
            }
            out.clear();
            let count = 64 - queue.len();
            s.picker.pick(ask(i, &s.peers[i as usize], count), &mut s.rng, &mut out);
            queue.extend(&out);
        });
    });
    group.finish();
}

fn construct(c: &mut Criterion) {
    let mut rng = seeded(5);
    c.bench_function("picker/construct 2^20 pieces", |b| b.iter(|| Picker::new(64, 1 << 20, 64, &mut rng)));
}

criterion_group!(benches, peers, blocks, construct);
criterion_main!(benches);
