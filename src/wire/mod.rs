//! The peer wire protocol (BEP 3 and its extensions): bytes to values and back.
//!
//! ```text
//! handshake.rs   68 bytes each way, once:  19 | "BitTorrent protocol" | reserved 8 | info hash 20 | peer id 20
//! message.rs     then frames for ever:     length 4 | id 1 | fields ...      (length 0: keep-alive)
//! decoder.rs     frames out of a stream that arrives in any split; payload never passes through it
//! extended.rs    what travels in frames with id 20 (BEP 10): its handshake and the small messages
//! metadata.rs    the info dictionary, piece by piece (BEP 9)
//! pex.rs         peers that are told of (BEP 11)
//! fast.rs        the allowed-fast set (BEP 6)
//! client.rs      a readable name for a peer id (BEP 20)
//! ```
//!
//! All of it is format: no state of a peer, no time, no sockets. Lengths that follow from the
//! message alone are checked here, before anything is kept. What depends on the torrent (a piece
//! index in range, a bitfield's length and spare bits, a block that was asked for) or on the order
//! of messages is the peer's business.
//!
//! All integers on the wire are big-endian and 32 bits wide unless said otherwise.
//!
//! Links: [BEP 3](https://www.bittorrent.org/beps/bep_0003.html),
//! [BEP 6](https://www.bittorrent.org/beps/bep_0006.html),
//! [BEP 10](https://www.bittorrent.org/beps/bep_0010.html).

pub mod client;
pub mod decoder;
pub mod extended;
pub mod fast;
pub mod handshake;
pub mod message;
pub mod metadata;
pub mod pex;

pub use client::{client_name, printable};
pub use decoder::{Decoder, Event, Want};
pub use extended::{Ext, ExtHandshake, ExtMap, OurExt, encode as encode_ext, parse_dont_have, parse_upload_only};
pub use fast::allowed_fast_set;
pub use handshake::{HANDSHAKE_LEN, Handshake, HandshakeEvent, HandshakeReader, PROTOCOL, Reserved, encode_handshake};
pub use message::{Message, PIECE_HEADER_LEN, encode, id, parse, parse_frame, piece_header};
pub use metadata::Metadata;

use crate::bencode;
use std::fmt;

/// Why bytes from a peer are not the wire protocol. Each is a reason to close the connection,
/// [`BadExtended`](Self::BadExtended) apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// The first bytes are not `19, "BitTorrent protocol"`.
    BadHandshake {
        /// Offset of the first byte that differs.
        at: u8,
        /// The byte that belongs there.
        wanted: u8,
        /// The byte that came.
        got: u8,
    },
    /// A frame announces more bytes than this message may have.
    FrameTooLong {
        /// The frame's length field.
        len: u32,
        /// The most that is accepted.
        limit: u32,
    },
    /// A message whose length does not fit its id.
    BadLength {
        /// The message id.
        id: u8,
        /// The frame's length field: the id's byte and everything behind it.
        len: u32,
    },
    /// An extended message (BEP 10) whose payload cannot be read.
    BadExtended(bencode::Error),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadHandshake { at, wanted, got } => {
                write!(f, "not a BitTorrent handshake: byte {at} is {got:#04x}, wanted {wanted:#04x}")
            }
            Self::FrameTooLong { len, limit } => write!(f, "message of {len} bytes, at most {limit} are accepted"),
            Self::BadLength { id, len } => {
                write!(f, "message id {id} ")?;
                match message::name(*id) {
                    Some(name) => write!(f, "({name}) of {len} bytes, wanted {}", message::lengths(*id)),
                    None => write!(f, "of {len} bytes"),
                }
            }
            Self::BadExtended(why) => write!(f, "extended message: {why}"),
        }
    }
}
impl std::error::Error for WireError {}
