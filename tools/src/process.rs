//! Child processes that never outlive their owner, and bounded waiting.
//!
//! A [`Child`] writes its output to a file (so that a failure can show its tail and nothing blocks on
//! a full pipe), is asked to leave with SIGTERM when dropped, and is killed by its process id when it
//! does not leave in time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a condition is looked at while waiting for it.
const STEP: Duration = Duration::from_millis(50);

/// A running program whose output goes to files.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    name: String,
    /// What it wrote to standard output.
    pub stdout: PathBuf,
    /// What it wrote to standard error.
    pub stderr: PathBuf,
}

impl Child {
    /// Starts `command`; output goes to `NAME.out` and `NAME.err` in `dir`.
    pub fn spawn(name: &str, dir: &Path, mut command: Command) -> io::Result<Self> {
        let (stdout, stderr) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", command.get_program().to_string_lossy())))?;
        Ok(Self { child, name: name.to_owned(), stdout, stderr })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal by name, as `kill` knows it.
    pub fn signal(&self, signal: &str) {
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
    }

    /// Waits at most `timeout` for the end.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        wait_for(timeout, || self.exited())
    }

    /// Asks it to leave, waits, kills.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if let Some(status) = self.exited() {
            return Some(status);
        }
        self.signal("TERM");
        if let Some(status) = self.wait(Duration::from_secs(3)) {
            return Some(status);
        }
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    /// Everything on standard output so far.
    pub fn output(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// The end of both outputs, for a report of a failure.
    pub fn tail(&self) -> String {
        let tail = |path: &Path| {
            let text = read_lossy(path);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..]
                .iter()
                .map(|l| format!("    {} | {l}\n", self.name))
                .collect::<String>()
        };
        tail(&self.stdout) + &tail(&self.stderr)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// Asks `check` until it has an answer, at most for `timeout`; it is asked at least once.
pub fn wait_for<T>(timeout: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(found) = check() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

/// Builds a program of the workspace in the profile and target folder this program was built in, and
/// returns its path.
///
/// Cargo decides whether there is anything to do, so that one left from an older commit is never used.
/// A variable in the environment (`BTMIO` for `btmio`) names another binary.
/// Without cargo, the one beside this program is taken.
pub fn program(name: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return Ok(path.into());
    }
    let me = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
    let beside = me.parent().expect("a program lies in a folder").to_owned();
    let binary = beside.join(name);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let profile = beside.file_name().and_then(|n| n.to_str()).unwrap_or("release");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--workspace", "--quiet", "--bin", name]);
    cargo.args(["--profile", if profile == "debug" { "dev" } else { profile }]);
    cargo.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(beside.join(".."));
    // `cargo run` says here which package it runs. A build script that is asked again whenever that changes would
    // have much of the tree compiled anew, now and by the next `cargo run`.
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|k| k.starts_with("CARGO_PKG_") || k.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(key);
        }
    }
    match cargo.status() {
        Ok(status) if status.success() => Ok(binary),
        Ok(status) => Err(format!("building {name}: cargo ended with {status}")),
        Err(_) if binary.exists() => Ok(binary),
        Err(e) => Err(format!("no {name} beside {}, and cargo does not start: {e}", me.display())),
    }
}
