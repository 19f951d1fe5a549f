//! A volume that is not there: nothing is made where it should be.

use super::super::tests::{Rig, T, TempDir, config, good, layout};
use super::super::{Disk, Done, Lane};
use super::*;
use crate::storage::Storage;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn nothing_is_made_where_a_volume_was() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("t/a", 65_536)]));
    let dir = tmp.path().join("mounted/here");
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, &dir);
    rig.s.prepare(T, &|_| true).unwrap();
    rig.s.close(T).unwrap();
    fs::rename(tmp.path().join("mounted"), tmp.path().join("away")).unwrap();
    rig.open(&dir);
    let e = rig.s.prepare(T, &|_| true).unwrap_err();
    assert_eq!((e.kind, e.path), (DiskErrorKind::Missing, dir.clone()));
    rig.receive_piece(0);
    rig.hash(0);
    assert!(matches!(&rig.settle()[..], [Done::Failed { error, .. }] if error.kind == DiskErrorKind::Missing));
    assert!(!tmp.path().join("mounted").exists());
    rig.s.close(T).unwrap();
    // It is back.
    fs::rename(tmp.path().join("away"), tmp.path().join("mounted")).unwrap();
    rig.open(&dir);
    rig.receive_piece(0);
    rig.hash(0);
    assert_eq!(rig.settle().iter().map(good).collect::<Vec<_>>(), [0]);
}

#[test]
fn an_empty_folder_on_another_device_is_not_the_volume() {
    let other = Path::new("/dev/shm");
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("t/a", 65_536), ("t/b", 65_536)]));
    let dev = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    if dev(other).is_none_or(|d| Some(d) == dev(tmp.path())) {
        return; // there is no other device here
    }
    let other = other.join(tmp.path().file_name().unwrap());
    let (link, here) = (tmp.path().join("link"), tmp.path().join("here"));
    fs::create_dir(&other).unwrap();
    fs::create_dir(&here).unwrap();
    symlink(&here, &link).unwrap();
    let point_to = |to: &Path| {
        fs::remove_file(&link).unwrap();
        symlink(to, &link).unwrap();
    };
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, &link);
    rig.receive_piece(0);
    rig.hash(0);
    assert_eq!(rig.settle().len(), 1);
    rig.s.close(T).unwrap();
    point_to(&other);
    rig.open(&link);
    let e = rig.s.prepare(T, &|_| true).unwrap_err();
    assert_eq!(e.kind, DiskErrorKind::Unmounted);
    assert_eq!(e.to_string(), format!("{}: open folder: its volume is not mounted", link.display()));
    rig.receive_piece(1);
    rig.hash(1);
    assert!(matches!(&rig.settle()[..], [Done::Failed { error, .. }] if error.kind == DiskErrorKind::Unmounted));
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0, "nothing was made there");
    rig.s.close(T).unwrap();
    // A volume may have another number when it is mounted again: its files tell.
    fs::create_dir(other.join("t")).unwrap();
    fs::copy(here.join("t/a"), other.join("t/a")).unwrap();
    rig.open(&link);
    rig.receive_piece(1);
    rig.hash(1);
    assert_eq!(rig.settle().iter().map(good).collect::<Vec<_>>(), [1]);
    assert!(other.join("t/b").exists() && !here.join("t/b").exists());
    drop(rig);
    fs::remove_dir_all(&other).unwrap();
}

#[test]
fn what_an_earlier_process_wrote_is_synced_when_it_is_asked_for() {
    let (tmp, layout) = (TempDir::new(), layout(16_384, &[("t/a", 16_384), ("t/s/b", 8_192), ("t/s/c", 24_576)]));
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, tmp.path());
    (0..layout.pieces()).for_each(|i| {
        rig.receive_piece(i);
        rig.hash(i);
    });
    assert_eq!(rig.settle().len(), layout.pieces() as usize);
    // It dies before it has synced anything.
    drop(rig);
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, tmp.path());
    assert_eq!(rig.s.files.take_dirty(T), Default::default(), "this one wrote nothing");
    let f = FileIndex::new;
    let folders = |of: &[&str]| of.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    rig.s.cover(T, PieceIndex::new(1));
    let (files, names) = rig.s.files.take_dirty(T);
    assert_eq!((files, names), (vec![f(1), f(2)], folders(&["", "t", "t/s"])), "both files of the piece");
    // What is covered once is this process's own from then on.
    rig.s.cover(T, PieceIndex::new(0));
    rig.s.cover(T, PieceIndex::new(2));
    assert_eq!(rig.s.files.take_dirty(T), (vec![f(0)], folders(&["", "t"])));
    rig.s.files.write_at(T, 16_384, &[1]).unwrap();
    assert_eq!(rig.s.files.take_dirty(T).0, [f(1)]);
}

#[test]
fn a_volume_that_an_earlier_process_saw_is_missed_and_a_deleted_folder_is_made() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("t/a", 65_536)]));
    let dir = tmp.path().join("volume/here");
    let begin = |home: Option<u64>| {
        let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, &dir);
        home.into_iter().for_each(|home| rig.s.set_home(T, home));
        (rig.s.prepare(T, &|_| true).map_err(|e| e.kind), rig.s.home(T))
    };
    let (made, home) = begin(None);
    assert_eq!(made, Ok(()));
    let home = home.expect("it was found");
    // What lies there is not the file system that it was: it has no file of the torrent.
    assert_eq!(begin(Some(home ^ 1)), (Err(DiskErrorKind::Unmounted), Some(home ^ 1)));
    fs::create_dir_all(dir.join("t")).unwrap();
    fs::write(dir.join("t/a"), [1; 5000]).unwrap();
    assert_eq!(begin(Some(home ^ 1)), (Ok(()), Some(home)), "it has another number now");
    fs::remove_dir_all(tmp.path().join("volume")).unwrap();
    assert_eq!(begin(Some(home ^ 1)).0, Err(DiskErrorKind::Missing));
    assert!(!tmp.path().join("volume").exists());
    assert_eq!(begin(Some(home)).0, Ok(()), "somebody has deleted it");
    assert!(dir.exists());
}
