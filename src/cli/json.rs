//! `--json`: what happens as JSON Lines on standard output, one object a line, flushed one by one.
//!
//! ```text
//! {"t":0.012,"event":"added","info_hash":"…","name":"a","size":39957304,"files":3,"port":6881,"dir":"out"}
//! {"t":1.020,"event":"progress","info_hash":"…","state":"downloading","downloaded":…, …}
//! {"t":4.310,"event":"done","info_hash":"…", …}
//! ```
//!
//! Every line has `t` (seconds since the start), `event` and `info_hash` (null where no torrent is
//! meant), in this order, and then the event's own fields. Amounts are bytes, rates bytes per second,
//! times seconds; what is not known is null. Files count from 1, pieces from 0.
//!
//! | event | fields |
//! |---|---|
//! | `added` | `name` `size` `files` `port` `dir`; of a magnet link `size` and `files` are null |
//! | `metadata` | `name` `size` `files` `private`: what a magnet link is has been learnt; with `--metadata-only` |
//! | | also `path`, the `.torrent` that was written |
//! | `checked` | `have` `pieces`: found on disk, of all |
//! | `progress` | `state` `downloaded` `uploaded` `wasted` `have` `durable` `size` `percent` |
//! | | `rate_down` `rate_up` `peers` `seeds` `eta` `ratio`; once a second, and at the end |
//! | `stats` | `peers` `half_open` `wasted` `pieces_failed` `sync_errors` `banned` `turned_away` `evicted` |
//! | | `peers_untold` `breaches` `stuck` `exhausted` `alerts_lost` `requests_in` `requests_over` `turns` |
//! | | `turn_p50_us` `turn_p999_us` `turn_max_us` `turn_log2_us`: all torrents together, as often as `progress` |
//! | `piece`, `file` | `piece`, `file`: it is complete and verified |
//! | `peer` | `what` (`connected` or `closed`) `addr`, then `client` `incoming`, or `why` |
//! | `tracker` | `url` `ok`, then `peers` `seeders` `leechers` `interval` `warning`, or `error` |
//! | `done` | `name` `downloaded` `uploaded` `size` `seconds`: all selected files are there |
//! | `warning` | `warning`, and `piece` or `addr` |
//! | `error` | `error` `code`: the exit code it would lead to |
//!
//! `downloaded` and `uploaded` count this run, `ratio` the torrent's whole life; `size` of a
//! `progress` or `done` is that of the selected files.
//!
//! Characters that could drive a terminal, or disguise what is shown on one, are written as `\u` escapes.
//!
//! A reader that is slow slows the transfer down: no line is dropped but for `peer` lines beyond [`PEER_LINES`] a
//! second, which others can have as many of as they like; `peers_untold` of a `stats` counts them. A reader that has
//! gone ends the command.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::Value;

use crate::id::InfoHash;
use crate::session::{State, Status};
use crate::time::{Duration, Instant};

/// A line being put together.
pub(super) struct Line(String);

impl Line {
    /// Begins a line.
    pub(super) fn new(t: f64, event: &str, info_hash: Option<InfoHash>) -> Self {
        let line = Self(format!("{{\"t\":{t:.3},\"event\":{}", quoted(event)));
        line.with("info_hash", info_hash.map(|h| h.to_string()))
    }

    /// Adds a field.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.push_str(&format!(",\"{name}\":{}", plain(&value.into().to_string())));
        self
    }

    /// Writes it to standard output.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn send(mut self) -> io::Result<()> {
        self.0.push_str("}\n");
        let mut out = io::stdout().lock();
        out.write_all(self.0.as_bytes())?;
        out.flush()
    }

    #[cfg(test)]
    fn text(self) -> String {
        self.0 + "}"
    }
}

/// Most `peer` lines in one second.
const PEER_LINES: u32 = 100;

/// Counts `peer` lines in windows of one second.
#[derive(Default)]
pub(super) struct PeerLines {
    since: Option<Instant>,
    lines: u32,
    /// Those that were left out so far.
    pub(super) untold: u64,
}

impl PeerLines {
    /// Whether there is room for one more.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= Duration::from_secs(1)) {
            (self.since, self.lines) = (Some(now), 0);
        }
        let passes = self.lines < PEER_LINES;
        if passes {
            self.lines += 1;
        } else {
            self.untold += 1;
        }
        passes
    }
}

/// A string as JSON.
pub(super) fn quoted(text: &str) -> String {
    plain(&Value::from(text).to_string()).into_owned()
}

/// JSON with every character escaped that could drive a terminal: outside of strings there are none.
pub(super) fn plain(json: &str) -> Cow<'_, str> {
    if !json.contains(super::unsafe_to_show) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if super::unsafe_to_show(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(out, "\\u{unit:04x}"));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A number of seconds or a ratio, to three decimals.
pub(super) fn rounded(x: f64) -> Value {
    Value::from((x * 1000.0).round() / 1000.0)
}

/// The fields of a `progress` line; `downloaded` and `uploaded` are what this run has transferred.
pub(super) fn progress(line: Line, s: &Status, (downloaded, uploaded): (u64, u64)) -> Line {
    let (state, share) = match s.state {
        State::FetchingMetadata { done, total } => ("fetching metadata", (done.into(), total.max(1).into())),
        State::Checking { done, total } => ("checking", (done.into(), total.into())),
        State::Downloading => ("downloading", (s.have, s.wanted)),
        State::Seeding => ("seeding", (s.have, s.wanted)),
        State::Paused => ("paused", (s.have, s.wanted)),
        State::Error => ("error", (s.have, s.wanted)),
    };
    let percent = if share.0 >= share.1 { 100.0 } else { share.0 as f64 * 100.0 / share.1 as f64 };
    line.with("state", state)
        .with("downloaded", downloaded)
        .with("uploaded", uploaded)
        .with("wasted", s.wasted)
        .with("have", s.have)
        .with("durable", s.durable)
        .with("size", s.wanted)
        .with("percent", rounded(percent))
        .with("rate_down", s.rate_down)
        .with("rate_up", s.rate_up)
        .with("peers", s.peers)
        .with("seeds", s.seeds)
        .with("eta", s.eta.map(|eta| eta.as_secs()))
        .with("ratio", rounded(s.ratio()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_drives_a_terminal() {
        let nasty = "\u{9b}31m\u{7f}\u{202e}\u{200b}\u{e0041}\u{1b}]é漢";
        let text = Line::new(0.0, "e", None).with("name", nasty).text();
        assert!(!text.contains(super::super::unsafe_to_show), "{text:?}");
        assert!(text.contains("é漢") && text.contains("\\udb40\\udc41"), "{text}");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["name"], nasty);
        assert_eq!(serde_json::from_str::<Value>(&quoted(nasty)).unwrap(), nasty);
    }

    #[test]
    fn peers_that_come_and_go_all_the_time_do_not_fill_a_disk() {
        let (mut lines, t) = (PeerLines::default(), Instant::from_micros(7));
        assert_eq!((0..1000).filter(|_| lines.pass(t)).count(), PEER_LINES as usize);
        assert_eq!(lines.untold, 1000 - u64::from(PEER_LINES));
        assert!(!lines.pass(t + Duration::from_micros(999_999)) && lines.pass(t + Duration::from_secs(1)));
    }

    #[test]
    fn a_line_is_one_line_of_json() {
        let line = Line::new(1.5, "warning", None).with("message", "a\n\"b\"\u{1b}").with("n", 7u64);
        let text = line.text();
        assert!(text.starts_with("{\"t\":1.500,\"event\":\"warning\",\"info_hash\":null,"), "{text}");
        assert!(!text.contains(char::is_control), "{text:?}");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((back["message"].as_str(), back["n"].as_u64()), (Some("a\n\"b\"\u{1b}"), Some(7)));
        let hash = Line::new(0.0, "done", Some(InfoHash::new([0xab; 20]))).text();
        assert_eq!(serde_json::from_str::<Value>(&hash).unwrap()["info_hash"], "ab".repeat(20));
    }
}
