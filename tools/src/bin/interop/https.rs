//! HTTPS trackers: opentracker behind nginx, whose certificates are good, for somebody else, expired, and from an
//! unknown root.

use crate::clients::{Client, Job, Role};
use crate::scenarios::World;
use crate::trackers::{Over, Tracker};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tools::certificates::{Authority, Flaw};
use tools::process::{Child, wait_for};

/// What stands before port 8443 and the following: a certificate's name in the folder, and what is said of it.
const DOORS: [(&str, &str); 4] = [
    ("wrong-name", "is not for"),
    ("expired", "has expired"),
    ("unknown-root", "comes from an unknown root"),
    ("good", ""),
];
const FIRST: usize = 8443;

impl World {
    /// btmio is turned away by three certificates, names the reason for each, and completes by the fourth: with
    /// the tracker's IPv4 address, and with its IPv6 address.
    pub(crate) fn https_nginx(&self) -> Result<String, String> {
        let tracker = self.opentracker(Over::Http)?;
        let authority = Authority::new().map_err(|e| e.to_string())?;
        self.certificates(&authority)?;
        let root = self.dir.join("root.pem");
        std::fs::write(&root, authority.root_pem()).map_err(|e| e.to_string())?;
        let nginx = nginx(&self.dir, tracker.host())?;
        let seed = self.job(2, Client::Transmission, Role::Seed, &self.torrent("plain", &[&tracker.url])?)?;
        let seeder = self.start(&seed, &tracker)?;
        for (n, host) in [(3, "10.77.0.1"), (4, "[fd77::1]")] {
            let url = |i: usize| format!("https://{host}:{}/announce", FIRST + i);
            let urls = [url(0), url(1), url(2), url(3)];
            let torrent = self.torrent(&format!("t{n}"), &urls.each_ref().map(String::as_str))?;
            let mut leech = self.job(n, Client::Btmio, Role::Leech, &torrent)?;
            leech.extra = vec!["-e".to_owned(), format!("--bind=fd77::{n}")];
            leech.roots = Some(root.clone());
            let mut node = Client::Btmio.start(&leech)?;
            self.arrives(&mut node, &leech, &[&seeder])?;
            for (i, (door, reason)) in DOORS.iter().enumerate() {
                let said: Vec<_> =
                    node.events().iter().map(ToString::to_string).filter(|e| e.contains(&url(i))).collect();
                if !said.iter().any(|e| e.contains("\"event\":\"tracker\"") && e.contains(reason)) {
                    let log = std::fs::read_to_string(self.dir.join("error.log")).unwrap_or_default();
                    let tails = format!("{}{}{log}", node.child.tail(), nginx.tail());
                    return Err(format!("{door} at {}: wanted {reason:?} to be said, got {said:?}\n{tails}", url(i)));
                }
            }
        }
        Ok("by the fourth certificate, three refused with their reasons, over IPv4 and IPv6".to_owned())
    }

    /// Our own tracker with TLS, over both families, known by a name; nothing but the certificate's root is given.
    pub(crate) fn https(&self) -> Result<String, String> {
        let authority = Authority::new().map_err(|e| e.to_string())?;
        let root = self.dir.join("root.pem");
        std::fs::write(&root, authority.root_pem()).map_err(|e| e.to_string())?;
        let config = authority.server(&["10.77.0.1", "fd77::1"], Flaw::None, Default::default());
        let options = tools::tracker::Options { tls: Some(config.map_err(|e| e.to_string())?), ..Default::default() };
        for (n, over) in [(2, Over::Http), (4, Over::Http6)] {
            let world = if over == Over::Http6 { self.over_v6() } else { self.on_v4() };
            let tracker = Tracker::ours(&self.payload.info_hash(), options.clone(), over)?;
            let torrent = self.torrent(&format!("t{n}"), &[&tracker.url])?;
            let mut seed = world.job(n, Client::Btmio, Role::Seed, &torrent)?;
            let mut leech = world.job(n + 1, Client::Btmio, Role::Leech, &torrent)?;
            (seed.roots, leech.roots) = (Some(root.clone()), Some(root.clone()));
            leech.extra.push("-e".to_owned());
            let seeder = Client::Btmio.start(&seed)?;
            // Whoever announces first learns of the other, who dials or is dialled.
            let mut leecher = Client::Btmio.start(&leech)?;
            world.arrives(&mut leecher, &leech, &[&seeder])?;
            [&seed, &leech].into_iter().try_for_each(confined)?;
        }
        Ok("over IPv4 and IPv6, confined".to_owned())
    }

    /// One pair of files for each door.
    fn certificates(&self, authority: &Authority) -> Result<(), String> {
        let other = Authority::named("some other root").map_err(|e| e.to_string())?;
        let here = &["10.77.0.1", "fd77::1"][..];
        for (door, _) in DOORS {
            let made = match door {
                "wrong-name" => authority.issue(&["tracker.example"], Flaw::None),
                "expired" => authority.issue(here, Flaw::Expired),
                "unknown-root" => other.issue(here, Flaw::None),
                _ => authority.issue(here, Flaw::None),
            };
            let (cert, key) = made.map_err(|e| e.to_string())?;
            for (text, kind) in [(cert, "crt"), (key, "key")] {
                std::fs::write(self.dir.join(format!("{door}.{kind}")), text).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}

/// It could reach neither the folder with the root nor any other when it asked the tracker, but the file itself; or
/// the kernel cannot do that, and it said so.
fn confined(job: &Job) -> Result<(), String> {
    let log = std::fs::read_to_string(job.home.join("log")).map_err(|e| format!("log: {e}"))?;
    let told = ["confined to its folders by Landlock", "this kernel has no Landlock"];
    match told.iter().any(|t| log.contains(t)) && !log.contains("ermission denied") {
        true => Ok(()),
        false => Err(format!("wanted a word about Landlock and nothing out of reach, got {log}")),
    }
}

/// nginx on both addresses, a port for each door, in front of the tracker. It is one process, so that it needs no
/// user of its own. Whoever comes over IPv4 keeps its address, because the tracker lists what it sees.
fn nginx(dir: &Path, upstream: &str) -> Result<Child, String> {
    let mut conf = String::from(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\nevents {}\nhttp {\naccess_log off;\n",
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(conf, "{kind}_temp_path {kind};");
    }
    for (i, (door, _)) in DOORS.iter().enumerate() {
        for (ip, bind) in [("10.77.0.1", "proxy_bind $remote_addr;"), ("[fd77::1]", "")] {
            let _ = writeln!(
                conf,
                "server {{ listen {ip}:{} ssl; ssl_certificate {door}.crt; ssl_certificate_key {door}.key;\n\
                 location / {{ proxy_pass http://{upstream}; {bind} }} }}",
                FIRST + i
            );
        }
    }
    conf.push_str("}\n");
    let path = dir.join("nginx.conf");
    std::fs::write(&path, conf).map_err(|e| e.to_string())?;
    let mut c = Command::new("nginx");
    c.arg("-p").arg(dir).arg("-c").arg(&path).arg("-e").arg(dir.join("error.log"));
    let mut child = Child::spawn("nginx", dir, c).map_err(|e| format!("starting {e}"))?;
    let up = wait_for(Duration::from_secs(10), || {
        let ready = std::net::TcpStream::connect(("10.77.0.1", FIRST as u16)).is_ok();
        (ready || child.exited().is_some()).then_some(ready)
    });
    match up {
        Some(true) => Ok(child),
        _ => Err(format!("nginx does not listen\n{}", child.tail())),
    }
}
