//! A bootstrap node of the DHT for tests: `dht-node [--bind=ADDR] [--port=N] [HOST:PORT]...`, until it is killed.
//!
//! It prints its address, and from then on how many nodes and announced peers it knows whenever that changes. The
//! operands are nodes at which it begins; without any it waits to be found. On 127.0.0.1 unless told otherwise.

use std::process::ExitCode;
use std::time::Duration;
use tools::dht_node::{DhtNode, Options};

const USAGE: &str = "dht-node [--bind=ADDR] [--port=N] [HOST:PORT]...";

fn options() -> Result<Options, String> {
    let mut o = Options::default();
    for arg in std::env::args().skip(1) {
        let bad = |wanted: &str| format!("{arg}: wanted {wanted}\nusage: {USAGE}");
        match arg.split_once('=').unwrap_or((&arg, "")) {
            ("--bind", ip) => o.bind = ip.parse().map_err(|_| bad("an IP address"))?,
            ("--port", n) => o.port = n.parse().map_err(|_| bad("a port"))?,
            _ if arg.starts_with('-') => return Err(bad("a known option")),
            _ => {
                let (host, port) = arg.rsplit_once(':').ok_or_else(|| bad("HOST:PORT"))?;
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                o.bootstrap.push((host, port.parse().map_err(|_| bad("HOST:PORT"))?));
            }
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    let node = match options().and_then(DhtNode::start) {
        Ok(node) => node,
        Err(e) => {
            eprintln!("dht-node: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", node.addr());
    let mut last = (0, 0);
    loop {
        let (nodes, peers) = node.counts();
        if (nodes, peers) != last {
            println!("{nodes} nodes, {peers} peers");
            last = (nodes, peers);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
