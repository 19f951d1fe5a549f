//! A large torrent, 100,000 files and 100,000 pieces: tokenising it, and all of `Metainfo::parse`.

#![allow(missing_docs)] // criterion_group! makes a public function without any

use btmio::bencode::{self, Writer};
use btmio::metainfo::Metainfo;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const COUNT: usize = 100_000;
const PIECE_LEN: i64 = 1 << 20;

fn torrent(path: impl Fn(usize) -> String) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin_dict().key(b"announce").bytes(b"http://tracker.example/announce");
    w.key(b"info").begin_dict().key(b"files").begin_list();
    for i in 0..COUNT {
        w.begin_dict().key(b"length").int(PIECE_LEN);
        w.key(b"path").begin_list();
        path(i).split('/').for_each(|part| _ = w.bytes(part.as_bytes()));
        w.end().end();
    }
    w.end().key(b"name").bytes(b"large").key(b"piece length").int(PIECE_LEN);
    w.key(b"pieces").bytes(&vec![7; 20 * COUNT]).end().end();
    w.into_bytes()
}

fn bench(c: &mut Criterion) {
    let large = torrent(|i| format!("folder {:03}/file {i:06}.bin", i % 1000));
    let same = torrent(|_| "same/name.bin".to_string());
    let mut group = c.benchmark_group("bencode");
    group.throughput(Throughput::Bytes(large.len() as u64)).sample_size(20);
    group.bench_function("tokenise", |b| b.iter(|| bencode::parse(black_box(&large)).expect("bencode")));
    group.bench_function("metainfo", |b| b.iter(|| Metainfo::parse(black_box(&large)).expect("a torrent")));
    group.throughput(Throughput::Bytes(same.len() as u64));
    group.bench_function("metainfo, one path for all", |b| {
        b.iter(|| Metainfo::parse(black_box(&same)).expect("a torrent"));
    });
    group.finish();

    // An error at the 33rd byte, whatever follows.
    let nested = b"l".repeat(1 << 20);
    c.bench_function("bencode/1 MiB of `l`", |b| b.iter(|| bencode::parse(black_box(&nested)).expect_err("too deep")));
}

criterion_group!(benches, bench);
criterion_main!(benches);
