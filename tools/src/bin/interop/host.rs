//! Another host of a scenario: a network namespace of its own, at the other end of a cable.

use crate::clients::on_host;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tools::process::{Child, wait_for};

/// Longest until it exists.
const START: Duration = Duration::from_secs(20);

/// Runs a program with these arguments, none of them with blanks; what it says, or what went wrong.
pub(crate) fn run(command: &str) -> Result<String, String> {
    let mut words = command.split(' ');
    let mut c = Command::new(words.next().unwrap_or_default());
    c.args(words);
    output(c).map_err(|e| format!("{command}: {e}"))
}

fn output(mut c: Command) -> Result<String, String> {
    let out = c.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
    }
}

/// See the module's head.
pub(crate) struct Host(Child);

impl Host {
    pub(crate) fn new(name: &str, dir: &Path) -> Result<Self, String> {
        let mut idle = Command::new("unshare");
        idle.args(["--net", "sleep", "300"]);
        let host = Self(Child::spawn(name, dir, idle).map_err(|e| format!("starting {e}"))?);
        let net = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
        let apart = wait_for(START, || (net(&host.id().to_string())? != net("self")?).then_some(()));
        apart.ok_or(format!("no network for {name}"))?;
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// The process whose network it is.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Runs `ip` on it.
    pub(crate) fn ip(&self, args: &str) -> Result<String, String> {
        let mut c = Command::new("ip");
        c.args(args.split(' '));
        output(on_host(self.id(), &c)).map_err(|e| format!("ip {args}, on {}: {e}", self.0.name()))
    }

    /// Lays a cable: `here` is this end, `there` the host's, which gets an address.
    pub(crate) fn cable(&self, here: &str, there: &str, address: &str) -> Result<(), String> {
        run(&format!("ip link add {here} type veth peer name {there}"))?;
        run(&format!("ip link set {there} netns {}", self.id()))?;
        run(&format!("ip link set {here} up"))?;
        self.ip(&format!("address add {address} dev {there}"))?;
        self.ip(&format!("link set {there} up")).map(drop)
    }
}
