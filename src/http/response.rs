//! One HTTP response, from bytes as they come.
//!
//! ```text
//! Head --blank line--> 1xx: Head again
//!                      redirect with Location, 204, 304, Content-Length 0: Done
//!                      Content-Length n:  Fixed(n) ------------------------> Done
//!                      chunked:           ChunkSize <-> ChunkData, Trailer -> Done
//!                      neither:           UntilEof --end of stream---------> Done
//! ```
//!
//! What comes after the end is ignored: the request asked for `Connection: close`. The body of a
//! redirect is not read. A head is parsed once, when its blank line is there, so that the outcome
//! does not depend on how the bytes were cut; header lines that are not headers are skipped.
//!
//! A body in gzip is decompressed once all of it is there, whether it was asked for or not: there are
//! servers that never ask. Both forms of it keep to the caller's limit.

use std::fmt;

use super::gzip::{self, GzipError};
use crate::config::limits;

/// Most header lines of one head.
const MAX_HEADERS: usize = 128;
/// Longest line with a chunk's size and its extensions.
const CHUNK_LINE: usize = 1024;

/// Why a response cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HttpError {
    /// It does not start with `HTTP/1.`.
    NotHttp,
    /// The head (all interim ones counted) is longer than [`limits::HTTP_HEAD`].
    HeadTooLong,
    /// The head is malformed; httparse's words.
    Head(&'static str),
    /// `Content-Length` is not one number.
    Length(String),
    /// The body is longer than the caller allows.
    BodyTooLong {
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// A chunk's size line, or the line end behind a chunk, is malformed.
    Chunk,
    /// A coding other than gzip.
    Coding(String),
    /// The body is not the gzip it is said to be.
    Gzip(GzipError),
    /// The stream ended early.
    Truncated {
        /// Bytes of body received.
        got: usize,
    },
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp => f.write_str("not HTTP/1"),
            Self::HeadTooLong => write!(f, "head longer than {} bytes", limits::HTTP_HEAD),
            Self::Head(what) => write!(f, "malformed head: {what}"),
            Self::Length(v) => write!(f, "Content-Length {v:?}, wanted one number"),
            Self::BodyTooLong { limit } => write!(f, "body longer than {limit} bytes"),
            Self::Chunk => f.write_str("malformed chunk"),
            Self::Coding(c) => write!(f, "coding {c:?}, wanted none or gzip"),
            Self::Gzip(e) => write!(f, "gzip body: {e}"),
            Self::Truncated { got } => write!(f, "the connection ended after {got} bytes of body"),
        }
    }
}

impl std::error::Error for HttpError {}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Head,
    Fixed { left: usize },
    UntilEof,
    ChunkSize,
    ChunkData { left: usize },
    ChunkEnd,
    Trailer,
    Done,
    Failed(HttpError),
}

/// Reads one response; see the module.
#[derive(Clone, Debug)]
pub struct ResponseReader {
    state: State,
    max_body: usize,
    /// The head so far, or the line so far of a chunk's size or the trailer.
    line: Vec<u8>,
    /// Bytes of heads and trailers seen.
    head_bytes: usize,
    status: u16,
    location: Option<String>,
    /// The body is compressed, and has to be decompressed at its end.
    gzip: bool,
    body: Vec<u8>,
}

impl ResponseReader {
    /// A reader that takes at most `max_body` bytes of body.
    pub fn new(max_body: usize) -> Self {
        Self {
            state: State::Head,
            max_body,
            line: Vec::new(),
            head_bytes: 0,
            status: 0,
            location: None,
            gzip: false,
            body: Vec::new(),
        }
    }

    /// Takes bytes as they came; `Ok(true)` once the response is complete. An error is final.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, HttpError> {
        while !bytes.is_empty() && !matches!(self.state, State::Done | State::Failed(_)) {
            match self.step(bytes) {
                Ok(used) => bytes = &bytes[used..],
                Err(e) => self.state = State::Failed(e),
            }
        }
        self.decompress();
        self.outcome()
    }

    /// The stream has ended; `Ok(true)` when that completes the response, never `Ok(false)`.
    pub fn eof(&mut self) -> Result<bool, HttpError> {
        match self.state {
            State::Done | State::Failed(_) => {}
            State::UntilEof => self.state = State::Done,
            _ => self.state = State::Failed(HttpError::Truncated { got: self.body.len() }),
        }
        self.decompress();
        self.outcome()
    }

    /// Decompresses the body, once it is complete.
    fn decompress(&mut self) {
        if self.state != State::Done || !std::mem::take(&mut self.gzip) {
            return;
        }
        match gzip::decode(&self.body, self.max_body) {
            Ok(plain) => self.body = plain,
            // What stands in an error is of no great interest.
            Err(_) if !(200..300).contains(&self.status) => {}
            Err(GzipError::TooLong) => self.state = State::Failed(HttpError::BodyTooLong { limit: self.max_body }),
            Err(e) => self.state = State::Failed(HttpError::Gzip(e)),
        }
    }

    fn outcome(&self) -> Result<bool, HttpError> {
        match &self.state {
            State::Failed(e) => Err(e.clone()),
            s => Ok(*s == State::Done),
        }
    }

    /// The status code, 0 before the head is complete.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The `Location` header, if it is text.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// The body so far.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Does one state's worth of work on non-empty `bytes`; the number used, at least 1.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, HttpError> {
        match self.state {
            State::Head => self.on_head_bytes(bytes),
            State::Fixed { left } => {
                let n = self.take_body(bytes, left)?;
                self.state = if n == left { State::Done } else { State::Fixed { left: left - n } };
                Ok(n)
            }
            State::UntilEof => self.take_body(bytes, usize::MAX),
            State::ChunkSize => self.on_line(bytes, CHUNK_LINE, HttpError::Chunk, Self::on_chunk_size),
            State::ChunkData { left } => {
                let n = self.take_body(bytes, left)?;
                self.state = if n == left { State::ChunkEnd } else { State::ChunkData { left: left - n } };
                Ok(n)
            }
            State::ChunkEnd => self.on_line(bytes, 2, HttpError::Chunk, |this, line| {
                this.state = State::ChunkSize;
                if line.is_empty() { Ok(()) } else { Err(HttpError::Chunk) }
            }),
            State::Trailer => {
                let room = limits::HTTP_HEAD - self.head_bytes;
                self.on_line(bytes, room, HttpError::HeadTooLong, |this, line| {
                    this.head_bytes = (this.head_bytes + line.len() + 2).min(limits::HTTP_HEAD);
                    if line.is_empty() {
                        this.state = State::Done;
                    }
                    Ok(())
                })
            }
            State::Done | State::Failed(_) => Ok(bytes.len()),
        }
    }

    /// Collects head bytes line by line up to the blank one.
    fn on_head_bytes(&mut self, bytes: &[u8]) -> Result<usize, HttpError> {
        const START: &[u8] = b"HTTP/1.";
        let end = bytes.iter().position(|&b| b == b'\n').map_or(bytes.len(), |i| i + 1);
        let room = limits::HTTP_HEAD - self.head_bytes - self.line.len();
        let n = end.min(room);
        self.line.extend_from_slice(&bytes[..n]);
        let k = self.line.len().min(START.len());
        if self.line[..k] != START[..k] {
            return Err(HttpError::NotHttp);
        }
        if n < end {
            return Err(HttpError::HeadTooLong);
        }
        if self.line.ends_with(b"\n\r\n") || self.line.ends_with(b"\n\n") {
            let head = std::mem::take(&mut self.line);
            self.head_bytes += head.len();
            self.on_head(&head)?;
        }
        Ok(n)
    }

    /// Gathers one line of at most `max` bytes, its end counted, and hands it on without its end.
    fn on_line(
        &mut self,
        bytes: &[u8],
        max: usize,
        too_long: HttpError,
        then: fn(&mut Self, &[u8]) -> Result<(), HttpError>,
    ) -> Result<usize, HttpError> {
        let end = bytes.iter().position(|&b| b == b'\n').map(|i| i + 1);
        let n = end.unwrap_or(bytes.len());
        if self.line.len() + n > max {
            return Err(too_long);
        }
        self.line.extend_from_slice(&bytes[..n]);
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            let line = &line[..line.len() - 1];
            then(self, line.strip_suffix(b"\r").unwrap_or(line))?;
        }
        Ok(n)
    }

    /// Appends up to `want` bytes to the body.
    fn take_body(&mut self, bytes: &[u8], want: usize) -> Result<usize, HttpError> {
        let n = want.min(bytes.len());
        if n > self.max_body - self.body.len() {
            // What is allowed is kept, so that the body does not depend on how the bytes were cut.
            self.body.extend_from_slice(&bytes[..self.max_body - self.body.len()]);
            return Err(HttpError::BodyTooLong { limit: self.max_body });
        }
        self.body.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn on_chunk_size(&mut self, line: &[u8]) -> Result<(), HttpError> {
        let digits = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
        if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(HttpError::Chunk);
        }
        let text = std::str::from_utf8(digits).map_err(|_| HttpError::Chunk)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| HttpError::Chunk)?;
        self.state = match usize::try_from(size) {
            Ok(0) => State::Trailer,
            Ok(left) if left <= self.max_body - self.body.len() => State::ChunkData { left },
            _ => return Err(HttpError::BodyTooLong { limit: self.max_body }),
        };
        Ok(())
    }

    /// A head is complete: decides how the body is delimited (RFC 9112, 6.3).
    fn on_head(&mut self, head: &[u8]) -> Result<(), HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        config.allow_obsolete_multiline_headers_in_responses(true);
        config.allow_multiple_spaces_in_response_status_delimiters(true);
        config.ignore_invalid_headers_in_responses(true);
        match config.parse_response(&mut response, head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HttpError::Head("incomplete")),
            Err(e) => return Err(HttpError::Head(head_error(e))),
        }
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            return Ok(());
        }
        self.status = status;
        let framing = Framing::read(response.headers)?;
        self.location = framing.location;
        let redirect = (300..400).contains(&status) && self.location.is_some();
        self.state = if redirect || matches!(status, 101 | 204 | 304) {
            State::Done
        } else {
            match framing.content_coding {
                Coding::Identity => {}
                Coding::Gzip => self.gzip = true,
                Coding::Other(_) if !(200..300).contains(&status) => {}
                Coding::Other(coding) => return Err(HttpError::Coding(coding)),
            }
            match framing.length {
                _ if framing.chunked => State::ChunkSize,
                Some(0) => State::Done,
                Some(n) => match usize::try_from(n) {
                    Ok(left) if left <= self.max_body => State::Fixed { left },
                    _ => return Err(HttpError::BodyTooLong { limit: self.max_body }),
                },
                None => State::UntilEof,
            }
        };
        Ok(())
    }
}

/// What a `Content-Encoding` says.
#[derive(Default)]
enum Coding {
    #[default]
    Identity,
    Gzip,
    Other(String),
}

/// The headers that matter.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    content_coding: Coding,
    location: Option<String>,
}

impl Framing {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, HttpError> {
        let mut f = Self::default();
        for h in headers {
            let value = h.value.trim_ascii();
            let text = || String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
            if h.name.eq_ignore_ascii_case("content-length") {
                // Some servers send the same number twice; two numbers are an attack.
                for part in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    let digits = !part.is_empty() && part.iter().all(u8::is_ascii_digit);
                    let n = std::str::from_utf8(part).ok().filter(|_| digits).and_then(|p| p.parse().ok());
                    match (n, f.length) {
                        (Some(n), None) => f.length = Some(n),
                        (Some(n), Some(before)) if n == before => {}
                        _ => return Err(HttpError::Length(text())),
                    }
                }
            } else if h.name.eq_ignore_ascii_case("transfer-encoding") {
                for part in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    if part.eq_ignore_ascii_case(b"chunked") && !f.chunked {
                        f.chunked = true;
                    } else if !part.is_empty() && !part.eq_ignore_ascii_case(b"identity") {
                        return Err(HttpError::Coding(text()));
                    }
                }
            } else if h.name.eq_ignore_ascii_case("content-encoding") {
                let is = |name: &[u8]| value.eq_ignore_ascii_case(name);
                f.content_coding = match f.content_coding {
                    before if value.is_empty() || is(b"identity") => before,
                    Coding::Identity if is(b"gzip") || is(b"x-gzip") => Coding::Gzip,
                    // Several, one upon the other, too: nobody means well by that.
                    _ => Coding::Other(text()),
                };
            } else if h.name.eq_ignore_ascii_case("location") && f.location.is_none() {
                f.location = std::str::from_utf8(value).ok().map(str::to_owned);
            }
        }
        Ok(f)
    }
}

fn head_error(e: httparse::Error) -> &'static str {
    match e {
        httparse::Error::HeaderName => "header name",
        httparse::Error::HeaderValue => "header value",
        httparse::Error::NewLine => "line end",
        httparse::Error::Status => "status line",
        httparse::Error::TooManyHeaders => "too many headers",
        httparse::Error::Version => "version",
        httparse::Error::Token => "token",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything one can ask of a reader that was fed `bytes` cut in pieces of sizes drawn by `cut`.
    type Outcome = (Result<bool, HttpError>, u16, Option<String>, Vec<u8>);

    fn read(bytes: &[u8], max: usize, mut cut: impl FnMut() -> usize) -> Outcome {
        let mut r = ResponseReader::new(max);
        let (mut rest, mut result) = (bytes, Ok(false));
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cut().clamp(1, rest.len()));
            result = r.feed(now);
            rest = later;
        }
        if result == Ok(false) {
            result = r.eof();
        }
        (result, r.status(), r.location().map(str::to_owned), r.body().to_vec())
    }

    fn whole(bytes: &[u8]) -> Outcome {
        read(bytes, 1000, || usize::MAX)
    }

    const GOOD: &[(&[u8], u16, &[u8])] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\nCONTENT-LENGTH:5\r\n\r\nhelloHTTP/1.1 500", 200, b"hello"),
        (b"HTTP/1.0 200\r\n\r\nhello\r\n", 200, b"hello\r\n"),
        (b"HTTP/1.1 200 OK\nX: y\n\nhello", 200, b"hello"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n\
            3;a=b\r\nhel\r\n02 \r\nlo\r\n0\r\n\r\n!",
            200,
            b"hello",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, Chunked\r\n\r\n5\nhello\n0\nT: x\n\n", 200, b"hello"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n\
            HTTP/1.1 404 No\r\n\r\ngone",
            404,
            b"gone",
        ),
        (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello", 204, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nhello", 200, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nbad header line\r\n\r\nhello", 200, b"hello"),
        (b"HTTP/1.1 500 Oh\r\nContent-Encoding: gzip\r\n\r\nhello", 500, b"hello"),
    ];

    const BAD: &[&[u8]] = &[
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"d8:intervali1800e5:peers0:e",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n\x1f\x8b",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];

    #[test]
    fn framings() {
        for (bytes, status, body) in GOOD {
            let (result, s, _, b) = whole(bytes);
            assert_eq!((result, s, b.as_slice()), (Ok(true), *status, *body), "{}", bytes.escape_ascii());
        }
        for bytes in BAD {
            assert!(whole(bytes).0.is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(whole(BAD[1]).0, Err(HttpError::Truncated { got: 4 }));
        assert_eq!(whole(BAD[4]).0, Err(HttpError::NotHttp));
        assert_eq!(whole(BAD[7]).0, Err(HttpError::Length("6".into())));
        assert_eq!(whole(BAD[13]).0, Err(HttpError::Coding("br".into())));
        assert_eq!(whole(BAD[14]).0, Err(HttpError::Gzip(GzipError::Truncated)));
        assert_eq!(whole(BAD[15]).0, Err(HttpError::Gzip(GzipError::Magic)));
        assert_eq!(whole(BAD[16]).0, Err(HttpError::Coding("gzip".into())));
        assert_eq!(whole(BAD[18]).0, Err(HttpError::BodyTooLong { limit: 1000 }));
        for (error, words) in [
            (HttpError::Gzip(GzipError::Checksum), "gzip body: checksum or length does not match"),
            (HttpError::Coding("br".into()), "coding \"br\", wanted none or gzip"),
            (HttpError::Truncated { got: 4 }, "the connection ended after 4 bytes of body"),
            (HttpError::NotHttp, "not HTTP/1"),
            (HttpError::HeadTooLong, "head longer than 65536 bytes"),
            (HttpError::Head("version"), "malformed head: version"),
            (HttpError::Length("a".into()), "Content-Length \"a\", wanted one number"),
            (HttpError::BodyTooLong { limit: 7 }, "body longer than 7 bytes"),
            (HttpError::Chunk, "malformed chunk"),
        ] {
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn a_body_in_gzip_is_decompressed_at_its_end() {
        const BODY: &[u8] = include_bytes!("../../testdata/gzip/reply.gz");
        let plain = b"d8:intervali1800e5:peers0:e".repeat(3);
        let chunks: Vec<u8> =
            BODY.chunks(9).flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat()).collect();
        for (head, body) in [
            ("Content-Encoding: gzip\r\n".to_owned(), BODY.to_vec()),
            (format!("content-encoding: X-GZIP\r\nContent-Length: {}\r\n", BODY.len()), BODY.to_vec()),
            (
                "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n".to_owned(),
                [&chunks, &b"0\r\n\r\n"[..]].concat(),
            ),
        ] {
            let bytes = [b"HTTP/1.1 200 OK\r\n", head.as_bytes(), b"\r\n", &body].concat();
            for cut in [usize::MAX, 7, 1] {
                let (result, status, _, got) = read(&bytes, 1000, || cut);
                assert_eq!((result, status, &got), (Ok(true), 200, &plain), "{head} {cut}");
            }
            // What comes out has the same limit as what came in: here the larger of the two decides.
            let (small, large) = (plain.len() - 1, plain.len());
            assert_eq!(read(&bytes, small, || 7).0, Err(HttpError::BodyTooLong { limit: small }), "{head}");
            assert_eq!(read(&bytes, large, || 7).0, Ok(true), "{head}");
        }
        // The words of an error are read too, or left as they are.
        let refused = [b"HTTP/1.1 403 No\r\nContent-Encoding: gzip\r\n\r\n", BODY].concat();
        assert_eq!(whole(&refused).3, plain);
        assert_eq!(whole(&refused[..refused.len() - 1]), (Ok(true), 403, None, BODY[..BODY.len() - 1].to_vec()));
    }

    #[test]
    fn a_bomb_in_gzip_is_a_body_that_is_too_long() {
        let bomb = include_bytes!("../../testdata/gzip/zeros.gz").repeat(500);
        let bytes = [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", &bomb[..]].concat();
        assert!(bomb.len() < limits::TRACKER_BODY, "{} bytes make a gigabyte", bomb.len());
        let got = read(&bytes, limits::TRACKER_BODY, || 1500);
        assert_eq!(got.0, Err(HttpError::BodyTooLong { limit: limits::TRACKER_BODY }));
    }

    #[test]
    fn a_redirect_is_complete_with_its_head() {
        let (result, status, location, body) = whole(
            b"HTTP/1.1 302 Found\r\nlocation:  /x?y \r\nContent-Encoding: gzip\r\nContent-Length: 99999\r\n\r\nabc",
        );
        assert_eq!((result, status, location.as_deref(), body.len()), (Ok(true), 302, Some("/x?y"), 0));
        let (result, _, location, body) = whole(b"HTTP/1.1 302 Found\r\n\r\nabc");
        assert_eq!((result, location, body.as_slice()), (Ok(true), None, b"abc".as_slice()));
    }

    #[test]
    fn every_cut_gives_the_same() {
        let mut rng = crate::rng::seeded(7);
        let redirect: &[u8] = b"HTTP/1.1 301 M\r\nLocation: http://a/\r\n\r\nrest";
        for bytes in GOOD.iter().map(|g| g.0).chain(BAD.iter().copied()).chain([redirect]) {
            for max in [1000, 5, 4, 0] {
                let want = read(bytes, max, || usize::MAX);
                assert_eq!(read(bytes, max, || 1), want, "byte by byte: {}", bytes.escape_ascii());
                for at in 1..bytes.len() {
                    let mut first = Some(at);
                    let got = read(bytes, max, || first.take().unwrap_or(usize::MAX));
                    assert_eq!(got, want, "cut at {at}: {}", bytes.escape_ascii());
                }
            }
        }
        // Damaged ones too: whatever they mean, they mean it for every cut.
        for _ in 0..3000 {
            let mut bytes = GOOD[rng.usize(..GOOD.len())].0.to_vec();
            let i = rng.usize(9..bytes.len());
            bytes[i] = *b"\r\n0:;,5fx \0\xff".get(rng.usize(..12)).unwrap_or(&b'a');
            let want = read(&bytes, 20, || usize::MAX);
            let mut dice = rng.fork();
            assert_eq!(read(&bytes, 20, || dice.usize(1..20)), want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn heads_have_a_limit() {
        let fits = |n: usize| {
            let start = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ";
            let head = [&start[..], &vec![b'a'; n - start.len() - 4], b"\r\n\r\n"].concat();
            assert_eq!(head.len(), n);
            whole(&head).0
        };
        assert!(fits(limits::HTTP_HEAD).is_ok(), "as long as it may be");
        assert_eq!(fits(limits::HTTP_HEAD + 1), Err(HttpError::HeadTooLong));
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'a'; limits::HTTP_HEAD]].concat();
        assert_eq!(whole(&endless).0, Err(HttpError::HeadTooLong));
        let many = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"a:b\r\n".repeat(200), b"\r\n"].concat();
        assert_eq!(whole(&many).0, Err(HttpError::Head("too many headers")));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(limits::HTTP_HEAD / 25 + 1);
        assert_eq!(whole(&interim).0, Err(HttpError::HeadTooLong));
        assert_eq!(read(&interim, 0, || 7).0, Err(HttpError::HeadTooLong));
        let trailers =
            [BAD[BAD.len() - 1], b"0\r\n".as_slice(), &b"a:b\r\n".repeat(limits::HTTP_HEAD / 5 + 1)].concat();
        assert_eq!(whole(&trailers).0, Err(HttpError::HeadTooLong));
        assert_eq!(read(&trailers, 1000, || 3).0, Err(HttpError::HeadTooLong));
        let drip = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;".as_slice(), &[b'x'; 2000]].concat();
        assert_eq!(whole(&drip).0, Err(HttpError::Chunk));
    }

    #[test]
    fn an_error_is_final_and_the_end_too() {
        let mut r = ResponseReader::new(10);
        assert!(r.feed(b"nonsense").is_err());
        assert!(r.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(r.eof().is_err());
        let mut r = ResponseReader::new(10);
        assert_eq!(r.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"), Ok(true));
        assert_eq!((r.feed(b"b"), r.eof(), r.body()), (Ok(true), Ok(true), b"a".as_slice()));
    }
}
