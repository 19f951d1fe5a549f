//! A DHT node for tests: others begin at it, and it says how many peers have been announced to it.

use btmio::config::DhtConfig;
use btmio::net::{Loop, LoopConfig, PortChoice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How a node is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its address; loopback unless told otherwise.
    pub bind: IpAddr,
    /// Its port; 0 is any.
    pub port: u16,
    /// Nodes to begin at; none: it waits to be found.
    pub bootstrap: Vec<(String, u16)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { bind: [127, 0, 0, 1].into(), port: 0, bootstrap: Vec::new() }
    }
}

/// A node on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct DhtNode {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 2]>,
    thread: Option<JoinHandle<()>>,
}

impl DhtNode {
    /// Starts one.
    pub fn start(options: Options) -> Result<Self, String> {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
        let (ends, told) = (Arc::clone(&stop), Arc::clone(&counts));
        let (send, receive) = mpsc::channel();
        // A loop stays on the thread that made it.
        let thread = std::thread::spawn(move || {
            let bind = options.bind;
            let mut config =
                LoopConfig { port: PortChoice::Exact(options.port), bind: vec![bind], ..LoopConfig::default() };
            config.session.dht = Some(DhtConfig { bootstrap: options.bootstrap, read_only: false });
            let mut node = match Loop::new(config) {
                Ok(node) => node,
                Err(e) => return drop(send.send(Err(e.to_string()))),
            };
            let _ = send.send(Ok(SocketAddr::new(bind, node.port())));
            while !ends.load(Ordering::Relaxed) {
                if let Err(e) = node.turn(Some(Duration::from_millis(50))) {
                    return eprintln!("dht-node: {e}");
                }
                if let Some(counts) = node.session().dht_counts() {
                    told[0].store(counts.nodes.0 + counts.nodes.1, Ordering::Relaxed);
                    told[1].store(counts.stored.1, Ordering::Relaxed);
                }
            }
        });
        let addr = receive.recv().map_err(|e| e.to_string())??;
        Ok(Self { addr, stop, counts, thread: Some(thread) })
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Nodes it knows, and peers that have been announced to it.
    pub fn counts(&self) -> (usize, usize) {
        (self.counts[0].load(Ordering::Relaxed), self.counts[1].load(Ordering::Relaxed))
    }
}

impl Drop for DhtNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
