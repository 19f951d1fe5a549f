//! The clients: how each is started without a screen, and how it tells that it is done.
//!
//! Every client gets its own address on the scenario's private network, its own empty home, TCP only,
//! and nothing that finds peers by itself (no DHT, LSD, PEX, UPnP, NAT-PMP, update checks) unless the job
//! says so, so that what happens is what the scenario says. Ports are fixed ([`PORT`], [`RPC`]): addresses differ instead.
//!
//! "Done" is a file `done` in the client's home, made by the client's own completion hook; for aria2,
//! whose hook comes before its last write, and btmio, which has events and an exit code, see [`Node::done`].

use crate::http;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tools::process::{Child, wait_for};

/// Every client listens here, on its own address.
pub(crate) const PORT: u16 = 6881;
/// Control ports.
const RPC: u16 = 9091;

/// A client the runner can start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    Btmio,
    Transmission,
    Aria2,
    Libtorrent,
    Rtorrent,
    Qbittorrent,
    /// For attacks only: it has no completion hook.
    Rqbit,
}

/// All but btmio.
pub(crate) const OTHERS: [Client; 5] =
    [Client::Transmission, Client::Aria2, Client::Libtorrent, Client::Rtorrent, Client::Qbittorrent];

/// What a client starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// All data.
    Seed,
    /// Nothing, or a part.
    Leech,
}

/// What a client is asked to do.
pub(crate) struct Job {
    pub(crate) client: Client,
    pub(crate) role: Role,
    pub(crate) ip: String,
    pub(crate) torrent: PathBuf,
    /// Where the data is or goes.
    pub(crate) dir: PathBuf,
    /// An empty folder for configuration, state and logs.
    pub(crate) home: PathBuf,
    /// Peers may tell it of peers (BEP 11). Transmission, libtorrent; btmio always does.
    pub(crate) pex: bool,
    /// Nodes at which its own DHT node begins; none: it has none. Transmission, libtorrent, aria2, btmio.
    pub(crate) dht: Vec<SocketAddrV4>,
    /// The process whose network it is in; ours if `None`.
    pub(crate) host: Option<u32>,
    /// Uses its address and no other. btmio can do without.
    pub(crate) bind: bool,
    /// Asks the gateway to forward its port. btmio.
    pub(crate) portmap: bool,
    /// Finds peers on the local network (BEP 14). Transmission, libtorrent, aria2, btmio.
    pub(crate) lsd: bool,
    /// Upload limit in KiB/s, 0 for none. Transmission, aria2.
    pub(crate) up_limit: u32,
    /// Download limit in KiB/s, 0 for none. Transmission, libtorrent, btmio.
    pub(crate) down_limit: u32,
    /// Certificates to trust. btmio.
    pub(crate) roots: Option<PathBuf>,
    /// Most descriptors it may have, if that is to be fewer than ours.
    pub(crate) nofile: Option<u64>,
    /// Further arguments. btmio; libtorrent's have no dashes in front.
    pub(crate) extra: Vec<String>,
}

/// A running client.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) child: Child,
    pub(crate) ip: String,
    home: PathBuf,
}

impl Client {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Client::Btmio => "btmio",
            Client::Transmission => "transmission",
            Client::Aria2 => "aria2",
            Client::Libtorrent => "libtorrent",
            Client::Rtorrent => "rtorrent",
            Client::Qbittorrent => "qbittorrent",
            Client::Rqbit => "rqbit",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        OTHERS.into_iter().chain([Client::Btmio, Client::Rqbit]).find(|c| c.name() == name)
    }

    /// Starts the client; it may not be listening yet on return.
    pub(crate) fn start(self, job: &Job) -> Result<Node, String> {
        fs::create_dir_all(&job.home).map_err(|e| e.to_string())?;
        let mut command = match self {
            Client::Btmio => btmio(job)?,
            Client::Transmission => transmission(job)?,
            Client::Aria2 => aria2(job),
            Client::Libtorrent => libtorrent(job)?,
            Client::Rtorrent => rtorrent(job)?,
            Client::Qbittorrent => qbittorrent(job)?,
            Client::Rqbit => rqbit(job),
        };
        if let Some(n) = job.nofile {
            // The hard limit too: some raise the soft one.
            command = within("prlimit", &format!("--nofile={n}:{n}"), &command);
        }
        if let Some(pid) = job.host {
            command = on_host(pid, &command);
        }
        command.current_dir(&job.home).env("HOME", &job.home).env("LC_ALL", "C.UTF-8").env_remove("DISPLAY");
        for (name, sub) in [("CONFIG", "config"), ("DATA", "data"), ("CACHE", "cache"), ("STATE", "state")] {
            command.env(format!("XDG_{name}_HOME"), job.home.join(sub));
        }
        if let Some(roots) = &job.roots {
            command.env("SSL_CERT_FILE", roots);
        }
        let child = Child::spawn(self.name(), &job.home, command).map_err(|e| format!("starting {e}"))?;
        let mut node = Node { client: self, child, ip: job.ip.clone(), home: job.home.clone() };
        if self == Client::Transmission {
            transmission_add(&mut node, job)?;
        }
        Ok(node)
    }
}

impl Node {
    /// Whether everything has arrived, as far as the client knows. An early end is an error.
    pub(crate) fn done(&mut self) -> Result<bool, String> {
        if let Some(status) = self.child.exited() {
            return match status.success() && self.client == Client::Btmio {
                true => Ok(true),
                false => Err(format!("{} ended with {status}", self.client.name())),
            };
        }
        match self.client {
            Client::Btmio => Ok(self.events().iter().any(|e| e["event"] == "done")),
            Client::Aria2 => Ok(self.aria2().is_ok_and(|t| t["seeder"] == "true")),
            _ => Ok(self.home.join("done").exists()),
        }
    }

    /// btmio's JSON Lines so far. Lines that are not JSON (the last may be half written) are left out.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.child.output().lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Bytes of payload uploaded, by the client's own count. aria2 only.
    pub(crate) fn aria2_uploaded(&self) -> Result<u64, String> {
        let v = self.aria2()?;
        v["uploadLength"].as_str().and_then(|s| s.parse().ok()).ok_or(format!("aria2 does not tell uploadLength: {v}"))
    }

    fn aria2(&self) -> Result<Value, String> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "aria2.tellActive", "params": []}).to_string();
        let answer = http::request(&format!("127.0.0.1:{}", aria2_rpc(&self.ip)), "/jsonrpc", &[], Some(&body))?;
        let v: Value = serde_json::from_slice(&answer.body).map_err(|e| format!("aria2's answer: {e}"))?;
        Ok(v["result"][0].clone())
    }
}

/// The same command in the network of a process.
pub(crate) fn on_host(pid: u32, command: &Command) -> Command {
    within("nsenter", &format!("--net=/proc/{pid}/ns/net"), command)
}

/// The same command by way of a program that becomes it.
fn within(program: &str, arg: &str, command: &Command) -> Command {
    let mut c = Command::new(program);
    c.arg(arg).arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => c.env(name, value),
            None => c.env_remove(name),
        };
    }
    c
}

/// aria2 binds its control port on 127.0.0.1 whatever the interface: a port for each address.
fn aria2_rpc(ip: &str) -> u16 {
    6800 + ip.rsplit('.').next().and_then(|n| n.parse::<u16>().ok()).unwrap_or(0)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::create_dir_all(path.parent().expect("a file in a folder")).map_err(|e| e.to_string())?;
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// A script that makes `done` in the client's home, whatever arguments it is called with.
fn hook(job: &Job) -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    let path = job.home.join("hook.sh");
    write(&path, &format!("#!/bin/sh\n: > '{}'\n", job.home.join("done").display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    Ok(path)
}

fn btmio(job: &Job) -> Result<Command, String> {
    let mut c = Command::new(tools::process::program("btmio")?);
    c.arg("--json").arg(format!("--port={PORT}")).arg("--dir").arg(&job.dir);
    if job.bind {
        c.arg(format!("--bind={}", job.ip));
    }
    if !job.portmap {
        c.arg("--no-portmap");
    }
    c.arg(format!("--log={}", job.home.join("log").display())).arg("-v");
    c.args(job.dht.iter().map(|node| format!("--dht-bootstrap={node}")));
    if job.dht.is_empty() {
        c.arg("--no-dht");
    }
    if !job.lsd {
        c.arg("--no-lsd");
    }
    if job.down_limit > 0 {
        c.arg(format!("--down={}K", job.down_limit));
    }
    match job.role {
        // By default it seeds until a ratio of one, which is exactly one download.
        Role::Seed => c.args(["--verify", "--seed-ratio=1000", "--seed-time=60"]),
        Role::Leech => c.arg("--timeout=90s"),
    };
    c.args(&job.extra).arg(&job.torrent);
    Ok(c)
}

fn transmission(job: &Job) -> Result<Command, String> {
    let cfg = job.home.join("cfg");
    let settings = json!({
        "bind-address-ipv4": job.ip, "bind-address-ipv6": "::1", "peer-port": PORT, "port-is-random": false,
        "peer-port-random-on-start": false, "dht-enabled": !job.dht.is_empty(), "lpd-enabled": job.lsd, "pex-enabled": job.pex,
        "port-forwarding-enabled": false, "utp-enabled": false, "encryption": 0, "blocklist-enabled": false,
        "rpc-enabled": true, "rpc-bind-address": job.ip, "rpc-port": RPC, "rpc-authentication-required": false,
        "rpc-whitelist-enabled": false, "rpc-host-whitelist-enabled": false,
        "download-dir": job.dir, "incomplete-dir-enabled": false, "start-added-torrents": true,
        "download-queue-enabled": false, "seed-queue-enabled": false, "ratio-limit-enabled": false,
        "idle-seeding-limit-enabled": false,
        "speed-limit-down-enabled": job.down_limit > 0, "speed-limit-down": job.down_limit,
        "speed-limit-up-enabled": job.up_limit > 0, "speed-limit-up": job.up_limit,
        "script-torrent-done-enabled": true, "script-torrent-done-filename": hook(job)?, "message-level": 2,
    });
    write(&cfg.join("settings.json"), &settings.to_string())?;
    if !job.dht.is_empty() {
        // As if from an earlier run: these are pinged one every two seconds, those given by name one every fifteen.
        let nodes: Vec<u8> =
            job.dht.iter().flat_map(|n| [&n.ip().octets()[..], &n.port().to_be_bytes()].concat()).collect();
        let id: Vec<u8> = job.ip.bytes().cycle().take(20).collect();
        let head = format!("{}:", nodes.len());
        let parts = [b"d2:id20:", &id[..], b"5:nodes", head.as_bytes(), &nodes, b"e"];
        fs::write(cfg.join("dht.dat"), parts.concat()).map_err(|e| e.to_string())?;
    }
    let mut c = Command::new("transmission-daemon");
    c.arg("-f").arg("-g").arg(cfg);
    Ok(c)
}

/// Transmission is given its torrent over RPC: a session id from a 409 first, then the request.
fn transmission_add(node: &mut Node, job: &Job) -> Result<(), String> {
    let body = json!({"method": "torrent-add", "arguments": {"filename": job.torrent, "download-dir": job.dir}});
    let (to, mut session) = (format!("{}:{RPC}", job.ip), String::new());
    let mut last = String::new();
    let added = wait_for(Duration::from_secs(20), || {
        if let Some(status) = node.child.exited() {
            return Some(Err(format!("transmission ended with {status}")));
        }
        let headers = [("X-Transmission-Session-Id", session.as_str())];
        match http::request(&to, "/transmission/rpc", &headers, Some(&body.to_string())) {
            Ok(a) if a.status == 409 => {
                session = a.header("X-Transmission-Session-Id").unwrap_or_default().to_owned();
                None
            }
            Ok(a) if String::from_utf8_lossy(&a.body).contains("torrent-added") => Some(Ok(())),
            Ok(a) => Some(Err(format!("transmission's answer: {}", String::from_utf8_lossy(&a.body)))),
            Err(e) => {
                last = e;
                None
            }
        }
    });
    added.unwrap_or(Err(format!("transmission's RPC does not answer: {last}")))
}

fn aria2(job: &Job) -> Command {
    let mut c = Command::new("aria2c");
    c.args(["--no-conf", "--enable-dht6=false", "--disable-ipv6=true"]);
    match job.dht.first() {
        Some(node) => {
            c.arg(format!("--dht-entry-point={node}")).arg(format!("--dht-listen-port={PORT}"));
            c.arg(format!("--dht-file-path={}", job.home.join("dht.dat").display()))
        }
        None => c.arg("--enable-dht=false"),
    };
    c.arg(format!("--bt-enable-lpd={}", job.lsd)).arg(format!("--bt-lpd-interface={}", job.ip));
    c.args([
        "--enable-peer-exchange=false",
        "--async-dns=false",
        "--bt-min-crypto-level=plain",
        "--summary-interval=0",
    ]);
    c.args(["--bt-require-crypto=false", "--follow-torrent=mem", "--allow-overwrite=true", "--file-allocation=none"]);
    c.args(["--seed-ratio=0.0", "--enable-rpc=true", "--check-integrity=true", "--bt-hash-check-seed=true"]);
    c.args(["--bt-tracker-connect-timeout=5", "--console-log-level=notice", "--enable-color=false"]);
    c.arg(format!("--interface={}", job.ip)).arg(format!("--rpc-listen-port={}", aria2_rpc(&job.ip)));
    c.arg(format!("--listen-port={PORT}")).arg(format!("--max-overall-upload-limit={}K", job.up_limit));
    c.arg(format!("--dir={}", job.dir.display())).arg(&job.torrent);
    c
}

/// The script that is libtorrent.
fn python(home: &Path) -> Result<Command, String> {
    let script = home.join("lt_client.py");
    write(&script, include_str!("../../../py/lt_client.py"))?;
    let mut c = Command::new(std::env::var_os("BTMIO_PYTHON").unwrap_or_else(|| "python3".into()));
    c.arg(script);
    Ok(c)
}

/// A DHT of libtorrent nodes at these addresses, all on [`PORT`]; each knows the others.
pub(crate) fn dht_nodes(home: &Path, ips: &[String]) -> Result<Child, String> {
    let mut c = python(home)?;
    c.arg("nodes").arg(PORT.to_string()).args(ips).env("HOME", home).current_dir(home);
    Child::spawn("nodes", home, c).map_err(|e| format!("starting {e}"))
}

fn libtorrent(job: &Job) -> Result<Command, String> {
    let role = if job.role == Role::Seed { "seed" } else { "leech" };
    let mut c = python(&job.home)?;
    c.arg(role).arg(&job.torrent).arg(&job.dir).args([&job.ip, &PORT.to_string()]).arg(&job.home);
    if job.pex {
        c.arg("extension=ut_pex");
    }
    if let Some(node) = job.dht.first() {
        c.arg(format!("dht={node}"));
    }
    if job.lsd {
        c.arg("enable_lsd=1");
    }
    if job.down_limit > 0 {
        c.arg(format!("download_rate_limit={}", job.down_limit << 10));
    }
    c.args(job.extra.iter().filter(|e| !e.starts_with('-')));
    Ok(c)
}

fn rtorrent(job: &Job) -> Result<Command, String> {
    let (rc, session) = (job.home.join("rtorrent.rc"), job.home.join("session"));
    fs::create_dir_all(&session).map_err(|e| e.to_string())?;
    let text = format!(
        "system.daemon.set = true\n\
         network.bind_address.set = {ip}\n\
         network.local_address.set = {ip}\n\
         network.port_range.set = {PORT}-{PORT}\n\
         network.port_random.set = no\n\
         network.port_open.set = yes\n\
         dht.mode.set = disable\n\
         protocol.pex.set = no\n\
         protocol.encryption.set = none\n\
         trackers.use_udp.set = no\n\
         session.path.set = {session}\n\
         directory.default.set = {dir}\n\
         method.set_key = event.download.finished, interop, \"execute.nothrow={hook}\"\n",
        ip = job.ip,
        session = session.display(),
        dir = job.dir.display(),
        hook = hook(job)?.display()
    );
    write(&rc, &text)?;
    let mut c = Command::new("rtorrent");
    c.arg("-n").arg("-o").arg(format!("import={}", rc.display())).arg(&job.torrent).env("TERM", "dumb");
    Ok(c)
}

fn qbittorrent(job: &Job) -> Result<Command, String> {
    let profile = job.home.join("profile");
    let text = format!(
        "[LegalNotice]\nAccepted=true\n\n\
         [BitTorrent]\n\
         Session\\DefaultSavePath={dir}\n\
         Session\\Port={PORT}\n\
         Session\\DHTEnabled=false\n\
         Session\\LSDEnabled=false\n\
         Session\\PeXEnabled=false\n\
         Session\\BTProtocol=TCP\n\
         Session\\Encryption=2\n\
         Session\\Interface=lo\n\
         Session\\InterfaceName=lo\n\
         Session\\InterfaceAddress={ip}\n\
         Session\\QueueingSystemEnabled=false\n\
         Session\\MultiConnectionsPerIp=true\n\n\
         [Network]\nPortForwardingEnabled=false\n\n\
         [Preferences]\n\
         WebUI\\Enabled=true\n\
         WebUI\\Address={ip}\n\
         WebUI\\Port={RPC}\n\
         WebUI\\UseUPnP=false\n\n\
         [AutoRun]\nenabled=true\nprogram={hook}\n",
        ip = job.ip,
        dir = job.dir.display(),
        hook = hook(job)?.display()
    );
    write(&profile.join("qBittorrent/config/qBittorrent.conf"), &text)?;
    let mut c = Command::new("qbittorrent-nox");
    c.arg(format!("--profile={}", profile.display())).arg(format!("--webui-port={RPC}"));
    c.arg(format!("--save-path={}", job.dir.display()))
        .arg("--skip-dialog=true")
        .arg("--add-paused=false")
        .arg(&job.torrent);
    Ok(c)
}

/// The program that is rqbit.
pub(crate) fn rqbit_program() -> String {
    std::env::var("RQBIT").unwrap_or_else(|_| "rqbit".to_owned())
}

fn rqbit(job: &Job) -> Command {
    let mut c = Command::new(rqbit_program());
    c.args(["-v", "error", "--disable-dht", "--disable-dht-persistence", "--disable-lsd", "--ipv4-only"]);
    c.args(["--disable-upnp-port-forward", "--listen-ip", &job.ip, "--listen-port", &PORT.to_string()]);
    c.args(["--http-api-listen-addr", &format!("{}:{RPC}", job.ip), "download", "--overwrite", "-o"]);
    // It adds no folder for several files when it is given one.
    c.arg(&job.dir).arg(&job.torrent);
    c
}
