//! A tracker for tests, as a program: see [`tools::tracker`].
//!
//! Prints its announce URL first (with `--udp` the one for UDP next), then one JSON object a line for each
//! announce. Ends when killed.

use std::io::Write;
use std::process::ExitCode;

use tools::tracker::{Options, Redirect, Tracker};

const USAGE: &str = "\
tracker [OPTIONS]: a BitTorrent tracker for tests, over HTTP and UDP, for any torrent
  --port=N             listen there (0: any free port, the default)
  --bind=IP            listen on this address (127.0.0.1); :: is all of both families
  --udp                speak UDP too, on the same port
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

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
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
    match Tracker::start_with_greeting(options, print, |url| print(url)) {
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

/// `None` asks for the usage.
fn parse(args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut o = Options::default();
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
    Ok(Some(o))
}
