//! Command lines and what is made of them.

use super::*;

/// The world of these tests: `here.torrent` and `plain` are files, `out` is a folder.
fn probe(path: &Path) -> Probe {
    match path.to_str() {
        Some("here.torrent" | "plain" | "show") => Probe::File,
        Some("out" | "out/") => Probe::Folder,
        _ => Probe::Absent,
    }
}

fn parsed(line: &str) -> Result<Opts, String> {
    parse(line.split_whitespace().map(OsString::from), &probe).map_err(|e| e.to_string())
}

fn get(line: &str) -> Get {
    match parsed(line).map(|opts| opts.command) {
        Ok(Command::Get(get)) => *get,
        other => panic!("{line}: {other:?}"),
    }
}

fn refused(line: &str) -> String {
    parsed(line).expect_err(line)
}

fn file(name: &str) -> Source {
    Source::File(name.into())
}

fn operands(line: &str) -> (Vec<Source>, String) {
    let get = get(line);
    (get.torrents, get.dir.to_str().unwrap().to_owned())
}

#[test]
fn the_last_operand_may_be_the_folder() {
    // A slash at the end, a folder that is there, and a name that is nothing yet.
    assert_eq!(operands("a.torrent new/"), (vec![file("a.torrent")], "new/".into()));
    assert_eq!(operands("a.torrent out"), (vec![file("a.torrent")], "out".into()));
    assert_eq!(operands("a.torrent new"), (vec![file("a.torrent")], "new".into()));
    assert_eq!(operands("a.torrent new.TORRENT/"), (vec![file("a.torrent")], "new.TORRENT/".into()));
    // All torrents: by their names, because they are there, or because they are URIs.
    assert_eq!(operands("a.torrent b.torrent"), (vec![file("a.torrent"), file("b.torrent")], ".".into()));
    assert_eq!(operands("a.torrent plain"), (vec![file("a.torrent"), file("plain")], ".".into()));
    assert_eq!(operands("a.torrent -").0[1], Source::Stdin);
    for uri in ["magnet:?xt=urn:btih:abc", "https://x.example/a", &"0f".repeat(20), &"AB".repeat(32)] {
        assert_eq!(
            operands(&format!("a.torrent {uri}")),
            (vec![file("a.torrent"), Source::Uri(uri.into())], ".".into())
        );
    }
    // Alone, an unknown name is a torrent that is missing, not a folder without one.
    assert_eq!(operands("mistyped"), (vec![file("mistyped")], ".".into()));
}

#[test]
fn dir_wins_over_the_operands() {
    assert_eq!(operands("-d x a.torrent new"), (vec![file("a.torrent"), file("new")], "x".into()));
    assert_eq!(operands("a.torrent --dir=x/"), (vec![file("a.torrent")], "x/".into()));
    assert_eq!(
        refused("-d x a.torrent out"),
        "operands: wanted torrents, and at most one folder behind them, got 'out'"
    );
}

#[test]
fn operands_that_make_no_sense() {
    // Without any it goes on with those that it is not done with.
    assert!(get("").torrents.is_empty());
    assert_eq!(refused("--forget"), "--forget: wanted a TORRENT");
    assert_eq!(refused("-s 1"), "--select: wanted a TORRENT");
    assert_eq!(refused("out"), "operands: wanted a TORRENT, got 'only the folder out'");
    assert_eq!(refused("out/ a.torrent"), "operands: wanted torrents, and at most one folder behind them, got 'out/'");
    assert_eq!(refused("- - out"), "operands: wanted standard input at most once, got '-'");
    assert_eq!(
        refused("-s 1 a.torrent b.torrent"),
        "--select: wanted one torrent, because each numbers its files anew, got '2 torrents'"
    );
}

#[test]
fn options_may_follow_operands_until_two_dashes() {
    let g = get("a.torrent -e --sequential out --no-tracker");
    assert!(g.exit_when_done && g.sequential && g.no_tracker && !g.verify);
    assert_eq!(operands("a.torrent -- -e"), (vec![file("a.torrent")], "-e".into()));
}

#[test]
fn the_last_of_two_counts_and_lists_add_up() {
    let g = get("-U 1K --up=2M --peer 10.0.0.1:1 --peer=[::1]:65535 --peer host.example:80 \
         --tracker udp://t:1 --tracker=HTTP://u/ --bind ::1 --bind 10.0.0.1 a.torrent");
    assert_eq!(g.up, Some(2 << 20));
    let peers: Vec<_> = g.peers.iter().map(|p| (p.host.as_str(), p.port)).collect();
    assert_eq!(peers, [("10.0.0.1", 1), ("::1", 65535), ("host.example", 80)]);
    assert_eq!(g.trackers, ["udp://t:1", "HTTP://u/"]);
    assert_eq!(g.bind.len(), 2);
    assert_eq!(refused("-U x --up=2M a.torrent"), "--up: wanted bytes per second, as 64000, 500K or 2.5M, got 'x'");
}

#[test]
fn rates_are_binary_and_zero_is_no_limit() {
    let up = |text: &str| get(&format!("-U {text} a.torrent")).up;
    assert_eq!(up("0"), None);
    assert_eq!(up("64000"), Some(64000));
    assert_eq!(up("1.5k"), Some(1536));
    assert_eq!(up("3MiB"), Some(3 << 20));
    assert_eq!(up("2G"), Some(2 << 30));
    for bad in ["", "K", "1KB", "-1", "1e6", "1K2", "0.5", "9999999999G", "NaN", "inf", "1.2.3", "IB", "1iB"] {
        refused(&format!("--down={bad} a.torrent"));
    }
}

#[test]
fn goals_of_seeding() {
    let goals = |line: &str| {
        let g = get(&format!("{line} a.torrent"));
        (g.seed_ratio, g.seed_time.map(|t| t.as_secs()))
    };
    assert_eq!(goals(""), (Some(1.0), Some(3600)));
    assert_eq!(goals("--seed-ratio=2.5"), (Some(2.5), None));
    assert_eq!(goals("--seed-time=30"), (None, Some(1800)));
    assert_eq!(goals("--seed-time=90s --seed-ratio=0.5"), (Some(0.5), Some(90)));
    assert_eq!(goals("--seed-time=2h"), (None, Some(7200)));
    assert_eq!(goals("--seed-time=0"), (None, Some(0)));
    assert_eq!(goals("--seed-time=inf"), (None, None));
    assert_eq!(goals("--seed-ratio=inf --seed-time=5m"), (None, Some(300)));
    assert_eq!(goals("--seed-time=999999999999999999999d").1, Some(3_200_000_000));
    for bad in [
        "--seed-ratio=-1",
        "--seed-ratio=NaN",
        "--seed-ratio=1x",
        "--seed-time=5w",
        "--seed-time=",
        "--timeout=0",
        "--timeout=x",
    ] {
        refused(&format!("{bad} a.torrent"));
    }
    assert_eq!(get("--timeout=90 a.torrent").timeout, Some(Duration::from_secs(90)));
    assert_eq!(get("--timeout 1.5m a.torrent").timeout, Some(Duration::from_secs(90)));
}

#[test]
fn ports() {
    let port = |text: &str| get(&format!("-p {text} a.torrent")).port;
    assert!(matches!(port("0"), PortChoice::Exact(0)));
    assert!(matches!(port("65535"), PortChoice::Exact(65535)));
    assert!(matches!(port("7000-7010"), PortChoice::Range(7000, 7010)));
    assert!(matches!(get("a.torrent").port, PortChoice::Range(6881, 6999)));
    for bad in ["65536", "x", "0-5", "9-8", "1-", "-1"] {
        refused(&format!("--port={bad} a.torrent"));
    }
}

#[test]
fn addresses_and_urls() {
    for bad in [
        "--peer=10.0.0.1",
        "--peer=:5",
        "--peer=::1:5",
        "--peer=[::1:5",
        "--peer=[x]:5",
        "--peer=h:0",
        "--peer=h:65536",
        "--tracker=x",
        "--tracker=http://",
        "--tracker=ftp://x/",
        "--bind=10.0.0.256",
        "--max-peers=0",
        "--max-peers=-3",
        "--storage=disk",
        "--lane=fast",
    ] {
        refused(&format!("{bad} a.torrent"));
    }
    let g = get("--storage=io --lane=scratch --max-peers=7 a.torrent");
    assert_eq!((g.storage, g.lane, g.max_peers), (Backend::Io, Lane::Scratch, Some(7)));
}

#[test]
fn selections() {
    let s = get("-s 1-3,7,9- a.torrent").select.unwrap();
    let chosen: Vec<u32> = (0..12).filter(|&n| s.contains(n)).collect();
    assert_eq!(chosen, [1, 2, 3, 7, 9, 10, 11]);
    assert_eq!((s.beyond(9), s.beyond(8), s.beyond(2)), (None, Some(9), Some(3)));
    for bad in ["0", "3-1", "", "1,,2", "a", "1-2-3", "-3", "4294967295"] {
        assert!(refused(&format!("--select={bad} a.torrent")).starts_with("--select: wanted file numbers"), "{bad}");
    }
}

#[test]
fn subcommands_take_their_own_options_only() {
    let opts = parsed("show a.torrent --json").unwrap();
    assert!(opts.common.json && matches!(opts.command, Command::Show(f) if f == Path::new("a.torrent")));
    let check = |line: &str| match parsed(line).unwrap().command {
        Command::Check { file, dir, .. } => (file, dir.to_str().unwrap().to_owned()),
        other => panic!("{other:?}"),
    };
    assert_eq!(check("check a.torrent"), (file("a.torrent"), ".".into()));
    assert_eq!(check("check a.torrent new"), (file("a.torrent"), "new".into()));
    assert_eq!(check("-q check - -d there"), (Source::Stdin, "there".into()));
    assert_eq!(refused("show a.torrent -U 5"), "show: wanted options that go with it, got '--up'");
    assert_eq!(refused("check a.torrent --verify"), "check: wanted options that go with it, got '--verify'");
    assert_eq!(refused("show"), "show: wanted a TORRENT");
    assert_eq!(refused("show a b"), "show: wanted one TORRENT, got 'b'");
    assert_eq!(refused("check a b c"), "check: wanted one TORRENT and one folder, got 'c'");
    // A file of that name is reached by its path.
    assert_eq!(operands("./show").0, [file("./show")]);
    assert!(matches!(parsed("-l a.torrent").unwrap().command, Command::List(t) if t == [file("a.torrent")]));
    assert!(matches!(parsed("--version").unwrap().command, Command::Version));
    assert!(matches!(parsed("show --help").unwrap().command, Command::Help));
}

#[test]
fn unknown_options_and_missing_arguments() {
    assert_eq!(refused("--frobnicate a.torrent"), "options: wanted a known option, got '--frobnicate'");
    assert_eq!(refused("-x a.torrent"), "options: wanted a known option, got '-x'");
    assert_eq!(refused("a.torrent --dir"), "--dir: wanted an argument");
    assert_eq!(refused("-e=1 a.torrent").split(':').next(), Some("options"));
    assert_eq!(refused("--verify=1 a.torrent"), "--verify: wanted no argument");
    assert!(!refused("--up=\u{1b}[2J a.torrent").contains('\u{1b}'));
    assert_eq!(parsed("-vvv -q a.torrent").unwrap().common.verbose, 3);
}

#[cfg(unix)]
#[test]
fn file_names_need_not_be_utf_8() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let odd = OsString::from_vec(b"\xff.torrent".to_vec());
    let args = ["-d".into(), OsString::from_vec(b"d\xfe".to_vec()), odd.clone(), "b.torrent".into()];
    let Ok(Opts { command: Command::Get(get), .. }) = parse(args, &probe) else { panic!() };
    assert_eq!(get.torrents, [Source::File(odd.into()), file("b.torrent")]);
    assert_eq!(get.dir, Path::new(OsStr::from_bytes(b"d\xfe")));
    // As part of an option it cannot be told apart; then at least nothing else is taken for it.
    assert!(parse([OsString::from_vec(b"--dir=\xff".to_vec()), "b.torrent".into()], &probe).is_err());
}

#[test]
fn the_help_fits_80_columns_and_has_every_option() {
    let help = help();
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for r in TABLE {
        assert!(help.contains(&format!("--{}", r.long)), "{}", r.long);
        assert!(!r.help.is_empty());
    }
    assert_eq!(help.lines().filter(|l| l.starts_with("  btmio ")).count(), 5, "examples");
    assert!(help.lines().all(|l| l == l.trim_end()));
}

#[test]
fn the_dht_is_on_unless_it_is_not_wanted() {
    let nodes = |text: &str| get(text).dht.map(|nodes| nodes.iter().map(|n| n.host.clone()).collect::<Vec<_>>());
    assert_eq!(nodes("a.torrent"), Some(vec![]));
    assert_eq!(nodes("--dht-bootstrap=a:1 --dht-bootstrap=[::1]:2 a.torrent"), Some(vec!["a".into(), "::1".into()]));
    assert_eq!(nodes("--dht-bootstrap=a:1 --no-dht a.torrent"), None);
    assert_eq!(
        refused("--dht-bootstrap=a a.torrent"),
        "--dht-bootstrap: wanted HOST:PORT, as 10.0.0.2:6881 or [::1]:6881, got 'a'"
    );
}

#[test]
fn bound_to_addresses_or_one_interface() {
    let g = get("--bind=wg0 --bind=10.0.0.1 --bind=wg0 a.torrent");
    assert_eq!((g.bind, g.device.as_deref()), (vec!["10.0.0.1".parse().unwrap()], Some("wg0")));
    assert_eq!(get("a.torrent").device, None);
    let wanted = "--bind: wanted an IP address or a network interface of this machine";
    for bad in ["10.0.0", "10.0.0.256", "fe80::1%eth0", "a/b", "sixteen-letters-", ""] {
        assert_eq!(refused(&format!("--bind={bad} a.torrent")), format!("{wanted}, got '{bad}'"));
    }
    assert_eq!(refused("--bind=wg0 --bind=eth0 a.torrent"), "--bind: wanted one network interface, got 'eth0'");
}
