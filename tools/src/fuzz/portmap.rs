//! What a gateway says: datagrams, descriptions, answers; and a mapper that hears all of it.

use btmio::http::Url;
use btmio::portmap::igd::{self, Said};
use btmio::portmap::xml::{Reader, Token};
use btmio::portmap::{Event, Mapper, Setup, wire};
use btmio::time::{Duration, Instant};

use super::Bytes;

/// The parsers on the whole input, then a mapper that is fed parts of it.
pub(super) fn portmap(data: &[u8]) {
    let nonce = [7; 12];
    let _ = wire::natpmp_answer(data);
    if let Some(a) = wire::pcp_answer(data, &nonce) {
        assert!(a.result != 0 || a.protocol.is_some());
    }
    let home = "192.168.1.1".parse().expect("an address");
    if let Some(url) = igd::found(home, data) {
        assert_eq!(url.host, "192.168.1.1");
    }
    let text = String::from_utf8_lossy(data);
    let (mut r, mut depth) = (Reader::new(&text), 0);
    while let Ok(Some(token)) = r.token() {
        match token {
            Token::Open(_) => depth += 1,
            Token::Close(_) => depth -= 1,
            Token::Text(t) => assert!(!t.is_empty() && t.len() <= data.len()),
        }
        assert!((0..=32).contains(&depth));
    }
    let location = Url::parse("http://192.168.1.1:5000/d.xml").expect("a URL");
    if let Ok(service) = igd::describe(&location, data) {
        assert_eq!(service.addr().map(|a| a.ip()), Some(home));
        let request = service.address();
        let head = request.split(|b| *b == b'\r').next().expect("a line");
        assert!(head.starts_with(b"POST /") && head.ends_with(b" HTTP/1.1"), "{}", head.escape_ascii());
    }
    let _ = igd::answer(200, data) == Said::Yes(None);
    mapper(data);
}

fn mapper(data: &[u8]) {
    let (gateway, local) = ([192, 168, 1, 1].into(), [192, 168, 1, 9].into());
    let mut now = Instant::from_secs(1);
    let mut m = Mapper::new(now, Setup { gateway, local, port: 6881, secret: [7; 20] });
    let mut rest = Bytes(data);
    for _ in 0..64 {
        let from = [5351, 1900][usize::from(rest.u8() & 1)];
        let len = usize::from(rest.u8());
        let part = rest.take(len);
        match rest.u8() % 4 {
            0 | 1 => m.handle_datagram(now, (gateway, from).into(), part),
            2 => {
                if let Some(fetch) = m.poll_fetch(now) {
                    assert_eq!(fetch.to.ip(), std::net::IpAddr::from(gateway));
                    m.fetched(now, fetch.id, Ok((200, part.to_vec())));
                }
            }
            _ => {
                now = m.poll_timeout().unwrap_or(now) + Duration::from_millis(u64::from(rest.u8()));
                m.tick(now);
            }
        }
        while let Some(event) = m.poll_event() {
            assert!(!matches!(event, Event::Mapped { external: 0, .. }));
        }
        let mut sent = 0;
        while let Some((to, data)) = m.poll_datagram() {
            sent += 1;
            assert!(data.len() <= 200 && [5351, 1900].contains(&to.port()) && sent < 8);
        }
    }
    m.leave(now);
}
