//! A few seeds in every test run; the runner in `tools` does the thousands.

use super::*;

#[test]
fn seeds_run_clean_and_twice_the_same() {
    for seed in 0..12 {
        let options = Options { nodes: 6, ..Options::default() };
        let (a, b) = (run(seed, &options), run(seed, &options));
        assert!(a.violations.is_empty(), "seed {seed}: {:?}", a.violations);
        assert_eq!(a.hash, b.hash, "seed {seed}");
        assert!(a.received > 0, "seed {seed}: nothing moved");
    }
}

#[test]
fn a_swarm_finds_itself_by_multicast_alone() {
    for seed in 0..6 {
        let report = run(seed, &Options { nodes: 4, lan: true, ..Options::default() });
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        assert!(report.received > 0, "seed {seed}: nothing moved");
    }
}
