//! T61 of the list of threats: what a program does to the loop that it embeds. It closes descriptors that are not its
//! own, forks, has views of its own on signals, and drops the loop in the midst of a transfer.
//!
//! Each happens in a process of its own, which is this test again, and which must end by itself.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "closing descriptors, forking and handling signals take system calls")]

mod common;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use btmio::api::{Add, State};
use btmio::storage::guard;
use common::{Background, Node, Sample, Temp, until};

/// Where the process is told its seed's port and its folder.
const TOLD: &str = "BTMIO_TEST_EMBEDDING";

/// Runs one of the tests below, with somebody who seeds the sample slowly.
fn run(test: &str, expected: i32) {
    let temp = Temp::new();
    let seed = Background::seed(&sample(), temp.path("seed"), Some(4 << 20));
    let me = std::env::current_exe().expect("this test");
    let mut command = Command::new(me);
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(TOLD, format!("{} {}", seed.port(), temp.path("down").display()));
    let out = command.output().expect("it runs");
    assert_eq!(out.status.code(), Some(expected), "{out:?}");
}

fn sample() -> Sample {
    Sample::new("embedded", 64 << 10, &[("a.bin", 4 << 20), ("b.bin", 4 << 20)])
}

/// What this process was told; `None` when it is not one of those.
fn told() -> Option<(SocketAddr, PathBuf)> {
    let told = std::env::var(TOLD).ok()?;
    let (port, dir) = told.split_once(' ').expect("two words");
    Some((SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port"))), dir.into()))
}

/// A loop that has begun to fetch the sample: a third is there.
fn begun(seed: SocketAddr, dir: &std::path::Path) -> (Node, btmio::id::TorrentKey) {
    let mut node = Node::remembering(dir.join("state"));
    let key = node.lp.add(Add { peers: vec![seed], ..Add::new(sample().meta(), dir) }).expect("added");
    until(&mut [&mut node], |n| n[0].status(key).have > sample().size() / 3);
    (node, key)
}

/// Descriptors beyond the standard ones, with what they are of.
fn descriptors() -> Vec<(i32, PathBuf)> {
    let all = fs::read_dir("/proc/self/fd").expect("Linux").map(|e| e.expect("an entry").path());
    // That of the listing itself is gone by then.
    let all: Vec<_> =
        all.filter_map(|p| Some((p.file_name()?.to_str()?.parse().ok()?, fs::read_link(&p).ok()?))).collect();
    all.into_iter().filter(|(fd, to)| *fd > 2 && !to.starts_with("/proc")).collect()
}

#[test]
fn t61_the_host_closes_all_descriptors() {
    run("closes_all", 0);
}

#[test]
#[ignore = "the test before runs it, in a process of its own"]
fn closes_all() {
    let Some((seed, dir)) = told() else { return };
    let before = descriptors();
    let (mut node, _) = begun(seed, &dir);
    for (fd, _) in descriptors().iter().filter(|d| !before.contains(d)) {
        // SAFETY: it breaks what the loop believes of this descriptor, which is what is tested: it gets errors.
        unsafe { libc::close(*fd) };
    }
    // The loop itself is broken, and says so each time.
    for _ in 0..3 {
        let error = node.lp.turn(Some(Duration::ZERO)).expect_err("it is broken");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
    // With debug assertions the standard library ends a process that closes what is closed, as this would.
    std::mem::forget(node);
}

#[test]
fn t61_the_host_closes_descriptors_and_opens_something_else() {
    run("takes_over", 0);
}

#[test]
#[ignore = "the test before runs it, in a process of its own"]
fn takes_over() {
    let Some((seed, dir)) = told() else { return };
    let null = fs::File::options().read(true).write(true).open("/dev/null").expect("Unix");
    let before = descriptors();
    let (mut node, key) = begun(seed, &dir);
    let take_over = |fd: i32| {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), fd) }, fd, "{}", io::Error::last_os_error());
    };
    let (poll, others): (Vec<_>, Vec<_>) = descriptors()
        .into_iter()
        .filter(|d| !before.contains(d))
        .partition(|(_, to)| to.to_string_lossy().contains("eventpoll"));
    assert!(!poll.is_empty() && others.len() > 3, "{poll:?} {others:?}");
    // Sockets, files, folders: peers are lost and files fail, the loop turns and obeys.
    others.iter().for_each(|(fd, _)| take_over(*fd));
    for _ in 0..200 {
        node.turn();
    }
    node.lp.remove(key, false).expect("it is there");
    node.turn();
    assert_eq!(node.lp.session().torrents().count(), 0);
    poll.iter().for_each(|(fd, _)| take_over(*fd));
    assert!(node.lp.turn(Some(Duration::ZERO)).is_err());
}

#[test]
fn t61_the_host_forks() {
    run("forks", 0);
}

#[test]
#[ignore = "the test before runs it, in a process of its own"]
fn forks() {
    let Some((seed, dir)) = told() else { return };
    let before = descriptors();
    let (mut node, key) = begun(seed, &dir);
    for (fd, to) in descriptors().into_iter().filter(|d| !before.contains(d)) {
        // SAFETY: only asks.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        assert!(flags & libc::FD_CLOEXEC != 0, "{} would be handed down", to.display());
    }
    // SAFETY: the child drops what it has and ends, without a return to the test harness.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        drop(node);
        // SAFETY: ends the child.
        unsafe { libc::_exit(7) };
    }
    let mut status = 0;
    // SAFETY: our child, and a place for how it ended.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status}");
    // What the child dropped was its own.
    until(&mut [&mut node], |n| n[0].status(key).is_complete());
    sample().assert_in(&dir);
    node.leave(&mut []);
}

#[test]
fn t61_the_host_has_a_handler_of_bus_errors() {
    run("handles", 42);
}

extern "C" fn ends(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: allowed in a handler.
    unsafe { libc::_exit(42) };
}

fn handler() -> usize {
    // SAFETY: an all-zero sigaction is a valid one, and the call only asks.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut now), 0);
        now.sa_sigaction
    }
}

#[test]
#[ignore = "the test before runs it, in a process of its own"]
fn handles() {
    let Some((seed, dir)) = told() else { return };
    let ours: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = ends;
    // SAFETY: an all-zero sigaction is a valid one, and the handler has the form that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ours as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()), 0);
    }
    let (mut node, key) = begun(seed, &dir);
    until(&mut [&mut node], |n| n[0].status(key).is_complete());
    assert_eq!(handler(), ours as usize, "a library leaves signals alone");
    // The guard is asked for; what is not its business is still the host's.
    guard::install().expect("it can be");
    assert_ne!(handler(), ours as usize);
    let file = fs::File::options().read(true).write(true).open(sample().at(&dir, 0)).expect("it is there");
    let map = memmap2::MmapOptions::new().map_raw(&file).expect("it can be mapped");
    file.set_len(0).expect("it is cut short");
    node.leave(&mut []);
    // SAFETY: a byte of a mapping that is alive; the fault is what is tested.
    unsafe { map.as_ptr().read_volatile() };
    unreachable!("the page is gone");
}

#[test]
fn t61_the_host_drops_the_loop_in_the_midst_of_a_transfer() {
    run("drops", 0);
}

#[test]
#[ignore = "the test before runs it, in a process of its own"]
fn drops() {
    let Some((seed, dir)) = told() else { return };
    let before = descriptors();
    for _ in 0..3 {
        let (node, key) = begun(seed, &dir);
        assert!(!matches!(node.status(key).state, State::Error));
        drop(node);
        // The helper's threads have done what they had to, and are about to end.
        let closed = (0..1_000_000).any(|_| {
            std::thread::yield_now();
            descriptors() == before
        });
        assert!(closed, "{:?} are left", descriptors());
    }
    // The lock of its state is gone, and what it claims to have is there.
    let (mut node, key) = begun(seed, &dir);
    until(&mut [&mut node], |n| n[0].status(key).is_complete());
    sample().assert_in(&dir);
    node.leave(&mut []);
}
