//! A thousand small files, empty ones among them: pieces span many files, files span many pieces, and all of
//! them arrive with few descriptors open.

mod common;

use btmio::api::Alert;
use common::{Node, Sample, Temp, complete, files_below};

#[test]
fn one_thousand_files() {
    let temp = Temp::new();
    let mut rng = btmio::rng::seeded(1000);
    let paths: Vec<String> = (0..1000).map(|i| format!("{}/{}/file {i}", i % 7, i % 31)).collect();
    // Every tenth is empty; most are far shorter than a piece, some span several.
    let len = |i: usize, rng: &mut btmio::rng::Rng| match i % 10 {
        3 => 0,
        7 => rng.usize(30_000..120_000),
        _ => rng.usize(1..5_000),
    };
    let files: Vec<(&str, usize)> =
        paths.iter().enumerate().map(|(i, path)| (path.as_str(), len(i, &mut rng))).collect();
    let sample = Sample::new("many", 32 << 10, &files);
    let mut seed = Node::with(|c| c.storage.max_open_files = 8);
    sample.write(&temp.path("seed"));
    seed = seed.seeding(&sample, &temp.path("seed"));
    let mut leech = Node::with(|c| c.storage.max_open_files = 8);
    let key = leech.get(&sample, &temp.path("leech"), &[&seed]);
    complete(&mut [&mut leech, &mut seed], key);

    sample.assert_in(&temp.path("leech"));
    assert_eq!(files_below(&temp.path("leech")), files_below(&temp.path("seed")), "and nothing else");
    let status = leech.status(key);
    assert_eq!((status.downloaded, status.wasted, status.size), (status.size, 0, sample.size()));
    // Each file that has bytes is told once.
    let mut told: Vec<usize> = leech
        .alerts
        .iter()
        .filter_map(|a| if let Alert::File { file, .. } = a { Some(file.idx()) } else { None })
        .collect();
    told.sort_unstable();
    let filled: Vec<usize> = (0..1000).filter(|i| !sample.files[*i].1.is_empty()).collect();
    assert_eq!(told, filled);
}
