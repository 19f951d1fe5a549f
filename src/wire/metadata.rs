//! Messages by which peers hand each other the info dictionary (BEP 9, `ut_metadata`).
//!
//! ```text
//! length 4 | 20 | sub-id 1 | d 8:msg_type i0e 5:piece i<n>e e                          request
//!                          | d 8:msg_type i1e 5:piece i<n>e 10:total_size i<s>e e data   data
//!                          | d 8:msg_type i2e 5:piece i<n>e e                          reject
//! ```
//!
//! The dictionary is followed by the piece itself, so where it ends says where the piece begins. A
//! piece has [`PIECE`] bytes, the last one what is left. The BEP's own examples are wrong in places: the one of
//! a reject shows the type of a piece.
//!
//! Not here: which sizes are believed, what was asked of whom (`torrent::fetch`).
//!
//! Link: [BEP 9](https://www.bittorrent.org/beps/bep_0009.html)

use crate::bencode::{self, Node, Writer};

/// Bytes of every piece of an info dictionary but the last.
pub const PIECE: u32 = 16 * 1024;

/// A message of `ut_metadata`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metadata<'a> {
    /// The sender wants this piece.
    Request {
        /// Which, counted from 0.
        piece: u32,
    },
    /// A piece.
    Data {
        /// Which.
        piece: u32,
        /// Bytes of the whole dictionary, as the sender says.
        total: Option<u32>,
        /// Its bytes.
        data: &'a [u8],
    },
    /// The sender does not give this piece.
    Reject {
        /// Which.
        piece: u32,
    },
}

impl<'a> Metadata<'a> {
    /// Reads the payload of an extended message. `None` for what is not one of the three, or not
    /// bencode: other types may come to exist, and are to be ignored.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (doc, used) = bencode::parse_prefix(payload).ok()?;
        let number = |key: &[u8]| doc.root().get(key).and_then(Node::as_int);
        let piece = u32::try_from(number(b"piece")?).ok()?;
        match number(b"msg_type")? {
            0 => Some(Self::Request { piece }),
            1 => {
                let total = number(b"total_size").and_then(|n| u32::try_from(n).ok());
                Some(Self::Data { piece, total, data: &payload[used..] })
            }
            2 => Some(Self::Reject { piece }),
            _ => None,
        }
    }

    /// The payload of the extended message.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, piece) = match self {
            Self::Request { piece } => (0, *piece),
            Self::Data { piece, .. } => (1, *piece),
            Self::Reject { piece } => (2, *piece),
        };
        let mut w = Writer::new();
        w.begin_dict().key(b"msg_type").int(kind).key(b"piece").int(piece.into());
        let Self::Data { total, data, .. } = self else {
            w.end();
            return w.into_bytes();
        };
        if let Some(total) = total {
            w.key(b"total_size").int((*total).into());
        }
        w.end();
        let mut out = w.into_bytes();
        out.extend_from_slice(data);
        out
    }
}

/// Pieces of an info dictionary of `size` bytes.
pub const fn pieces(size: u32) -> u32 {
    size.div_ceil(PIECE)
}

/// Bytes of one of its pieces; 0 when there is no such piece.
pub const fn piece_len(size: u32, piece: u32) -> u32 {
    let left = size.saturating_sub(piece.saturating_mul(PIECE));
    if left < PIECE { left } else { PIECE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_messages() {
        let cases: [(Metadata<'_>, &[u8]); 3] = [
            (Metadata::Request { piece: 7 }, b"d8:msg_typei0e5:piecei7ee"),
            (
                Metadata::Data { piece: 0, total: Some(34256), data: b"xxd" },
                b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxd",
            ),
            (Metadata::Reject { piece: 1 }, b"d8:msg_typei2e5:piecei1ee"),
        ];
        for (message, bytes) in cases {
            assert_eq!(message.encode(), bytes);
            assert_eq!(Metadata::parse(bytes), Some(message));
        }
    }

    #[test]
    fn what_is_none_of_them_is_nothing() {
        let texts: [&[u8]; 8] = [
            b"",
            b"d8:msg_typei0ee",
            b"d5:piecei0ee",
            b"d8:msg_typei3e5:piecei0ee",
            b"d8:msg_typei0e5:piecei-1ee",
            b"d8:msg_typei0e5:piecei4294967296ee",
            b"i0e",
            b"d8:msg_typei0e5:piece1:0e",
        ];
        for text in texts {
            assert_eq!(Metadata::parse(text), None, "{}", text.escape_ascii());
        }
        let odd = Metadata::parse(b"d8:msg_typei1e5:piecei0e10:total_sizei-1ee");
        assert_eq!(odd, Some(Metadata::Data { piece: 0, total: None, data: b"" }));
    }

    #[test]
    fn pieces_of_a_size() {
        assert_eq!([pieces(0), pieces(1), pieces(PIECE), pieces(PIECE + 1)], [0, 1, 1, 2]);
        assert_eq!([piece_len(PIECE + 1, 0), piece_len(PIECE + 1, 1), piece_len(PIECE + 1, 2)], [PIECE, 1, 0]);
        assert_eq!(piece_len(u32::MAX, u32::MAX), 0);
    }
}
