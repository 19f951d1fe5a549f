//! The binary confines itself, and everything it has to do goes on working: name lookup, trackers, data, state.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use btmio::api::Add;
use common::{Background, Node, Running, Sample, Temp};

const CONFINED: &str = "confined to its folders by Landlock";
const CANNOT: &str = "this kernel has no Landlock";

fn sample() -> Sample {
    Sample::new("t", 64 << 10, &[("a.bin", 1_000_003), ("sub/b.bin", 600_001), ("empty", 0)])
}

/// A tracker at a name, which answers each announce with one peer. Its URL.
fn tracker(peer: &Background) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://localhost:{}/announce", listener.local_addr().expect("it is bound").port());
    let port = peer.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => break,
                }
            }
            let [high, low] = port.to_be_bytes();
            let body = [&b"d8:intervali1800e5:peers6:\x7f\0\0\x01"[..], &[high, low, b'e']].concat();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    url
}

/// What the log says of the sandbox.
#[track_caller]
fn assert_confined(log: &str) {
    assert!(log.contains(CONFINED) || log.contains(CANNOT), "{log}");
    let root = rustix::process::geteuid().is_root();
    assert_eq!(log.contains("running as root"), root, "{log}");
    assert!(!log.contains("ermission denied"), "{log}");
}

#[test]
fn a_confined_run_downloads_by_way_of_a_tracker_at_a_name_resumes_and_seeds() {
    let temp = Temp::new();
    let sample = sample();
    let torrent = temp.file("t.torrent", sample.torrent());
    let seed = Background::seed(&sample, temp.path("seed"), None);
    let tracker = format!("--tracker={}", tracker(&seed));
    let torrent = torrent.to_str().expect("UTF-8");
    // The folder does not exist yet.
    let args = ["-v", "--port=0", "--bind=127.0.0.1", "-e", &tracker, torrent, "-d", "new/folder/"];
    let first = temp.run(&args);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_confined(&first.err);
    sample.assert_in(&temp.path("new/folder"));
    assert!(fs::read_dir(temp.path("state/btmio")).expect("a state folder").count() > 0);
    // Nothing is fetched again, and then it seeds.
    let again = temp.run(&["-v", "--json", "--port=0", "--bind=127.0.0.1", "-e", torrent, "-d", "new/folder/"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_confined(&again.err);
    let last = again.events().into_iter().rev().find(|e| e["event"] == "progress").expect("progress");
    assert_eq!((&last["downloaded"], &last["have"]), (&0.into(), &last["size"]), "{last}");
    let mut seeding = temp.start(&["--json", "--port=0", "--bind=127.0.0.1", torrent, "-d", "new/folder/"]);
    let port = seeding.event("added", |_| true)["port"].as_u64().expect("a port");
    let mut leech = Node::new();
    let peers = vec![([127, 0, 0, 1], u16::try_from(port).expect("a port")).into()];
    let key = leech.lp.add(Add { peers, ..Add::new(sample.meta(), temp.path("leech")) }).expect("added");
    common::complete(&mut [&mut leech], key);
    sample.assert_in(&temp.path("leech"));
    seeding.signal(rustix::process::Signal::TERM);
    assert_eq!(seeding.end().code, Some(0));
}

#[test]
fn a_confined_run_fetches_metadata() {
    let temp = Temp::new();
    let sample = sample();
    let seed = Background::seed(&sample, temp.path("seed"), None);
    let hash = sample.meta().info_hash.expect("version 1");
    let magnet = format!("magnet:?xt=urn:btih:{hash}");
    let args = ["-v", "--metadata-only", "--port=0", "--bind=127.0.0.1", &seed.option(), &magnet, "-d", "out/"];
    let ran = temp.run(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_confined(&ran.err);
    assert_eq!(common::files_below(&temp.path("out")).len(), 1);
}

#[test]
fn privileges_are_given_up_unless_told_otherwise() {
    let no_new_privs = |running: &Running| {
        let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).expect("it runs");
        status.lines().find_map(|l| l.strip_prefix("NoNewPrivs:")).map(|n| n.trim().to_owned())
    };
    let ours = fs::read_to_string("/proc/self/status").expect("Linux");
    let ours = ours.lines().find_map(|l| l.strip_prefix("NoNewPrivs:")).map(|n| n.trim().to_owned());
    for (option, want) in [(None, Some("1".to_owned())), (Some("--no-sandbox"), ours)] {
        let temp = Temp::new();
        let sample = sample();
        let torrent = temp.file("t.torrent", sample.torrent());
        let torrent = torrent.to_str().expect("UTF-8");
        let args = ["-v", "--json", "--port=0", "--bind=127.0.0.1", torrent, "-d", "."];
        let args: Vec<_> = args.into_iter().chain(option).collect();
        let mut running = temp.start(&args);
        running.event("added", |_| true);
        assert_eq!(no_new_privs(&running), want, "{option:?}");
        running.signal(rustix::process::Signal::TERM);
        let ran = running.end();
        assert_eq!(ran.err.contains(CONFINED) || ran.err.contains(CANNOT), option.is_none(), "{}", ran.err);
    }
}
