//! A torrent of version 2 only is refused in so many words, and nothing of it is made; a hybrid goes by its
//! version 1 side.

mod common;

use btmio::api::Add;
use btmio::error::Error;
use btmio::metainfo::Metainfo;
use common::{Node, Temp};

fn read(name: &str) -> Metainfo {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/torrents").join(name);
    Metainfo::parse(&std::fs::read(path).expect("it is there")).expect("a torrent")
}

#[test]
fn v2_only_is_refused() {
    let temp = Temp::new();
    let mut node = Node::new();
    let refused = node.lp.add(Add::new(read("v2.torrent"), temp.path("v2")));
    let error = refused.expect_err("it has no version 1 side");
    assert!(matches!(error, Error::V2Only), "{error}");
    assert!(error.to_string().contains("version 2"), "{error}");
    assert!(!temp.path("v2").exists());
    assert_eq!(node.lp.session().torrents().count(), 0);

    let key = node.lp.add(Add { paused: true, ..Add::new(read("hybrid.torrent"), temp.path("hybrid")) });
    let key = key.expect("it has both sides");
    assert_eq!(Some(node.status(key).info_hash), read("hybrid.torrent").info_hash);
    let twice = node.lp.add(Add::new(read("hybrid.torrent"), temp.path("hybrid")));
    assert!(matches!(twice, Err(Error::Duplicate(_))));
}
