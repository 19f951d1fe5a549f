//! The vectors of BEP 5, what others write sloppily, and what does not fit.

use super::*;

const A: NodeId = NodeId::new(*b"abcdefghij0123456789");
const M: NodeId = NodeId::new(*b"mnopqrstuvwxyz123456");
const HASH: InfoHash = InfoHash::new(*b"mnopqrstuvwxyz123456");

fn query_of(data: &[u8]) -> Query<'_> {
    match parse(data, false).map(|m| (m.tid == b"aa", m.body)) {
        Some((true, Body::Query(q))) => q,
        other => panic!("{other:?}"),
    }
}

fn response_of(data: &[u8], v6: bool) -> Response<'_> {
    match parse(data, v6).map(|m| m.body) {
        Some(Body::Response(r)) => r,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_queries_of_bep_5() {
    let plain = |method| Query { id: A, method, want: None, read_only: false };
    let cases: [(&[u8], Method<'_>); 4] = [
        (b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", Method::Ping),
        (
            b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe",
            Method::FindNode { target: M },
        ),
        (
            b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",
            Method::GetPeers { info_hash: HASH },
        ),
        (
            b"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz123456\
              4:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
            Method::AnnouncePeer { info_hash: HASH, port: None, token: b"aoeusnth" },
        ),
    ];
    for (data, method) in cases {
        assert_eq!(query_of(data), plain(method));
        // Ours is the same and says besides who we are; the port behind an implied one does not matter.
        let ours = encode_query(b"aa", &plain(method));
        assert_eq!(query_of(&ours), plain(method));
        let text = String::from_utf8_lossy(&ours).replace("4:porti0e", "4:porti6881e").replace("1:v4:BM\u{1}\0", "");
        assert_eq!(text.as_bytes(), data);
    }
}

#[test]
fn the_responses_and_the_error_of_bep_5() {
    let r = response_of(b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re", false);
    assert_eq!(r, Response { id: M, nodes: vec![], values: vec![], token: None });
    let data = b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re";
    let r = response_of(data, false);
    assert_eq!((r.id, r.token), (A, Some(&b"aoeusnth"[..])));
    assert_eq!(r.values, ["97.120.106.101:11893".parse().unwrap(), "105.100.104.116:28269".parse().unwrap()]);
    let reply = Reply {
        id: A,
        to: "1.2.3.4:5".parse().unwrap(),
        tid: b"aa",
        token: Some(b"aoeusnth"),
        nodes: vec![],
        nodes6: vec![],
        values: r.values.clone(),
    };
    assert_eq!(reply.write(false), data);
    // "def456..." is no contact, and no reason to throw the rest away.
    let r = response_of(b"d1:rd2:id20:abcdefghij01234567895:nodes9:def456...5:token8:aoeusnthe1:t2:aa1:y1:re", false);
    assert_eq!((r.nodes.len(), r.token), (0, Some(&b"aoeusnth"[..])));
    let error = b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee";
    assert_eq!(parse(error, false).unwrap().body, Body::Error(201, b"A Generic Error Ocurred"));
    assert_eq!(encode_error(b"aa", 201, "A Generic Error Ocurred"), error);
}

#[test]
fn both_families_and_the_asker_address() {
    let q = b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz1234564:wantl2:n42:n6ee1:q9:find_node\
              2:roi1e1:t2:aa1:y1:qe";
    let q = query_of(q);
    assert_eq!((q.want, q.read_only), (Some(Want { n4: true, n6: true }), true));
    assert_eq!(query_of(&encode_query(b"aa", &q)), q);
    let contact = |addr: &str| Contact { id: M, addr: addr.parse().unwrap() };
    let (n4, n6) = (contact("1.2.3.4:5"), contact("[2001:db8::1]:6"));
    let to = "[2001:db8::7]:99".parse().unwrap();
    let values: Vec<SocketAddr> = vec!["[2001:db8::8]:77".parse().unwrap()];
    let reply = Reply { id: A, to, tid: b"aa", token: None, nodes: vec![n4], nodes6: vec![n6], values: values.clone() };
    let bytes = reply.encode(1024).unwrap();
    let m = parse(&bytes, true).unwrap();
    assert_eq!((m.ip, m.tid), (Some("2001:db8::7".parse().unwrap()), &b"aa"[..]));
    assert_eq!(response_of(&bytes, true), Response { id: A, nodes: vec![n4, n6], values, token: None });
}

#[test]
fn what_others_write_sloppily_is_read() {
    let long = b"d1:rd2:id20:abcdefghij01234567896:values18:aaaabbccccddeeeeffe1:t2:aa1:y1:re";
    assert_eq!(response_of(long, false).values.len(), 3, "one long string");
    assert_eq!(response_of(long, true).values.len(), 1, "an IPv6 address");
    let inside = b"d1:rd2:id20:abcdefghij01234567896:valuesl18:aaaabbccccddeeeeff5:xxxxxi1eee1:t2:aa1:y1:re";
    assert_eq!(response_of(inside, false).values.len(), 3, "one long string in a list, and rubbish");
    let unsorted = b"d1:y1:q1:t0:1:q4:ping1:ad2:id20:abcdefghij0123456789eejunk";
    assert!(matches!(parse(unsorted, false), Some(Message { tid: b"", body: Body::Query(_), .. })));
    let binary = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:v4:\xff\0\x80\n1:y1:qe";
    assert_eq!(query_of(binary).method, Method::Ping);
    for (why, bad) in [
        (Method::Bad("no target of 20 bytes"), &b"d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe"[..]),
        (
            Method::Bad("no port from 1 to 65535"),
            b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti65536e5:token1:xe\
              1:q13:announce_peer1:t2:aa1:y1:qe",
        ),
        (
            Method::Unknown(Some(M)),
            b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q3:get1:t2:aa1:y1:qe",
        ),
    ] {
        assert_eq!(query_of(bad).method, why);
    }
    for none in [
        &b""[..],
        b"d",
        b"de",
        b"le",
        b"d1:t2:aa1:y1:qe",
        b"d1:ad2:id19:abcdefghij012345678e1:q4:ping1:t2:aa1:y1:qe",
        b"d1:rd2:id20:abcdefghij0123456789e1:y1:re",
    ] {
        assert_eq!(parse(none, false), None, "{}", none.escape_ascii());
    }
    let mut huge = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:q1:z9000:".to_vec();
    huge.resize(huge.len() + 9000, b'x');
    huge.push(b'e');
    assert_eq!(parse(&huge, false), None);
}

#[test]
fn a_response_fits_and_loses_the_farthest_first() {
    let contact = |i: u8| Contact { id: NodeId::new([i; 20]), addr: SocketAddr::from(([9, 9, i, 9], 6881)) };
    let value = |i: u8| SocketAddr::from(([8, 8, i, 8], 6881));
    let reply = |values: u8| Reply {
        id: A,
        to: "1.2.3.4:5".parse().unwrap(),
        tid: b"aa",
        token: Some(b"1234"),
        nodes: (0..8).map(contact).collect(),
        nodes6: vec![],
        values: (0..values).map(value).collect(),
    };
    for (values, room) in [(0, 1024), (0, 160), (0, 90), (3, 160), (100, 1024), (100, 170), (100, 60)] {
        let Some(bytes) = reply(values).encode(room) else {
            assert!(room < 66, "{room}");
            continue;
        };
        assert!(bytes.len() <= room && bytes.len() + 26 + 30 > room.min(350), "{} in {room}", bytes.len());
        let r = response_of(&bytes, false);
        assert_eq!(r.token, Some(&b"1234"[..]));
        assert!(r.nodes.iter().zip(0..).all(|(c, i)| *c == contact(i)), "the first of them");
        assert!(values == 0 || room < 100 || !r.values.is_empty(), "peers are what was asked for: {values} in {room}");
    }
}

/// A response with these entries, which come after its id.
fn response_with(entries: &[u8]) -> Vec<u8> {
    [b"d1:rd2:id20:abcdefghij0123456789", entries, b"e1:t2:aa1:y1:re"].concat()
}

#[test]
fn what_is_taken_of_one_message_is_limited() {
    for more in [0, 1] {
        let n = limits::DHT_VALUES_IN + more;
        let list = [b"6:valuesl".to_vec(), b"6:aaaabb".repeat(n), b"e".to_vec()].concat();
        assert_eq!(response_of(&response_with(&list), false).values.len(), limits::DHT_VALUES_IN);
        let long = [format!("6:values{}:", 6 * n).into_bytes(), b"aaaabb".repeat(n)].concat();
        assert_eq!(response_of(&response_with(&long), false).values.len(), limits::DHT_VALUES_IN);

        let n = limits::DHT_NODES_IN + more;
        for (key, len) in [("5:nodes", 26), ("6:nodes6", 38)] {
            let nodes = [format!("{key}{}:", n * len).into_bytes(), vec![b'x'; n * len]].concat();
            assert_eq!(response_of(&response_with(&nodes), false).nodes.len(), limits::DHT_NODES_IN, "{key}");
        }

        let n = limits::DHT_TOKEN_IN + more;
        let token = [format!("5:token{n}:").into_bytes(), vec![b'x'; n]].concat();
        assert_eq!(response_of(&response_with(&token), false).token.map(<[u8]>::len), (more == 0).then_some(n));

        let mut whole = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe".to_vec();
        whole.resize(limits::DHT_DATAGRAM_IN + more, 0);
        assert_eq!(parse(&whole, false).is_some(), more == 0);
    }
}
