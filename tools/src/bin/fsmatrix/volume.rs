//! Volumes to break: images on loop devices, or a bad disk where the device has to fail.

use crate::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tools::bad_disk::BadDisk;
use tools::process::wait_for;

/// Bytes of an image: the least that mkfs.xfs takes, and then some.
const IMAGE: u64 = 400 << 20;

/// What kind of volume.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
    Overlay,
    Ntfs,
}

/// What happens to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Full,
    Truncated,
    Eio,
    Shutdown,
    ReadOnly,
    Slow,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [Self::Tmpfs, Self::Ext4, Self::Xfs, Self::Btrfs, Self::Overlay, Self::Ntfs];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Overlay => "overlay",
            Self::Ntfs => "ntfs-3g",
        }
    }
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Full, Self::Truncated, Self::Eio, Self::Shutdown, Self::ReadOnly, Self::Slow];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Truncated => "truncated",
            Self::Eio => "eio",
            Self::Shutdown => "shut-down",
            Self::ReadOnly => "read-only",
            Self::Slow => "slow",
        }
    }

    /// It is there before the first byte.
    pub(crate) const fn comes_first(self) -> bool {
        matches!(self, Self::Full | Self::ReadOnly)
    }

    /// What an error has to say, one of these.
    pub(crate) const fn causes(self) -> &'static [&'static str] {
        match self {
            Self::Full => &["no space left"],
            Self::Truncated => &["shorter than it should be"],
            // Most file systems allow no more writing once the device has failed.
            Self::Eio => &["the device failed", "read-only"],
            Self::Shutdown => &["the device failed", "is missing", "not mounted"],
            Self::ReadOnly => &["read-only"],
            Self::Slow => &[],
        }
    }
}

/// A mounted volume; unmounted when dropped.
pub(crate) struct Volume {
    kind: Kind,
    fault: Fault,
    image: PathBuf,
    /// In place of the image, where the device is to fail.
    disk: Option<BadDisk>,
    /// What an overlay lies on.
    below: Option<PathBuf>,
    at: PathBuf,
}

/// Runs a command; its words when it fails.
fn run(program: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output();
    let out = out.map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim().replace('\n', "; "))) }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

impl Volume {
    /// Makes and mounts one; the reason why that fault cannot be had on it.
    pub(crate) fn make(kind: Kind, fault: Fault, scratch: &Path) -> Result<Self> {
        let image = scratch.join("image");
        let at = scratch.join("volume");
        let below = (kind == Kind::Overlay).then(|| scratch.join("below"));
        let _ = fs::remove_file(&image);
        for dir in below.iter().chain([&at]) {
            fs::create_dir_all(dir).map_err(super::text)?;
        }
        match (kind, fault) {
            (Kind::Tmpfs, Fault::Eio | Fault::Slow) => return Err("has no device that could fail".into()),
            (_, Fault::Eio | Fault::Slow) => {}
            (Kind::Ext4 | Kind::Xfs | Kind::Overlay, Fault::Shutdown) | (_, Fault::Full | Fault::Truncated) => {}
            (_, Fault::Shutdown) => return Err("has no such call".into()),
            (_, Fault::ReadOnly) => {}
        }
        let disk = match fault {
            Fault::Eio | Fault::Slow => Some(BadDisk::new(&scratch.join("disk"), IMAGE)?),
            _ => None,
        };
        let image = disk.as_ref().map_or(image, |d| d.device().into());
        let volume = Self { kind, fault, image, disk, below, at };
        volume.format()?;
        volume.mount(false)?;
        // A volume that a fault makes anew, with a number of its own, is another one, and none that is to be found again.
        for at in volume.below.iter().chain([&volume.at]) {
            run("sync", &["-f", text(at)])?;
        }
        Ok(volume)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    fn format(&self) -> Result<()> {
        let image = text(&self.image);
        if self.disk.is_none() && self.kind != Kind::Tmpfs {
            run("truncate", &["-s", &IMAGE.to_string(), image])?;
        }
        match self.kind {
            Kind::Ext4 | Kind::Overlay => run("mkfs.ext4", &["-q", "-F", image]),
            Kind::Xfs => run("mkfs.xfs", &["-q", "-f", image]),
            Kind::Btrfs => run("mkfs.btrfs", &["-q", "-f", image]),
            Kind::Ntfs => run("mkfs.ntfs", &["-q", "-f", "-F", image]),
            Kind::Tmpfs => Ok(()),
        }
    }

    fn mount(&self, read_only: bool) -> Result<()> {
        let (image, at) = (text(&self.image), text(&self.at));
        let (how, read) = if self.disk.is_some() { ("rw", "ro") } else { ("loop", "loop,ro") };
        let how = if read_only { read } else { how };
        match self.kind {
            Kind::Tmpfs => run("mount", &["-t", "tmpfs", "-o", "size=100m", "tmpfs", at]),
            Kind::Ext4 | Kind::Xfs | Kind::Btrfs => run("mount", &["-o", how, image, at]),
            Kind::Ntfs => run("mount", &["-t", "ntfs-3g", "-o", how, image, at]),
            Kind::Overlay => {
                let below = text(self.below.as_deref().unwrap_or(&self.at));
                run("mount", &["-o", how, image, below])?;
                for dir in ["lower", "upper", "work"] {
                    fs::create_dir_all(Path::new(below).join(dir)).map_err(super::text)?;
                }
                let dirs = format!("lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work");
                run("mount", &["-t", "overlay", "-o", &dirs, "overlay", at])
            }
        }
    }

    /// Takes it off. Its files may be closed a moment later.
    fn unmount(&self) -> Result<()> {
        let off = |at: &Path| {
            let done = wait_for(Duration::from_secs(5), || run("umount", &[text(at)]).ok());
            done.map_or_else(|| run("umount", &[text(at)]), Ok)
        };
        off(&self.at)?;
        self.below.as_deref().map_or(Ok(()), off)
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// The fault comes.
    pub(crate) fn break_it(&mut self, file: &Path) -> Result<()> {
        match self.fault {
            Fault::Full => {
                // Ends with an error, which is what is wanted.
                let mut f = fs::File::create(self.filler()).map_err(super::text)?;
                while std::io::Write::write_all(&mut f, &[7; 1 << 16]).is_ok() {}
                Ok(())
            }
            Fault::Truncated => {
                fs::OpenOptions::new().write(true).open(file).and_then(|f| f.set_len(1 << 20)).map_err(super::text)
            }
            Fault::Eio => self.tell("weio", 1),
            Fault::Slow => self.tell("wbps", 300_000),
            Fault::Shutdown => {
                let at = self.below.as_deref().unwrap_or(&self.at);
                run("xfs_io", &["-x", "-c", "shutdown", text(at)])
            }
            Fault::ReadOnly => match self.kind {
                // A FUSE mount takes no such change: it is made anew.
                Kind::Ntfs => {
                    self.unmount()?;
                    self.mount(true)
                }
                _ => run("mount", &["-o", "remount,ro", text(&self.at)]),
            },
        }
    }

    fn tell(&mut self, name: &str, value: u64) -> Result<()> {
        self.disk.as_mut().map_or(Ok(()), |d| d.tell(name, value))
    }

    /// It is repaired.
    pub(crate) fn repair(&mut self, _file: &Path) -> Result<()> {
        match self.fault {
            Fault::Full => fs::remove_file(self.filler()).map_err(super::text),
            // Nobody brings those bytes back but the torrent itself.
            Fault::Truncated => Ok(()),
            Fault::Slow => self.tell("wbps", 0),
            Fault::Eio | Fault::Shutdown => {
                self.tell("weio", 0)?;
                self.unmount()?;
                if self.kind == Kind::Ntfs {
                    // What its driver could not write may have been the half of two tables that have to agree.
                    run("ntfsfix", &[text(&self.image)])?;
                }
                self.mount(false)
            }
            Fault::ReadOnly => match self.kind {
                Kind::Ntfs => {
                    self.unmount()?;
                    self.mount(false)
                }
                _ => run("mount", &["-o", "remount,rw", text(&self.at)]),
            },
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for (name, value) in [("weio", 0), ("wbps", 0)] {
            let _ = self.tell(name, value);
        }
        for at in [Some(&self.at), self.below.as_ref()].into_iter().flatten() {
            if run("umount", &[text(at)]).is_err() {
                let _ = run("umount", &["-l", text(at)]);
            }
        }
    }
}
