//! From a TORRENT operand to a [`Metainfo`] or a [`Magnet`], each way to fail with its exit code.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::args::Source;
use super::{Failure, ShowError, escape, exit};
use crate::blocklist::Blocklist;
use crate::config::limits;
use crate::metainfo::magnet::Magnet;
use crate::metainfo::{Metainfo, MetainfoError};
use crate::session::Add;

/// What can be downloaded.
pub(super) enum Loaded {
    Torrent(Metainfo),
    Magnet(Magnet),
    /// From an earlier run.
    Remembered(Box<Add>),
}

/// Reads a torrent, or a magnet link.
///
/// # Errors
/// As [`load`]; a magnet link that is none (27), or of a version 2 torrent only (26).
pub(super) fn load_any(source: &Source) -> Result<Loaded, Failure> {
    let link = match source {
        Source::Uri(uri) if super::args::is_link(uri) => uri,
        _ => return load(source).map(Loaded::Torrent),
    };
    match Magnet::parse(link) {
        Ok(magnet) if magnet.is_v2_only() => Err(v2_only("magnet link")),
        Ok(magnet) => Ok(Loaded::Magnet(magnet)),
        Err(e) => Err(Failure::new(exit::BAD_MAGNET, format!("{source}: {}", escape(&e.to_string())))),
    }
}

/// Reads lists of blocked addresses into one. What cannot be read of them is a warning each.
///
/// # Errors
/// A file cannot be read (17), or is no such list (1).
pub(super) fn blocklists(files: &[PathBuf]) -> Result<Blocklist, Failure> {
    let mut all = Blocklist::default();
    for path in files {
        let name = escape(&path.to_string_lossy()).into_owned();
        let failed = |code, why: &dyn std::fmt::Display| Failure::new(code, format!("--blocklist: {name}: {why}"));
        let mut data = Vec::new();
        let most = limits::BLOCKLIST as u64 + 1;
        let file = open(path).map_err(|e| failed(exit::FILE_IO, &e))?;
        file.take(most).read_to_end(&mut data).map_err(|e| failed(exit::FILE_IO, &e))?;
        let parsed = Blocklist::parse(&data).map_err(|e| failed(exit::ERROR, &e))?;
        parsed.bad.iter().for_each(|bad| log::warn!("{name}: {bad}"));
        if parsed.bad_count > parsed.bad.len() {
            log::warn!("{name}: {} bad lines in all", parsed.bad_count);
        }
        log::info!("{name}: {} ranges of addresses are blocked", parsed.list.ranges());
        all.join(parsed.list);
    }
    Ok(all)
}

fn v2_only(name: &str) -> Failure {
    let text = format!("{name}: a version 2 torrent (BEP 52) without version 1 data, which is not supported");
    Failure::new(exit::BAD_TORRENT, text)
}

/// Reads and parses a torrent that can be downloaded or checked.
///
/// # Errors
/// The file cannot be read (17) or is too large (26), is not bencoded (25), or is not a torrent that
/// can be used (26); the source is one that is not known how to fetch (1).
pub(super) fn load(source: &Source) -> Result<Metainfo, Failure> {
    let name = source.to_string();
    let data = match source {
        Source::Stdin => read(io::stdin().lock(), &name),
        Source::File(path) => match open(path) {
            Ok(file) => read(file, &name),
            Err(e) => Err(Failure::new(exit::FILE_IO, format!("{name}: {e}"))),
        },
        Source::Uri(_) => Err(Failure::new(
            exit::ERROR,
            format!("{name}: a .torrent file is needed here, not a magnet link, an info hash or a web address"),
        )),
    }?;
    let meta = Metainfo::parse(&data).map_err(|e| metainfo_failure(&name, &e))?;
    if meta.is_v2_only() {
        return Err(v2_only(&name));
    }
    Ok(meta)
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    // Reading a folder would fail too, but some systems word it badly.
    if file.metadata()?.is_dir() { Err(io::Error::other("is a folder, wanted a torrent file")) } else { Ok(file) }
}

fn read(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::new();
    from.take(limits::TORRENT_FILE as u64 + 1)
        .read_to_end(&mut data)
        .map_err(|e| Failure::new(exit::FILE_IO, format!("{name}: {e}")))?;
    if data.len() > limits::TORRENT_FILE {
        return Err(Failure::new(
            exit::BAD_TORRENT,
            format!("{name}: larger than {} MiB, which no torrent file is", limits::TORRENT_FILE >> 20),
        ));
    }
    Ok(data)
}

fn metainfo_failure(name: &str, e: &MetainfoError) -> Failure {
    let code = if e.is_bencode() { exit::BAD_BENCODE } else { exit::BAD_TORRENT };
    Failure::new(code, format!("{name}: {}", escape(&e.to_string())))
}

/// The failure of `btmio show`.
pub(super) fn show_failure(e: &ShowError) -> Failure {
    match e {
        ShowError::Write(e) => Failure::stdout(e),
        e => Failure::new(e.exit_code(), e.to_string()),
    }
}
