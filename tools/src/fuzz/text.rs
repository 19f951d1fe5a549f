//! Targets for text: links, command lines, the system's files.

use btmio::blocklist::{BAD_SHOWN, Blocklist};
use btmio::config::limits;
use btmio::http::{self, Url};
use btmio::metainfo::magnet::{self, Magnet, MagnetError};
use btmio::{cli, net};

use super::shown;

/// A URL and a reference to it, divided by a line feed.
pub(super) fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (base, location) = text.split_once('\n').unwrap_or((text, "/x?y"));
    let Ok(url) = Url::parse(base) else { return };
    assert!(base.len() <= limits::URL);
    for u in std::iter::once(&url).chain(url.join(location).iter()) {
        let (authority, redacted) = (u.authority(), u.redacted());
        assert!(![&authority, &redacted].iter().any(|s| s.contains(char::is_control)), "{u:?}");
        assert!(!u.path().contains(['\r', '\n', ' ']), "{u:?}: it would end the request line");
    }
}

/// A list of blocked addresses: its lines one by one say the same as all together.
pub(super) fn blocklist(data: &[u8]) {
    let parsed = match Blocklist::parse(data) {
        Ok(parsed) => parsed,
        Err(e) => return assert!(!e.to_string().contains(char::is_control), "{e:?}"),
    };
    assert_eq!(parsed.bad.len(), parsed.bad_count.min(BAD_SHOWN));
    assert!(parsed.bad.iter().all(|b| !b.to_string().contains(char::is_control)), "{:?}", parsed.bad);
    let mark = data.windows(3).any(|w| w == b"\xef\xbb\xbf");
    // A line that looks like gzip is that only when it stands alone.
    let gzip = data.split(|&b| b == b'\n').any(|line| line.starts_with(&[0x1f, 0x8b]));
    if gzip || data.len() > 4096 || mark {
        return;
    }
    let mut one_by_one = Blocklist::default();
    for line in data.split(|&b| b == b'\n') {
        if let Ok(parsed) = Blocklist::parse(line) {
            one_by_one.join(parsed.list);
        }
    }
    assert_eq!(one_by_one, parsed.list);
    assert_eq!(parsed.list.is_empty(), parsed.list.ranges() == 0);
}

/// A magnet link: what is read and written again is the same.
pub(super) fn magnet(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let magnet = match Magnet::parse(&text) {
        Ok(magnet) => magnet,
        Err(e) => return assert!(!e.to_string().contains(char::is_control), "{e:?}"),
    };
    assert!(magnet.info_hash.is_some() || magnet.info_hash_v2.is_some());
    assert!(magnet.trackers.len() <= limits::TRACKERS && magnet.url_seeds.len() <= limits::TRACKERS);
    assert!(magnet.peers.len() <= magnet::PEERS && magnet.select.len() <= magnet::RANGES);
    assert!(magnet.url_seeds.iter().all(|u| Url::parse(u).is_ok()));
    assert!(magnet.select.windows(2).all(|w| w[0].1 < w[1].0 - 1), "sorted and apart: {:?}", magnet.select);
    match Magnet::parse(&link(&magnet)) {
        Err(MagnetError::TooLong(_)) => {}
        again => assert_eq!(again.as_ref(), Ok(&magnet)),
    }
    shown(|json, out| cli::show_magnet(&text, json, out).expect("it was read before"));
}

/// A link that says what `m` says.
fn link(m: &Magnet) -> String {
    let mut link = "magnet:?".to_owned();
    let mut add = |key: &str, value: &str| {
        link.push_str(key);
        http::percent_encode(value.as_bytes(), &mut link);
        link.push('&');
    };
    m.info_hash.iter().for_each(|h| add("xt=", &format!("urn:btih:{h}")));
    m.info_hash_v2.iter().for_each(|h| add("xt=", &format!("urn:btmh:1220{h}")));
    m.name.iter().for_each(|n| add("dn=", n));
    m.trackers.iter().for_each(|t| add("tr=", t));
    m.url_seeds.iter().for_each(|u| add("ws=", u));
    for (host, port) in &m.peers {
        add("x.pe=", &if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
    }
    m.select.iter().for_each(|(from, to)| add("so=", &format!("{from}-{to}")));
    link
}

/// A command line, an argument a line; and what a terminal is shown of it.
pub(super) fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let args: Vec<&str> = text.split('\n').collect();
    if let Err(words) = cli::read_arguments(&args) {
        assert!(!words.is_empty() && !words.contains(char::is_control), "{words:?}");
    }
    let safe = cli::escape(&text);
    assert!(!safe.contains(char::is_control), "{safe:?}");
    assert_eq!(cli::escape(&safe), safe, "what is safe stays as it is");
}

/// hosts(5) and resolv.conf(5), divided by a zero.
pub(super) fn system(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (hosts, conf) = text.split_once('\0').unwrap_or((&text, ""));
    let (servers, search, names) = net::resolve::read_files(hosts, conf);
    assert!((1..=3).contains(&servers.len()) && servers.iter().all(|s| s.port() == 53), "{servers:?}");
    assert!(search.len() <= 6 && search.iter().all(|d| !d.is_empty() && d.len() <= 253), "{search:?}");
    assert!(names <= hosts.len() / 2);
}

/// A name server's answer; the first byte chooses the name and the family.
pub(super) fn dns(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let name = ["a.example", "tracker.example.org", "x"][usize::from(which >> 1) % 3];
    if let Some(n) = net::resolve::read_answer(bytes, name, which & 1 == 0) {
        assert!(n <= 32, "{n} addresses");
    }
}
