//! A disk that is slow, hangs or fails when told to: a FUSE file below a loop device, where no device mapper is needed.
//!
//! The file system is served by a process of its own. In the process whose thread waits for the disk, nothing could
//! be ended before the disk answers, the disk least of all. It is this program again: its `main` calls
//! [`serve_if_asked`] first.

mod fuse;

use fuse::{Disk, Faults, NAME};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::process::wait_for;

/// The word that makes a program serve a disk.
const WORD: &str = "serve-bad-disk";

/// A disk, as a block device. It is gone when dropped; what is mounted on it has to be taken off before.
#[derive(Debug)]
pub struct BadDisk {
    child: Child,
    told: Option<ChildStdin>,
    at: PathBuf,
    device: Option<String>,
}

impl BadDisk {
    /// Makes one of `size` bytes; its file appears in the folder `at`. Wants root.
    pub fn new(at: &Path, size: u64) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|e| format!("{}: {e}", at.display()))?;
        let me = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
        let mut command = Command::new(me);
        command.arg(WORD).arg(at).arg(size.to_string()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("serving a bad disk: {e}"))?;
        let told = child.stdin.take();
        let mut disk = Self { child, told, at: at.to_owned(), device: None };
        let file = at.join(NAME);
        wait_for(Duration::from_secs(10), || match disk.child.try_wait() {
            Ok(None) => file.exists().then_some(Ok(())),
            ended => Some(Err(format!("it ended: {ended:?}"))),
        })
        .unwrap_or(Err("it does not appear".into()))
        .map_err(|e| format!("no bad disk in {}: {e}", at.display()))?;
        let args = ["--find", "--show"];
        let out = Command::new("losetup").args(args).arg(file).output().map_err(|e| format!("losetup: {e}"))?;
        if !out.status.success() {
            return Err(format!("losetup: {}", String::from_utf8_lossy(&out.stderr).trim()));
        }
        disk.device = Some(String::from_utf8_lossy(&out.stdout).trim().to_owned());
        Ok(disk)
    }

    /// The block device.
    pub fn device(&self) -> &str {
        self.device.as_deref().unwrap_or_default()
    }

    /// Tells it to behave so from now on: `wbps N` and `rbps N` (bytes a second, 0 for no limit), `weio`, `reio` and
    /// `hang` (0 or 1).
    pub fn tell(&mut self, name: &str, value: u64) -> Result<(), String> {
        let told = self.told.as_mut().ok_or("the bad disk is gone")?;
        writeln!(told, "{name} {value}").map_err(|e| format!("telling the bad disk: {e}"))
    }

    /// Lets at most so many bytes wait in memory to be written to it, as a machine with little of it would.
    pub fn cap_dirty(&self, bytes: u64) -> Result<(), String> {
        let name = self.device().trim_start_matches("/dev/");
        let dir = Path::new("/sys/block").join(name).join("bdi");
        for (file, value) in [("strict_limit", 1), ("max_bytes", bytes)] {
            let path = dir.join(file);
            fs::write(&path, value.to_string()).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        for name in ["hang", "weio", "reio", "wbps", "rbps"] {
            let _ = self.tell(name, 0);
        }
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
        let off = || Command::new("umount").arg(&self.at).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        wait_for(Duration::from_secs(5), || off().then_some(()));
        // Its input ends, and so does it.
        self.told = None;
        let child = &mut self.child;
        if wait_for(Duration::from_secs(5), || child.try_wait().ok().flatten()).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Serves a disk, and never returns, when that is what this process was started for.
pub fn serve_if_asked() {
    let args: Vec<_> = std::env::args().collect();
    let [_, word, at, size] = &args[..] else { return };
    if word != WORD {
        return;
    }
    if let Err(e) = serve(Path::new(at), size) {
        eprintln!("bad disk in {at}: {e}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn serve(at: &Path, size: &str) -> io::Result<()> {
    let size = size.parse().map_err(|_| io::Error::other(format!("wanted a size, got '{size}'")))?;
    let kernel: File = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    fuse::mount(&kernel, at)?;
    let faults = Arc::new(Faults::default());
    let disk = Disk::new(size, Arc::clone(&faults));
    std::thread::spawn(move || disk.serve(&kernel));
    for line in io::stdin().lock().lines() {
        let line = line?;
        let Some((name, value)) = line.split_once(' ').and_then(|(n, v)| Some((n, v.parse::<u64>().ok()?))) else {
            return Err(io::Error::other(format!("wanted a name and a number, got '{line}'")));
        };
        match name {
            "wbps" => faults.wbps.store(value, Ordering::Relaxed),
            "rbps" => faults.rbps.store(value, Ordering::Relaxed),
            "weio" => faults.weio.store(value > 0, Ordering::Relaxed),
            "reio" => faults.reio.store(value > 0, Ordering::Relaxed),
            "hang" => faults.hang.store(value > 0, Ordering::Relaxed),
            _ => return Err(io::Error::other(format!("'{name}' is nothing a disk does"))),
        }
    }
    Ok(())
}
