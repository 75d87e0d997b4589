//! `drill`: what a rehearsed restore proves, finds and signs, and that nothing of it stays behind.

use std::path::PathBuf;

use lifeboat::commands::{Event, Report as _, drill, status};
use lifeboat::model::receipt::Receipt;
use lifeboat::{Error, Kind};

use crate::forge::{files, said};
use crate::world::{Machine, NOW};

/// An agent's home with settings, transcripts, a login and a database.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write(".claude/settings.json", "{\"model\": \"x\"}");
    machine.write(".claude/projects/a/one.jsonl", "{\"type\":\"user\"}\n{\"type\":\"tor");
    machine.write(".claude/.credentials.json", "{\"token\":\"fake-0000\"}");
    let database = rusqlite::Connection::open(machine.home(".claude/db.sqlite")).unwrap();
    database.execute_batch("create table t(x); insert into t values(1),(2),(3)").unwrap();
    machine.init(&[".claude"]);
    machine
}

fn attempt(machine: &Machine, change: impl FnOnce(&mut drill::Args)) -> Result<(drill::Done, Vec<Event>), Error> {
    let mut args = drill::Args { identity: Some(machine.kit()), ..drill::Args::default() };
    change(&mut args);
    let mut events = Vec::new();
    let done = drill::run(&machine.world, &args, &mut |e| events.push(e));
    assert!(!scratch(machine).exists(), "plaintext stays behind");
    done.map(|done| (done, events))
}

fn passed(machine: &Machine) -> drill::Done {
    attempt(machine, |_| {}).unwrap().0
}

fn scratch(machine: &Machine) -> PathBuf {
    machine.world.state_dir("testhost").join("drill/scratch")
}

fn receipts(machine: &Machine) -> Vec<PathBuf> {
    files(&machine.store()).into_iter().filter(|p| p.starts_with("drills")).collect()
}

/// The drill that `status` counts, and what it warns of.
fn counted(machine: &Machine) -> (Option<String>, Vec<Event>) {
    let mut events = Vec::new();
    let done = status::run(&machine.world, &status::Args::default(), &mut |e| events.push(e)).unwrap();
    (done.series[0].drill.as_ref().map(|d| d.id.clone()), events)
}

fn count(done: &drill::Done, name: &str) -> (u64, u64) {
    let found = done.checks.iter().find(|c| c.name == name);
    found.map_or((0, 0), |c| (c.done, c.failed))
}

#[test]
fn a_drill_passes_and_its_receipt_counts() {
    let mut machine = machine();
    machine.backup();
    machine.world.fixed_now = Some(NOW + 3600);
    let done = passed(&machine);
    assert!(done.passed && done.verdict().is_none() && done.bundle.is_some(), "{:?}", done.findings);
    assert_eq!((count(&done, "database"), count(&done, "mode")), ((1, 0), (2, 0)));
    assert_eq!((count(&done, "parse"), count(&done, "jsonl")), ((1, 0), (1, 0)));
    assert_eq!((done.age, done.entries), (3600, count(&done, "hash").0));

    let key = done.receipt.clone().unwrap();
    assert_eq!(receipts(&machine).len(), 2);
    let text = std::fs::read_to_string(machine.store().join(&key)).unwrap();
    let receipt = Receipt::parse(&text).unwrap();
    assert_eq!((receipt.passed, receipt.age_seconds, receipt.bytes), (true, 3600, done.bytes));
    // It lies in the open, and names nothing.
    assert!(!text.contains("claude") && !text.contains("home/"), "{text}");
    assert_eq!(counted(&machine).0, Some(receipt.drill.to_string()));
}

#[test]
fn what_is_not_as_it_should_be_is_named_but_for_secrets() {
    let machine = machine();
    machine.write(".claude/settings.json", "{\"model\": ");
    machine.write(".claude/projects/a/two.jsonl", "{\"type\":\"user\"}\nfake-4444\n{}\n");
    machine.write(".claude.json", "{\"token\": fake-5555");
    machine.configure(|text| format!("{text}\n"));
    machine.backup();
    let done = passed(&machine);
    assert_eq!((done.passed, done.verdict()), (false, Some(Kind::Damaged)));
    let text = done.problems().join("\n");
    assert!(text.contains("home/.claude/projects/a/two.jsonl: line 2 is no JSON"), "{text}");
    assert!(text.contains("a file of the secrets bundle") && !text.contains(".claude.json"), "{text}");
    assert!(!text.contains("fake-"), "{text}");
    assert_eq!(count(&done, "jsonl"), (2, 1));
    // A receipt says that it failed, and `status` goes on asking for one that passed.
    let receipt = std::fs::read_to_string(machine.store().join(done.receipt.unwrap())).unwrap();
    assert!(!Receipt::parse(&receipt).unwrap().passed);
    assert_eq!(counted(&machine).0, None);
}

#[test]
fn what_an_agent_had_is_counted_again() {
    let machine = crate::guard::machine();
    machine.write(".hermes/config.yaml", "model: x\ntools: [a, b]\n");
    machine.write(".hermes/profiles/work/memories/own.md", "remember this, too");
    machine.backup();
    let done = passed(&machine);
    assert!(done.passed, "{:?}", done.findings);
    let counts = &done.agents[0].counts;
    let want = [("jobs", 5), ("memories", 7), ("messages", 400), ("sessions", 60), ("skills", 1)];
    assert_eq!(counts, &want.map(|(what, n)| (what.to_owned(), n)).into());
    assert_eq!(count(&done, "count"), (5, 0));
    assert!(count(&done, "parse").0 >= 2 && done.text().contains("400 messages"), "{}", done.text());
    // They are kept for a look without an identity, and so is what the sweep saw.
    let status = status::run(&machine.world, &status::Args::default(), &mut |_| {}).unwrap();
    assert_eq!(status.series[0].agents.values().collect::<Vec<_>>(), [counts]);
    assert!(
        status.text().contains("7 memories") && status.text().contains("no value of a secret"),
        "{}",
        status.text()
    );
    machine.write(".hermes/.env", "SERVICE_PASSWORD=quiet-Horse.staple_77\n");
    machine.write(".hermes/memories/leak.md", "the password is quiet-Horse.staple_77 as ever");
    machine.backup();
    let status = status::run(&machine.world, &status::Args::default(), &mut |_| {}).unwrap();
    assert_eq!((status.series[0].leaks, status.text().contains("in 1 place of the state")), (Some(1), true));

    machine.write(".hermes/config.yaml", "model: [x\ntools: y\n");
    machine.backup();
    let done = passed(&machine);
    // Settings with keys among them are in the bundle, which nobody names.
    assert!(
        !done.passed && done.findings[0].contains("a file of the secrets bundle: it is no YAML"),
        "{:?}",
        done.findings
    );
}

#[test]
fn a_damaged_store_fails_the_drill_with_a_receipt() {
    let machine = machine();
    machine.backup();
    let volume =
        files(&machine.store()).into_iter().find(|p| p.starts_with("state") && p.ends_with("000000.tar.zst.age"));
    let volume = machine.store().join(volume.unwrap());
    let mut bytes = std::fs::read(&volume).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&volume, bytes).unwrap();
    let error = attempt(&machine, |_| {}).err().unwrap();
    assert_eq!(error.kind(), Kind::Damaged, "{}", said(&error));
    let receipt = receipts(&machine).into_iter().find(|p| p.extension().is_none()).unwrap();
    let receipt = Receipt::parse(&std::fs::read_to_string(machine.store().join(receipt)).unwrap()).unwrap();
    assert!(!receipt.passed && receipt.entries == 0);
    assert_eq!(counted(&machine).0, None);
}

#[test]
fn receipts_that_were_forged_or_replayed_do_not_count() {
    let machine = machine();
    machine.backup();
    let key = passed(&machine).receipt.unwrap();
    let real = machine.store().join(&key);
    let (text, signature) =
        (std::fs::read(&real).unwrap(), std::fs::read(format!("{}.minisig", real.display())).unwrap());
    let honest = counted(&machine).0.unwrap();
    // The same receipt as a later drill, and as one of another snapshot; one that was never signed.
    let later = real.with_file_name(format!("{}ffffffff", honest.trim_end_matches(|c: char| c.is_ascii_hexdigit())));
    let other = machine.store().join("drills/testhost/20261121T201459Z-00000001").join(later.file_name().unwrap());
    std::fs::create_dir_all(other.parent().unwrap()).unwrap();
    for copy in [&later, &other] {
        std::fs::write(copy, &text).unwrap();
        std::fs::write(format!("{}.minisig", copy.display()), &signature).unwrap();
    }
    std::fs::remove_file(format!("{}.minisig", other.display())).unwrap();
    let (counts, events) = counted(&machine);
    assert_eq!(counts, Some(honest));
    let warned = events.iter().filter(|e| matches!(e, Event::Warning(w) if w.contains("does not count"))).count();
    assert_eq!(warned, 2, "{events:?}");
    // Changed by a byte, the real one does not count either.
    std::fs::write(&real, String::from_utf8(text).unwrap().replace("# bytes ", "# bytes 9")).unwrap();
    assert_eq!(counted(&machine).0, None);
}

#[test]
fn what_a_killed_drill_left_goes_with_the_next_run() {
    let machine = machine();
    machine.backup();
    let left = || {
        let file = scratch(&machine).join("home/.claude/.credentials.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "fake-0000").unwrap();
        std::fs::set_permissions(file.parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    };
    left();
    let out = machine.program(&["backup"]).output().unwrap();
    assert!(out.status.success() && !scratch(&machine).exists());
    left();
    assert!(passed(&machine).passed);
}

#[test]
fn without_an_identity_nothing_is_restored() {
    let machine = machine();
    machine.backup();
    let error = attempt(&machine, |a| a.identity = None).err().unwrap();
    assert_eq!(error.kind(), Kind::NoIdentity, "{}", said(&error));
    assert!(receipts(&machine).is_empty());
}

#[test]
fn any_snapshot_can_be_drawn() {
    let mut machine = machine();
    machine.backup();
    machine.world.fixed_now = Some(NOW + 3600);
    machine.write(".claude/projects/a/two.jsonl", "{\"type\":\"user\"}\n");
    machine.backup();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let (done, _) = attempt(&machine, |a| (a.random, a.no_secrets) = (true, true)).unwrap();
        assert!(done.passed && done.bundle.is_none(), "{:?}", done.findings);
        seen.insert(done.snapshot);
        if seen.len() == 2 {
            return;
        }
    }
    panic!("only {seen:?} were drawn");
}

#[test]
fn a_sandbox_sees_what_was_restored_and_nothing_else() {
    let machine = machine();
    machine.write(".claude/projects/a/two.jsonl", "{\"type\":\"user\"}\nfake-4444\n{}\n");
    machine.backup();
    let drill = |more: &[&str], path: &std::ffi::OsStr| {
        let kit = machine.kit();
        let args = [&["drill", "--json", "--identity", kit.to_str().unwrap()], more].concat();
        let out = machine.program(&args).env("PATH", path).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        (out.status.code(), answer)
    };
    let path = std::env::var_os("PATH").unwrap();
    // Where the tests run, namespaces may be forbidden; then that is what is said.
    let (code, inside) = drill(&["--sandbox"], &path);
    if code == Some(1) && inside["error"]["hint"].as_str().unwrap().contains("namespaces") {
        return;
    }
    let (outside_code, outside) = drill(&[], &path);
    assert_eq!((code, outside_code), (Some(4), Some(4)), "{inside} {outside}");
    assert_eq!((&inside["checks"], &inside["findings"]), (&outside["checks"], &outside["findings"]));
    assert!(inside["findings"][0].as_str().unwrap().contains("two.jsonl: line 2 is no JSON"), "{inside}");
    assert!(!scratch(&machine).exists());

    // Who cannot have a sandbox gets no drill.
    let (code, error) = drill(&["--sandbox"], std::ffi::OsStr::new("/nowhere"));
    assert_eq!(code, Some(1), "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("unshare"), "{error}");
    let out = machine.program(&["look-inside", machine.root().to_str().unwrap()]).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Whatever is started in a sandbox ends with it.
#[test]
fn nothing_outlives_a_sandbox() {
    let machine = machine();
    machine.backup();
    let real =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|d| d.join("unshare")).find(|p| p.exists());
    let Some(real) = real else { return };
    let (bin, marks) = (machine.root().join("bin"), machine.root().join("marks"));
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(&marks).unwrap();
    // Something in there starts a process that nobody waits for, and that holds a pipe open until it ends.
    let script = format!(
        "#!/bin/sh\nopts=\nwhile [ \"$1\" != -- ]; do opts=\"$opts $1\"; shift; done; shift\n\
         mkfifo '{marks}/fifo' 2>/dev/null\nexec '{real}' $opts -- sh -c \
         'sleep 600 3>\"{marks}/fifo\" </dev/null >/dev/null 2>&1 & exec \"$0\" \"$@\"' \"$@\"\n",
        marks = marks.display(),
        real = real.display()
    );
    std::fs::write(bin.join("unshare"), script).unwrap();
    std::fs::set_permissions(bin.join("unshare"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let fifo = marks.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // The reader sees the end once the last of them is gone.
    let ended = std::sync::mpsc::channel();
    let reader = fifo.clone();
    std::thread::spawn(move || {
        let mut file = std::fs::File::open(reader).unwrap();
        let read = std::io::Read::read_to_end(&mut file, &mut Vec::new());
        ended.0.send(read.is_ok()).unwrap_or(());
    });
    let path = std::env::join_paths([bin, "/usr/bin".into(), "/bin".into()]).unwrap();
    let kit = machine.kit();
    let args = ["drill", "--sandbox", "--identity", kit.to_str().unwrap()];
    let out = machine.program(&args).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.code() == Some(1) && said.contains("namespaces") {
        return;
    }
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert_eq!(ended.1.recv_timeout(std::time::Duration::from_secs(60)), Ok(true), "something still runs");
}

/// A link in a home may lead to where nothing was restored: what is there says nothing about the snapshot.
#[test]
fn what_links_lead_to_elsewhere_is_not_looked_at() {
    let mut machine = Machine::new();
    let outside = machine.root().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("settings.json"), "{ no JSON").unwrap();
    machine.write(".claude/projects/a/one.jsonl", "{\"type\":\"user\"}\n");
    std::os::unix::fs::symlink(outside.join("settings.json"), machine.home(".claude/settings.json")).unwrap();
    std::os::unix::fs::symlink("/nowhere/CLAUDE.md", machine.home(".claude/CLAUDE.md")).unwrap();
    machine.init(&[".claude"]);
    machine.backup();
    let done = attempt(&machine, |_| {}).unwrap().0;
    assert!(done.passed, "{:?}", done.findings);
    machine.world.fixed_now = Some(NOW + 3600);
    // What was restored is.
    std::fs::remove_file(machine.home(".claude/settings.json")).unwrap();
    std::fs::rename(outside.join("settings.json"), machine.home(".claude/settings.json")).unwrap();
    machine.backup();
    let done = attempt(&machine, |_| {}).unwrap().0;
    assert!(done.findings.len() == 1 && done.findings[0].contains("it is no JSON"), "{:?}", done.findings);
}
