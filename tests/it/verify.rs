//! `verify`: what is on the store against what was signed, from anywhere, without an identity.

use std::path::{Path, PathBuf};

use lifeboat::commands::verify::{self, What};
use lifeboat::commands::{Report as _, keys};
use lifeboat::{Error, Kind};

use crate::forge::files;
use crate::world::{Machine, NOW};

/// A sealed host with a full, an incremental on it, and bundles.
fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.write("agent/.env", "API_KEY=fake-0000");
    machine.init(&["agent"]);
    machine.backup();
    machine.world.fixed_now = Some(NOW + 3600);
    machine.write("agent/notes.md", "two");
    machine.backup();
    machine
}

fn attempt(machine: &Machine, change: impl FnOnce(&mut verify::Args)) -> Result<verify::Done, Error> {
    let mut args = verify::Args::default();
    change(&mut args);
    verify::run(&machine.world, &args, &mut |_| {})
}

fn verified(machine: &Machine) -> verify::Done {
    attempt(machine, |_| {}).unwrap()
}

fn object(machine: &Machine, begins: &str, ends: &str) -> PathBuf {
    let all = files(&machine.store());
    let found = all.iter().find(|p| p.to_string_lossy().starts_with(begins) && p.to_string_lossy().ends_with(ends));
    machine.store().join(found.unwrap())
}

/// Does something to an object, and expects exactly this to be told of it.
fn check(begins: &str, ends: &str, what: What, tamper: impl FnOnce(&Path)) {
    let machine = machine();
    let path = object(&machine, begins, ends);
    tamper(&path);
    let done = verified(&machine);
    let name = path.strip_prefix(machine.store()).unwrap().to_str().unwrap().to_owned();
    let told: Vec<_> = done.findings.iter().filter(|f| f.what == what).map(|f| f.object.as_str()).collect();
    assert!(told.iter().any(|object| name.starts_with(object)), "{what:?} {name}: {:?}", done.findings);
    assert_eq!(done.verdict(), Some(Kind::Damaged));
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
}

#[test]
fn a_whole_store_verifies_with_its_chain_and_bundle() {
    let machine = machine();
    let done = verified(&machine);
    assert!(done.findings.is_empty() && done.verdict().is_none(), "{:?}", done.findings);
    // Incremental, full and bundle, each with a volume and a manifest.
    assert_eq!((done.archives.len(), done.objects, done.not_read), (3, 6, 0), "{:?}", done.archives);
    let sizes = files(&machine.store()).into_iter().filter(|p| p.to_string_lossy().ends_with(".age"));
    let sizes: u64 = sizes.map(|p| machine.store().join(p).metadata().unwrap().len()).sum();
    assert_eq!(done.bytes, sizes);
    assert!(done.text().contains("every object is as it was signed"));
    assert_eq!(attempt(&machine, |a| a.all = true).unwrap().objects, 6);
}

#[test]
fn each_kind_of_damage_is_named() {
    let (volume, manifest) = ("000000.tar.zst.age", "manifest.jsonl.zst.age");
    for archive in ["state/monthly", "state/hourly", "secrets"] {
        let remove = |p: &Path| std::fs::remove_file(p).unwrap();
        check(archive, volume, What::Altered, flip);
        check(archive, manifest, What::Altered, flip);
        check(archive, volume, What::Truncated, cut);
        check(archive, manifest, What::Missing, remove);
        check(archive, "commit.minisig", What::Unsigned, remove);
        check(archive, "commit", What::Unsigned, flip);
        check(archive, volume, What::Altered, |p| {
            std::fs::write(p, [std::fs::read(p).unwrap(), b"x".to_vec()].concat()).unwrap();
        });
        let machine = machine();
        let stranger = object(&machine, archive, volume).with_file_name("000001.tar.zst.age");
        std::fs::write(&stranger, "x").unwrap();
        let done = verified(&machine);
        assert_eq!(done.findings.len(), 1, "{:?}", done.findings);
        assert!(done.findings[0].what == What::Unexpected && stranger.ends_with(&done.findings[0].object));
    }
}

#[test]
fn a_full_that_is_gone_breaks_what_needs_it() {
    let machine = machine();
    std::fs::remove_dir_all(object(&machine, "state/monthly", "commit").parent().unwrap()).unwrap();
    let done = verified(&machine);
    let kinds: Vec<What> = done.findings.iter().map(|f| f.what).collect();
    assert_eq!(kinds, [What::Broken, What::Hidden], "{:?}", done.findings);
}

#[test]
fn a_remnant_of_an_interrupted_run_is_no_damage() {
    let machine = machine();
    let remains = machine.store().join("state/hourly/testhost/20261121T201600Z-00000001");
    std::fs::create_dir_all(&remains).unwrap();
    std::fs::write(remains.join("000000.tar.zst.age"), "x").unwrap();
    let done = attempt(&machine, |a| a.all = true).unwrap();
    assert!(done.verdict().is_none(), "{:?}", done.findings);
    assert_eq!(done.incomplete, ["state/hourly/testhost/20261121T201600Z-00000001"]);
}

#[test]
fn a_public_key_and_the_store_are_enough_anywhere() {
    let machine = machine();
    let key = keys::show(&machine.world, &mut |_| {}).unwrap().signing.public.unwrap();
    let elsewhere = Machine::new();
    let url = machine.store().to_str().unwrap().to_owned();
    let there = |key: Option<String>, name: Option<&str>| {
        let name = name.map(str::to_owned);
        attempt(&elsewhere, |a| (a.store, a.name, a.key) = (Some(url.clone()), name, key))
    };
    assert_eq!(there(Some(key.clone()), Some("testhost")).unwrap().objects, 6);
    let file = elsewhere.write("key.pub", format!("untrusted comment: x\n{key}\n"));
    assert_eq!(there(Some(file.to_str().unwrap().to_owned()), Some("testhost")).unwrap().objects, 6);
    // The key on the store is not taken for it, and neither is anything else.
    let error = there(None, Some("testhost")).err().unwrap();
    assert!(error.kind() == Kind::NotThere && error.advice().unwrap().contains("--key"), "{error}");
    assert_eq!(there(Some("nonsense".into()), Some("testhost")).err().unwrap().kind(), Kind::Usage);
    assert_eq!(there(Some(key.clone()), None).err().unwrap().kind(), Kind::Usage);
    // Another key: nothing verifies, and that is said of each archive.
    let other = lifeboat::stream::sign::SigningKey::generate().unwrap().public().to_base64();
    let done = there(Some(other), Some("testhost")).unwrap();
    assert!(done.findings.len() >= 3 && done.findings.iter().all(|f| f.what == What::Unsigned), "{:?}", done.findings);
}

#[test]
fn a_sample_reads_less_and_says_so() {
    let machine = machine();
    let done = attempt(&machine, |a| (a.all, a.sample) = (true, Some(1e-9))).unwrap();
    assert_eq!((done.objects, done.not_read), (0, 6));
    assert!(done.text().contains("a sample was asked for"), "{}", done.text());
    // Sizes and commits are looked at all the same.
    cut(&object(&machine, "state/monthly", "000000.tar.zst.age"));
    let done = attempt(&machine, |a| (a.all, a.sample) = (true, Some(1e-9))).unwrap();
    assert!(done.findings.iter().any(|f| f.what == What::Truncated), "{:?}", done.findings);
}

#[test]
fn since_takes_what_is_younger_and_its_chain() {
    let machine = machine();
    let since = |text: &str| attempt(&machine, |a| a.since = Some(text.into()));
    assert_eq!(since("2026-11-21T21:00:00Z").unwrap().archives.len(), 2, "the incremental and its full");
    assert_eq!(since("2026-11-21").unwrap().archives.len(), 3);
    assert_eq!(since("2026-11-22").unwrap().archives.len(), 0);
    assert_eq!(since("latest").err().unwrap().kind(), Kind::Usage);
    assert_eq!(attempt(&machine, |a| a.snapshot = Some("20200101T".into())).err().unwrap().kind(), Kind::NotThere);
}

#[test]
fn the_program_ends_with_four() {
    let machine = machine();
    let run = |args: &[&str]| machine.program(args).output().unwrap();
    assert_eq!(run(&["verify"]).status.code(), Some(0));
    let volume = object(&machine, "state/monthly", "000000.tar.zst.age");
    flip(&volume);
    let out = run(&["verify", "--json"]);
    assert_eq!(out.status.code(), Some(4));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["findings"][0]["what"], "altered");
    let said = String::from_utf8(run(&["verify", "-q"]).stderr).unwrap();
    assert!(said.starts_with("altered: state/monthly/testhost/") && said.contains("SHA-256"), "{said}");
    assert_eq!(run(&["verify", "--sample", "500%"]).status.code(), Some(2));
}

#[test]
fn a_store_on_which_nothing_is_left_is_not_well() {
    let mut machine = machine();
    machine.world.fixed_now = Some(NOW + 5 * 86_400);
    let young = attempt(&machine, |a| a.since = Some("1 day ago".to_owned())).unwrap();
    assert!(young.verdict().is_none() && young.text().contains("nothing to look at"), "{}", young.text());
    for gone in ["state", "secrets"] {
        std::fs::remove_dir_all(machine.store().join(gone)).unwrap();
    }
    for change in [
        (|a: &mut verify::Args| a.all = true) as fn(&mut verify::Args),
        |a| a.since = Some("3 days ago".to_owned()),
        |_| {},
    ] {
        let error = attempt(&machine, change).expect_err("it calls that well");
        assert!(error.kind() == Kind::NotThere && error.advice().is_some(), "{error}");
    }
}
