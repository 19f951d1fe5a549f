//! btmio as a library, on the loopback device alone.

use std::net::{IpAddr, Ipv4Addr};

use btmio::net::{Loop, LoopConfig, PortChoice};

/// A loop on 127.0.0.1 that knows nobody it is not told of. `up` limits what it sends, in bytes per second.
///
/// # Errors
/// It cannot listen.
pub fn new_loop(up: Option<u64>) -> Result<Loop, String> {
    let mut config =
        LoopConfig { port: PortChoice::Exact(0), bind: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..LoopConfig::default() };
    config.session.up_limit = up;
    Loop::new(config).map_err(|e| e.to_string())
}
