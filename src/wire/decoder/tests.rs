//! Tests of the decoder: a pump in miniature drives it over streams in any split.

use super::*;
use crate::id::PieceIndex;
use crate::rng::{Rng, seeded};
use crate::wire::message::tests::one_of_each;
use crate::wire::{encode, piece_header};

/// Events with what they borrow copied, so that they can be compared after the stream is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    /// The message, encoded again.
    Message(Vec<u8>),
    Start(Block),
    Filled(Block, Vec<u8>),
}

fn encoded(msg: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(msg, &mut out);
    out
}

/// Drives a decoder over `stream` as a pump would, reading at most `cut()` bytes at a time.
fn drive(d: &mut Decoder, stream: &[u8], mut cut: impl FnMut() -> usize) -> Result<Vec<Seen>, WireError> {
    let (mut seen, mut data, mut at) = (Vec::new(), Vec::new(), 0);
    while at < stream.len() {
        let end = stream.len().min(at + cut());
        while at < end {
            if let Want::Payload { block, at: done } = d.want() {
                assert_eq!(d.feed(&stream[at..end]), Ok((0, None)), "payload is not for feed");
                let n = ((block.len - done) as usize).min(end - at);
                data.extend_from_slice(&stream[at..at + n]);
                at += n;
                if let Some(block) = d.filled(n as u32) {
                    seen.push(Seen::Filled(block, std::mem::take(&mut data)));
                }
                continue;
            }
            let (n, event) = d.feed(&stream[at..end])?;
            at += n;
            match event {
                Some(Event::Message(Message::Piece { .. })) => panic!("a block came as a message"),
                Some(Event::Message(m)) => seen.push(Seen::Message(encoded(&m))),
                Some(Event::BlockStart(block)) => seen.push(Seen::Start(block)),
                None => assert!(at == end || d.want() != Want::Bytes, "stopped before the end for nothing"),
            }
        }
    }
    Ok(seen)
}

/// A stream of random messages and what must be seen in it.
fn random_stream(rng: &mut Rng) -> (Vec<u8>, Vec<Seen>) {
    let (each, mut stream, mut seen) = (one_of_each(), Vec::new(), Vec::new());
    for _ in 0..rng.usize(1..30) {
        let mut bytes = vec![0; rng.usize(..2000)];
        rng.fill(&mut bytes);
        let msg = match rng.u8(..6) {
            0 => Message::Bitfield(&bytes),
            1 => Message::Extended { id: rng.u8(..), payload: &bytes },
            2 => Message::Piece { piece: PieceIndex::new(rng.u32(..)), begin: rng.u32(..), data: &bytes },
            3 => Message::Unknown { id: 21 + rng.u8(..3), len: bytes.len() as u32 },
            _ => each[rng.usize(..each.len())],
        };
        encode(&msg, &mut stream);
        let Message::Piece { piece, begin, data } = msg else {
            seen.push(Seen::Message(encoded(&msg)));
            continue;
        };
        let block = Block { piece, begin, len: data.len() as u32 };
        seen.push(Seen::Start(block));
        if !data.is_empty() {
            seen.push(Seen::Filled(block, data.to_vec()));
        }
    }
    (stream, seen)
}

#[test]
fn any_split_gives_the_same_events() {
    let mut rng = seeded(1);
    for round in 0..400 {
        let (stream, wanted) = random_stream(&mut rng);
        let longest = [2, 8, 20, 300, 5000][round % 5];
        let mut d = Decoder::new();
        let seen = drive(&mut d, &stream, || rng.usize(1..longest)).unwrap();
        assert_eq!(seen, wanted, "round {round}");
        d.trim();
        assert!(d.at_boundary() && d.memory() == 0);
    }
}

#[test]
fn every_cut_of_every_message_in_two() {
    for msg in one_of_each() {
        let mut stream = encoded(&msg);
        stream.extend_from_slice(b"\0\0\0\x01\x02");
        let mut d = Decoder::new();
        let wanted = drive(&mut d, &stream, || stream.len()).unwrap();
        assert_eq!(wanted.last(), Some(&Seen::Message(b"\0\0\0\x01\x02".to_vec())));
        for first in 1..stream.len() {
            let mut cuts = [first].into_iter();
            let seen = drive(&mut d, &stream, || cuts.next().unwrap_or(usize::MAX - stream.len())).unwrap();
            assert_eq!(seen, wanted, "{msg:?} cut at {first}");
        }
    }
}

#[test]
fn it_stays_small() {
    assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
    // The last byte of anything with a fixed length is waited for without the heap.
    for msg in one_of_each() {
        let stream = encoded(&msg);
        let mut d = Decoder::new();
        let (n, event) = d.feed(&stream[..stream.len() - 1]).unwrap();
        let payload = matches!(event, Some(Event::BlockStart(_)));
        let long = matches!(msg, Message::Bitfield(_) | Message::Extended { .. }) && n > 4;
        assert_eq!(d.memory() > 0, long && !payload, "{msg:?}");
    }
}

#[test]
fn a_long_message_is_kept_as_it_comes_and_given_back() {
    let stream = encoded(&Message::Bitfield(&[0x55; 100_000]));
    let mut d = Decoder::new();
    // A length alone reserves next to nothing.
    assert_eq!(d.feed(&stream[..5]), Ok((5, None)));
    assert!(d.memory() <= FIRST_HEAP && !d.at_boundary());
    assert_eq!(d.feed(&stream[5..60_000]), Ok((59_995, None)));
    assert!(d.memory() <= 100_001, "{}", d.memory());
    let (n, event) = d.feed(&stream[60_000..]).unwrap();
    assert!(n == 40_005 && matches!(event, Some(Event::Message(Message::Bitfield(b))) if b == [0x55; 100_000]));
    assert!(d.at_boundary() && d.memory() == 100_001);
    assert_eq!(d.feed(&[0]), Ok((1, None)));
    assert_eq!(d.memory(), 0);
}

#[test]
fn a_message_that_lies_whole_is_not_copied() {
    let stream = encoded(&Message::Extended { id: 1, payload: b"payload" });
    let mut d = Decoder::new();
    let (_, Some(Event::Message(Message::Extended { payload, .. }))) = d.feed(&stream).unwrap() else { panic!() };
    assert_eq!(payload.as_ptr(), stream[6..].as_ptr());
}

/// Feeds a length field, then an id, one byte at a time: the error, and after how many bytes.
fn refused(d: &mut Decoder, len: u32, id: u8) -> Option<(usize, WireError)> {
    let head: Vec<u8> = len.to_be_bytes().into_iter().chain([id]).collect();
    let whole = Decoder { state: State::BOUNDARY, ..*d }.feed(&head).map(|_| ());
    let split = (0..5).find_map(|at| d.feed(&head[at..=at]).err().map(|e| (at + 1, e)));
    assert_eq!(whole.err(), split.map(|s| s.1), "the split makes no difference");
    split
}

#[test]
fn frames_are_refused_one_byte_past_their_limit() {
    use crate::config::limits::{EXTENDED_FRAME, FRAME};
    let long = |len, limit| Some(WireError::FrameTooLong { len, limit });
    let at = |d: &mut Decoder, len, id| refused(d, len, id).map(|r| r.1);
    for (id, limit) in [(id::PIECE, FRAME), (id::BITFIELD, FRAME), (99, FRAME), (id::EXTENDED, EXTENDED_FRAME)] {
        assert_eq!(at(&mut Decoder::new(), limit, id), None, "id {id}");
        assert_eq!(at(&mut Decoder::new(), limit + 1, id), long(limit + 1, limit), "id {id}");
    }
    // A torrent with more pieces lets longer bitfields pass, and nothing else.
    let big = || {
        let mut d = Decoder::new();
        d.set_bitfield_len(FRAME as usize + 6);
        d
    };
    assert_eq!(at(&mut big(), FRAME + 7, id::BITFIELD), None);
    assert_eq!(at(&mut big(), FRAME + 8, id::BITFIELD), long(FRAME + 8, FRAME + 7));
    assert_eq!(at(&mut big(), FRAME + 1, id::PIECE), long(FRAME + 1, FRAME));
    assert_eq!(at(&mut big(), EXTENDED_FRAME + 1, id::EXTENDED), long(EXTENDED_FRAME + 1, EXTENDED_FRAME));
    // A small torrent does not lower it: peers may send a padded bitfield, which is not our business.
    let mut small = Decoder::new();
    small.set_bitfield_len(1);
    assert_eq!(at(&mut small, FRAME, id::BITFIELD), None);
}

#[test]
fn the_largest_bitfield_fits_before_the_torrent_is_known() {
    let bytes = crate::config::limits::PIECES.div_ceil(8);
    assert_eq!(refused(&mut Decoder::new(), bytes + 1, id::BITFIELD), None);
}

#[test]
fn a_length_bomb_is_refused_at_its_length() {
    for len in [0xFFFF_FFFF, 0x7FFF_FFFF, limits::FRAME + 1] {
        let mut d = Decoder::new();
        let (bytes, error) = refused(&mut d, len, 0).expect("it must be refused");
        assert_eq!((bytes, error), (4, WireError::FrameTooLong { len, limit: limits::FRAME }));
        assert_eq!(d.memory(), 0);
    }
}

#[test]
fn a_length_that_does_not_fit_is_refused_at_the_id() {
    for (len, id) in [(2, id::CHOKE), (100_000, id::HAVE), (12, id::REQUEST), (8, id::PIECE), (1, id::EXTENDED)] {
        let mut d = Decoder::new();
        assert_eq!(refused(&mut d, len, id), Some((5, WireError::BadLength { id, len })));
    }
}

#[test]
fn an_empty_block_has_no_payload() {
    let mut d = Decoder::new();
    let header = piece_header(&Block::new(3, 0x4000, 0));
    assert_eq!(d.feed(&header), Ok((13, Some(Event::BlockStart(Block::new(3, 0x4000, 0))))));
    assert_eq!(d.want(), Want::Bytes);
    assert!(d.at_boundary());
}

#[test]
fn a_block_fills_in_steps() {
    let block = Block::new(1, 2, 100);
    let mut d = Decoder::new();
    d.begin_block(block);
    assert_eq!(d.want(), Want::Payload { block, at: 0 });
    assert_eq!((d.filled(0), d.filled(99)), (None, None));
    assert_eq!(d.want(), Want::Payload { block, at: 99 });
    assert!(!d.at_boundary());
    assert_eq!(d.filled(1), Some(block));
    assert!(d.at_boundary() && d.want() == Want::Bytes);
    d.begin_block(Block::new(1, 2, 0));
    assert_eq!(d.want(), Want::Bytes);
}

#[test]
#[should_panic(expected = "filled(101)")]
fn more_than_the_block_is_a_bug() {
    let mut d = Decoder::new();
    d.begin_block(Block::new(1, 2, 100));
    d.filled(101);
}

#[test]
#[should_panic(expected = "within a message")]
fn a_block_within_a_message_is_a_bug() {
    let mut d = Decoder::new();
    d.feed(&[0, 0]).unwrap();
    d.begin_block(Block::new(1, 2, 100));
}

#[test]
fn garbage_gives_events_or_one_error_and_never_panics() {
    let mut rng = seeded(9);
    let (mut errors, mut events) = (0, 0);
    for _ in 0..5000 {
        let (mut stream, _) = random_stream(&mut rng);
        for _ in 0..rng.usize(1..40) {
            let at = rng.usize(..stream.len());
            stream[at] = rng.u8(..);
        }
        let whole = drive(&mut Decoder::new(), &stream, || stream.len());
        let split = drive(&mut Decoder::new(), &stream, || rng.usize(1..100));
        assert_eq!(whole, split, "what is wrong does not depend on the split");
        match whole {
            Ok(_) => events += 1,
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 500 && events > 500, "{errors} errors, {events} streams that passed: nothing was tested");
}
