//! Statuses as text for people: the block that is redrawn on a terminal, the plain line for a log,
//! and the summary at the end. Pure: no clock, no terminal.
//!
//! ```text
//! one torrent    debian-13.iso
//!                ▕███████▎          ▏ 43 %  16.2/38.1 MiB  ↓ 9.4 MiB/s  ↑ 0  ETA 2 s  3 peers (1 seed)
//! several        debian-13.iso         43 %  16.2/38.1 MiB  ↓ 9.4 MiB/s  ETA 2 s
//!                ubuntu.iso            done  5.0 GiB  ↑ 1.1 MiB/s  ratio 0.40
//!                2 torrents             3 %  ...
//! ```
//!
//! No line is wider than asked for. What does not fit goes in this order: the bar, then the fields
//! from the right. Names are escaped here, so nothing from outside reaches the terminal raw.

use super::escape;
use crate::session::{State, Stats, Status};
use crate::time::Duration;

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Columns that may be used.
    pub(super) width: usize,
    /// Lines that may be used, 2 at least.
    pub(super) rows: usize,
    /// Characters beyond ASCII are allowed.
    pub(super) unicode: bool,
}

/// The block for these torrents.
pub(super) fn block(torrents: &[Status], total: &Stats, style: Style) -> Vec<String> {
    match torrents {
        [] => Vec::new(),
        [one] => {
            let name = cut(&escape(&one.name), style.width, style.unicode);
            vec![name, with_bar(share(one), fields(one, style.unicode), style)]
        }
        many => {
            let room = style.rows.saturating_sub(1).max(1);
            // Those under way first: the finished ones are the ones to leave out.
            let mut order: Vec<&Status> = many.iter().collect();
            let waits = |s: &Status| matches!(s.state, State::FetchingMetadata { .. } | State::Checking { .. });
            order.sort_by_key(|s| !(waits(s) || s.state == State::Downloading));
            let shown = if many.len() > room { room.saturating_sub(1) } else { many.len() };
            let mut lines: Vec<String> = order[..shown].iter().map(|s| row(s, style)).collect();
            if shown < many.len() && style.rows > 2 {
                lines.push(cut(&format!("and {} more", many.len() - shown), style.width, style.unicode));
            }
            lines.push(total_row(many, total, style));
            lines
        }
    }
}

/// The block while a torrent is only checked.
pub(super) fn checking(name: &str, done: u64, all: u64, style: Style) -> Vec<String> {
    let share = (done, all);
    let fields = vec![format!("{:>2} %", percent(share)), format!("{done}/{all} pieces")];
    vec![cut(&escape(name), style.width, style.unicode), with_bar(share, fields, style)]
}

/// One plain line about a torrent, for a log file, a pipe, or `SIGUSR1`.
pub(super) fn line(s: &Status) -> String {
    format!("{}: {}", escape(&s.name), fields(s, false).join(", "))
}

/// The last words about a torrent: what this run has transferred, in the `seconds` that it took to
/// complete, or ran without completing.
pub(super) fn summary(s: &Status, (down, up): (u64, u64), seconds: f64, complete: bool) -> String {
    let mut text = escape(&s.name).into_owned();
    text += &match complete {
        _ if !s.has_metadata => ": incomplete, no metadata".to_owned(),
        true => format!(": complete, {}", bytes(s.wanted)),
        false => format!(": incomplete, {}", pair(s.have, s.wanted)),
    };
    if down > 0 {
        let rate = if seconds > 0.0 { (down as f64 / seconds) as u64 } else { down };
        text += &format!(", {} downloaded in {} ({}/s)", bytes(down), seconds_of(seconds), bytes(rate));
    }
    if up > 0 {
        text += &format!(", {} uploaded", bytes(up));
    }
    text + &format!(", ratio {:.2}", s.ratio())
}

/// Done, of all: pieces looked at while checking, bytes of the selected files otherwise.
fn share(s: &Status) -> (u64, u64) {
    match s.state {
        State::FetchingMetadata { done, total } => (done.into(), total.max(1).into()),
        State::Checking { done, total } => (done.into(), total.into()),
        _ => (s.have, s.wanted),
    }
}

/// Whole percent; 100 only when all is there.
pub(super) fn percent((done, all): (u64, u64)) -> u64 {
    if done >= all { 100 } else { (u128::from(done) * 100 / u128::from(all)) as u64 }
}

/// What there is to say, the most important first.
fn fields(s: &Status, unicode: bool) -> Vec<String> {
    let (down, up) = arrows(unicode);
    let mut out = Vec::new();
    let mut peers = true;
    match s.state {
        State::FetchingMetadata { total: 0, .. } => out.push("fetching metadata".into()),
        State::FetchingMetadata { .. } => out.push(format!("fetching metadata {} %", percent(share(s)))),
        State::Checking { .. } => {
            out.push(format!("checking {} %", percent(share(s))));
            peers = false;
        }
        State::Downloading => {
            out.push(format!("{:>2} %", percent(share(s))));
            out.push(pair(s.have, s.wanted));
            out.push(format!("{down} {}", speed(s.rate_down)));
            out.push(format!("{up} {}", speed(s.rate_up)));
            out.extend(s.eta.map(|eta| format!("ETA {}", time(eta.max(Duration::from_secs(1))))));
        }
        State::Seeding => {
            out.push("seeding".into());
            out.push(bytes(s.wanted));
            out.push(format!("{up} {}", speed(s.rate_up)));
            out.push(format!("ratio {:.2}", s.ratio()));
        }
        State::Paused if s.is_complete() => {
            out.push("done".into());
            out.push(bytes(s.wanted));
            out.push(format!("ratio {:.2}", s.ratio()));
            peers = false;
        }
        State::Paused => {
            out.push(format!("stopped at {} %", percent(share(s))));
            peers = false;
        }
        State::Error => {
            out.push(escape(s.error.as_deref().unwrap_or("failed")).into_owned());
            peers = false;
        }
    }
    if peers {
        let plural = if s.peers == 1 { "" } else { "s" };
        out.push(match s.seeds {
            0 => format!("{} peer{plural}", s.peers),
            1 => format!("{} peer{plural} (1 seed)", s.peers),
            n => format!("{} peer{plural} ({n} seeds)", s.peers),
        });
    }
    out
}

fn arrows(unicode: bool) -> (&'static str, &'static str) {
    if unicode { ("↓", "↑") } else { ("down", "up") }
}

/// A bar and the fields behind it, as far as they fit.
fn with_bar(share: (u64, u64), fields: Vec<String>, style: Style) -> String {
    const BAR: std::ops::RangeInclusive<usize> = 10..=30;
    let text = fit(&fields, style.width, style.unicode);
    // Two for its ends and one blank behind.
    let room = style.width.saturating_sub(columns(&text) + 3);
    if room < *BAR.start() {
        return text;
    }
    format!("{} {text}", bar(share, room.min(*BAR.end()), style.unicode))
}

/// As many of the fields as fit.
fn fit(fields: &[String], width: usize, unicode: bool) -> String {
    for n in (1..=fields.len()).rev() {
        let text = fields[..n].join("  ");
        if columns(&text) <= width {
            return text;
        }
    }
    cut(fields.first().map_or("", |f| f), width, unicode)
}

/// One line of several: the name in the left third, the fields behind it.
fn row(s: &Status, style: Style) -> String {
    named(&escape(&s.name), &fields(s, style.unicode), style)
}

fn named(name: &str, fields: &[String], style: Style) -> String {
    let left = (style.width / 3).clamp(8, 40);
    let name = cut(name, left, style.unicode);
    let blank = " ".repeat(left - columns(&name).min(left) + 2);
    let text = fit(fields, style.width.saturating_sub(left + 2), style.unicode);
    cut(&format!("{name}{blank}{text}"), style.width, style.unicode)
}

fn total_row(torrents: &[Status], total: &Stats, style: Style) -> String {
    let sum = |f: fn(&Status) -> u64| torrents.iter().map(f).fold(0, u64::saturating_add);
    let (have, wanted) = (sum(|s| s.have), sum(|s| s.wanted));
    let (down, up) = arrows(style.unicode);
    let fields = [
        format!("{:>2} %", percent((have, wanted))),
        pair(have, wanted),
        format!("{down} {}", speed(total.rate_down)),
        format!("{up} {}", speed(total.rate_up)),
        format!("{} peer{}", total.peers, if total.peers == 1 { "" } else { "s" }),
    ];
    named(&format!("{} torrents", torrents.len()), &fields, style)
}

/// A bar of `width` cells between two ends.
fn bar(share: (u64, u64), width: usize, unicode: bool) -> String {
    let (done, all) = share;
    let cells = width as u128 * 8;
    let eighths = if done >= all { cells } else { u128::from(done) * cells / u128::from(all) } as usize;
    if !unicode {
        let full = eighths / 8;
        let head = if full < width { ">" } else { "" };
        return format!("[{}{head}{}]", "=".repeat(full), " ".repeat(width - full - head.len()));
    }
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    let blank = width - eighths / 8 - usize::from(!part.is_empty());
    format!("▕{}{part}{}▏", "█".repeat(eighths / 8), " ".repeat(blank))
}

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// The unit in which `n` has one to four digits before the point.
fn unit(n: u64) -> usize {
    (1..UNITS.len()).take_while(|&u| n >= 1 << (10 * u)).last().unwrap_or(0)
}

fn in_unit(n: u64, unit: usize) -> String {
    if unit == 0 { n.to_string() } else { format!("{:.1}", n as f64 / (1u64 << (10 * unit)) as f64) }
}

/// An amount: `16.2 MiB`.
pub(super) fn bytes(n: u64) -> String {
    format!("{} {}", in_unit(n, unit(n)), UNITS[unit(n)])
}

/// Two amounts in the unit of the larger: `16.2/38.1 MiB`.
fn pair(part: u64, all: u64) -> String {
    let u = unit(all.max(part));
    format!("{}/{} {}", in_unit(part, u), in_unit(all, u), UNITS[u])
}

fn speed(n: u64) -> String {
    if n == 0 { "0".into() } else { format!("{}/s", bytes(n)) }
}

/// A span of time in its two largest units: `42 s`, `3 m 20 s`, `5 h 12 m`, `3 d 4 h`.
fn time(t: Duration) -> String {
    // Rounded up: "0 s" left would be a lie.
    let s = t.as_secs() + u64::from(t.subsec_nanos() > 0);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} m {} s", s / 60, s % 60),
        3600..86400 => format!("{} h {} m", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86400, s / 3600 % 24),
    }
}

fn seconds_of(s: f64) -> String {
    if s < 60.0 { format!("{s:.1} s") } else { time(Duration::from_secs(s as u64)) }
}

/// Columns that `text` takes on a terminal.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// Columns of one character: the blocks that terminals draw double, and those that combine with the
/// character before. Nearly right is enough, because lines are only cut by it.
fn width(c: char) -> usize {
    match u32::from(c) {
        0..0x300 => 1,
        0x300..=0x36f
        | 0x483..=0x489
        | 0x591..=0x5bd
        | 0x610..=0x61a
        | 0x64b..=0x65f
        | 0x200b..=0x200f
        | 0x20d0..=0x20ff
        | 0xfe00..=0xfe0f
        | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff01..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `text`, or its beginning and a mark that there was more, in at most `max` columns.
fn cut(text: &str, max: usize, unicode: bool) -> String {
    if columns(text) <= max {
        return text.into();
    }
    let mark = if unicode { "…" } else { "~" };
    let mut room = max.saturating_sub(1);
    let fits = |c: &char| {
        let fits = width(*c) <= room;
        room = if fits { room - width(*c) } else { 0 };
        fits
    };
    let mut out: String = text.chars().take_while(fits).collect();
    if max > 0 {
        out.push_str(mark);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{InfoHash, TorrentKey};

    fn status(name: &str, have: u64, wanted: u64) -> Status {
        Status {
            key: TorrentKey::new(0, 0),
            info_hash: InfoHash::new([0; 20]),
            name: name.into(),
            state: State::Downloading,
            error: None,
            size: wanted,
            wanted,
            have,
            durable: have,
            downloaded: have,
            uploaded: 0,
            wasted: 0,
            rate_down: 9_856_614,
            rate_up: 0,
            peers: 3,
            seeds: 1,
            connecting: 0,
            known: 4,
            pieces: (0, 0),
            eta: Some(Duration::from_millis(1500)),
            seeding_for: Duration::ZERO,
            goal_reached: false,
            has_metadata: true,
        }
    }

    const WIDE: Style = Style { width: 110, rows: 10, unicode: true };

    #[test]
    fn one_torrent_takes_two_lines() {
        let s = status("debian.iso", 17 << 20, 40 << 20);
        assert_eq!(
            block(std::slice::from_ref(&s), &Stats::default(), WIDE),
            [
                "debian.iso",
                "▕████████████▊                 ▏ 42 %  17.0/40.0 MiB  ↓ 9.4 MiB/s  ↑ 0  ETA 2 s  3 peers (1 seed)",
            ]
        );
        let ascii = block(&[s], &Stats::default(), Style { width: 100, unicode: false, ..WIDE });
        assert_eq!(
            ascii[1],
            "[============>                ] 42 %  17.0/40.0 MiB  down 9.4 MiB/s  up 0  ETA 2 s  3 peers (1 seed)"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let names =
            ["x", "漢字の長い名前がここにありますよ漢字の長い名前", "e\u{301}e\u{301}\x1b[2J", &"long ".repeat(50)];
        for unicode in [true, false] {
            for width in 1..130 {
                let style = Style { width, rows: 4, unicode };
                for name in names {
                    let s = status(name, 1 << 30, 3 << 40);
                    let many = vec![s.clone(); 9];
                    let lines = [block(&[s], &Stats::default(), style), block(&many, &Stats::default(), style)];
                    for line in lines.iter().flatten() {
                        // Several torrents keep eight columns for the name and the two behind.
                        assert!(columns(line) <= width, "{width}: {line:?}");
                        assert!(!line.contains('\x1b'));
                        assert!(unicode || name.starts_with('漢') || name.starts_with('e') || line.is_ascii());
                    }
                    assert!(lines[1].len() <= 4, "{:?}", lines[1]);
                }
            }
        }
    }

    #[test]
    fn many_torrents_are_cut_to_the_rows_and_summed() {
        let many: Vec<Status> = (0..9).map(|i| status(&format!("t{i}"), 1 << 20, 2 << 20)).collect();
        let total = Stats { rate_down: 2048, peers: 5, ..Stats::default() };
        let lines = block(&many, &total, Style { width: 80, rows: 5, unicode: false });
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with("t0 "), "{lines:?}");
        assert_eq!(lines[3], "and 6 more");
        assert!(
            lines[4].starts_with("9 torrents") && lines[4].contains("50 %  9.0/18.0 MiB  down 2.0 KiB/s"),
            "{lines:?}"
        );
        assert!(block(&many[..4], &total, Style { rows: 5, ..WIDE }).iter().all(|l| !l.contains("more")));
    }

    #[test]
    fn a_hundred_percent_means_all_of_it() {
        assert_eq!(percent((u64::MAX - 1, u64::MAX)), 99);
        assert_eq!(percent((0, 0)), 100);
        assert_eq!(percent((5, 5)), 100);
        assert!(bar((999, 1000), 10, true).contains('▉'));
        assert_eq!(bar((999, 1000), 10, false), "[=========>]");
        assert_eq!(bar((5, 5), 10, false), "[==========]");
        assert_eq!(bar((0, 5), 3, true), "▕   ▏");
    }

    #[test]
    fn amounts_and_times() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(pair(500, 2 << 20), "0.0/2.0 MiB");
        assert_eq!(time(Duration::from_millis(1)), "1 s");
        assert_eq!(time(Duration::from_secs(200)), "3 m 20 s");
        assert_eq!(time(Duration::from_secs(90_000)), "1 d 1 h");
    }

    #[test]
    fn every_state_says_what_it_is() {
        let mut s = status("a", 20, 20);
        let mut say = |state, error: Option<&str>| {
            s.state = state;
            s.error = error.map(str::to_owned);
            line(&s)
        };
        let fetching = |done, total| State::FetchingMetadata { done, total };
        assert_eq!(say(fetching(0, 0), None), "a: fetching metadata, 3 peers (1 seed)");
        assert_eq!(say(fetching(1, 4), None), "a: fetching metadata 25 %, 3 peers (1 seed)");
        assert_eq!(say(State::Checking { done: 1, total: 4 }, None), "a: checking 25 %");
        assert_eq!(say(State::Seeding, None), "a: seeding, 20 B, up 0, ratio 0.00, 3 peers (1 seed)");
        assert_eq!(say(State::Paused, None), "a: done, 20 B, ratio 0.00");
        assert_eq!(say(State::Error, Some("no\x07space")), "a: no\\u{7}space");
    }

    #[test]
    fn the_summary_is_one_line() {
        let mut s = status("a", 38 << 20, 38 << 20);
        let text = summary(&s, (38 << 20, 0), 4.0, true);
        assert_eq!(text, "a: complete, 38.0 MiB, 38.0 MiB downloaded in 4.0 s (9.5 MiB/s), ratio 0.00");
        (s.uploaded, s.have) = (19 << 20, 1 << 20);
        let text = summary(&s, (2048, 1 << 20), 0.0, false);
        assert_eq!(
            text,
            "a: incomplete, 1.0/38.0 MiB, 2.0 KiB downloaded in 0.0 s (2.0 KiB/s), 1.0 MiB uploaded, ratio 0.50"
        );
        assert_eq!(summary(&s, (0, 0), 70.0, true), "a: complete, 38.0 MiB, ratio 0.50");
    }
}
