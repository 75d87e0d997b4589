//! One program for all targets: `$TARGET` names the one that it feeds.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../targets.rs"]
mod targets;

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("TARGET").expect("TARGET names a target");
    targets::ALL.iter().find(|(known, _)| *known == name).expect("TARGET is one of those in targets.rs").1
});

fuzz_target!(|data: &[u8]| RUN(data));
