//! Whoever says something and hangs up at once is heard to the end: the bytes and the end of the stream arrive as one
//! event, and a poll that is edge-triggered does not tell of the end a second time.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use btmio::api::{Add, Alert, TrackerOutcome};
use common::{Node, Sample, Temp};

/// Turns the loop until the listener has been dialled.
fn accept(node: &mut Node, listener: &TcpListener) -> TcpStream {
    loop {
        node.turn();
        match listener.accept() {
            Ok((stream, _)) => return stream,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// Turns the loop until it has sent `wanted` bytes or a blank line.
fn hear(node: &mut Node, stream: &mut TcpStream, wanted: usize) -> Vec<u8> {
    stream.set_nonblocking(true).expect("a stream");
    let (mut heard, mut buf) = (Vec::new(), [0; 4096]);
    while heard.len() < wanted && !heard.ends_with(b"\r\n\r\n") {
        node.turn();
        match stream.read(&mut buf) {
            Ok(0) => panic!("it hung up"),
            Ok(n) => heard.extend_from_slice(&buf[..n]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
    heard
}

fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("a listener");
    listener
}

#[test]
fn a_tracker_that_marks_the_end_of_its_answer_by_hanging_up() {
    let (temp, listener) = (Temp::new(), listen());
    let mut node = Node::new();
    let sample = Sample::usual("t");
    let url = format!("http://{}/announce", listener.local_addr().expect("an address"));
    let add = Add { trackers: vec![url], ..Add::new(sample.meta(), temp.path("d")) };
    node.lp.add(add).expect("added");
    let mut stream = accept(&mut node, &listener);
    hear(&mut node, &mut stream, usize::MAX);
    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nd8:intervali1800e5:peers0:e").expect("it is heard");
    drop(stream);
    let answered = |a: &Alert| matches!(a, Alert::Tracker { outcome: TrackerOutcome::Reply { .. }, .. });
    // Not only when the announce times out: that is not waited for here.
    for _ in 0..200 {
        node.turn();
    }
    assert!(node.alerts.iter().any(answered), "{:?}", node.alerts);
}

#[test]
fn a_peer_that_hangs_up_after_its_handshake() {
    let (temp, listener) = (Temp::new(), listen());
    let mut node = Node::new();
    let sample = Sample::usual("t");
    let peers = vec![listener.local_addr().expect("an address")];
    let meta = sample.meta();
    let hash = *meta.info_hash.expect("version 1").as_bytes();
    node.lp.add(Add { peers, ..Add::new(meta, temp.path("d")) }).expect("added");
    let mut stream = accept(&mut node, &listener);
    hear(&mut node, &mut stream, 68);
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    hello.extend_from_slice(&hash);
    hello.extend_from_slice(&[b'x'; 20]);
    stream.write_all(&hello).expect("it is heard");
    stream.shutdown(std::net::Shutdown::Write).expect("a stream");
    for _ in 0..200 {
        node.turn();
    }
    assert!(node.alerts.iter().any(|a| matches!(a, Alert::PeerClosed { .. })), "{:?}", node.alerts);
    drop(stream);
    assert!(node.lp.timeout().is_none_or(|t| t > Duration::ZERO), "and nothing spins");
}
