//! The path of a block, of a `have` and of every other message of a fixed length allocates nothing,
//! in whatever splits the stream arrives.

#![allow(unsafe_code, reason = "counting allocations takes a global allocator, and that is an unsafe trait")]

use btmio::id::{Block, PieceIndex};
use btmio::wire::{Decoder, Event, Message, Want, encode};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks of it.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the count is a thread-local without
// a destructor, which neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Drives a decoder over `stream` in chunks of `size`: events seen, and allocations made.
fn drive(decoder: &mut Decoder, stream: &[u8], size: usize) -> (usize, u64) {
    let (mut events, before) = (0, COUNT.get());
    for chunk in stream.chunks(size) {
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
    (events, COUNT.get() - before)
}

const SIZES: [usize; 8] = [1, 3, 7, 16, 17, 1000, 16_397, 1 << 20];

#[test]
fn blocks_and_haves_allocate_nothing() {
    let (data, mut stream) = (vec![0x5A; 16 * 1024], Vec::new());
    for i in 0..50 {
        encode(&Message::Piece { piece: PieceIndex::new(i), begin: 0, data: &data }, &mut stream);
        encode(&Message::Have(PieceIndex::new(i)), &mut stream);
    }
    for size in SIZES {
        let mut decoder = Decoder::new();
        assert_eq!(drive(&mut decoder, &stream, size), (150, 0), "in chunks of {size}");
    }
}

#[test]
fn requests_and_their_kin_allocate_nothing() {
    let (block, piece) = (Block::new(7, 0x4000, 0x4000), PieceIndex::new(7));
    let all = [
        Message::KeepAlive,
        Message::Choke,
        Message::Unchoke,
        Message::Interested,
        Message::NotInterested,
        Message::Request(block),
        Message::Cancel(block),
        Message::Port(6881),
        Message::Suggest(piece),
        Message::HaveAll,
        Message::HaveNone,
        Message::Reject(block),
        Message::AllowedFast(piece),
        Message::Unknown { id: 21, len: 5000 },
    ];
    let mut stream = Vec::with_capacity(64 << 10);
    let before = COUNT.get();
    for _ in 0..10 {
        all.iter().for_each(|m| encode(m, &mut stream));
    }
    assert_eq!(COUNT.get(), before, "encoding into a buffer that is large enough");
    for size in SIZES {
        let mut decoder = Decoder::new();
        assert_eq!(drive(&mut decoder, &stream, size), (10 * all.len(), 0), "in chunks of {size}");
    }
}

#[test]
fn a_bitfield_allocates_only_when_it_is_split() {
    let mut stream = Vec::new();
    encode(&Message::Bitfield(&[0xFF; 1000]), &mut stream);
    let mut decoder = Decoder::new();
    assert_eq!(drive(&mut decoder, &stream, stream.len()), (1, 0));
    let (events, allocations) = drive(&mut decoder, &stream, 100);
    assert!(events == 1 && (1..6).contains(&allocations), "{allocations} allocations");
    // The counter counts, and a BlockStart is an event like any other.
    assert!(matches!(
        Decoder::new().feed(&[0, 0, 0, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0]),
        Ok((13, Some(Event::BlockStart(_))))
    ));
}
