//! The lines of a list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{BAD_SHOWN, BadLine, Blocklist, BlocklistError, Parsed};

/// The highest level of a DAT line that is refused.
const LEVEL: u32 = 127;
/// Characters of a bad line that are shown.
const SHOWN: usize = 60;

/// All lines of a text, with so many ranges at most.
pub(super) fn lines(text: &[u8], most: usize) -> Result<Parsed, BlocklistError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let (mut list, mut bad, mut bad_count, mut good) = (Blocklist::default(), Vec::new(), 0, 0);
    for (i, line) in text.split(|&b| b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") || line.starts_with(b"//") {
            continue;
        }
        match range(line) {
            Ok(Some((from, to))) => {
                good += 1;
                list.push(from, to);
                if list.v4.len() + list.v6.len() > most {
                    return Err(BlocklistError::TooMany);
                }
            }
            Ok(None) => good += 1,
            Err(what) => {
                bad_count += 1;
                if bad.len() < BAD_SHOWN {
                    bad.push(BadLine { line: i + 1, what });
                }
            }
        }
    }
    if bad_count > good {
        return Err(BlocklistError::NoList { good, bad: bad_count, first: bad.swap_remove(0) });
    }
    list.settle();
    Ok(Parsed { list, bad, bad_count })
}

/// The range of one line; `None` when its level says that it is not refused.
fn range(line: &[u8]) -> Result<Option<(IpAddr, IpAddr)>, String> {
    // Names may be in any encoding; what counts is ASCII.
    let text = &*String::from_utf8_lossy(line);
    let unknown = || {
        let short: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        format!("wanted an address, a network or a range, got \"{short}\"")
    };
    if let Some((addresses, rest)) = text.split_once(',') {
        if let Some(pair) = pair(addresses) {
            let level = rest.split(',').next().unwrap_or_default().trim();
            let level: u32 = level.parse().map_err(|_| format!("wanted a level from 0 to 255, got {level:?}"))?;
            return ordered(pair).map(|pair| (level <= LEVEL).then_some(pair));
        }
    }
    // An address needs no name in front, and may have a remark behind it.
    let plain = text.split(['#', ';']).next().unwrap_or_default().trim();
    if let Some(found) = network(plain)? {
        return Ok(Some(found));
    }
    if let Some(pair) = pair(plain) {
        return ordered(pair).map(Some);
    }
    // The name may hold anything, also a colon: the range is behind the last.
    let (_, behind) = text.rsplit_once(':').ok_or_else(unknown)?;
    let pair = pair(behind).ok_or_else(unknown)?;
    ordered(pair).map(Some)
}

fn ordered((from, to): (IpAddr, IpAddr)) -> Result<(IpAddr, IpAddr), String> {
    match (from.is_ipv4() == to.is_ipv4(), from <= to) {
        (true, true) => Ok((from, to)),
        (false, _) => Err(format!("range of two families: {from} to {to}")),
        (true, false) => Err(format!("range that ends before it begins: {from} to {to}")),
    }
}

/// `a-b`, blanks around them allowed.
fn pair(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (from, to) = text.split_once('-')?;
    Some((address(from.trim())?, address(to.trim())?))
}

/// `a` or `a/bits`. Bits behind the prefix mean nothing.
fn network(text: &str) -> Result<Option<(IpAddr, IpAddr)>, String> {
    let Some((ip, bits)) = text.split_once('/') else {
        return Ok(address(text).map(|ip| (ip, ip)));
    };
    let Some(ip) = address(ip) else { return Ok(None) };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = match bits.parse::<u32>() {
        Ok(n) if n <= most && bits.bytes().all(|b| b.is_ascii_digit()) => n,
        _ => return Err(format!("wanted a prefix from 0 to {most}, got {bits:?}")),
    };
    Ok(Some(match ip {
        IpAddr::V4(ip) => {
            let host = u32::MAX.checked_shr(bits).unwrap_or(0);
            let first = u32::from(ip) & !host;
            (Ipv4Addr::from(first).into(), Ipv4Addr::from(first | host).into())
        }
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(bits).unwrap_or(0);
            let first = u128::from(ip) & !host;
            (Ipv6Addr::from(first).into(), Ipv6Addr::from(first | host).into())
        }
    }))
}

/// An address; IPv4 numbers may have leading zeros.
fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(Into::into);
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if !(1..=3).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}
