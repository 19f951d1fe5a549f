//! Peers found without a tracker: the leech has nothing but a magnet link with nothing in it but the hash.

use crate::clients::{self, Client, PORT, Role};
use crate::scenarios::{TRANSFER, World};
use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Instant;
use tools::process::wait_for;

/// The clients that do it, and are held against btmio.
pub(crate) const FINDERS: [Client; 3] = [Client::Libtorrent, Client::Transmission, Client::Aria2];

/// Transmission takes part in a DHT of nine nodes or more only.
const NODES: std::ops::Range<u8> = 20..32;

impl World {
    /// A DHT of a dozen libtorrent nodes. Seed and leech know one of them each, not the same.
    pub(crate) fn dht(&self, from: Client, to: Client) -> Result<String, String> {
        let ips: Vec<_> = NODES.map(|n| format!("{}{n}", self.net)).collect();
        for ip in &ips {
            let args = ["address", "add", &format!("{ip}/24"), "dev", "lo"];
            let status = Command::new("ip").args(args).status().map_err(|e| format!("ip: {e}"))?;
            if !status.success() {
                return Err(format!("ip {}: {status}", args.join(" ")));
            }
        }
        let home = self.dir.join("nodes");
        std::fs::create_dir_all(&home).map_err(|e| e.to_string())?;
        let nodes = clients::dht_nodes(&home, &ips)?;
        let at = |ip: &String| format!("{ip}:{PORT}").parse::<SocketAddrV4>().map_err(|e| e.to_string());
        let mut all = ips.iter().map(at).collect::<Result<Vec<_>, _>>()?;
        let mut seed = self.job(2, from, Role::Seed, &self.torrent("alone", &[])?)?;
        let mut leech = self.job(3, to, Role::Leech, &self.link(""))?;
        seed.dht = all.clone();
        all.rotate_left(1);
        leech.dht = all;
        // One is enough for btmio.
        [&mut seed, &mut leech].into_iter().filter(|j| j.client == Client::Btmio).for_each(|j| j.dht.truncate(1));
        if to == Client::Btmio {
            leech.extra.push("-e".to_owned());
        }
        let begin = Instant::now();
        let mut seeder = from.start(&seed)?;
        let word = format!("announced {} {PORT} ", seed.ip);
        let known = wait_for(TRANSFER, || match (seeder.child.exited(), nodes.output().contains(&word)) {
            (Some(status), _) => Some(Err(format!("{} ended with {status}", from.name()))),
            (None, heard) => heard.then_some(Ok(())),
        });
        let late = || Err(format!("{} has not announced itself in {TRANSFER:?}", from.name()));
        known.unwrap_or_else(late).map_err(|e| format!("{e}\n{}{}", seeder.child.tail(), nodes.tail()))?;
        let announced = begin.elapsed();
        let begin = Instant::now();
        let mut leecher = to.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&seeder])?;
        let (announced, took) = (announced.as_secs_f64(), begin.elapsed().as_secs_f64());
        Ok(format!("by the DHT alone: announced after {announced:.1} s, there in {took:.1} s"))
    }
}
