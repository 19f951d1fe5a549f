//! One message: its bytes to a value and back.
//!
//! ```text
//! length 4 | id 1 | fields
//!   keep-alive 0                          (no id)
//!   1   0 choke   1 unchoke   2 interested   3 not interested   14 have all   15 have none
//!   5   4 have    13 suggest  17 allowed fast                   | piece 4
//!  13   6 request 8 cancel    16 reject                         | piece 4 | begin 4 | length 4
//!   3   9 port                                                  | port 2
//!  1+n  5 bitfield                                              | n bytes
//!  9+n  7 piece                                                 | piece 4 | begin 4 | n bytes
//!  2+n 20 extended                                              | sub-id 1 | n bytes
//! ```
//!
//! Messages borrow from the input; nothing is copied and nothing allocated. Fixed lengths must be
//! met exactly. An id that is not listed is [`Message::Unknown`]: other clients close a connection
//! over one, we do not, and we never send one.
//!
//! Not here: limits of frames in a stream (the decoder's), and whatever depends on the torrent.
//! A `bitfield` may have any length, a `piece` may be empty (BitComet rejects a request that way).
//!
//! Links: [BEP 3](https://www.bittorrent.org/beps/bep_0003.html) (0-8),
//! [BEP 5](https://www.bittorrent.org/beps/bep_0005.html) (9),
//! [BEP 6](https://www.bittorrent.org/beps/bep_0006.html) (13-17),
//! [BEP 10](https://www.bittorrent.org/beps/bep_0010.html) (20).

use super::WireError;
use crate::id::{Block, PieceIndex};
use nom::number::complete::{be_u8, be_u16, be_u32};
use nom::{IResult, Parser};

/// Message ids.
pub mod id {
    /// BEP 3.
    pub const CHOKE: u8 = 0;
    /// BEP 3.
    pub const UNCHOKE: u8 = 1;
    /// BEP 3.
    pub const INTERESTED: u8 = 2;
    /// BEP 3.
    pub const NOT_INTERESTED: u8 = 3;
    /// BEP 3.
    pub const HAVE: u8 = 4;
    /// BEP 3.
    pub const BITFIELD: u8 = 5;
    /// BEP 3.
    pub const REQUEST: u8 = 6;
    /// BEP 3.
    pub const PIECE: u8 = 7;
    /// BEP 3.
    pub const CANCEL: u8 = 8;
    /// BEP 5.
    pub const PORT: u8 = 9;
    /// BEP 6.
    pub const SUGGEST: u8 = 13;
    /// BEP 6.
    pub const HAVE_ALL: u8 = 14;
    /// BEP 6.
    pub const HAVE_NONE: u8 = 15;
    /// BEP 6.
    pub const REJECT: u8 = 16;
    /// BEP 6.
    pub const ALLOWED_FAST: u8 = 17;
    /// BEP 10.
    pub const EXTENDED: u8 = 20;
}

/// Bytes of a `piece` message before its data, the length field included.
pub const PIECE_HEADER_LEN: usize = 13;

/// One message of the peer wire protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Nothing, said so that the connection is not taken for dead.
    KeepAlive,
    /// The sender answers no requests from now on.
    Choke,
    /// The sender answers requests.
    Unchoke,
    /// The sender wants something the receiver has.
    Interested,
    /// The sender wants nothing the receiver has.
    NotInterested,
    /// The sender has this piece now.
    Have(PieceIndex),
    /// The pieces the sender has: piece 0 is the highest bit of the first byte.
    Bitfield(&'a [u8]),
    /// The sender wants this block.
    Request(Block),
    /// A block.
    Piece {
        /// The piece.
        piece: PieceIndex,
        /// Offset of the first byte within the piece.
        begin: u32,
        /// The block's bytes.
        data: &'a [u8],
    },
    /// The sender no longer wants this block.
    Cancel(Block),
    /// The UDP port of the sender's DHT node (BEP 5).
    Port(u16),
    /// The sender would serve this piece cheaply (BEP 6).
    Suggest(PieceIndex),
    /// The sender has everything (BEP 6).
    HaveAll,
    /// The sender has nothing (BEP 6).
    HaveNone,
    /// The sender will not answer this request (BEP 6).
    Reject(Block),
    /// The sender serves this piece even while choking (BEP 6).
    AllowedFast(PieceIndex),
    /// A message of the extension protocol (BEP 10).
    Extended {
        /// 0 for the extension handshake, else the number the receiver gave the extension.
        id: u8,
        /// What follows the sub-id.
        payload: &'a [u8],
    },
    /// A message that is not known here; it means nothing.
    Unknown {
        /// The message id.
        id: u8,
        /// Bytes that follow the id.
        len: u32,
    },
}

/// What a frame's length and id say about how it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Of a fixed length, at most 13 bytes.
    Fixed,
    /// Of any length.
    Variable,
    /// A block: 9 bytes, then payload.
    Piece,
    /// Not known: to be skipped.
    Unknown,
}

/// Checks a frame's length field against its id.
#[inline]
pub(super) fn kind(id: u8, len: u32) -> Result<Kind, WireError> {
    let (ok, kind) = match id {
        id::CHOKE..=id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => (len == 1, Kind::Fixed),
        id::HAVE | id::SUGGEST | id::ALLOWED_FAST => (len == 5, Kind::Fixed),
        id::REQUEST | id::CANCEL | id::REJECT => (len == 13, Kind::Fixed),
        id::PORT => (len == 3, Kind::Fixed),
        id::BITFIELD => (len >= 1, Kind::Variable),
        id::EXTENDED => (len >= 2, Kind::Variable),
        id::PIECE => (len >= 9, Kind::Piece),
        _ => (true, Kind::Unknown),
    };
    if ok { Ok(kind) } else { Err(WireError::BadLength { id, len }) }
}

/// The lengths [`kind`] accepts, in words.
pub(super) fn lengths(id: u8) -> &'static str {
    match id {
        id::CHOKE..=id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => "1",
        id::HAVE | id::SUGGEST | id::ALLOWED_FAST => "5",
        id::REQUEST | id::CANCEL | id::REJECT => "13",
        id::PORT => "3",
        id::EXTENDED => "2 or more",
        id::PIECE => "9 or more",
        _ => "1 or more",
    }
}

/// A message's name in BitTorrent's own words.
pub(super) fn name(id: u8) -> Option<&'static str> {
    Some(match id {
        id::CHOKE => "choke",
        id::UNCHOKE => "unchoke",
        id::INTERESTED => "interested",
        id::NOT_INTERESTED => "not interested",
        id::HAVE => "have",
        id::BITFIELD => "bitfield",
        id::REQUEST => "request",
        id::PIECE => "piece",
        id::CANCEL => "cancel",
        id::PORT => "port",
        id::SUGGEST => "suggest",
        id::HAVE_ALL => "have all",
        id::HAVE_NONE => "have none",
        id::REJECT => "reject",
        id::ALLOWED_FAST => "allowed fast",
        id::EXTENDED => "extended",
        _ => return None,
    })
}

fn piece(i: &[u8]) -> IResult<&[u8], PieceIndex> {
    be_u32.map(PieceIndex::new).parse(i)
}

fn block(i: &[u8]) -> IResult<&[u8], Block> {
    (be_u32, be_u32, be_u32).map(|(piece, begin, len)| Block::new(piece, begin, len)).parse(i)
}

/// The fields behind the id, of a message whose length was checked.
fn fields<'a>(id: u8, i: &'a [u8]) -> IResult<&'a [u8], Message<'a>> {
    const END: &[u8] = &[];
    Ok(match id {
        id::CHOKE => (i, Message::Choke),
        id::UNCHOKE => (i, Message::Unchoke),
        id::INTERESTED => (i, Message::Interested),
        id::NOT_INTERESTED => (i, Message::NotInterested),
        id::HAVE => piece.map(Message::Have).parse(i)?,
        id::BITFIELD => (END, Message::Bitfield(i)),
        id::REQUEST => block.map(Message::Request).parse(i)?,
        id::PIECE => {
            let (data, (piece, begin)) = (piece, be_u32).parse(i)?;
            (END, Message::Piece { piece, begin, data })
        }
        id::CANCEL => block.map(Message::Cancel).parse(i)?,
        id::PORT => be_u16.map(Message::Port).parse(i)?,
        id::SUGGEST => piece.map(Message::Suggest).parse(i)?,
        id::HAVE_ALL => (i, Message::HaveAll),
        id::HAVE_NONE => (i, Message::HaveNone),
        id::REJECT => block.map(Message::Reject).parse(i)?,
        id::ALLOWED_FAST => piece.map(Message::AllowedFast).parse(i)?,
        id::EXTENDED => {
            let (payload, id) = be_u8.parse(i)?;
            (END, Message::Extended { id, payload })
        }
        _ => (END, Message::Unknown { id, len: len32(i) }),
    })
}

/// A slice's length as the wire counts it. Frames are far below 4 GiB; a longer slice cannot be one.
fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Reads one frame's body: everything behind the 4 bytes of length. An empty body is a keep-alive.
///
/// # Errors
/// [`WireError::BadLength`] when the body's length does not fit its id.
pub fn parse(frame: &[u8]) -> Result<Message<'_>, WireError> {
    let Some((&id, rest)) = frame.split_first() else { return Ok(Message::KeepAlive) };
    let len = len32(frame);
    kind(id, len)?;
    match fields(id, rest) {
        Ok(([], message)) => Ok(message),
        _ => Err(WireError::BadLength { id, len }),
    }
}

/// Reads one frame from the start of `input`: the message and how many bytes it took, or `None`
/// while the frame is incomplete. `limit` is the largest length field accepted.
///
/// # Errors
/// [`WireError::FrameTooLong`] as soon as the length field is in, and those of [`parse`].
pub fn parse_frame(input: &[u8], limit: u32) -> Result<Option<(Message<'_>, usize)>, WireError> {
    let Some((head, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*head);
    if len > limit {
        return Err(WireError::FrameTooLong { len, limit });
    }
    let Some(body) = rest.get(..len as usize) else { return Ok(None) };
    Ok(Some((parse(body)?, 4 + body.len())))
}

/// Appends a message, its length field included; allocates only when `out` must grow.
/// [`Message::Unknown`] is written as its id and that many zero bytes.
pub fn encode(msg: &Message<'_>, out: &mut Vec<u8>) {
    match *msg {
        Message::KeepAlive => out.extend_from_slice(&[0; 4]),
        Message::Choke => bare(out, id::CHOKE),
        Message::Unchoke => bare(out, id::UNCHOKE),
        Message::Interested => bare(out, id::INTERESTED),
        Message::NotInterested => bare(out, id::NOT_INTERESTED),
        Message::Have(p) => with_piece(out, id::HAVE, p),
        Message::Bitfield(bits) => {
            head(out, len32(bits) + 1, id::BITFIELD);
            out.extend_from_slice(bits);
        }
        Message::Request(b) => with_block(out, id::REQUEST, &b),
        Message::Piece { piece, begin, data } => {
            out.extend_from_slice(&piece_header(&Block { piece, begin, len: len32(data) }));
            out.extend_from_slice(data);
        }
        Message::Cancel(b) => with_block(out, id::CANCEL, &b),
        Message::Port(port) => {
            head(out, 3, id::PORT);
            out.extend_from_slice(&port.to_be_bytes());
        }
        Message::Suggest(p) => with_piece(out, id::SUGGEST, p),
        Message::HaveAll => bare(out, id::HAVE_ALL),
        Message::HaveNone => bare(out, id::HAVE_NONE),
        Message::Reject(b) => with_block(out, id::REJECT, &b),
        Message::AllowedFast(p) => with_piece(out, id::ALLOWED_FAST, p),
        Message::Extended { id: sub, payload } => {
            head(out, len32(payload) + 2, id::EXTENDED);
            out.push(sub);
            out.extend_from_slice(payload);
        }
        Message::Unknown { id, len } => {
            head(out, len + 1, id);
            out.resize(out.len() + len as usize, 0);
        }
    }
}

/// The bytes of a `piece` message before its data. The block's length is one that was accepted
/// from a `request`, hence far below 4 GiB.
pub fn piece_header(block: &Block) -> [u8; PIECE_HEADER_LEN] {
    let mut out = [0; PIECE_HEADER_LEN];
    out[..4].copy_from_slice(&(block.len + 9).to_be_bytes());
    out[4] = id::PIECE;
    out[5..9].copy_from_slice(&block.piece.get().to_be_bytes());
    out[9..].copy_from_slice(&block.begin.to_be_bytes());
    out
}

fn head(out: &mut Vec<u8>, len: u32, id: u8) {
    let l = len.to_be_bytes();
    out.extend_from_slice(&[l[0], l[1], l[2], l[3], id]);
}

fn bare(out: &mut Vec<u8>, id: u8) {
    head(out, 1, id);
}

fn with_piece(out: &mut Vec<u8>, id: u8, piece: PieceIndex) {
    let mut m = [0, 0, 0, 5, id, 0, 0, 0, 0];
    m[5..].copy_from_slice(&piece.get().to_be_bytes());
    out.extend_from_slice(&m);
}

fn with_block(out: &mut Vec<u8>, id: u8, block: &Block) {
    let mut m = [0; 17];
    m[3] = 13;
    m[4] = id;
    m[5..9].copy_from_slice(&block.piece.get().to_be_bytes());
    m[9..13].copy_from_slice(&block.begin.to_be_bytes());
    m[13..].copy_from_slice(&block.len.to_be_bytes());
    out.extend_from_slice(&m);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One of each, with odd numbers.
    pub(in crate::wire) fn one_of_each() -> Vec<Message<'static>> {
        let block = Block::new(0x0102_0304, 0x0506_0708, 0x090A_0B0C);
        let piece = PieceIndex::new(0xFFFF_FFFE);
        vec![
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::NotInterested,
            Message::Have(piece),
            Message::Bitfield(&[]),
            Message::Bitfield(&[0xAA, 0x80]),
            Message::Request(block),
            Message::Piece { piece, begin: 0x4000, data: b"data" },
            Message::Piece { piece, begin: 0, data: b"" },
            Message::Cancel(block),
            Message::Port(0x1AE1),
            Message::Suggest(piece),
            Message::HaveAll,
            Message::HaveNone,
            Message::Reject(block),
            Message::AllowedFast(piece),
            Message::Extended { id: 0, payload: b"d1:mdee" },
            Message::Extended { id: 255, payload: b"" },
            Message::Unknown { id: 10, len: 0 },
            Message::Unknown { id: 255, len: 40 },
        ]
    }

    fn bytes(msg: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode(msg, &mut out);
        out
    }

    #[test]
    fn every_message_round_trips() {
        for msg in one_of_each() {
            let out = bytes(&msg);
            assert_eq!(parse_frame(&out, limits()), Ok(Some((msg, out.len()))));
            assert_eq!(parse(&out[4..]), Ok(msg));
        }
    }

    fn limits() -> u32 {
        crate::config::limits::FRAME
    }

    #[test]
    fn bytes_are_where_the_beps_put_them() {
        let block = Block::new(0x0102_0304, 0x0506_0708, 0x090A_0B0C);
        for (msg, wanted) in [
            (Message::KeepAlive, &b"\0\0\0\0"[..]),
            (Message::Choke, b"\0\0\0\x01\0"),
            (Message::Unchoke, b"\0\0\0\x01\x01"),
            (Message::Interested, b"\0\0\0\x01\x02"),
            (Message::NotInterested, b"\0\0\0\x01\x03"),
            (Message::Have(PieceIndex::new(258)), b"\0\0\0\x05\x04\0\0\x01\x02"),
            (Message::Bitfield(b"ab"), b"\0\0\0\x03\x05ab"),
            (Message::Request(block), b"\0\0\0\x0d\x06\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"),
            (
                Message::Piece { piece: PieceIndex::new(1), begin: 2, data: b"xyz" },
                b"\0\0\0\x0c\x07\0\0\0\x01\0\0\0\x02xyz",
            ),
            (Message::Cancel(block), b"\0\0\0\x0d\x08\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"),
            (Message::Port(6881), b"\0\0\0\x03\x09\x1a\xe1"),
            (Message::Suggest(PieceIndex::new(1)), b"\0\0\0\x05\x0d\0\0\0\x01"),
            (Message::HaveAll, b"\0\0\0\x01\x0e"),
            (Message::HaveNone, b"\0\0\0\x01\x0f"),
            (Message::Reject(block), b"\0\0\0\x0d\x10\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"),
            (Message::AllowedFast(PieceIndex::new(1)), b"\0\0\0\x05\x11\0\0\0\x01"),
            (Message::Extended { id: 3, payload: b"p" }, b"\0\0\0\x03\x14\x03p"),
        ] {
            assert_eq!(bytes(&msg), wanted, "{msg:?}");
        }
        assert_eq!(piece_header(&Block::new(1, 2, 16384)), *b"\0\0\x40\x09\x07\0\0\0\x01\0\0\0\x02");
    }

    #[test]
    fn encoding_appends() {
        let mut out = b"before".to_vec();
        encode(&Message::Choke, &mut out);
        encode(&Message::KeepAlive, &mut out);
        assert_eq!(out, b"before\0\0\0\x01\0\0\0\0\0");
    }

    #[test]
    fn a_length_must_fit_its_id() {
        // id, the shortest length accepted, the longest.
        let fixed: &[(u8, u32, u32)] =
            &[(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 5, 5), (5, 1, 60), (6, 13, 13), (7, 9, 60), (8, 13, 13)];
        let more: &[(u8, u32, u32)] =
            &[(9, 3, 3), (13, 5, 5), (14, 1, 1), (15, 1, 1), (16, 13, 13), (17, 5, 5), (20, 2, 60), (21, 1, 60)];
        for &(id, low, high) in fixed.iter().chain(more) {
            for len in 1..=60u32 {
                let mut frame = vec![0; len as usize];
                frame[0] = id;
                let error = WireError::BadLength { id, len };
                match parse(&frame) {
                    Ok(_) => assert!((low..=high).contains(&len), "id {id} length {len} was accepted"),
                    Err(e) => assert!(!(low..=high).contains(&len) && e == error, "id {id} length {len}: {e}"),
                }
            }
        }
    }

    #[test]
    fn a_frame_is_limited_by_its_length_field_alone() {
        let frame = bytes(&Message::Bitfield(&[0; 9]));
        assert_eq!(parse_frame(&frame, 10).map(|m| m.is_some()), Ok(true));
        assert_eq!(parse_frame(&frame, 9), Err(WireError::FrameTooLong { len: 10, limit: 9 }));
        assert_eq!(parse_frame(&frame[..4], 9), Err(WireError::FrameTooLong { len: 10, limit: 9 }));
        for n in 0..frame.len() {
            assert_eq!(parse_frame(&frame[..n], 10), Ok(None), "{n} bytes are not a frame");
        }
    }

    #[test]
    fn errors_say_what_was_wanted() {
        let text = parse(&[4, 0, 0]).unwrap_err().to_string();
        assert_eq!(text, "message id 4 (have) of 3 bytes, wanted 5");
    }

    #[test]
    fn garbage_never_panics() {
        let mut rng = crate::rng::seeded(7);
        for _ in 0..50_000 {
            let mut frame = vec![0; rng.usize(..40)];
            rng.fill(&mut frame);
            if let Some(id) = frame.first_mut() {
                *id %= 24;
            }
            if let Ok(msg) = parse(&frame) {
                let out = bytes(&msg);
                assert_eq!(out.len(), frame.len() + 4, "{msg:?} is as long as what it was read from");
            }
        }
    }

    /// Whoever is shown the door is told which message it was, how long it was, and how long it may be.
    #[test]
    fn a_wrong_length_is_named() {
        for (id, len, want) in [
            (id::CHOKE, 2, "1"),
            (id::UNCHOKE, 0, "1"),
            (id::INTERESTED, 5, "1"),
            (id::NOT_INTERESTED, 9, "1"),
            (id::HAVE, 4, "5"),
            (id::BITFIELD, 0, "1 or more"),
            (id::REQUEST, 12, "13"),
            (id::PIECE, 8, "9 or more"),
            (id::CANCEL, 14, "13"),
            (id::PORT, 5, "3"),
            (id::SUGGEST, 6, "5"),
            (id::HAVE_ALL, 2, "1"),
            (id::HAVE_NONE, 3, "1"),
            (id::REJECT, 1, "13"),
            (id::ALLOWED_FAST, 1, "5"),
            (id::EXTENDED, 1, "2 or more"),
        ] {
            let error = kind(id, len).expect_err("that is no length of it");
            assert_eq!(error, WireError::BadLength { id, len });
            let (name, text) = (name(id).expect("it has a name"), error.to_string());
            assert!(text.contains(name) && text.contains(&len.to_string()) && text.contains(want), "{text}");
        }
        assert_eq!((name(99), kind(99, 0)), (None, Ok(Kind::Unknown)), "what is not known may be of any length");
    }
}
