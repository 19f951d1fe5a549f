//! The least of HTTP that the other clients' control ports and trackers need: one request, one answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest an answer may take; all of them are a few hops within one machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An answer: status, head as text, body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let find = |l: &str| l.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(|l| find(l)).and_then(|l| l.split_once(':')).map(|(_, v)| v.trim())
    }
}

/// GET, or POST when there is a body. HTTP/1.0, so that the answer ends with the connection.
pub(crate) fn request(to: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Result<Answer, String> {
    let addr: SocketAddr = to.parse().map_err(|e| format!("{to}: {e}"))?;
    let fail = |e: std::io::Error| format!("http://{to}: {e}");
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT).map_err(fail)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(fail)?;
    let mut head = format!("{} {path} HTTP/1.0\r\nHost: {to}\r\n", if body.is_some() { "POST" } else { "GET" });
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n{}", body.unwrap_or("")).as_bytes()).map_err(fail)?;
    let mut all = Vec::new();
    // Some servers reset instead of closing, or keep the connection open: what came before that counts.
    let end = stream.read_to_end(&mut all);
    let split = all.windows(4).position(|w| w == b"\r\n\r\n");
    let Some(split) = split else {
        return Err(format!("http://{to}: no complete head in {} bytes ({end:?})", all.len()));
    };
    let head = String::from_utf8_lossy(&all[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(format!("http://{to}: not HTTP"))?;
    Ok(Answer { status, head, body: all.split_off(split + 4) })
}
