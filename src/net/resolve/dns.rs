//! DNS messages: the questions we ask and what we take from an answer. `simple-dns` does the bytes.
//!
//! An answer counts only if its id, question and direction are those of the question; all else is
//! ignored as if it had not come, since a datagram can be forged. Aliases are followed within the
//! answer; one that leads out of it is handed back to be asked for.
//!
//! [RFC 1035](https://www.rfc-editor.org/rfc/rfc1035),
//! [RFC 2308](https://www.rfc-editor.org/rfc/rfc2308) (negative answers)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE, header_buffer};

/// Longest message read, over UDP and TCP. It bounds the work of a hostile one.
pub(super) const MESSAGE: usize = 16 << 10;
/// Most addresses taken from an answer.
const ADDRESSES: usize = 32;
/// Longest chain of aliases within an answer.
const ALIASES: usize = 8;
/// How long "there is none" holds when the answer does not say, in seconds.
const NEGATIVE_TTL: u32 = 60;

/// Which addresses are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn qtype(self) -> TYPE {
        match self {
            Self::V4 => TYPE::A,
            Self::V6 => TYPE::AAAA,
        }
    }
}

/// What an answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Cut short: ask again over TCP.
    Truncated,
    /// Addresses, at least one, and the seconds they hold.
    Found(Vec<IpAddr>, u32),
    /// Another name to ask for.
    Alias(String),
    /// No such name, or none with such addresses, and the seconds that holds.
    None(u32),
    /// The server could not say; the response code.
    Failed(u8),
}

/// A question, ready to be sent; `None` when `name` cannot be asked for.
pub(super) fn question(id: u16, name: &str, family: Family) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).ok()?;
    packet.questions.push(Question::new(name, family.qtype().into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().ok()
}

/// Reads an answer to [`question`]; `None` when it is none.
pub(super) fn answer(bytes: &[u8], id: u16, name: &str, family: Family) -> Option<Answer> {
    if header_buffer::id(bytes).ok()? != id
        || !header_buffer::has_flags(bytes, PacketFlag::RESPONSE).ok()?
        || header_buffer::questions(bytes).ok()? != 1
    {
        return None;
    }
    let truncated = header_buffer::has_flags(bytes, PacketFlag::TRUNCATION).ok()?;
    let counts = [
        header_buffer::answers(bytes).ok()?,
        header_buffer::name_servers(bytes).ok()?,
        header_buffer::additional_records(bytes).ok()?,
    ];
    // The parser makes room for what the header promises; a record has 11 bytes at least.
    let promised: usize = counts.iter().map(|&n| usize::from(n)).sum();
    let packet = if promised <= bytes.len() / 11 { Packet::parse(bytes).ok() } else { None };
    let Some(packet) = packet else {
        // What was cut within a record does not parse.
        return truncated.then_some(Answer::Truncated);
    };
    let asked = packet.questions.first()?;
    if asked.qtype != QTYPE::TYPE(family.qtype())
        || asked.qclass != QCLASS::CLASS(CLASS::IN)
        || !asked.qname.to_string().eq_ignore_ascii_case(name)
    {
        return None;
    }
    if truncated {
        return Some(Answer::Truncated);
    }
    match packet.rcode() {
        RCODE::NoError => Some(addresses(&packet, name, family)),
        RCODE::NameError => Some(Answer::None(negative_ttl(&packet))),
        other => Some(Answer::Failed(other as u16 as u8)),
    }
}

/// Follows aliases from `name` and gathers the addresses at the end.
fn addresses(packet: &Packet<'_>, name: &str, family: Family) -> Answer {
    let (mut name, mut ttl) = (name.to_owned(), u32::MAX);
    for hop in 0..=ALIASES {
        let mut found = Vec::new();
        let mut alias = None;
        for record in &packet.answers {
            if record.class != CLASS::IN || !record.name.to_string().eq_ignore_ascii_case(&name) {
                continue;
            }
            match &record.rdata {
                RData::A(a) if family == Family::V4 => found.push(IpAddr::V4(Ipv4Addr::from(a.address))),
                RData::AAAA(a) if family == Family::V6 => found.push(IpAddr::V6(Ipv6Addr::from(a.address))),
                RData::CNAME(to) if alias.is_none() => alias = Some(to.to_string().to_ascii_lowercase()),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        if !found.is_empty() {
            found.truncate(ADDRESSES);
            return Answer::Found(found, ttl);
        }
        match alias {
            Some(to) => name = to,
            None if hop == 0 => return Answer::None(negative_ttl(packet)),
            // The server followed the chain and found no address, or it does not follow chains:
            // the authority section tells.
            None if packet.name_servers.iter().any(|r| matches!(r.rdata, RData::SOA(_))) => {
                return Answer::None(negative_ttl(packet));
            }
            None => return Answer::Alias(name),
        }
    }
    Answer::None(NEGATIVE_TTL)
}

/// RFC 2308: the lesser of the SOA's own time to live and its minimum.
fn negative_ttl(packet: &Packet<'_>) -> u32 {
    let soa = packet.name_servers.iter().find_map(|r| match &r.rdata {
        RData::SOA(soa) => Some(soa.minimum.min(r.ttl)),
        _ => None,
    });
    soa.unwrap_or(NEGATIVE_TTL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME, SOA};

    fn reply<'a>(question: &'a [u8], records: &[(&'a str, u32, RData<'a>)]) -> Packet<'a> {
        let mut p = Packet::parse(question).unwrap().into_reply();
        for (name, ttl, rdata) in records {
            p.answers.push(ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, *ttl, rdata.clone()));
        }
        p
    }

    fn a(last: u8) -> RData<'static> {
        RData::A(A { address: 0x0a00_0000 | u32::from(last) })
    }

    fn cname(to: &'static str) -> RData<'static> {
        RData::CNAME(CNAME(Name::new_unchecked(to)))
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_question_on_the_wire() {
        assert_eq!(
            question(0x1234, "a.bc", Family::V6).unwrap(),
            b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x02bc\0\0\x1c\0\x01"
        );
        assert_eq!(question(1, &"x".repeat(64), Family::V4), None);
    }

    #[test]
    fn chains_are_followed_and_the_least_ttl_counts() {
        let q = question(7, "www.x", Family::V4).unwrap();
        let p = reply(
            &q,
            &[
                ("b.x", 100, a(1)),
                ("WWW.x", 300, cname("B.x")),
                ("b.x", 90, a(2)),
                ("other", 5, a(3)),
                ("b.x", 1, RData::AAAA(AAAA { address: 1 })),
            ],
        );
        let bytes = p.build_bytes_vec_compressed().unwrap();
        assert_eq!(answer(&bytes, 7, "www.x", Family::V4), Some(Answer::Found(vec![ip(1), ip(2)], 90)));
        // Not the answer to what was asked.
        assert_eq!(answer(&bytes, 8, "www.x", Family::V4), None);
        assert_eq!(answer(&bytes, 7, "www.y", Family::V4), None);
        assert_eq!(answer(&bytes, 7, "www.x", Family::V6), None);
        assert_eq!(answer(&q, 7, "www.x", Family::V4), None, "a question is no answer");
    }

    #[test]
    fn chains_that_lead_out_or_round() {
        let q = question(7, "a", Family::V4).unwrap();
        let out = reply(&q, &[("a", 1, cname("b")), ("b", 1, cname("c"))]).build_bytes_vec().unwrap();
        assert_eq!(answer(&out, 7, "a", Family::V4), Some(Answer::Alias("c".into())));
        let round = reply(&q, &[("a", 1, cname("b")), ("b", 1, cname("a"))]).build_bytes_vec().unwrap();
        assert_eq!(answer(&round, 7, "a", Family::V4), Some(Answer::None(NEGATIVE_TTL)));
    }

    #[test]
    fn there_is_none() {
        let q = question(7, "a", Family::V4).unwrap();
        let mut p = reply(&q, &[]);
        assert_eq!(answer(&p.build_bytes_vec().unwrap(), 7, "a", Family::V4), Some(Answer::None(NEGATIVE_TTL)));
        let name = || Name::new_unchecked("a");
        let soa = SOA { mname: name(), rname: name(), serial: 1, refresh: 1, retry: 1, expire: 1, minimum: 30 };
        p.name_servers.push(ResourceRecord::new(name(), CLASS::IN, 900, RData::SOA(soa)));
        *p.rcode_mut() = RCODE::NameError;
        assert_eq!(answer(&p.build_bytes_vec().unwrap(), 7, "a", Family::V4), Some(Answer::None(30)));
        *p.rcode_mut() = RCODE::ServerFailure;
        assert_eq!(answer(&p.build_bytes_vec().unwrap(), 7, "a", Family::V4), Some(Answer::Failed(2)));
    }

    #[test]
    fn cut_short() {
        let q = question(7, "a", Family::V4).unwrap();
        let mut p = reply(&q, &[("a", 1, a(1))]);
        p.set_flags(PacketFlag::TRUNCATION);
        let bytes = p.build_bytes_vec().unwrap();
        assert_eq!(answer(&bytes, 7, "a", Family::V4), Some(Answer::Truncated));
        assert_eq!(answer(&bytes[..bytes.len() - 2], 7, "a", Family::V4), Some(Answer::Truncated));
    }

    #[test]
    fn hostile_bytes() {
        let q = question(7, "www.example", Family::V4).unwrap();
        let good = reply(&q, &[("www.example", 9, cname("b.example")), ("b.example", 9, a(1))]);
        let good = good.build_bytes_vec_compressed().unwrap();
        let mut rng = crate::rng::seeded(3);
        for _ in 0..20_000 {
            let mut b = good.clone();
            for _ in 0..rng.u32(1..5) {
                let i = rng.usize(2..b.len());
                b[i] = rng.u8(..);
            }
            b.truncate(rng.usize(..=b.len()));
            let _ = answer(&b, 7, "www.example", Family::V4);
        }
        // 65,535 records promised, a name that points at itself.
        let b = b"\0\x07\x81\x80\0\x01\xff\xff\0\0\0\0\x01a\0\0\x01\0\x01\xc0\x13\0\x01\0\x01";
        assert_eq!(answer(b, 7, "a", Family::V4), None);
        let b = b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x01a\0\0\x01\0\x01\xc0\x13\0\x01\0\x01";
        assert_eq!(answer(b, 7, "a", Family::V4), None);
    }
}
