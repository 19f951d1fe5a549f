//! Lines of all forms, and what is no line.

use super::*;

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn list(text: &str) -> Parsed {
    Blocklist::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

/// The ranges of one line, as text.
fn of(line: &str) -> Vec<String> {
    let Blocklist { v4, v6 } = list(line).list;
    let v4 = v4.iter().map(|(a, b)| format!("{}-{}", std::net::Ipv4Addr::from(*a), std::net::Ipv4Addr::from(*b)));
    v4.chain(v6.iter().map(|(a, b)| format!("{}-{}", Ipv6Addr::from(*a), Ipv6Addr::from(*b)))).collect()
}

#[test]
fn all_forms() {
    for (line, want) in [
        ("Some Company:1.2.3.0-1.2.3.255", "1.2.3.0-1.2.3.255"),
        ("http://a.example:80, Inc:1.2.3.4-1.2.3.4", "1.2.3.4-1.2.3.4"),
        ("a-b:1.2.3.4-1.2.3.5", "1.2.3.4-1.2.3.5"),
        (":1.2.3.4 - 1.2.3.5\r", "1.2.3.4-1.2.3.5"),
        ("001.002.003.000 - 001.002.003.255 , 000 , text, more", "1.2.3.0-1.2.3.255"),
        ("1.2.3.4-1.2.3.5,127,x", "1.2.3.4-1.2.3.5"),
        ("010.009.008.007 - 010.009.008.008,100", "10.9.8.7-10.9.8.8"),
        ("10.0.0.0/8", "10.0.0.0-10.255.255.255"),
        ("1.2.3.4/24 # of a company", "1.2.3.0-1.2.3.255"),
        ("1.10.16.0/20 ; SBL256894", "1.10.16.0-1.10.31.255"),
        ("1.2.3.4/32", "1.2.3.4-1.2.3.4"),
        ("0.0.0.0/0", "0.0.0.0-255.255.255.255"),
        ("1.2.3.4", "1.2.3.4-1.2.3.4"),
        ("2001:db8::/32", "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db8::1", "2001:db8::1-2001:db8::1"),
        ("2001:db8::1-2001:db8::9", "2001:db8::1-2001:db8::9"),
        ("::ffff:1.2.3.4", "1.2.3.4-1.2.3.4"),
    ] {
        assert_eq!(of(line), [want], "{line}");
    }
    assert!(of("1.2.3.4-1.2.3.5,128,let in").is_empty());
}

#[test]
fn bad_lines_have_their_numbers() {
    let text = "# head\n\n1.2.3.4\n// more\n1.2.3.256\n; x\n5.6.7.8/33\n9.9.9.9-8.8.8.8\n5.5.5.5\n4.4.4.4\n3.3.3.3\n\
                1.1.1.1-2001:db8::1\n7.7.7.7-7.7.7.8 , x , y\n2.2.2.2\n";
    let parsed = list(text);
    let said: Vec<_> = parsed.bad.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "line 5: wanted an address, a network or a range, got \"1.2.3.256\"",
            "line 7: wanted a prefix from 0 to 32, got \"33\"",
            "line 8: range that ends before it begins: 9.9.9.9 to 8.8.8.8",
            "line 12: range of two families: 1.1.1.1 to 2001:db8::1",
            "line 13: wanted a level from 0 to 255, got \"x\"",
        ]
    );
    assert_eq!((parsed.bad_count, parsed.list.ranges()), (5, 5));
    for (ip_, listed) in [("1.2.3.4", true), ("8.8.8.8", false), ("5.6.7.8", false), ("7.7.7.7", false)] {
        assert_eq!(parsed.list.contains(ip(ip_)), listed, "{ip_}");
    }
}

#[test]
fn what_is_no_list() {
    let e = Blocklist::parse(b"<html>\n<body>\x1b[2J\n1.2.3.4\n").unwrap_err();
    let first = "line 1: wanted an address, a network or a range, got \"<html>\"";
    assert_eq!(e.to_string(), format!("no list of addresses (2 bad lines, 1 good ones): {first}"));
    let e = Blocklist::parse(b"\x1b[2J").unwrap_err();
    assert!(!e.to_string().contains('\x1b'), "{e}");
    for bad in ["1.2.3", "1.2.3.4.5", "1..2.3", "+1.2.3.4", "1.2.3.4/", "1.2.3.4/+8", "0x1.2.3.4", "1.2.3.4-", "::1%lo"]
    {
        assert!(matches!(Blocklist::parse(bad.as_bytes()), Err(BlocklistError::NoList { .. })), "{bad}");
    }
    assert!(list("").list.is_empty());
    let long = vec![b'\n'; limits::BLOCKLIST + 1];
    assert_eq!(Blocklist::parse(&long), Err(BlocklistError::TooLong(long.len())));
    assert_eq!(Blocklist::parse(&[0x1f, 0x8b, 8]), Err(BlocklistError::Gzip(GzipError::Truncated)));
}

#[test]
fn ranges_are_merged_and_the_ends_count() {
    let text =
        "1.0.0.5-1.0.0.9\n1.0.0.0-1.0.0.4\n1.0.0.8-1.0.0.20\n1.0.0.22\n255.255.255.255\n255.255.255.0/24\n0.0.0.0\n";
    assert_eq!(of(text), ["0.0.0.0-0.0.0.0", "1.0.0.0-1.0.0.20", "1.0.0.22-1.0.0.22", "255.255.255.0-255.255.255.255"]);
    let list = list(text).list;
    for (ip_, listed) in [
        ("0.0.0.0", true),
        ("0.0.0.1", false),
        ("0.255.255.255", false),
        ("1.0.0.0", true),
        ("1.0.0.20", true),
        ("1.0.0.21", false),
        ("::ffff:1.0.0.22", true),
        ("1.0.0.23", false),
        ("255.255.255.255", true),
        ("::1", false),
    ] {
        assert_eq!(list.contains(ip(ip_)), listed, "{ip_}");
    }
}

#[test]
fn an_ipv6_range_covers_the_ipv4_addresses_within() {
    let all = list("::/0").list;
    assert!(all.contains(ip("1.2.3.4")) && all.contains(ip("2001:db8::1")));
    let some = list("::ffff:1.2.3.4-2001::").list;
    assert!(some.contains(ip("1.2.3.4")) && some.contains(ip("255.0.0.1")) && !some.contains(ip("1.2.3.3")));
}

#[test]
fn from_gzip() {
    // `printf '1.2.3.4\n' | gzip -n`
    let packed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x33\xd4\x33\xd2\x33\xd6\x33\xe1\x02\0\xc4\xdf\x36\x0f\x08\0\0\0";
    assert!(Blocklist::parse(packed).is_ok_and(|p| p.list.contains(ip("1.2.3.4"))));
}

#[test]
fn as_many_ranges_as_there_may_be_and_one_more() {
    let ranges = |n: usize| super::parse::lines(&b"::\n".repeat(n), 1000).map(|p| p.list.ranges());
    assert_eq!((ranges(1000), ranges(1001)), (Ok(1), Err(BlocklistError::TooMany)), "they are all the same");
}

#[test]
fn one_line_more_than_the_largest_list_has() {
    let most = limits::BLOCKLIST_RANGES;
    let e = Blocklist::parse(&b"::\n".repeat(most + 1)).unwrap_err();
    assert_eq!((&e, e.to_string()), (&BlocklistError::TooMany, format!("more than {most} ranges")));
}
