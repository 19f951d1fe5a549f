//! HTTP/1.1 as a client needs it for trackers: URLs, percent-encoding, and a reader of responses.
//!
//! - [`Url`]: parsing, relative references, a form for logs that gives nothing secret away.
//! - [`ResponseReader`]: bytes in, one response out, whatever the pieces they come in.
//! - [`percent_encode`]: for query values that are raw bytes.
//!
//! It does not connect, does not follow redirects and does not reuse connections (requests ask for
//! `Connection: close`). Compression is not asked for; gzip is read where it comes all the same.
//!
//! Invariants: what a reader answers depends on the bytes only, not on how they were cut; it never
//! holds more than [`limits::HTTP_HEAD`](crate::config::limits::HTTP_HEAD) of head and the caller's
//! limit of body. A [`Url`] holds no control character and no space, so that its parts can be put
//! into a request as they are.
//!
//! [RFC 3986](https://www.rfc-editor.org/rfc/rfc3986),
//! [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110),
//! [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112)

mod gzip;
mod response;
mod url;

pub use gzip::{GzipError, decode as gunzip};
pub use response::{HttpError, ResponseReader};
pub use url::{Scheme, Url, UrlError};

/// Appends `bytes` percent-encoded: RFC 3986's unreserved characters stay, all others become `%XX`
/// with upper-case digits.
pub fn percent_encode(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &b in bytes {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(b >> 4)]));
            out.push(char::from(DIGITS[usize::from(b & 15)]));
        }
    }
}

/// Base64 with padding (RFC 4648), for `Authorization: Basic`.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let c = ALPHABET[(group >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(c) } else { '=' });
        }
    }
    out
}

/// The inverse of [`percent_encode`]; a `%` without two digits stays as it is.
pub(crate) fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let pair = bytes.get(i + 1..i + 3).filter(|p| bytes[i] == b'%' && p.iter().all(u8::is_ascii_hexdigit));
        match pair.and_then(|p| std::str::from_utf8(p).ok()).and_then(|p| u8::from_str_radix(p, 16).ok()) {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_hashes_are_encoded_bytewise() {
        let mut s = String::new();
        percent_encode(b"\x12\xabAz09-._~ +/\x00\xff", &mut s);
        assert_eq!(s, "%12%ABAz09-._~%20%2B%2F%00%FF");
        assert_eq!(percent_decode(&s), b"\x12\xabAz09-._~ +/\x00\xff");
        assert_eq!(percent_decode("a%2"), b"a%2");
        assert_eq!(percent_decode("%+1%zz%"), b"%+1%zz%");
    }

    #[test]
    fn base64_pads() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob\u{ff}", "Zm9vYsO/")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
