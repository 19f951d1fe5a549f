//! What the command does about torrents that it remembers: those that it was given and is not done with.
//!
//! A torrent is remembered from the moment it is said to be added. It is dismissed when it has reached its goal, or
//! with `--exit-when-done` when it is complete, and when it turns out to be of no use. Whatever else ends the command,
//! a signal or a power cut, `btmio` without a torrent takes it up again, in the folder it was given for.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::args::{Get, Source};
use super::load::{self, Loaded};
use super::{Failure, escape, exit, get, json, results, state_path};
use crate::id::InfoHash;
use crate::net;
use crate::session::Add;

fn state() -> Option<PathBuf> {
    state_path(|name| std::env::var_os(name))
}

fn all() -> Result<Vec<Add>, Failure> {
    let Some(dir) = state() else { return Ok(Vec::new()) };
    net::remembered(&dir).map_err(|e| Failure::new(get::code_of(&e), escape(&e.to_string())))
}

/// All remembered torrents, to be taken up again as they were added, but for what the command line says.
///
/// # Errors
/// There are none (2), or the state folder cannot be read (17).
pub(super) fn load(opts: &Get) -> Result<Vec<Loaded>, Failure> {
    let mut all = all()?;
    if all.is_empty() {
        let text = "operands: wanted a TORRENT, since none is left over from before\nTry 'btmio --help'.";
        return Err(Failure::new(exit::USAGE, text));
    }
    for add in &mut all {
        // Nobody could let it go on.
        add.paused = false;
        add.sequential |= opts.sequential;
        if opts.goals {
            (add.seed_ratio, add.seed_time) = (opts.seed_ratio, opts.seed_time);
        }
    }
    Ok(all.into_iter().map(|add| Loaded::Remembered(Box::new(add))).collect())
}

/// `--list` without a torrent.
pub(super) fn list(json: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for add in all()? {
        let hash = add.meta.info_hash.map(|h| h.to_string()).unwrap_or_default();
        let (name, dir) = (&add.meta.name, add.dir.to_string_lossy());
        let _ = match json {
            true => {
                let (name, dir) = (json::quoted(name), json::quoted(&dir));
                writeln!(text, "{{\"hash\":\"{hash}\",\"name\":{name},\"dir\":{dir}}}")
            }
            false => writeln!(text, "{hash}  {}  {}", escape(name), escape(&dir)),
        };
    }
    results(&text)
}

/// `--forget`.
pub(super) fn forget(torrents: &[Source]) -> Result<(), Failure> {
    let Some(dir) = state() else { return Ok(()) };
    for source in torrents {
        let hash: Option<InfoHash> = match load::load_any(source)? {
            Loaded::Torrent(meta) => meta.info_hash,
            Loaded::Magnet(magnet) => magnet.info_hash,
            Loaded::Remembered(add) => add.meta.info_hash,
        };
        let hash = hash.expect("torrents without a version 1 hash are refused when read");
        net::forget(&dir, &hash).map_err(|e| Failure::new(get::code_of(&e), format!("{source}: {e}")))?;
    }
    Ok(())
}
