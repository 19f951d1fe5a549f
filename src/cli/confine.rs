//! Privileges: none are gained, and root is told that it need not be.
//!
//! `no_new_privs` is set before the loop starts its work: nothing this process could be made to execute
//! gains rights by a set-user-id bit or file capabilities. It costs nothing, because btmio executes
//! nothing. Where the kernel has no such thing, a warning says so. `--no-sandbox` leaves it alone.

/// Gives up what a download does not need.
pub(super) fn confine(sandbox: bool) {
    #[cfg(unix)]
    if rustix::process::geteuid().is_root() {
        log::warn!("running as root: a user of its own would be safer");
    }
    if !sandbox {
        return;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(e) = rustix::thread::set_no_new_privs(true) {
        log::warn!("this kernel cannot confine the process: {e}");
    }
}
