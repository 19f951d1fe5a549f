//! The extension protocol's handshake (BEP 10) and its smallest messages.
//!
//! ```text
//! length 4 | 20 | sub-id 1 | payload
//!                 0: the handshake, a bencoded dictionary; it may come again and change things
//!                 else the number that the *receiver's* handshake gave to the extension:
//!   upload_only (BEP 21)    | 1 byte, not 0: I want no more
//!   lt_donthave (BEP 54)    | piece 4
//! ```
//!
//! Each side numbers the extensions as it likes in its `m`: what a peer sends us carries our number
//! ([`Ext::id`]), what we send it carries the peer's ([`ExtMap::get`]). Our numbers are those that
//! libtorrent uses, since there have been clients that send by their own table.
//!
//! A handshake is read leniently: whatever has the wrong type or is out of range counts as absent,
//! and so does what is not known. Only a payload that is no bencoded dictionary is an error, and
//! not one to close a connection over. Bytes behind the dictionary are ignored. Nothing here
//! allocates by what a number says; numbers are the peer's word, users of `reqq` and
//! `metadata_size` have limits of their own.
//!
//! Not here: metadata exchange, peer exchange, holepunching (they are the peer's), who may be sent
//! what.
//!
//! Link: [BEP 10](https://www.bittorrent.org/beps/bep_0010.html). Its example misspells `ut_pex`,
//! and the one for disabling an extension lacks the dictionary around `m`.

use super::{WireError, printable};
use crate::bencode::{self, Node, Writer};
use crate::config::limits;
use crate::id::PieceIndex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest program name that is kept, in characters.
const CLIENT_NAME: usize = 64;

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

impl Ext {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 5] = [Self::DontHave, Self::UploadOnly, Self::Holepunch, Self::Metadata, Self::Pex];

    /// The name in `m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DontHave => "lt_donthave",
            Self::Holepunch => "ut_holepunch",
            Self::Metadata => "ut_metadata",
            Self::Pex => "ut_pex",
            Self::UploadOnly => "upload_only",
        }
    }

    /// Our sub-id: what peers' messages of this extension carry.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The extension that a message sent to us belongs to; `None` when we never gave out that
    /// sub-id (0 is the handshake).
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.id() == id)
    }

    /// The extension of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.name().as_bytes() == name)
    }

    const fn slot(self) -> usize {
        match self {
            Self::DontHave => 0,
            Self::UploadOnly => 1,
            Self::Holepunch => 2,
            Self::Metadata => 3,
            Self::Pex => 4,
        }
    }
}

/// Sub-ids by extension, as one side's `m` gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtMap([Option<u8>; Ext::ALL.len()]);

impl ExtMap {
    /// The sub-id for messages of this extension; `None` when the peer does not take them.
    pub fn get(&self, ext: Ext) -> Option<u8> {
        self.0[ext.slot()].filter(|&id| id != 0)
    }

    /// Gives an extension a sub-id; 0 switches it off.
    pub fn set(&mut self, ext: Ext, id: u8) {
        self.0[ext.slot()] = Some(id);
    }

    /// Takes what a later handshake says; what it does not mention stays as it was.
    pub fn update(&mut self, newer: &Self) {
        for (old, new) in self.0.iter_mut().zip(newer.0) {
            *old = new.or(*old);
        }
    }
}

/// A peer's extension handshake. Every field may be absent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtHandshake {
    /// The sub-ids the peer wants to be sent.
    pub m: ExtMap,
    /// Requests the peer keeps waiting, at least 1 (`reqq`); not limited here.
    pub reqq: Option<u32>,
    /// The peer's program (`v`), fit for a terminal, at most 64 characters.
    pub client: Option<String>,
    /// The port the peer listens on, not 0 (`p`).
    pub port: Option<u16>,
    /// Our address as the peer sees it (`yourip`).
    pub yourip: Option<IpAddr>,
    /// Bytes of the info dictionary: at least 1, at most [`limits::TORRENT_FILE`].
    pub metadata_size: Option<u32>,
    /// Whether the peer wants no more (BEP 21).
    pub upload_only: Option<bool>,
    /// An IPv4 address of the peer.
    pub ipv4: Option<Ipv4Addr>,
    /// An IPv6 address of the peer.
    pub ipv6: Option<Ipv6Addr>,
}

impl ExtHandshake {
    /// Reads the payload of an extended message with sub-id 0.
    ///
    /// # Errors
    /// [`WireError::BadExtended`] when it does not start with a bencoded dictionary.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let (doc, _) = bencode::parse_prefix(payload).map_err(WireError::BadExtended)?;
        let root = doc.root();
        if !root.is_dict() {
            let got = payload.first().copied().unwrap_or_default();
            return Err(WireError::BadExtended(bencode::Error::Byte { at: 0, wanted: "a dictionary", got }));
        }
        let mut h = Self::default();
        // From the last entry to the first, so that of a key that comes twice the first one counts,
        // as everywhere in bencode.rs. One pass, however many keys there are.
        let entries: Vec<(&[u8], Node<'_, '_>)> = root.entries().collect();
        for (key, value) in entries.into_iter().rev() {
            match key {
                b"m" => h.m = map(value),
                b"reqq" => h.reqq = number(value, u32::MAX),
                b"v" => h.client = value.as_bytes().map(|v| printable(v, CLIENT_NAME)).filter(|v| !v.is_empty()),
                b"p" => h.port = number(value, u16::MAX.into()).and_then(|p| p.try_into().ok()),
                b"yourip" => h.yourip = value.as_bytes().and_then(address),
                b"metadata_size" => h.metadata_size = number(value, limits::TORRENT_FILE as u32),
                b"upload_only" => h.upload_only = value.as_int().map(|n| n != 0),
                b"ipv4" => h.ipv4 = octets(value).map(|o: [u8; 4]| o.into()),
                b"ipv6" => h.ipv6 = octets(value).map(|o: [u8; 16]| o.into()),
                _ => {}
            }
        }
        Ok(h)
    }
}

/// Reads `m`. Numbers beyond a byte cannot be sent; they count as not mentioned.
fn map(m: Node<'_, '_>) -> ExtMap {
    let mut out = ExtMap::default();
    for (name, id) in m.entries() {
        let id = id.as_int().and_then(|id| u8::try_from(id).ok());
        if let (Some(ext), Some(id)) = (Ext::from_name(name), id) {
            out.0[ext.slot()].get_or_insert(id);
        }
    }
    out
}

/// A number from 1 to `max`.
fn number(value: Node<'_, '_>, max: u32) -> Option<u32> {
    value.as_int().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=max).contains(n))
}

fn octets<const N: usize>(value: Node<'_, '_>) -> Option<[u8; N]> {
    value.as_bytes()?.try_into().ok()
}

/// An address in network order: 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
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
    /// Whether we want no more (BEP 21); not mentioned when `None`.
    pub upload_only: Option<bool>,
}

/// The payload of our extension handshake, to be sent as an extended message with sub-id 0.
pub fn encode(ours: &OurExt<'_>) -> Vec<u8> {
    let mut w = Writer::new();
    // Keys in sorted order, as BEP 3 asks.
    w.begin_dict().key(b"m").begin_dict();
    let mut exts = ours.exts.to_vec();
    exts.sort_unstable_by_key(|e| e.name());
    exts.dedup();
    for ext in exts {
        w.key(ext.name().as_bytes()).int(ext.id().into());
    }
    w.end();
    let mut int = |key: &[u8], value: Option<i64>| {
        if let Some(value) = value {
            w.key(key).int(value);
        }
    };
    int(b"metadata_size", ours.metadata_size.map(i64::from));
    int(b"p", ours.port.map(i64::from));
    int(b"reqq", ours.reqq.map(i64::from));
    int(b"upload_only", ours.upload_only.map(i64::from));
    if let Some(client) = ours.client {
        w.key(b"v").bytes(client.as_bytes());
    }
    match ours.yourip {
        Some(IpAddr::V4(ip)) => _ = w.key(b"yourip").bytes(&ip.octets()),
        Some(IpAddr::V6(ip)) => _ = w.key(b"yourip").bytes(&ip.octets()),
        None => {}
    }
    w.end();
    w.into_bytes()
}

/// Reads an `upload_only` message (BEP 21): one byte, not 0 when the sender wants no more. Bytes
/// behind it are ignored; `None` when there is none.
pub fn parse_upload_only(payload: &[u8]) -> Option<bool> {
    payload.first().map(|&b| b != 0)
}

/// Reads an `lt_donthave` message (BEP 54): the piece that is gone; `None` when it is not 4 bytes.
pub fn parse_dont_have(payload: &[u8]) -> Option<PieceIndex> {
    payload.try_into().ok().map(|b| PieceIndex::new(u32::from_be_bytes(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> ExtHandshake {
        ExtHandshake::parse(text).expect("it is a dictionary")
    }

    #[test]
    fn the_table_agrees_with_itself() {
        assert!(Ext::ALL.windows(2).all(|w| w[0].name() < w[1].name()), "in the order of their names");
        for (i, ext) in Ext::ALL.into_iter().enumerate() {
            assert_eq!(ext.slot(), i);
            assert_eq!(Ext::from_id(ext.id()), Some(ext));
            assert_eq!(Ext::from_name(ext.name().as_bytes()), Some(ext));
        }
        assert_eq!(Ext::from_id(0), None);
    }

    #[test]
    fn ours_is_read_back_and_is_canonical() {
        let ours = OurExt {
            exts: &[Ext::UploadOnly, Ext::Metadata, Ext::DontHave],
            reqq: Some(2000),
            client: Some("btmio 0.1"),
            port: Some(6881),
            yourip: Some("10.1.2.3".parse().unwrap()),
            metadata_size: Some(31235),
            upload_only: Some(true),
        };
        let bytes = encode(&ours);
        assert_eq!(
            bytes.escape_ascii().to_string(),
            "d1:md11:lt_donthavei7e11:upload_onlyi3e11:ut_metadatai2ee13:metadata_sizei31235e1:pi6881e\
             4:reqqi2000e11:upload_onlyi1e1:v9:btmio 0.16:yourip4:\\n\\x01\\x02\\x03e"
        );
        let h = parsed(&bytes);
        assert_eq!((h.m.get(Ext::Metadata), h.m.get(Ext::UploadOnly), h.m.get(Ext::Pex)), (Some(2), Some(3), None));
        assert_eq!((h.reqq, h.port, h.metadata_size, h.upload_only), (Some(2000), Some(6881), Some(31235), Some(true)));
        assert_eq!((h.client.as_deref(), h.yourip), (Some("btmio 0.1"), ours.yourip));
    }

    #[test]
    fn nothing_to_say_is_still_a_handshake() {
        assert_eq!(encode(&OurExt::default()), b"d1:mdee");
        assert_eq!(parsed(b"d1:mdee"), ExtHandshake::default());
        assert_eq!(parsed(b"de"), ExtHandshake::default());
    }

    #[test]
    fn an_address_has_4_or_16_bytes() {
        let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let bytes = encode(&OurExt { yourip: Some(v6.into()), ..OurExt::default() });
        assert_eq!(parsed(&bytes).yourip, Some(v6.into()));
        assert_eq!(parsed(b"d6:yourip6:\x01\x02\x03\x04\x1a\xe1e").yourip, None);
        assert_eq!(parsed(b"d4:ipv44:\x01\x02\x03\x04e").ipv4, Some(Ipv4Addr::new(1, 2, 3, 4)));
        assert_eq!(parsed(b"d4:ipv63:abce").ipv6, None);
    }

    #[test]
    fn what_is_wrong_counts_as_absent() {
        for text in [
            &b"d1:mi5ee"[..],
            b"d1:m1:x4:reqq1:91:pi0e1:v0:6:yourip0:11:upload_only1:1e",
            b"d1:mld6:ut_pexi1eee4:reqqi0e1:pi65536e1:vi3ee",
            b"d13:metadata_sizei0e4:reqqi-1ee",
            b"d13:metadata_sizei10485761e4:reqqi4294967296ee",
            b"d1:md6:ut_pexi256e11:ut_metadatai-1e12:ut_holepunch1:34:ut_xi9eee",
        ] {
            assert_eq!(parsed(text), ExtHandshake::default(), "{}", text.escape_ascii());
        }
        assert_eq!(parsed(b"d13:metadata_sizei10485760ee").metadata_size, Some(10 << 20));
        assert_eq!(parsed(b"d4:reqqi2147483648ee").reqq, Some(1 << 31));
    }

    #[test]
    fn of_a_key_that_comes_twice_the_first_counts() {
        assert_eq!(parsed(b"d1:pi7e1:pi8ee").port, Some(7));
        assert_eq!(parsed(b"d1:md6:ut_pexi7e6:ut_pexi8eee").m.get(Ext::Pex), Some(7));
    }

    #[test]
    fn a_later_handshake_changes_only_what_it_mentions() {
        let mut m = parsed(b"d1:md11:ut_metadatai9e6:ut_pexi5eee").m;
        m.update(&parsed(b"d1:md6:ut_pexi0eee").m);
        assert_eq!((m.get(Ext::Metadata), m.get(Ext::Pex)), (Some(9), None));
        m.update(&parsed(b"d1:md6:ut_pexi6eee").m);
        assert_eq!((m.get(Ext::Metadata), m.get(Ext::Pex)), (Some(9), Some(6)));
    }

    #[test]
    fn only_a_dictionary_will_do_and_bytes_behind_it_are_ignored() {
        assert!(matches!(ExtHandshake::parse(b""), Err(WireError::BadExtended(_))));
        assert!(matches!(ExtHandshake::parse(b"d1:p"), Err(WireError::BadExtended(_))));
        let error = ExtHandshake::parse(b"i3e").unwrap_err();
        assert!(error.to_string().contains("wanted a dictionary, got 'i'"), "{error}");
        assert_eq!(parsed(b"d1:pi7ee\0\0junk").port, Some(7));
    }

    #[test]
    fn a_name_from_outside_cannot_drive_a_terminal() {
        let h = parsed(b"d1:v9:\x1b]0;evil\x07e");
        assert_eq!(h.client.as_deref(), Some("\\u{1b}]0;evil\\u{7}"));
        let long = [&b"d1:v100:"[..], &[b'x'; 100], b"e"].concat();
        assert_eq!(parsed(&long).client.map(|c| c.len()), Some(64));
    }

    #[test]
    fn garbage_never_panics() {
        let mut rng = crate::rng::seeded(10);
        let good = encode(&OurExt { exts: &Ext::ALL, client: Some("x"), reqq: Some(9), ..OurExt::default() });
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            let _ = ExtHandshake::parse(&bytes);
        }
    }

    #[test]
    fn small_messages() {
        assert_eq!(
            [parse_upload_only(&[1]), parse_upload_only(&[0]), parse_upload_only(&[])],
            [Some(true), Some(false), None]
        );
        assert_eq!(parse_dont_have(&[0, 0, 1, 2]), Some(PieceIndex::new(258)));
        assert_eq!(parse_dont_have(&[0, 0, 1]), None);
        assert_eq!(parse_dont_have(&[0, 0, 1, 2, 3]), None);
    }
}
