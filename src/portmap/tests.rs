//! The datagrams byte for byte as the RFCs draw them, and dialogues with a gateway that answers as it is told.

use super::wire::{natpmp_answer, natpmp_request, pcp_answer, pcp_request};
use super::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const NONCE: [u8; 12] = *b"twelve bytes";

fn setup() -> Setup {
    Setup { gateway: GATEWAY, local: LOCAL, port: 0x1ae1, secret: *b"twelve bytes12345678" }
}

fn hex(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

#[test]
fn pcp_as_rfc_6887_draws_it() {
    let wanted = Wanted { protocol: Protocol::Tcp, internal: 6881, external: 7000, lifetime: 7200 };
    // Figure 2: version 2, R 0 and opcode 1, 16 bits reserved, lifetime, client address.
    let head = "02 01 0000 00001c20 00000000 00000000 0000ffff c0a80109";
    // Figure 9: nonce, protocol, 24 bits reserved, ports, suggested external address.
    let map = "7477656c7665206279746573 06 000000 1ae1 1b58 00000000 00000000 0000ffff 00000000";
    assert_eq!(pcp_request(LOCAL, &NONCE, &wanted)[..], hex(&format!("{head}{map}"))[..]);

    // Figures 3 and 10.
    let head = "02 81 00 00 00000e10 00012345 000000000000000000000000";
    let map = "7477656c7665206279746573 11 000000 1ae1 1b59 00000000 00000000 0000ffff cb007105";
    let data = hex(&format!("{head}{map}"));
    let want = Answer {
        protocol: Some(Protocol::Udp),
        result: 0,
        lifetime: 3600,
        epoch: 0x12345,
        internal: 6881,
        external: 7001,
        address: Some(PUBLIC.into()),
    };
    assert_eq!(pcp_answer(&data, &NONCE), Some(want));
    assert_eq!(pcp_answer(&data, b"twelve bytez"), None, "somebody else's");
    for (at, value) in [(0, 1), (1, 1), (1, 0x82), (36, 1)] {
        let mut bad = data.clone();
        bad[at] = value;
        assert_eq!(pcp_answer(&bad, &NONCE), None, "byte {at} is {value}");
    }
    (0..60).for_each(|n| assert_eq!(pcp_answer(&data[..n], &NONCE), None, "{n} bytes"));
    // An error, and one of a gateway of an older version.
    let error = pcp_answer(&hex("02 81 00 02 00000708 00012345 000000000000000000000000"), &NONCE).unwrap();
    assert_eq!((error.result, error.lifetime, error.protocol), (2, 1800, None));
    let older = pcp_answer(&hex("00 81 0001 00012345"), &NONCE).unwrap();
    assert_eq!(older.result, wire::UNSUPPORTED_VERSION);
}

#[test]
fn nat_pmp_as_rfc_6886_draws_it() {
    let wanted = Wanted { protocol: Protocol::Udp, internal: 6881, external: 7000, lifetime: 7200 };
    assert_eq!(natpmp_request(&wanted)[..], hex("00 01 0000 1ae1 1b58 00001c20")[..]);
    let gone = Wanted { protocol: Protocol::Tcp, external: 0, lifetime: 0, ..wanted };
    assert_eq!(natpmp_request(&gone)[..], hex("00 02 0000 1ae1 0000 00000000")[..]);
    assert_eq!(wire::NATPMP_ADDRESS, [0, 0]);

    let address = natpmp_answer(&hex("00 80 0000 00012345 cb007105")).unwrap();
    assert_eq!((address.protocol, address.address, address.epoch), (None, Some(PUBLIC.into()), 0x12345));
    let data = hex("00 82 0000 00012345 1ae1 1b59 00000e10");
    let map = natpmp_answer(&data).unwrap();
    assert_eq!((map.protocol, map.internal, map.external, map.lifetime), (Some(Protocol::Tcp), 6881, 7001, 3600));
    (0..16).for_each(|n| assert_eq!(natpmp_answer(&data[..n]), None, "{n} bytes"));
    assert_eq!(natpmp_answer(&hex("00 81 0002 00012345")).unwrap().result, 2);
    for bad in ["01 82 0000 00012345 1ae1 1b59 00000e10", "00 02 0000 00012345 1ae1 1b59 00000e10", "00", ""] {
        assert_eq!(natpmp_answer(&hex(bad)), None, "{bad}");
    }
}

/// A mapper, the time, and what it has sent since the last look.
struct Home {
    m: Mapper,
    now: Instant,
    /// Our addresses outside, as they were told.
    addresses: Vec<IpAddr>,
}

impl Home {
    fn new() -> Self {
        let now = Instant::from_secs(100);
        Self { m: Mapper::new(now, setup()), now, addresses: Vec::new() }
    }

    fn sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::iter::from_fn(|| self.m.poll_datagram()).collect()
    }

    /// All but addresses.
    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.m.poll_event() {
            match event {
                Event::Address(ip) => self.addresses.push(ip),
                other => events.push(other),
            }
        }
        events
    }

    fn answer(&mut self, data: &[u8]) {
        self.m.handle_datagram(self.now, SocketAddr::new(GATEWAY.into(), wire::PORT), data);
    }

    /// Lets time pass to the next thing it wants to do; how long that was.
    fn wait(&mut self) -> Duration {
        let at = self.m.poll_timeout().expect("something is to come");
        let passed = at - self.now;
        self.now = at;
        self.m.tick(at);
        passed
    }

    /// Answers all PCP requests with success: the port they ask for, for an hour.
    fn pcp(&mut self, epoch: u32) -> usize {
        let sent = self.sent();
        for (to, data) in &sent {
            assert_eq!((*to, data.len()), (SocketAddr::new(GATEWAY.into(), 5351), 60));
            let mut reply = data.clone();
            reply[1] = 0x81;
            reply[4..8].copy_from_slice(&3600u32.to_be_bytes());
            reply[8..12].copy_from_slice(&epoch.to_be_bytes());
            reply[12..24].fill(0);
            reply[44..60].copy_from_slice(&PUBLIC.to_ipv6_mapped().octets());
            self.answer(&reply);
        }
        sent.len()
    }

    fn nat_pmp(&mut self, epoch: u32) -> Vec<(u8, u32)> {
        let mut asked = Vec::new();
        for (_, data) in self.sent() {
            let mut reply = vec![0, data[1] | 0x80, 0, 0];
            reply.extend(epoch.to_be_bytes());
            match data[1] {
                0 => reply.extend(PUBLIC.octets()),
                _ => {
                    let lifetime = u32::from_be_bytes(data[8..12].try_into().unwrap());
                    asked.push((data[1], lifetime));
                    reply.extend(&data[4..12]);
                }
            }
            self.answer(&reply);
        }
        asked
    }

    /// The next request over a stream: where to, its first line, what of SOAP it does.
    fn fetch(&mut self) -> (u32, String) {
        let f = self.m.poll_fetch(self.now).expect("a request");
        assert_eq!(f.to, "192.168.1.1:5000".parse().unwrap());
        assert!(self.m.poll_fetch(self.now).is_none(), "one at a time");
        let text = String::from_utf8(f.request).unwrap();
        let action = text.lines().find_map(|l| l.strip_prefix("SOAPAction: ")).and_then(|l| l.split('#').nth(1));
        let value = |tag: &str| text.split(tag).nth(1).and_then(|t| t.split('<').next()).unwrap_or("").to_owned();
        let what = match action {
            Some(action) => format!(
                "{} {} {} {}",
                action.trim_end_matches('"'),
                value("<NewProtocol>"),
                value("<NewExternalPort>"),
                value("<NewLeaseDuration>")
            ),
            None => text.lines().next().unwrap().to_owned(),
        };
        (f.id, what.trim_end().to_owned())
    }

    fn fetched(&mut self, id: u32, status: u16, body: &str) {
        self.m.fetched(self.now, id, Ok((status, body.as_bytes().to_vec())));
    }

    /// Nobody answers PCP and NAT-PMP.
    fn until_upnp(&mut self) {
        while self.sent().iter().all(|(to, _)| *to != SocketAddr::V4(igd::SEARCH)) {
            self.wait();
        }
    }

    /// A UPnP gateway is found and described.
    fn described(&mut self) {
        self.until_upnp();
        let found =
            format!("HTTP/1.1 200 OK\r\nST: {}\r\nLOCATION: http://192.168.1.1:5000/d.xml\r\n\r\n", igd::KINDS[0]);
        self.m.handle_datagram(self.now, SocketAddr::new(GATEWAY.into(), 1900), found.as_bytes());
        let (id, what) = self.fetch();
        assert_eq!(what, "GET /d.xml HTTP/1.1");
        self.fetched(
            id,
            200,
            "<root><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
             <controlURL>/ctl</controlURL></service></root>",
        );
        let (id, what) = self.fetch();
        assert_eq!(what, "GetExternalIPAddress");
        self.fetched(id, 200, "<a><NewExternalIPAddress>203.0.113.5</NewExternalIPAddress></a>");
    }
}

fn fault(code: u32) -> String {
    format!("<e><errorCode>{code}</errorCode></e>")
}

fn mapped(protocol: Protocol, external: u16, by: &'static str) -> Event {
    Event::Mapped { protocol, external, address: Some(PUBLIC.into()), by }
}

#[test]
fn pcp_holds_renews_and_takes_back() {
    let mut h = Home::new();
    assert_eq!(h.pcp(1000), 2);
    assert_eq!(h.events(), [mapped(Protocol::Tcp, 6881, "PCP"), mapped(Protocol::Udp, 6881, "PCP")]);
    for round in 1..5 {
        let before = h.now;
        let mut asked = 0;
        while asked < 2 {
            h.wait();
            let epoch = 1000 + (h.now - Instant::from_secs(100)).as_secs() as u32;
            asked += h.pcp(epoch);
        }
        let passed = (h.now - before).as_secs();
        assert!((1800..=2100).contains(&passed), "round {round}: renewed after {passed} s of 3600");
        assert_eq!(h.events(), [], "nothing has changed");
    }
    assert_eq!(h.addresses, [IpAddr::from(PUBLIC)], "told once");
    h.m.leave(h.now);
    let gone = h.sent();
    assert_eq!(gone.len(), 2);
    for (_, data) in gone {
        assert_eq!((&data[4..8], &data[24..36], &data[42..44]), (&[0; 4][..], &NONCE[..], &[0; 2][..]));
    }
    assert!(h.m.has_left());
}

#[test]
fn a_gateway_that_is_silent_at_renewal_keeps_its_mappings_until_they_are_over() {
    let mut h = Home::new();
    let begun = h.now;
    h.pcp(1000);
    h.events();
    let mut asked: Vec<u64> = Vec::new();
    let until_nat_pmp = |h: &mut Home, asked: &mut Vec<u64>| loop {
        h.wait();
        let sent = h.sent();
        if sent.iter().any(|(_, d)| d.len() == 12) {
            return;
        }
        let at = (h.now - begun).as_secs();
        if !sent.is_empty() && asked.last().is_none_or(|last| at > last + 20) {
            asked.push(at);
        }
    };
    until_nat_pmp(&mut h, &mut asked);
    let over = (h.now - begun).as_secs();
    assert!((3550..=3620).contains(&over), "given up after {over} s of 3600");
    // Half of what is left, each time.
    let left: Vec<u64> = asked.iter().map(|at| 3600 - at).collect();
    assert!(left.len() >= 5 && left.windows(2).all(|w| w[1] * 2 <= w[0] + 10), "{left:?}");
    assert_eq!(h.events(), [], "not yet");

    // One that answers again in between has never been without.
    let mut h = Home::new();
    h.pcp(1000);
    h.events();
    while h.now - begun < Duration::from_secs(2100) {
        h.wait();
        h.sent();
    }
    while h.m.maps.iter().any(|m| m.until.is_none_or(|at| at - begun < Duration::from_secs(4000))) {
        h.wait();
        let epoch = 1000 + (h.now - begun).as_secs() as u32;
        h.pcp(epoch);
    }
    assert_eq!((h.events(), h.now - begun < Duration::from_secs(3000)), (vec![], true));
}

#[test]
fn what_has_been_asked_for_is_taken_back_too() {
    let mut h = Home::new();
    h.sent();
    h.m.leave(h.now);
    assert!(h.sent().iter().all(|(_, d)| d[4..8] == [0; 4]) && h.m.has_left());
    assert_eq!(h.m.poll_timeout(), None);

    let mut h = Home::new();
    h.described();
    let (first, _) = h.fetch();
    h.fetched(first, 200, "");
    let (second, what) = h.fetch();
    assert_eq!(what, "AddPortMapping UDP 6881 3600");
    h.m.leave(h.now);
    assert!(h.m.poll_fetch(h.now).is_none(), "one after the other");
    h.fetched(second, 200, "");
    for protocol in ["TCP", "UDP"] {
        let (id, what) = h.fetch();
        assert_eq!(what, format!("DeletePortMapping {protocol} 6881"));
        h.fetched(id, 500, "");
    }
    assert!(h.m.has_left());
}

#[test]
fn a_gateway_that_has_forgotten_is_asked_again() {
    let mut h = Home::new();
    h.pcp(100_000);
    h.wait();
    // One is renewed, and the gateway's clock has begun anew: so the other is asked for at once.
    assert_eq!(h.pcp(5), 1);
    assert!(h.wait() < Duration::from_secs(5));
    assert_eq!(h.pcp(8), 1);
    for (before, after, passed, restarted) in
        [(100, 160, 60, false), (100, 99, 0, false), (100, 98, 0, true), (100, 101, 60, true), (100, 300, 60, true)]
    {
        assert_eq!(has_restarted(before, after, passed), restarted, "{before} {after} {passed}");
    }
}

#[test]
fn nat_pmp_where_pcp_is_not_spoken() {
    let mut h = Home::new();
    assert_eq!(h.sent().len(), 2);
    h.answer(&hex("00 81 0001 00012345"));
    assert_eq!(h.nat_pmp(50), [(2, 7200), (1, 7200)]);
    assert_eq!(h.events(), [mapped(Protocol::Tcp, 6881, "NAT-PMP"), mapped(Protocol::Udp, 6881, "NAT-PMP")]);
    assert_eq!(h.addresses, [IpAddr::from(PUBLIC)]);
    h.m.leave(h.now);
    let gone: Vec<_> = h.sent().into_iter().map(|d| d.1).collect();
    assert_eq!(gone, [hex("00 02 0000 1ae1 0000 00000000"), hex("00 01 0000 1ae1 0000 00000000")]);
}

#[test]
fn others_are_not_heard() {
    let mut h = Home::new();
    let (_, request) = h.sent().remove(0);
    let mut reply = request;
    reply[1] = 0x81;
    for from in ["192.168.1.2:5351", "192.168.1.1:5350", "[::1]:5351"] {
        h.m.handle_datagram(h.now, from.parse().unwrap(), &reply);
    }
    assert_eq!(h.events(), []);
    h.m.handle_datagram(h.now, "[::ffff:192.168.1.1]:5351".parse().unwrap(), &reply);
    assert_eq!(h.events().len(), 1);
}

#[test]
fn upnp_maps_renews_and_takes_back() {
    let mut h = Home::new();
    h.described();
    for protocol in ["TCP", "UDP"] {
        let (id, what) = h.fetch();
        assert_eq!(what, format!("AddPortMapping {protocol} 6881 3600"));
        h.fetched(id - 1, 404, "that one was over already");
        h.fetched(id, 200, "");
    }
    assert_eq!(h.events(), [mapped(Protocol::Tcp, 6881, "UPnP"), mapped(Protocol::Udp, 6881, "UPnP")]);
    assert_eq!(h.addresses, [IpAddr::from(PUBLIC)]);
    assert!(h.wait() >= Duration::from_secs(1800), "half of its time");
    let (id, what) = h.fetch();
    assert_eq!(what, "AddPortMapping TCP 6881 3600");
    h.fetched(id, 200, "");
    let (id, _) = h.fetch();
    h.fetched(id, 200, "");
    assert_eq!(h.events(), []);
    h.m.leave(h.now);
    for protocol in ["TCP", "UDP"] {
        assert!(!h.m.has_left());
        let (id, what) = h.fetch();
        assert_eq!(what, format!("DeletePortMapping {protocol} 6881"));
        h.fetched(id, 200, "");
    }
    assert!(h.m.has_left());
}

#[test]
fn upnp_conflicts_and_permanent_leases() {
    let mut h = Home::new();
    h.described();
    let (id, _) = h.fetch();
    h.fetched(id, 500, &fault(igd::ONLY_PERMANENT));
    let (id, what) = h.fetch();
    assert_eq!(what, "AddPortMapping TCP 6881 0");
    h.fetched(id, 500, &fault(igd::CONFLICT));
    let (id, what) = h.fetch();
    let port: u16 = what.split(' ').nth(2).unwrap().parse().unwrap();
    assert!((20_000..60_000).contains(&port), "{what}");
    h.fetched(id, 200, "");
    assert_eq!(h.events(), [mapped(Protocol::Tcp, port, "UPnP")]);
}

#[test]
fn when_nobody_answers_it_is_told_once_and_tried_again_later() {
    let mut h = Home::new();
    let mut begun = h.now;
    for round in 0..8 {
        let mut sent = h.sent();
        while h.m.poll_timeout().is_some_and(|at| at - h.now < Duration::from_secs(30)) {
            h.wait();
            sent.extend(h.sent());
        }
        let kinds = |n: usize| sent.iter().filter(|(_, d)| d.len() == n).count();
        assert_eq!((kinds(60), kinds(12), kinds(2)), (4, 8, 4), "PCP twice, NAT-PMP four times");
        assert_eq!(sent.iter().filter(|(to, _)| *to == SocketAddr::V4(igd::SEARCH)).count(), 4);
        assert!(h.now - begun < Duration::from_secs(30), "{:?}", h.now - begun);
        let want = Event::Failed("PCP: no answer; NAT-PMP: no answer; UPnP: no answer".into());
        assert_eq!(h.events(), if round == 0 { vec![want] } else { vec![] });
        assert_eq!(h.wait(), Duration::from_secs([60, 120, 240, 480, 960][..].get(round).copied().unwrap_or(1800)));
        begun = h.now;
    }
}

#[test]
fn what_a_upnp_gateway_gets_wrong_ends_the_round() {
    for (status, body, why) in [
        (404, String::new(), "HTTP status 404"),
        (500, fault(606), "refused, UPnP error 606"),
        (500, "<!DOCTYPE x>".to_owned(), "HTTP status 500; the answer: a document type"),
    ] {
        let mut h = Home::new();
        h.described();
        let (id, _) = h.fetch();
        h.fetched(id, status, &body);
        let events = h.events();
        assert!(matches!(&events[..], [Event::Failed(f)] if f.ends_with(&format!("UPnP: {why}"))), "{events:?}");
    }
    // One that never answers.
    let mut h = Home::new();
    h.described();
    let (id, _) = h.fetch();
    assert_eq!(h.wait(), FETCH);
    let events = h.events();
    assert!(matches!(&events[..], [Event::Failed(f)] if f.ends_with("UPnP: no answer in time")), "{events:?}");
    h.fetched(id, 200, "");
    assert_eq!(h.events(), [], "it is too late");
}
