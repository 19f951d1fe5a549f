//! Torrents in `testdata/torrents` against facts found by other programs, and torrents that lie.

use super::*;
use crate::bencode::Writer;
use crate::id::{FileIndex, PieceIndex};

macro_rules! torrents {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../../testdata/torrents/", $name, ".torrent")).as_slice())),*]
    };
}

const TORRENTS: [(&str, &[u8]); 10] =
    torrents!("empty", "hybrid", "hybrid-single", "multi", "names", "pads", "single", "unsorted", "v2", "v2-single");

fn read(name: &str) -> Metainfo {
    let (_, bytes) = TORRENTS.iter().find(|(n, _)| *n == name).expect("a torrent of the table");
    Metainfo::parse(bytes).expect(name)
}

fn paths(t: &Metainfo) -> Vec<(&str, u64)> {
    t.files.iter().filter(|f| !f.pad).map(|f| (f.path.as_str(), f.len)).collect()
}

/// What must hold of any torrent that was accepted.
fn check(t: &Metainfo) {
    let layout = t.layout();
    assert!(t.piece_len > 0);
    assert!(t.info_hash.is_some() || t.info_hash_v2.is_some());
    assert_eq!(t.hashes.len() as u32, if t.is_v2_only() { 0 } else { layout.pieces() });
    let mut seen = std::collections::BTreeSet::new();
    for f in t.files.iter().filter(|f| !f.pad) {
        assert!(seen.insert(&f.path), "{}", f.path);
        assert!(f.path.len() <= limits::PATH_TOTAL && f.path.split('/').count() <= limits::PATH_DEPTH);
        for part in f.path.split('/') {
            assert_eq!(names::component(part.as_bytes()), part);
            assert!(!part.is_empty());
        }
    }
}

#[test]
fn hashes_agree_with_other_programs() {
    // Python's hashlib over the slice that an independent reader cut out; the same in libtorrent 2.1.1.
    let table: [(&str, Option<&str>, Option<&str>, u64); 10] = [
        ("empty", Some("a4b76033facaa903fd7a03763f2ef850243ce983"), None, 0),
        (
            "hybrid",
            Some("c6b69fbd3c1f9bf06b93cdcd240e72289dece3c2"),
            Some("24538c94d3fe113a7d8e51d33ed6c242b8bba1c3bc0436124e7289069b86eb6f"),
            70_007,
        ),
        (
            "hybrid-single",
            Some("3f4b8d307b5b54eefaeb4df0971cd3072bfcc90b"),
            Some("aae4ae7713bb9dd4ab1e8d0c641caf3dad46d5c205e80f9c46883b9a43ef154a"),
            40_000,
        ),
        ("multi", Some("a77e24e839229b5f84cb8d19879a46300cdd2e9b"), None, 110_010),
        ("names", Some("8e53726069a2f8fda83eae077db53aeb02b9828f"), None, 18),
        ("pads", Some("d6ab808a208997121518451e785fb5dd02071383"), None, 25_000),
        ("single", Some("f84e046ba20d1e5579efdce40c536c0c4166afa2"), None, 100_001),
        ("unsorted", Some("4e020a1049b85d521c27e59c41c4c0d10b3eb369"), None, 30_000),
        ("v2", None, Some("51967a8f8b7670aad6f0d12f4e9857c69accde8c568531ada143c77516b59f14"), 70_007),
        ("v2-single", None, Some("d5450ea54d9257cfddb3e6e5d2462f2df78db65bea32e5ee02c93f0bc8d5c43c"), 40_000),
    ];
    for ((name, bytes), (row, v1, v2, size)) in TORRENTS.iter().zip(table) {
        assert_eq!(*name, row);
        let t = Metainfo::parse(bytes).expect(name);
        assert_eq!(t.info_hash.map(|h| h.to_string()).as_deref(), v1, "{name}");
        assert_eq!(t.info_hash_v2.map(|h| h.to_string()).as_deref(), v2, "{name}");
        assert_eq!(t.size(), size, "{name}");
        check(&t);

        let bare = Metainfo::from_info(&t.info).expect(name);
        let cut =
            Metainfo { trackers: vec![], url_seeds: vec![], comment: None, created_by: None, creation_date: None, ..t };
        assert_eq!(bare, cut, "{name}: from_info must say what parse says");
    }
}

#[test]
fn a_single_file_and_all_that_surrounds_it() {
    let t = read("single");
    assert_eq!(paths(&t), [("single.bin", 100_001)]);
    assert_eq!((t.piece_len, t.hashes.len(), t.private), (32_768, 4, false));
    assert_eq!(
        t.trackers,
        [vec!["http://a.example/announce?passkey=1", "udp://b.example:6969"], vec!["http://c.example/announce"]],
        "empty tiers, empty and disabled URLs and doubles are dropped, `announce` is replaced"
    );
    assert_eq!(t.url_seeds, ["http://seed.example/files/"]);
    assert_eq!(t.comment.as_deref(), Some("one file"));
    assert_eq!(t.created_by.as_deref(), Some("by hand"));
    assert_eq!(t.creation_date, Some(1_700_000_000));
}

#[test]
fn several_files_with_attributes() {
    let t = read("multi");
    let files: Vec<_> = t.files.iter().map(|f| (f.path.as_str(), f.len, f.executable)).collect();
    assert_eq!(
        files,
        [
            ("multi/a.txt", 10, false),
            ("multi/empty", 0, false),
            ("multi/sub/run.sh", 40_000, true),
            ("multi/sub/deep/b.bin", 70_000, false)
        ],
        "and the symbolic link is not there"
    );
    assert!(t.private);
    assert_eq!(t.trackers, [["udp://tracker.example:1337/announce"]]);
    assert_eq!(t.url_seeds, ["http://s1.example/", "http://s2.example/"]);
}

#[test]
fn pad_files_have_a_place_but_no_name_to_give() {
    let t = read("pads");
    assert_eq!(paths(&t), [("pads/a", 5000), ("pads/b", 20_000)]);
    let layout = t.layout();
    assert_eq!((layout.total(), layout.pieces()), (49_152, 3));
    assert_eq!(layout.wanted_len(PieceIndex::new(0)), 5000);
    assert_eq!(layout.pieces_of(FileIndex::new(2)), 1..3);
}

#[test]
fn keys_out_of_order_are_hashed_as_they_stand_and_the_first_of_two_counts() {
    let t = read("unsorted");
    assert_eq!(paths(&t), [("unsorted", 30_000)]);
    assert_eq!((t.piece_len, t.hashes.len()), (16_384, 2));
}

#[test]
fn odd_names_become_safe_ones() {
    let long = format!(".._odd/{}.mkv", "n".repeat(251));
    let expected = [
        ".._odd/x",
        ".._odd/_etc_passwd",
        ".._odd/.._.._w",
        ".._odd/C__x",
        ".._odd/_CON",
        ".._odd/_aux.txt",
        ".._odd/tail",
        ".._odd/préféré.txt",
        ".._odd/dup.txt",
        ".._odd/Dup.txt",
        ".._odd/d (1)",
        ".._odd/d/in",
        ".._odd/unnamed",
        ".._odd/bad__.bin",
        ".._odd/esc_[31m",
        ".._odd/rtl_gpj.exe",
        &long,
        ".._odd/nul_.txt",
        ".._odd/légacy",
    ];
    assert_eq!(paths(&read("names")).iter().map(|&(p, _)| p).collect::<Vec<_>>(), expected);
}

#[test]
fn version_2_is_listed_and_a_hybrid_is_read_by_its_first_version() {
    let files = [("tree/a.bin", 50_000), ("tree/sub/b.bin", 20_000), ("tree/sub/empty", 0), ("tree/z.txt", 7)];
    let (hybrid, v2) = (read("hybrid"), read("v2"));
    assert_eq!(paths(&hybrid), files);
    assert_eq!(paths(&v2), files);
    assert_eq!(hybrid.hashes.len(), 7);
    assert!(v2.is_v2_only() && !hybrid.is_v2_only());
    assert_eq!(hybrid.layout().total(), 114_688);
    assert_eq!(paths(&read("v2-single")), [("one.bin", 40_000)]);
    assert_eq!(paths(&read("hybrid-single")), [("one.bin", 40_000)]);
}

#[test]
fn nothing_but_empty_files_is_a_torrent_of_no_pieces() {
    let t = read("empty");
    assert_eq!(paths(&t), [("empty/a", 0), ("empty/b", 0)]);
    assert_eq!((t.hashes.len(), t.layout().pieces()), (0, 0));
}

/// An info dictionary from its parts, each a key and its bencoded value.
fn info(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin_dict();
    let mut parts = parts.to_vec();
    parts.sort_unstable();
    for (key, value) in parts {
        w.key(key.as_bytes()).raw(value.as_bytes());
    }
    w.end();
    w.into_bytes()
}

const HASH: &str = "20:aaaaaaaaaaaaaaaaaaaa";

fn single(length: &str, piece_len: &str, pieces: &str) -> Result<Metainfo, Error> {
    Metainfo::from_info(&info(&[("name", "1:n"), ("length", length), ("piece length", piece_len), ("pieces", pieces)]))
}

#[test]
fn geometry_is_checked() {
    use Error::{Hashes, Kind, Number, PieceCount, TooMany};
    assert_eq!(single("i1e", "i1e", HASH).expect("one byte").hashes.len(), 1);
    assert!(single("i1e", "i268435456e", HASH).is_ok());
    for (length, piece_len, pieces, wanted) in [
        ("i1e", "i0e", HASH, Number { key: "piece length", wanted: "1 to 268435456", got: 0 }),
        ("i1e", "i-1e", HASH, Number { key: "piece length", wanted: "1 to 268435456", got: -1 }),
        ("i1e", "i268435457e", HASH, Number { key: "piece length", wanted: "1 to 268435456", got: 268_435_457 }),
        ("i1e", "i4294967296e", HASH, Number { key: "piece length", wanted: "1 to 268435456", got: 1 << 32 }),
        ("i1e", "1:1", HASH, Kind { key: "piece length", wanted: "an integer", got: "a string" }),
        ("i-1e", "i1e", HASH, Number { key: "length", wanted: "0 or more", got: -1 }),
        ("le", "i1e", HASH, Kind { key: "length", wanted: "an integer", got: "a list" }),
        ("i1e", "i1e", "19:aaaaaaaaaaaaaaaaaaa", Hashes { got: 19 }),
        ("i1e", "i1e", "0:", PieceCount { wanted: 1, got: 0 }),
        ("i0e", "i1e", HASH, PieceCount { wanted: 0, got: 1 }),
        ("i17e", "i16e", HASH, PieceCount { wanted: 2, got: 1 }),
        ("i9223372036854775807e", "i1e", HASH, TooMany { what: "pieces", limit: limits::PIECES.into() }),
        ("i1e", "i1e", "de", Kind { key: "pieces", wanted: "a string", got: "a dictionary" }),
    ] {
        let got = single(length, piece_len, pieces);
        assert_eq!(got, Err(wanted), "{length} {piece_len} {pieces}");
    }
    assert!(single("i9223372036854775808e", "i1e", HASH).is_err_and(|e| e.is_bencode()));
    assert!(single("i-1e", "i1e", HASH).is_err_and(|e| !e.is_bencode()));
}

fn multi(files: &str) -> Result<Metainfo, Error> {
    Metainfo::from_info(&info(&[("name", "1:n"), ("files", files), ("piece length", "i16e"), ("pieces", HASH)]))
}

#[test]
fn file_lists_are_checked() {
    let big = "d6:lengthi9223372036854775807e4:pathl1:aee";
    assert_eq!(multi(&format!("l{big}{big}{big}e")), Err(Error::Overflow));
    assert_eq!(multi("le"), Err(Error::Kind { key: "files", wanted: "a file", got: "an empty list" }));
    assert_eq!(multi("de"), Err(Error::Kind { key: "files", wanted: "a list", got: "a dictionary" }));
    assert_eq!(multi("l1:xe"), Err(Error::Kind { key: "files", wanted: "dictionaries", got: "a string" }));
    assert_eq!(multi("ld4:pathl1:aeee"), Err(Error::Missing { key: "length" }));
    assert_eq!(multi("ld6:lengthi1eee"), Err(Error::Missing { key: "path" }));
    assert_eq!(multi("ld6:lengthi1e4:path1:aee"), Err(Error::Kind { key: "path", wanted: "a list", got: "a string" }));
    assert_eq!(
        multi("ld6:lengthi1e4:pathli1eeee"),
        Err(Error::Kind { key: "path", wanted: "strings", got: "an integer" })
    );
    let link = "d4:attr1:l6:lengthi5e4:pathl1:lee";
    let t = multi(&format!("l{link}d6:lengthi1e4:pathl1:l1:xeee")).expect("a link and a file beneath it");
    assert_eq!(paths(&t), [("n/l/x", 1)]);
}

#[test]
fn limits_hold_at_the_edge() {
    let file = "d6:lengthi0e4:pathl1:aee";
    let list = |n| format!("l{}e", file.repeat(n));
    let no_pieces = |n: usize| {
        Metainfo::from_info(&info(&[("name", "1:n"), ("files", &list(n)), ("piece length", "i16e"), ("pieces", "0:")]))
    };
    let t = no_pieces(limits::FILES).expect("as many files as there may be");
    assert_eq!(t.files[limits::FILES - 1].path, format!("n/a ({})", limits::FILES - 1));
    let limit = limits::FILES as u64;
    assert_eq!(no_pieces(limits::FILES + 1), Err(Error::TooMany { what: "files", limit }));

    let tree = |pieces: u64| {
        let file = format!("d1:nd0:d6:lengthi{}e11:pieces root32:{}eee", pieces * 16_384, "r".repeat(32));
        let parts = [("name", "1:n"), ("file tree", &*file), ("meta version", "i2e"), ("piece length", "i16384e")];
        Metainfo::from_info(&info(&parts))
    };
    assert!(tree(limits::PIECES.into()).is_ok(), "as many pieces as there may be");
    let limit = limits::PIECES.into();
    assert_eq!(tree(u64::from(limits::PIECES) + 1), Err(Error::TooMany { what: "pieces", limit }));

    let room = limits::TORRENT_FILE - b"d7:comment10485000:".len();
    let info = info(&[("length", "i1e"), ("name", "1:n"), ("piece length", "i1e"), ("pieces", HASH)]);
    let comment = room - info.len() - b"4:infoe".len();
    let full = [format!("d7:comment{comment}:{}4:info", "c".repeat(comment)).as_bytes(), &info, b"e"].concat();
    assert_eq!(full.len(), limits::TORRENT_FILE);
    assert!(Metainfo::parse(&full).is_ok(), "as long as it may be");
    // A million hashes make more than TORRENT_FILE, so that this limit comes first.
    let long = vec![b'x'; limits::TORRENT_FILE + 1];
    assert_eq!(Metainfo::parse(&long), Err(Error::Size { got: long.len() }));
}

#[test]
fn what_is_no_torrent_says_so() {
    assert_eq!(Metainfo::parse(b"de"), Err(Error::Missing { key: "info" }));
    assert_eq!(Metainfo::parse(b"le").map_err(|e| e.is_bencode()), Err(false));
    assert_eq!(Metainfo::parse(b"d4:info1:xe").map_err(|e| e.is_bencode()), Err(false));
    assert_eq!(Metainfo::parse(b"").map_err(|e| e.is_bencode()), Err(true));
    assert_eq!(Metainfo::parse(b"d4:infodee ").map_err(|e| e.is_bencode()), Err(true));
    assert_eq!(Metainfo::parse(b"d4:infodee"), Err(Error::Missing { key: "pieces" }));
    let v3 = info(&[("meta version", "i3e"), ("piece length", "i16384e")]);
    assert_eq!(Metainfo::from_info(&v3), Err(Error::Number { key: "meta version", wanted: "2", got: 3 }));
}

#[test]
fn a_name_that_is_nothing_is_replaced_by_the_hash() {
    for name in ["0:", "2:..", "1:.", "3:  ."] {
        let raw = info(&[("name", name), ("length", "i1e"), ("piece length", "i1e"), ("pieces", HASH)]);
        let t = Metainfo::from_info(&raw).expect(name);
        assert_eq!(Some(t.name.clone()), t.info_hash.map(|h| h.to_string()));
        assert_eq!(paths(&t), [(t.name.as_str(), 1)]);
    }
    let raw =
        info(&[("name", "1:a"), ("name.utf-8", "1:b"), ("length", "i1e"), ("piece length", "i1e"), ("pieces", HASH)]);
    assert_eq!(Metainfo::from_info(&raw).expect("two names").name, "b");
}

#[test]
fn only_the_number_one_makes_a_torrent_private() {
    for (value, private) in [("i1e", true), ("i0e", false), ("i2e", false), ("1:1", false)] {
        let raw =
            info(&[("name", "1:a"), ("length", "i1e"), ("piece length", "i1e"), ("pieces", HASH), ("private", value)]);
        assert_eq!(Metainfo::from_info(&raw).expect(value).private, private, "{value}");
    }
}

#[test]
fn trackers_follow_the_tiers() {
    let read = |parts: &[(&str, &str)]| {
        let inner = info(&[("name", "1:a"), ("length", "i1e"), ("piece length", "i1e"), ("pieces", HASH)]);
        let inner = String::from_utf8(inner).expect("ASCII");
        let mut parts = parts.to_vec();
        parts.push(("info", &inner));
        Metainfo::parse(&info(&parts)).expect("a torrent").trackers
    };
    let none: [[&str; 1]; 0] = [];
    assert_eq!(read(&[]), none);
    assert_eq!(read(&[("announce", "1:a")]), [["a"]]);
    assert_eq!(read(&[("announce", "1:a"), ("announce-list", "llel0:ee")]), [["a"]], "nothing in the list");
    assert_eq!(read(&[("announce", "1:a"), ("announce-list", "l1:b1:ce")]), [["b"], ["c"]], "no inner lists");
    assert_eq!(read(&[("announce", "le"), ("announce-list", "i1e")]), none);
    let many: String = (100..400).map(|i| format!("l3:{i}e")).collect();
    assert_eq!(read(&[("announce-list", &format!("l{many}e"))]).len(), limits::TRACKERS);
}

#[test]
fn a_hybrid_whose_sides_differ_is_refused() {
    let root = format!("32:{}", "r".repeat(32));
    let tree = |name: &str, len: u32| format!("d1:{name}d0:d6:lengthi{len}e11:pieces root{root}eee");
    let hybrid = |files: &str, tree: &str| {
        Metainfo::from_info(&info(&[
            ("name", "1:n"),
            ("files", files),
            ("file tree", tree),
            ("meta version", "i2e"),
            ("piece length", "i16384e"),
            ("pieces", HASH),
        ]))
    };
    let files = "ld6:lengthi5e4:pathl1:aeed4:attr1:p6:lengthi9eee";
    assert!(hybrid(files, &tree("a", 5)).is_ok());
    assert_eq!(hybrid(files, &tree("b", 5)), Err(Error::Hybrid { file: 0 }));
    assert_eq!(hybrid(files, &tree("a", 6)), Err(Error::Hybrid { file: 0 }));
    let more = format!("{}{}", tree("a", 5).strip_suffix('e').expect("a dict"), &tree("b", 5)[1..]);
    assert_eq!(hybrid(files, &more), Err(Error::Hybrid { file: 1 }));
    let kind = |got| Error::Kind { key: "file tree", wanted: "a dictionary", got };
    assert_eq!(hybrid(files, "le"), Err(kind("a list")));
    assert_eq!(hybrid(files, "d1:ai1ee"), Err(kind("an integer")));
    assert_eq!(hybrid(files, "d1:ad0:i1eee"), Err(kind("an integer")));
    assert!(matches!(hybrid(files, "d0:d6:lengthi1eee"), Err(Error::Kind { wanted: "a name", .. })));
    assert_eq!(hybrid(files, "de"), Err(Error::Hybrid { file: 0 }));
    assert_eq!(hybrid(files, "d1:ad0:d6:lengthi1eeee"), Err(Error::Missing { key: "pieces root" }));
    let short = "d1:ad0:d6:lengthi1e11:pieces root1:reee";
    assert!(matches!(hybrid(files, short), Err(Error::Kind { key: "pieces root", .. })));
    let link = format!("d1:Ld0:d4:attr1:l6:lengthi0eee{}", &tree("a", 5)[1..]);
    assert!(hybrid(files, &link).is_ok(), "links are compared as little as pad files");
}

#[test]
fn version_2_has_files() {
    let read = |tree: &str| {
        let parts = [("name", "1:n"), ("file tree", tree), ("meta version", "i2e"), ("piece length", "i16384e")];
        Metainfo::from_info(&info(&parts))
    };
    assert!(matches!(read("de"), Err(Error::Kind { got: "an empty dictionary", .. })));
    let file = "d0:d6:lengthi0eee";
    assert_eq!(paths(&read(&format!("d1:n{file}e")).expect("one")), [("n", 0)]);
    assert_eq!(paths(&read(&format!("d1:m{file}e")).expect("one")), [("n/m", 0)]);
    assert_eq!(paths(&read(&format!("d1:nd1:n{file}ee")).expect("one")), [("n/n/n", 0)]);
    assert_eq!(paths(&read(&format!("d1:m{file}1:n{file}e")).expect("two")), [("n/m", 0), ("n/n", 0)]);
    let link = format!("d1:md0:d4:attr1:l6:lengthi0eee1:n{file}e");
    assert_eq!(paths(&read(&link).expect("a link and a file")), [("n/n", 0)]);
    let large = format!("d1:nd0:d6:lengthi{}e11:pieces root32:{}eee", 1u64 << 40, "r".repeat(32));
    assert_eq!(read(&large), Err(Error::TooMany { what: "pieces", limit: limits::PIECES.into() }));
}

#[test]
fn version_2_wants_whole_levels_of_a_tree() {
    for (piece_len, ok) in [(16_384, true), (8192, false), (49_152, false), (1 << 20, true)] {
        let raw = info(&[
            ("name", "1:n"),
            ("file tree", "d1:ad0:d6:lengthi0eeee"),
            ("meta version", "i2e"),
            ("piece length", &format!("i{piece_len}e")),
        ]);
        assert_eq!(Metainfo::from_info(&raw).is_ok(), ok, "{piece_len}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for (name, bytes) in TORRENTS {
        for n in 0..bytes.len() {
            assert!(Metainfo::parse(&bytes[..n]).is_err_and(|e| e.is_bencode()), "{name} cut at {n}");
        }
    }
}

#[test]
fn flipped_bytes_never_panic_and_what_is_accepted_is_legal() {
    let mut rng = crate::rng::seeded(7);
    let mut accepted = 0;
    for (_, bytes) in TORRENTS {
        for _ in 0..3000 {
            let mut bytes = bytes.to_vec();
            for _ in 0..rng.u32(1..4) {
                let i = rng.usize(..bytes.len());
                bytes[i] =
                    if rng.bool() { rng.u8(..) } else { *rng.choice(b"ilde0123456789:-./\\").expect("not empty") };
            }
            if let Ok(t) = Metainfo::parse(&bytes) {
                check(&t);
                accepted += 1;
            }
        }
    }
    assert!(accepted > 1000, "too few to mean anything: {accepted}");
}
