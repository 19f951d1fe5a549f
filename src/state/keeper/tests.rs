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
}

impl Files {
    /// Does the next job.
    fn work(&mut self) -> Job {
        let (ticket, job) = self.jobs.pop_front().expect("a job");
        if let Job::Create { name, bytes } | Job::Replace { name, bytes } = &job {
            self.files.insert(name.clone(), bytes.clone());
        }
        self.done.push_back((ticket, Ok(())));
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
    assert_eq!(keeper.turn(&s, &mut st), Some((key, 1)), "the older is not taken for the newer");
    assert_eq!(keeper.turn(&s, &mut st), None);
    assert!(matches!(keeper.folder().work(), Job::Sync { .. }));
    assert_eq!(keeper.turn(&s, &mut st), Some((key, 2)));
    assert!(keeper.is_idle());
}

#[test]
fn what_is_lost_while_it_is_synced_is_not_noted_as_durable() {
    let (s, mut st, mut keeper, key, hash) = ready();
    let p = PieceIndex::new;
    keeper.sync_asked(key, 1, vec![p(1), p(0)]);
    keeper.note(&s, &mut st, key, &hash, Note::Lost(p(1)));
    assert_eq!(keeper.kept[&key].asked, (1, vec![p(0)]));
}
