//! `--bind=IFACE`: nothing gets past the interface, not even when it goes away.

use crate::clients::{Client, Job, PORT, Role};
use crate::finding::ip;
use crate::scenarios::World;
use std::time::Duration;
use tools::tracker::Options;

impl World {
    /// The seed and its tracker are on the loopback device, next to btmio's own address;
    /// btmio is bound to another device, on which nobody is, and later to one that is deleted.
    pub(crate) fn bound(&self) -> Result<String, String> {
        let tracker = self.tracker(Options::default())?;
        let torrent = self.torrent("t", &[&tracker.url])?;
        let seed = self.job(2, Client::Libtorrent, Role::Seed, &torrent)?;
        let seeder = self.start(&seed, &tracker)?;
        ip("link add lan0 type veth peer name lan1")?;
        ip("link set lan0 up")?;
        ip("link set lan1 up")?;
        ip("address add 10.78.0.1/24 dev lan0")?;
        ip("route add default dev lan0")?;
        let leech = |n: u8, device: &str| -> Result<Job, String> {
            let mut job = self.job(n, Client::Btmio, Role::Leech, &torrent)?;
            let peer = format!("--peer={}:{PORT}", seed.ip);
            job.extra = vec!["-e".to_owned(), peer, format!("--bind={device}"), "--timeout=8s".to_owned()];
            Ok(job)
        };
        let ends = |job: &Job, meanwhile: &dyn Fn() -> Result<(), String>| {
            let mut node = Client::Btmio.start(job)?;
            meanwhile()?;
            let status = node.child.wait(Duration::from_secs(30)).ok_or("btmio does not end by itself")?;
            Ok::<_, String>((status.code(), node.child.tail()))
        };
        let untouched = || match tracker.counts() {
            Some((1, 0)) => Ok(()),
            other => Err(format!("the tracker counts {other:?}, wanted the seed alone")),
        };
        for (n, deleted) in [(3, false), (4, true)] {
            let job = leech(n, "lan0")?;
            let delete = || if deleted { ip("link delete lan0") } else { Ok(()) };
            match ends(&job, &delete)? {
                (Some(5), _) => untouched()?,
                (code, tail) => return Err(format!("bound to a device with nobody on it: {code:?}, wanted 5\n{tail}")),
            }
        }
        match ends(&leech(5, "lan0")?, &|| Ok(()))? {
            (Some(6), tail) if tail.contains("lan0") => {}
            (code, tail) => return Err(format!("bound to a device that is gone: {code:?}, wanted 6\n{tail}")),
        }
        let mut job = leech(6, "lo")?;
        job.extra.push("--no-tracker".to_owned());
        let mut node = Client::Btmio.start(&job)?;
        self.arrives(&mut node, &job, &[&seeder])?;
        Ok("not past lan0, nor when it was deleted; but by lo".to_owned())
    }
}
