//! A readable name for a peer id (BEP 20), for people only: nothing may depend on it, a peer id is
//! what its sender likes it to be.
//!
//! ```text
//! -qB4650-............   Azureus style: two letters, four characters of version, random bytes
//! M7-10-5--...........   Mainline style: a letter, numbers between hyphens (aria2: A2-1-36-0-)
//! T03I-----...........   Shadow style: a letter, up to five characters of version, three hyphens
//! ```
//!
//! A version's characters are read as 0-9 and A-Z for 10-35 where the clients do so. What no rule
//! fits is shown as it is, escaped: an Azureus style id that is not in the table by its first eight
//! characters, anything else whole.
//!
//! Link: [BEP 20](https://www.bittorrent.org/beps/bep_0020.html).

use crate::id::PeerId;
use std::fmt::Write;

/// How an Azureus style client writes its version.
#[derive(Clone, Copy)]
enum Style {
    /// Each character a number: `4650` is 4.6.5; a fourth that is not 0 is shown too.
    Dots,
    /// The first three, whatever the fourth is.
    Three,
    /// Two digits each: `0171` is 1.71.
    Pairs,
    /// Transmission: `2940` is 2.94, from 4 on `4060` is 4.0.6; the last tells betas.
    Transmission,
}

/// Azureus style clients, by code. In the order of their bytes.
const CLIENTS: &[(&[u8; 2], &str, Style)] = {
    use Style::{Dots, Pairs, Three, Transmission};
    &[
        (b"7T", "aTorrent", Dots),
        (b"AG", "Ares", Dots),
        (b"AT", "Artemis", Dots),
        (b"AV", "Avicora", Dots),
        (b"AZ", "Vuze", Dots),
        (b"BC", "BitComet", Pairs),
        (b"BE", "BitTorrent SDK", Dots),
        (b"BI", "BiglyBT", Dots),
        (b"BL", "BitLord", Pairs),
        (b"BN", "Baidu Netdisk", Dots),
        (b"BT", "BitTorrent", Three),
        (b"BW", "BitTorrent Web", Three),
        (b"CT", "CTorrent", Dots),
        (b"DE", "Deluge", Dots),
        (b"EB", "EBit", Dots),
        (b"FD", "Free Download Manager", Dots),
        (b"FG", "FlashGet", Pairs),
        (b"FL", "Folx", Dots),
        (b"FW", "FrostWire", Dots),
        (b"GT", "anacrolix/torrent", Dots),
        (b"HL", "Halite", Dots),
        (b"KG", "KGet", Dots),
        (b"KT", "KTorrent", Dots),
        (b"LP", "Lphant", Pairs),
        (b"LT", "libtorrent (Rasterbar)", Dots),
        (b"LW", "LimeWire", Dots),
        (b"MG", "MediaGet", Pairs),
        (b"ML", "MLDonkey", Dots),
        (b"MO", "MonoTorrent", Dots),
        (b"PI", "PicoTorrent", Dots),
        (b"QD", "QQDownload", Dots),
        (b"SD", "Thunder", Dots),
        (b"SP", "BitSpirit", Dots),
        (b"SZ", "Shareaza", Dots),
        (b"TB", "Torch", Dots),
        (b"TL", "Tribler", Dots),
        (b"TR", "Transmission", Transmission),
        (b"TT", "TuoTu", Dots),
        (b"TX", "Tixati", Pairs),
        (b"UE", "\u{b5}Torrent Embedded", Three),
        (b"UM", "\u{b5}Torrent Mac", Three),
        (b"UT", "\u{b5}Torrent", Three),
        (b"UW", "\u{b5}Torrent Web", Three),
        (b"WD", "WebTorrent Desktop", Pairs),
        (b"WT", "BitLet", Dots),
        (b"WW", "WebTorrent", Pairs),
        (b"XF", "Xfplay", Dots),
        (b"XL", "Xunlei", Dots),
        (b"XT", "XanTorrent", Dots),
        (b"bk", "BitKitten", Dots),
        (b"lt", "libTorrent (rTorrent)", Dots),
        (b"qB", "qBittorrent", Dots),
        (b"rQ", "rqbit", Dots),
        (b"st", "sharktorrent", Dots),
    ]
};

/// Mainline style clients, by what is before the first number.
const MAINLINE: &[(&[u8], &str)] = &[(b"A2-", "aria2"), (b"M", "BitTorrent"), (b"Q", "Queen Bee")];

/// Shadow style clients, by letter.
const SHADOW: &[(u8, &str)] = &[
    (b'A', "ABC"),
    (b'O', "Osprey Permaseed"),
    (b'Q', "BTQueue"),
    (b'R', "Tribler"),
    (b'S', "Shadow"),
    (b'T', "BitTornado"),
    (b'U', "UPnP NAT"),
];

/// The client a peer id names, with its version; the id itself, escaped, when it is not known.
/// Fit for a terminal, at most 80 characters.
pub fn client_name(id: &PeerId) -> String {
    let id = id.as_bytes();
    azureus(id).or_else(|| mainline(id)).or_else(|| shadow(id)).unwrap_or_else(|| printable_bytes(id))
}

fn azureus(id: &[u8; 20]) -> Option<String> {
    let [b'-', c0, c1, version @ .., b'-'] = id.first_chunk::<8>()? else { return None };
    if !id[1..7].iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let Ok(at) = CLIENTS.binary_search_by_key(&[*c0, *c1], |row| *row.0) else {
        return Some(printable_bytes(&id[..8]));
    };
    let (_, name, style) = CLIENTS[at];
    let mut out = format!("{name} ");
    // Writing to a string cannot fail, hence the unused results.
    match (style, *version) {
        (Style::Pairs, [a, b, c, d]) if version.iter().all(u8::is_ascii_digit) => {
            let _ = write!(out, "{}.{}{}", number(a) * 10 + number(b), number(c), number(d));
        }
        (Style::Transmission, [a, b, c, d]) => {
            match (a, b) {
                (b'0', b'0') => out.push_str(&format!("0.{}{}", c as char, d as char)),
                (b'0'..=b'3', _) => out.push_str(&format!("{}.{}{}", a as char, b as char, c as char)),
                _ => out.push_str(&format!("{}.{}.{}", number(a), number(b), number(c))),
            }
            if matches!(d, b'B' | b'X' | b'Z') {
                out.push_str(if d == b'Z' { " dev" } else { " beta" });
            }
        }
        (_, [a, b, c, d]) => {
            let _ = write!(out, "{}.{}.{}", number(a), number(b), number(c));
            match d {
                b'0' => {}
                b'1'..=b'9' | b'A'..=b'Z' if !matches!(style, Style::Three) => {
                    let _ = write!(out, ".{}", number(d));
                }
                _ if matches!(style, Style::Three) => {}
                _ => out.push(d as char),
            }
        }
    }
    Some(out)
}

/// A version's character as a number: 0-9, then letters from 10 on.
fn number(c: u8) -> u32 {
    (c as char).to_digit(36).unwrap_or(0)
}

fn mainline(id: &[u8; 20]) -> Option<String> {
    let (name, rest) = MAINLINE.iter().find_map(|(code, name)| Some((name, id.strip_prefix(*code)?)))?;
    let mut parts = rest.splitn(4, |&b| b == b'-');
    let mut out = format!("{name} ");
    for i in 0..3 {
        let part = parts.next().filter(|p| matches!(p.len(), 1..=3) && p.iter().all(u8::is_ascii_digit))?;
        if i > 0 {
            out.push('.');
        }
        out.extend(part.iter().map(|&b| b as char));
    }
    // The third number must have ended with a hyphen, not with the id.
    parts.next().map(|_| out)
}

fn shadow(id: &[u8; 20]) -> Option<String> {
    let (_, name) = SHADOW.iter().find(|(code, _)| *code == id[0])?;
    let version = id[1..6].split(|&b| b == b'-').next()?;
    let padded = id[1 + version.len()..9].iter().all(|&b| b == b'-');
    if version.is_empty() || !padded || !version.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    let numbers: Vec<String> = version.iter().map(|&b| number(b).to_string()).collect();
    Some(format!("{name} {}", numbers.join(".")))
}

/// Random bytes are more readable as bytes than as the text they are not.
fn printable_bytes(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Text from a peer, fit for a terminal: bytes that are not UTF-8 are replaced; backslashes, control
/// characters, invisible ones and those that turn the direction of writing are escaped; at most
/// `max` characters, and no escape cut in two.
pub fn printable(bytes: &[u8], max: usize) -> String {
    // More input than this cannot matter: each byte gives a character or belongs to one of four.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max.saturating_mul(4))]);
    let mut out = String::new();
    let mut left = max;
    for c in text.chars() {
        let plain = matches!(c, '\'' | '"');
        let len = if plain { 1 } else { c.escape_debug().count() };
        let Some(rest) = left.checked_sub(len) else { break };
        left = rest;
        if plain {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(start: &[u8]) -> String {
        let mut id = *b"........abcdefghijkl";
        id[..start.len()].copy_from_slice(start);
        client_name(&PeerId::new(id))
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(CLIENTS.windows(2).all(|w| w[0].0 < w[1].0), "binary search needs the order");
    }

    #[test]
    fn azureus_style() {
        assert_eq!(name(b"-qB4650-"), "qBittorrent 4.6.5");
        assert_eq!(name(b"-LT20B0-"), "libtorrent (Rasterbar) 2.0.11");
        assert_eq!(name(b"-lt0D80-"), "libTorrent (rTorrent) 0.13.8");
        assert_eq!(name(b"-TR2940-"), "Transmission 2.94");
        assert_eq!(name(b"-TR0072-"), "Transmission 0.72");
        assert_eq!(name(b"-TR300Z-"), "Transmission 3.00 dev");
        assert_eq!(name(b"-TR4060-"), "Transmission 4.0.6");
        assert_eq!(name(b"-TR410B-"), "Transmission 4.1.0 beta");
        assert_eq!(name(b"-UT355W-"), "\u{b5}Torrent 3.5.5");
        assert_eq!(name(b"-AZ5761-"), "Vuze 5.7.6.1");
        assert_eq!(name(b"-BC0171-"), "BitComet 1.71");
        assert_eq!(name(b"-DE203s-"), "Deluge 2.0.3s");
        assert_eq!(name(b"-WW0102-"), "WebTorrent 1.02");
    }

    #[test]
    fn other_styles() {
        assert_eq!(name(b"A2-1-36-0-"), "aria2 1.36.0");
        assert_eq!(name(b"M7-10-5--"), "BitTorrent 7.10.5");
        assert_eq!(name(b"T03I-----"), "BitTornado 0.3.18");
        assert_eq!(name(b"S58B-----"), "Shadow 5.8.11");
    }

    #[test]
    fn what_is_not_known_is_escaped() {
        assert_eq!(name(b"-XX1234-"), "-XX1234-");
        assert_eq!(name(b"-\x1b]1234-"), "-\\x1b]1234-abcdefghijkl");
        assert_eq!(client_name(&PeerId::new([0xFF; 20])), "\\xff".repeat(20));
        assert_eq!(client_name(&PeerId::new(*b"M7-10-5abcdefghijklm")), "M7-10-5abcdefghijklm");
        assert_eq!(client_name(&PeerId::new(*b"A2-1-36-0123456789ab")), "A2-1-36-0123456789ab");
        assert_eq!(name(b"T--------"), "T--------bcdefghijkl");
    }

    #[test]
    fn any_id_gives_printable_ascii_or_mu() {
        let mut rng = crate::rng::seeded(20);
        for _ in 0..20_000 {
            let mut id = [0u8; 20];
            rng.fill(&mut id);
            // Half of them look like Azureus style, so that its rules are reached.
            if rng.bool() {
                let row = CLIENTS[rng.usize(..CLIENTS.len())].0;
                id[0] = b'-';
                id[1..3].copy_from_slice(row);
                id[7] = b'-';
            }
            let text = client_name(&PeerId::new(id));
            assert!(text.chars().all(|c| c == '\u{b5}' || c == ' ' || c.is_ascii_graphic()), "{text:?}");
            assert!(text.chars().count() <= 80, "{text:?}");
        }
    }

    #[test]
    fn text_is_escaped_and_cut() {
        assert_eq!(printable(b"it's \"5\"", 64), "it's \"5\"");
        assert_eq!(printable(b"\x1b]0;x\x07\r\n\x08", 64), "\\u{1b}]0;x\\u{7}\\r\\n\\u{8}");
        assert_eq!(printable("a\u{202e}b\u{200b}c".as_bytes(), 64), "a\\u{202e}b\\u{200b}c");
        assert_eq!(printable("\u{b5}Torrent 3.5".as_bytes(), 64), "\u{b5}Torrent 3.5");
        assert_eq!(printable(b"\xb5Torrent", 64), "\u{fffd}Torrent");
        assert_eq!(printable(&[b'x'; 100], 64).len(), 64);
        // The escape that does not fit is left out whole.
        assert_eq!(printable(b"abc\x1b", 8), "abc");
        assert_eq!(printable(b"abc\x1b", 9), "abc\\u{1b}");
    }
}
