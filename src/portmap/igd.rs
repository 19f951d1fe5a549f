//! UPnP Internet gateways: the search for one, its description, and what it is told (UPnP device architecture 1.0,
//! WANIPConnection 1 and 2).
//!
//! ```text
//! M-SEARCH to 239.255.255.250:1900 ─▶ LOCATION ─▶ GET description ─▶ control URL ─▶ POST AddPortMapping ...
//! ```
//!
//! Whatever a gateway names must be on the host that it answers from; the types of services are taken only as they are
//! written here. So nothing it says can send us elsewhere, or get into a request but a path that
//! [`Url`] has accepted.
//!
//! Texts only: connections are the driver's, the order of things is [`Mapper`](super::Mapper)'s.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::wire::Protocol;
use super::xml::{Reader, Token};
use crate::http::{Scheme, Url};

/// Where gateways listen for searches.
pub const SEARCH: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// The kinds of gateway that are searched for.
pub const KINDS: [&str; 2] =
    ["urn:schemas-upnp-org:device:InternetGatewayDevice:1", "urn:schemas-upnp-org:device:InternetGatewayDevice:2"];
/// The services that can map ports, the best first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// Longest answer to a search.
const ANSWER: usize = 4 << 10;
/// Only permanent mappings can be made (UPnP error 725).
pub const ONLY_PERMANENT: u32 = 725;
/// Another host has that port (718).
pub const CONFLICT: u32 = 718;

/// A search for one kind of gateway.
pub fn search(kind: &str) -> Vec<u8> {
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {SEARCH}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {kind}\r\n\r\n")
        .into_bytes()
}

/// Where the description of the gateway is that answers from `from`; `None` when this is no answer, or points
/// elsewhere.
pub fn found(from: IpAddr, data: &[u8]) -> Option<Url> {
    let text = std::str::from_utf8(data.get(..data.len().min(ANSWER))?).ok()?;
    let mut lines = text.split("\r\n");
    let mut status = lines.next()?.split(' ');
    if !status.next()?.starts_with("HTTP/1.") || status.next() != Some("200") {
        return None;
    }
    let (mut location, mut kind) = (None, None);
    for line in lines.take_while(|l| !l.is_empty()) {
        let (name, value) = line.split_once(':')?;
        match name.trim().to_ascii_lowercase().as_str() {
            "location" => location = Some(value.trim()),
            "st" => kind = Some(value.trim()),
            _ => {}
        }
    }
    kind.filter(|k| KINDS.contains(k))?;
    on(from, &Url::parse(location?).ok()?)
}

/// The URL, if it is plain HTTP on that very host.
fn on(host: IpAddr, url: &Url) -> Option<Url> {
    (url.scheme == Scheme::Http && url.host.parse() == Ok(host) && url.userinfo.is_none()).then(|| url.clone())
}

/// The service of a gateway that maps ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its type, one of those known here.
    kind: &'static str,
    /// Where to post to.
    control: Url,
}

/// Finds the service in a description that was read from `location`.
///
/// # Errors
/// When it is no XML, or names no such service on its own host.
pub fn describe(location: &Url, text: &[u8]) -> Result<Service, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the description is not UTF-8".to_owned())?;
    let bad = |e| format!("the description: {e}");
    let (mut r, mut path) = (Reader::new(text), Vec::new());
    let (mut base, mut services, mut now) = (None, Vec::new(), (String::new(), String::new()));
    while let Some(token) = r.token().map_err(bad)? {
        match token {
            Token::Open(name) => {
                if name == "service" {
                    now = Default::default();
                }
                path.push(name);
            }
            Token::Close(name) => {
                if name == "service" {
                    services.push(std::mem::take(&mut now));
                }
                path.pop();
            }
            Token::Text(text) => match path[..] {
                [_, "URLBase"] => base = Some(text.into_owned()),
                [.., "service", "serviceType"] => now.0 = text.into_owned(),
                [.., "service", "controlURL"] => now.1 = text.into_owned(),
                _ => {}
            },
        }
    }
    let base = match base {
        Some(base) => Url::parse(&base).map_err(|e| format!("the description's URLBase: {e}"))?,
        None => location.clone(),
    };
    let host: IpAddr = location.host.parse().map_err(|_| "the description is not at an address".to_owned())?;
    for kind in SERVICES {
        let Some((_, control)) = services.iter().find(|(k, _)| k == kind) else { continue };
        let url = base.join(control).map_err(|e| format!("the description's control URL: {e}"))?;
        let control = on(host, &url).ok_or("the description points to another host")?;
        return Ok(Service { kind, control });
    }
    Err("it has no service that maps ports".to_owned())
}

impl Service {
    /// Where to connect to.
    pub fn addr(&self) -> Option<SocketAddr> {
        addr(&self.control)
    }

    /// Asks for a mapping for so many seconds; 0 is for ever.
    pub fn add(&self, protocol: Protocol, external: u16, to: SocketAddrV4, lifetime: u32) -> Vec<u8> {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
             <NewProtocol>{}</NewProtocol><NewInternalPort>{}</NewInternalPort>\
             <NewInternalClient>{}</NewInternalClient><NewEnabled>1</NewEnabled>\
             <NewPortMappingDescription>btmio</NewPortMappingDescription>\
             <NewLeaseDuration>{lifetime}</NewLeaseDuration>",
            protocol.name(),
            to.port(),
            to.ip()
        );
        self.post("AddPortMapping", &arguments)
    }

    /// Takes a mapping back.
    pub fn delete(&self, protocol: Protocol, external: u16) -> Vec<u8> {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort><NewProtocol>{}</NewProtocol>",
            protocol.name()
        );
        self.post("DeletePortMapping", &arguments)
    }

    /// Asks for the address outside.
    pub fn address(&self) -> Vec<u8> {
        self.post("GetExternalIPAddress", "")
    }

    fn post(&self, action: &str, arguments: &str) -> Vec<u8> {
        let kind = self.kind;
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{kind}\">\
             {arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        let mut out = String::new();
        let _ = write!(
            out,
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
             SOAPAction: \"{kind}#{action}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.control.target,
            self.control.authority(),
            body.len()
        );
        out.into_bytes()
    }
}

/// Asks for a description.
pub fn get(url: &Url) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.target, url.authority()).into_bytes()
}

/// Where a URL with an address for a host leads.
pub fn addr(url: &Url) -> Option<SocketAddr> {
    url.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, url.port))
}

/// What a gateway said to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It did so; the address outside, where that was asked for.
    Yes(Option<IpAddr>),
    /// It did not: a UPnP error code.
    No(u32),
    /// Something that is no answer.
    Nonsense(String),
}

/// Reads an answer to one of [`Service`]'s requests.
pub fn answer(status: u16, body: &[u8]) -> Said {
    let text = String::from_utf8_lossy(body);
    let (mut r, mut path) = (Reader::new(&text), Vec::new());
    let (mut code, mut address) = (None, None);
    loop {
        match r.token() {
            Ok(None) => break,
            Ok(Some(Token::Open(name))) => path.push(name),
            Ok(Some(Token::Close(_))) => drop(path.pop()),
            Ok(Some(Token::Text(text))) => match path.last() {
                Some(&"errorCode") => code = text.parse().ok(),
                Some(&"NewExternalIPAddress") => address = text.parse().ok(),
                _ => {}
            },
            // Some write nothing, or what they like, behind a 200.
            Err(_) if status == 200 => break,
            Err(e) => return Said::Nonsense(format!("HTTP status {status}; the answer: {e}")),
        }
    }
    match (status, code) {
        (200, None) => Said::Yes(address),
        (_, Some(code)) => Said::No(code),
        (status, None) => Said::Nonsense(format!("HTTP status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));

    fn reply(location: &str) -> Vec<u8> {
        let kind = KINDS[0];
        format!("HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nst: {kind}\r\nLocation:{location}\r\nEXT:\r\n\r\n")
            .into_bytes()
    }

    fn url(s: &str) -> Url {
        Url::parse(s).unwrap()
    }

    /// A description whose services are of these types and at these places.
    fn description(base: &str, services: &[(&str, &str)]) -> String {
        let one = |(kind, at): &(&str, &str)| {
            format!(
                "<service><serviceType>{kind}</serviceType><SCPDURL>/x</SCPDURL><controlURL>{at}</controlURL></service>"
            )
        };
        let services: String = services.iter().map(one).collect();
        format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\">{base}<device><deviceList><device>\
             <serviceList>{services}</serviceList></device></deviceList></device></root>"
        )
    }

    #[test]
    fn searches_and_answers() {
        let asked = search(KINDS[1]);
        let want = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
                    ST: urn:schemas-upnp-org:device:InternetGatewayDevice:2\r\n\r\n";
        assert_eq!(String::from_utf8(asked).unwrap(), want);
        let there = "http://192.168.1.1:5000/rootDesc.xml";
        assert_eq!(found(HOME, &reply(there)), Some(url(there)));
        for elsewhere in [
            "http://192.168.1.2:5000/rootDesc.xml",
            "http://router.example/",
            "https://192.168.1.1/",
            "http://u@192.168.1.1/",
            "file:///etc/passwd",
            "",
        ] {
            assert_eq!(found(HOME, &reply(elsewhere)), None, "{elsewhere}");
        }
        let other = String::from_utf8(reply(there)).unwrap().replace(KINDS[0], "upnp:rootdevice");
        assert_eq!(found(HOME, other.as_bytes()), None);
        assert_eq!(found(HOME, b"NOTIFY * HTTP/1.1\r\n\r\n"), None);
        assert_eq!(found(HOME, b"\xff"), None);
    }

    #[test]
    fn descriptions() {
        let at = url("http://192.168.1.1:5000/a/rootDesc.xml");
        let ip1 = "urn:schemas-upnp-org:service:WANIPConnection:1";
        let ppp = "urn:schemas-upnp-org:service:WANPPPConnection:1";
        let found = |text: &str| describe(&at, text.as_bytes()).map(|s| s.control.to_string());
        let both = description("", &[("urn:x:1", "/x"), (ppp, "/ppp"), (ip1, "/ctl/IPConn")]);
        assert_eq!(found(&both).unwrap(), "http://192.168.1.1:5000/ctl/IPConn");
        assert_eq!(found(&description("", &[(ppp, "ctl")])).unwrap(), "http://192.168.1.1:5000/a/ctl");
        let based = description("<URLBase>http://192.168.1.1:80/b/</URLBase>", &[(ip1, "c")]);
        assert_eq!(found(&based).unwrap(), "http://192.168.1.1/b/c");
        for (text, why) in [
            (description("", &[("urn:x:1", "/x")]), "it has no service that maps ports"),
            (description("", &[(ip1, "http://127.0.0.1/c")]), "the description points to another host"),
            (
                description("<URLBase>http://10.0.0.1/</URLBase>", &[(ip1, "c")]),
                "the description points to another host",
            ),
            (description("", &[(ip1, "/a\u{7}b")]), "the description's control URL: character '\\u{7}' not allowed"),
            ("<!DOCTYPE a>".to_owned(), "the description: a document type"),
        ] {
            assert_eq!(found(&text).unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn requests_and_what_is_said_to_them() {
        let text = description("", &[("urn:schemas-upnp-org:service:WANIPConnection:1", "/c")]);
        let s = describe(&url("http://192.168.1.1:5000/d"), text.as_bytes()).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 9), 6881);
        let add = String::from_utf8(s.add(Protocol::Tcp, 7000, to, 3600)).unwrap();
        let (head, body) = add.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            head,
            format!(
                "POST /c HTTP/1.1\r\nHost: 192.168.1.1:5000\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
                 SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping\"\r\n\
                 Content-Length: {}\r\nConnection: close",
                body.len()
            )
        );
        let mut r = Reader::new(body);
        let mut texts = Vec::new();
        while let Some(token) = r.token().unwrap() {
            if let Token::Text(text) = token {
                texts.push(text.into_owned());
            }
        }
        assert_eq!(texts, ["7000", "TCP", "6881", "192.168.1.9", "1", "btmio", "3600"]);
        let delete = String::from_utf8(s.delete(Protocol::Udp, 7000)).unwrap();
        assert!(
            delete.contains("#DeletePortMapping\"") && delete.contains("<NewProtocol>UDP</NewProtocol>"),
            "{delete}"
        );

        let fault = |code: &str| {
            format!(
                "<s:Envelope xmlns:s=\"x\"><s:Body><s:Fault><faultcode>s:Client</faultcode><detail><UPnPError>\
                 <errorCode>{code}</errorCode></UPnPError></detail></s:Fault></s:Body></s:Envelope>"
            )
        };
        assert_eq!(answer(500, fault("725").as_bytes()), Said::No(ONLY_PERMANENT));
        assert_eq!(answer(500, fault("x").as_bytes()), Said::Nonsense("HTTP status 500".into()));
        let ip = "<a><NewExternalIPAddress>203.0.113.5</NewExternalIPAddress></a>";
        assert_eq!(answer(200, ip.as_bytes()), Said::Yes(Some("203.0.113.5".parse().unwrap())));
        assert_eq!(answer(200, b""), Said::Yes(None));
        assert_eq!(answer(404, b"<html>"), Said::Nonsense("HTTP status 404; the answer: it ends early".into()));
    }
}
