//! What fails at the worst moment: every operation of the store, once and for ever, with and without effect; the
//! process, killed; the disk, full; files that change between being found and being read. Afterwards earlier snapshots
//! are whole, nothing partial counts, and the next run succeeds.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use lifeboat::commands::{Event, backup, init, prune, rotate, verify};
use lifeboat::model::commit::Commit;
use lifeboat::model::store_key::Archive;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use crate::forge::{copy, files, said, snapshot};
use crate::world::{Machine, NOW};

/// When an operation fails.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first that fails.
    pub nth: usize,
    /// Whether all after it do, too.
    pub for_ever: bool,
    /// Whether it has its effect all the same, and only the answer is lost.
    pub after: bool,
    /// Whether the disk is full: then only puts fail.
    full: bool,
    /// Whether only deletes fail.
    deletes: bool,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    plan: Plan,
    done: Arc<AtomicUsize>,
}

/// A store from which nothing can be removed, so that backups leave what is old to somebody else.
pub fn no_deletes() -> lifeboat::host::world::Wrapper {
    let plan = Plan { nth: 1, for_ever: true, after: false, full: false, deletes: true };
    Arc::new(move |inner| Arc::new(Faulty { inner, plan, done: Arc::default() }) as Arc<dyn ObjectStore>)
}

/// A store that is gone from its `nth` operation on.
pub fn gone_from(nth: usize) -> lifeboat::host::world::Wrapper {
    let plan = Plan { nth, for_ever: true, after: false, full: false, deletes: false };
    let done = Arc::new(AtomicUsize::new(0));
    Arc::new(move |inner| Arc::new(Faulty { inner, plan, done: done.clone() }) as Arc<dyn ObjectStore>)
}

/// A store that is full after so many puts; counted from when it is opened.
pub fn full_after(puts: usize) -> lifeboat::host::world::Wrapper {
    let plan = Plan { nth: puts + 1, for_ever: true, after: false, full: true, deletes: false };
    Arc::new(move |inner| Arc::new(Faulty { inner, plan, done: Arc::default() }) as Arc<dyn ObjectStore>)
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

impl Faulty {
    /// Counts an operation and says whether it is one that fails.
    fn fails(&self, put: bool) -> bool {
        if self.plan.deletes || (self.plan.full && !put) {
            return false;
        }
        self.counts()
    }

    fn counts(&self) -> bool {
        let n = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        n == self.plan.nth || (self.plan.for_ever && n > self.plan.nth)
    }

    fn error<T>(&self) -> Result<T> {
        let kind = if self.plan.full { std::io::ErrorKind::StorageFull } else { std::io::ErrorKind::ConnectionReset };
        Err(object_store::Error::Generic { store: "faulty", source: Box::new(std::io::Error::from(kind)) })
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match (self.fails(true), self.plan.after) {
            (false, _) => self.inner.put_opts(location, payload, opts).await,
            (true, false) => self.error(),
            (true, true) => {
                self.inner.put_opts(location, payload, opts).await?;
                self.error()
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Key, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("lifeboat puts whole objects")
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        if self.fails(false) { self.error() } else { self.inner.get_opts(location, options).await }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        let error = || futures_util::stream::iter([self.error()]).boxed();
        match (!self.plan.full && self.counts(), self.plan.after) {
            (false, _) => self.inner.delete_stream(locations),
            (true, false) => error(),
            (true, true) => {
                let deleted = self.inner.delete_stream(locations);
                let lost = error();
                futures_util::stream::once(deleted.for_each(|_| std::future::ready(())))
                    .filter_map(|()| std::future::ready(None))
                    .chain(lost)
                    .boxed()
            }
        }
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        match (self.fails(false), self.plan.after) {
            (false, _) => self.inner.list(prefix),
            (true, false) => futures_util::stream::iter([self.error()]).boxed(),
            // The line breaks in the middle.
            (true, true) => self.inner.list(prefix).take(1).chain(futures_util::stream::iter([self.error()])).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        if self.fails(false) { self.error() } else { self.inner.list_with_delimiter(prefix).await }
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> Result<()> {
        unreachable!("lifeboat copies nothing")
    }
}

/// Runs `run` once for each plan until no operation is left to fail; `check` sees each plan and what became of it.
pub fn each_fault<T>(full: bool, prepare: impl Fn() -> T, run: impl Fn(&mut T, &Plan, &Wrap)) {
    each(Plan { nth: 0, for_ever: false, after: false, full, deletes: false }, prepare, run);
}

/// The same for each delete.
pub fn each_delete<T>(prepare: impl Fn() -> T, run: impl Fn(&mut T, &Plan, &Wrap)) {
    each(Plan { nth: 0, for_ever: false, after: false, full: false, deletes: true }, prepare, run);
}

fn each<T>(kind: Plan, prepare: impl Fn() -> T, run: impl Fn(&mut T, &Plan, &Wrap)) {
    for after in [false, true] {
        for for_ever in [false, true] {
            for nth in 1.. {
                let plan = Plan { nth, for_ever, after, ..kind };
                let wrap = Wrap { plan, done: Arc::default() };
                let mut case = prepare();
                run(&mut case, &plan, &wrap);
                if wrap.done.load(Ordering::SeqCst) < nth {
                    assert!(nth > 2, "{plan:?}: nothing happened");
                    break;
                }
            }
        }
    }
}

/// A plan, ready to be put between a machine and its store.
pub struct Wrap {
    plan: Plan,
    done: Arc<AtomicUsize>,
}

impl Wrap {
    /// Runs with the faulty store, and tells whether anything failed.
    pub fn with<T>(&self, machine: &mut Machine, run: impl FnOnce(&Machine) -> T) -> (T, bool) {
        let (plan, done) = (self.plan, Arc::clone(&self.done));
        machine.world.wrap_store = Some(Arc::new(move |inner| {
            Arc::new(Faulty { inner, plan, done: Arc::clone(&done) }) as Arc<dyn ObjectStore>
        }));
        let result = run(machine);
        machine.world.wrap_store = None;
        (result, self.done.load(Ordering::SeqCst) >= plan.nth)
    }
}

fn fill(machine: &Machine, words: &str) {
    machine.write("agent/notes.md", words);
    machine.write("agent/.env", format!("API_KEY={words}"));
}

fn expect(machine: &Machine, what: &str, snapshot: &str, words: &str) {
    let target = machine.target("expect");
    let (done, _) = machine
        .try_restore(&target, |a| a.snapshot = snapshot.to_owned())
        .unwrap_or_else(|e| panic!("{what}: {snapshot} does not restore: {}", said(&e)));
    assert!(done.missing.is_empty(), "{what}");
    assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), words, "{what}");
    std::fs::remove_dir_all(target).unwrap();
}

/// All commits on the store, by archive and seq.
fn commits(store: &Path) -> BTreeMap<(&'static str, u64), (Commit, [u8; 32])> {
    let all = files(store).into_iter().filter(|p| p.ends_with("commit"));
    let parsed = all.map(|p| {
        let text = std::fs::read_to_string(store.join(p)).unwrap();
        (Commit::parse(&text).unwrap(), lifeboat::commands::session::sha256(text.as_bytes()))
    });
    let mut out = BTreeMap::new();
    for (commit, sha256) in parsed {
        let before = out.insert((commit.archive.word(), commit.seq), (commit, sha256));
        assert!(before.is_none(), "two commits with one seq");
    }
    out
}

/// Everything listed is whole and known by its successor; nothing waits any more.
fn settled(machine: &Machine, what: &str) {
    let listing = machine.list();
    assert!(listing.hidden.is_empty(), "{what}: {:?}", listing.hidden);
    let commits = commits(&machine.store());
    let seqs: Vec<u64> = commits.keys().map(|k| k.1).collect();
    let distinct: std::collections::BTreeSet<_> = seqs.iter().collect();
    assert_eq!(distinct.len(), seqs.len(), "{what}: a seq was given twice");
    for archive in [Archive::State, Archive::Secrets] {
        let mut before: Option<(lifeboat::model::store_key::SnapshotId, [u8; 32])> = None;
        for (commit, sha256) in commits.iter().filter(|(k, _)| k.0 == archive.word()).map(|(_, v)| v) {
            let prev = commit.prev.as_ref().map(|p| (p.id.clone(), p.sha256));
            assert_eq!(prev, before, "{what}: the chain of {} is broken at {}", archive.word(), commit.id);
            before = Some((commit.id.clone(), *sha256));
        }
    }
    let state = machine.world.state_dir(&listing.snapshots[0].series);
    let left: Vec<_> = files(&state)
        .into_iter()
        .filter(|p| ["pending", "staging", "interrupted"].iter().any(|dir| p.starts_with(dir)))
        .collect();
    assert!(left.is_empty(), "{what}: {left:?}");
}

/// What was there before.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Snapshot,
    /// A snapshot, and then the catalog was lost.
    NoCatalog,
}

fn backups_fail(before: Before, full: bool) {
    let prepare = || {
        let mut machine = Machine::new();
        fill(&machine, "first");
        machine.init(&["agent"]);
        let first = (before != Before::Nothing).then(|| machine.backup().state.unwrap().id);
        if before == Before::NoCatalog {
            std::fs::remove_dir_all(machine.world.state_dir(&machine.list().snapshots[0].series)).unwrap();
        }
        fill(&machine, "second");
        machine.world.fixed_now = Some(NOW + 60);
        (machine, first)
    };
    each_fault(full, prepare, |(machine, first), plan, wrap| {
        let (result, failed) = wrap.with(machine, Machine::try_backup);
        let what = format!("{plan:?}");
        let rows = machine.list().snapshots;
        assert!(rows.iter().all(|r| matches!(r.status, "ok" | "incomplete")), "{what}: {rows:?}");
        assert!(machine.list().hidden.is_empty(), "{what}: {:?}", machine.list().hidden);
        let whole = rows.iter().filter(|r| r.status == "ok" && r.archive == "state").count();
        if let Some(first) = first {
            expect(machine, &what, first, "first");
        }
        match result {
            Ok(done) => {
                // What comes after the last commit, to remove what is old, fails without harm.
                let committed = whole > usize::from(first.is_some());
                assert!(!failed || !plan.for_ever || committed, "{what}: succeeded though the store was gone");
                expect(machine, &what, &done.state.unwrap().id, "second");
            }
            Err(e) => {
                assert!(failed, "{what}: {}", said(&e));
                if plan.full && !plan.after {
                    assert!(said(&e).contains("the store is full: free some space"), "{what}: {}", said(&e));
                }
            }
        }
        machine.world.fixed_now = Some(NOW + 120);
        fill(machine, "third");
        machine.backup();
        settled(machine, &what);
        expect(machine, &what, "latest", "third");
        let after = machine.list().snapshots;
        assert!(after.iter().filter(|r| r.status == "ok" && r.archive == "state").count() > whole, "{what}");
    });
}

#[test]
fn the_first_backup_fails() {
    backups_fail(Before::Nothing, false);
}

#[test]
fn a_later_backup_fails() {
    backups_fail(Before::Snapshot, false);
}

#[test]
fn a_backup_without_catalog_fails() {
    backups_fail(Before::NoCatalog, false);
}

#[test]
fn the_store_is_full() {
    backups_fail(Before::Snapshot, true);
}

/// A new signing key: whatever fails, the host goes on, and the old kit restores what it writes; so does the new kit, where
/// one was left.
#[test]
fn a_rotation_of_the_signing_key_fails() {
    let prepare = || {
        let mut machine = Machine::new();
        fill(&machine, "first");
        machine.init(&["agent"]);
        machine.backup();
        machine.world.fixed_now = Some(NOW + 60);
        machine
    };
    each_fault(false, prepare, |machine, plan, wrap| {
        let what = format!("{plan:?}");
        let kit = machine.root().join("new.txt");
        let identity = Some(machine.kit());
        let args = rotate::Args { signing: true, kit: kit.clone(), identity, ..rotate::Args::default() };
        let (result, failed) = wrap.with(machine, |m| rotate::run(&m.world, &args, &mut |_| {}));
        assert!(failed || result.is_ok(), "{what}: {}", said(&result.unwrap_err()));
        assert!(result.is_err() || kit.exists(), "{what}");
        machine.world.fixed_now = Some(NOW + 120);
        fill(machine, "second");
        machine.backup();
        settled(machine, &what);
        expect(machine, &what, "latest", "second");
        expect(machine, &what, "20261121T201500", "first");
        if kit.exists() {
            let target = machine.target("new-kit");
            machine.try_restore(&target, |a| a.identity = Some(kit)).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
            assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), "second", "{what}");
        }
        let checked = verify::Args { all: true, ..verify::Args::default() };
        let findings = verify::run(&machine.world, &checked, &mut |_| {}).unwrap().findings;
        assert!(findings.is_empty(), "{what}: {findings:?}");
    });
}

/// Setting up, by `init` and by a first `backup PATH`: the same command goes on where it was interrupted.
#[test]
fn setting_up_fails() {
    let prepare = || {
        let machine = Machine::new();
        fill(&machine, "first");
        machine
    };
    each_fault(false, prepare, |machine, plan, wrap| {
        let args = init::Args { sources: vec![machine.home("agent")], sealed: true, ..init::Args::default() };
        let (result, failed) = wrap.with(machine, |m| init::run(&m.world, &args, &mut |_| {}));
        assert!(failed || result.is_ok(), "{plan:?}: {}", said(&result.unwrap_err()));
        if result.is_err() {
            init::run(&machine.world, &args, &mut |_| {}).unwrap_or_else(|e| panic!("{plan:?}: {}", said(&e)));
        }
        machine.backup();
        settled(machine, &format!("{plan:?}"));
        expect(machine, &format!("{plan:?}"), "latest", "first");
        assert!(machine.store().join("recover.sh").exists() && machine.store().join("RECOVERY.md").exists());
    });
    each_fault(false, prepare, |machine, plan, wrap| {
        let args = backup::Args { paths: vec![machine.home("agent")], ..backup::Args::default() };
        let (result, failed) = wrap.with(machine, |m| backup::run(&m.world, &args, &mut |_| {}));
        assert!(failed || result.is_ok(), "{plan:?}");
        machine.world.fixed_now = Some(NOW + 60);
        if result.is_err() {
            backup::run(&machine.world, &args, &mut |_| {}).unwrap_or_else(|e| panic!("{plan:?}: {}", said(&e)));
        }
        settled(machine, &format!("{plan:?}"));
        expect(machine, &format!("{plan:?}"), "latest", "first");
    });
}

/// Removing what is past its life: wherever it ends, what is left is whole or counts for nothing, and the next run gets
/// to the same end.
#[test]
fn a_prune_fails() {
    let day = 86_400;
    let machine = Machine::new();
    let machine = std::cell::RefCell::new(machine);
    let (store, aside) = (machine.borrow().store(), machine.borrow().target("aside"));
    let second = {
        let mut machine = machine.borrow_mut();
        fill(&machine, "first");
        machine.init(&["agent"]);
        machine.world.wrap_store = Some(no_deletes());
        machine.backup();
        let mut at = |seconds: i64, words: &str| {
            machine.world.fixed_now = Some(NOW + seconds);
            fill(&machine, words);
            machine.backup().state.unwrap().id
        };
        at(900, "first again");
        let second = at(200 * day, "second");
        for n in 400..=404 {
            at(n * day, "third");
        }
        machine.world.wrap_store = None;
        second
    };
    copy(&store, &aside);
    let reset = || {
        std::fs::remove_dir_all(&store).unwrap();
        copy(&aside, &store);
    };
    let run = |m: &Machine| prune::run(&m.world, &prune::Args::default(), &mut |_| {});
    let done = run(&machine.borrow()).unwrap();
    assert!(done.removed.iter().any(|g| g.archive == "secrets") && done.removed.iter().any(|g| g.archive == "state"));
    let pruned = files(&store);
    assert!(pruned.len() < files(&aside).len());
    each_delete(reset, |(), plan, wrap| {
        let machine = &mut *machine.borrow_mut();
        let (result, failed) = wrap.with(machine, run);
        let what = format!("{plan:?}");
        match result {
            Ok(_) => assert!(!failed, "{what}: succeeded though something failed"),
            Err(e) => assert!(failed, "{what}: {}", said(&e)),
        }
        let listing = machine.list();
        assert!(listing.snapshots.iter().all(|r| matches!(r.status, "ok" | "incomplete")), "{what}: {listing:?}");
        assert!(listing.hidden.is_empty(), "{what}: {:?}", listing.hidden);
        let (snapshot, words) = if plan.nth % 2 == 0 { ("latest", "third") } else { (second.as_str(), "second") };
        expect(machine, &what, snapshot, words);
        run(machine).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
        assert_eq!(files(&store), pruned, "{what}");
    });
}

/// A name that another key has claimed leaves no keys behind, so that another name can be chosen.
#[test]
fn a_name_that_is_taken() {
    let first = Machine::new();
    fill(&first, "first");
    first.init(&["agent"]);
    let machine = Machine::new();
    fill(&machine, "mine");
    let store = Some(first.store().to_str().unwrap().to_owned());
    let mut args = init::Args { sources: vec![machine.home("agent")], sealed: true, store, ..init::Args::default() };
    let error = init::run(&machine.world, &args, &mut |_| {}).unwrap_err();
    assert!(said(&error).contains("taken") && said(&error).contains("--name"), "{}", said(&error));
    assert!(!machine.kit().exists());
    args.name = Some("another".to_owned());
    init::run(&machine.world, &args, &mut |_| {}).unwrap();
    machine.backup();
}

#[test]
fn a_restore_fails() {
    let prepare = || {
        let machine = Machine::new();
        fill(&machine, "words");
        machine.init(&["agent"]);
        machine.backup();
        machine
    };
    each_fault(false, prepare, |machine, plan, wrap| {
        let target = machine.target("target");
        let (result, failed) = wrap.with(machine, |m| m.try_restore(&target, |_| {}).map(|_| ()));
        let there = snapshot(&target);
        match result {
            Ok(()) => assert!(there.len() == 4 && (!failed || plan.after), "{plan:?}: {there:?}"),
            Err(e) => assert!(failed && there.is_empty(), "{plan:?}: {} {there:?}", said(&e)),
        }
        machine.restore(&target);
        assert_eq!(snapshot(&target).len(), 4, "{plan:?}");
        assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), "words");
    });
}

/// What a run saw and could not commit is told by the next one, though by then nothing changes any more.
#[test]
fn what_a_failed_run_saw_is_told_by_the_next() {
    let prepare = || {
        let mut machine = Machine::new();
        // A clock ahead of the files', so that `stat` is believed.
        machine.world.fixed_now = Some(NOW + 60 * 86_400);
        fill(&machine, "first");
        machine.write("agent/gone.md", "soon");
        machine.init(&["agent"]);
        machine.backup();
        std::thread::sleep(Duration::from_millis(12));
        fill(&machine, "second");
        std::fs::remove_file(machine.home("agent/gone.md")).unwrap();
        machine.world.fixed_now = Some(NOW + 60 * 86_400 + 900);
        machine
    };
    each_fault(false, prepare, |machine, plan, wrap| {
        let what = format!("{plan:?}");
        drop(wrap.with(machine, Machine::try_backup));
        machine.world.fixed_now = Some(NOW + 60 * 86_400 + 1800);
        machine.backup();
        settled(machine, &what);
        expect(machine, &what, "latest", "second");
        let target = machine.target("gone");
        machine.restore(&target);
        assert!(!target.join("home/agent/gone.md").exists(), "{what}");
        std::fs::remove_dir_all(target).unwrap();
    });
}

/// Something else where the signature will be, put there between the volumes and the commit.
#[test]
fn a_pending_commit_that_cannot_be_finished() {
    for name in ["commit.minisig", "commit", "000000.tar.zst.age"] {
        let mut machine = Machine::new();
        fill(&machine, "first");
        machine.init(&["agent"]);
        machine.backup();
        machine.world.fixed_now = Some(NOW + 60);
        fill(&machine, "second");
        // The answer to the last put of the state archive, its commit, is lost for good, and then the store changes.
        let count = Wrap {
            plan: Plan { nth: usize::MAX, for_ever: false, after: false, full: true, deletes: false },
            done: Arc::default(),
        };
        count.with(&mut machine, |m| m.backup());
        let puts = count.done.load(Ordering::SeqCst);
        machine.world.fixed_now = Some(NOW + 120);
        fill(&machine, "third");
        let wrap = Wrap {
            plan: Plan { nth: puts - 1, for_ever: true, after: false, full: true, deletes: false },
            done: Arc::default(),
        };
        wrap.with(&mut machine, Machine::try_backup).0.unwrap_err();
        let incomplete = machine.list().snapshots.into_iter().find(|r| r.status == "incomplete").unwrap();
        let parent = incomplete.parent.unwrap();
        let dir = machine.store().join(format!("state/hourly/{}/{}.on.{parent}", incomplete.series, incomplete.id));
        if name.starts_with("commit") {
            std::fs::write(dir.join(name), "not yours").unwrap();
        } else {
            std::fs::remove_file(dir.join(name)).unwrap();
        }
        machine.world.fixed_now = Some(NOW + 180);
        fill(&machine, "second");
        let mut events = Vec::new();
        backup::run(&machine.world, &backup::Args::default(), &mut |e| events.push(e)).unwrap();
        assert!(
            events.iter().any(
                |e| matches!(e, Event::Warning(w) if w.contains("cannot be finished") && w.contains(&incomplete.id))
            ),
            "{name}: {events:?}"
        );
        expect(&machine, name, "latest", "second");
        assert!(machine.list().hidden.is_empty());
    }
}

/// Runs a backup, and `change` between finding the entries and reading them.
fn backup_while(machine: &Machine, change: impl Fn()) -> backup::Done {
    let mut phase = |event: Event| {
        if event == Event::Phase("writing the state archive") {
            change();
        }
    };
    backup::run(&machine.world, &backup::Args::default(), &mut phase).unwrap()
}

#[test]
fn entries_change_under_the_reader() {
    type Change = fn(&Machine);
    let changes: [(&str, Change); 8] = [
        ("a file goes", |m| std::fs::remove_file(m.home("agent/sub/a")).unwrap()),
        ("both names of a file go", |m| {
            std::fs::remove_file(m.home("agent/sub/a")).unwrap();
            std::fs::remove_file(m.home("agent/sub/b")).unwrap();
        }),
        ("a file becomes a directory", |m| {
            std::fs::remove_file(m.home("agent/plain")).unwrap();
            std::fs::create_dir(m.home("agent/plain")).unwrap();
        }),
        ("a file becomes a link", |m| {
            std::fs::remove_file(m.home("agent/plain")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", m.home("agent/plain")).unwrap();
        }),
        ("a directory becomes a file", |m| {
            std::fs::remove_dir_all(m.home("agent/sub")).unwrap();
            std::fs::write(m.home("agent/sub"), "file").unwrap();
        }),
        ("a directory becomes a link", |m| {
            std::fs::remove_dir_all(m.home("agent/sub")).unwrap();
            std::os::unix::fs::symlink("/etc", m.home("agent/sub")).unwrap();
        }),
        ("a directory goes", |m| std::fs::remove_dir_all(m.home("agent/sub")).unwrap()),
        ("a database goes, which has two names", |m| {
            std::fs::remove_file(m.home("agent/one.db")).unwrap();
            std::fs::remove_file(m.home("agent/two.db")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let machine = Machine::new();
        machine.write("agent/keep", "kept");
        machine.write("agent/plain", "plain");
        machine.write("agent/sub/a", "two names");
        std::fs::hard_link(machine.home("agent/sub/a"), machine.home("agent/sub/b")).unwrap();
        let db = rusqlite::Connection::open(machine.home("agent/one.db")).unwrap();
        db.execute_batch("create table t(x); insert into t values (1)").unwrap();
        drop(db);
        std::fs::hard_link(machine.home("agent/one.db"), machine.home("agent/two.db")).unwrap();
        machine.init(&["agent"]);
        backup_while(&machine, || change(&machine));
        let target = machine.target("target");
        machine.try_restore(&target, |_| {}).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
        assert_eq!(std::fs::read_to_string(target.join("home/agent/keep")).unwrap(), "kept", "{what}");
        let passwd = std::fs::read("/etc/passwd").unwrap();
        assert!(files(&target).iter().all(|f| std::fs::read(target.join(f)).unwrap() != passwd), "{what}");
    }
}

/// A copy of the kit is left out under all its names.
#[test]
fn a_copy_of_the_kit_with_two_names() {
    let machine = Machine::new();
    machine.write("agent/keep", "kept");
    machine.init(&["agent"]);
    std::fs::copy(machine.kit(), machine.home("agent/copy")).unwrap();
    std::fs::hard_link(machine.home("agent/copy"), machine.home("agent/second")).unwrap();
    machine.backup();
    let target = machine.target("target");
    machine.restore(&target);
    assert!(!target.join("home/agent/copy").exists() && !target.join("home/agent/second").exists());
}

// From here on the real program, in a process of its own.

fn lifeboat(machine: &Machine, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.env_clear().env("HOME", &machine.world.home).env("PATH", std::env::var_os("PATH").unwrap());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(seed >> 32).to_le_bytes()[..4]);
    }
    out
}

/// What can only be read by others: it and its further names are missing, and the rest is whole.
#[test]
fn unreadable_with_two_names() {
    if !rustix::process::geteuid().is_root() {
        // Somebody who is not root makes files unreadable for themselves.
        return;
    }
    let machine = Machine::new();
    machine.write("agent/keep", "kept");
    let hidden = machine.write("agent/sub/hidden", "root's own");
    std::fs::hard_link(&hidden, machine.home("agent/sub/again")).unwrap();
    machine.write("agent/closed/inside", "x");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&machine.root(), 0o755);
    let status = Command::new("chown").arg("-R").arg("65534:65534").arg(&machine.world.home).status().unwrap();
    assert!(status.success());
    for path in ["agent/sub/hidden", "agent/closed"] {
        std::os::unix::fs::chown(machine.home(path), Some(0), Some(0)).unwrap();
    }
    mode(&hidden, 0o600);
    mode(&machine.home("agent/closed"), 0o700);
    // The program is copied to where anybody may run it.
    let program = machine.root().join("lifeboat");
    std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    mode(&program, 0o755);
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", &machine.world.home).uid(65534).gid(65534).args(args).stdin(Stdio::null());
        command.output().unwrap()
    };
    let agent = machine.home("agent");
    let out = run(&["backup", agent.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    let target = machine.home("target");
    let out = run(&["restore", "--identity", machine.kit().to_str().unwrap(), "--target", target.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    assert_eq!(std::fs::read_to_string(target.join("home/agent/keep")).unwrap(), "kept");
    assert!(!target.join("home/agent/sub/again").exists());
}

#[test]
fn killed_while_it_backs_up() {
    let machine = Machine::new();
    fill(&machine, "first");
    machine.init(&["agent"]);
    let done = |args: &[&str]| lifeboat(&machine, args).output().unwrap();
    let out = done(&["backup"]);
    assert!(out.status.success(), "{out:?}");
    let first = machine.list().snapshots.iter().find(|r| r.archive == "state").unwrap().id.clone();
    fill(&machine, "second");
    machine.write("agent/noise", noise(48 << 20, 1));
    let begun = Instant::now();
    assert!(done(&["backup"]).status.success());
    let whole = begun.elapsed();
    for n in 1..=10u32 {
        fill(&machine, &format!("round {n}"));
        let mut child = lifeboat(&machine, &["backup"]).spawn().unwrap();
        std::thread::sleep(whole * n / 11);
        child.kill().unwrap();
        child.wait().unwrap();
        let what = format!("killed after {n}/11");
        let listing = machine.list();
        assert!(listing.hidden.is_empty(), "{what}: {:?}", listing.hidden);
        assert!(listing.snapshots.iter().all(|r| matches!(r.status, "ok" | "incomplete")), "{what}: {listing:?}");
        expect(&machine, &what, &first, "first");
    }
    fill(&machine, "last");
    let out = done(&["backup"]);
    assert!(out.status.success(), "{out:?}");
    settled(&machine, "after all");
    expect(&machine, "after all", "latest", "last");
    for row in machine.list().snapshots.iter().filter(|r| r.status == "ok" && r.archive == "state") {
        let (id, target) = (row.id.clone(), machine.target("each"));
        machine.try_restore(&target, |a| a.snapshot = id).unwrap();
        std::fs::remove_dir_all(target).unwrap();
    }
}

#[test]
fn killed_while_it_restores() {
    let machine = Machine::new();
    fill(&machine, "words");
    machine.write("agent/noise", noise(48 << 20, 2));
    for n in 0..300 {
        machine.write(&format!("agent/many/{n}/file"), noise(20_000, n));
    }
    machine.init(&["agent"]);
    machine.backup();
    let expected = machine.target("expected");
    let begun = Instant::now();
    machine.restore(&expected);
    let (whole, expected) = (begun.elapsed() + Duration::from_millis(30), snapshot(&expected));
    for n in 1..=10u32 {
        let target = machine.target(&format!("target{n}"));
        let args = ["restore", "--identity", machine.kit().to_str().unwrap(), "--target", target.to_str().unwrap()]
            .map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = lifeboat(&machine, &args).spawn().unwrap();
        std::thread::sleep(whole * n / 11);
        child.kill().unwrap();
        child.wait().unwrap();
        let what = format!("killed after {n}/11");
        // Whatever is visible is whole: files come into place by one rename.
        for (path, said) in snapshot(&target.join("home")) {
            let expected = expected.get(&Path::new("home").join(&path));
            let content = |s: &str| s.split_once(' ').map(|s| s.1.to_owned());
            assert_eq!(expected.map(|e| content(e)), Some(content(&said)), "{what}: {path:?}");
        }
        machine.restore(&target);
        let mut there = snapshot(&target);
        // Nobody recorded the mode of the directory above the sources: it is what the process makes.
        there.insert("home".into(), expected[Path::new("home")].clone());
        assert_eq!(there.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
        assert!(there == expected, "{what}");
        std::fs::remove_dir_all(target).unwrap();
    }
}

/// Runs a shell script with a small file system at `dir`, which nobody else sees; `None` where that is not permitted.
fn on_small_disk(machine: &Machine, dir: &Path, options: &str, script: &str) -> Option<(i32, String)> {
    let all = "mount -t tmpfs -o \"$OPTIONS\" tmpfs \"$DISK\" || exit 99\n".to_owned() + script;
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", &all])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", &machine.world.home)
        .env("DISK", dir)
        .env("OPTIONS", options)
        .env("LIFEBOAT", env!("CARGO_BIN_EXE_lifeboat"))
        .env("KIT", machine.kit())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    match out.status.code() {
        Some(99) | None => None,
        Some(1) if text.contains("unshare") => None,
        Some(code) => Some((code, text)),
    }
}

fn small_disk(machine: &Machine) -> PathBuf {
    let dir = machine.target("disk");
    std::fs::create_dir(&dir).unwrap();
    dir
}

/// Where mounting is not permitted, [`the_store_is_full`] has to do.
#[test]
fn full_disks() {
    // The store.
    let machine = Machine::new();
    machine.write("agent/noise", noise(40 << 20, 3));
    let disk = small_disk(&machine);
    let script = r#"
        "$LIFEBOAT" init --sealed --store "$DISK" --source "$HOME/agent" || exit 98
        "$LIFEBOAT" backup && exit 97
        rm "$HOME/agent/noise"; echo small > "$HOME/agent/notes"
        "$LIFEBOAT" list
        # The volumes of the run that failed stay until they expire.
        rm -rf "$DISK/state"
        "$LIFEBOAT" backup && "$LIFEBOAT" restore --identity "$KIT" --target "$HOME/target" && cat "$HOME/target/home/agent/notes""#;
    let Some((code, text)) = on_small_disk(&machine, &disk, "size=30m", script) else { return };
    assert!(text.contains("the store is full: free some space") && text.contains("small\n"), "{code} {text}");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("incomplete: no commit"), "{text}");

    // The directory that databases are copied to, and the catalog is in.
    let machine = Machine::new();
    machine.write("agent/notes", "kept");
    let db = rusqlite::Connection::open(machine.home("agent/live.db")).unwrap();
    db.execute_batch("pragma journal_mode=wal; create table t(x)").unwrap();
    db.execute("insert into t values (randomblob(40000000))", []).unwrap();
    machine.init(&["agent"]);
    let disk = small_disk(&machine);
    let script = r#"
        export LIFEBOAT_STATE_DIR="$DISK"
        "$LIFEBOAT" backup; code=$?
        find "$DISK" -path '*staging*' -type f | sed 's/^/left: /'
        "$LIFEBOAT" list
        exit $code"#;
    let (code, text) = on_small_disk(&machine, &disk, "size=20m", script).unwrap();
    assert!(code != 0 && text.contains("hint:"), "{code} {text}");
    assert!(!text.contains("left: "), "{text}");
    drop(db);
    assert!(machine.list().snapshots.iter().all(|r| r.archive == "secrets" || r.status == "incomplete"), "{text}");
    machine.backup();

    // The target: too small, and without room for names.
    let machine = Machine::new();
    machine.write("agent/noise", noise(30 << 20, 4));
    for n in 0..300 {
        machine.write(&format!("agent/many/{n}"), "x");
    }
    machine.init(&["agent"]);
    machine.backup();
    let disk = small_disk(&machine);
    let script = r#""$LIFEBOAT" restore --identity "$KIT" --target "$DISK"; code=$?; ls -A "$DISK"; exit $code"#;
    for options in ["size=20m", "size=200m,nr_inodes=100"] {
        let (code, text) = on_small_disk(&machine, &disk, options, script).unwrap();
        assert_eq!(code, 1, "{options}: {text}");
        assert!(text.contains("hint: ") && text.contains("free some space"), "{options}: {text}");
        assert!(!text.contains("home\n") && !text.contains(".lifeboat-restore"), "{options}: {text}");
    }

    // The same for the plaintext of a drill.
    let script = r#"
        export LIFEBOAT_STATE_DIR="$DISK"
        "$LIFEBOAT" drill --identity "$KIT"; code=$?
        find "$DISK" -path '*scratch*' | sed 's/^/left: /'
        exit $code"#;
    let (code, text) = on_small_disk(&machine, &disk, "size=20m", script).unwrap();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("free some space") && !text.contains("left: "), "{text}");
    assert!(!machine.store().join("drills").exists(), "{text}");
}
