//! A large torrent in little memory, from many peers, with few descriptors.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};
use tools::payload::{bytes_of, single_file};
use tools::process::Child;

use crate::{PIECE, Result, text};

const SIZE: usize = 1 << 30;
const PEERS: u8 = 50;
/// Bytes a second of each. One alone could be so fast that nobody else is asked.
const RATE: u32 = 1_000_000;
const MEMORY: u64 = 32 << 20;
const DESCRIPTORS: u32 = 64;
/// So many give something at least: of 64 descriptors 27 are for peers, and who has come in stays while it gives.
const GIVERS: u32 = 25;
/// Longer it does not take, or it is stuck.
const PATIENCE: Duration = Duration::from_secs(140);

/// A group of processes that may use so much memory together, files they wrote included.
struct Group {
    dir: PathBuf,
    /// The first version of such groups, or the second.
    first: bool,
}

impl Group {
    fn new(limit: u64) -> Result<Self> {
        let mine = fs::read_to_string("/proc/self/cgroup").map_err(text)?;
        let path = |is: &dyn Fn(&str) -> bool| {
            let mut lines = mine.lines().filter_map(|l| l.split_once(':').and_then(|(_, l)| l.split_once(':')));
            lines.find(|(names, _)| is(names)).map(|(_, path)| path.trim_start_matches('/').to_owned())
        };
        let old = path(&|names| names.split(',').any(|n| n == "memory")).map(|p| ("/sys/fs/cgroup/memory", p));
        let new = path(&str::is_empty).map(|p| ("/sys/fs/cgroup", p));
        let first = old.is_some();
        let (root, below) = old.or(new).ok_or("no control group is told of")?;
        let name = format!("btmio-strain-{}", std::process::id());
        // Where this process is, or at the top when that is not to be seen from here.
        let parents = [Path::new(root).join(below), root.into()];
        let mut why = String::new();
        for parent in parents {
            if !first {
                let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
            }
            let group = Self { dir: parent.join(&name), first };
            let limits = if first { "memory.limit_in_bytes" } else { "memory.max" };
            let path = group.dir.join(limits);
            match fs::create_dir(&group.dir).and_then(|()| fs::write(&path, limit.to_string())) {
                Ok(()) => return Ok(group),
                Err(e) => why = format!("{}: {e}", path.display()),
            }
        }
        Err(format!("memory cannot be limited here: {why}"))
    }

    fn read(&self, name: &str) -> u64 {
        fs::read_to_string(self.dir.join(name)).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
    }

    /// Processes killed because memory was out.
    fn killed(&self) -> u64 {
        let file = if self.first { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        line.and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
    }

    fn most(&self) -> u64 {
        self.read(if self.first { "memory.max_usage_in_bytes" } else { "memory.peak" })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The largest amount of memory of its own that was seen, in bytes.
fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |k| k << 10)
}

/// What a peer has been asked for, and has given.
#[derive(Default)]
struct Given {
    /// Its peer id is this over and over: who comes twice is sent away.
    id: u8,
    connections: AtomicU64,
    bytes: AtomicU64,
}

/// Seeds to whoever connects, until that one leaves.
fn seed(listener: &TcpListener, data: &[u8], hash: [u8; 20], given: &Given) {
    while let Ok((mut socket, _)) = listener.accept() {
        given.connections.fetch_add(1, Ordering::Relaxed);
        // What ends it is the other side's business: whether all has come is looked at there.
        let _ = serve(&mut socket, data, hash, given);
    }
}

fn serve(socket: &mut TcpStream, data: &[u8], hash: [u8; 20], given: &Given) -> std::io::Result<()> {
    let mut hello = [0; 68];
    socket.read_exact(&mut hello)?;
    hello[20..28].fill(0);
    hello[28..48].copy_from_slice(&hash);
    hello[48..].fill(given.id);
    socket.write_all(&hello)?;
    let pieces = SIZE.div_ceil(PIECE);
    let mut out = ((1 + pieces.div_ceil(8)) as u32).to_be_bytes().to_vec();
    out.push(5);
    out.resize(out.len() + pieces / 8, 0xFF);
    // And unchoked.
    out.extend([0, 0, 0, 1, 1]);
    socket.write_all(&out)?;
    loop {
        let mut word = [0; 4];
        socket.read_exact(&mut word)?;
        let mut body = vec![0; u32::from_be_bytes(word) as usize];
        socket.read_exact(&mut body)?;
        if body.len() == 13 && body[0] == 6 {
            let word = |i: usize| u32::from_be_bytes([body[i], body[i + 1], body[i + 2], body[i + 3]]) as usize;
            let at = word(1) * PIECE + word(5);
            out.clear();
            out.extend((9 + word(9) as u32).to_be_bytes());
            out.push(7);
            out.extend(&body[1..9]);
            out.extend(data.get(at..at + word(9)).ok_or(std::io::ErrorKind::InvalidInput)?);
            socket.write_all(&out)?;
            given.bytes.fetch_add(word(9) as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(1) * word(9) as u32 / RATE);
        }
    }
}

/// What came of it, and whether it holds.
pub(crate) fn run(scratch: &Path, btmio: &Path) -> Result<(String, bool)> {
    let data = Arc::new(bytes_of(9, SIZE));
    let hashes: Vec<[u8; 20]> = data.chunks(PIECE).map(|p| Sha1::digest(p).into()).collect();
    let (torrent, hash) = single_file("large", SIZE, PIECE, &hashes, &[]);
    let (file, dir) = (scratch.join("large.torrent"), scratch.join("small"));
    fs::create_dir_all(&dir).and_then(|()| fs::write(&file, torrent)).map_err(text)?;
    let (mut peers, mut given) = (Vec::new(), Vec::new());
    for n in 1..=PEERS {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, n), 0))).map_err(text)?;
        peers.push(format!("--peer={}", listener.local_addr().map_err(text)?));
        let (data, mine) = (Arc::clone(&data), Arc::new(Given { id: n, ..Given::default() }));
        given.push(Arc::clone(&mine));
        // Until the program ends.
        std::thread::spawn(move || seed(&listener, &data, hash, &mine));
    }
    let group = Group::new(MEMORY)?;
    // The shell puts itself into the group before it becomes btmio.
    let script = format!("echo $$ > \"$0/cgroup.procs\" && ulimit -n {DESCRIPTORS} && exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(&group.dir).arg(btmio).args(peers);
    command.args(["--json", "--bind=127.0.0.1", "--port=0", "--no-dht", "--no-lsd", "--seed-ratio=0"]);
    command.arg("--dir").arg(&dir).arg(&file).env("XDG_STATE_HOME", scratch.join("state"));
    let begin = Instant::now();
    let mut child = Child::spawn("btmio", scratch, command).map_err(text)?;
    let mut most = 0;
    let ended = loop {
        most = most.max(anonymous(child.id()));
        if let Some(status) = child.wait(Duration::from_millis(50)) {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("it does not end\n{}", child.tail()));
        }
    };
    let took = begin.elapsed().as_secs_f64();
    let of = |what: fn(&Given) -> &AtomicU64| {
        let all = given.iter().map(|g| what(g).load(Ordering::Relaxed));
        all.fold((0, u64::MAX), |(count, least), n| (count + u32::from(n > 0), least.min(n)))
    };
    let ((met, _), (gave, least)) = (of(|g| &g.connections), of(|g| &g.bytes));
    let right = fs::read(dir.join("large")).is_ok_and(|found| found == **data);
    let (killed, peak) = (group.killed(), group.most());
    let holds = ended.success() && right && killed == 0 && met == u32::from(PEERS) && gave >= GIVERS;
    let version = if group.first { 1 } else { 2 };
    let mut line = format!(
        "small  {:>8} {ended}, files {}, {killed} killed, {took:.1} s, {:.1} MiB of its own, {:.1} MiB at most in the \
         group of {} (cgroup v{version}), {DESCRIPTORS} descriptors, {met} of {PEERS} \
         peers connected, {gave} gave something, the least of them {:.2} MiB",
        "",
        if right { "right" } else { "WRONG" },
        most as f64 / 1048576.0,
        peak as f64 / 1048576.0,
        MEMORY >> 20,
        least as f64 / 1048576.0,
    );
    if !holds {
        line += &format!("\n{}", child.tail());
    }
    Ok((line, holds))
}
