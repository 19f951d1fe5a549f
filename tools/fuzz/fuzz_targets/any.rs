//! Every target in one program, which links once: `FUZZ_TARGET` says which one it is.

#![no_main]

use std::sync::OnceLock;

static NAME: OnceLock<String> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET: the name of a target");
        assert!(tools::fuzz::TARGETS.iter().any(|(known, _)| *known == name), "FUZZ_TARGET={name}: no such target");
        NAME.get_or_init(|| name);
    },
    |data: &[u8]| tools::fuzz::run(NAME.get().expect("set before the first input"), data)
);
