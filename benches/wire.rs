//! What the wire protocol costs per byte and per message, as it would arrive from a socket.

#![allow(missing_docs, reason = "criterion_group makes a public function without any")]

use btmio::config::limits;
use btmio::id::{Block, PieceIndex};
use btmio::wire::{Decoder, Event, Message, Want, encode, parse_frame, piece_header};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const BLOCK: usize = 16 * 1024;

/// Bytes read at a time: the loop's scratch for headers and small messages.
const READ: usize = 64 * 1024;

/// Drives a decoder over `stream` as a pump does; how many events there were.
fn drive(decoder: &mut Decoder, stream: &[u8]) -> usize {
    let mut events = 0;
    for chunk in stream.chunks(READ) {
        let mut at = 0;
        while at < chunk.len() {
            if let Want::Payload { block, at: done } = decoder.want() {
                let n = ((block.len - done) as usize).min(chunk.len() - at);
                at += n;
                events += usize::from(black_box(decoder.filled(n as u32)).is_some());
            } else {
                let (n, event) = decoder.feed(&chunk[at..]).expect("the stream is right");
                at += n;
                events += usize::from(black_box(event).is_some());
            }
        }
    }
    events
}

fn stream(messages: impl Iterator<Item = Message<'static>>) -> (Vec<u8>, usize) {
    let (mut out, mut count) = (Vec::new(), 0);
    for m in messages {
        encode(&m, &mut out);
        count += 1;
    }
    (out, count)
}

fn data() -> &'static [u8] {
    vec![0x5A; BLOCK].leak()
}

/// Blocks are walked by their headers: the payload is not touched, so this is far above what a
/// memory copy does.
fn blocks(c: &mut Criterion) {
    let data = data();
    let (bytes, count) =
        stream((0..256).map(|i| Message::Piece { piece: PieceIndex::new(i / 16), begin: i % 16 * BLOCK as u32, data }));
    let mut g = c.benchmark_group("wire/blocks");
    g.throughput(Throughput::Bytes(bytes.len() as u64));
    g.bench_function("walked by headers", |b| {
        let mut decoder = Decoder::new();
        b.iter(|| assert_eq!(drive(&mut decoder, black_box(&bytes)), 2 * count));
    });
    g.finish();
}

fn haves(c: &mut Criterion) {
    let (bytes, count) = stream((0..10_000).map(|i| Message::Have(PieceIndex::new(i))));
    let mut g = c.benchmark_group("wire/haves");
    g.throughput(Throughput::Elements(count as u64));
    g.bench_function("decoder", |b| {
        let mut decoder = Decoder::new();
        b.iter(|| assert_eq!(drive(&mut decoder, black_box(&bytes)), count));
    });
    g.bench_function("parse_frame", |b| {
        b.iter(|| {
            let mut at = 0;
            while let Some((m, n)) = parse_frame(black_box(&bytes[at..]), limits::FRAME).expect("the stream is right") {
                black_box(m);
                at += n;
            }
            assert_eq!(at, bytes.len());
        });
    });
    g.finish();
}

/// A bitfield of 100,000 pieces: once whole in the input, once in reads of 1400 bytes, which is
/// what a decoder has to keep.
fn bitfields(c: &mut Criterion) {
    let (bytes, _) = stream(std::iter::once(Message::Bitfield(vec![0xFF; 12_500].leak())));
    let mut g = c.benchmark_group("wire/bitfields");
    g.throughput(Throughput::Bytes(bytes.len() as u64));
    g.bench_function("whole", |b| {
        let mut decoder = Decoder::new();
        b.iter(|| assert_eq!(drive(&mut decoder, black_box(&bytes)), 1));
    });
    g.bench_function("in packets", |b| {
        let mut decoder = Decoder::new();
        b.iter(|| {
            let last = black_box(&bytes).chunks(1400).map(|chunk| {
                let (n, event) = decoder.feed(chunk).expect("the stream is right");
                assert_eq!(n, chunk.len());
                matches!(event, Some(Event::Message(Message::Bitfield(_))))
            });
            assert_eq!(last.last(), Some(true));
        });
    });
    g.finish();
}

/// What a busy peer of a swarm says: for each block a request, now and then a have or a keep-alive.
fn mixed(c: &mut Criterion) {
    let data = data();
    let (bytes, _) = stream((0..512u32).map(|i| match i % 8 {
        0..4 => Message::Request(Block::new(i, 0, BLOCK as u32)),
        4 | 5 => Message::Piece { piece: PieceIndex::new(i), begin: 0, data },
        6 => Message::Have(PieceIndex::new(i)),
        _ => Message::KeepAlive,
    }));
    let mut g = c.benchmark_group("wire/mixed");
    g.throughput(Throughput::Bytes(bytes.len() as u64));
    g.bench_function("decoder", |b| {
        let mut decoder = Decoder::new();
        b.iter(|| assert_eq!(drive(&mut decoder, black_box(&bytes)), 512 + 128));
    });
    g.finish();
}

fn encoding(c: &mut Criterion) {
    const COUNT: u32 = 1000;
    let mut g = c.benchmark_group("wire/encoding");
    g.throughput(Throughput::Elements(COUNT.into()));
    g.bench_function("requests", |b| {
        let mut out = Vec::with_capacity(17 * COUNT as usize);
        b.iter(|| {
            out.clear();
            for i in 0..COUNT {
                encode(&Message::Request(Block::new(black_box(i), 0, BLOCK as u32)), &mut out);
            }
            black_box(out.len())
        });
    });
    g.bench_function("haves", |b| {
        let mut out = Vec::with_capacity(9 * COUNT as usize);
        b.iter(|| {
            out.clear();
            for i in 0..COUNT {
                encode(&Message::Have(PieceIndex::new(black_box(i))), &mut out);
            }
            black_box(out.len())
        });
    });
    g.bench_function("piece headers", |b| {
        b.iter(|| {
            for i in 0..COUNT {
                black_box(piece_header(&Block::new(black_box(i), 0, BLOCK as u32)));
            }
        });
    });
    g.finish();
}

criterion_group!(benches, blocks, haves, bitfields, mixed, encoding);
criterion_main!(benches);
