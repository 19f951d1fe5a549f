//! A keeper whose folder does its jobs when the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::*;
use crate::api::Add;
use crate::config::Config;
use crate::metainfo::Metainfo;
use crate::storage::Memory;
use crate::time::Instant;

#[derive(Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    jobs: VecDeque<(u64, Job)>,
    done: VecDeque<(u64, io::Result<()>)>,
    waits: bool,
    /// How long a file was when its sync was asked for.
    covered: usize,
}

impl Files {
    /// Does the next job.
    fn work(&mut self) -> Job {
        let (ticket, job) = self.jobs.pop_front().expect("a job");
        if let Job::Create { name, bytes } | Job::Replace { name, bytes } = &job {
            self.files.insert(name.clone(), bytes.clone());
        }
        if let Job::Remove { names } = &job {
            names.iter().for_each(|name| _ = self.files.remove(name));
        }
        let result = match &job {
            Job::Append { name, bytes } => self.append(name, bytes),
            Job::Adopt { from, to, bytes } => self.append(from, bytes).and_then(|()| self.rename(from, to)),
            _ => Ok(()),
        };
        self.done.push_back((ticket, result));
        job
    }
}

impl Folder for Files {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.get(name).cloned())
    }
    fn waits(&mut self) -> bool {
        self.waits
    }
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?.extend_from_slice(bytes);
        Ok(())
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let bytes = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.insert(to.into(), bytes);
        Ok(())
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.files.remove(name);
        Ok(())
    }
    fn submit(&mut self, ticket: u64, job: Job) {
        if let Job::Sync { name } = &job {
            self.covered = self.files.get(name).map_or(0, Vec::len);
        }
        self.jobs.push_back((ticket, job));
    }
    fn poll_done(&mut self) -> Option<(u64, io::Result<()>)> {
        self.done.pop_front()
    }
}

const TORRENT: &[u8] =
    b"d4:infod6:lengthi32768e4:name1:a12:piece lengthi16384e6:pieces40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbee";

/// A session with a torrent, and a keeper whose journal of it can be appended to.
fn ready() -> (Session, Memory, Keeper<Files>, TorrentKey, InfoHash) {
    let (mut s, mut st) = (Session::new(Config::default(), [1; 32]), Memory::new());
    let meta = Metainfo::parse(TORRENT).expect("a torrent");
    let hash = meta.info_hash.expect("version 1");
    let key = s.add(Instant::ZERO, Add::new(meta, "d")).expect("it is new");
    let mut keeper = Keeper::new(Files::default(), 5);
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: true, checking: false });
    assert!(matches!(keeper.folder().work(), Job::Create { .. }));
    assert_eq!(keeper.turn(&s, &mut st), None);
    assert_eq!(keeper.folder().work(), Job::SyncFolder);
    assert_eq!(keeper.turn(&s, &mut st), None);
    (s, st, keeper, key, hash)
}

#[test]
fn each_sync_has_its_own_answer() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let p = PieceIndex::new;
    keeper.sync_asked(key, 1, vec![p(1), p(0)]);
    keeper.data_synced(&s, &mut st, key, 1);
    // Its journal is being synced when the torrent stops on an error, begins anew, and has data synced again.
    keeper.note(&s, &mut st, key, &hash, Note::Lost(p(0)));
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: false, checking: false });
    keeper.sync_asked(key, 2, vec![p(0)]);
    keeper.data_synced(&s, &mut st, key, 1);
    keeper.data_synced(&s, &mut st, key, 2);
    assert!(matches!(keeper.folder().work(), Job::Sync { .. }));
    assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Synced(key, 1)), "the older is not taken for the newer");
    assert_eq!(keeper.turn(&s, &mut st), None);
    assert!(matches!(keeper.folder().work(), Job::Sync { .. }));
    assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Synced(key, 2)));
    assert!(keeper.is_idle());
}

#[test]
fn a_journal_that_cannot_be_told_of_a_loss_goes() {
    let p = PieceIndex::new;
    for loses in [false, true] {
        let (s, mut st, mut keeper, key, hash) = ready();
        if loses {
            keeper.note(&s, &mut st, key, &hash, Note::Lost(p(1)));
            assert_eq!(keeper.turn(&s, &mut st), None);
        } else {
            keeper.sync_asked(key, 1, vec![p(1)]);
            keeper.data_synced(&s, &mut st, key, 1);
        }
        assert!(matches!(keeper.folder().work(), Job::Sync { .. }));
        keeper.folder().done.back_mut().expect("it was done").1 = Err(io::Error::other("broken"));
        keeper.turn(&s, &mut st);
        assert_eq!(keeper.folder().files.contains_key(&name::have(&hash)), !loses);
        // What is lost later cannot be noted either.
        keeper.note(&s, &mut st, key, &hash, Note::Lost(p(0)));
        assert!(!keeper.folder().files.contains_key(&name::have(&hash)));
    }
}

#[test]
fn what_is_lost_while_it_is_synced_is_not_noted_as_durable() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let p = PieceIndex::new;
    keeper.sync_asked(key, 1, vec![p(1), p(0)]);
    keeper.note(&s, &mut st, key, &hash, Note::Lost(p(1)));
    assert_eq!(keeper.kept[&key].asked, (1, vec![p(0)]));
}

#[test]
fn what_makes_no_sense_is_set_aside_and_the_rest_comes() {
    let golden = |name: &str| std::fs::read(format!("testdata/state/{name}")).expect("a golden file");
    let hash = "e4667bb9b58f1c6bdedb414d2062d10c185863c0";
    let mut folder = Files::default();
    let newer = String::from_utf8_lossy(&golden("torrent-1-magnet")).replace("versioni1e", "versioni9e");
    let files: [(String, Vec<u8>); 8] = [
        (format!("{hash}.torrent"), golden("torrent-1")),
        (format!("{}.torrent", "1".repeat(40)), golden("torrent-1")),
        (format!("{}.torrent", "2".repeat(40)), golden("torrent-1-magnet")),
        (format!("{}.torrent", "3".repeat(40)), Vec::new()),
        (format!("{}.torrent", "4".repeat(40)), newer.into_bytes()),
        (format!("{hash}.resume"), b"d4:have".to_vec()),
        (format!("{hash}.have"), golden("have-1")),
        ("dull.torrent".into(), b"not ours".to_vec()),
    ];
    folder.files.extend(files);
    folder.files.get_mut(&format!("{hash}.have")).expect("it is there")[40] ^= 1;
    let mut keeper = Keeper::new(folder, 5);
    let all = keeper.recall().expect("a folder");
    assert_eq!(all.iter().map(|a| a.meta.name.as_str()).collect::<Vec<_>>(), ["golden", "gold"]);
    let (resume, journal) = keeper.load(&InfoHash::from_hex(hash).expect("40 digits"), 4);
    assert_eq!((resume.map(|r| r.len()), journal.map(|j| j.len())), (Some(0), Some(224)), "there was something");
    let mut aside: Vec<_> = keeper.folder().files.keys().filter(|n| n.ends_with(".bad")).cloned().collect();
    aside.sort_unstable();
    let mut wanted = vec![format!("{hash}.have.bad"), format!("{hash}.resume.bad")];
    wanted.splice(0..0, ["1", "3"].map(|n| format!("{}.torrent.bad", n.repeat(40))));
    assert_eq!(aside, wanted);
}

#[test]
fn a_torrent_is_remembered_until_it_is_forgotten() {
    let (s, mut st, mut keeper, key, hash) = ready();
    keeper.remember(key, &hash, s.recollection(key).expect("it is there"));
    assert_eq!(keeper.turn(&s, &mut st), None, "not before it is on the device");
    assert!(matches!(keeper.folder().work(), Job::Replace { .. }));
    assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Remembered(key, Ok(()))));
    assert_eq!(keeper.recall().expect("a folder").len(), 1);
    // A change is on its way, and does not bring it back.
    keeper.remember(key, &hash, s.recollection(key).expect("it is there"));
    keeper.forget(key, &hash);
    assert_eq!(keeper.recall().expect("a folder").len(), 0);
    while !keeper.folder().jobs.is_empty() {
        keeper.folder().work();
    }
    assert_eq!(keeper.folder().list().expect("a folder"), Vec::<String>::new());
}

/// The jobs that wait, by what they write to.
fn waiting(keeper: &mut Keeper<Files>) -> Vec<String> {
    let say = |job: &Job| match job {
        Job::Append { name, .. } => format!("append {name}"),
        Job::Adopt { to, .. } => format!("adopt {to}"),
        Job::Create { name, .. } => format!("create {name}"),
        Job::Sync { name } => format!("sync {name}"),
        Job::Remove { names } => format!("remove {}", names.join(" ")),
        other => format!("{other:?}"),
    };
    keeper.folder().jobs.iter().map(|(_, job)| say(job)).collect()
}

/// Has all jobs done that there are, and those that follow from them.
fn settle(keeper: &mut Keeper<Files>, s: &Session, st: &mut Memory) {
    while !keeper.is_idle() {
        if !keeper.folder().jobs.is_empty() {
            keeper.folder().work();
        }
        keeper.turn(s, st);
    }
}

fn replay(keeper: &mut Keeper<Files>, hash: &InfoHash) -> Replay {
    Replay::of(hash, &keeper.folder().files[&name::have(hash)], 2)
}

#[test]
fn on_a_disk_that_lets_it_wait_the_loop_appends_nothing() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let (p, have) = (PieceIndex::new, name::have(&hash));
    keeper.folder().waits = true;
    let before = keeper.folder().files.clone();
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: false, checking: true });
    keeper.sync_asked(key, 1, vec![p(0)]);
    keeper.data_synced(&s, &mut st, key, 1);
    assert_eq!(waiting(&mut keeper), [format!("append {have}"), format!("sync {have}")]);
    // It is quick again, but what is queued comes first.
    keeper.folder().waits = false;
    keeper.note(&s, &mut st, key, &hash, Note::Settled);
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: false, checking: true });
    assert_eq!(keeper.turn(&s, &mut st), None);
    assert_eq!(keeper.folder().files, before);
    assert_eq!(waiting(&mut keeper)[2..], [format!("append {have}")]);
    (0..3).for_each(|_| _ = keeper.folder().work());
    assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Synced(key, 1)));
    let all = replay(&mut keeper, &hash);
    assert!(!all.damaged && all.phase == Phase::Checking, "{all:?}");
    // Nothing is queued any more.
    keeper.note(&s, &mut st, key, &hash, Note::Settled);
    assert_eq!(keeper.turn(&s, &mut st), None);
    assert_eq!((replay(&mut keeper, &hash).phase, keeper.folder().jobs.len()), (Phase::Trading, 0));
}

#[test]
fn a_journal_is_replaced_behind_what_is_queued() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let (have, new) = (name::have(&hash), name::have_new(&hash));
    keeper.folder().waits = true;
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: true, checking: true });
    assert_eq!(waiting(&mut keeper), [format!("append {have}"), format!("create {new}")]);
    keeper.note(&s, &mut st, key, &hash, Note::Settled);
    assert_eq!(keeper.turn(&s, &mut st), None);
    (0..2).for_each(|_| _ = keeper.folder().work());
    keeper.folder().waits = false;
    assert_eq!(keeper.turn(&s, &mut st), None);
    assert_eq!(waiting(&mut keeper), [format!("append {have}"), format!("adopt {have}")]);
    // What comes now is for the new one.
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: false, checking: true });
    assert_eq!(keeper.turn(&s, &mut st), None);
    settle(&mut keeper, &s, &mut st);
    let all = replay(&mut keeper, &hash);
    assert!(!all.damaged && all.phase == Phase::Checking, "{all:?}");
    assert!(!keeper.folder().files.contains_key(&new));
}

#[test]
fn what_was_lost_is_not_queued() {
    let p = PieceIndex::new;
    for queued in [false, true] {
        let (s, mut st, mut keeper, key, hash) = ready();
        keeper.folder().waits = true;
        if queued {
            keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: false, checking: true });
            keeper.sync_asked(key, 1, vec![p(0), p(1)]);
            keeper.data_synced(&s, &mut st, key, 1);
        }
        keeper.note(&s, &mut st, key, &hash, Note::Lost(p(0)));
        assert_eq!(keeper.turn(&s, &mut st), None);
        if !queued {
            let all = replay(&mut keeper, &hash);
            assert_eq!(all.records.last().map(|r| r.kind), Some(Kind::Lost), "at once");
            continue;
        }
        assert!(!keeper.folder().files.contains_key(&name::have(&hash)), "no journal rather than a late word");
        // What was queued finds no journal, and says nothing of the next one.
        while !keeper.folder().jobs.is_empty() {
            keeper.folder().work();
        }
        assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Synced(key, 1)));
        keeper.sync_asked(key, 2, vec![p(1)]);
        keeper.data_synced(&s, &mut st, key, 2);
        settle(&mut keeper, &s, &mut st);
        assert!(!replay(&mut keeper, &hash).damaged);
    }
}

#[test]
fn an_append_that_fails_ends_its_own_journal_and_no_other() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let have = name::have(&hash);
    keeper.folder().waits = true;
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: false, checking: true });
    assert_eq!(keeper.turn(&s, &mut st), None);
    // A snapshot begins; then the append of before fails.
    keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite: true, checking: false });
    keeper.folder().work();
    keeper.folder().done.back_mut().expect("it was done").1 = Err(io::Error::other("broken"));
    assert_eq!(keeper.turn(&s, &mut st), None);
    assert!(!keeper.folder().files.contains_key(&have), "it misses something");
    assert_eq!(keeper.kept[&key].stage, Stage::Moving(Vec::new(), false));
    settle(&mut keeper, &s, &mut st);
    assert!(keeper.kept[&key].stage == Stage::Ready && !replay(&mut keeper, &hash).damaged);
}

#[test]
fn what_is_stored_already_is_not_stored_again() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let (same, other) = (s.recollection(key).expect("it is there"), b"d5:btmiodee".to_vec());
    let is_new = |job: Job| matches!(job, Job::Replace { .. });
    keeper.folder().files.insert(name::torrent(&hash), same.clone());
    // One sync for the first, and one for all that came meanwhile: names that were given may not be on the device.
    let keys: Vec<_> = (0..5).map(|n| TorrentKey::new(n, 7)).collect();
    keys.iter().for_each(|key| keeper.remember(*key, &hash, same.clone()));
    assert_eq!(keeper.folder().work(), Job::SyncFolder);
    assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Remembered(keys[0], Ok(()))));
    assert_eq!(keeper.turn(&s, &mut st), None, "not before the folder is synced");
    assert_eq!(keeper.folder().work(), Job::SyncFolder);
    for key in &keys[1..] {
        assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Remembered(*key, Ok(()))));
    }
    assert!(keeper.is_idle() && keeper.folder().jobs.is_empty());
    // What has changed is stored, and so is what is as it was when that is still on its way.
    keeper.remember(key, &hash, other);
    keeper.remember(key, &hash, same.clone());
    assert!(is_new(keeper.folder().work()) && is_new(keeper.folder().work()));
    while keeper.turn(&s, &mut st).is_some() {}
    assert_eq!(keeper.folder().files[&name::torrent(&hash)], same);
    // A removal is on its way.
    keeper.dismiss(&hash);
    keeper.folder().files.insert(name::torrent(&hash), same.clone());
    keeper.remember(key, &hash, same.clone());
    assert!(matches!(keeper.folder().work(), Job::Remove { .. }) && is_new(keeper.folder().work()));
    while keeper.turn(&s, &mut st).is_some() {}
    // After a failure nothing tells what is on the device.
    keeper.remember(key, &hash, same.clone());
    assert_eq!(keeper.folder().work(), Job::SyncFolder);
    keeper.folder().done.back_mut().expect("it was done").1 = Err(io::Error::other("broken"));
    assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Remembered(key, Err("broken".into()))));
    keeper.remember(key, &hash, same);
    assert!(is_new(keeper.folder().work()));
}

#[test]
fn a_snapshot_that_was_given_up_is_not_named() {
    let p = PieceIndex::new;
    for fails in [false, true] {
        let (s, mut st, mut keeper, key, hash) = ready();
        keeper.folder().waits = true;
        for rewrite in [false, true] {
            keeper.note(&s, &mut st, key, &hash, Note::Begin { rewrite, checking: true });
            assert_eq!(keeper.turn(&s, &mut st), None);
        }
        keeper.note(&s, &mut st, key, &hash, Note::Lost(p(0)));
        assert_eq!(keeper.turn(&s, &mut st), None);
        assert_eq!(keeper.kept[&key].stage, Stage::Absent);
        keeper.sync_asked(key, 1, vec![p(1)]);
        keeper.data_synced(&s, &mut st, key, 1);
        let next = Stage::Moving(Vec::new(), false);
        assert_eq!(keeper.kept[&key].stage, next);
        // The appends to the old journal, and its snapshot.
        while !matches!(keeper.folder().work(), Job::Create { .. }) {}
        if fails {
            keeper.folder().done.back_mut().expect("it was done").1 = Err(io::Error::other("broken"));
        }
        assert_eq!(keeper.turn(&s, &mut st), None);
        assert_eq!(keeper.kept[&key].stage, next, "it is the other's turn");
    }
}

#[test]
fn a_sync_covers_what_was_lost_before_it_was_asked_for() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let p = PieceIndex::new;
    keeper.sync_asked(key, 1, vec![p(1)]);
    keeper.data_synced(&s, &mut st, key, 1);
    keeper.folder().work();
    keeper.note(&s, &mut st, key, &hash, Note::Lost(p(0)));
    assert_eq!(keeper.turn(&s, &mut st), Some(Answer::Synced(key, 1)));
    assert_eq!(waiting(&mut keeper), [format!("sync {}", name::have(&hash))]);
    let folder = keeper.folder();
    assert_eq!(folder.covered, folder.files[&name::have(&hash)].len());
}
