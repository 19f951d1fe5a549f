//! Targets for torrents: files as they come, and well-formed ones with names and lengths that are not.

use std::collections::BTreeSet;

use btmio::bencode::Writer;
use btmio::cli;
use btmio::config::limits;
use btmio::id::{FileIndex, PieceIndex};
use btmio::metainfo::Metainfo;

use super::{Bytes, shown};

/// A `.torrent`: whatever is accepted has safe paths and a layout within the limits, and can be shown.
pub(super) fn metainfo(data: &[u8]) {
    let _ = Metainfo::from_info(data);
    let meta = match Metainfo::parse(data) {
        Ok(meta) => meta,
        Err(e) => return assert!(!e.to_string().contains(char::is_control), "{e:?}"),
    };
    check(&meta);
    let bare = Metainfo::from_info(&meta.info).expect("it was read as part of the whole");
    assert_eq!(
        (bare.files, bare.info_hash, bare.info_hash_v2),
        (meta.files.clone(), meta.info_hash, meta.info_hash_v2)
    );
    shown(|json, out| cli::show_torrent(&meta, json, out).expect("it is a vector"));
}

/// What must hold of every torrent that was accepted.
fn check(meta: &Metainfo) {
    assert!(meta.files.len() <= limits::FILES);
    let mut paths = BTreeSet::new();
    for f in meta.files.iter().filter(|f| !f.pad) {
        assert!(!f.path.is_empty() && f.path.len() <= limits::PATH_TOTAL, "{:?}", f.path);
        assert!(f.path.split('/').count() <= limits::PATH_DEPTH, "{:?}", f.path);
        for part in f.path.split('/') {
            assert!(!matches!(part, "" | "." | "..") && part.len() <= limits::PATH_COMPONENT, "{:?}", f.path);
            assert!(!part.contains(|c: char| c.is_control() || c == '\\'), "{:?}", f.path);
        }
        assert!(paths.insert(f.path.as_str()), "{:?} comes twice", f.path);
    }
    for path in &paths {
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        folders.for_each(|f| assert!(!paths.contains(f), "{f:?} is a file and the folder of {path:?}"));
    }
    if meta.is_v2_only() {
        return;
    }
    let layout = meta.layout();
    assert!(layout.pieces() <= limits::PIECES);
    assert_eq!(layout.pieces() as usize, meta.hashes.len());
    assert_eq!(layout.total(), meta.files.iter().map(|f| f.len).sum::<u64>());
}

/// A well-formed torrent: the first bytes choose the piece length and the files' lengths and attributes, the
/// rest is names: 0xfd ends a file's path, 0xfc a component, everything else stands for itself.
pub(super) fn names(data: &[u8]) {
    let mut b = Bytes(data);
    let piece_len = i64::from(b.u16()) * 7 + 1;
    let scale = b.u8() & 15;
    let files: Vec<&[u8]> = b.0.split(|x| *x == 0xfd).take(300).collect();
    let mut total = 0;
    let mut w = Writer::new();
    w.begin_dict().key(b"info").begin_dict().key(b"files").begin_list();
    for file in &files {
        let mut file = Bytes(file);
        let (attr, len) = (file.u8(), i64::from(file.u8()) << scale);
        w.begin_dict().key(b"attr").bytes([&b""[..], b"x", b"p", b"px", b"h", b"l", b"", b""][usize::from(attr & 7)]);
        w.key(b"length").int(len).key(b"path").begin_list();
        file.0.split(|x| *x == 0xfc).take(60).for_each(|part| _ = w.bytes(part));
        w.end().end();
        // A symbolic link has no bytes.
        total += if attr & 7 == 5 { 0 } else { len };
    }
    let pieces = (total as u64).div_ceil(piece_len as u64);
    if pieces > 5000 {
        return;
    }
    let name = files.first().copied().unwrap_or_default();
    w.end().key(b"name").bytes(name).key(b"piece length").int(piece_len);
    w.key(b"pieces").bytes(&vec![7; 20 * pieces as usize]).end().end();
    let bytes = w.into_bytes();
    let meta = Metainfo::parse(&bytes).unwrap_or_else(|e| panic!("{e}: {}", bytes.escape_ascii()));
    assert_eq!(Metainfo::parse(&bytes).as_ref(), Ok(&meta), "the same on every run");
    check(&meta);
    geometry(&meta);
}

/// Pieces, blocks and files say the same about where the bytes are.
fn geometry(meta: &Metainfo) {
    let layout = meta.layout();
    let mut all = 0;
    for i in 0..layout.pieces() {
        let piece = PieceIndex::new(i);
        let size = layout.piece_size(piece);
        let spans: Vec<_> = layout.spans(layout.piece_offset(piece), size.into()).collect();
        assert_eq!(spans.iter().map(|s| s.len).sum::<u64>(), u64::from(size));
        assert!(spans.iter().all(|s| layout.pieces_of(s.file).contains(&i)));
        let blocks: Vec<_> = (0..layout.blocks_in(piece)).map(|b| layout.block(piece, b)).collect();
        assert_eq!(blocks.iter().map(|b| b.len).sum::<u32>(), size);
        for (b, block) in (0..).zip(&blocks) {
            assert!(layout.contains(block) && layout.block_index(block) == Some(b), "{block:?}");
        }
        let pads: u64 = spans.iter().filter(|s| s.pad).map(|s| s.len).sum();
        assert_eq!(u64::from(layout.wanted_len(piece)), u64::from(size) - pads);
        all += u64::from(size);
    }
    assert_eq!(all, layout.total());
    for (i, file) in (0..).zip(layout.files()) {
        assert_eq!(layout.pieces_of(FileIndex::new(i)).is_empty(), file.len == 0);
    }
}
