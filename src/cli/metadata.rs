//! What the command does about magnet links: their peers' names, and `--metadata-only`.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::args::Selection;
use super::{Failure, escape, exit};
use crate::metainfo::Metainfo;
use crate::metainfo::magnet::Magnet;

/// Peers of a link that are given by name. One that cannot be found is no reason to give up.
pub(super) fn named_peers(magnet: &Magnet) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for (host, port) in magnet.peers.iter().filter(|(host, _)| host.parse::<std::net::IpAddr>().is_err()) {
        match (host.as_str(), *port).to_socket_addrs() {
            Ok(found) => out.extend(found),
            Err(e) => log::warn!("peer {}: {e}", escape(host)),
        }
    }
    out
}

/// File numbers counted from 1, as ranges counted from 0.
pub(super) fn ranges(selection: &Selection) -> Vec<(u32, u32)> {
    let end = |n: u32| if n == u32::MAX { n } else { n - 1 };
    selection.0.iter().map(|&(from, to)| (from - 1, end(to))).collect()
}

/// Writes `NAME.torrent` into the folder; a file that is there already is left alone, and is an error unless it
/// says the same.
pub(super) fn write_torrent(meta: &Metainfo, dir: &Path) -> Result<PathBuf, Failure> {
    let path = dir.join(file_name(&meta.name));
    let (bytes, shown) = (meta.to_torrent(), escape(&path.to_string_lossy()).into_owned());
    let fail = |e: io::Error| Failure::new(exit::FILE_IO, format!("{shown}: {e}"));
    fs::create_dir_all(dir).map_err(fail)?;
    // Written whole or not at all, and never over another: a link cannot replace.
    let temp =
        dir.join(format!(".{}.{}.tmp", meta.info_hash.map(|h| h.to_string()).unwrap_or_default(), std::process::id()));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&temp)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::hard_link(&temp, &path).or_else(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Err(e),
            // A file system without links.
            _ => fs::OpenOptions::new().write(true).create_new(true).open(&path)?.write_all(&bytes),
        })
    };
    let written = write();
    let _ = fs::remove_file(&temp);
    match written {
        Ok(()) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match fs::read(&path) {
            Ok(there) if there == bytes => Ok(path),
            _ => Err(Failure::new(exit::FILE_IO, format!("{shown}: there is another file of that name already"))),
        },
        Err(e) => Err(fail(e)),
    }
}

/// The torrent's name is fit for a file; with what is put behind it, it may be too long.
fn file_name(name: &str) -> String {
    const EXTENSION: &str = ".torrent";
    let mut end = name.len().min(255 - EXTENSION.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{EXTENSION}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_too_long_are_cut_between_characters() {
        assert_eq!(file_name("a"), "a.torrent");
        let long = file_name(&"é".repeat(127));
        assert!(long.len() <= 255 && long.len() > 250 && long.ends_with("é.torrent"), "{long}");
    }

    #[test]
    fn selections_count_from_zero_behind_the_scenes() {
        assert_eq!(ranges(&Selection(vec![(1, 3), (7, 7), (9, u32::MAX)])), [(0, 2), (6, 6), (8, u32::MAX)]);
    }

    #[test]
    fn a_torrent_is_written_once_and_never_over_another() {
        let dir = std::env::temp_dir().join(format!("btmio-metadata-{}", std::process::id()));
        let meta = |name: &str| {
            let info = format!("d6:lengthi0e4:name1:{name}12:piece lengthi16384e6:pieces0:e");
            Metainfo::from_info(info.as_bytes()).expect("a torrent")
        };
        let path = write_torrent(&meta("a"), &dir).expect("nothing is there");
        assert_eq!(path, dir.join("a.torrent"));
        assert_eq!(Metainfo::parse(&fs::read(&path).expect("it was written")), Ok(meta("a")));
        write_torrent(&meta("a"), &dir).expect("the same again");
        fs::write(dir.join("b.torrent"), b"precious").expect("a folder");
        assert_eq!(write_torrent(&meta("b"), &dir).expect_err("it is taken").code, exit::FILE_IO);
        assert_eq!(fs::read(dir.join("b.torrent")).expect("it is there"), b"precious");
        assert_eq!(fs::read_dir(&dir).expect("a folder").count(), 2, "nothing is left over");
        fs::remove_dir_all(&dir).expect("it is ours");
    }
}
