//! A home behind miniupnpd: btmio asks for its port, is reached there from outside, and gives it back.
//!
//! ```text
//!   50.0.0.9 wan1 ──── wan0 50.0.0.5 │ miniupnpd │ 192.168.7.1 lan0 ──── home0 192.168.7.9
//!    libtorrent                   the scenario's own network                         btmio
//! ```
//!
//! Needs nftables and miniupnpd besides what all scenarios need, a kernel that has the former, and a minute for a
//! renewal: run by name, not with the others.

use crate::clients::{Client, Job, Role};
use crate::host::{Host, run};
use crate::scenarios::World;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tools::process::{Child, wait_for};

const GATEWAY: &str = "192.168.7.1";
const HOME: &str = "192.168.7.9";
const OUTSIDE: &str = "50.0.0.5";
const FAR: &str = "50.0.0.9";
const PORT: u16 = 6881;

/// What a home's router has: nothing is let in but what miniupnpd lets in.
const RULES: &str = "table inet filter {
    chain input { type filter hook input priority 0; policy accept; }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname lan0 accept
        jump miniupnpd
    }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
";

/// A way to ask.
struct Way {
    name: &'static str,
    /// What the gateway is kept from hearing.
    rule: &'static str,
    /// It answers datagrams.
    natpmp: &'static str,
    /// What miniupnpd logs of a request for a mapping, when its leases are so short that one is renewed here.
    renewed: Option<&'static str>,
}

const WAYS: [Way; 3] = [
    Way { name: "PCP", rule: "", natpmp: "yes", renewed: Some("PCP MAP") },
    // A PCP request is 60 bytes, behind 8 of UDP.
    Way {
        name: "NAT-PMP",
        rule: "add rule inet filter input udp dport 5351 udp length 68 drop\n",
        natpmp: "yes",
        renewed: None,
    },
    Way { name: "UPnP", rule: "", natpmp: "no", renewed: None },
];

/// Has `nft` read rules.
fn nft(rules: &str) -> Result<(), String> {
    let mut c = Command::new("nft");
    let mut child = c.args(["-f", "-"]).stdin(Stdio::piped()).spawn().map_err(|e| format!("nft: {e}"))?;
    child.stdin.take().expect("it is piped").write_all(rules.as_bytes()).map_err(|e| format!("nft: {e}"))?;
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("nft: {other:?}")),
    }
}

/// Ports that are forwarded to the home.
fn forwarded() -> Result<usize, String> {
    let rules = run("nft list chain inet filter prerouting_miniupnpd")?;
    Ok(rules.matches(&format!("dnat ip to {HOME}:{PORT}")).count())
}

impl World {
    /// Over each of the three ways: both ports are forwarded, a peer outside gets everything by dialling the gateway,
    /// and nothing is forwarded after the end.
    pub(crate) fn gateway(&self) -> Result<String, String> {
        let (home, far) = (Host::new("home", &self.dir)?, Host::new("far", &self.dir)?);
        home.cable("lan0", "home0", &format!("{HOME}/24"))?;
        far.cable("wan0", "wan1", &format!("{FAR}/24"))?;
        run(&format!("ip address add {OUTSIDE}/24 dev wan0"))?;
        run(&format!("ip address add {GATEWAY}/24 dev lan0"))?;
        home.ip(&format!("route add default via {GATEWAY}"))?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|e| format!("ip_forward: {e}"))?;
        let mut said = Vec::new();
        for way in WAYS {
            said.push(self.one_way(&home, &far, &way).map_err(|e| format!("{}: {e}", way.name))?);
        }
        Ok(said.join("; "))
    }

    fn one_way(&self, home: &Host, far: &Host, way: &Way) -> Result<String, String> {
        nft(&format!("flush ruleset\n{RULES}{}", way.rule))?;
        let daemon = self.miniupnpd(way)?;
        let torrent = self.torrent(way.name, &[])?;
        let folder = |job: Job, host: &Host, ip: &str| {
            let home = self.dir.join(format!("{}-{}", way.name, job.client.name()));
            Job { home, host: Some(host.id()), ip: ip.to_owned(), ..job }
        };
        let mut job = folder(self.job(3, Client::Btmio, Role::Seed, &torrent)?, home, HOME);
        job.portmap = true;
        let begin = Instant::now();
        let mut node = Client::Btmio.start(&job)?;
        let fine = wait_for(Duration::from_secs(60), || (forwarded() == Ok(2)).then_some(()));
        let took = begin.elapsed().as_secs_f64();
        let log = || std::fs::read_to_string(job.home.join("log")).unwrap_or_default();
        let tails = || format!("{}{}", log(), daemon.tail());
        fine.ok_or_else(|| format!("the gateway forwards {:?} ports, wanted 2\n{}", forwarded(), tails()))?;
        let words = format!("TCP port {PORT} of {OUTSIDE} is forwarded to {HOME} ({})", way.name);
        let told = |n: usize| {
            let fine = wait_for(Duration::from_secs(20), || (log().matches(&words).count() == n).then_some(()));
            fine.ok_or_else(|| format!("wanted {words:?} {n} times in the log\n{}", tails()))
        };
        told(1)?;
        if log().contains("no Landlock") || !log().contains("confined to its folders") {
            return Err(format!("it is to do this in its sandbox\n{}", tails()));
        }

        let mut leech = folder(self.empty_job(4, Client::Libtorrent, Role::Leech, &torrent)?, far, FAR);
        leech.dir = self.dir.join(format!("{}-got", way.name));
        leech.extra.push(format!("peer={OUTSIDE}:{PORT}"));
        std::fs::create_dir_all(&leech.dir).map_err(|e| e.to_string())?;
        let mut leecher = Client::Libtorrent.start(&leech)?;
        self.arrives(&mut leecher, &leech, &[&node])?;
        drop(leecher);
        let mut more = String::new();
        if let Some(words) = way.renewed {
            let asked = || {
                (daemon.output() + &std::fs::read_to_string(&daemon.stderr).unwrap_or_default()).matches(words).count()
            };
            let before = asked();
            let late = || format!("not renewed, {before} requests\n{}", tails());
            wait_for(Duration::from_secs(50), || (asked() >= before + 2).then_some(())).ok_or_else(late)?;
            let age = begin.elapsed().as_secs_f64();
            // Without a way out, and with one again, as if in another network.
            home.ip(&format!("route del default via {GATEWAY}"))?;
            std::thread::sleep(Duration::from_secs(2));
            home.ip(&format!("route add default via {GATEWAY}"))?;
            told(2)?;
            more = format!(", renewed by {age:.0} s, made again when the route was back");
        }
        node.child.signal("INT");
        let status = node.child.wait(Duration::from_secs(10)).ok_or_else(|| format!("it does not end\n{}", tails()))?;
        let gone = wait_for(Duration::from_secs(10), || (forwarded() == Ok(0)).then_some(()));
        gone.ok_or_else(|| format!("{:?} ports are forwarded after {status}\n{}", forwarded(), tails()))?;
        Ok(format!("{} in {took:.1} s, fetched through it{more}, taken back", way.name))
    }

    fn miniupnpd(&self, way: &Way) -> Result<Child, String> {
        let conf = self.dir.join(format!("{}.conf", way.name));
        let short = if way.renewed.is_some() { "min_lifetime=30\nmax_lifetime=60\n" } else { "" };
        let text = format!(
            "ext_ifname=wan0\nlistening_ip=lan0\nenable_natpmp={}\nenable_upnp=yes\nsecure_mode=yes\n{short}\
             uuid=00000000-1111-2222-3333-444444444444\nallow 1024-65535 192.168.7.0/24 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n",
            way.natpmp
        );
        std::fs::write(&conf, text).map_err(|e| e.to_string())?;
        let mut c = Command::new("miniupnpd");
        c.arg("-d").arg("-f").arg(&conf).arg("-P").arg(self.dir.join("miniupnpd.pid"));
        let name = format!("miniupnpd-{}", way.name);
        let mut daemon = Child::spawn(&name, &self.dir, c).map_err(|e| format!("starting {e}"))?;
        let up = || match (daemon.exited(), run("ss -lntu")) {
            (Some(status), _) => Some(Err(format!("miniupnpd ended with {status}"))),
            (None, Ok(sockets)) => sockets.contains(":1900").then_some(Ok(())),
            (None, Err(e)) => Some(Err(e)),
        };
        wait_for(Duration::from_secs(10), up).unwrap_or(Err("miniupnpd does not listen".to_owned()))?;
        Ok(daemon)
    }
}
