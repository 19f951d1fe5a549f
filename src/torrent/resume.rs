//! The record that lets a torrent go on where it was: a bencoded dictionary.
//!
//! ```text
//! d 4:have  <bitfield, wire order>        pieces verified
//!   7:durable <the same>                   those of them that are on the device (since version 2)
//!   5:files l l len mtime_s mtime_ns inode e ... e     what each file looked like; empty list: absent
//!   7:partial l l piece <bitmap of blocks> e ... e     pieces under way
//!   5:peers l "ip:port" ... e   8:uploaded   10:downloaded   6:wasted   7:seeding (s)   7:version i2e e
//! ```
//!
//! The stamps are reasons to distrust, never to trust by themselves: a file whose length, time or
//! inode differs has its pieces checked again. A record that cannot be read is the same as none.

use std::net::SocketAddr;

use crate::api::FileStamp;
use crate::bencode::{self, Node, Writer};
use crate::id::PieceIndex;

/// Version 1 did not tell which pieces were durable.
const VERSION: i64 = 2;

/// What a record holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Pieces verified, in wire order.
    pub have: Vec<u8>,
    /// Those of them that are durable; not in version 1.
    pub durable: Option<Vec<u8>>,
    /// What each file looked like; `None` was absent.
    pub files: Vec<Option<FileStamp>>,
    /// Pieces under way and their blocks, in wire order.
    pub partial: Vec<(PieceIndex, Vec<u8>)>,
    /// Addresses that worked.
    pub peers: Vec<SocketAddr>,
    /// Payload sent in this torrent's life.
    pub uploaded: u64,
    /// Payload verified in this torrent's life.
    pub downloaded: u64,
    /// Payload received in vain.
    pub wasted: u64,
    /// Seconds spent seeding.
    pub seeding_for: u64,
}

fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

impl Record {
    /// The record as bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.begin_dict();
        w.key(b"downloaded");
        w.int(int(self.downloaded));
        if let Some(durable) = &self.durable {
            w.key(b"durable");
            w.bytes(durable);
        }
        w.key(b"files");
        w.begin_list();
        for file in &self.files {
            w.begin_list();
            if let Some(s) = file {
                w.int(int(s.len));
                w.int(s.mtime.0);
                w.int(i64::from(s.mtime.1));
                // An inode is a pattern of bits, not a quantity.
                w.int(s.inode as i64);
            }
            w.end();
        }
        w.end();
        w.key(b"have");
        w.bytes(&self.have);
        w.key(b"partial");
        w.begin_list();
        for (piece, blocks) in &self.partial {
            w.begin_list();
            w.int(i64::from(piece.get()));
            w.bytes(blocks);
            w.end();
        }
        w.end();
        w.key(b"peers");
        w.begin_list();
        for peer in &self.peers {
            w.bytes(peer.to_string().as_bytes());
        }
        w.end();
        w.key(b"seeding");
        w.int(int(self.seeding_for));
        w.key(b"uploaded");
        w.int(int(self.uploaded));
        w.key(b"version");
        w.int(VERSION);
        w.key(b"wasted");
        w.int(int(self.wasted));
        w.end();
        w.into_bytes()
    }

    /// The record in `bytes`; `None` when they are not one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let doc = bencode::parse(bytes).ok()?;
        let root = doc.root();
        let durable = match root.get(b"version")?.as_int()? {
            1 => None,
            VERSION => Some(root.get(b"durable")?.as_bytes()?.to_vec()),
            _ => return None,
        };
        let amount = |key: &[u8]| -> Option<u64> { u64::try_from(root.get(key)?.as_int()?).ok() };
        Some(Self {
            have: root.get(b"have")?.as_bytes()?.to_vec(),
            durable,
            files: root.get(b"files")?.items().map(stamp).collect::<Option<_>>()?,
            partial: root.get(b"partial")?.items().map(partial).collect::<Option<_>>()?,
            peers: root.get(b"peers")?.items().filter_map(|p| p.as_str()?.parse().ok()).collect(),
            uploaded: amount(b"uploaded")?,
            downloaded: amount(b"downloaded")?,
            wasted: amount(b"wasted")?,
            seeding_for: amount(b"seeding")?,
        })
    }
}

fn stamp(node: Node<'_, '_>) -> Option<Option<FileStamp>> {
    let mut items = node.items().map(|n| n.as_int());
    let Some(len) = items.next() else { return Some(None) };
    Some(Some(FileStamp {
        len: u64::try_from(len?).ok()?,
        mtime: (items.next()??, u32::try_from(items.next()??).ok()?),
        inode: items.next()?? as u64,
        ..FileStamp::default()
    }))
}

fn partial(node: Node<'_, '_>) -> Option<(PieceIndex, Vec<u8>)> {
    let mut items = node.items();
    let piece = u32::try_from(items.next()?.as_int()?).ok()?;
    Some((PieceIndex::new(piece), items.next()?.as_bytes()?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record {
            have: vec![0xF0, 0x80],
            durable: Some(vec![0xC0, 0]),
            files: vec![
                Some(FileStamp { len: 5 << 30, mtime: (-3, 999_999_999), inode: u64::MAX, ..FileStamp::default() }),
                None,
            ],
            partial: vec![(PieceIndex::new(7), vec![0xA0])],
            peers: vec!["[::1]:6881".parse().expect("an address")],
            uploaded: 1,
            downloaded: 2,
            wasted: 3,
            seeding_for: 4,
        }
    }

    #[test]
    fn round_trip() {
        assert_eq!(Record::decode(&sample().encode()), Some(sample()));
    }

    #[test]
    fn every_truncation_and_bit_flip_is_another_record_or_none() {
        let bytes = sample().encode();
        for n in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..n]), None, "truncated at {n}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[n] ^= 1 << bit;
                let _ = Record::decode(&flipped);
            }
        }
    }
}
