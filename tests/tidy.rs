//! The house rules that a compiler does not check, as a test.
//!
//! The design has seven tiers; a module may use its own tier and those below it in number, no other.
//! Tiers 0 to 3 are the deterministic core: no clock, no sockets, no files, no threads, no randomly
//! seeded maps. Unsafe code has a few named addresses. Files, functions and lines have a size.
//!
//! This reads source text, not syntax trees. Comments and string literals are blanked first (see
//! `code_only`), and `#[cfg(test)] mod tests` blocks are exempt from the core's bans and from the tiers,
//! because tests may use whatever shows the point. Each rule has a test below that shows it fails.

use std::fs;
use std::path::{Path, PathBuf};

/// The tier of a top-level module of `src/`, as in the tree of the design.
const TIERS: [(&str, u8); 34] = [
    ("id", 0),
    ("time", 0),
    ("rng", 0),
    ("bitfield", 0),
    ("rate", 0),
    ("crc32c", 0),
    ("config", 0),
    ("lazy", 0),
    ("slots", 0),
    ("bencode", 1),
    ("blocklist", 1),
    ("metainfo", 1),
    ("wire", 1),
    ("http", 1),
    // What embedders and drivers see of a session: it names formats, and machines speak it.
    ("api", 2),
    ("error", 2),
    ("peer", 2),
    ("torrent", 2),
    ("tracker", 2),
    ("dht", 2),
    ("utp", 2),
    ("lan", 2),
    ("portmap", 2),
    ("session", 3),
    ("rpc", 3),
    ("pump", 4),
    ("storage", 4),
    ("state", 4),
    ("net", 5),
    ("sim", 5),
    ("cli", 6),
    ("main", 6),
    ("ffi", 6),
    ("lib", 7),
];

/// Submodules that belong to a lower tier than their folder: values that others need, machines that not.
/// They are held to that tier themselves.
const FINER: [(&str, &str, u8); 1] = [("torrent", "layout", 1)];

/// Same tier, but neither may use the other.
const STRANGERS: [(&str, &str); 1] = [("net", "sim")];

/// What tiers 0 to 3 do without, and why.
const CORE_BANS: [(&str, &str); 13] = [
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("std::time::Instant", "the core has crate::time::Instant"),
    ("TcpStream", "the core owns no socket"),
    ("TcpListener", "the core owns no socket"),
    ("UdpSocket", "the core owns no socket"),
    ("std::fs", "the core owns no file"),
    ("std::thread", "the core has no thread"),
    ("HashMap", "iteration order differs between runs: BTreeMap, Vec or slab"),
    ("HashSet", "iteration order differs between runs: BTreeSet, Vec or slab"),
    ("mio::", "the core does not know the poll loop"),
    ("libc::", "the core makes no system calls"),
    ("RefCell", "keys, not pointers"),
];

/// Where `unsafe` may be written, besides the C ABI.
const UNSAFE: [&str; 10] = [
    "cli/heap.rs",
    "cli/landlock.rs",
    "storage/iov.rs",
    "storage/map.rs",
    "storage/lanes.rs",
    "storage/lanes256.rs",
    "storage/wide.rs",
    "storage/sys.rs",
    "storage/guard.rs",
    "ffi.rs",
];

/// What no module does without a reason that is stated here, and the files that have one.
const BANS: [(&str, &str, &[&str]); 9] = [
    ("HashMap", ORDERED, &[]),
    ("HashSet", ORDERED, &[]),
    ("hash_map", ORDERED, &[]),
    ("hash_set", ORDERED, &[]),
    ("BuildHasher", ORDERED, &[]),
    ("RandomState", ORDERED, &[]),
    ("DefaultHasher", ORDERED, &[]),
    // What the log says of the time of day; the state of files is compared, not calculated with.
    ("SystemTime", "the time of day jumps: net::clock", &["cli/logging.rs"]),
    ("UNIX_EPOCH", "the time of day jumps: net::clock", &["cli/logging.rs"]),
];
/// Peers choose ids, addresses, names, tokens and transaction ids. In a table by a hash that they can calculate they
/// would all be chosen to meet (T12 of the list of threats); in an ordered one there is nothing to choose.
const ORDERED: &str = "keys of strangers are kept in order: BTreeMap, BTreeSet, Vec or slab";

const FILE_MAX: usize = 1000;
const FILE_WARN: usize = 600;
const FN_MAX: usize = 120;
const FN_WARN: usize = 70;
const LINE_MAX: usize = 120;

/// What one file is told: errors fail the test, warnings are printed.
#[derive(Default, Debug)]
struct Report {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Report {
    fn has(&self, part: &str) -> bool {
        self.errors.iter().any(|e| e.contains(part))
    }
}

fn tier(module: &str, part: &str) -> Option<u8> {
    let finer = FINER.iter().find(|(m, p, _)| *m == module && *p == part).map(|(.., t)| *t);
    finer.or_else(|| TIERS.iter().find(|(name, _)| *name == module).map(|(_, t)| *t))
}

/// The source with comments, strings and character literals turned into blanks, line for line.
fn code_only(text: &str) -> String {
    let b: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while i < b.len() {
        let rest = &b[i..];
        let word_before = i > 0 && (b[i - 1].is_alphanumeric() || b[i - 1] == '_');
        let end = match rest {
            ['/', '/', ..] => i + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => i + block_comment(rest),
            ['r', '"', ..] | ['r', '#', '"' | '#', ..] if !word_before => i + raw_string(rest),
            ['b', 'r', '"', ..] | ['b', 'r', '#', ..] if !word_before => i + 1 + raw_string(&rest[1..]),
            ['"', ..] => i + quoted(rest, '"'),
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => i + quoted(rest, '\''),
            _ => i,
        };
        if end == i {
            out.push(b[i]);
            i += 1;
        } else {
            b[i..end.min(b.len())].iter().for_each(|c| blank(&mut out, *c));
            i = end;
        }
    }
    out
}

fn block_comment(s: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < s.len() {
        match s[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    s.len()
}

/// Length of `r"..."` or `r#"..."#`; 0 for a raw identifier such as `r#type`.
fn raw_string(s: &[char]) -> usize {
    let hashes = s[1..].iter().take_while(|c| **c == '#').count();
    if s.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &s[2 + hashes..];
    let at = body.windows(close.len()).position(|w| w == close);
    at.map_or(s.len(), |at| 2 + hashes + at + close.len())
}

fn quoted(s: &[char], quote: char) -> usize {
    let mut i = 1;
    while i < s.len() && s[i] != quote {
        i += if s[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The line after the one on which the braces opened at or after `start` are closed again.
fn block_end(lines: &[&str], start: usize) -> usize {
    let (mut depth, mut opened) = (0i32, false);
    for (n, line) in lines.iter().enumerate().skip(start) {
        for c in line.chars() {
            match c {
                '{' => (depth, opened) = (depth + 1, true),
                '}' => depth -= 1,
                ';' if !opened && depth == 0 => return n + 1,
                _ => {}
            }
        }
        if opened && depth <= 0 {
            return n + 1;
        }
    }
    lines.len()
}

/// `code` with the items under `#[cfg(test)]` blanked, line for line.
fn without_tests(code: &str) -> String {
    let lines: Vec<&str> = code.lines().collect();
    let mut out = String::new();
    let mut n = 0;
    while n < lines.len() {
        if lines[n].trim_start().starts_with("#[cfg(test)]") || lines[n].trim_start().starts_with("#[cfg(all(test") {
            // The attributes of the item may follow; its braces or semicolon end it.
            let after = lines[n].rfind(']').is_some_and(|at| !lines[n][at + 1..].trim().is_empty());
            let end = block_end(&lines, if after { n } else { n + 1 });
            out.push_str(&"\n".repeat(end - n));
            n = end;
        } else {
            out.push_str(lines[n]);
            out.push('\n');
            n += 1;
        }
    }
    out
}

/// Whether `word` stands in `line` with no letter, digit or underscore before or after it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let ends_open = !word.ends_with(part);
        !line[..at].ends_with(part) && (ends_open || !line[at + word.len()..].starts_with(part))
    })
}

/// The modules named after `crate::`, groups in braces included: the line, the module, what follows it.
fn crate_paths(code: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let ident = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let two = |s: &str| {
            let module = ident(s);
            let part = ident(s[module.len()..].strip_prefix("::").unwrap_or(""));
            (line, module, part)
        };
        match rest.strip_prefix('{') {
            None => found.push(two(rest)),
            Some(group) => {
                let (mut depth, mut start) = (0, true);
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            found.push(two(&group[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// Checks one file; `path` is relative to `src/`, with slashes.
fn check(path: &str, text: &str) -> Report {
    let mut report = Report::default();
    let code = code_only(text);
    let shipped = without_tests(&code);
    let mut parts = path.split('/').map(|p| p.trim_end_matches(".rs"));
    let (module, part) = (parts.next().unwrap_or(path), parts.next().unwrap_or(""));
    check_text(path, text, &code, &mut report);
    match tier(module, part) {
        // A file of tests is one behind `#[cfg(test)] mod tests;`.
        _ if path.ends_with("/tests.rs") || path.contains("/tests/") => {}
        None => report.errors.push(format!("{path}: module `{module}` has no tier in tests/tidy.rs")),
        Some(own) => check_tiers(path, module, own, &shipped, &mut report),
    }
    check_bans(path, &shipped, &mut report);
    check_unsafe(path, &code, &mut report);
    check_functions(path, &shipped, &mut report);
    report
}

fn check_bans(path: &str, shipped: &str, report: &mut Report) {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return;
    }
    for (n, line) in shipped.lines().enumerate() {
        for (ban, why, but) in BANS {
            if has_word(line, ban) && !but.contains(&path) {
                report.errors.push(format!("{path}:{}: `{ban}`: {why}", n + 1));
            }
        }
    }
}

/// Size, tabs, line length, head, unfinished work.
fn check_text(path: &str, text: &str, code: &str, report: &mut Report) {
    let lines = text.lines().count();
    match lines {
        _ if lines > FILE_MAX => report.errors.push(format!("{path}: {lines} lines, at most {FILE_MAX}")),
        _ if lines > FILE_WARN => report.warnings.push(format!("{path}: {lines} lines")),
        _ => {}
    }
    if !text.starts_with("//!") {
        report.errors.push(format!("{path}: no head (`//!`) that says what this is"));
    }
    for (n, line) in text.lines().enumerate() {
        if line.contains('\t') {
            report.errors.push(format!("{path}:{}: a tab", n + 1));
        }
        if line.chars().count() > LINE_MAX {
            report.errors.push(format!("{path}:{}: longer than {LINE_MAX} characters", n + 1));
        }
        // Spelled in two parts, so that this file does not name them.
        if line.contains(concat!("FIX", "ME")) || line.contains(concat!("XX", "X:")) {
            report.errors.push(format!("{path}:{}: unfinished work is an issue, not a comment", n + 1));
        }
    }
    for (n, line) in code.lines().enumerate() {
        if has_word(line, "todo!") || has_word(line, "unimplemented!") {
            report.errors.push(format!("{path}:{}: unfinished", n + 1));
        }
    }
}

fn check_tiers(path: &str, module: &str, own: u8, shipped: &str, report: &mut Report) {
    for (line, used, part) in crate_paths(shipped) {
        // What is not a module is an item of lib.rs: a re-export, which only the faces may use.
        let theirs = tier(&used, &part).unwrap_or(tier("lib", "").expect("lib is in the table"));
        let strangers = STRANGERS.contains(&(module, &used)) || STRANGERS.contains(&(&used, module));
        if theirs > own || strangers {
            report.errors.push(format!("{path}:{line}: tier {own} uses `crate::{used}` of tier {theirs}"));
        }
    }
    if own > 3 {
        return;
    }
    for (n, line) in shipped.lines().enumerate() {
        for (ban, why) in CORE_BANS {
            if has_word(line, ban) {
                report.errors.push(format!("{path}:{}: `{ban}` in tier {own}: {why}", n + 1));
            }
        }
        if has_word(line, "Rc<") || has_word(line, "Rc::") {
            report.errors.push(format!("{path}:{}: `Rc` in tier {own}: keys, not pointers", n + 1));
        }
        // `use std::{fs, thread}` says it without the path that is looked for above.
        let group = line.trim_start().strip_prefix("use std::{").unwrap_or("");
        for word in ["fs", "thread"] {
            if group.split([',', '{', '}', ':']).any(|w| w.trim() == word) {
                report.errors.push(format!("{path}:{}: `std::{word}` in tier {own}", n + 1));
            }
        }
    }
}

fn check_unsafe(path: &str, code: &str, report: &mut Report) {
    if UNSAFE.contains(&path) {
        return;
    }
    for (n, line) in code.lines().enumerate() {
        let lint = has_word(line, "unsafe_code") && (line.contains("allow(") || line.contains("expect("));
        if has_word(line, "unsafe") || lint {
            report.errors.push(format!("{path}:{}: unsafe code outside of {UNSAFE:?}", n + 1));
        }
    }
}

/// Functions by length, from the line with `fn` to its closing brace.
fn check_functions(path: &str, code: &str, report: &mut Report) {
    let lines: Vec<&str> = code.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let modifiers = before.split_whitespace().all(|w| {
            w.starts_with("pub")
                || w.starts_with("in")
                || matches!(w, "const" | "unsafe" | "extern" | "crate)" | "super)")
        });
        if name.is_empty() || !modifiers {
            continue;
        }
        let length = block_end(&lines, n) - n;
        match length {
            _ if length > FN_MAX => {
                report.errors.push(format!("{path}:{}: fn {name} has {length} lines, at most {FN_MAX}", n + 1));
            }
            _ if length > FN_WARN => report.warnings.push(format!("{path}:{}: fn {name} has {length} lines", n + 1)),
            _ => {}
        }
    }
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("src/ can be read").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 10, "only {} files found: is this the right folder?", files.len());
    let mut all = Report::default();
    for file in files {
        let path = file.strip_prefix(&src).expect("below src").to_str().expect("UTF-8 names").replace('\\', "/");
        let report = check(&path, &fs::read_to_string(&file).expect("source is UTF-8"));
        all.errors.extend(report.errors);
        all.warnings.extend(report.warnings);
    }
    all.warnings.iter().for_each(|w| println!("long: {w}"));
    assert!(all.errors.is_empty(), "{} untidy:\n{}", all.errors.len(), all.errors.join("\n"));
}

#[test]
fn a_lower_tier_may_not_use_a_higher_one() {
    assert!(check("wire/mod.rs", "//! x\nuse crate::session::Session;\n").has(":2: tier 1 uses `crate::session`"));
    assert!(check("wire/mod.rs", "//! x\nfn f() { crate::net::go() }\n").has("`crate::net`"));
    assert!(
        check("rate.rs", "//! x\nuse crate::{\n    id::Block,\n    pump::{self, recv},\n};\n").has("`crate::pump`")
    );
    assert!(check("net/mod.rs", "//! x\nuse crate::sim::World;\n").has("`crate::sim`"));
    assert!(check("peer/mod.rs", "//! x\nuse crate::Session;\n").has("`crate::Session`"));
    assert!(check("new.rs", "//! x\n").has("no tier"));
    assert!(check("metainfo/mod.rs", "//! x\nuse crate::torrent::picker::Picker;\n").has("tier 2"));
    assert!(check("torrent/layout.rs", "//! x\nuse crate::torrent::picker::Picker;\n").has("tier 2"));
    assert!(check("metainfo/mod.rs", "//! x\nuse crate::torrent::layout::Layout;\n").errors.is_empty());
    assert!(check("metainfo/mod.rs", "//! x\nuse crate::{id::Block, torrent::layout};\n").errors.is_empty());
    let fine = "//! crate::session is above\nuse crate::{id::{Block, PieceIndex}, time::Instant};\nuse crate::wire::handshake;\n";
    assert!(check("wire/mod.rs", fine).errors.is_empty());
    assert!(check("session/mod.rs", "//! x\nuse crate::torrent::picker;\n").errors.is_empty());
}

#[test]
fn the_core_owns_nothing_of_the_world() {
    for bad in [
        "use std::time::Instant;",
        "let t = Instant::now();",
        "use std::time::SystemTime;",
        "use std::net::{IpAddr, TcpStream};",
        "std::net::UdpSocket::bind(a)",
        "use std::fs;",
        "use std::{fs, io};",
        "use std::{io, thread};",
        "std::thread::sleep(d)",
        "use std::collections::{BTreeMap, HashMap};",
        "x: HashSet<u8>,",
        "use mio::Token;",
        "libc::close(3)",
        "x: Rc<u8>,",
        "x: RefCell<u8>,",
    ] {
        let text = format!("//! x\n{bad}\n");
        assert!(!check("torrent/picker.rs", &text).errors.is_empty(), "{bad} passes in tier 2");
        let everywhere = BANS.iter().any(|(ban, ..)| bad.contains(ban));
        assert_eq!(check("net/mod.rs", &text).errors.is_empty(), !everywhere, "{bad} in tier 5");
        let in_test = format!("//! x\n#[cfg(test)]\nmod tests {{\n    {bad}\n}}\n");
        assert!(check("torrent/picker.rs", &in_test).errors.is_empty(), "{bad} does not pass in a test");
        let after = format!("//! x\n#[cfg(test)]\nmod tests {{\n}}\n{bad}\n");
        assert!(!check("torrent/picker.rs", &after).errors.is_empty(), "{bad} passes after a test");
        let outside = format!("//! x\n#[cfg(test)]\nmod tests;\n{bad}\n");
        assert!(!check("torrent/picker.rs", &outside).errors.is_empty(), "{bad} passes after a test module elsewhere");
    }
    for fine in ["use std::net::IpAddr;", "x: Arc<u8>,", "crate::time::Instant", "// std::fs", "let s = \"std::fs\";"] {
        assert!(check("torrent/picker.rs", &format!("//! x\n{fine}\n")).errors.is_empty(), "{fine}");
    }
}

#[test]
fn t12_no_map_is_by_a_hash_and_t55_nothing_goes_by_the_time_of_day() {
    for bad in [
        "use std::collections::{HashMap, VecDeque};",
        "x: HashSet<u8>,",
        "use std::hash::{BuildHasher, RandomState};",
        "use std::collections::hash_map::Entry;",
        "SystemTime::now()",
    ] {
        let text = format!("//! x\n{bad}\n");
        for path in ["cli/get.rs", "net/resolve/mod.rs", "storage/disk.rs", "dht/store.rs", "sim/world.rs"] {
            assert!(!check(path, &text).errors.is_empty(), "{bad} passes in {path}");
        }
        assert!(check("net/tests.rs", &text).errors.is_empty(), "{bad} does not pass in a test");
        assert_eq!(check("cli/logging.rs", &text).errors.is_empty(), bad.starts_with("SystemTime"), "{bad}");
    }
    // Its own struct of that name is none of these.
    assert!(check("storage/disk.rs", "//! x\nuse super::hash::Hasher;\n").errors.is_empty());
}

#[test]
fn unsafe_has_few_addresses() {
    let text = "//! x\nfn f() { unsafe { g() } }\n";
    assert!(check("pump.rs", text).has("unsafe"));
    assert!(check("storage/mod.rs", text).has("unsafe"));
    assert!(check("storage/map.rs", text).errors.is_empty());
    assert!(check("net/mod.rs", "//! x\n#![allow(unsafe_code)]\n").has("unsafe"));
    assert!(check("net/mod.rs", "//! unsafe is a word\n#![deny(unsafe_code)]\n// unsafe\n").errors.is_empty());
}

#[test]
fn size_has_bounds() {
    let body = |n: usize| format!("//! x\npub(crate) fn long(\n) {{\n{}}}\n", "    f();\n".repeat(n));
    assert!(check("id.rs", &body(FN_MAX - 3)).errors.is_empty());
    assert_eq!(check("id.rs", &body(FN_MAX - 3)).warnings.len(), 1);
    assert!(check("id.rs", &body(FN_MAX - 2)).has("fn long has 121 lines"));
    assert!(check("id.rs", &body(FN_WARN - 3)).warnings.is_empty());
    assert!(check("id.rs", &format!("//! x\n{}", "\n".repeat(FILE_MAX))).has("1001 lines"));
    assert_eq!(check("id.rs", &format!("//! x\n{}", "\n".repeat(FILE_WARN))).warnings.len(), 1);
    assert!(check("id.rs", &format!("//! {}\n", "é".repeat(LINE_MAX - 4))).errors.is_empty());
    assert!(check("id.rs", &format!("//! {}\n", "é".repeat(LINE_MAX - 3))).has("longer"));
}

#[test]
fn nothing_is_left_unfinished_or_without_a_head() {
    assert!(check("id.rs", "//! x\nfn f() { todo!() }\n").has("unfinished"));
    assert!(check("id.rs", "//! x\nfn f() { unimplemented!(\"later\") }\n").has("unfinished"));
    assert!(check("id.rs", concat!("//! x\n// FIX", "ME: later\n")).has("unfinished work"));
    assert!(check("id.rs", "//! x\n\tfn f() {}\n").has(":2: a tab"));
    assert!(check("id.rs", "use std::fmt;\n").has("no head"));
}

#[test]
fn strings_and_comments_are_not_code() {
    let text = "a /* { /* \" */ */ b \"x \\\" { // \" c r#\"{ \" \"# d '{' e '\\'' f<'a> // {\ng b\"}\" r#type br\"}\"";
    let code = code_only(text);
    assert!(!code.contains('{') && !code.contains('}'), "{code}");
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "b", "c", "d", "e", "f<'a>", "g", "b", "r#type"]);
}
