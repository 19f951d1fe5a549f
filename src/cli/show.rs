//! `btmio show FILE|MAGNET [--json]`: what a torrent file or a magnet link says, without doing anything
//! about it.
//!
//! As text, for people: aligned, and with every control character escaped, because names and
//! comments are a stranger's bytes on the reader's terminal. As JSON, for programs: one object.
//! Version 2 torrents are shown too, although they cannot be downloaded.

use super::{escape, json::plain};
use crate::config::limits;
use crate::metainfo::magnet::{Magnet, MagnetError};
use crate::metainfo::{Metainfo, MetainfoError};
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Why nothing was shown.
#[derive(Debug)]
pub enum ShowError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not a torrent.
    Torrent {
        /// The file.
        path: PathBuf,
        /// Why.
        error: MetainfoError,
    },
    /// The magnet link is none.
    Magnet(MagnetError),
    /// The output cannot be written.
    Write(io::Error),
}

impl ShowError {
    /// The exit code of the program: 17 for a file that cannot be read, 25 for what is not
    /// bencode, 26 for bencode that is no torrent, 27 for a bad magnet link, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Read { .. } => 17,
            Self::Torrent { error, .. } if error.is_bencode() => 25,
            Self::Torrent { .. } => 26,
            Self::Magnet(_) => 27,
            Self::Write(_) => 1,
        }
    }
}

impl fmt::Display for ShowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, error } => write!(f, "{}: {error}", escape(&path.to_string_lossy())),
            Self::Torrent { path, error } => write!(f, "{}: {error}", escape(&path.to_string_lossy())),
            Self::Magnet(error) => write!(f, "{error}"),
            Self::Write(error) => write!(f, "standard output: {error}"),
        }
    }
}
impl std::error::Error for ShowError {}

/// Reads a torrent file and writes what it says to `out`.
///
/// # Errors
/// When the file cannot be read, is not a torrent, or `out` cannot be written.
pub fn show(file: &Path, json: bool, out: &mut dyn Write) -> Result<(), ShowError> {
    let bytes = read(file).map_err(|error| ShowError::Read { path: file.to_path_buf(), error })?;
    let torrent = Metainfo::parse(&bytes).map_err(|error| ShowError::Torrent { path: file.to_path_buf(), error })?;
    show_torrent(&torrent, json, out).map_err(ShowError::Write)
}

/// Writes what a torrent says to `out`.
///
/// # Errors
/// When `out` cannot be written.
pub fn show_torrent(torrent: &Metainfo, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        write_json(torrent, out)?
    } else {
        write_text(torrent, out)?
    }
    out.flush()
}

/// Writes what a magnet link, or a bare info hash, says to `out`.
///
/// # Errors
/// When it is not a magnet link of a torrent, or `out` cannot be written.
pub fn show_magnet(link: &str, json: bool, out: &mut dyn Write) -> Result<(), ShowError> {
    let magnet = Magnet::parse(link).map_err(ShowError::Magnet)?;
    let result = if json { magnet_json(&magnet, out) } else { magnet_text(&magnet, out) };
    result.and_then(|()| out.flush()).map_err(ShowError::Write)
}

/// `host:port`, as in a URL.
fn host_port((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// As in the link: `0,2,4-6`, counted from 0.
fn ranges(select: &[(u32, u32)]) -> String {
    let range = |(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    select.iter().map(range).collect::<Vec<_>>().join(",")
}

fn magnet_json(m: &Magnet, out: &mut dyn Write) -> io::Result<()> {
    let tiers: Vec<Value> = m.trackers.iter().map(|t| json!([t])).collect();
    let object = json!({
        "name": m.name,
        "info_hash": m.info_hash.map(|h| h.to_string()),
        "info_hash_v2": m.info_hash_v2.map(|h| h.to_string()),
        "trackers": tiers,
        "url_seeds": m.url_seeds,
        "peers": m.peers.iter().map(host_port).collect::<Vec<_>>(),
        "select": if m.select.is_empty() { None } else { Some(ranges(&m.select)) },
    });
    writeln!(out, "{}", plain(&object.to_string()))
}

fn magnet_text(m: &Magnet, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |key: &str, value: &str| writeln!(out, "{key:<14}{}", escape(value));
    if let Some(name) = &m.name {
        line("name", name)?;
    }
    if let Some(hash) = m.info_hash {
        line("info hash", &hash.to_string())?;
    }
    if let Some(hash) = m.info_hash_v2 {
        line("info hash v2", &hash.to_string())?;
    }
    for (i, url) in m.trackers.iter().enumerate() {
        line(&format!("tracker {}", i + 1), url)?;
    }
    for (i, url) in m.url_seeds.iter().enumerate() {
        line(if i == 0 { "web seeds" } else { "" }, url)?;
    }
    for (i, peer) in m.peers.iter().enumerate() {
        line(if i == 0 { "peers" } else { "" }, &host_port(peer))?;
    }
    if !m.select.is_empty() {
        line("files", &ranges(&m.select))?;
    }
    Ok(())
}

/// Reads a file, but not far beyond the size at which it is refused anyway.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(limits::TORRENT_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_json(t: &Metainfo, out: &mut dyn Write) -> io::Result<()> {
    let files: Vec<Value> =
        t.files.iter().filter(|f| !f.pad).map(|f| json!({ "path": f.path, "size": f.len })).collect();
    let object = json!({
        "name": t.name,
        "info_hash": t.info_hash.map(|h| h.to_string()),
        "info_hash_v2": t.info_hash_v2.map(|h| h.to_string()),
        "piece_length": t.piece_len,
        "pieces": t.hashes.len(),
        "size": t.size(),
        "files": files,
        "private": t.private,
        "trackers": t.trackers,
        "url_seeds": t.url_seeds,
        "comment": t.comment,
        "created_by": t.created_by,
        "creation_date": t.creation_date,
    });
    writeln!(out, "{}", plain(&object.to_string()))
}

fn write_text(t: &Metainfo, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |key: &str, value: &str| writeln!(out, "{key:<14}{}", escape(value));
    line("name", &t.name)?;
    if let Some(hash) = t.info_hash {
        line("info hash", &hash.to_string())?;
    }
    if let Some(hash) = t.info_hash_v2 {
        line("info hash v2", &hash.to_string())?;
    }
    let shown = t.files.iter().filter(|f| !f.pad).count();
    line("size", &format!("{} in {shown} {}", amount(t.size()), if shown == 1 { "file" } else { "files" }))?;
    let pieces = if t.is_v2_only() { String::new() } else { format!("{} of ", t.hashes.len()) };
    line("pieces", &format!("{pieces}{}", amount(t.piece_len.into())))?;
    if t.private {
        line("private", "yes")?;
    }
    for (i, tier) in t.trackers.iter().enumerate() {
        for (j, url) in tier.iter().enumerate() {
            line(&if j == 0 { format!("tracker {}", i + 1) } else { String::new() }, url)?;
        }
    }
    for (i, url) in t.url_seeds.iter().enumerate() {
        line(if i == 0 { "web seeds" } else { "" }, url)?;
    }
    if let Some(comment) = &t.comment {
        line("comment", comment)?;
    }
    if let Some(program) = &t.created_by {
        line("created by", program)?;
    }
    if let Some(seconds) = t.creation_date {
        line("created", &date(seconds))?;
    }
    writeln!(out, "files")?;
    let width = t.files.iter().filter(|f| !f.pad).map(|f| f.len.to_string().len()).max().unwrap_or(0);
    for f in t.files.iter().filter(|f| !f.pad) {
        writeln!(out, "  {:>width$}  {}", f.len, escape(&f.path))?;
    }
    Ok(())
}

/// A size in bytes, and from a kibibyte on also in a unit one can read.
fn amount(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = None;
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = Some(next);
    }
    match unit {
        None => format!("{bytes} bytes"),
        Some(unit) if value.fract() == 0.0 => format!("{value} {unit}"),
        Some(unit) => format!("{value:.2} {unit} ({bytes} bytes)"),
    }
}

/// Seconds since 1970 as a date and a time in UTC; the bare number where that says nothing.
fn date(seconds: i64) -> String {
    if !(0..=253_402_300_799).contains(&seconds) {
        return seconds.to_string();
    }
    let (mut day, time) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let is_leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    loop {
        let days = if is_leap(year) { 366 } else { 365 };
        if day < days {
            break;
        }
        day -= days;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (h, m, s) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year}-{month:02}-{:02} {h:02}:{m:02}:{s:02} UTC", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/torrents").join(name)
    }

    fn shown(name: &str, json: bool) -> String {
        let mut out = Vec::new();
        show(&testdata(name), json, &mut out).expect(name);
        String::from_utf8(out).expect("UTF-8")
    }

    fn object(name: &str) -> Value {
        serde_json::from_str(&shown(name, true)).expect("JSON")
    }

    #[test]
    fn magnet_links() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let link = format!(
            "magnet:?xt=urn:btih:{hash}&dn=a&tr=udp://t:1&tr=http://u/&ws=http://w/&x.pe=[::1]:5&x.pe=h:6&so=0,4-6"
        );
        let text = |link: &str, json: bool| {
            let mut out = Vec::new();
            show_magnet(link, json, &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        let v: Value = serde_json::from_str(&text(&link, true).unwrap()).unwrap();
        let wanted = json!({
            "name": "a", "info_hash": hash, "info_hash_v2": null, "trackers": [["udp://t:1"], ["http://u/"]],
            "url_seeds": ["http://w/"], "peers": ["[::1]:5", "h:6"], "select": "0,4-6",
        });
        assert_eq!(v, wanted);
        let lines = text(&link, false).unwrap();
        assert!(lines.contains("tracker 2     http://u/\n") && lines.contains("files         0,4-6\n"), "{lines}");
        let bare: Value = serde_json::from_str(&text(hash, true).unwrap()).unwrap();
        assert_eq!((&bare["info_hash"], &bare["select"]), (&json!(hash), &Value::Null));
        let e = text("magnet:?dn=x", true).unwrap_err();
        assert_eq!(e.exit_code(), 27);
    }

    #[test]
    fn json_says_everything() {
        assert_eq!(
            object("single.torrent"),
            json!({
                "name": "single.bin", "info_hash": "f84e046ba20d1e5579efdce40c536c0c4166afa2", "info_hash_v2": null,
                "piece_length": 32768, "pieces": 4, "size": 100_001,
                "files": [{ "path": "single.bin", "size": 100_001 }], "private": false,
                "trackers": [
                    ["http://a.example/announce?passkey=1", "udp://b.example:6969"],
                    ["http://c.example/announce"]
                ],
                "url_seeds": ["http://seed.example/files/"],
                "comment": "one file", "created_by": "by hand", "creation_date": 1_700_000_000
            })
        );
        assert_eq!(shown("single.torrent", true).lines().count(), 1);
    }

    #[test]
    fn json_leaves_pads_out_and_shows_version_2() {
        let pads = object("pads.torrent");
        assert_eq!(pads["size"], 25_000);
        assert_eq!(pads["pieces"], 3);
        assert_eq!(pads["files"], json!([{ "path": "pads/a", "size": 5000 }, { "path": "pads/b", "size": 20_000 }]));
        assert_eq!((&pads["comment"], &pads["creation_date"]), (&Value::Null, &Value::Null));
        let v2 = object("v2.torrent");
        assert_eq!(v2["info_hash"], Value::Null);
        assert_eq!(v2["info_hash_v2"], "51967a8f8b7670aad6f0d12f4e9857c69accde8c568531ada143c77516b59f14");
        assert_eq!(v2["pieces"], 0);
        assert_eq!(v2["files"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn text_is_aligned() {
        let text = shown("multi.torrent", false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "name          multi",
                "info hash     a77e24e839229b5f84cb8d19879a46300cdd2e9b",
                "size          107.43 KiB (110010 bytes) in 4 files",
                "pieces        7 of 16 KiB",
                "private       yes",
                "tracker 1     udp://tracker.example:1337/announce",
                "web seeds     http://s1.example/",
                "              http://s2.example/",
                "files",
                "     10  multi/a.txt",
                "      0  multi/empty",
                "  40000  multi/sub/run.sh",
                "  70000  multi/sub/deep/b.bin",
            ]
        );
    }

    #[test]
    fn text_has_nothing_a_terminal_acts_upon() {
        assert_eq!(escape("a\x1b[31m\r\n\u{9b}\u{202e}é\\"), "a\\u{1b}[31m\\r\\n\\u{9b}\\u{202e}é\\");
        for name in ["names.torrent", "single.torrent", "v2.torrent"] {
            assert!(!shown(name, false).contains(|c: char| c.is_control() && c != '\n'));
        }
    }

    #[test]
    fn errors_have_their_codes() {
        let code = |path: PathBuf| show(&path, true, &mut Vec::new()).expect_err("no torrent").exit_code();
        assert_eq!(code(testdata("does not exist")), 17);
        assert_eq!(code(testdata("")), 17, "a folder");
        assert_eq!(code(testdata("../../Cargo.toml")), 25);
        let torrent = |error| ShowError::Torrent { path: PathBuf::new(), error };
        assert_eq!(torrent(MetainfoError::Overflow).exit_code(), 26);
    }

    #[test]
    fn dates_and_amounts_can_be_read() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_700_000_000), "2023-11-14 22:13:20 UTC");
        assert_eq!(date(253_402_300_799), "9999-12-31 23:59:59 UTC");
        assert_eq!(date(-1), "-1");
        assert_eq!(date(i64::MAX), i64::MAX.to_string());
        assert_eq!(amount(1023), "1023 bytes");
        assert_eq!(amount(16 << 20), "16 MiB");
        assert_eq!(amount(1_500_000), "1.43 MiB (1500000 bytes)");
    }
}
