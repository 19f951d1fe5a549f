//! The API's error: what a command could not do, and why.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::id::InfoHash;
use crate::metainfo::MetainfoError;

/// Why a command failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The torrent file is not one.
    Metainfo(MetainfoError),
    /// A version 2 torrent (BEP 52), which is not supported yet.
    V2Only,
    /// The session has this torrent already.
    Duplicate(InfoHash),
    /// Another process has this torrent, with the same state folder.
    Busy(InfoHash),
    /// The session has no such torrent.
    NoSuchTorrent,
    /// A list has the wrong number of entries, one a file being wanted.
    FileCount {
        /// Files in the torrent.
        wanted: usize,
        /// Entries given.
        got: usize,
    },
    /// Listening for peers failed.
    Listen {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or folder could not be used.
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused something else.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metainfo(e) => e.fmt(f),
            Self::V2Only => f.write_str(
                "this is a version 2 torrent (BEP 52) without a version 1 part; those are not supported yet",
            ),
            Self::Duplicate(h) => write!(f, "the torrent {h} is there already"),
            Self::Busy(h) => write!(f, "the torrent {h} is in use by another process that has the same state folder"),
            Self::NoSuchTorrent => f.write_str("there is no such torrent"),
            Self::FileCount { wanted, got } => {
                write!(f, "the torrent has {wanted} files, but the list has {got} entries")
            }
            Self::Listen { what, source } => write!(f, "cannot listen on {what}: {source}"),
            Self::File { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Metainfo(e) => Some(e),
            Self::Listen { source, .. } | Self::File { source, .. } | Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl From<MetainfoError> for Error {
    fn from(e: MetainfoError) -> Self {
        Self::Metainfo(e)
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}
