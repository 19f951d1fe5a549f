//! How much memory the machine, or the control group we are in, leaves us.
//!
//! The smallest of these counts: the machine's memory (`/proc/meminfo`), the limit of our control
//! group and of those it is in (`memory.max` of version 2, `memory.limit_in_bytes` of version 1).
//! An eighth of it is our budget, [`LoopConfig::MEMORY`] at most; where nothing can be read, that.
//! Nothing is watched: a limit that changes later is not noticed.

use std::path::{Path, PathBuf};

use crate::net::LoopConfig;

/// Our share of what there is.
const SHARE: u64 = 8;

/// The budget for buffers, windows and queues, in bytes.
pub(super) fn budget() -> usize {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    of(available(&read))
}

fn of(available: Option<u64>) -> usize {
    let share = available.map_or(u64::MAX, |n| n / SHARE);
    usize::try_from(share).unwrap_or(usize::MAX).clamp(LoopConfig::MEMORY_LEAST, LoopConfig::MEMORY)
}

/// Bytes of memory there are for us; `None` when nothing says.
fn available(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(limit_files).filter_map(|p| read(&p)?.trim().parse().ok());
    limits.chain(read(Path::new("/proc/meminfo")).as_deref().and_then(total)).min()
}

/// Where the limits of a line of `/proc/self/cgroup` are: of that group and of all around it.
fn limit_files(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        c if c.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|g| Path::new(root).join(g).join(file)).collect()
}

/// `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> Option<u64> {
        available(&|p| files.iter().find(|(name, _)| Path::new(name) == p).map(|(_, text)| (*text).into()))
    }

    #[test]
    fn the_smallest_limit_counts() {
        let mem = ("/proc/meminfo", "MemTotal:       65536 kB\nMemFree: 1 kB\n");
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[mem]), Some(64 << 20));
        let two = ("/proc/self/cgroup", "0::/a/b\n");
        assert_eq!(with(&[mem, two, ("/sys/fs/cgroup/a/b/memory.max", "max\n")]), Some(64 << 20));
        assert_eq!(with(&[mem, two, ("/sys/fs/cgroup/a/memory.max", "1000\n")]), Some(1000), "the group around ours");
        let one = ("/proc/self/cgroup", "3:cpu:/x\n2:memory:/x\n");
        let limit = ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "16777216\n");
        assert_eq!(with(&[mem, one, limit]), Some(16 << 20));
    }

    #[test]
    fn a_budget_is_a_share_within_bounds() {
        assert_eq!(of(None), LoopConfig::MEMORY);
        assert_eq!(of(Some(64 << 20)), 8 << 20);
        assert_eq!(of(Some(100)), LoopConfig::MEMORY_LEAST);
    }
}
