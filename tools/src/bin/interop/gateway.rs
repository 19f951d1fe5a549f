//! A home behind miniupnpd: btmio asks for its port, gets it, and gives it back.
//!
//! ```text
//!   50.0.0.9 wan1 ──── wan0 50.0.0.5 │ miniupnpd │ 192.168.7.1 lan0 ──── home0 192.168.7.9 │ btmio
//!                       the scenario's own network                        a network of its own
//! ```
//!
//! Needs nftables and miniupnpd besides what all scenarios need, and a kernel that has the former: run by name, not
//! with the others.

use crate::clients::{Client, Job, Role};
use crate::scenarios::World;
use std::process::{Command, Stdio};
use std::time::Duration;
use tools::process::{Child, program, wait_for};

const GATEWAY: &str = "192.168.7.1";
const HOME: &str = "192.168.7.9";
const OUTSIDE: &str = "50.0.0.5";

/// How the gateway is to be asked, and what it is kept from hearing.
const WAYS: [(&str, &str, Option<&str>); 3] = [
    ("PCP", "yes", None),
    // A PCP request is 60 bytes, behind 8 of UDP.
    ("NAT-PMP", "yes", Some("add rule inet filter input udp dport 5351 udp length 68 drop")),
    ("UPnP", "no", None),
];

fn run(command: &str) -> Result<String, String> {
    let mut words = command.split(' ');
    let mut c = Command::new(words.next().unwrap_or_default());
    let out = c.args(words).stdin(Stdio::null()).output().map_err(|e| format!("{command}: {e}"))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(format!("{command}: {}", String::from_utf8_lossy(&out.stderr))),
    }
}

/// As one argument, which `nft` takes apart itself.
fn nft(rule: &str) -> Result<String, String> {
    let out = Command::new("nft").arg(rule).output().map_err(|e| format!("nft: {e}"))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(format!("nft {rule}: {}", String::from_utf8_lossy(&out.stderr))),
    }
}

impl World {
    /// Over each of the three ways: both ports are forwarded as the gateway tells it, and no longer after the end.
    pub(crate) fn gateway(&self) -> Result<String, String> {
        let mut c = Command::new("unshare");
        c.args(["--net", "sleep", "240"]);
        let home = Child::spawn("home", &self.dir, c).map_err(|e| format!("starting {e}"))?;
        run("ip link add wan0 type veth peer name wan1")?;
        run("ip link add lan0 type veth peer name home0")?;
        run(&format!("ip address add {OUTSIDE}/24 dev wan0"))?;
        run(&format!("ip address add {GATEWAY}/24 dev lan0"))?;
        ["wan0", "wan1", "lan0"].iter().try_for_each(|dev| run(&format!("ip link set {dev} up")).map(drop))?;
        // `unshare` has to have done its work first.
        let inside = format!("nsenter --net=/proc/{}/ns/net", home.id());
        let own = std::fs::read_link("/proc/self/ns/net").map_err(|e| e.to_string())?;
        let theirs = || std::fs::read_link(format!("/proc/{}/ns/net", home.id())).ok().filter(|ns| *ns != own);
        wait_for(Duration::from_secs(10), theirs).ok_or("no network for the home")?;
        run(&format!("ip link set home0 netns {}", home.id()))?;
        run(&format!("{inside} ip link set lo up"))?;
        run(&format!("{inside} ip address add {HOME}/24 dev home0"))?;
        run(&format!("{inside} ip link set home0 up"))?;
        run(&format!("{inside} ip route add default via {GATEWAY}"))?;
        for way in WAYS {
            self.one_way(&inside, way).map_err(|e| format!("{}: {e}", way.0))?;
        }
        Ok("PCP, NAT-PMP and UPnP: forwarded, and taken back".to_owned())
    }

    fn one_way(&self, inside: &str, (way, natpmp, rule): (&str, &str, Option<&str>)) -> Result<(), String> {
        nft("add table inet filter")?;
        nft("add chain inet filter input { type filter hook input priority 0; policy accept; }")?;
        for chain in ["miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"] {
            nft(&format!("add chain inet filter {chain}"))?;
        }
        rule.map_or(Ok(String::new()), nft)?;
        let conf = self.dir.join(format!("{way}.conf"));
        let text = format!(
            "ext_ifname=wan0\nlistening_ip=lan0\nenable_natpmp={natpmp}\nenable_upnp=yes\nsecure_mode=yes\n\
             uuid=00000000-1111-2222-3333-444444444444\nallow 1024-65535 192.168.7.0/24 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n"
        );
        std::fs::write(&conf, text).map_err(|e| e.to_string())?;
        let mut c = Command::new("miniupnpd");
        c.arg("-d").arg("-f").arg(&conf).arg("-P").arg(self.dir.join("miniupnpd.pid"));
        let mut daemon =
            Child::spawn(&format!("miniupnpd-{way}"), &self.dir, c).map_err(|e| format!("starting {e}"))?;
        let up = || match (daemon.exited(), run("ss -lntu")) {
            (Some(status), _) => Some(Err(format!("miniupnpd ended with {status}"))),
            (None, Ok(sockets)) => sockets.contains(":1900").then_some(Ok(())),
            (None, Err(e)) => Some(Err(e)),
        };
        wait_for(Duration::from_secs(10), up).unwrap_or(Err("miniupnpd does not listen".to_owned()))?;

        let torrent = self.torrent("t", &[])?;
        let job: Job = self.empty_job(3, Client::Btmio, Role::Leech, &torrent)?;
        std::fs::create_dir_all(&job.home).map_err(|e| e.to_string())?;
        let mut c = Command::new("nsenter");
        c.arg(inside.split(' ').nth(1).expect("two words")).arg(program("btmio")?);
        c.args(["--json", "--no-dht", "--port=6881", "-v", "--dir"]).arg(&job.dir).arg(&torrent);
        c.env("HOME", &job.home).env("XDG_STATE_HOME", job.home.join("state"));
        let node = Child::spawn(&format!("btmio-{way}"), &self.dir, c).map_err(|e| format!("starting {e}"))?;
        let forwarded = || nft("list chain inet filter prerouting_miniupnpd").map(|t| t.matches(HOME).count());
        let fine = wait_for(Duration::from_secs(60), || (forwarded() == Ok(2)).then_some(()));
        let tails = |node: &Child| format!("{}{}", node.tail(), daemon.tail());
        fine.ok_or_else(|| format!("the gateway forwards {:?} ports, wanted 2\n{}", forwarded(), tails(&node)))?;
        let said = std::fs::read_to_string(&node.stderr).unwrap_or_default();
        let words = format!("TCP port 6881 of {OUTSIDE} is forwarded to {HOME} ({way})");
        if !said.contains(&words) {
            return Err(format!("wanted {words:?} in the log\n{}", tails(&node)));
        }
        node.signal("INT");
        let gone = wait_for(Duration::from_secs(10), || (forwarded() == Ok(0)).then_some(()));
        gone.ok_or_else(|| format!("{:?} ports are forwarded after the end\n{}", forwarded(), tails(&node)))?;
        drop(node);
        daemon.stop();
        nft("delete table inet filter").map(drop)
    }
}
