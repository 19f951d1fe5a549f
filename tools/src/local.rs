//! btmio as a library, on the loopback device alone.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use btmio::net::{Loop, LoopConfig, PortChoice};

/// A loop on 127.0.0.1 that knows nobody it is not told of. `up` limits what it sends, in bytes per second.
///
/// # Errors
/// It cannot listen.
pub fn new_loop(up: Option<u64>) -> Result<Loop, String> {
    new_loop_with(up, None)
}

/// The same, and its state is kept in this folder.
///
/// # Errors
/// It cannot listen, or the folder cannot be made.
pub fn new_loop_with(up: Option<u64>, state_dir: Option<PathBuf>) -> Result<Loop, String> {
    let (port, bind) = (PortChoice::Exact(0), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let mut config = LoopConfig { port, bind, state_dir, ..LoopConfig::default() };
    config.session.up_limit = up;
    Loop::new(config).map_err(|e| e.to_string())
}
