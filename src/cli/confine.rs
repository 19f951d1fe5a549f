//! Privileges: none are gained, files out of the way cannot be reached, and root is told that it need not be.
//!
//! Before the loop is made, and with it any other thread:
//!
//! - `no_new_privs`: nothing this process could be made to execute gains rights by a set-user-id bit or file
//!   capabilities.
//! - [`landlock`](super::landlock): of all files it reaches its download folder and its state folder (no execution, no
//!   links or devices made) and, to read, what name lookup and TLS need. Torrents and the log are open by then.
//!
//! **Name lookup.** A `resolv.conf` is usually replaced, not changed, so its folder is what may be read. When that is
//! `/etc` itself, root gets the file alone, since `/etc` has secrets that nothing but their mode keeps from it.
//!
//! **Volumes that come and go.** What may be reached is bound to the folder that is there now. A volume that is
//! unmounted and mounted again would be out of reach and could not be resumed, so for a folder on a volume of its own
//! the rule is made for the folder that the volume is mounted in, if that is no place of the system or of its user.
//!
//! **A download folder that is not there** is made now, as it would be a moment later; but if the torrents are known
//! from an earlier run, it is missed, perhaps a volume that is not mounted, and is not made: then all below
//! the nearest folder that exists can be reached.
//!
//! Where the kernel has nothing of this, a warning says so. `--no-sandbox` leaves everything alone.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::escape;

/// What a download needs to reach.
pub(super) struct Needs<'a> {
    /// The download folders. The flag: every torrent in it is known from an earlier run.
    pub(super) dirs: &'a [(PathBuf, bool)],
    /// The state folder.
    pub(super) state: Option<&'a Path>,
}

/// What name lookup, TLS and the start of the state folder read besides `resolv.conf`.
const SYSTEM: [&str; 13] = [
    "/dev/urandom",
    "/proc/sys/kernel/random/boot_id",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/ssl/ca-bundle.pem",
    "/usr/local/etc/ssl/cert.pem",
];
/// Says where the roots of TLS are, if not in the usual places.
const TLS_ROOTS: &str = "SSL_CERT_FILE";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Folders that no rule is made for on behalf of a volume that is mounted in them.
const NOT_FOR_VOLUMES: [&str; 12] =
    ["/", "/boot", "/dev", "/etc", "/home", "/opt", "/proc", "/root", "/run", "/sys", "/usr", "/var"];

/// Gives up what a download does not need.
pub(super) fn confine(sandbox: bool, needs: &Needs<'_>) {
    let root = rustix::process::geteuid().is_root();
    if root {
        log::warn!("running as root: a user of its own would be safer");
    }
    if !sandbox {
        return;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        if let Err(e) = rustix::thread::set_no_new_privs(true) {
            log::warn!("this kernel cannot confine the process: {e}");
            return;
        }
        let places = places(needs, root);
        match super::landlock::restrict(places.iter().map(|(p, rights)| (p.as_path(), *rights))) {
            Ok(version) => log::info!("confined to its folders by Landlock, version {version}"),
            Err(e) => log::warn!("this kernel has no Landlock ({e}): all files of this user can be reached"),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    log::warn!("no sandbox on this system: all files of this user can be reached");
}

/// Every place that is left open, with the rights there.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn places(needs: &Needs<'_>, root: bool) -> Vec<(PathBuf, u64)> {
    use super::landlock::{READ, STORE};
    let mut places: Vec<_> = needs.dirs.iter().map(|(dir, known)| (storage(dir, *known), STORE)).collect();
    places.extend(needs.state.map(|dir| (dir.to_owned(), STORE)));
    places.extend(SYSTEM.iter().map(|p| (PathBuf::from(p), READ)));
    places.extend(std::env::var_os(TLS_ROOTS).map(|p| (p.into(), READ)));
    let resolv_conf = std::fs::canonicalize(RESOLV_CONF).unwrap_or_else(|_| RESOLV_CONF.into());
    places.push((readable(&resolv_conf, root), READ));
    places
}

/// Where `resolv.conf` may be read, given where it is.
fn readable(file: &Path, root: bool) -> PathBuf {
    match file.parent() {
        Some(dir) if dir != Path::new("/etc") || !root => dir.to_owned(),
        _ => file.to_owned(),
    }
}

/// The folder whose files are written.
fn storage(wanted: &Path, known: bool) -> PathBuf {
    if !known && !wanted.exists() {
        // When it fails, so it will when it is next tried, and is told then.
        let _ = std::fs::create_dir_all(wanted);
    }
    let found = wanted.ancestors().find(|p| p.exists()).filter(|p| !p.as_os_str().is_empty());
    let dir = std::fs::canonicalize(found.unwrap_or(Path::new("."))).unwrap_or_else(|_| wanted.to_owned());
    if found != Some(wanted) {
        log::warn!("{} is not there: the sandbox leaves all of {} open", shown(wanted), shown(&dir));
    }
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    beside_volumes(&dir, &mounts, home.as_deref())
}

fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy()).into_owned()
}

/// `dir`, or the folder that its volume is mounted in.
fn beside_volumes(dir: &Path, mountinfo: &[u8], home: Option<&Path>) -> PathBuf {
    let mounts = mountinfo.split(|b| *b == b'\n').filter_map(mount_point);
    let volume = mounts.filter(|m| dir.starts_with(m)).max_by_key(|m| m.as_os_str().len());
    let outer = volume.as_deref().and_then(Path::parent).filter(|outer| {
        !NOT_FOR_VOLUMES.iter().any(|p| *outer == Path::new(p)) && !home.is_some_and(|h| h.starts_with(outer))
    });
    outer.unwrap_or(dir).to_owned()
}

/// The fifth field of a line of mountinfo: octal escapes stand for blanks and backslashes.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|b| *b == b' ').nth(4)?;
    let (mut out, mut rest) = (Vec::new(), field);
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(|c| std::str::from_utf8(c).ok());
        match code.and_then(|c| u8::from_str_radix(c, 8).ok()) {
            Some(byte) => (out, rest) = ([&out[..], &[byte]].concat(), &tail[3..]),
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    Some(OsString::from_vec(out).into())
}

/// The torrents that the state folder has something of: their hashes, as its names begin with them.
pub(super) fn known(state: Option<&Path>) -> BTreeSet<OsString> {
    let entries = state.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let before_dot = |name: OsString| name.as_bytes().split(|b| *b == b'.').next().map(<[u8]>::to_vec);
    entries.filter_map(|e| before_dot(e.file_name())).map(OsString::from_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_that_come_and_go() {
        let mounts = b"21 1 8:1 / / rw - ext4 /dev/a rw\n\
            22 21 8:2 / /mnt/my\\040disk rw - ext4 /dev/b rw\n\
            23 21 8:3 / /home/eve/usb rw - vfat /dev/c rw\n\
            24 21 8:4 / /data rw - ext4 /dev/d rw\n\
            25 21 8:5 / /media/x rw - ext4 /dev/e rw\n";
        let of = |dir: &str| beside_volumes(Path::new(dir), mounts, Some(Path::new("/home/eve")));
        assert_eq!(of("/srv/torrents"), Path::new("/srv/torrents"), "on the root file system");
        assert_eq!(of("/mnt/my disk/a/b"), Path::new("/mnt"));
        assert_eq!(of("/mnt/my diskette/a"), Path::new("/mnt/my diskette/a"));
        assert_eq!(of("/media/x"), Path::new("/media"));
        assert_eq!(of("/home/eve/usb/t"), Path::new("/home/eve/usb/t"), "a home is not laid open");
        assert_eq!(of("/data/t"), Path::new("/data/t"), "nor the root");
        assert_eq!(beside_volumes(Path::new("/x"), b"odd\n", None), Path::new("/x"));
    }

    #[test]
    fn a_resolv_conf_is_read_by_way_of_its_folder() {
        let stub = Path::new("/run/systemd/resolve/stub-resolv.conf");
        assert_eq!(readable(stub, true), Path::new("/run/systemd/resolve"));
        assert_eq!(readable(Path::new(RESOLV_CONF), true), Path::new(RESOLV_CONF));
        assert_eq!(readable(Path::new(RESOLV_CONF), false), Path::new("/etc"));
    }

    #[test]
    fn what_the_state_folder_knows() {
        let dir = std::env::temp_dir().join(format!("btmio-known-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        for name in ["aa.have", "aa.resume", "bb.torrent", "lock"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        let found = known(Some(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["aa", "bb", "lock"]);
        assert!(known(Some(&dir)).is_empty() && known(None).is_empty());
    }
}
