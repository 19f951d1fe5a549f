//! Names that a stranger chose: whatever they are, all files land inside the folder, each in its own place.

mod common;

use std::collections::BTreeSet;
use std::fs;

use btmio::api::{Add, State};
use btmio::metainfo::Metainfo;
use common::{Node, Temp, complete, files_below, noise, piece_hashes, torrent, until};

const PIECE: usize = 16 << 10;
const LEN: usize = 10_000;

/// Seeds and fetches files of these paths; returns where they lie, and leaves the folders of both in `temp`.
fn fetch(temp: &Temp, name: &[u8], paths: &[Vec<&[u8]>]) -> Vec<String> {
    let data: Vec<Vec<u8>> = (0..paths.len()).map(|i| noise(LEN, i as u64)).collect();
    let files: Vec<_> = paths.iter().map(|path| (path.clone(), LEN)).collect();
    let bytes = torrent(name, &files, PIECE, &piece_hashes(&data.concat(), PIECE));
    let meta = || Metainfo::parse(&bytes).expect("a torrent");
    let places: Vec<String> = meta().files.iter().map(|f| f.path.clone()).collect();
    for (place, data) in places.iter().zip(&data) {
        temp.file(&format!("seed/{place}"), data);
    }
    let (mut seed, mut leech) = (Node::new(), Node::new());
    let s = seed.lp.add(Add::new(meta(), temp.path("seed"))).expect("added");
    until(&mut [&mut seed], |n| n[0].status(s).state == State::Seeding);
    let peers = vec![seed.addr()];
    let key = leech.lp.add(Add { peers, ..Add::new(meta(), temp.path("down/leech")) }).expect("added");
    complete(&mut [&mut leech, &mut seed], key);
    for (place, data) in places.iter().zip(&data) {
        let there = fs::read(temp.path("down/leech").join(place)).unwrap_or_else(|e| panic!("{place}: {e}"));
        assert!(there == *data, "{place} differs");
    }
    places
}

#[test]
fn odd_names_land_inside_the_folder() {
    let temp = Temp::new();
    let long = [b'n'; 400];
    let paths: Vec<Vec<&[u8]>> = vec![
        vec![b"..", b"..", b"escaped"],
        vec![b"/etc/passwd"],
        vec![b"a/../../../b"],
        vec![b""],
        vec![b"."],
        vec![b"..", b".."],
        vec![b"\xff\xfe not UTF-8"],
        vec![b"line\nfeed\x1b[2J\0nul"],
        vec![b"CON"],
        vec![b"aux.txt"],
        vec![b"C:\\windows"],
        vec![b"ends in dots... "],
        vec![&long[..], &long[..], b"deep"],
        vec![&long[..]],
        vec!["\u{202e}gpj.exe".as_bytes()],
        vec!["ümläut 漢字 🦀".as_bytes()],
        vec![b"-rf"],
        vec![b".hidden"],
        vec![b"$(touch x); `y`"],
    ];
    for name in [&b"t"[..], b"..", b"/", b"../../up", b""] {
        let temp_of_this = Temp::new();
        let places = fetch(&temp_of_this, name, &paths);
        let there = files_below(&temp_of_this.path("down"));
        let inside: BTreeSet<String> = places.iter().map(|p| format!("leech/{p}")).collect();
        assert_eq!(there, inside, "nothing beside the folder, nothing missing");
        assert_eq!(inside.len(), paths.len(), "each has its own place");
        let all = files_below(&temp_of_this.0);
        assert!(all.iter().all(|f| f.starts_with("down/leech/") || f.starts_with("seed/")), "{all:?}");
        for part in places.iter().flat_map(|p| p.split('/')) {
            assert!(part.len() <= 255 && !part.is_empty() && part != "." && part != "..", "{part:?}");
            assert!(!part.contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\\'), "{part:?}");
        }
    }
    assert!(files_below(&temp.0).is_empty());
}

#[test]
fn equal_names_are_told_apart() {
    let temp = Temp::new();
    // Equal as they stand, equal once made safe, and a file where a folder has to be.
    let paths: Vec<Vec<&[u8]>> = vec![
        vec![b"same.bin"],
        vec![b"same.bin"],
        vec![b"same.bin."],
        vec![b"both"],
        vec![b"both", b"inside"],
        vec![b"x\ny"],
        vec![b"x\ty"],
        vec![b"same (1).bin"],
    ];
    let places = fetch(&temp, b"t", &paths);
    let set: BTreeSet<&String> = places.iter().collect();
    assert_eq!(set.len(), paths.len(), "{places:?}");
    assert_eq!(
        (places[0].as_str(), places[7].as_str()),
        ("t/same.bin", "t/same (1).bin"),
        "as they stand, where they can"
    );
}

#[test]
fn a_link_in_the_way_is_not_followed() {
    let temp = Temp::new();
    let data = noise(LEN, 1);
    let bytes = torrent(b"t", &[(vec![b"sub", b"file"], LEN)], PIECE, &piece_hashes(&data, PIECE));
    let meta = || Metainfo::parse(&bytes).expect("a torrent");
    temp.file("seed/t/sub/file", &data);
    let mut seed = Node::new();
    let s = seed.lp.add(Add::new(meta(), temp.path("seed"))).expect("added");
    until(&mut [&mut seed], |n| n[0].status(s).state == State::Seeding);
    // Somebody else's folder, and somebody else's file.
    let target = temp.file("other/file", "precious");
    for folder in [true, false] {
        let dir = temp.path(if folder { "one" } else { "two" });
        fs::create_dir_all(dir.join(if folder { "t" } else { "t/sub" })).expect("a folder");
        let link = dir.join(if folder { "t/sub" } else { "t/sub/file" });
        std::os::unix::fs::symlink(if folder { temp.path("other") } else { target.clone() }, link).expect("a link");
        let mut leech = Node::new();
        let peers = vec![seed.addr()];
        let key = leech.lp.add(Add { peers, ..Add::new(meta(), dir) }).expect("added");
        until(&mut [&mut leech, &mut seed], |n| n[0].status(key).state == State::Error);
        let error = leech.status(key).error.expect("it says why");
        assert!(error.contains("t/sub"), "{error}");
        assert_eq!(fs::read(&target).expect("it is there"), b"precious");
    }
}

/// No link is below this folder.
fn assert_no_links(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry")) {
        let kind = entry.file_type().expect("a type");
        assert!(!kind.is_symlink(), "{} is a link", entry.path().display());
        if kind.is_dir() {
            assert_no_links(&entry.path());
        }
    }
}

/// T03 of the list of threats. A torrent can ask for links (BEP 47): none is made, so that a file that is said to lie
/// beneath one lies in a folder of that name.
#[test]
fn t03_no_link_is_made_that_a_torrent_asks_for() {
    let temp = Temp::new();
    let canary = temp.file("outside/inside", "precious");
    let outside = temp.path("outside");
    let absolute: Vec<String> = outside.to_str().expect("UTF-8").split('/').map(str::to_owned).collect();
    let up = |rest: &[&str]| [&["..", "..", ".."], rest].concat().iter().map(|s| (*s).to_owned()).collect();
    let links: [(&str, Vec<String>); 6] = [
        ("up", up(&["etc", "passwd"])),
        ("out", up(&["outside"])),
        ("absolute", absolute),
        ("a", vec!["b".to_owned()]),
        ("b", vec!["a".to_owned()]),
        ("itself", vec!["itself".to_owned()]),
    ];
    let text = |s: &str| format!("{}:{s}", s.len());
    let data = noise(6 * LEN, 3);
    let mut files = String::new();
    for (name, to) in &links {
        let to: String = to.iter().map(|s| text(s)).collect();
        // The length of a link means nothing.
        files += &format!("d4:attr1:l6:lengthi7e4:pathl{}e12:symlink pathl{to}ee", text(name));
    }
    for (name, _) in &links {
        files += &format!("d6:lengthi{LEN}e4:pathl{}6:insideee", text(name));
    }
    let hashes = piece_hashes(&data, PIECE);
    let head = format!("d4:infod5:filesl{files}e4:name1:t12:piece lengthi{PIECE}e6:pieces{}:", hashes.len());
    let bytes = [head.as_bytes(), &hashes, b"ee"].concat();
    let meta = || Metainfo::parse(&bytes).expect("a torrent");
    for (part, (name, _)) in data.chunks(LEN).zip(&links) {
        temp.file(&format!("seed/t/{name}/inside"), part);
    }
    let (mut seed, mut leech) = (Node::new(), Node::new());
    let s = seed.lp.add(Add::new(meta(), temp.path("seed"))).expect("added");
    until(&mut [&mut seed], |n| n[0].status(s).state == State::Seeding);
    let peers = vec![seed.addr()];
    let key = leech.lp.add(Add { peers, ..Add::new(meta(), temp.path("down")) }).expect("added");
    complete(&mut [&mut leech, &mut seed], key);
    assert_no_links(&temp.path("down"));
    let there: BTreeSet<String> = links.iter().map(|(name, _)| format!("t/{name}/inside")).collect();
    assert_eq!(files_below(&temp.path("down")), there);
    for (part, (name, _)) in data.chunks(LEN).zip(&links) {
        assert!(fs::read(temp.path("down/t").join(name).join("inside")).expect("it is there") == part, "{name}");
    }
    assert_eq!(fs::read(canary).expect("it is there"), b"precious");
    assert_eq!(files_below(&outside).len(), 1);
}
