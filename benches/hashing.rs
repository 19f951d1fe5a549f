//! How fast pieces are verified: SHA-1 over 1 to 8 messages together, and a recheck of files from the page cache.
//!
//! `cargo bench --bench hashing`. Compare the lanes with each other in one run; machines differ. Run it alone: two of
//! these benchmarks on one core tell nothing.
#![allow(missing_docs)] // criterion's macros make undocumented functions

use btmio::id::{PieceIndex, TorrentKey};
use btmio::storage::lanes::Lanes;
use btmio::storage::lanes256::Lanes256;
use btmio::storage::{Disk, Done, OpenSpec, Storage, StorageConfig};
use btmio::torrent::layout::{Layout, LayoutFile};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;

const MIB: usize = 1 << 20;

fn lanes(c: &mut Criterion) {
    let data: Vec<u8> = (0..4 * MIB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut group = c.benchmark_group("sha1");
    group.throughput(Throughput::Bytes(data.len() as u64));
    // Eight messages of half a MiB each time, so that the work is the same.
    let messages: Vec<&[u8]> = data.chunks(MIB / 2).collect();
    for width in [1, 2, 3, 4, 8] {
        let lanes = Lanes::new(width);
        let id = BenchmarkId::new("lanes", width);
        group.bench_function(id, |b| b.iter(|| black_box(lanes.digest_many(black_box(&messages)))));
    }
    let portable = Lanes::portable();
    group.bench_function("crate", |b| b.iter(|| black_box(portable.digest_many(black_box(&messages)))));
    group.finish();
}

/// The leaves of 4 MiB of a version 2 torrent.
fn leaves(c: &mut Criterion) {
    let data: Vec<u8> = (0..4 * MIB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let leaves: Vec<&[u8]> = data.chunks(16 << 10).collect();
    let mut group = c.benchmark_group("sha256");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for width in 1..=4 {
        let lanes = Lanes256::new(width);
        let id = BenchmarkId::new("lanes", width);
        group.bench_function(id, |b| b.iter(|| black_box(lanes.digest_many(black_box(&leaves)))));
    }
    let portable = Lanes256::portable();
    group.bench_function("crate", |b| b.iter(|| black_box(portable.digest_many(black_box(&leaves)))));
    group.finish();
}

/// 64 MiB in the page cache, pieces of 1 MiB, from `recheck` to the last result.
fn recheck(c: &mut Criterion) {
    const PIECES: u32 = 64;
    let dir = std::env::temp_dir().join(format!("btmio-bench-hashing-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary folder can be made");
    let total = PIECES as usize * MIB;
    std::fs::write(dir.join("f"), vec![0x5a; total]).expect("the temporary folder holds 64 MiB");
    let file = LayoutFile { path: "f".into(), offset: 0, len: total as u64, pad: false, executable: false };
    let layout = Arc::new(Layout::new(MIB as u32, vec![file]));
    let expected = Lanes::new(1).digest_many(&[&vec![0x5a; MIB]])[0];
    let t = TorrentKey::new(0, 0);
    let mut group = c.benchmark_group("recheck");
    group.throughput(Throughput::Bytes(total as u64)).sample_size(20);
    for width in [1, 2, 4, 8] {
        let mut disk = Disk::new(StorageConfig { hash_lanes: width, ..Default::default() });
        disk.open(t, layout.clone(), OpenSpec { dir: dir.clone() }).expect("opening touches no file");
        group.bench_function(BenchmarkId::new("lanes", width), |b| {
            b.iter(|| {
                (0..PIECES).for_each(|i| disk.recheck(t, PieceIndex::new(i), expected));
                while disk.work(4 * MIB) {}
                while let Some(done) = disk.poll_done() {
                    assert!(matches!(done, Done::Hashed { ok: true, .. }));
                }
            });
        });
    }
    group.finish();
    let _ = std::fs::remove_dir_all(&dir);
}

criterion_group!(benches, lanes, leaves, recheck);
criterion_main!(benches);
