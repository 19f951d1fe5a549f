//! URLs of trackers and web seeds (RFC 3986, the part of it that is met with there).
//!
//! Strict where leniency would let a URL mean two things to two readers (control characters,
//! backslashes, decimal or hexadecimal IPv4 forms, zone ids, names that are not ASCII), lenient
//! where torrents are sloppy (surrounding blanks, spaces and non-ASCII in the path are encoded).
//!
//! The target is kept as written: passkeys and odd escapes must reach the tracker unchanged.

use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::limits;

/// How a tracker is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// BEP 15.
    Udp,
}

impl Scheme {
    /// The scheme in lower case, without `://`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Udp => "udp",
        }
    }
    /// The port when the URL has none. BEP 15 has no default; others take 80 too.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http | Self::Udp => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A parsed URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Url {
    /// How to speak.
    pub scheme: Scheme,
    /// The host: lower-case name, IPv4, or IPv6 without brackets.
    pub host: String,
    /// The port, the scheme's own when none was written; never 0.
    pub port: u16,
    /// Path and query as written, starting with `/`; no fragment.
    pub target: String,
    /// What stood before `@`, still percent-encoded.
    pub userinfo: Option<String>,
}

/// What is wrong with a URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UrlError {
    /// No `scheme:` in front.
    NoScheme,
    /// A scheme other than http, https and udp.
    Scheme(String),
    /// No `//` after the scheme, or no host after that.
    NoHost,
    /// The host is neither a plain ASCII name nor an IP address in its usual form.
    Host(String),
    /// Not a port between 1 and 65535.
    Port(String),
    /// A control character, or a character that must not stand in that part.
    Character(char),
    /// Longer than [`limits::URL`]; the length in bytes.
    TooLong(usize),
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScheme => f.write_str("no scheme, wanted http://host/path"),
            Self::Scheme(s) => write!(f, "scheme {s:?}, wanted http, https or udp"),
            Self::NoHost => f.write_str("no host"),
            Self::Host(h) => write!(f, "host {h:?} is neither an ASCII name nor an IP address"),
            Self::Port(p) => write!(f, "port {p:?}, wanted 1 to 65535"),
            Self::Character(c) => write!(f, "character {c:?} not allowed"),
            Self::TooLong(n) => write!(f, "{n} bytes, at most {} allowed", limits::URL),
        }
    }
}

impl std::error::Error for UrlError {}

impl Url {
    /// Parses an absolute URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = clean(text)?;
        let (scheme, rest) = split_scheme(text).ok_or(UrlError::NoScheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "udp" => Scheme::Udp,
            other => return Err(UrlError::Scheme(shorten(other))),
        };
        Self::parse_after(scheme, rest.strip_prefix("//").ok_or(UrlError::NoHost)?)
    }

    /// Parses what stands after `scheme://`.
    fn parse_after(scheme: Scheme, rest: &str) -> Result<Self, UrlError> {
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains(['\\', ' ']) {
            return Err(UrlError::Character(if authority.contains('\\') { '\\' } else { ' ' }));
        }
        let (userinfo, hostport) = match authority.rsplit_once('@') {
            Some((u, h)) => (Some(u.to_owned()), h),
            None => (None, authority),
        };
        let (host, port) = split_port(hostport)?;
        let port = match port {
            "" => scheme.default_port(),
            p if p.bytes().all(|b| b.is_ascii_digit()) => match p.parse() {
                Ok(n @ 1..) => n,
                _ => return Err(UrlError::Port(shorten(p))),
            },
            p => return Err(UrlError::Port(shorten(p))),
        };
        let target = escape(target);
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        Ok(Self { scheme, host: parse_host(host)?, port, target, userinfo: userinfo.filter(|u| !u.is_empty()) })
    }

    /// Resolves a `Location` against this URL (RFC 3986, 5.2). User info stays only with the same
    /// scheme, host and port.
    pub fn join(&self, location: &str) -> Result<Self, UrlError> {
        let text = clean(location)?;
        if split_scheme(text).is_some() {
            return Self::parse(text);
        }
        if let Some(rest) = text.strip_prefix("//") {
            return Self::parse_after(self.scheme, rest);
        }
        let text = text.split('#').next().unwrap_or_default();
        let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
        let base = self.path();
        let target = if path.is_empty() && query.is_empty() {
            self.target.clone()
        } else if path.is_empty() {
            format!("{base}{}", escape(query))
        } else {
            let folder = if path.starts_with('/') { "" } else { &base[..base.rfind('/').map_or(0, |i| i + 1)] };
            format!("{}{}", escape(&without_dots(&format!("{folder}{path}"))), escape(query))
        };
        if target.len() > limits::URL {
            return Err(UrlError::TooLong(target.len()));
        }
        Ok(Self { target, ..self.clone() })
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// The host as it stands in a URL or a `Host` header, with the port unless it is the scheme's own.
    pub fn authority(&self) -> String {
        let mut s = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port != self.scheme.default_port() {
            let _ = write!(s, ":{}", self.port);
        }
        s
    }

    /// For logs and status: user info and the values of query parameters are hidden.
    pub fn redacted(&self) -> String {
        let mut s = format!("{}://{}{}", self.scheme, self.authority(), self.path());
        if let Some((_, query)) = self.target.split_once('?') {
            for (i, part) in query.split('&').enumerate() {
                s.push(if i == 0 { '?' } else { '&' });
                match part.split_once('=') {
                    Some((key, value)) => {
                        s.push_str(key);
                        s.push_str(if value.is_empty() { "=" } else { "=..." });
                    }
                    // A bare word may itself be the secret.
                    None if part.is_empty() => {}
                    None => s.push_str("..."),
                }
            }
        }
        s
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(u) = &self.userinfo {
            write!(f, "{u}@")?;
        }
        write!(f, "{}{}", self.authority(), self.target)
    }
}

/// Trims blanks around; refuses what is too long or holds a control character.
fn clean(text: &str) -> Result<&str, UrlError> {
    let text = text.trim();
    if text.len() > limits::URL {
        return Err(UrlError::TooLong(text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(UrlError::Character(c)),
        None => Ok(text),
    }
}

/// Splits `scheme:` off, if the text starts with one.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    ok.then_some((scheme, rest))
}

/// Splits `host:port`; the port is empty when none is written. IPv6 keeps its brackets.
fn split_port(hostport: &str) -> Result<(&str, &str), UrlError> {
    let end = if hostport.starts_with('[') {
        hostport.find(']').ok_or_else(|| UrlError::Host(shorten(hostport)))? + 1
    } else {
        hostport.find(':').unwrap_or(hostport.len())
    };
    let (host, rest) = hostport.split_at(end);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if rest.is_empty() => Ok((host, "")),
        None => Err(UrlError::Host(shorten(hostport))),
    }
}

fn parse_host(host: &str) -> Result<String, UrlError> {
    let bad = || UrlError::Host(shorten(host));
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().map(|a| a.to_string()).map_err(|_| bad());
    }
    let host_lower = host.to_ascii_lowercase();
    let name = host_lower.strip_suffix('.').unwrap_or(&host_lower);
    if name.is_empty() {
        return Err(if host.is_empty() { UrlError::NoHost } else { bad() });
    }
    let legal = name.len() <= 253
        && name.split('.').all(|l| (1..=63).contains(&l.len()))
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    // 2130706433, 0x7f.1 and 127.1 are addresses to some resolvers and names to others.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    if !legal || (numeric && name.parse::<Ipv4Addr>().is_err()) {
        return Err(bad());
    }
    Ok(name.to_owned())
}

/// Percent-encodes what a request line cannot carry: spaces and everything that is not ASCII.
fn escape(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    for c in part.chars() {
        if c == ' ' || !c.is_ascii() {
            super::percent_encode(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut out);
        } else {
            out.push(c);
        }
    }
    out
}

/// Removes `.` and `..` segments (RFC 3986, 5.2.4) from a path that starts with `/`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            s => kept.push(s),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Enough of a bad part to recognise it by.
fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(s: &str) -> Url {
        Url::parse(s).unwrap_or_else(|e| panic!("{s}: {e}"))
    }

    #[test]
    fn parts() {
        let u = url(" HTTP://user:pw@Tracker.Example.ORG.:6969/a%2fb/announce?passkey=S3%26&x#frag \n");
        assert_eq!(u.scheme, Scheme::Http);
        assert_eq!((u.host.as_str(), u.port), ("tracker.example.org", 6969));
        assert_eq!(u.target, "/a%2fb/announce?passkey=S3%26&x");
        assert_eq!(u.userinfo.as_deref(), Some("user:pw"));
        assert_eq!(u.path(), "/a%2fb/announce");
        assert_eq!(u.to_string(), "http://user:pw@tracker.example.org:6969/a%2fb/announce?passkey=S3%26&x");
        assert_eq!(u.redacted(), "http://tracker.example.org:6969/a%2fb/announce?passkey=...&...");
    }

    #[test]
    fn defaults_and_odd_but_legal() {
        for (text, host, port, target) in [
            ("http://h", "h", 80, "/"),
            ("https://h:/x", "h", 443, "/x"),
            ("udp://h:1337/announce", "h", 1337, "/announce"),
            ("http://[2001:DB8::1]:8080?a=b", "2001:db8::1", 8080, "/?a=b"),
            ("http://127.0.0.1:9/a b/\u{fc}", "127.0.0.1", 9, "/a%20b/%C3%BC"),
            ("http://my_host-1.x/", "my_host-1.x", 80, "/"),
            ("http://u@v@h/", "h", 80, "/"),
            ("http://h/?u=http://x@y:1/", "h", 80, "/?u=http://x@y:1/"),
        ] {
            let u = url(text);
            assert_eq!((u.host.as_str(), u.port, u.target.as_str()), (host, port, target), "{text}");
        }
        assert_eq!(url("http://[::1]:80/").to_string(), "http://[::1]/");
        assert_eq!(url("http://@h/").userinfo, None);
    }

    #[test]
    fn refused() {
        let host = |h: &str| UrlError::Host(h.into());
        for (text, want) in [
            ("", UrlError::NoScheme),
            ("/announce", UrlError::NoScheme),
            ("file:///etc/passwd", UrlError::Scheme("file".into())),
            ("wss://h/", UrlError::Scheme("wss".into())),
            ("http:h", UrlError::NoHost),
            ("http:///x", UrlError::NoHost),
            ("http://u@/x", UrlError::NoHost),
            ("http://h:0/", UrlError::Port("0".into())),
            ("http://h:65536/", UrlError::Port("65536".into())),
            ("http://h:+80/", UrlError::Port("+80".into())),
            ("http://h:80:80/", UrlError::Port("80:80".into())),
            ("http://2130706433/", host("2130706433")),
            ("http://0x7f.1/", host("0x7f.1")),
            ("http://127.1/", host("127.1")),
            ("http://1.2.3.4.5/", host("1.2.3.4.5")),
            ("http://m\u{fc}ller/", host("m\u{fc}ller")),
            ("http://a%20b/", host("a%20b")),
            ("http://a..b/", host("a..b")),
            ("http://[fe80::1%25eth0]/", host("[fe80::1%25eth0]")),
            ("http://[::1", host("[::1")),
            ("http://[::1]x/", host("[::1]x")),
            ("http://good.org\\@evil.org/", UrlError::Character('\\')),
            ("http://h/a\r\nX: y", UrlError::Character('\r')),
        ] {
            assert_eq!(Url::parse(text), Err(want), "{text:?}");
        }
        let full = format!("http://h/{}", "x".repeat(limits::URL - "http://h/".len()));
        assert!(Url::parse(&full).is_ok(), "as long as it may be");
        assert_eq!(Url::parse(&(full.clone() + "x")), Err(UrlError::TooLong(full.len() + 1)));
        let long = format!("http://h/{}", "x".repeat(limits::URL));
        assert_eq!(Url::parse(&long), Err(UrlError::TooLong(long.len())));
    }

    #[test]
    fn relative_references() {
        let base = url("http://u@h:81/a/b/c?q=1");
        for (location, want) in [
            ("https://x/y", "https://x/y"),
            ("//x:5/y?z", "http://x:5/y?z"),
            ("/y?z#f", "http://u@h:81/y?z"),
            ("d", "http://u@h:81/a/b/d"),
            ("../d?x", "http://u@h:81/a/d?x"),
            ("../../../d/.", "http://u@h:81/d/"),
            ("./", "http://u@h:81/a/b/"),
            ("..", "http://u@h:81/a/"),
            ("?x=../y", "http://u@h:81/a/b/c?x=../y"),
            ("", "http://u@h:81/a/b/c?q=1"),
            ("#f", "http://u@h:81/a/b/c?q=1"),
            ("a%3ab", "http://u@h:81/a/b/a%3ab"),
        ] {
            assert_eq!(base.join(location).map(|u| u.to_string()), Ok(want.to_owned()), "{location:?}");
        }
        assert_eq!(base.join("ftp://x/"), Err(UrlError::Scheme("ftp".into())));
        assert_eq!(base.join("/a\nb"), Err(UrlError::Character('\n')));
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        for (text, want) in [
            ("host/path", "no scheme, wanted http://host/path"),
            ("ftp://x/", "scheme \"ftp\", wanted http, https or udp"),
            ("http:///x", "no host"),
            ("http://a b/", "character ' ' not allowed"),
            ("http://x:0/", "port \"0\", wanted 1 to 65535"),
            ("http://[::x]/", "host \"[::x]\" is neither an ASCII name nor an IP address"),
        ] {
            assert_eq!(Url::parse(text).unwrap_err().to_string(), want, "{text:?}");
        }
        let long = format!("http://x/{}", "y".repeat(limits::URL));
        assert_eq!(Url::parse(&long).unwrap_err().to_string(), "8201 bytes, at most 8192 allowed");
    }
}
