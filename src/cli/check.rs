//! `btmio check TORRENT [DIR]`: what lies on disk, held against a torrent. Nothing is written.
//!
//! Each piece is hashed by the same storage code that a download uses. A file is listed when it is
//! not wholly proven good, with the bytes of it that are
//!
//! - **missing**: beyond the end of the file on disk;
//! - **bad**: there, in a piece whose hash is wrong. A piece that lies in two files may be bad in
//!   one only, but nothing tells which;
//! - **unchecked**: there, but in a piece of which other bytes are missing.
//!
//! Exit code 0 when nothing is listed, 4 otherwise, 17 when something could not be read.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::args::{Common, Source};
use super::{Failure, escape, exit, json, load, progress, results, term};
use crate::id::{FileIndex, PieceIndex, TorrentKey};
use crate::metainfo::Metainfo;
use crate::storage::{Disk, DiskErrorKind, Done, OpenSpec, Storage, StorageConfig};
use crate::torrent::layout::Layout;

/// Pieces handed to the storage and not yet answered: enough to hash several at once.
const IN_FLIGHT: usize = 16;
/// Bytes hashed between two looks at the clock.
const BUDGET: usize = 8 << 20;

/// A file that is not wholly proven good.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: FileIndex,
    /// There is such a file.
    exists: bool,
    missing: u64,
    bad: u64,
    unchecked: u64,
}

/// What was found on disk.
struct Found {
    /// Length of each file; `None` where there is none.
    sizes: Vec<Option<u64>>,
    /// Which pieces are good.
    good: Vec<bool>,
    /// Something could not be read: what, and where.
    error: Option<String>,
}

/// Runs the command.
pub(super) fn check(file: &Source, dir: &Path, config: StorageConfig, common: &Common) -> Result<u8, Failure> {
    let meta = load::load(file)?;
    let layout = Arc::new(meta.layout());
    let found = look(&meta, &layout, dir, config, common)?;
    let findings = judge(&layout, &found);
    if common.json {
        results(&as_json(&meta, &layout, &found, &findings))?;
    } else if !common.quiet {
        results(&as_text(&meta, &layout, &found, &findings))?;
    }
    match &found.error {
        Some(e) => Err(Failure::new(exit::FILE_IO, e.clone())),
        None if findings.is_empty() => Ok(exit::DONE),
        None => Ok(exit::BAD_DATA),
    }
}

/// Looks at all files and hashes every piece that is there in full.
fn look(
    meta: &Metainfo,
    layout: &Arc<Layout>,
    dir: &Path,
    config: StorageConfig,
    common: &Common,
) -> Result<Found, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(exit::FILE_IO, escape(&e.to_string()).into_owned());
    let files = layout.files();
    let mut found = Found { sizes: vec![None; files.len()], good: vec![false; layout.pieces() as usize], error: None };
    if !dir.is_dir() {
        log::warn!("{}: no such folder", dir.display());
        return Ok(found);
    }
    let (mut disk, key) = (Disk::new(config), TorrentKey::new(0, 0));
    disk.open(key, layout.clone(), OpenSpec { dir: dir.into() }).map_err(|e| failed(&e))?;
    for (i, (file, size)) in files.iter().zip(&mut found.sizes).enumerate() {
        *size = disk.file_stat(key, FileIndex::new(i as u32)).map(|stat| stat.len);
        if size.is_some_and(|size| size > file.len) {
            log::warn!("{}: longer than the torrent says", file.path);
        }
    }
    let whole = |&piece: &PieceIndex| {
        layout
            .spans(layout.piece_offset(piece), layout.piece_size(piece).into())
            .all(|span| span.pad || found.sizes[span.file.idx()].is_some_and(|size| span.at + span.len <= size))
    };
    let todo: Vec<PieceIndex> = (0..layout.pieces()).map(PieceIndex::new).filter(whole).collect();
    let mut display = Display::new(common);
    let (mut queue, mut done, mut waiting) = (todo.iter(), 0, 0);
    while done < todo.len() {
        while waiting < IN_FLIGHT {
            let Some(&piece) = queue.next() else { break };
            disk.recheck(key, piece, meta.hashes[piece.idx()]);
            waiting += 1;
        }
        let more = disk.work(BUDGET);
        let before = done;
        while let Some(answer) = disk.poll_done() {
            match answer {
                Done::Hashed { piece, ok, .. } => found.good[piece.idx()] = ok,
                Done::Failed { error, .. } => match error.kind {
                    // It went away while we looked.
                    DiskErrorKind::Missing | DiskErrorKind::Truncated => {}
                    _ => found.error = Some(failed(&error).text),
                },
                // Nothing is written here.
                Done::Synced { .. } => continue,
            }
            done += 1;
            waiting -= 1;
        }
        assert!(more || done > before || done == todo.len(), "the storage owes {waiting} pieces and has nothing to do");
        display.update(&meta.name, done as u64, todo.len() as u64);
    }
    term::clear();
    Ok(found)
}

/// Lists the files that are not wholly good.
fn judge(layout: &Layout, found: &Found) -> Vec<Finding> {
    let new = |i: usize| Finding {
        file: FileIndex::new(i as u32),
        exists: found.sizes[i].is_some(),
        missing: 0,
        bad: 0,
        unchecked: 0,
    };
    let mut findings: Vec<Finding> = (0..layout.files().len()).map(new).collect();
    for (i, good) in found.good.iter().enumerate() {
        if *good {
            continue;
        }
        let piece = PieceIndex::new(i as u32);
        let spans = || layout.spans(layout.piece_offset(piece), layout.piece_size(piece).into()).filter(|s| !s.pad);
        let there = |file: FileIndex, at: u64, len: u64| {
            found.sizes[file.idx()].map_or(0, |size| size.saturating_sub(at).min(len))
        };
        let whole = spans().all(|s| there(s.file, s.at, s.len) == s.len);
        for s in spans() {
            let (finding, there) = (&mut findings[s.file.idx()], there(s.file, s.at, s.len));
            finding.missing += s.len - there;
            *(if whole { &mut finding.bad } else { &mut finding.unchecked }) += there;
        }
    }
    findings.retain(|f| {
        let file = &layout.files()[f.file.idx()];
        !file.pad && (f.missing + f.bad + f.unchecked > 0 || !f.exists)
    });
    findings
}

/// Bytes proven good, pad files left out.
fn have(layout: &Layout, findings: &[Finding]) -> (u64, u64) {
    let size: u64 = layout.files().iter().filter(|f| !f.pad).map(|f| f.len).sum();
    (size - findings.iter().map(|f| f.missing + f.bad + f.unchecked).sum::<u64>(), size)
}

fn as_text(meta: &Metainfo, layout: &Layout, found: &Found, findings: &[Finding]) -> String {
    let mut text = String::new();
    for f in findings {
        let file = &layout.files()[f.file.idx()];
        let parts = [(f.bad, "bad"), (f.missing, "missing"), (f.unchecked, "unchecked")];
        let said: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", progress::bytes(*n))).collect();
        let what = if f.exists { said.join(", ") } else { "not there".into() };
        let _ = writeln!(text, "{}: {what}", escape(&file.path));
    }
    let good = found.good.iter().filter(|good| **good).count();
    let (have, size) = have(layout, findings);
    let word = if findings.is_empty() { "complete" } else { "incomplete" };
    let _ = writeln!(
        text,
        "{}: {word}, {good} of {} pieces, {} of {}",
        escape(&meta.name),
        found.good.len(),
        progress::bytes(have),
        progress::bytes(size)
    );
    text
}

/// One object; `files` lists the ones that are not good.
fn as_json(meta: &Metainfo, layout: &Layout, found: &Found, findings: &[Finding]) -> String {
    let (have, size) = have(layout, findings);
    let files: Vec<String> = findings
        .iter()
        .map(|f| {
            let file = &layout.files()[f.file.idx()];
            format!(
                "{{\"path\":{},\"size\":{},\"exists\":{},\"bad\":{},\"missing\":{},\"unchecked\":{}}}",
                json::quoted(&file.path),
                file.len,
                f.exists,
                f.bad,
                f.missing,
                f.unchecked
            )
        })
        .collect();
    format!(
        "{{\"name\":{},\"info_hash\":{},\"complete\":{},\"pieces\":{},\"pieces_good\":{},\
         \"size\":{size},\"have\":{have},\"files\":[{}]}}\n",
        json::quoted(&meta.name),
        meta.info_hash.map_or("null".into(), |h| format!("\"{h}\"")),
        findings.is_empty() && found.error.is_none(),
        found.good.len(),
        found.good.iter().filter(|good| **good).count(),
        files.join(",")
    )
}

/// The progress of a check, on a terminal.
struct Display {
    abilities: Option<term::Abilities>,
    drawn: Instant,
}

impl Display {
    fn new(common: &Common) -> Self {
        let abilities = Some(term::abilities()).filter(|a| a.redraw && !common.quiet);
        Self { abilities, drawn: Instant::now() }
    }

    fn update(&mut self, name: &str, done: u64, all: u64) {
        let Some(abilities) = self.abilities else { return };
        if self.drawn.elapsed() >= Duration::from_millis(200) {
            let (width, rows) = term::size();
            let style = progress::Style { width, rows, unicode: abilities.unicode };
            term::draw(progress::checking(name, done, all, style));
            self.drawn = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torrent::layout::LayoutFile;

    /// Pieces of 10 bytes over files of 15, 5, 0 and 10.
    fn layout() -> Layout {
        let mut offset = 0;
        let files = [("a", 15), ("b", 5), ("empty", 0), ("c", 10)].map(|(path, len)| {
            let file = LayoutFile { path: path.into(), offset, len, pad: false, executable: false };
            offset += len;
            file
        });
        Layout::new(10, files.into())
    }

    fn finding(file: u32, bad: u64, missing: u64, unchecked: u64) -> Finding {
        Finding { file: FileIndex::new(file), exists: true, missing, bad, unchecked }
    }

    fn found(sizes: [Option<u64>; 4], good: [bool; 3]) -> Found {
        Found { sizes: sizes.into(), good: good.into(), error: None }
    }

    #[test]
    fn all_good_lists_nothing() {
        let f = found([Some(15), Some(5), Some(0), Some(10)], [true; 3]);
        assert_eq!(judge(&layout(), &f), []);
        assert_eq!(have(&layout(), &[]), (30, 30));
    }

    #[test]
    fn a_bad_piece_accuses_each_of_its_files() {
        let f = found([Some(15), Some(5), Some(0), Some(99)], [true, false, true]);
        let list = judge(&layout(), &f);
        assert_eq!(list, [finding(0, 5, 0, 0), finding(1, 5, 0, 0)]);
        assert_eq!(have(&layout(), &list), (20, 30));
    }

    #[test]
    fn what_shares_a_piece_with_a_hole_is_unchecked() {
        let f = found([Some(15), None, None, Some(4)], [true, false, false]);
        let mut list = judge(&layout(), &f);
        assert_eq!(list[0], finding(0, 0, 0, 5));
        assert!(!list[1].exists && !list[2].exists, "{list:?}");
        list[1].exists = true;
        assert_eq!(list[1], finding(1, 0, 5, 0));
        assert_eq!(list[3], finding(3, 0, 6, 4));
    }
}
