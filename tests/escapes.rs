//! Names and messages of strangers in everything the command writes: nothing in them drives a terminal, and nothing
//! is dressed up as something else. One hostile torrent, tracker, peer and link for all outputs.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use common::{Ran, Temp, noise, piece_hashes, torrent};

/// Sets the title, rings, clears, goes back, reverses, hides; and is not UTF-8.
const NASTY: &[u8] = b"evil\x1b]0;x\x07\x1b[2J\x08\r\n\xe2\x80\xae\xe2\x80\x8b\xc2\x9b7m\xff\xfe";
const LEN: usize = 70_000;
const PIECE: usize = 16 << 10;

/// A torrent of two files with such names, and where its payload lies.
fn hostile(temp: &Temp) -> Vec<u8> {
    let data = noise(LEN, 3);
    let files = [(vec![NASTY, b"a\x1b[31m".as_slice()], 50_000), (vec![b"b\xe2\x80\xae\xff\r".as_slice()], 20_000)];
    let nasty = torrent(NASTY, &files, PIECE, &piece_hashes(&data, PIECE));
    temp.file("t.torrent", nasty);
    data
}

#[track_caller]
fn harmless(what: &str, text: &str) {
    for line in text.split('\n') {
        let bad = |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
        assert!(!line.contains(bad), "{what}: {line:?}");
    }
}

#[track_caller]
fn all_harmless(what: &str, ran: &Ran) {
    harmless(what, &ran.out);
    harmless(what, &ran.err);
}

/// A tracker that warns of something.
fn tracker() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("--tracker=http://{}/announce", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let warning = [b"15:warning message".as_slice(), NASTY.len().to_string().as_bytes(), b":", NASTY].concat();
        let body = [b"d8:intervali900e5:peers0:", warning.as_slice(), b"e"].concat();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    url
}

/// A seed whose id and client are such names.
fn peer(data: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let option = format!("--peer={}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = serve(stream, &data);
        }
    });
    option
}

fn serve(mut stream: TcpStream, data: &[u8]) -> std::io::Result<()> {
    let mut theirs = [0; 68];
    stream.read_exact(&mut theirs)?;
    let mut out = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0".to_vec();
    out.extend(&theirs[28..48]);
    out.extend(b"\x1b[2J\x07\r\n\x9b\xe2\x80\xae\xff evil \x1b]");
    assert_eq!(out.len(), 68);
    let hello =
        [b"\x14\0d1:md11:ut_metadatai1e".as_slice(), b"e1:v", NASTY.len().to_string().as_bytes(), b":", NASTY, b"e"]
            .concat();
    for message in [hello.as_slice(), b"\x05\xf8", b"\x01"] {
        out.extend((message.len() as u32).to_be_bytes());
        out.extend(message);
    }
    stream.write_all(&out)?;
    loop {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        let mut message = vec![0; u32::from_be_bytes(len) as usize];
        stream.read_exact(&mut message)?;
        if message.first() == Some(&6) {
            let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().expect("four bytes")) as usize;
            let at = word(1) * PIECE + word(5);
            let head = [&(9 + word(9) as u32).to_be_bytes()[..], &[7], &message[1..9]].concat();
            stream.write_all(&[&head, &data[at..at + word(9)]].concat())?;
        }
    }
}

const ALONE: [&str; 3] = ["--bind=127.0.0.1", "--port=0", "-e"];

#[test]
fn a_download_from_strangers() {
    let temp = Temp::new();
    let peer = peer(hostile(&temp));
    let tracker = tracker();
    for (what, more) in [("text", &["-vvv"][..]), ("json", &["--json"]), ("log", &["--log=log", "-vvv"])] {
        let dir = format!("to-{what}/");
        let args = [&ALONE[..], &[peer.as_str(), &tracker, "t.torrent", &dir], more].concat();
        let ran = temp.run(&args);
        assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
        all_harmless(what, &ran);
        let said = match what {
            "text" => ran.err,
            "json" => ran.out,
            _ => std::fs::read_to_string(temp.path("log")).expect("a log"),
        };
        harmless(what, &said);
        // Nobody was left out: the torrent, the tracker, the peer.
        assert!(said.contains("warn") && said.matches("evil").count() >= 3, "{what}: {said}");
        assert!(what == "json" || said.contains(" evil \\x1b]"), "{what}: {said}");
    }
}

#[test]
fn events_say_what_was_said() {
    let temp = Temp::new();
    let peer = peer(hostile(&temp));
    let ran = temp.run(&[&ALONE[..], &[&peer, &tracker(), "--json", "t.torrent", "to/"]].concat());
    let events = ran.events();
    let warned = events.iter().find(|e| e["event"] == "tracker").expect("the tracker was asked");
    assert!(warned["warning"].as_str().is_some_and(|w| w.starts_with("evil")), "{warned}");
    let named = |e: &&serde_json::Value| e["event"] == "peer" && e["client"].as_str().is_some();
    let met = events.iter().find(named).expect("the peer was met");
    assert!(met["client"].as_str().is_some_and(|c| c.contains("evil")), "{met}");
    assert!(events.iter().any(|e| e["event"] == "done"), "{}", ran.out);
}

#[test]
fn a_link_and_all_that_is_wrong_with_one() {
    let temp = Temp::new();
    let nasty = "evil%1b%5d0%3bx%07%1b%5b2J%0d%0a%e2%80%ae%e2%80%8b%ff";
    let hash = "0123456789abcdef0123456789abcdef01234567";
    let good = format!("magnet:?xt=urn:btih:{hash}&dn={nasty}&tr=http://127.0.0.1:1/{nasty}&x.pe={nasty}:5");
    let timeout = [&ALONE[..], &["--timeout=0.1", "-vvv", &good]].concat();
    let events = [&timeout[..], &["--json"]].concat();
    for (args, code) in [
        (vec!["show", &good], 0),
        (vec!["show", "--json", &good], 0),
        (timeout, 5),
        (events, 5),
        (vec!["show", "magnet:?xt=urn:btih:\x1b[2J\u{202e}"], 27),
        (vec!["magnet:?xt=urn:btih:evil\x1b[2J\r\u{202e}"], 27),
        (vec!["show", "magnet:?dn=evil\x1b[2J\u{9b}"], 27),
    ] {
        let ran = temp.run(&args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        all_harmless(&format!("{args:?}"), &ran);
        assert!(code == 27 || ran.out.contains("evil") || ran.err.contains("evil"), "{args:?}: {ran:?}");
    }
}

#[test]
fn files_options_and_folders_with_such_names() {
    let temp = Temp::new();
    hostile(&temp);
    let nasty = "evil\x1b[2J\r\n\u{202e}\u{9b}";
    temp.file(nasty, "not bencode");
    for args in [
        vec!["show", nasty],
        vec!["check", nasty],
        vec!["-l", nasty],
        vec![nasty],
        vec!["show", "t.torrent"],
        vec!["show", "--json", "t.torrent"],
        vec!["check", "t.torrent"],
        vec!["check", "--json", "t.torrent"],
        vec!["-l", "t.torrent"],
        vec!["-l", "--json", "t.torrent"],
        vec![&*format!("--log={nasty}/{nasty}"), "t.torrent"],
        vec![&*format!("--select={nasty}"), "t.torrent"],
        vec![&*format!("--port={nasty}"), "t.torrent"],
        vec![&*format!("--bind={nasty}"), "t.torrent"],
        vec![&*format!("--peer={nasty}:1"), "--bind=127.0.0.1", "t.torrent"],
        vec![&*format!("--tracker={nasty}"), "t.torrent"],
        vec![&*format!("--blocklist={nasty}"), "t.torrent"],
        vec![&*format!("--{nasty}"), "t.torrent"],
        vec!["--forget", nasty],
        vec!["--bind=127.0.0.1", "t.torrent", &*format!("{nasty}/{nasty}/")],
    ] {
        let ran = temp.run(&args);
        all_harmless(&format!("{args:?}"), &ran);
        assert!((ran.out + &ran.err).contains("evil") || args[0] == "--forget", "{args:?}");
    }
    // One that is no text at all.
    let name = std::ffi::OsString::from_vec(b"evil\x1b\xff\xfe.torrent".to_vec());
    let ran = Ran::from(temp.command(&["show"]).arg(name).output().expect("the binary runs"));
    assert_eq!(ran.code, Some(17));
    all_harmless("not UTF-8", &ran);
}

/// What is remembered is listed with the names it was added with.
#[test]
fn the_list_of_what_is_remembered() {
    let temp = Temp::new();
    hostile(&temp);
    let timeout = ["--bind=127.0.0.1", "--port=0", "--no-tracker", "--timeout=0.1", "t.torrent", "to\x1b[2J/"];
    assert_eq!(temp.run(&timeout).code, Some(5));
    for args in [&["-l"][..], &["-l", "--json"]] {
        let ran = temp.run(args);
        all_harmless("remembered", &ran);
        assert!(ran.out.contains("evil"), "{ran:?}");
    }
}

/// On a terminal, the block is drawn with a handful of sequences, and no others.
#[test]
fn the_block_on_a_terminal() {
    let temp = Temp::new();
    let peer = peer(hostile(&temp));
    let binary = env!("CARGO_BIN_EXE_btmio");
    let line = format!("{binary} --no-dht --no-lsd --no-portmap --bind=127.0.0.1 --port=0 -e {peer} t.torrent to/");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(&temp.0).stdin(Stdio::null());
    script.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env("XDG_STATE_HOME", temp.path("state"));
    let Ok(out) = script.output() else { return eprintln!("no script(1) here: skipped") };
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    assert!(out.status.success() && text.contains("evil"), "{text:?}");
    assert!(text.contains("\x1b[J"), "it is drawn: {text:?}");
    let mut rest = text.replace("\r", "").replace("\x1b[K", "").replace("\x1b[J", "");
    (1..9).for_each(|n| rest = rest.replace(&format!("\x1b[{n}A"), ""));
    harmless("terminal", &rest);
}
