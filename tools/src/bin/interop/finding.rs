//! Peers found without a tracker: the leech has nothing but a magnet link with nothing in it but the hash.

use crate::clients::{self, Client, PORT, Role};
use crate::host::{Host, run};
use crate::scenarios::{TRANSFER, World};
use std::net::SocketAddrV4;
use std::time::Instant;
use tools::process::wait_for;
use tools::tracker::Options;

/// Transmission takes part in a DHT of nine nodes or more only.
const NODES: std::ops::Range<u8> = 20..32;

/// Runs `ip` with these arguments.
fn ip(args: &str) -> Result<(), String> {
    run(&format!("ip {args}")).map(drop)
}

impl World {
    /// A DHT of a dozen libtorrent nodes. Seed and leech know one of them each, not the same.
    pub(crate) fn dht(&self, from: Client, to: Client) -> Result<String, String> {
        let ips: Vec<_> = NODES.map(|n| format!("{}{n}", self.net)).collect();
        ips.iter().try_for_each(|at| ip(&format!("address add {at}/24 dev lo")))?;
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
    /// btmio is on another host, at the other end of a cable, because some clients keep what they say from their own
    /// host, and nothing tells them of each other but multicasts.
    pub(crate) fn lsd(&self, from: Client, to: Client) -> Result<String, String> {
        let host = Host::new("host", &self.dir)?;
        ip("link add lan0 type veth peer name lan1")?;
        ip(&format!("link set lan1 netns {}", host.id()))?;
        let mut seed = self.job(2, from, Role::Seed, &self.torrent("alone", &[])?)?;
        let mut leech = self.job(3, to, Role::Leech, &self.link(""))?;
        ip("link set lan0 up")?;
        host.ip("link set lan1 up")?;
        for job in [&mut seed, &mut leech] {
            job.lsd = true;
            let (length, nodad) = if job.ip.contains(':') { (64, " nodad") } else { (24, "") };
            let address = |device: &str| format!("address add {}/{length} dev {device}{nodad}", job.ip);
            if job.client == Client::Btmio {
                host.ip(&address("lan1"))?;
                job.host = Some(host.id());
            } else {
                ip(&address("lan0"))?;
            }
            if job.client == Client::Transmission {
                // It leaves it to the routes where the group is, and what its own address is.
                ip(&format!("route add 239.0.0.0/8 dev lan0 src {}", job.ip))?;
            }
        }
        if to == Client::Btmio {
            leech.extra.push("-e".to_owned());
        }
        let seeder = from.start(&seed)?;
        let begin = Instant::now();
        let mut leecher = to.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&seeder])?;
        Ok(format!("by multicast alone in {:.1} s", begin.elapsed().as_secs_f64()))
    }

    /// The hub has nothing, knows by its tracker who has everything, and takes it so slowly that it stays with them
    /// throughout: one that is complete leaves its seeds, and then has nobody to name. `to` has a magnet link and
    /// knows the hub alone, so that it is done only if the hub names the seed.
    pub(crate) fn pex(&self, seed: Client, hub: Client, to: Client) -> Result<String, String> {
        let tracker = self.tracker(Options::default())?;
        let torrent = self.torrent("t", &[&tracker.url])?;
        let seed = self.job(2, seed, Role::Seed, &torrent)?;
        let mut middle = self.job(3, hub, Role::Leech, &torrent)?;
        (middle.pex, middle.down_limit) = (true, 64);
        let mut last = self.job(4, to, Role::Leech, &self.link(""))?;
        last.pex = true;
        let peer = format!("peer={}:{PORT}", middle.ip);
        match to {
            Client::Btmio => last.extra = vec!["-e".to_owned(), format!("--{peer}")],
            // Nobody can tell it of a peer: it is there first, and is dialled.
            Client::Transmission => middle.extra.push(format!("--peer={}:{PORT}", last.ip)),
            _ => last.extra = vec![peer],
        }
        let seeder = self.start(&seed, &tracker)?;
        let early = if to == Client::Transmission { Some(to.start(&last)?) } else { None };
        let hub_node = self.start(&middle, &tracker)?;
        let begin = Instant::now();
        let mut node = early.map_or_else(|| to.start(&last), Ok)?;
        // Transmission names peers for the first time after 90 s.
        let patience = if hub == Client::Transmission { 2 * TRANSFER } else { TRANSFER };
        self.arrives_within(patience, &mut node, &last, &[&hub_node, &seeder])?;
        Ok(format!("named by {} in {:.1} s", hub.name(), begin.elapsed().as_secs_f64()))
    }
}
