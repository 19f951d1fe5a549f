//! Torrents whose info dictionary comes later: from a magnet link to a whole [`Metainfo`], and to a `.torrent`.
//!
//! [`Metainfo::of_magnet`] knows a torrent's hash, trackers and web seeds, but no files and no pieces;
//! [`Metainfo::learn`] takes the info dictionary and puts the rest in. What a link said of trackers and web seeds
//! stays, because the dictionary says nothing of them.

use std::fmt;

use sha1::{Digest, Sha1};

use super::magnet::Magnet;
use super::{Metainfo, MetainfoError, names};
use crate::bencode::Writer;
use crate::id::InfoHash;

/// Why an info dictionary is not the torrent's, or of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LearnError {
    /// Its hash is another one.
    Hash(InfoHash),
    /// Its version 2 hash is not the one of the magnet link.
    HashV2,
    /// The hash is right, but the torrent is not.
    Torrent(MetainfoError),
}

impl fmt::Display for LearnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(got) => write!(f, "metadata: its hash is {got}"),
            Self::HashV2 => f.write_str("metadata: its version 2 hash is not the one in the magnet link"),
            Self::Torrent(e) => write!(f, "metadata: {e}"),
        }
    }
}

impl std::error::Error for LearnError {}

impl Metainfo {
    /// What a magnet link says. `None` when it has no version 1 hash.
    pub fn of_magnet(magnet: &Magnet) -> Option<Self> {
        let info_hash = magnet.info_hash?;
        let name = magnet.name.as_deref().map(|n| names::component(n.as_bytes()).into_owned());
        Some(Self {
            name: name.filter(|n| !n.is_empty()).unwrap_or_else(|| info_hash.to_string()),
            info_hash: Some(info_hash),
            info_hash_v2: magnet.info_hash_v2,
            piece_len: crate::id::BLOCK_LEN,
            hashes: Box::default(),
            files: Vec::new(),
            private: false,
            trackers: magnet.trackers.iter().map(|t| vec![t.clone()]).collect(),
            url_seeds: magnet.url_seeds.clone(),
            comment: None,
            created_by: None,
            creation_date: None,
            info: Vec::new(),
        })
    }

    /// Its files and pieces are known. Every torrent has a file.
    pub fn is_known(&self) -> bool {
        !self.files.is_empty()
    }

    /// Takes the info dictionary, after its hash has been checked.
    ///
    /// # Errors
    /// The dictionary is another torrent's, or the torrent cannot be used; then nothing changes.
    pub fn learn(&mut self, info: &[u8]) -> Result<(), LearnError> {
        let hash = InfoHash::new(Sha1::digest(info).into());
        if self.info_hash != Some(hash) {
            return Err(LearnError::Hash(hash));
        }
        let mut whole = Self::from_info(info).map_err(LearnError::Torrent)?;
        if self.info_hash_v2.is_some() && self.info_hash_v2 != whole.info_hash_v2 {
            return Err(LearnError::HashV2);
        }
        if whole.is_v2_only() {
            return Err(LearnError::Torrent(MetainfoError::Missing { key: "pieces" }));
        }
        whole.trackers = std::mem::take(&mut self.trackers);
        whole.url_seeds = std::mem::take(&mut self.url_seeds);
        *self = whole;
        Ok(())
    }

    /// A `.torrent` file of it: the info dictionary byte for byte, its trackers and web seeds. Comment and origin
    /// are left out.
    pub fn to_torrent(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.begin_dict();
        let urls = || self.trackers.iter().flatten();
        if let Some(first) = urls().next() {
            w.key(b"announce").bytes(first.as_bytes());
        }
        if urls().count() > 1 {
            w.key(b"announce-list").begin_list();
            for tier in &self.trackers {
                w.begin_list();
                for url in tier {
                    w.bytes(url.as_bytes());
                }
                w.end();
            }
            w.end();
        }
        w.key(b"info").raw(&self.info);
        if !self.url_seeds.is_empty() {
            w.key(b"url-list").begin_list();
            for url in &self.url_seeds {
                w.bytes(url.as_bytes());
            }
            w.end();
        }
        w.end();
        w.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] = b"d6:lengthi5e4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa3:xyzi1ee";

    fn link(more: &str) -> Metainfo {
        let hash = InfoHash::new(Sha1::digest(INFO).into());
        let magnet = Magnet::parse(&format!("magnet:?xt=urn:btih:{hash}{more}")).expect("a link");
        Metainfo::of_magnet(&magnet).expect("version 1")
    }

    #[test]
    fn a_link_becomes_a_torrent_and_a_file() {
        let mut m = link("&dn=..%2fx&tr=http://t/a&tr=udp://u:1&ws=http://w/");
        assert_eq!((m.name.as_str(), m.is_known()), (".._x", false));
        m.learn(INFO).expect("it is the one");
        assert_eq!((m.name.as_str(), m.files.len(), m.size(), m.is_known()), ("a", 1, 5, true));
        let again = Metainfo::parse(&m.to_torrent()).expect("a torrent");
        assert_eq!(again, m);
        assert_eq!(again.trackers, [["http://t/a"], ["udp://u:1"]]);
        assert_eq!(again.url_seeds, ["http://w/"]);
        let mut bare = link("");
        assert_eq!(bare.name.len(), 40);
        bare.learn(INFO).expect("it is the one");
        assert_eq!(Metainfo::parse(&bare.to_torrent()), Ok(bare));
    }

    #[test]
    fn another_dictionary_is_refused_and_changes_nothing() {
        let mut m = link("&tr=http://t/a");
        let before = m.clone();
        let other = INFO.escape_ascii().to_string().replace("xyzi1e", "xyzi2e").into_bytes();
        assert!(matches!(m.learn(&other), Err(LearnError::Hash(_))));
        assert_eq!(m, before);
        let v2 = format!("&xt=urn:btmh:1220{}", "ab".repeat(32));
        assert_eq!(link(&v2).learn(INFO), Err(LearnError::HashV2));
        let bad = b"d4:name1:ae";
        let magnet = Magnet::parse(&InfoHash::new(Sha1::digest(bad).into()).to_string()).expect("a hash");
        let mut m = Metainfo::of_magnet(&magnet).expect("version 1");
        assert!(m.learn(bad).unwrap_err().to_string().contains("'pieces' is missing"));
    }
}
