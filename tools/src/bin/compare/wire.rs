//! How fast the wire protocol is parsed, as `benches/wire.rs` has it, without criterion.

use super::measure::thread_cpu;
use btmio::id::PieceIndex;
use btmio::wire::{Decoder, Message, Want, encode};

/// Bytes that arrive at a time.
const READ: usize = 64 << 10;

/// GB/s of blocks walked by their headers, and millions of `have` messages a second.
pub(crate) fn wire() -> Vec<f64> {
    let data = vec![0x5A; 16 << 10].leak();
    let (mut blocks, mut haves) = (Vec::new(), Vec::new());
    for i in 0..256 {
        encode(&Message::Piece { piece: PieceIndex::new(i / 16), begin: i % 16 * (16 << 10), data }, &mut blocks);
    }
    (0..10_000).for_each(|i| encode(&Message::Have(PieceIndex::new(i)), &mut haves));
    let (bytes, _) = rate(&blocks);
    let (_, events) = rate(&haves);
    vec![bytes / 1e9, events / 1e6]
}

/// Bytes and events a CPU second.
fn rate(stream: &[u8]) -> (f64, f64) {
    let mut decoder = Decoder::new();
    let (begin, mut bytes, mut events) = (thread_cpu(), 0.0, 0.0);
    loop {
        for _ in 0..100 {
            bytes += stream.len() as f64;
            events += drive(&mut decoder, std::hint::black_box(stream)) as f64;
        }
        let seconds = thread_cpu() - begin;
        if seconds > 0.5 {
            return (bytes / seconds, events / seconds);
        }
    }
}

fn drive(decoder: &mut Decoder, stream: &[u8]) -> usize {
    let mut events = 0;
    for chunk in stream.chunks(READ) {
        let mut at = 0;
        while at < chunk.len() {
            if let Want::Payload { block, at: done } = decoder.want() {
                let n = ((block.len - done) as usize).min(chunk.len() - at);
                at += n;
                events += usize::from(decoder.filled(n as u32).is_some());
            } else {
                let (n, event) = decoder.feed(&chunk[at..]).expect("the stream is right");
                at += n;
                events += usize::from(event.is_some());
            }
        }
    }
    events
}
