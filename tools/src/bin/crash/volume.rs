//! A volume whose power can be cut: an image in a file, mounted through a loop device.
//!
//! The cut is the file system's own shutdown without flushing its log: what had not reached the device is gone, and
//! nothing more reaches it. What the device has is what the next mount finds. It does not model a drive
//! that lies about its cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tools::process::wait_for;

/// Bytes of the image, sparse: no less makes an XFS.
const SIZE: u64 = 400 << 20;

/// See the module's head.
pub(crate) struct Volume {
    pub(crate) kind: &'static str,
    image: PathBuf,
    /// Where it is mounted.
    pub(crate) dir: PathBuf,
}

fn tool(name: &str, args: &[&str]) -> Result<(), String> {
    let out = Command::new(name).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or(format!("{}: not UTF-8", path.display()))
}

impl Volume {
    /// Makes a file system of this kind, and mounts it.
    pub(crate) fn new(work: &Path, kind: &'static str) -> Result<Self, String> {
        let (image, dir) = (work.join(format!("{kind}.img")), work.join(kind));
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let file = fs::File::create(&image).map_err(|e| format!("{}: {e}", image.display()))?;
        file.set_len(SIZE).map_err(|e| format!("{}: {e}", image.display()))?;
        tool(&format!("mkfs.{kind}"), &["-q", text(&image)?])?;
        let volume = Self { kind, image, dir };
        volume.mount()?;
        Ok(volume)
    }

    /// The number the system gave this mount, which it may give again.
    fn id(&self) -> Option<u64> {
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let here = self.dir.to_str()?;
        let line = table.lines().find(|l| l.split(' ').nth(4) == Some(here))?;
        line.split(' ').next()?.parse().ok()
    }

    fn mount(&self) -> Result<(), String> {
        tool("mount", &["-o", "loop", text(&self.image)?, text(&self.dir)?])
    }

    /// The power fails.
    pub(crate) fn cut(&self) -> Result<(), String> {
        tool("xfs_io", &["-x", "-c", "shutdown", text(&self.dir)?])
    }

    /// The power is back. Whoever had files open must be gone. Whether the mount has the number it had before.
    pub(crate) fn mount_again(&self) -> Result<bool, String> {
        let before = self.id();
        let mut last = String::new();
        let unmounted = wait_for(Duration::from_secs(20), || match self.unmount() {
            Ok(()) => Some(()),
            Err(e) => {
                last = e;
                None
            }
        });
        unmounted.ok_or(last)?;
        self.mount()?;
        Ok(before.is_some() && self.id() == before)
    }

    fn unmount(&self) -> Result<(), String> {
        tool("umount", &[text(&self.dir)?])
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(e) = self.unmount() {
            eprintln!("{}: {e}", self.dir.display());
        }
    }
}
