//! What a `.torrent` file says, checked once and in a form that can only be legal.
//!
//! ```text
//! d  8:announce ..  13:announce-list ..  8:url-list ..        whom to ask (BEP 3, 12, 19)
//!    4:info d  4:name ..  12:piece length ..  7:private i1e   hashed as it stands: the identity
//!              6:length ..  |  5:files ld 6:length .. 4:path l .. ee ..
//!              6:pieces <20 bytes a piece>                    version 1 (BEP 3)
//!              12:meta version i2e  9:file tree ..            version 2 (BEP 52)
//!    e  e
//! ```
//!
//! The info hash is taken over the raw bytes of `info`, whatever their order and whatever unknown
//! keys they hold. A hybrid is read by its version 1 side and has both hashes; a version 2 torrent
//! is listed, with its files and its hash, but has no piece hashes to download by.
//!
//! Not done here: piece layers of version 2, magnet links, making torrents, and deciding whether a
//! tracker's URL is one to be asked.
//!
//! Invariants of a [`Metainfo`]: the piece length is in `1..=PIECE_LEN`; with a version 1 side
//! there are exactly as many hashes as the files have pieces, pad files included; the sum of
//! lengths fits 64 bits; paths are safe, unique and below the download folder (see `names`).
//!
//! Accepted although wrong, because real torrents are: keys in any order, a missing name (the info
//! hash stands in), `announce-list` without inner lists, tracker URLs twice or empty, wrong kinds
//! outside `info`. Symbolic links (BEP 47) are never created: they are left out.

mod late;
pub mod magnet;
mod names;
#[cfg(test)]
mod tests;
mod v2;

use crate::bencode::{self, Node};
use crate::config::limits;
use crate::id::{InfoHash, InfoHashV2};
use crate::torrent::layout::{Layout, LayoutFile};
pub use late::LearnError;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::fmt;

/// One file of a torrent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Path below the download folder, `/`-separated, safe and unique among the torrent's files.
    /// `name` for a single file, else `name/sub/file`. Of a pad file it says nothing.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// A pad file (BEP 47): zeros that are hashed, and never requested or written.
    pub pad: bool,
    /// To be created with the executable bits set (BEP 47).
    pub executable: bool,
}

/// What a `.torrent` file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metainfo {
    /// The name, made safe to be a file name.
    pub name: String,
    /// SHA-1 of the raw info dictionary, if the torrent has a version 1 side (BEP 3).
    pub info_hash: Option<InfoHash>,
    /// SHA-256 of the raw info dictionary, if the torrent has a version 2 side (BEP 52).
    pub info_hash_v2: Option<InfoHashV2>,
    /// Bytes in a piece.
    pub piece_len: u32,
    /// SHA-1 of every piece; empty for a torrent of version 2 only.
    pub hashes: Box<[[u8; 20]]>,
    /// The files in order, pad files included.
    pub files: Vec<File>,
    /// Only the torrent's own trackers may be asked for peers (BEP 27).
    pub private: bool,
    /// Tracker URLs by tier (BEP 12), no tier empty and no URL twice. Any scheme.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19), no URL twice.
    pub url_seeds: Vec<String>,
    /// Free text, control characters included.
    pub comment: Option<String>,
    /// The program that made the torrent, control characters included.
    pub created_by: Option<String>,
    /// Seconds since 1970.
    pub creation_date: Option<i64>,
    /// The raw info dictionary, as it is hashed and served to peers (BEP 9).
    pub info: Vec<u8>,
}

/// Why a metainfo was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetainfoError {
    /// Not bencode.
    Bencode(bencode::Error),
    /// Longer than [`limits::TORRENT_FILE`].
    Size {
        /// Its length in bytes.
        got: usize,
    },
    /// A key is missing.
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value is of the wrong kind.
    Kind {
        /// The key it belongs to.
        key: &'static str,
        /// What should have come.
        wanted: &'static str,
        /// What came.
        got: &'static str,
    },
    /// A number is out of range.
    Number {
        /// The key it belongs to.
        key: &'static str,
        /// What should have come.
        wanted: &'static str,
        /// What came.
        got: i64,
    },
    /// `pieces` is not a multiple of 20 bytes.
    Hashes {
        /// Its length in bytes.
        got: usize,
    },
    /// Not as many hashes as the files have pieces.
    PieceCount {
        /// Pieces by the lengths of the files.
        wanted: u64,
        /// Hashes.
        got: u64,
    },
    /// More of something than the limit.
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The sum of the lengths does not fit 64 bits.
    Overflow,
    /// The files of version 1 and version 2 of a hybrid are not the same.
    Hybrid {
        /// The first file that differs, counted from 0 without pad files.
        file: usize,
    },
}

use MetainfoError as Error;

impl MetainfoError {
    /// Whether the bytes were not bencode at all, as against bencode that is no torrent.
    pub fn is_bencode(&self) -> bool {
        matches!(self, Self::Bencode(_))
    }
}

impl fmt::Display for MetainfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bencode(e) => e.fmt(f),
            Self::Size { got } => write!(f, "torrent: {got} bytes, more than {}", limits::TORRENT_FILE),
            Self::Missing { key } => write!(f, "torrent: '{key}' is missing"),
            Self::Kind { key, wanted, got } => write!(f, "torrent: '{key}': wanted {wanted}, got {got}"),
            Self::Number { key, wanted, got } => write!(f, "torrent: '{key}': wanted {wanted}, got {got}"),
            Self::Hashes { got } => write!(f, "torrent: 'pieces' has {got} bytes, not a multiple of 20"),
            Self::PieceCount { wanted, got } => {
                write!(f, "torrent: 'pieces' has {got} hashes, but the files make {wanted} pieces")
            }
            Self::TooMany { what, limit } => write!(f, "torrent: more than {limit} {what}"),
            Self::Overflow => write!(f, "torrent: the files are longer than 2^64 bytes"),
            Self::Hybrid { file } => {
                write!(f, "torrent: the files of version 1 and version 2 differ, first at number {file}")
            }
        }
    }
}
impl std::error::Error for MetainfoError {}

impl From<bencode::Error> for MetainfoError {
    fn from(e: bencode::Error) -> Self {
        Self::Bencode(e)
    }
}

impl Metainfo {
    /// Reads a `.torrent` file.
    ///
    /// # Errors
    /// When it is not bencode, not a torrent, contradicts itself or exceeds a limit.
    pub fn parse(torrent_file: &[u8]) -> Result<Self, MetainfoError> {
        let doc = document(torrent_file)?;
        let root = doc.root();
        if !root.is_dict() {
            return Err(Error::Kind { key: "torrent", wanted: "a dictionary", got: root.kind() });
        }
        let info = root.get(b"info").ok_or(Error::Missing { key: "info" })?;
        let mut torrent = read_info(info)?;
        torrent.trackers = trackers(root);
        torrent.url_seeds = url_seeds(root);
        torrent.comment = text(root, "comment.utf-8", "comment");
        torrent.created_by = text(root, "created by.utf-8", "created by");
        torrent.creation_date = root.get(b"creation date").and_then(Node::as_int);
        Ok(torrent)
    }

    /// Reads a bare info dictionary, as peers send it (BEP 9). Its hash is for the caller to
    /// compare.
    ///
    /// # Errors
    /// As [`Metainfo::parse`].
    pub fn from_info(info: &[u8]) -> Result<Self, MetainfoError> {
        read_info(document(info)?.root())
    }

    /// Bytes of all files, pad files left out.
    pub fn size(&self) -> u64 {
        self.files.iter().filter(|f| !f.pad).map(|f| f.len).sum()
    }

    /// Whether there is no version 1 side: such a torrent can be shown, but not downloaded.
    pub fn is_v2_only(&self) -> bool {
        self.info_hash.is_none()
    }

    /// The geometry of the version 1 side. Without one (see [`Metainfo::is_v2_only`]) its pieces
    /// are not the torrent's, because in version 2 every file starts a new piece.
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

fn document(input: &[u8]) -> Result<bencode::Doc<'_>, Error> {
    if input.len() > limits::TORRENT_FILE {
        return Err(Error::Size { got: input.len() });
    }
    Ok(bencode::parse(input)?)
}

/// What `attr` says (BEP 47).
#[derive(Clone, Copy, Default)]
struct Attributes {
    pad: bool,
    executable: bool,
    symlink: bool,
}

impl Attributes {
    fn of(file: Node<'_, '_>) -> Self {
        let attr = file.get(b"attr").and_then(Node::as_bytes).unwrap_or_default();
        let has = |letter| attr.contains(&letter);
        Self { pad: has(b'p'), executable: has(b'x'), symlink: has(b'l') }
    }

    /// Whether the file is one that is created.
    fn is_real(self) -> bool {
        !self.pad && !self.symlink
    }
}

/// Reads everything that is in the info dictionary.
fn read_info(info: Node<'_, '_>) -> Result<Metainfo, Error> {
    if !info.is_dict() {
        return Err(Error::Kind { key: "info", wanted: "a dictionary", got: info.kind() });
    }
    let version = info.get(b"meta version").and_then(Node::as_int);
    let is_v1 = info.get(b"pieces").is_some();
    let is_v2 = version == Some(v2::VERSION);
    match version {
        Some(got) if !is_v1 && !is_v2 => return Err(Error::Number { key: "meta version", wanted: "2", got }),
        None if !is_v1 => return Err(Error::Missing { key: "pieces" }),
        _ => {}
    }
    let piece_len = piece_len(info)?;
    let tree = if is_v2 {
        v2::check_piece_len(piece_len)?;
        Some(v2::Tree::new(info.get(b"file tree").ok_or(Error::Missing { key: "file tree" })?)?)
    } else {
        None
    };
    let info_hash = is_v1.then(|| InfoHash::new(Sha1::digest(info.raw()).into()));
    let info_hash_v2 = is_v2.then(|| InfoHashV2::new(Sha256::digest(info.raw()).into()));

    let raw_name = bytes(info, "name.utf-8", "name").unwrap_or_default();
    let mut name = names::component(raw_name).into_owned();
    if name.is_empty() {
        let v1 = info_hash.map(|h| h.to_string());
        name = v1.or(info_hash_v2.map(|h| h.to_string())).unwrap_or_default();
    }
    let mut files = Files { name: &name, list: Vec::new(), total: 0 };
    match tree {
        Some(tree) if !is_v1 => files.add_v2(tree, raw_name)?,
        tree => files.add_v1(info, raw_name, tree)?,
    }
    names::make_unique(&mut files.list);
    let pieces = if is_v1 {
        files.total.div_ceil(piece_len.into())
    } else {
        files.list.iter().map(|f| f.len.div_ceil(piece_len.into())).fold(0, u64::saturating_add)
    };
    if pieces > limits::PIECES.into() {
        return Err(Error::TooMany { what: "pieces", limit: limits::PIECES.into() });
    }
    Ok(Metainfo {
        hashes: if is_v1 { hashes(info, pieces)? } else { Box::default() },
        files: files.list,
        name,
        info_hash,
        info_hash_v2,
        piece_len,
        private: info.get(b"private").and_then(Node::as_int) == Some(1),
        trackers: Vec::new(),
        url_seeds: Vec::new(),
        comment: None,
        created_by: None,
        creation_date: None,
        info: info.raw().to_vec(),
    })
}

fn piece_len(info: Node<'_, '_>) -> Result<u32, Error> {
    let key = "piece length";
    let node = info.get(key.as_bytes()).ok_or(Error::Missing { key })?;
    let got = node.as_int().ok_or(Error::Kind { key, wanted: "an integer", got: node.kind() })?;
    let fits = u32::try_from(got).ok().filter(|n| (1..=limits::PIECE_LEN).contains(n));
    fits.ok_or(Error::Number { key, wanted: "1 to 268435456", got })
}
const _: () = assert!(limits::PIECE_LEN == 268_435_456);

/// The `pieces` string, which must be as long as the files say.
fn hashes(info: Node<'_, '_>, wanted: u64) -> Result<Box<[[u8; 20]]>, Error> {
    let key = "pieces";
    let node = info.get(key.as_bytes()).ok_or(Error::Missing { key })?;
    let bytes = node.as_bytes().ok_or(Error::Kind { key, wanted: "a string", got: node.kind() })?;
    let chunks = bytes.chunks_exact(20);
    if !chunks.remainder().is_empty() {
        return Err(Error::Hashes { got: bytes.len() });
    }
    if wanted != chunks.len() as u64 {
        return Err(Error::PieceCount { wanted, got: chunks.len() as u64 });
    }
    Ok(chunks.map(|c| c.try_into().expect("chunks_exact gives 20 bytes")).collect())
}

/// The `length` of a file. A symbolic link has none (BEP 47).
fn length(file: Node<'_, '_>, attributes: Attributes) -> Result<u64, Error> {
    if attributes.symlink {
        return Ok(0);
    }
    let key = "length";
    let node = file.get(key.as_bytes()).ok_or(Error::Missing { key })?;
    let got = node.as_int().ok_or(Error::Kind { key, wanted: "an integer", got: node.kind() })?;
    u64::try_from(got).map_err(|_| Error::Number { key, wanted: "0 or more", got })
}

/// The files found so far, under the names they are to have.
struct Files<'n> {
    name: &'n str,
    list: Vec<File>,
    total: u64,
}

impl Files<'_> {
    fn add(&mut self, path: String, len: u64, attributes: Attributes) -> Result<(), Error> {
        if self.list.len() == limits::FILES {
            return Err(Error::TooMany { what: "files", limit: limits::FILES as u64 });
        }
        self.total = self.total.checked_add(len).ok_or(Error::Overflow)?;
        let Attributes { pad, executable, .. } = attributes;
        self.list.push(File { path, len, pad, executable });
        Ok(())
    }

    /// The files of version 1, compared on the way with those of version 2, if there are any.
    fn add_v1<'a>(
        &mut self,
        info: Node<'a, '_>,
        raw_name: &'a [u8],
        mut tree: Option<v2::Tree<'a, '_>>,
    ) -> Result<(), Error> {
        let mut agree = |file: Option<(&[&[u8]], u64)>| tree.as_mut().map_or(Ok(()), |tree| tree.agree(file));
        let key = "files";
        let Some(list) = info.get(key.as_bytes()) else {
            let attributes = Attributes { executable: Attributes::of(info).executable, ..Attributes::default() };
            let len = length(info, attributes)?;
            agree(Some((&[raw_name], len)))?;
            agree(None)?;
            return self.add(self.name.to_string(), len, attributes);
        };
        if !list.is_list() {
            return Err(Error::Kind { key, wanted: "a list", got: list.kind() });
        }
        self.list.reserve_exact(list.items().take(limits::FILES).count());
        let mut path: Vec<&[u8]> = Vec::new();
        for file in list.items() {
            if !file.is_dict() {
                return Err(Error::Kind { key, wanted: "dictionaries", got: file.kind() });
            }
            let attributes = Attributes::of(file);
            let len = length(file, attributes)?;
            v1_path(file, attributes, &mut path)?;
            if attributes.is_real() {
                agree(Some((&path, len)))?;
            }
            if !attributes.symlink {
                self.add(names::path(self.name, &path), len, attributes)?;
            }
        }
        if list.items().next().is_none() {
            return Err(Error::Kind { key, wanted: "a file", got: "an empty list" });
        }
        agree(None)
    }

    /// The files of version 2. One that has the torrent's name and is alone has no folder.
    fn add_v2(&mut self, mut tree: v2::Tree<'_, '_>, raw_name: &[u8]) -> Result<(), Error> {
        let (mut found, mut is_single) = (0, false);
        while let Some((len, attributes)) = tree.next()? {
            found += 1;
            is_single = found == 1 && tree.path() == [raw_name];
            if !attributes.symlink {
                self.add(names::path(self.name, tree.path()), len, attributes)?;
            }
        }
        match &mut self.list[..] {
            [file] if is_single => file.path = self.name.to_string(),
            _ if found == 0 => {
                return Err(Error::Kind { key: "file tree", wanted: "a file", got: "an empty dictionary" });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Puts the components of a file's path into `path`, in place of what was in it.
fn v1_path<'a>(file: Node<'a, '_>, attributes: Attributes, path: &mut Vec<&'a [u8]>) -> Result<(), Error> {
    let key = "path";
    path.clear();
    let list = match file.get(b"path.utf-8").filter(|n| n.is_list()).or_else(|| file.get(key.as_bytes())) {
        Some(list) if list.is_list() => list,
        // BEP 47 leaves the path of a pad file open.
        _ if attributes.pad => return Ok(()),
        Some(node) => return Err(Error::Kind { key, wanted: "a list", got: node.kind() }),
        None => return Err(Error::Missing { key }),
    };
    for n in list.items() {
        path.push(n.as_bytes().ok_or(Error::Kind { key, wanted: "strings", got: n.kind() })?);
    }
    Ok(())
}

/// A string under one key or, failing that, another.
fn bytes<'a>(dict: Node<'a, '_>, first: &str, second: &str) -> Option<&'a [u8]> {
    [first, second].iter().find_map(|key| dict.get(key.as_bytes())?.as_bytes())
}

fn text(dict: Node<'_, '_>, first: &str, second: &str) -> Option<String> {
    bytes(dict, first, second).map(|b| String::from_utf8_lossy(b).into_owned())
}

/// Tracker URLs by tier. `announce-list` replaces `announce`, unless nothing is in it (BEP 12).
fn trackers(root: Node<'_, '_>) -> Vec<Vec<String>> {
    let mut kept = Urls::default();
    let mut tiers: Vec<Vec<String>> = Vec::new();
    for tier in root.get(b"announce-list").into_iter().flat_map(Node::items) {
        // A string where a tier should be is a tier of one.
        let urls = std::iter::once(tier).chain(tier.items()).filter_map(|url| kept.take(url)).collect();
        tiers.push(urls);
    }
    tiers.retain(|tier| !tier.is_empty());
    if tiers.is_empty() {
        tiers.extend(root.get(b"announce").and_then(|url| kept.take(url)).map(|url| vec![url]));
    }
    tiers
}

/// Web seeds: one string or a list (BEP 19).
fn url_seeds(root: Node<'_, '_>) -> Vec<String> {
    let mut kept = Urls::default();
    let list = root.get(b"url-list").into_iter().flat_map(|n| std::iter::once(n).chain(n.items()));
    list.filter_map(|url| kept.take(url)).collect()
}

/// The URLs taken so far, to take none twice and not too many.
#[derive(Default)]
struct Urls(Vec<String>);

impl Urls {
    fn take(&mut self, url: Node<'_, '_>) -> Option<String> {
        // Some programs write a `*` in front to switch a tracker off.
        let url = url.as_str()?.trim();
        if url.is_empty() || url.starts_with('*') || self.0.len() == limits::TRACKERS || self.0.iter().any(|u| u == url)
        {
            return None;
        }
        self.0.push(url.to_string());
        Some(url.to_string())
    }
}
