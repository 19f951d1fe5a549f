//! The record that lets a torrent go on where it was: a bencoded dictionary.
//!
//! ```text
//! d 4:have  <bitfield, wire order>        pieces verified
//!   7:durable <the same>                   those of them that are on the device (since version 2)
//!   5:files l l len mtime_s mtime_ns inode e ... e     what each file looked like; empty list: absent
//!   4:home l <download folder> i<file system>e e      where files were found; not in older ones
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
    /// The download folder, and which file system it was on.
    pub home: Option<(Vec<u8>, u64)>,
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

/// What the files looked like when they were known to hold what was verified.
///
/// A record is made with what files look like then, which may be the work of somebody else: so a complete
/// file keeps the stamp it had when it became complete, whatever it looks like now, and in the record
/// the difference shows. A file that is still written to changes all the time. Should one turn out to be
/// shorter than it was, or gone, those are given no stamp, and the next start has them hashed; and all of
/// them when there is none that explains it.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// The stamp, and whether the file was complete then.
    files: Vec<(Option<FileStamp>, bool)>,
    distrust: bool,
}

impl Stamps {
    /// As the files are when they are opened.
    pub(super) fn new(files: &[Option<FileStamp>]) -> Self {
        Self { files: files.iter().map(|s| (*s, false)).collect(), distrust: false }
    }

    /// They have been checked: so many pieces are missing of each.
    pub(super) fn settle(&mut self, missing: &[u32]) {
        self.files.iter_mut().zip(missing).for_each(|(f, n)| f.1 = *n == 0);
    }

    /// Files that are being written to have been found changed by somebody else.
    pub(super) fn distrust(&mut self) {
        self.distrust = true;
    }

    /// What a record may say of files that look so now.
    pub(super) fn renew(&mut self, now: Vec<Option<FileStamp>>, missing: &[u32]) -> Vec<Option<FileStamp>> {
        let mut now = now;
        let explained = self.files.iter().zip(&now).any(|(f, now)| !f.1 || f.0 != *now);
        for ((old, missing), now) in self.files.iter_mut().zip(missing).zip(&mut now) {
            match old {
                (then, true) if explained => *now = *then,
                (_, true) if !self.distrust => {}
                _ if self.distrust => *now = None,
                _ => *old = (*now, *missing == 0),
            }
        }
        now
    }
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
        if let Some((dir, id)) = &self.home {
            // A pattern of bits, as inodes are.
            w.key(b"home").begin_list().bytes(dir).int(*id as i64).end();
        }
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
            home: root.get(b"home").and_then(home),
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

fn home(node: Node<'_, '_>) -> Option<(Vec<u8>, u64)> {
    let mut items = node.items();
    Some((items.next()?.as_bytes()?.to_vec(), items.next()?.as_int()? as u64))
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
            home: Some((b"/d".to_vec(), u64::MAX - 1)),
            partial: vec![(PieceIndex::new(7), vec![0xA0])],
            peers: vec!["[::1]:6881".parse().expect("an address")],
            uploaded: 1,
            downloaded: 2,
            wasted: 3,
            seeding_for: 4,
        }
    }

    #[test]
    fn what_others_did_to_a_complete_file_shows_in_the_record() {
        let stamp = |len| Some(FileStamp { len, mtime: (1, 0), inode: 1, ..FileStamp::default() });
        let mut s = Stamps::new(&[stamp(10), stamp(20), None]);
        s.settle(&[0, 1, 2]);
        // The first has been cut, the second was written to by us and is complete, the third begins.
        assert_eq!(s.renew(vec![stamp(9), stamp(21), stamp(3)], &[0, 0, 1]), [stamp(10), stamp(21), stamp(3)]);
        assert_eq!(s.renew(vec![None, None, stamp(4)], &[0, 0, 1]), [stamp(10), stamp(21), stamp(4)]);
        s.distrust();
        assert_eq!(s.renew(vec![stamp(9), stamp(21), stamp(4)], &[0, 0, 1]), [stamp(10), stamp(21), None]);
    }

    #[test]
    fn a_change_that_does_not_show_has_all_files_hashed() {
        let stamp = |len| Some(FileStamp { len, mtime: (1, 0), inode: 1, ..FileStamp::default() });
        let mut s = Stamps::new(&[stamp(10), stamp(20)]);
        s.settle(&[0, 0]);
        assert_eq!(s.renew(vec![stamp(10), stamp(20)], &[0, 0]), [stamp(10), stamp(20)]);
        s.distrust();
        assert_eq!(s.renew(vec![stamp(10), stamp(20)], &[0, 0]), [None, None]);
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
