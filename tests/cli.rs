//! The real binary: what it prints, where, and how it exits. Nothing here needs a second peer.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use btmio::bencode::Writer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha1::{Digest, Sha1};

const PIECE: usize = 16 << 10;

/// A folder of its own for each test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("btmio-cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn file(&self, name: &str, data: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
        fs::write(&path, data).expect("a file");
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btmio"));
        // No test calls at well-known nodes, or is heard in the network; the other commands have no such options.
        if !args.iter().any(|a| ["show", "check"].contains(a)) {
            command.args(["--no-dht", "--no-lsd", "--no-portmap"]);
        }
        command.args(args).current_dir(&self.0).env("XDG_STATE_HOME", self.0.join("state")).env_remove("HOME");
        command.env_remove("STATE_DIRECTORY").stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().expect("the binary runs"))
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: o.status.code(), out: text(o.stdout), err: text(o.stderr) }
    }
}

impl Ran {
    /// Failed with this code and these words; nothing that a script would take for a result.
    #[track_caller]
    fn failed(&self, code: i32, words: &str) {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{}", self.err);
        assert!(self.err.contains(words), "wanted {words:?} in {:?}", self.err);
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {:?} {:?}", self.out, self.err))
    }

    fn events(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8 ^ seed).collect()
}

/// A torrent of several files below `name/`.
fn torrent(name: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let all: Vec<u8> = files.iter().flat_map(|(_, data)| data.iter().copied()).collect();
    let hashes: Vec<u8> = all.chunks(PIECE).flat_map(|piece| Sha1::digest(piece).to_vec()).collect();
    let mut w = Writer::new();
    w.begin_dict();
    w.key(b"info");
    w.begin_dict();
    w.key(b"files");
    w.begin_list();
    for (path, data) in files {
        w.begin_dict();
        w.key(b"length");
        w.int(data.len() as i64);
        w.key(b"path");
        w.begin_list();
        w.bytes(path.as_bytes());
        w.end();
        w.end();
    }
    w.end();
    w.key(b"name");
    w.bytes(name.as_bytes());
    w.key(b"piece length");
    w.int(PIECE as i64);
    w.key(b"pieces");
    w.bytes(&hashes);
    w.end();
    w.end();
    w.into_bytes()
}

/// A torrent `t.torrent` of two files and 7 pieces, with its data below `data/`.
fn sample(folder: &Folder) -> [Vec<u8>; 2] {
    let files = [content(1, 3 * PIECE + 100), content(2, 3 * PIECE)];
    folder.file("t.torrent", torrent("t", &[("a", &files[0]), ("b", &files[1])]));
    folder.file("data/t/a", &files[0]);
    folder.file("data/t/b", &files[1]);
    files
}

/// Options that keep a download away from any network.
const ALONE: [&str; 3] = ["--bind=127.0.0.1", "--port=0", "--no-tracker"];

fn alone<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&ALONE[..], args].concat()
}

fn torrents(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/torrents").join(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn usage_errors_say_what_was_wanted_and_came() {
    let folder = Folder::new();
    for (args, words) in [
        (&[][..], "operands: wanted a TORRENT"),
        (&["--frob"], "wanted a known option, got '--frob'"),
        (&["a.torrent", "--up=fast"], "--up: wanted bytes per second, as 64000, 500K or 2.5M, got 'fast'"),
        (&["a.torrent", "-d"], "-d: wanted an argument"),
        (&["show"], "show: wanted a TORRENT"),
        (&["check", "a", "b", "c"], "check: wanted one TORRENT and one folder, got 'c'"),
    ] {
        let ran = folder.run(args);
        ran.failed(2, words);
        assert!(ran.err.ends_with("Try 'btmio --help'.\n"), "{}", ran.err);
    }
    sample(&folder);
    folder.run(&alone(&["-s", "1,3", "t.torrent"])).failed(2, "--select: wanted file numbers from 1 to 2");
}

#[test]
fn help_and_version_are_results() {
    let folder = Folder::new();
    let help = folder.run(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    assert!(help.out.starts_with("Usage: btmio "));
    let version = folder.run(&["--version"]);
    assert_eq!(version.out.lines().next(), Some(concat!("btmio ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn lists_of_blocked_addresses_are_read_before_anything_else() {
    let folder = Folder::new();
    sample(&folder);
    folder.file("no.p2p", "<html>\n");
    let run = |list: &str| folder.run(&[&ALONE[..], &["--timeout=1s", list, "t.torrent"]].concat());
    run("--blocklist=missing").failed(17, "--blocklist: missing: ");
    run("--blocklist=no.p2p")
        .failed(1, "--blocklist: no.p2p: no list of addresses (1 bad lines, 0 good ones): line 1: ");
    folder.file("some.cidr", "10.0.0.0/8\n10.0.0.0/99\n");
    run("--blocklist=some.cidr").failed(5, "some.cidr: line 2: wanted a prefix from 0 to 32, got \"99\"");
}

#[test]
fn each_way_not_to_be_a_torrent_has_its_code() {
    let folder = Folder::new();
    folder.file("text.torrent", "hello");
    folder.file("half.torrent", "d4:infod4:name");
    folder.file("no.torrent", "d3:fooi1ee");
    folder.file("big.torrent", vec![b'i'; (10 << 20) + 1]);
    let v2 = torrents("v2.torrent");
    for command in [&["show"][..], &["check"], &ALONE] {
        let run = |file: &str| folder.run(&[command, &[file]].concat());
        run("text.torrent").failed(25, "text.torrent: ");
        run("half.torrent").failed(25, "half.torrent: ");
        run("no.torrent").failed(26, "no.torrent: ");
        run("missing.torrent").failed(17, "missing.torrent: ");
        run("big.torrent").failed(26, "big.torrent: ");
        if command != ["show"] {
            run(&v2).failed(26, "version 2");
            // A link can be downloaded, not checked.
            let code = if command == ALONE { 27 } else { 1 };
            run("magnet:?xt=urn:btih:1&tr=http://t.example/secret").failed(code, "magnet");
        }
    }
    assert_eq!(folder.run(&["show", "--json", &v2]).json()["info_hash"], Value::Null);
}

#[test]
fn a_torrent_may_come_by_standard_input() {
    let folder = Folder::new();
    sample(&folder);
    for (args, words) in
        [(&["show", "-"][..], "info hash"), (&["--list", "-"], "  t/b\n"), (&["check", "-", "data"], "t: complete")]
    {
        let mut command = folder.command(args);
        let torrent = fs::File::open(folder.0.join("t.torrent")).expect("it is there");
        let ran = Ran::from(command.stdin(torrent).output().expect("the binary runs"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.contains(words), "{}", ran.out);
    }
}

#[test]
fn the_list_numbers_files_as_select_takes_them() {
    let folder = Folder::new();
    sample(&folder);
    let ran = folder.run(&["--list", "t.torrent"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "    1    48.1 KiB  t/a\n    2    48.0 KiB  t/b\n"));
    let pads = folder.run(&["--list", "--json", &torrents("pads.torrent")]).events();
    let numbers: Vec<_> = pads.iter().map(|f| f["file"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, [1, 3], "the pad file keeps its number");
}

#[test]
fn check_finds_what_is_bad_and_writes_nothing() {
    let folder = Folder::new();
    let [a, _] = sample(&folder);
    let check = |json: bool| folder.run(&["check", "t.torrent", "data", if json { "--json" } else { "--verbose" }]);
    let ran = check(false);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "t: complete, 7 of 7 pieces, 96.1 KiB of 96.1 KiB\n"));
    let good = check(true).json();
    assert_eq!((&good["complete"], &good["files"]), (&Value::from(true), &Value::Array(vec![])));

    // One flipped bit in the first file's second piece.
    let mut bad = a.clone();
    bad[PIECE] ^= 1;
    folder.file("data/t/a", bad);
    let ran = check(false);
    assert_eq!((ran.code, ran.out.lines().next()), (Some(4), Some("t/a: 16.0 KiB bad")), "{}", ran.err);
    let object = check(true).json();
    assert_eq!((object["pieces_good"].as_u64(), object["pieces"].as_u64()), (Some(6), Some(7)));
    assert_eq!(object["files"][0]["bad"], PIECE as u64);

    // Cut short: the rest is missing, and the piece at the cut cannot be judged.
    folder.file("data/t/a", &a[..PIECE + 10]);
    let object = check(true).json();
    let file = &object["files"][0];
    assert_eq!((file["missing"].as_u64(), file["unchecked"].as_u64()), (Some((2 * PIECE + 90) as u64), Some(10)));
    assert_eq!(fs::metadata(folder.0.join("data/t/a")).expect("it is there").len(), (PIECE + 10) as u64);

    // Nothing there at all: and nothing there afterwards.
    let ran = folder.run(&["check", "t.torrent", "nowhere"]);
    assert_eq!(ran.code, Some(4), "{}", ran.err);
    assert!(ran.out.contains("t/a: not there") && ran.out.contains("0 of 7 pieces"), "{}", ran.out);
    assert!(!folder.0.join("nowhere").exists());
    assert_eq!(folder.run(&["check", "-q", "t.torrent", "nowhere"]).out, "");
}

#[test]
fn what_is_there_already_is_done_at_once() {
    let folder = Folder::new();
    sample(&folder);
    let ran = folder.run(&alone(&["-e", "--json", "t.torrent", "data/"]));
    assert_eq!(ran.code, Some(0), "{} {}", ran.out, ran.err);
    let events = ran.events();
    let added = &events[0];
    assert_eq!((&added["event"], &added["name"], &added["files"]), (&"added".into(), &"t".into(), &2.into()));
    assert!(added["port"].as_u64().is_some_and(|port| port > 0));
    assert_eq!(added["size"], (6 * PIECE + 100) as u64);
    let done = events.iter().find(|e| e["event"] == "done").expect("done");
    assert_eq!((done["downloaded"].as_u64(), &done["info_hash"]), (Some(0), &added["info_hash"]));
    let last = events.iter().rev().find(|e| e["event"] == "progress").expect("progress");
    assert_eq!((last["have"].as_u64(), last["percent"].as_f64()), (added["size"].as_u64(), Some(100.0)));
    assert!(events.iter().all(|e| e["t"].is_f64() && e["event"].is_string()));
    let of_all = |e: &&serde_json::Value| e["event"] == "stats" || e["event"] == "warning";
    assert!(events.iter().filter(|e| !of_all(e)).all(|e| !e["info_hash"].is_null()));

    let plain = folder.run(&alone(&["-e", "t.torrent", "data/"]));
    assert_eq!((plain.code, plain.out.as_str()), (Some(0), ""));
    assert!(plain.err.lines().last().is_some_and(|l| l == "t: complete, 96.1 KiB, ratio 0.00"), "{}", plain.err);
    assert_eq!(folder.run(&alone(&["-q", "-e", "t.torrent", "data/"])).err, "");
}

#[test]
fn without_progress_it_gives_up() {
    let folder = Folder::new();
    sample(&folder);
    folder.run(&alone(&["--timeout=1", "t.torrent", "empty/"])).failed(5, "t: no progress for 1 seconds");
}

/// Reads lines until one has this event.
fn await_event(lines: &mut impl Iterator<Item = String>, event: &str) {
    let wanted = format!("\"event\":\"{event}\"");
    assert!(lines.any(|line| line.contains(&wanted)), "no {event}");
}

fn interrupted(folder: &Folder, signal: Signal, dir: &str, event: &str) -> Option<i32> {
    let mut child = folder.start(&alone(&["--json", "--timeout=30", "t.torrent", dir]));
    let out = child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(out).lines().map(|l| l.expect("UTF-8"));
    await_event(&mut lines, event);
    kill_process(Pid::from_child(&child), signal).expect("it runs");
    lines.for_each(drop);
    child.wait().expect("it ends").code()
}

#[test]
fn signals_end_it_with_an_honest_code() {
    let folder = Folder::new();
    sample(&folder);
    // Whoever runs these tests under nohup has made the child deaf to HUP, rightly.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).map(|m| u64::from_str_radix(m.trim(), 16));
    let deaf = ignored.is_some_and(|mask| mask.is_ok_and(|m| m & 1 != 0));
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        if deaf && signal == Signal::HUP {
            continue;
        }
        assert_eq!(interrupted(&folder, signal, "empty/", "added"), Some(7), "{signal:?}");
    }
    assert_eq!(interrupted(&folder, Signal::INT, "data/", "done"), Some(0), "seeding");
}

#[test]
fn a_status_line_is_had_by_signal() {
    let folder = Folder::new();
    sample(&folder);
    let mut child = folder.start(&alone(&["--timeout=30", "t.torrent", "data/"]));
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map(|l| l.expect("UTF-8"));
    assert!(lines.any(|line| line.starts_with("t: seeding")), "it seeds");
    kill_process(Pid::from_child(&child), Signal::USR1).expect("it runs");
    assert!(lines.next().is_some_and(|line| line.starts_with("t: seeding, 96.1 KiB, up 0")));
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    lines.for_each(drop);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_reader_that_goes_ends_it_quietly() {
    let folder = Folder::new();
    sample(&folder);
    let mut child = folder.start(&alone(&["--json", "--timeout=30", "t.torrent", "empty/"]));
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut err).expect("UTF-8");
    assert_eq!(child.wait().expect("it ends").code(), Some(7));
    assert!(err.lines().all(|line| line.contains("running as root")), "{err}");
}

#[test]
fn a_port_that_is_taken_is_a_network_error() {
    let folder = Folder::new();
    sample(&folder);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = format!("--port={}", taken.local_addr().expect("an address").port());
    folder.run(&["--bind=127.0.0.1", &port, "--no-tracker", "t.torrent"]).failed(6, "listen");
}

#[test]
fn a_folder_that_cannot_be_one_is_a_file_error() {
    let folder = Folder::new();
    sample(&folder);
    folder.file("data/file", "x");
    folder.run(&alone(&["--timeout=30", "-d", "data/file", "t.torrent"])).failed(17, "data/file");
}

#[test]
fn the_last_failure_counts_and_does_not_stop_the_others() {
    let folder = Folder::new();
    sample(&folder);
    folder.file("no.torrent", "d3:fooi1ee");
    let ran = folder.run(&alone(&["-e", "no.torrent", "t.torrent", "data/"]));
    ran.failed(26, "t: complete");
}

#[test]
fn no_torrent_drives_the_terminal() {
    let folder = Folder::new();
    let name = "evil\x1b]0;x\x07\x08\r\u{202e}";
    folder.file("t.torrent", torrent(name, &[("f\x1b[2J", b"x")]));
    for args in [
        &["show", "t.torrent"][..],
        &["check", "t.torrent"],
        &["check", "evil\x1b[2J.torrent"],
        &["-l", "t.torrent"],
        &["-vvv", "--timeout=1", "t.torrent"],
    ] {
        let ran = folder.run(&alone_if_download(args));
        let all = ran.out + &ran.err;
        assert!(all.contains("evil"), "{args:?}: {all:?}");
        assert!(!all.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{args:?}: {all:?}");
    }
}

#[test]
fn no_tracker_drives_the_terminal() {
    let folder = Folder::new();
    sample(&folder);
    let tracker = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("--tracker=http://{}/announce", tracker.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let reply = "d14:failure reason12:go\x1b[2J\x07\r\u{202e}!e";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", reply.len());
        for mut stream in tracker.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all((head.clone() + reply).as_bytes());
        }
    });
    let ran = folder.run(&alone(&["-v", "--timeout=2", &url, "t.torrent", "empty/"]));
    ran.failed(5, "tracker http://127.0.0.1:");
    assert!(ran.err.contains("go"), "{:?}", ran.err);
    assert!(!ran.err.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{:?}", ran.err);
}

fn alone_if_download<'a>(args: &[&'a str]) -> Vec<&'a str> {
    if args.contains(&"--timeout=1") { alone(args) } else { args.to_vec() }
}

#[test]
fn the_log_goes_to_a_file_and_the_state_to_a_private_folder() {
    let folder = Folder::new();
    sample(&folder);
    let ran = folder.run(&alone(&["-e", "--log=log", "t.torrent", "data/"]));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let log = fs::read_to_string(folder.0.join("log")).expect("a log");
    assert!(log.lines().any(|line| line.ends_with("info: t: 7 of 7 pieces are there")), "{log}");
    assert!(!ran.err.contains("pieces are there"), "{}", ran.err);
    use std::os::unix::fs::PermissionsExt;
    let state = fs::metadata(folder.0.join("state/btmio")).expect("a state folder");
    assert_eq!(state.permissions().mode() & 0o777, 0o700);

    let mut without = folder.command(&alone(&["-e", "t.torrent", "data/"]));
    let ran = Ran::from(without.env_remove("XDG_STATE_HOME").output().expect("the binary runs"));
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.contains("warning: no HOME"), "{}", ran.err);
}

#[test]
fn results_that_cannot_be_written_are_an_error() {
    let folder = Folder::new();
    sample(&folder);
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return eprintln!("no /dev/full here: skipped") };
    let ran = Ran::from(folder.command(&["show", "t.torrent"]).stdout(full).output().expect("the binary runs"));
    ran.failed(17, "standard output: ");
}
