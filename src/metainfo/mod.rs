//! (being written)
use crate::bencode;
use crate::id::{InfoHash, InfoHashV2};
use crate::torrent::layout::{Layout, LayoutFile};
use std::fmt;

/// One file of a torrent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Path below the download folder, `/`-separated, safe and unique among the torrent's files.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// A pad file (BEP 47).
    pub pad: bool,
    /// To be created with the executable bits set (BEP 47).
    pub executable: bool,
}

/// What a `.torrent` file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metainfo {
    /// The name, made safe to be a file name.
    pub name: String,
    /// SHA-1 of the raw info dictionary, if the torrent has a version 1 side.
    pub info_hash: Option<InfoHash>,
    /// SHA-256 of the raw info dictionary, if the torrent has a version 2 side.
    pub info_hash_v2: Option<InfoHashV2>,
    /// Bytes in a piece.
    pub piece_len: u32,
    /// SHA-1 of every piece; empty for a version 2 torrent.
    pub hashes: Box<[[u8; 20]]>,
    /// The files in order, pad files included.
    pub files: Vec<File>,
    /// Only the torrent's own trackers may be asked for peers (BEP 27).
    pub private: bool,
    /// Tracker URLs by tier (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub url_seeds: Vec<String>,
    /// Free text.
    pub comment: Option<String>,
    /// The program that made the torrent.
    pub created_by: Option<String>,
    /// Seconds since 1970.
    pub creation_date: Option<i64>,
    /// The raw info dictionary.
    pub info: Vec<u8>,
}

/// Why a metainfo was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetainfoError {
    /// Not bencode.
    Bencode(bencode::Error),
    /// A key is missing.
    Missing(&'static str),
}

impl MetainfoError {
    /// Whether the bytes were not bencode at all (against: bencode that is no torrent).
    pub fn is_bencode(&self) -> bool {
        matches!(self, Self::Bencode(_))
    }
}

impl fmt::Display for MetainfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
impl std::error::Error for MetainfoError {}

impl Metainfo {
    /// Reads a `.torrent` file.
    pub fn parse(torrent_file: &[u8]) -> Result<Self, MetainfoError> {
        let _ = torrent_file;
        Err(MetainfoError::Missing("info"))
    }

    /// Reads a bare info dictionary, as it comes from peers (BEP 9).
    pub fn from_info(info: &[u8]) -> Result<Self, MetainfoError> {
        let _ = info;
        Err(MetainfoError::Missing("info"))
    }

    /// Bytes of all files, pad files left out.
    pub fn size(&self) -> u64 {
        self.files.iter().filter(|f| !f.pad).map(|f| f.len).sum()
    }

    /// Whether the torrent has a version 2 side only.
    pub fn is_v2_only(&self) -> bool {
        self.info_hash.is_none()
    }

    /// The geometry of the version 1 side.
    pub fn layout(&self) -> Layout {
        let mut offset = 0;
        let files = self.files.iter().map(|f| {
            let at = offset;
            offset += f.len;
            LayoutFile { path: f.path.clone(), offset: at, len: f.len, pad: f.pad, executable: f.executable }
        });
        Layout::new(self.piece_len, files.collect())
    }
}
