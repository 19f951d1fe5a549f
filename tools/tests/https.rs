//! HTTPS trackers over real sockets: whose certificate is accepted, and what is said of the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use btmio::id::TorrentKey;
use btmio::metainfo::Metainfo;
use btmio::net::{Loop, LoopConfig, PortChoice};
use btmio::session::{Add, Alert, TrackerOutcome};
use tools::certificates::{Authority, Flaw, Versions};
use tools::payload::Payload;
use tools::tracker::{Options, Tracker};

/// A file that is gone when the test is.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("btmio-https-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A tracker that speaks TLS, and what it logs.
fn tracker(config: Arc<rustls::ServerConfig>, options: Options) -> (Tracker, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let options = Options { tls: Some(config), ..options };
    let tracker = Tracker::start(options, move |l| sink.lock().unwrap().push(l.to_owned())).unwrap();
    (tracker, lines)
}

/// A loop with one torrent, and its folder, which is gone afterwards.
struct Client {
    lp: Loop,
    key: TorrentKey,
    dir: PathBuf,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn begin(roots: PathBuf, url: &str) -> Client {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let config = LoopConfig {
        port: PortChoice::Exact(0),
        bind: vec!["127.0.0.1".parse().unwrap()],
        tls_roots: Some(roots),
        ..LoopConfig::default()
    };
    let mut lp = Loop::new(config).unwrap();
    let meta = Metainfo::parse(&Payload::sample().torrent(&[url])).unwrap();
    let n = COUNT.fetch_add(1, Ordering::SeqCst);
    let dir = std::env::temp_dir().join(format!("btmio-https-{}-data{n}", std::process::id()));
    let key = lp.add(Add::new(meta, dir.clone())).unwrap();
    Client { lp, key, dir }
}

/// Turns until a tracker has answered, or failed: `Err` with its words.
fn outcome(lp: &mut Loop) -> Result<usize, String> {
    loop {
        while let Some(alert) = lp.poll_alert() {
            match alert {
                Alert::Tracker { outcome: TrackerOutcome::Reply { peers, .. }, .. } => return Ok(peers),
                Alert::Tracker { outcome: TrackerOutcome::Error(error), .. } => return Err(error),
                _ => {}
            }
        }
        lp.turn(None).unwrap();
    }
}

/// What one announce to `url` leads to.
fn announce(roots: &File, url: &str) -> Result<usize, String> {
    outcome(&mut begin(roots.0.clone(), url).lp)
}

#[test]
fn a_root_of_ones_own_is_accepted_over_both_versions() {
    let authority = Authority::new().unwrap();
    let roots = File::new("own", &format!("# Ours\n{}", authority.root_pem()));
    for (versions, name) in [(Versions::Tls12, "TLSv1_2"), (Versions::Tls13, "TLSv1_3"), (Versions::Any, "TLSv1_3")] {
        let config = authority.server(&["localhost", "127.0.0.1"], Flaw::None, versions).unwrap();
        for host in ["127.0.0.1", "localhost"] {
            let peers: Vec<SocketAddr> = vec!["192.0.2.1:6881".parse().unwrap()];
            let (t, lines) = tracker(Arc::clone(&config), Options { peers, chunked: true, ..Options::default() });
            let url = format!("https://{host}:{}/announce", t.addr().port());
            assert_eq!(announce(&roots, &url), Ok(1), "{url} {versions:?}");
            assert!(lines.lock().unwrap()[0].starts_with(&format!("{{\"tls\":\"{name}\"")), "{lines:?}");
        }
    }
}

#[test]
fn sessions_are_resumed() {
    let authority = Authority::new().unwrap();
    let roots = File::new("resumed", &authority.root_pem());
    for versions in [Versions::Tls12, Versions::Tls13] {
        let config = authority.server(&["127.0.0.1"], Flaw::None, versions).unwrap();
        let (t, lines) = tracker(config, Options::default());
        let mut client = begin(roots.0.clone(), &t.announce_url());
        assert_eq!(outcome(&mut client.lp), Ok(0));
        // Its goodbye goes over a second connection.
        client.lp.pause(client.key).unwrap();
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        while !lines.lock().unwrap().iter().any(|l| l.contains("stopped")) && std::time::Instant::now() < patience {
            client.lp.turn(Some(btmio::time::Duration::from_millis(20))).unwrap();
        }
        let lines = lines.lock().unwrap();
        let resumed: Vec<_> = lines.iter().filter(|l| l.contains("\"tls\"")).map(|l| l.contains("true")).collect();
        assert_eq!(resumed, [false, true], "{versions:?}: {lines:?}");
    }
}

#[test]
fn others_are_refused_and_the_reason_is_named() {
    let [authority, namesake] = [Authority::new().unwrap(), Authority::new().unwrap()];
    let other = Authority::named("some other root").unwrap();
    let roots = File::new("refused", &authority.root_pem());
    for (by, names, flaw, want) in [
        (&authority, &["tracker.example", "*.example.org"][..], Flaw::None, "is not for 127.0.0.1, but for"),
        (&authority, &["127.0.0.1"], Flaw::Expired, "has expired, 10 days ago"),
        (&authority, &["127.0.0.1"], Flaw::Early, "is not valid yet"),
        (&authority, &["127.0.0.1"], Flaw::ForClients, "is not one for servers"),
        (&other, &["127.0.0.1"], Flaw::None, "comes from an unknown root: nobody"),
        (&namesake, &["127.0.0.1"], Flaw::None, "comes from an unknown root: the one trusted under that name"),
    ] {
        let (t, lines) = tracker(by.server(names, flaw, Versions::Any).unwrap(), Options::default());
        let error = announce(&roots, &t.announce_url()).unwrap_err();
        assert!(error.starts_with("connection failed: TLS: its certificate ") && error.contains(want), "{error}");
        drop(t);
        let lines = lines.lock().unwrap();
        assert!(!lines.iter().any(|l| l.contains("info_hash")), "nothing is told to such a tracker: {lines:?}");
    }
}

#[test]
fn what_ends_early_and_what_is_no_tls() {
    let roots = File::new("plain", &Authority::new().unwrap().root_pem());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer).unwrap();
        }
    });
    let url = format!("https://{addr}/announce");
    assert_eq!(announce(&roots, &url).unwrap_err(), "connection failed: TLS: closed during the handshake");
    assert_eq!(announce(&roots, &url).unwrap_err(), "connection failed: TLS: what it speaks is not TLS");
    thread.join().unwrap();
}

#[test]
fn roots_that_are_none_are_named() {
    for (name, text, want) in [
        ("empty", "", "no certificate in PEM form that can be used (0 that cannot)"),
        (
            "bad",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "no certificate in PEM form that can be used (1 that cannot)",
        ),
    ] {
        let roots = File::new(name, text);
        let error = announce(&roots, "https://127.0.0.1:1/announce").unwrap_err();
        assert_eq!(error, format!("connection failed: TLS: trusted roots: {}: {want}", roots.0.display()));
    }
    let nowhere = "/nowhere/roots.pem".into();
    let error = outcome(&mut begin(nowhere, "https://127.0.0.1:1/announce").lp).unwrap_err();
    assert!(error.contains("/nowhere/roots.pem: No such file"), "{error}");
}
