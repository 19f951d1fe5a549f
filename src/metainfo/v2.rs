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

use super::{Attributes, Error, length};
use crate::bencode::{Entries, Node};

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

/// A walk over the files of a `file tree`, in its order.
pub(super) struct Tree<'a, 't> {
    /// The folders from the root to here, each with what is left of it. The parser bounds the depth.
    open: Vec<Entries<'a, 't>>,
    /// The components from the root to the file last found.
    path: Vec<&'a [u8]>,
    /// The files compared so far.
    agreed: usize,
}

impl<'a, 't> Tree<'a, 't> {
    /// A walk from the root.
    pub(super) fn new(tree: Node<'a, 't>) -> Result<Self, Error> {
        Ok(Self { open: vec![folder(tree)?], path: Vec::new(), agreed: 0 })
    }

    /// Goes to the next file. Its path is in [`Tree::path`].
    pub(super) fn next(&mut self) -> Result<Option<(u64, Attributes)>, Error> {
        while let Some(here) = self.open.last_mut() {
            match here.next() {
                None => {
                    self.open.pop();
                    self.path.pop();
                }
                Some((b"", _)) if self.path.is_empty() => {
                    return Err(Error::Kind { key: "file tree", wanted: "a name", got: "an empty string" });
                }
                Some((b"", file)) => return entry(file).map(Some),
                Some((name, inside)) => {
                    self.open.push(folder(inside)?);
                    self.path.push(name);
                }
            }
        }
        Ok(None)
    }

    /// The components of the file last found.
    pub(super) fn path(&self) -> &[&'a [u8]] {
        &self.path
    }

    /// Compares version 1's next file with the next one here, or its end with the end here.
    pub(super) fn agree(&mut self, file: Option<(&[&[u8]], u64)>) -> Result<(), Error> {
        let next = loop {
            match self.next()? {
                Some((_, attributes)) if !attributes.is_real() => {}
                Some((len, _)) => break Some((self.path(), len)),
                None => break None,
            }
        };
        if next != file {
            return Err(Error::Hybrid { file: self.agreed });
        }
        self.agreed += 1;
        Ok(())
    }
}

fn folder<'a, 't>(node: Node<'a, 't>) -> Result<Entries<'a, 't>, Error> {
    if !node.is_dict() {
        return Err(Error::Kind { key: "file tree", wanted: "a dictionary", got: node.kind() });
    }
    Ok(node.entries())
}

fn entry(file: Node<'_, '_>) -> Result<(u64, Attributes), Error> {
    folder(file)?;
    let attributes = Attributes::of(file);
    let len = length(file, attributes)?;
    if len > 0 {
        let root = file.get(b"pieces root").ok_or(Error::Missing { key: "pieces root" })?;
        if root.as_bytes().is_none_or(|b| b.len() != 32) {
            return Err(Error::Kind { key: "pieces root", wanted: "a string of 32 bytes", got: root.kind() });
        }
    }
    Ok((len, attributes))
}
