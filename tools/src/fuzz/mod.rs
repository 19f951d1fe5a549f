//! What the fuzz targets do with their input: one function a target, [`TARGETS`] lists them.
//!
//! They live here and not in `tools/fuzz`, which needs libFuzzer, so that the inputs kept in
//! `testdata/fuzz/TARGET/` are run by `cargo test` too: the seeds, and every input that ever failed.
//! A target asserts more than "does not panic" where there is something to assert: what was parsed
//! and written parses the same again; a split of the input changes nothing; no result is larger than
//! its limit.
//!
//! A new input goes there under a name that says what it is; `cargo test` finds it.

mod dht;
mod journal;
mod portmap;
mod session;
mod text;
mod torrent;
mod tracker;

use btmio::bencode;
use btmio::config::limits;
use btmio::wire::{self, Decoder, Event, ExtHandshake, Message};

/// Runs one input.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 26] = [
    ("arguments", text::arguments),
    ("bencode", bencode),
    ("blocklist", text::blocklist),
    ("decoder", decoder),
    ("dht", dht::node),
    ("dns", text::dns),
    ("exchange", exchange),
    ("extended", extended),
    ("gzip", tracker::gzip),
    ("handshake", handshake),
    ("journal", journal::journal),
    ("krpc", dht::krpc),
    ("lsd", dht::lsd),
    ("magnet", text::magnet),
    ("message", message),
    ("metainfo", torrent::metainfo),
    ("names", torrent::names),
    ("portmap", portmap::portmap),
    ("reply", tracker::reply),
    ("response", tracker::response),
    ("resume", session::resume),
    ("session", session::session),
    ("system", text::system),
    ("transaction", tracker::transaction),
    ("udp", tracker::udp),
    ("url", text::url),
];

/// The input, read from the front; zeros behind its end.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn u8(&mut self) -> u8 {
        let Some((b, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *b
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (a, b) = self.0.split_at(n.min(self.0.len()));
        self.0 = b;
        a
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let i = usize::from(self.u8());
        (!from.is_empty()).then(|| from[i % from.len()])
    }
}

/// What `show` makes, as text and as JSON: the one drives no terminal, the other can be read.
fn shown(show: impl Fn(bool, &mut dyn std::io::Write)) {
    let mut text = Vec::new();
    show(false, &mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    let mut json = Vec::new();
    show(true, &mut json);
    let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert!(value.is_object() && json.ends_with(b"}\n") && !json[..json.len() - 1].contains(&b'\n'));
}

/// Runs one input on a target by name.
///
/// # Panics
/// When the target finds a bug, or does not exist.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.expect("a target of that name").1(data);
}

/// A bencoded value: what is read, written and read again is the same.
pub fn bencode(data: &[u8]) {
    let prefix = bencode::parse_prefix(data).map(|(doc, n)| (walk(doc.root(), 0), n));
    let Ok(doc) = bencode::parse(data) else { return };
    assert_eq!(prefix.map(|(_, n)| n).ok(), Some(data.len()), "a whole value is its own prefix");
    assert_eq!(doc.root().raw(), data);
    let mut w = bencode::Writer::new();
    w.raw(doc.root().raw());
    assert_eq!(w.into_bytes(), data);
    walk(doc.root(), 0);
}

/// Looks at everything in a value; how many nodes there are.
fn walk(node: bencode::Node<'_, '_>, depth: usize) -> usize {
    assert!(depth <= limits::BENCODE_DEPTH, "nested deeper than the limit");
    let kinds = [node.as_int().is_some(), node.as_bytes().is_some(), node.is_list(), node.is_dict()];
    assert_eq!(kinds.iter().filter(|k| **k).count(), 1, "a value is of one kind");
    let _ = (node.as_str(), node.kind(), node.span());
    let items: usize = node.items().map(|n| walk(n, depth + 1)).sum();
    let entries: usize = node
        .entries()
        .map(|(key, n)| {
            assert!(node.get(key).is_some(), "a key that is there is found");
            walk(n, depth + 1)
        })
        .sum();
    1 + items + entries
}

/// One frame: what is read is written the same.
pub fn message(data: &[u8]) {
    if let Ok(Some((m, n))) = wire::parse_frame(data, limits::FRAME) {
        assert!(n <= data.len());
        let mut out = Vec::new();
        if !matches!(m, Message::Unknown { .. }) {
            wire::encode(&m, &mut out);
            assert_eq!(out, &data[..n], "{m:?}");
        }
    }
    let _ = wire::parse(data);
}

/// The first two bytes choose the split, the rest is the stream: any split gives what no split gives.
pub fn decoder(data: &[u8]) {
    let Some((seed, stream)) = data.split_first_chunk::<2>() else { return };
    let whole = decode(stream, |_| usize::MAX);
    let mut x = u32::from(u16::from_le_bytes(*seed)) | 1;
    let split = decode(stream, |_| {
        x = x.wrapping_mul(0x9E37_79B1).rotate_left(7);
        1 + (x >> 13) as usize % 40
    });
    assert_eq!(whole, split);
    assert_eq!(whole, decode(stream, |_| 1), "byte by byte");
}

/// The events of a stream that comes in parts, as text, and how it ended.
fn decode(mut stream: &[u8], mut part: impl FnMut(usize) -> usize) -> Vec<String> {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    while !stream.is_empty() {
        let (mut now, later) = stream.split_at(part(stream.len()).min(stream.len()));
        stream = later;
        while !now.is_empty() {
            if let wire::Want::Payload { block, at } = decoder.want() {
                let n = now.len().min((block.len - at) as usize);
                now = &now[n..];
                if let Some(block) = decoder.filled(n as u32) {
                    events.push(format!("filled {block:?}"));
                }
                continue;
            }
            match decoder.feed(now) {
                Ok((n, event)) => {
                    now = &now[n..];
                    match event {
                        Some(Event::Message(m)) => events.push(format!("{m:?}")),
                        Some(Event::BlockStart(b)) => events.push(format!("start {b:?}")),
                        None => assert!(now.is_empty(), "bytes are left, and nothing was found"),
                    }
                }
                Err(e) => {
                    events.push(e.to_string());
                    return events;
                }
            }
            assert!(decoder.memory() <= limits::EXTENDED_FRAME.max(limits::FRAME) as usize + 1);
        }
    }
    events
}

/// The body of an extension handshake, and of the small extension messages.
pub fn extended(data: &[u8]) {
    let _ = (wire::parse_upload_only(data), wire::parse_dont_have(data));
    let Ok(theirs) = ExtHandshake::parse(data) else { return };
    if let Some(v) = &theirs.client {
        assert!(!v.contains(char::is_control), "{v:?}");
    }
}

/// The bodies of extension messages: peers (BEP 11) and parts of the metadata (BEP 9). What is read, written and
/// read again is the same.
pub fn exchange(data: &[u8]) {
    const MAX: usize = 50;
    if let Some(pex) = wire::pex::Pex::parse(data, MAX) {
        assert!(pex.added.len() <= 2 * MAX && pex.dropped.len() <= 2 * MAX);
        assert_eq!(wire::pex::Pex::parse(&pex.encode(), MAX), Some(pex));
    }
    if let Some(message) = wire::Metadata::parse(data) {
        assert_eq!(wire::Metadata::parse(&message.encode()), Some(message));
    }
}

/// The 68 bytes before everything; the first byte chooses the split.
pub fn handshake(data: &[u8]) {
    let Some((split, stream)) = data.split_first() else { return };
    let read = |size: usize| {
        let mut reader = wire::HandshakeReader::new();
        let mut events = Vec::new();
        for mut part in stream.chunks(size) {
            while !part.is_empty() {
                match reader.feed(part) {
                    Ok((0, None)) => return events,
                    Ok((n, event)) => {
                        part = &part[n..];
                        events.extend(event.map(|e| format!("{e:?}")));
                    }
                    Err(e) => {
                        events.push(e.to_string());
                        return events;
                    }
                }
            }
        }
        events
    };
    assert_eq!(read(usize::from(*split).max(1)), read(usize::MAX));
    if let Some(id) = stream.first_chunk() {
        let name = wire::client_name(&btmio::id::PeerId::new(*id));
        assert!(!name.contains(char::is_control), "{name:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Runs everything below `testdata/fuzz`. A folder without a target is a mistake, and so is a
    /// target without a folder.
    #[test]
    fn every_input_that_is_kept_passes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/fuzz");
        let mut folders: Vec<_> = std::fs::read_dir(&root).expect("testdata/fuzz").map(|e| e.unwrap().path()).collect();
        folders.sort();
        let names: Vec<_> = folders.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect();
        let mut wanted: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        wanted.sort();
        assert_eq!(names, wanted);
        for (name, target) in TARGETS {
            let inputs = std::fs::read_dir(root.join(name)).unwrap().map(|e| e.unwrap().path());
            let mut n = 0;
            for path in inputs {
                let data = std::fs::read(&path).unwrap();
                if std::panic::catch_unwind(|| target(&data)).is_err() {
                    panic!("{} fails", path.display());
                }
                n += 1;
            }
            assert!(n > 0, "no inputs for {name}");
        }
    }
}
