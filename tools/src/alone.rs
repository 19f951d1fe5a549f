//! Mounts and a network that nobody else sees.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Says that the program has them already.
const ALONE: &str = "BTMIO_ALONE";

/// Starts this program again in namespaces of its own, with these variables in its environment; there it only
/// wakes the loopback interface and returns. Wants root.
///
/// Without that, a namespace that another program makes would copy the mounts made here and keep them alive: a
/// volume that was taken off and mounted again would be the same old one.
pub fn alone(vars: &[(&str, &OsStr)]) -> Result<(), String> {
    if std::env::var_os(ALONE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).output().map_err(|e| format!("ip: {e}"))?;
        return match up.status.success() {
            true => Ok(()),
            false => Err(format!("ip: {}", String::from_utf8_lossy(&up.stderr).trim())),
        };
    }
    if !rustix::process::geteuid().is_root() {
        return Err("wanted root, for mounts and a network of its own".into());
    }
    let me = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
    let mut again = Command::new("unshare");
    again.args(["--mount", "--net", "--propagation", "private"]).arg(me).args(std::env::args_os().skip(1));
    Err(format!("unshare: {}", again.env(ALONE, "1").envs(vars.iter().copied()).exec()))
}
