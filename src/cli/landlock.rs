//! Landlock: a Linux process takes file access away from itself, for good.
//!
//! Rights that are *handled* are denied everywhere but below the places they are granted for. What a kernel does
//! not know yet is left out, so that the newest one is used as far as the one at hand goes:
//!
//! | version | adds |
//! |---|---|
//! | 1 (Linux 5.13) | opening, listing, making and removing; executing |
//! | 2, 3, 5 | moving between folders; truncating; commands to devices |
//! | 6 | no signals and no abstract sockets to processes outside |
//!
//! TCP ports (version 4) are left alone: whom a peer-to-peer program dials cannot be said beforehand.
//! A descriptor that is open stays as it is. The calling *thread* is confined, and every thread and process that it
//! starts from then on: call it before there is a second one. Policy is in [`confine`](super::confine).
//!
//! # Contract of the unsafe code
//!
//! Three system calls that neither the standard library nor rustix has. Each is passed structures of ours, with
//! their size, that outlive it, and descriptors that are open; the returned descriptor is owned at once.
//!
//! <https://docs.kernel.org/userspace-api/landlock.html>
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_BLOCK: u64 = 1 << 11;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

const VERSION_1: u64 = EXECUTE
    | WRITE_FILE
    | READ_FILE
    | READ_DIR
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_CHAR
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_BLOCK
    | MAKE_SYM;

/// Rights that mean something for a file rather than a folder.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// Plain files and folders may be read, written, made and removed: nothing is executed, no links and devices made.
pub(super) const STORE: u64 =
    READ_FILE | WRITE_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE;
/// May be read.
pub(super) const READ: u64 = READ_FILE | READ_DIR;

const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

#[repr(C)]
struct RulesetAttr {
    handled_fs: u64,
    handled_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed: u64,
    parent_fd: i32,
}

/// The rights on files that a version knows.
fn handled(version: u32) -> u64 {
    let since = [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)];
    since.iter().filter(|(v, _)| version >= *v).fold(VERSION_1, |all, (_, right)| all | right)
}

fn check(r: libc::c_long) -> io::Result<libc::c_int> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(libc::c_int::try_from(r).unwrap_or(libc::c_int::MAX)) }
}

/// The version of this kernel's.
///
/// # Errors
/// It has none, or it is switched off.
fn version() -> io::Result<u32> {
    // SAFETY: no structure is passed; the call answers with a number.
    let r = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    check(r).map(|v| v.unsigned_abs())
}

/// From now on this thread, and what it starts, reaches files only at these places (a file, or all below a folder),
/// each with its rights. Places that do not exist are left out. Returns the version that holds.
///
/// # Errors
/// The kernel cannot: nothing has changed. `no_new_privs` must be set.
pub(super) fn restrict<'p>(places: impl IntoIterator<Item = (&'p Path, u64)>) -> io::Result<u32> {
    let version = version()?;
    let handled = handled(version);
    let attr = RulesetAttr {
        handled_fs: handled,
        handled_net: 0,
        scoped: if version >= 6 { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 },
    };
    // An older kernel is not shown fields it does not know.
    let size = match version {
        ..4 => 8usize,
        4..6 => 16,
        _ => 24,
    };
    // SAFETY: `attr` is ours and at least `size` bytes long; the result is owned at once.
    let rules = unsafe {
        let fd = check(libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0u32))?;
        OwnedFd::from_raw_fd(fd)
    };
    for (path, rights) in places {
        let place = match OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path) {
            Ok(place) => place,
            Err(e) => {
                log::debug!("not among the places left open: {}: {e}", path.display());
                continue;
            }
        };
        let kind = if place.metadata()?.is_dir() { u64::MAX } else { OF_FILES };
        let rule = PathBeneathAttr { allowed: rights & kind & handled, parent_fd: place.as_raw_fd() };
        // SAFETY: both descriptors are open, `rule` is ours and of the kind that is told.
        check(unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, 0u32)
        })?;
    }
    // SAFETY: an open descriptor and a number.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) })?;
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    #[test]
    fn rights_follow_the_version() {
        assert_eq!(handled(1).count_ones(), 13);
        assert_eq!((handled(2), handled(3), handled(4)), (0x3fff, 0x7fff, 0x7fff));
        assert_eq!((handled(5), handled(7)), (0xffff, 0xffff));
        assert_eq!(STORE & (EXECUTE | MAKE_SYM | MAKE_FIFO | MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK), 0);
    }

    /// What a confined thread may still do. It is the thread that is confined, so this process goes on as it was.
    #[test]
    fn a_confined_thread_reaches_its_places_and_nothing_else() {
        if let Err(e) = version() {
            println!("not tested: this kernel has no Landlock ({e})");
            return;
        }
        let root = std::env::temp_dir().join(format!("btmio-landlock-{}", std::process::id()));
        let (save, outside) = (root.join("save"), root.join("outside"));
        fs::create_dir_all(&save).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), "s").unwrap();
        fs::write(root.join("conf"), "c").unwrap();
        fs::write(save.join("program"), "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(save.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(outside.join("secret"), save.join("link")).unwrap();
        let already_open = fs::File::open(outside.join("secret")).unwrap();
        assert!(Command::new(save.join("program")).status().unwrap().success());
        std::thread::scope(|s| {
            let confined = s.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                let (conf, absent) = (root.join("conf"), root.join("absent"));
                restrict([(&*save, STORE), (&*conf, READ), (&*absent, STORE)]).unwrap();
                let denied = |r: io::Result<()>| assert_eq!(r.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
                // Outside: nothing is read, written, listed, made or removed, by no way round.
                denied(fs::read(outside.join("secret")).map(drop));
                denied(fs::read(save.join("link")).map(drop));
                denied(fs::read(save.join("../outside/secret")).map(drop));
                denied(fs::write(outside.join("new"), "x"));
                denied(fs::write(root.join("conf"), "x"));
                denied(fs::read_dir(&outside).map(drop));
                denied(fs::create_dir(outside.join("d")));
                denied(fs::remove_file(outside.join("secret")));
                denied(fs::read("/etc/passwd").map(drop));
                // Inside: everything that a download needs.
                assert_eq!(fs::read(root.join("conf")).unwrap(), b"c");
                fs::create_dir_all(save.join("a/b")).unwrap();
                fs::write(save.join("a/b/f"), "data").unwrap();
                fs::OpenOptions::new().write(true).open(save.join("a/b/f")).unwrap().set_len(2).unwrap();
                assert_eq!(fs::read(save.join("a/b/f")).unwrap(), b"da");
                fs::rename(save.join("a/b/f"), save.join("a/b/g")).unwrap();
                assert_eq!(fs::read_dir(save.join("a/b")).unwrap().count(), 1);
                fs::remove_dir_all(save.join("a")).unwrap();
                // But no links, and nothing is executed, by a child either.
                denied(symlink("x", save.join("l")));
                denied(Command::new(save.join("program")).status().map(drop));
                denied(Command::new("/bin/true").status().map(drop));
                // What was open stays open.
                io::Read::read_to_string(&mut &already_open, &mut String::new()).unwrap();
            });
            confined.join().unwrap();
        });
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"s", "this thread is not confined");
        fs::remove_dir_all(root).unwrap();
    }
}
