//! The version 2 side of a torrent (BEP 52): recognised, listed and hashed, not downloaded.
//!
//! Version 2 names its files by a tree of dictionaries; an empty key marks a file:
//!
//! ```text
//! file tree   d  3:dir  d  4:name  d  0:  d 6:length i42e 11:pieces root 32:... e e e e
//! ```
//!
//! A *hybrid* has this tree and version 1's `pieces` side by side. Its two lists of files must be
//! the same one, pad files left out; otherwise two swarms would fill one folder with different
//! data. The merkle trees (`piece layers`) are not looked at here.

use super::{Attributes, Entry, Error, length};
use crate::bencode::{Entries, Node};
use crate::config::limits;

/// The only version there is (`meta version`).
pub(super) const VERSION: i64 = 2;

/// A piece is whole blocks, and a whole level of a merkle tree.
pub(super) fn check_piece_len(piece_len: u32) -> Result<(), Error> {
    if piece_len.is_power_of_two() && piece_len >= crate::id::BLOCK_LEN {
        return Ok(());
    }
    let wanted = "a power of two of at least 16384 (version 2)";
    Err(Error::Number { key: "piece length", wanted, got: piece_len.into() })
}

/// The pieces of all files together: in version 2 every file starts a new one.
pub(super) fn pieces(files: &[Entry<'_>], piece_len: u32) -> u64 {
    files.iter().map(|f| f.len.div_ceil(piece_len.into())).fold(0, u64::saturating_add)
}

/// Lists the files of a `file tree`, in its order.
pub(super) fn files<'a>(tree: Node<'a, '_>) -> Result<Vec<Entry<'a>>, Error> {
    let mut files = Vec::new();
    let mut path: Vec<&[u8]> = Vec::new();
    // The folders from the root to here, each with what is left of it. The parser bounds the depth.
    let mut open: Vec<Entries<'a, '_>> = vec![folder(tree)?];
    while let Some(here) = open.last_mut() {
        match here.next() {
            None => {
                open.pop();
                path.pop();
            }
            Some((b"", _)) if path.is_empty() => {
                return Err(Error::Kind { key: "file tree", wanted: "a name", got: "an empty string" });
            }
            Some((b"", file)) => {
                if files.len() == limits::FILES {
                    return Err(Error::TooMany { what: "files", limit: limits::FILES as u64 });
                }
                files.push(entry(path.clone(), file)?);
            }
            Some((name, inside)) => {
                open.push(folder(inside)?);
                path.push(name);
            }
        }
    }
    if files.is_empty() {
        return Err(Error::Kind { key: "file tree", wanted: "a file", got: "an empty dictionary" });
    }
    Ok(files)
}

fn folder<'a, 't>(node: Node<'a, 't>) -> Result<Entries<'a, 't>, Error> {
    if !node.is_dict() {
        return Err(Error::Kind { key: "file tree", wanted: "a dictionary", got: node.kind() });
    }
    Ok(node.entries())
}

fn entry<'a>(path: Vec<&'a [u8]>, file: Node<'a, '_>) -> Result<Entry<'a>, Error> {
    folder(file)?;
    let attributes = Attributes::of(file);
    let len = length(file, attributes)?;
    if len > 0 {
        let root = file.get(b"pieces root").ok_or(Error::Missing { key: "pieces root" })?;
        if root.as_bytes().is_none_or(|b| b.len() != 32) {
            return Err(Error::Kind { key: "pieces root", wanted: "a string of 32 bytes", got: root.kind() });
        }
    }
    Ok(Entry { path, len, attributes })
}

/// Compares the two file lists of a hybrid.
pub(super) fn check_hybrid(v1: &[Entry<'_>], v2: &[Entry<'_>]) -> Result<(), Error> {
    let real = |e: &&Entry<'_>| !e.attributes.pad && !e.attributes.symlink;
    let (mut v1, mut v2) = (v1.iter().filter(real), v2.iter().filter(real));
    for file in 0.. {
        match (v1.next(), v2.next()) {
            (None, None) => break,
            (Some(a), Some(b)) if a.path == b.path && a.len == b.len => {}
            _ => return Err(Error::Hybrid { file }),
        }
    }
    Ok(())
}
