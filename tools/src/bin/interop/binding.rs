//! `--bind=IFACE`: nothing gets past the interface, not even when it goes away; and when it is back, so is btmio.
//!
//! ```text
//!   10.78.0.2 far0 ──── lan0 10.78.0.1 │ btmio │ out0 10.79.0.1 ──── (nobody) default route
//! ```
//!
//! Whatever btmio is given to talk to (a peer, trackers, a DHT node, a name server, groups of the local network) is to be
//! reached by `out0`, so a packet that went out there is one too many.

use crate::clients::{Client, Job, PORT, Role};
use crate::host::{Host, run};
use crate::scenarios::World;
use std::time::Duration;
use tools::process::wait_for;

/// Packets that an interface has sent.
fn sent(device: &str) -> Result<u64, String> {
    let text = run(&format!("ip -s -j link show dev {device}"))?;
    let all: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("ip -j: {e}"))?;
    all[0]["stats64"]["tx"]["packets"].as_u64().ok_or(format!("ip -j: no count in {text}"))
}

impl World {
    pub(crate) fn bound(&self) -> Result<String, String> {
        let far = Host::new("far", &self.dir)?;
        let cable = || {
            far.cable("lan0", "far0", "10.78.0.2/24")?;
            run("ip address add 10.78.0.1/24 dev lan0").map(drop)
        };
        cable()?;
        run("ip link add out0 type veth peer name out1")?;
        // The kernel's own words on it would be counted too.
        ["out0", "out1"].iter().try_for_each(|device| {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").map_err(|e| e.to_string())
        })?;
        run("ip address add 10.79.0.1/24 dev out0")?;
        run("ip link set out0 up")?;
        run("ip link set out1 up")?;
        run("ip route add default via 10.79.0.9 dev out0")?;
        let names = self.dir.join("resolv.conf");
        std::fs::write(&names, "nameserver 10.79.0.53\n").map_err(|e| e.to_string())?;
        run(&format!("mount --bind {} /etc/resolv.conf", names.display()))?;

        let torrent = self.torrent("t", &["http://10.79.0.3:1/a", "udp://10.79.0.4:1/", "http://tracker.test:1/a"])?;
        let leech = |n: u8, bind: &str, patience: u8| -> Result<Job, String> {
            let mut job = self.job(n, Client::Btmio, Role::Leech, &torrent)?;
            job.lsd = true;
            job.dht = vec!["10.79.0.5:6881".parse().expect("an address")];
            job.extra = vec![format!("--bind={bind}"), format!("--timeout={patience}s")];
            job.extra.extend(["--peer=10.79.0.6:6881".to_owned(), "--dht-bootstrap=node.test:6881".to_owned()]);
            job.bind = false;
            Ok(job)
        };
        // How it ended, and what went out by the way that is not to be taken.
        let ends = |job: &Job, meanwhile: &dyn Fn() -> Result<(), String>| {
            let before = sent("out0")?;
            let mut node = Client::Btmio.start(job)?;
            meanwhile()?;
            let status = node.child.wait(Duration::from_secs(30)).ok_or("btmio does not end by itself")?;
            Ok::<_, String>((status.code(), sent("out0")? - before, node.child.tail()))
        };
        let before = sent("lan0")?;
        match ends(&leech(4, "lan0", 8)?, &|| Ok(()))? {
            (Some(5), 0, _) if sent("lan0")? > before => {}
            other => return Err(format!("bound to lan0: {other:?}, wanted 5 and no packets elsewhere")),
        }
        let delete = || {
            std::thread::sleep(Duration::from_secs(3));
            run("ip link delete lan0").map(drop)
        };
        match ends(&leech(5, "lan0", 10)?, &delete)? {
            (Some(5), 0, _) => {}
            other => {
                return Err(format!("bound to lan0, which was deleted: {other:?}, wanted 5 and no packets elsewhere"));
            }
        }
        match ends(&leech(6, "lan0", 8)?, &|| Ok(()))? {
            (Some(6), 0, tail) if tail.contains("lan0") => {}
            other => return Err(format!("bound to lan0, which is gone: {other:?}, wanted 6 and no packets")),
        }
        let free = match ends(&leech(3, "10.79.0.1", 3)?, &|| Ok(()))? {
            (Some(5), n, _) if n > 0 => n,
            other => return Err(format!("bound to out0's address: {other:?}, wanted 5, and packets there")),
        };
        cable()?;
        self.comes_back(&far, &cable, "lan0", 7)?;
        let back = self.comes_back(&far, &cable, "10.78.0.1", 10)?;
        Ok(format!("none past lan0, nor when it was deleted, but {free} when bound to out0's address; {back}"))
    }

    /// It seeds, its interface is replaced by another of that name and address, and it is dialled there.
    fn comes_back(
        &self,
        far: &Host,
        cable: &dyn Fn() -> Result<(), String>,
        to: &str,
        n: u8,
    ) -> Result<&'static str, String> {
        let torrent = self.torrent("alone", &[])?;
        let mut seed = self.job(n, Client::Btmio, Role::Seed, &torrent)?;
        seed.extra.push(format!("--bind={to}"));
        seed.bind = false;
        let mut seeder = Client::Btmio.start(&seed)?;
        let log = || std::fs::read_to_string(seed.home.join("log")).unwrap_or_default();
        let says = |words: &str| {
            let found = wait_for(Duration::from_secs(20), || log().contains(words).then_some(()));
            found.ok_or_else(|| format!("wanted {words:?} in the log\n{}", log()))
        };
        let fetch = |n: u8, seeder: &crate::clients::Node| {
            let mut leech = self.empty_job(n, Client::Libtorrent, Role::Leech, &torrent)?;
            (leech.host, leech.ip) = (Some(far.id()), "10.78.0.2".to_owned());
            leech.extra.push(format!("peer=10.78.0.1:{PORT}"));
            let mut leecher = Client::Libtorrent.start(&leech)?;
            self.arrives(&mut leecher, &leech, &[seeder])
        };
        fetch(n + 1, &seeder)?;
        run("ip link delete lan0")?;
        says(&format!("{to} is gone"))?;
        cable()?;
        says(&format!("{to} is back"))?;
        fetch(n + 2, &seeder)?;
        match seeder.child.exited() {
            None => Ok("reached again when interface or address was back"),
            Some(status) => Err(format!("btmio ended with {status}")),
        }
    }
}
