//! File names out of a torrent, made safe to create.
//!
//! A torrent's names are a stranger's bytes. What comes out of here stays below the download
//! folder, can be created on any common file system, cannot dress up as something else in a
//! terminal, and is the same on every run, so that a torrent finds its files again after a restart.
//!
//! A component:
//! - invalid UTF-8, control characters, `/`, `\`, and the marks that turn the direction of text
//!   become `_`, and so does the `:` of a drive letter;
//! - dots and spaces at the end are dropped, which makes `.` and `..` empty;
//! - a DOS device name (`CON`, `aux.txt`) gets a `_` in front;
//! - what is longer than 255 bytes is cut, its extension kept.
//!
//! A path: empty components are dropped; folders that are too deep, or that make the path too
//! long, are left out, the file's own name never. Paths that come out equal, or that are a folder
//! of another file, are told apart by a number: `name (1).ext`.
//!
//! Not done: case and Unicode normalisation. `A` and `a` are two files where the file system says
//! so. Characters that only Windows forbids are kept, because other clients keep them too and
//! their downloads are to be found. The names are no defence against links that are on the disk
//! already: opening files beneath the download folder is the storage's business.

use super::File;
use crate::config::limits;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a file is called whose path says nothing.
const UNNAMED: &str = "unnamed";

/// Room for the ` (1234567)` that tells equal names apart.
const SUFFIX: usize = 12;

/// The longest extension that is kept when a name is cut, its dot included.
const EXTENSION: usize = 32;

/// Makes one component safe. Empty when nothing is left of it.
pub(super) fn component(bytes: &[u8]) -> Cow<'_, str> {
    let mut text = String::from_utf8_lossy(bytes);
    if text.contains(is_unsafe) {
        text = text.replace(is_unsafe, "_").into();
    }
    if let [letter, b':', ..] = text.as_bytes() {
        if letter.is_ascii_alphabetic() {
            text.to_mut().replace_range(1..2, "_");
        }
    }
    trim(&mut text);
    cut(&mut text);
    if is_device(&text) {
        text.to_mut().insert(0, '_');
        cut(&mut text);
    }
    text
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '/' | '\\' | char::REPLACEMENT_CHARACTER)
        // line and paragraph separators; marks, embeddings, overrides and isolates of direction
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Drops dots and spaces at the end, which Windows would drop itself.
fn trim(text: &mut Cow<'_, str>) {
    let len = text.trim_end_matches(['.', ' ']).len();
    if len < text.len() {
        text.to_mut().truncate(len);
    }
}

/// Cuts to [`limits::PATH_COMPONENT`].
fn cut(text: &mut Cow<'_, str>) {
    if text.len() > limits::PATH_COMPONENT {
        let (stem, ext) = split_extension(text);
        *text = format!("{}{ext}", shorten(stem, limits::PATH_COMPONENT - ext.len())).into();
        trim(text);
    }
}

/// The longest start of `text` that has at most `max` bytes and ends with a whole character.
fn shorten(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|&i| text.is_char_boundary(i));
    &text[..end.unwrap_or(0)]
}

/// Splits off the extension with its dot. Empty for a name that has none or too long a one.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= EXTENSION => name.split_at(dot),
        _ => (name, ""),
    }
}

/// Whether DOS and Windows would open a device under this name.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end_matches(' ');
    let is = |s: &str| stem.eq_ignore_ascii_case(s);
    if ["con", "prn", "aux", "nul", "conin$", "conout$"].into_iter().any(is) {
        return true;
    }
    let mut chars = stem.chars();
    let digit = chars.next_back();
    let port = chars.as_str();
    (port.eq_ignore_ascii_case("com") || port.eq_ignore_ascii_case("lpt"))
        && digit.is_some_and(|d| matches!(d, '0'..='9' | '¹' | '²' | '³'))
}

/// The path of a file in the folder `name` (which is safe already), from the components the
/// torrent gives.
pub(super) fn path(name: &str, components: &[&[u8]]) -> String {
    let mut parts = vec![Cow::Borrowed(name)];
    for c in components.iter().map(|c| component(c)).filter(|c| !c.is_empty()) {
        if parts.len() == limits::PATH_DEPTH {
            parts.pop();
        }
        parts.push(c);
    }
    if parts.len() == 1 {
        parts.push(UNNAMED.into());
    }
    let mut len = parts.iter().map(|p| p.len() + 1).sum::<usize>() - 1;
    while len > limits::PATH_TOTAL - SUFFIX && parts.len() > 2 {
        len -= parts.remove(parts.len() - 2).len() + 1;
    }
    parts.join("/")
}

/// Renames files so that no path comes twice and none is a folder of another. The first file in
/// order keeps its path. Pad files are left alone: they are never created.
pub(super) fn make_unique(files: &mut [File]) {
    let mut order: Vec<usize> = (0..files.len()).filter(|&i| !files[i].pad).collect();
    order.sort_unstable_by(|&a, &b| files[a].path.cmp(&files[b].path).then(a.cmp(&b)));
    let names = Names { files, order: &order };

    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    // The number to try next, by what stays the same of a name: without it, many names that are
    // cut to the same start would each try all the numbers again.
    let mut next: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut last = None;
    for &i in &order {
        let path = names.of(i);
        let is_first = last.replace(path) != Some(path);
        if is_first && !names.is_folder(path) {
            continue;
        }
        let (stem, ext) = stem(path);
        let number = next.entry((stem, ext)).or_insert(1);
        let path = loop {
            let candidate = format!("{stem} ({number}){ext}");
            *number += 1;
            if !names.is_file(&candidate) && !names.is_folder(&candidate) && !given.contains_key(&candidate) {
                break candidate;
            }
        };
        given.insert(path, i);
    }
    for (path, i) in given {
        files[i].path = path;
    }
}

/// Splits a path so that a number fits between the parts.
fn stem(path: &str) -> (&str, &str) {
    let name_at = path.rfind('/').map_or(0, |slash| slash + 1);
    let (name, ext) = split_extension(&path[name_at..]);
    let name = shorten(name, limits::PATH_COMPONENT - SUFFIX - ext.len());
    (&path[..name_at + name.len()], ext)
}

/// The paths as the torrent has them, sorted.
#[derive(Clone, Copy)]
struct Names<'a> {
    files: &'a [File],
    order: &'a [usize],
}

impl<'a> Names<'a> {
    fn of(self, i: usize) -> &'a str {
        &self.files[i].path
    }

    fn is_file(self, path: &str) -> bool {
        self.order.binary_search_by(|&i| self.of(i).cmp(path)).is_ok()
    }

    fn is_folder(self, path: &str) -> bool {
        let inside = format!("{path}/");
        let first = self.order.partition_point(|&i| self.of(i) < inside.as_str());
        self.order.get(first).is_some_and(|&i| self.of(i).starts_with(&inside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe(text: &str) -> String {
        component(text.as_bytes()).into_owned()
    }

    fn unique(paths: &[&str]) -> Vec<String> {
        let file = |p: &&str| File { path: (*p).to_string(), len: 1, pad: false, executable: false };
        let mut files: Vec<File> = paths.iter().map(file).collect();
        make_unique(&mut files);
        files.into_iter().map(|f| f.path).collect()
    }

    #[test]
    fn ordinary_names_are_kept_and_not_copied() {
        for name in ["a", "a.b", ".hidden", " lead", "mañana.mkv", "日本語", "what? <2>: a*b|c\"", "\u{200b}x"] {
            assert!(matches!(component(name.as_bytes()), Cow::Borrowed(s) if s == name), "{name}");
        }
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        for (from, to) in [
            ("", ""),
            (".", ""),
            ("..", ""),
            (".. ", ""),
            (". . .", ""),
            ("../../x", ".._.._x"),
            ("a/../../x", "a_.._.._x"),
            ("/etc/x", "_etc_x"),
            ("\\\\srv\\x", "__srv_x"),
            ("..\\..\\x", ".._.._x"),
            ("C:\\x", "C__x"),
            ("c:", "c_"),
            ("a\0b", "a_b"),
        ] {
            assert_eq!(safe(from), to, "{from:?}");
        }
    }

    #[test]
    fn nothing_dresses_up() {
        for (from, to) in [
            ("\x1b]0;x\x07\r\n\t\x7f\u{9b}", "_]0;x______"),
            ("gpj\u{202e}exe.jpg", "gpj_exe.jpg"),
            ("\u{2066}a\u{2069}\u{200f}\u{61c}\u{2028}", "_a____"),
            ("CON", "_CON"),
            ("aux.txt", "_aux.txt"),
            ("nul .a.b", "_nul .a.b"),
            ("Com1", "_Com1"),
            ("lpt².x", "_lpt².x"),
            ("com", "com"),
            ("com10", "com10"),
            ("console", "console"),
            ("name. . ", "name"),
        ] {
            assert_eq!(safe(from), to, "{from:?}");
        }
        assert_eq!(component(b"a\xff\xfeb\xc3"), "a__b_");
    }

    #[test]
    fn long_names_are_cut_between_characters_and_keep_their_extension() {
        let name = safe(&format!("{}.torrent", "é".repeat(200)));
        assert_eq!(name, format!("{}.torrent", "é".repeat(123)));
        assert_eq!(name.len(), 254);
        assert_eq!(safe(&"x".repeat(300)), "x".repeat(255));
        assert_eq!(safe(&format!("CON{}x", " ".repeat(300))), "_CON", "cut first, then looked at");
        assert_eq!(safe(&format!("CON.{}", "y".repeat(251))).len(), 255);
    }

    #[test]
    fn a_safe_name_stays_as_it_is_and_random_bytes_become_safe() {
        let mut rng = crate::rng::seeded(1);
        let odd: [&[u8]; 10] =
            [b"..", b". ", b"/\\", b"c:", b"\xe2\x80", b"\xae.", b"\0\x1b", b"CO", b"N.", b"\xc3\xa9"];
        for _ in 0..20_000 {
            let n = if rng.u32(..50) == 0 { rng.usize(..200) } else { rng.usize(..6) };
            let bytes: Vec<u8> = (0..n).flat_map(|_| odd[rng.usize(..odd.len())]).copied().collect();
            let once = component(&bytes).into_owned();
            assert_eq!(component(once.as_bytes()), once.as_str());
            assert!(once.len() <= 255 && once != "." && once != "..", "{once:?}");
            assert!(!once.contains(['/', '\\', '\0']) && !once.ends_with(['.', ' ']), "{once:?}");
        }
    }

    #[test]
    fn paths_have_a_depth_and_a_length() {
        assert_eq!(path("t", &[b"", b"a", b"..", b"b"]), "t/a/b");
        assert_eq!(path("t", &[b"..", b""]), "t/unnamed");
        assert_eq!(path("t", &[]), "t/unnamed");
        let mut deep: Vec<&[u8]> = vec![b"d"; 100];
        deep.push(b"file");
        let got = path("t", &deep);
        assert_eq!(got.split('/').count(), limits::PATH_DEPTH);
        assert!(got.ends_with("/d/file"));
        for (len, kept) in [(limits::PATH_COMPONENT, 255), (limits::PATH_COMPONENT + 1, 255)] {
            assert_eq!(path("t", &[&vec![b'y'; len]]), format!("t/{}", "y".repeat(kept)), "{len}");
        }
        for (deep, kept) in [(limits::PATH_DEPTH - 1, limits::PATH_DEPTH), (limits::PATH_DEPTH, limits::PATH_DEPTH)] {
            assert_eq!(path("t", &vec![&b"d"[..]; deep]).split('/').count(), kept, "{deep}");
        }
        let long = [b'x'; 255];
        let got = path(&"n".repeat(255), &[&long, &long, &long, &long, b"file"]);
        assert_eq!(got.split('/').map(str::len).collect::<Vec<_>>(), [255, 255, 255, 4]);
    }

    #[test]
    fn equal_paths_are_told_apart() {
        assert_eq!(unique(&["t/a.b", "t/a.b", "t/a.b"]), ["t/a.b", "t/a (1).b", "t/a (2).b"]);
        assert_eq!(unique(&["t/a", "t/a", "t/a (1)"]), ["t/a", "t/a (2)", "t/a (1)"], "real names come first");
        assert_eq!(unique(&["t/a", "t/A"]), ["t/a", "t/A"]);
        assert_eq!(unique(&["t/.x", "t/.x"]), ["t/.x", "t/.x (1)"]);
    }

    #[test]
    fn a_file_gives_way_to_a_folder() {
        assert_eq!(unique(&["t/a", "t/a b", "t/a/c"]), ["t/a (1)", "t/a b", "t/a/c"]);
        assert_eq!(unique(&["t/a/c", "t/a", "t/a", "t/a (1)/x"]), ["t/a/c", "t/a (2)", "t/a (3)", "t/a (1)/x"]);
    }

    #[test]
    fn numbers_fit_into_full_names() {
        let full = format!("t/{}.mkv", "é".repeat(125));
        let got = unique(&[&full, &full]);
        assert_eq!(got[1], format!("t/{} (1).mkv", "é".repeat(119)));
        assert!(got[1].len() <= 2 + limits::PATH_COMPONENT);
    }

    #[test]
    fn numbered_names_do_not_meet() {
        // Cut and numbered, the first becomes what the second becomes when it is only numbered.
        let start = "a".repeat(214);
        let first = format!("{start} (1).{}", "b".repeat(36));
        let second = format!("{start}.{} (1)", "b".repeat(24));
        let got = unique(&[&first, &first, &second, &second]);
        let mut sorted = got.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 4, "{got:?}");
    }

    #[test]
    fn many_equal_paths_and_many_that_are_cut_alike_do_not_search_again() {
        let mut files: Vec<File> = Vec::new();
        let mut add = |path: String| files.push(File { path, len: 1, pad: false, executable: false });
        for _ in 0..100_000 {
            add("t/same".to_string());
        }
        let start = "y".repeat(245);
        for i in 0..10_000 {
            add(format!("t/{start}{i:05}"));
            add(format!("t/{start}{i:05}"));
        }
        make_unique(&mut files);
        assert_eq!(files[99_999].path, "t/same (99999)");
        let mut paths: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        assert!(paths.windows(2).all(|w| w[0] != w[1]));
        assert!(paths.iter().all(|p| p.len() <= 257));
    }
}
