//! Of how many torrents files are synced at once.

use super::super::helper::Hand;
use super::super::tests::{TempDir, config, layout, p};
use super::super::{Disk, Done, Lane, OpenSpec, Storage, StorageConfig};
use super::*;
use sha1::{Digest, Sha1};

fn done(disk: &mut Disk) -> Vec<Done> {
    std::iter::from_fn(|| disk.poll_done()).collect()
}

#[test]
fn many_torrents_are_synced_with_few_descriptors_in_the_order_they_asked() {
    const TORRENTS: u32 = 40;
    let (tmp, layout) = (TempDir::new(), layout(16_384, &[("f", 16_384)]));
    let config = StorageConfig { max_open_files: 8, ..config(Lane::Gather) };
    let mut disk = Disk::with_helper(config, Hand::alone());
    let (bytes, torrents) = (vec![7; 16_384], (0..TORRENTS).map(|i| TorrentKey::new(i, 0)));
    for t in torrents.clone() {
        let dir = tmp.path().join(t.index().to_string());
        disk.open(t, layout.clone(), OpenSpec { dir }).unwrap();
        disk.write(t, p(0), 0, &bytes).unwrap();
        disk.hash(t, p(0), Sha1::digest(&bytes).into(), false);
        while disk.work(0) {}
        assert!(matches!(done(&mut disk)[..], [Done::Hashed { ok: true, .. }]), "{t:?}");
    }
    torrents.clone().for_each(|t| disk.sync(t, t.index() as u32));
    // One that is asked for again, before it has begun, is answered twice; one that is gone is not.
    disk.sync(TorrentKey::new(30, 0), 1000);
    disk.close(TorrentKey::new(35, 0)).unwrap();
    let mut synced = Vec::new();
    loop {
        assert!(disk.syncs.handles() <= 2 && disk.files.open_count() <= 8);
        let more = disk.work(0);
        for d in done(&mut disk) {
            let Done::Synced { ticket, result, .. } = d else { panic!("{d:?}") };
            assert_eq!(result, Ok(()));
            synced.push(ticket);
        }
        if !more {
            break;
        }
    }
    let mut wanted: Vec<u32> = (0..TORRENTS).filter(|i| *i != 35).collect();
    wanted.insert(31, 1000);
    assert_eq!(synced, wanted);
    assert!(disk.syncs.is_empty());
}
