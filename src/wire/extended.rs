//! The extension protocol's handshake (BEP 10) and its smallest messages.

use super::WireError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The extensions known here. A discriminant is the sub-id we ask peers to use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Ext {
    /// Peer exchange (BEP 11).
    Pex = 1,
    /// The info dictionary (BEP 9).
    Metadata = 2,
    /// The sender wants no more (BEP 21).
    UploadOnly = 3,
    /// Meeting behind address translators (BEP 55).
    Holepunch = 4,
    /// The sender no longer has a piece (BEP 54).
    DontHave = 7,
}

/// Sub-ids by extension, as one side's `m` gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtMap([Option<u8>; 5]);

impl ExtMap {
    /// The sub-id for messages of this extension; `None` when the peer does not take them.
    pub fn get(&self, _ext: Ext) -> Option<u8> {
        None
    }
    /// Takes what a later handshake says; what it does not mention stays as it was.
    pub fn update(&mut self, _newer: &Self) {}
}

/// A peer's extension handshake. Every field may be absent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtHandshake {
    /// The sub-ids the peer wants to be sent.
    pub m: ExtMap,
    /// Requests the peer keeps waiting (`reqq`).
    pub reqq: Option<u32>,
    /// The peer's program (`v`), printable.
    pub client: Option<String>,
    /// The port the peer listens on (`p`).
    pub port: Option<u16>,
    /// Our address as the peer sees it.
    pub yourip: Option<IpAddr>,
    /// Bytes of the info dictionary.
    pub metadata_size: Option<u32>,
    /// Whether the peer wants no more (BEP 21).
    pub upload_only: Option<bool>,
    /// Another address of the peer.
    pub ipv4: Option<Ipv4Addr>,
    /// Another address of the peer.
    pub ipv6: Option<Ipv6Addr>,
}

impl ExtHandshake {
    /// Reads the payload of an extended message with sub-id 0.
    ///
    /// # Errors
    /// [`WireError::BadExtended`] when it is not a bencoded dictionary.
    pub fn parse(_payload: &[u8]) -> Result<Self, WireError> {
        Ok(Self::default())
    }
}

/// What our extension handshake says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OurExt<'a> {
    /// The extensions whose messages we take.
    pub exts: &'a [Ext],
    /// Requests we keep waiting.
    pub reqq: Option<u32>,
    /// Our program's name and version.
    pub client: Option<&'a str>,
    /// The port we listen on.
    pub port: Option<u16>,
    /// The peer's address as we see it.
    pub yourip: Option<IpAddr>,
    /// Bytes of the info dictionary, when we have it.
    pub metadata_size: Option<u32>,
    /// Whether we want no more (BEP 21); absent when `None`.
    pub upload_only: Option<bool>,
}

/// The payload of our extension handshake, to be sent as an extended message with sub-id 0.
pub fn encode(_ours: &OurExt<'_>) -> Vec<u8> {
    Vec::new()
}

/// Reads an `upload_only` message (BEP 21): one byte, not 0 when the sender wants no more.
pub fn parse_upload_only(payload: &[u8]) -> Option<bool> {
    payload.first().map(|&b| b != 0)
}

/// Reads an `lt_donthave` message (BEP 54): the piece that is gone.
pub fn parse_dont_have(payload: &[u8]) -> Option<crate::id::PieceIndex> {
    payload.try_into().ok().map(|b| crate::id::PieceIndex::new(u32::from_be_bytes(b)))
}
