//! A tracker for tests, as a program: see [`tools::tracker`].
//!
//! Prints its announce URL first (with `--udp` the one for UDP next, with `--tls` the root certificate), then
//! one JSON object a line for each announce. Ends when killed.

use std::io::Write;
use std::process::ExitCode;

use tools::certificates::{Authority, Flaw, Versions};
use tools::tracker::{Options, Redirect, Tracker};

const USAGE: &str = "\
tracker [OPTIONS]: a BitTorrent tracker for tests, over HTTP, HTTPS and UDP, for any torrent
  --port=N             listen there (0: any free port, the default)
  --bind=IP            listen on this address (127.0.0.1); :: is all of both families
  --udp                speak UDP too, on the same port
  --tls[=NAME,...]     HTTP over TLS only, with a certificate for these names (localhost, 127.0.0.1 and ::1)
                       from a root of its own, which is printed after the URLs
  --tls-root=FILE      with --tls: write the root there instead
  --tls-flaw=WHAT      with --tls: the certificate is expired, early, or for-clients
  --tls-versions=WHICH with --tls: 1.2 or 1.3 only
  --interval=SECONDS   interval it asks for (120)
  --min-interval=SECONDS
  --peers=IP:PORT,...  name these peers too, in every answer
  --fail=REASON        answer every announce with this failure
  --retry-in=MINUTES   with --fail: when to ask again
  --status=CODE        answer with this HTTP status
  --garbage            answer with bytes that are no reply
  --silent             take announces, never answer
  --redirect=URL|loop  send every announce there, or back here for ever
  --chunked            answer in chunks
  --close              answer without Content-Length, ended by closing
  --dict-peers         list peers as dictionaries even when asked for the compact form
";

/// What `--tls` and its kin ask for.
#[derive(Default)]
struct Tls {
    names: Option<String>,
    root: Option<String>,
    flaw: Flaw,
    versions: Versions,
}

fn main() -> ExitCode {
    let (mut options, tls) = match parse(std::env::args().skip(1)) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(what) => {
            eprintln!("tracker: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Whoever reads the log may leave; the tracker goes on.
    let print = |line: &str| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
    let root = match secure(&mut options, &tls) {
        Ok(root) => root,
        Err(e) => {
            eprintln!("tracker: {e}");
            return ExitCode::FAILURE;
        }
    };
    let urls = std::cell::Cell::new(1 + usize::from(options.udp));
    let greet = |url: &str| {
        print(url);
        urls.set(urls.get() - 1);
        if let Some(root) = root.as_ref().filter(|_| urls.get() == 0) {
            print(root.trim_end());
        }
    };
    match Tracker::start_with_greeting(options, print, greet) {
        Ok(tracker) => {
            tracker.join();
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("tracker: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the certificates; the root to print, if it is to be printed.
fn secure(options: &mut Options, tls: &Tls) -> std::io::Result<Option<String>> {
    let Some(names) = &tls.names else { return Ok(None) };
    let names = if names.is_empty() { "localhost,127.0.0.1,::1" } else { names };
    let authority = Authority::new()?;
    options.tls = Some(authority.server(&names.split(',').collect::<Vec<_>>(), tls.flaw, tls.versions)?);
    match &tls.root {
        Some(path) => std::fs::write(path, authority.root_pem()).map(|()| None),
        None => Ok(Some(authority.root_pem())),
    }
}

/// `None` asks for the usage.
fn parse(args: impl Iterator<Item = String>) -> Result<Option<(Options, Tls)>, String> {
    let (mut o, mut tls) = (Options::default(), Tls::default());
    for arg in args {
        let (name, value) = match arg.split_once('=') {
            Some((n, v)) => (n, v),
            None => (arg.as_str(), ""),
        };
        let bad = || format!("bad value in {arg}");
        match name {
            "--help" | "-h" => return Ok(None),
            "--port" => o.port = value.parse().map_err(|_| bad())?,
            "--bind" => o.bind = value.parse().map_err(|_| bad())?,
            "--udp" => o.udp = true,
            "--tls" => tls.names = Some(value.to_owned()),
            "--tls-root" => tls.root = Some(value.to_owned()),
            "--tls-flaw" => {
                tls.flaw = match value {
                    "expired" => Flaw::Expired,
                    "early" => Flaw::Early,
                    "for-clients" => Flaw::ForClients,
                    _ => return Err(bad()),
                }
            }
            "--tls-versions" => {
                tls.versions = match value {
                    "1.2" => Versions::Tls12,
                    "1.3" => Versions::Tls13,
                    _ => return Err(bad()),
                }
            }
            "--interval" => o.interval = value.parse().map_err(|_| bad())?,
            "--min-interval" => o.min_interval = Some(value.parse().map_err(|_| bad())?),
            "--peers" => {
                for peer in value.split(',').filter(|p| !p.is_empty()) {
                    o.peers.push(peer.parse().map_err(|_| bad())?);
                }
            }
            "--fail" => o.fail = Some(value.to_owned()),
            "--retry-in" => o.retry_in = Some(value.parse().map_err(|_| bad())?),
            "--status" => o.status = Some(value.parse().map_err(|_| bad())?),
            "--garbage" => o.garbage = true,
            "--silent" => o.silent = true,
            "--redirect" if value == "loop" => o.redirect = Some(Redirect::Loop),
            "--redirect" => o.redirect = Some(Redirect::To(value.to_owned())),
            "--chunked" => o.chunked = true,
            "--close" => o.close = true,
            "--dict-peers" => o.dict_peers = true,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    if tls.names.is_none() && (tls.root.is_some() || tls.flaw != Flaw::None || tls.versions != Versions::Any) {
        return Err("--tls-... without --tls".to_owned());
    }
    Ok(Some((o, tls)))
}
