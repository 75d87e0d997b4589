//! Somebody with write access to the store, but without the keys: never a wrong restore, never a panic, and the error
//! names the object.

use std::path::{Path, PathBuf};

use lifeboat::Kind;
use lifeboat::commands::{Event, list, restore};
use lifeboat::model::kit::Kit;
use lifeboat::model::store_key::{Archive, SnapshotId};
use lifeboat::stream::sign::SigningKey;

use crate::forge::{self, Forger, copy, files, said, snapshot};
use crate::world::{Machine, NOW};

/// A machine with a store, and what a restore of it must bring.
struct Case {
    machine: Machine,
    expected: std::collections::BTreeMap<PathBuf, String>,
    /// The store as it was.
    whole: PathBuf,
}

impl Case {
    fn new() -> Case {
        let machine = Machine::new();
        machine.write("agent/notes.md", "remember this");
        machine.write("agent/empty", "");
        machine.write("agent/.env", "API_KEY=fake-0000");
        std::os::unix::fs::symlink("notes.md", machine.home("agent/link")).unwrap();
        std::fs::hard_link(machine.home("agent/notes.md"), machine.home("agent/second")).unwrap();
        machine.init(&["agent"]);
        machine.backup();
        Case::of(machine)
    }

    fn of(machine: Machine) -> Case {
        let target = machine.target("whole");
        machine.restore(&target);
        let whole = machine.target("store-as-it-was");
        copy(&machine.store(), &whole);
        Case { expected: snapshot(&target), machine, whole }
    }

    /// An object of the only snapshot, by the end of its key.
    fn object(&self, archive: &str, name: &str) -> PathBuf {
        let found = files(&self.machine.store());
        let found: Vec<_> = found.iter().filter(|p| p.starts_with(archive) && p.ends_with(name)).collect();
        assert_eq!(found.len(), 1, "{archive} {name}: {found:?}");
        found[0].clone()
    }

    fn reset(&self) {
        std::fs::remove_dir_all(self.machine.store()).unwrap();
        copy(&self.whole, &self.machine.store());
    }

    /// Restores to a new target: right and whole, or an error and nothing.
    fn attempt(&self, what: &str) -> Result<Vec<String>, lifeboat::Error> {
        self.attempt_with(what, |_| {})
    }

    fn attempt_with(
        &self,
        what: &str,
        change: impl FnOnce(&mut restore::Args),
    ) -> Result<Vec<String>, lifeboat::Error> {
        let target = self.machine.target("attempt");
        let result = self.machine.try_restore(&target, change);
        let there = snapshot(&target);
        if target.exists() {
            std::fs::remove_dir_all(&target).unwrap();
        }
        match result {
            Ok((_, events)) => {
                assert_eq!(there, self.expected, "{what}: a wrong restore that calls itself right");
                Ok(warnings(events))
            }
            Err(e) => {
                assert!(there.is_empty(), "{what}: failed, and left {there:?}");
                Err(e)
            }
        }
    }

    /// It must fail as damage that names `object`, or the snapshot it belongs to.
    fn damaged(&self, what: &str, object: &Path) {
        let error = match self.attempt(what) {
            Ok(_) => panic!("{what}: was restored"),
            Err(e) => e,
        };
        let text = said(&error);
        assert_eq!(error.kind(), Kind::Damaged, "{what}: {text}");
        let (whole, directory) = (object.to_str().unwrap(), object.parent().unwrap().to_str().unwrap());
        let name = object.file_name().unwrap().to_str().unwrap();
        assert!(
            text.contains(whole) || (text.contains(directory) && (name.starts_with("commit") || text.contains(name))),
            "{what}: {text}"
        );
    }
}

fn warnings(events: Vec<Event>) -> Vec<String> {
    let text = |e| match e {
        Event::Warning(text) => Some(text),
        _ => None,
    };
    events.into_iter().filter_map(text).collect()
}

const OBJECTS: [&str; 4] = ["000000.tar.zst.age", "manifest.jsonl.zst.age", "commit.minisig", "commit"];

/// Every byte of what is small, and of the beginning and end of what is padded; between them every `STRIDE`th.
const EDGE: usize = 400;
const STRIDE: usize = 997;

fn positions(length: usize) -> impl Iterator<Item = usize> {
    (0..length)
        .filter(move |at| length < 16 * EDGE || *at < EDGE || *at >= length - EDGE / 4 || at.is_multiple_of(STRIDE))
}

fn flip_all(archive: &str) {
    let case = Case::new();
    for name in OBJECTS {
        let object = case.object(archive, name);
        let path = case.machine.store().join(&object);
        let whole = std::fs::read(&path).unwrap();
        let mut harmless = 0;
        for at in positions(whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            let what = format!("{archive} {name} with byte {at} of {} flipped", whole.len());
            // The untrusted comment of a signature is just that.
            match case.attempt(&what) {
                Ok(_) => {
                    assert_eq!(name, "commit.minisig", "{what}: was restored");
                    harmless += 1;
                }
                Err(_) if at.is_multiple_of(16) => case.damaged(&what, &object),
                Err(e) => assert_eq!(e.kind(), Kind::Damaged, "{what}: {}", said(&e)),
            }
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(harmless < 60, "{name}: {harmless} bytes do not matter");
    }
    case.attempt("put back").unwrap();
}

#[test]
fn every_byte_of_the_state_matters() {
    flip_all("state");
}

#[test]
fn every_byte_of_the_secrets_matters() {
    flip_all("secrets");
}

/// The same below the checksums: the commit is made to match, so that age, frames and manifest must notice.
#[test]
fn every_byte_matters_below_the_checksums() {
    let case = Case::new();
    let forger = Forger::of(&case.machine);
    for name in &OBJECTS[..2] {
        let object = case.object("state", name);
        let path = case.machine.store().join(&object);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            resign(&case, &forger, &object);
            let what = format!("{name} with byte {at} of {} flipped and signed", whole.len());
            match case.attempt(&what) {
                Ok(_) => panic!("{what}: was restored"),
                // A header that names other recipients cannot be told from one for somebody else.
                Err(e) if e.kind() == Kind::NoIdentity => {
                    assert!(at < 200 && name.starts_with("manifest"), "{what}: {}", said(&e))
                }
                Err(e) => {
                    assert_eq!(e.kind(), Kind::Damaged, "{what}: {}", said(&e));
                    assert!(said(&e).contains(name), "{what}: {}", said(&e));
                }
            }
        }
        case.reset();
    }
}

/// Makes the only state commit list an object as it is now, and signs it.
fn resign(case: &Case, forger: &Forger, object: &Path) {
    let commit = case.machine.store().join(case.object("state", "commit"));
    let bytes = std::fs::read(case.machine.store().join(object)).unwrap();
    let mut parsed = lifeboat::model::commit::Commit::parse(&std::fs::read_to_string(&commit).unwrap()).unwrap();
    let name = object.file_name().unwrap().to_str().unwrap();
    let listed = parsed.objects.iter_mut().find(|o| o.name == name).unwrap();
    listed.size = bytes.len() as u64;
    listed.sha256 = lifeboat::commands::session::sha256(&bytes);
    let text = parsed.render();
    let signature = lifeboat::commands::session::sign_commit(&forger.key, &parsed, &text).unwrap();
    std::fs::write(commit.with_file_name("commit.minisig"), signature).unwrap();
    std::fs::write(commit, text).unwrap();
}

#[test]
fn cut_grown_and_gone() {
    let case = Case::new();
    let forger = Forger::of(&case.machine);
    for archive in ["state", "secrets"] {
        for name in OBJECTS {
            let object = case.object(archive, name);
            let path = case.machine.store().join(&object);
            let whole = std::fs::read(&path).unwrap();
            let n = whole.len();
            for length in [0, 1, 21, 22, n / 4, n / 2, n - 512.min(n), n - 17, n - 16, n - 1] {
                std::fs::write(&path, &whole[..length.min(n - 1)]).unwrap();
                let what = format!("{archive} {name} cut to {length} of {n}");
                // Without its last newline a signature is still whole.
                if name == "commit.minisig" && length == n - 1 {
                    case.attempt(&what).unwrap();
                } else {
                    case.damaged(&what, &object);
                }
            }
            for more in [&b"\n"[..], b"\0", b"more bytes", &whole] {
                std::fs::write(&path, [&whole[..], more].concat()).unwrap();
                case.damaged(&format!("{archive} {name} with {} bytes more", more.len()), &object);
            }
            std::fs::remove_file(&path).unwrap();
            if name == "commit" && archive == "state" {
                let error = case.attempt("no commit").unwrap_err();
                assert_eq!(error.kind(), Kind::NotThere, "{}", said(&error));
                assert!(said(&error).contains("never finished"), "{}", said(&error));
            } else if name != "commit" {
                case.damaged(&format!("{archive} {name} removed"), &object);
            }
            std::fs::write(&path, &whole).unwrap();
        }
    }
    // Cut below the checksums.
    for name in &OBJECTS[..2] {
        let object = case.object("state", name);
        let path = case.machine.store().join(&object);
        let whole = std::fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..length]).unwrap();
            resign(&case, &forger, &object);
            case.damaged(&format!("{name} cut to {length} and signed"), &object);
        }
        case.reset();
    }
}

/// Two snapshots of two archives each, an hour apart.
fn two() -> (Case, Vec<String>, Vec<String>) {
    let mut machine = Machine::new();
    machine.write("agent/notes.md", "first");
    machine.write("agent/.env", "API_KEY=fake-1111");
    machine.init(&["agent"]);
    let first = machine.backup();
    machine.write("agent/notes.md", "other");
    machine.write("agent/.env", "API_KEY=fake-2222");
    // In another month, so that both are fulls.
    machine.world.fixed_now = Some(NOW + 40 * 86_400);
    let second = machine.backup();
    let places = |get: &dyn Fn(&lifeboat::commands::backup::Done) -> String| vec![get(&first), get(&second)];
    let state = places(&|d| d.state.as_ref().unwrap().place.clone());
    let secrets = places(&|d| d.secrets.as_ref().unwrap().place.clone());
    (Case::of(machine), state, secrets)
}

impl Case {
    /// It must restore something older, and say what it skipped; or nothing.
    fn older(&self, what: &str, first: &[String]) {
        let target = self.machine.target("older");
        match self.machine.try_restore(&target, |_| {}) {
            Ok((done, events)) => {
                let older = done.state.as_ref() == Some(&first[0]) || done.secrets.as_ref() == Some(&first[1]);
                assert!(older, "{what}: {done:?}");
                assert!(warnings(events).iter().any(|w| w.contains("does not verify")), "{what}");
                std::fs::remove_dir_all(target).unwrap();
            }
            Err(e) => assert_eq!(e.kind(), Kind::Damaged, "{what}: {}", said(&e)),
        }
    }

    fn at(&self, key: &str) -> PathBuf {
        self.machine.store().join(key)
    }

    fn swap(&self, one: &str, other: &str) {
        let aside = self.at("aside");
        std::fs::rename(self.at(one), &aside).unwrap();
        std::fs::rename(self.at(other), self.at(one)).unwrap();
        std::fs::rename(&aside, self.at(other)).unwrap();
    }

    fn rename(&self, one: &str, other: &str) {
        std::fs::create_dir_all(self.at(other).parent().unwrap()).unwrap();
        std::fs::rename(self.at(one), self.at(other)).unwrap();
    }

    fn plant(&self, from: &str, to: &str) {
        std::fs::create_dir_all(self.at(to).parent().unwrap()).unwrap();
        copy(&self.at(from), &self.at(to));
    }

    fn status(&self, place: &str) -> (&'static str, String) {
        let id = place.rsplit('/').next().unwrap();
        let row =
            self.machine.list().snapshots.into_iter().find(|r| id.starts_with(&r.id) && place.starts_with(r.archive));
        let row = row.unwrap_or_else(|| panic!("{place} is not listed"));
        (row.status, row.note.unwrap_or_default())
    }
}

#[test]
fn objects_swapped() {
    let (case, state, secrets) = two();
    let first: Vec<String> = [&state[0], &secrets[0]].map(|p| p.rsplit('/').next().unwrap().to_owned()).into();
    for (one, other) in [(&state[0], &state[1]), (&secrets[0], &secrets[1]), (&state[1], &secrets[1])] {
        for name in OBJECTS {
            case.swap(&format!("{one}/{name}"), &format!("{other}/{name}"));
            let what = format!("{name} of {one} and {other} swapped");
            // Without its commit or signature a snapshot is skipped, and the one before it is the newest.
            if name.starts_with("commit") {
                case.older(&what, &first);
            } else {
                let error = case.attempt(&what).unwrap_err();
                assert_eq!(error.kind(), Kind::Damaged, "{what}: {}", said(&error));
                assert!(said(&error).contains(name), "{what}: {}", said(&error));
            }
            case.reset();
        }
    }
    // Commit and signature together, so that only their content tells.
    for (one, other) in [(&state[0], &state[1]), (&state[1], &secrets[1])] {
        for name in &OBJECTS[2..] {
            case.swap(&format!("{one}/{name}"), &format!("{other}/{name}"));
        }
        case.older("commit and signature swapped", &first);
        case.reset();
    }
}

#[test]
fn volumes_swapped() {
    let machine = Machine::new();
    let mut random = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33).to_le_bytes()[0]
    })
    .take(36 << 20)
    .collect();
    machine.write("agent/noise", noise);
    machine.init(&["agent"]);
    let done = machine.backup();
    let case = Case::of(machine);
    let place = done.state.unwrap().place;
    case.swap(&format!("{place}/000000.tar.zst.age"), &format!("{place}/000001.tar.zst.age"));
    case.damaged("volumes swapped", Path::new(&format!("{place}/000000.tar.zst.age")));
    case.reset();
    std::fs::remove_file(case.at(&format!("{place}/000002.tar.zst.age"))).unwrap();
    case.damaged("last volume removed", Path::new(&format!("{place}/000002.tar.zst.age")));
    case.reset();
    case.plant(&format!("{place}/000001.tar.zst.age"), &format!("{place}/000003.tar.zst.age"));
    case.attempt("a volume that no commit lists").unwrap();
}

#[test]
fn directories_moved() {
    let (case, state, secrets) = two();
    let id = state[1].rsplit('/').next().unwrap().to_owned();
    let later = "20261121T220000Z-00000001";
    let (first, series) = (state[0].rsplit('/').next().unwrap(), &case.machine.list().snapshots[0].series);
    for (to, why) in [
        (format!("state/daily/{series}/{id}"), "says another tier than its name"),
        (format!("state/monthly/{series}/{later}"), "not for `lifeboat"),
        (format!("state/monthly/{series}/{id}.on.{first}"), "says another parent than its name"),
        (format!("secrets/{series}/{id}"), "says another archive than its name"),
    ] {
        case.rename(&state[1], &to);
        let (status, note) = case.status(&to);
        assert_eq!(status, "unverified", "{to}: {note}");
        assert!(note.contains(why), "{to}: {note}");
        // The other snapshot is latest now, or, where the bundle has an impostor, what it was before.
        let target = case.machine.target("older");
        let (done, events) = case.machine.try_restore(&target, |_| {}).unwrap();
        assert_eq!(done.state.as_deref(), Some(first), "{to}");
        assert!(warnings(events).iter().any(|w| w.contains("does not verify") && w.contains(&id[..8])), "{to}");
        std::fs::remove_dir_all(target).unwrap();
        case.reset();
    }
    // To another series: there is nothing of it in this one, and it is not of that one.
    let to = format!("state/monthly/other/{id}");
    case.rename(&state[1], &to);
    assert!(case.machine.list().snapshots.iter().all(|r| r.id != id));
    let error = case.attempt_with("other series", |a| a.name = Some("other".into())).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{}", said(&error));
    assert!(said(&error).contains(&to), "{}", said(&error));
    case.reset();
    // A bundle under another id is not the newest bundle.
    case.plant(&secrets[0], &format!("secrets/{series}/{later}"));
    let warned = case.attempt("older bundle replayed").unwrap();
    assert!(warned.iter().any(|w| w.contains(later)), "{warned:?}");
}

#[test]
fn replays_and_plants() {
    let (case, state, secrets) = two();
    let series = case.machine.list().snapshots[0].series.clone();
    let far = "20990101T000000Z-00000001";
    let stranger = SigningKey::generate().unwrap();
    let mut strange = Forger::of(&case.machine);
    strange.key = stranger;
    let far_id = SnapshotId::parse(far).unwrap();
    type Plant<'a> = (&'a str, Box<dyn Fn(&Case) + 'a>);
    let plants: Vec<Plant<'_>> = vec![
        (
            "older one replayed under a newer id",
            Box::new(|c: &Case| c.plant(&state[0], &format!("state/monthly/{series}/{far}"))),
        ),
        ("newest copied to 2099", Box::new(|c: &Case| c.plant(&state[1], &format!("state/monthly/{series}/{far}")))),
        ("bundle copied to 2099", Box::new(|c: &Case| c.plant(&secrets[0], &format!("secrets/{series}/{far}")))),
        (
            "bundle copied to 2099, pinned",
            Box::new(|c: &Case| c.plant(&secrets[0], &format!("secrets-pinned/{series}/{far}"))),
        ),
        (
            "signed by a stranger",
            Box::new(|_| {
                strange.put_as(
                    Archive::State,
                    &far_id,
                    u64::MAX / 2,
                    vec![forge::file("home/agent/notes.md", "evil")],
                    &|_| {},
                );
                strange.put_as(
                    Archive::Secrets,
                    &far_id,
                    u64::MAX / 2,
                    vec![forge::file("home/agent/.env", "evil")],
                    &|_| {},
                );
            }),
        ),
        (
            "only an empty commit",
            Box::new(|c: &Case| {
                std::fs::create_dir_all(c.at(&format!("state/monthly/{series}/{far}"))).unwrap();
                std::fs::write(c.at(&format!("state/monthly/{series}/{far}/commit")), "").unwrap();
            }),
        ),
    ];
    for (what, plant) in &plants {
        plant(&case);
        let warned = case.attempt(what).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
        assert!(warned.iter().any(|w| w.contains(far) && w.contains("does not verify")), "{what}: {warned:?}");
        let listed = case.machine.list().snapshots;
        assert!(listed.iter().all(|r| (r.id == far) == (r.status == "unverified")), "{what}: {listed:?}");
        case.reset();
    }
    // With a new catalog the store is asked, and still only what verifies counts.
    let newest = case.machine.list().snapshots.iter().filter_map(|r| r.seq).max().unwrap();
    plants.iter().for_each(|(_, plant)| {
        std::fs::remove_dir_all(case.at(&format!("state/monthly/{series}/{far}"))).ok();
        plant(&case);
    });
    std::fs::remove_dir_all(case.machine.world.state_dir(&series)).unwrap();
    let done = case.machine.backup();
    let listing = case.machine.list();
    let mut added: Vec<u64> = listing.snapshots.iter().filter_map(|r| r.seq.filter(|s| *s > newest)).collect();
    added.sort_unstable();
    assert_eq!(added, [newest + 1, newest + 2]);
    assert!(listing.hidden.is_empty(), "{:?}", listing.hidden);
    let commit = std::fs::read_to_string(case.at(&format!("{}/commit", done.state.unwrap().place))).unwrap();
    let before = state[1].rsplit('/').next().unwrap();
    assert!(commit.contains(&format!("# prev {before} ")), "{commit}");
}

/// A copy below `pinned/` verifies as what it is a copy of; it must not stand in for it with less.
#[test]
fn a_hollow_pinned_copy() {
    let (case, state, secrets) = two();
    let series = case.machine.list().snapshots[0].series.clone();
    for (from, to) in [(&state[1], "state/pinned"), (&secrets[1], "secrets-pinned")] {
        let id = from.rsplit('/').next().unwrap();
        case.plant(from, &format!("{to}/{series}/{id}"));
        std::fs::write(case.at(&format!("{to}/{series}/{id}/000000.tar.zst.age")), "hollow").unwrap();
        case.attempt("a hollow copy").unwrap_or_else(|e| panic!("{}", said(&e)));
        std::fs::remove_file(case.at(&format!("{to}/{series}/{id}/000000.tar.zst.age"))).unwrap();
        case.attempt("an empty copy").unwrap_or_else(|e| panic!("{}", said(&e)));
        let size = std::fs::metadata(case.at(&format!("{from}/000000.tar.zst.age"))).unwrap().len();
        std::fs::write(
            case.at(&format!("{to}/{series}/{id}/000000.tar.zst.age")),
            vec![0; usize::try_from(size).unwrap()],
        )
        .unwrap();
        case.attempt("a copy of the right size").unwrap_or_else(|e| panic!("{}", said(&e)));
        // A good copy does serve when the original is gone.
        case.reset();
        case.rename(from, &format!("{to}/{series}/{id}"));
        case.attempt("only the pinned copy").unwrap_or_else(|e| panic!("{}", said(&e)));
        case.reset();
    }
}

#[test]
fn what_is_not_signed_is_asked_for() {
    let case = Case::new();
    for name in ["commit.minisig", "commit"] {
        let object = case.at(case.object("state", name).to_str().unwrap());
        if name == "commit.minisig" {
            std::fs::remove_file(&object).unwrap();
        } else {
            let text = std::fs::read_to_string(&object).unwrap();
            std::fs::write(&object, text.replace("# life ", "# unknown line\n# life ")).unwrap();
        }
        let error = case.attempt("unsigned").unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(said(&error).contains("--allow-unsigned"), "{}", said(&error));
        let warned = case.attempt_with("allowed", |a| a.allow_unsigned = true).unwrap();
        assert!(warned.iter().any(|w| w.contains("because of --allow-unsigned")), "{warned:?}");
        case.reset();
    }
}

#[test]
fn what_was_removed_is_missed() {
    let (case, state, secrets) = two();
    let hidden = || case.machine.list().hidden;
    assert!(hidden().is_empty());
    // The newest state archive: nothing newer names it.
    std::fs::remove_dir_all(case.at(&state[1])).unwrap();
    assert!(hidden().is_empty(), "{:?}", hidden());
    case.reset();
    for (gone, what) in [(&state[0], "state archive"), (&secrets[1], "secrets bundle"), (&secrets[0], "secrets bundle")]
    {
        let id = gone.rsplit('/').next().unwrap();
        std::fs::remove_dir_all(case.at(gone)).unwrap();
        let found = hidden();
        assert!(!found.is_empty() && found.iter().all(|h| h.contains(id) && h.contains(what)), "{gone}: {found:?}");
        let target = case.machine.target("left");
        let (done, events) = case.machine.try_restore(&target, |_| {}).unwrap();
        let lost = (gone == &secrets[1]).then(|| id.to_owned());
        assert_eq!(done.lost_bundle, lost, "{gone}");
        assert_eq!(!lifeboat::commands::Report::problems(&done).is_empty(), lost.is_some(), "{gone}");
        assert!(warnings(events).iter().any(|w| w.contains("removed") && w.contains(id)), "{gone}");
        std::fs::remove_dir_all(target).unwrap();
        case.reset();
    }
    // Once its time is over nobody misses it.
    let mut machine = case.machine;
    machine.world.fixed_now = Some(NOW + 3000 * 86_400);
    std::fs::remove_dir_all(machine.store().join(&state[0])).unwrap();
    assert!(machine.list().hidden.is_empty());
}

#[test]
fn the_wrong_keys() {
    let (case, ..) = two();
    let other = Machine::new();
    other.write("agent/notes.md", "x");
    other.init(&["agent"]);
    let store = case.machine.store().to_str().unwrap().to_owned();
    let with_other_kit = |unsigned: bool| {
        case.attempt_with("another kit", |a| {
            a.identity = Some(other.kit());
            a.store = Some(store.clone());
            a.allow_unsigned = unsigned;
        })
    };
    let error = with_other_kit(false).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{}", said(&error));
    assert!(
        said(&error).contains("by another key") && said(&error).contains("belongs to this series"),
        "{}",
        said(&error)
    );
    let error = with_other_kit(true).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity, "{}", said(&error));

    // The right signing key, the wrong identities; and those of the two archives exchanged.
    let kit = || Kit::parse(&std::fs::read_to_string(case.machine.kit()).unwrap()).unwrap();
    let theirs = Kit::parse(&std::fs::read_to_string(other.kit()).unwrap()).unwrap();
    let exchanged = Kit { state: kit().secrets, secrets: kit().state, ..kit() };
    let wrong = Kit { state: theirs.state.clone(), ..kit() };
    let wrong_secrets = Kit { secrets: theirs.secrets, ..kit() };
    for (what, kit) in [("exchanged", exchanged), ("wrong", wrong), ("wrong secrets", wrong_secrets)] {
        let path = case.machine.target("kit.txt");
        lifeboat::host::private_file::write_private_file(&path, &kit.render()).unwrap();
        let error = case.attempt_with(what, |a| a.identity = Some(path.clone())).unwrap_err();
        assert_eq!(error.kind(), Kind::NoIdentity, "{what}: {}", said(&error));
        std::fs::remove_file(path).unwrap();
    }
}

/// Things that no lifeboat wrote, wherever they are, change nothing.
#[test]
fn litter_is_ignored() {
    use std::os::unix::ffi::OsStrExt as _;
    let (case, state, _) = two();
    let series = case.machine.list().snapshots[0].series.clone();
    let far = format!("state/monthly/{series}/20990101T000000Z-00000001");
    let litter: Vec<(&str, Vec<u8>)> = vec![
        ("a file in the series", format!("state/monthly/{series}/readme").into()),
        ("a file in the snapshot", format!("{}/commit.bak", state[1]).into()),
        ("a volume number of seven digits", format!("{}/0000001.tar.zst.age", state[1]).into()),
        ("below the commit's name", format!("{far}/commit/commit").into()),
        ("an id that is none", format!("state/monthly/{series}/29990101T000000Z-XYZ/commit").into()),
        ("a date that is none", format!("state/monthly/{series}/20991399T000000Z-00000001/commit").into()),
        ("a tier with a space", format!("state/a tier/{series}/20990101T000000Z-00000001/commit").into()),
        ("a percent sign", format!("state/monthly/{series}/100%/commit").into()),
        ("a staged put", format!("{}/commit#1", state[1]).into()),
        ("a control character", format!("state/monthly/{series}/a\nb/commit").into()),
        ("a name that is not UTF-8", [format!("state/monthly/{series}/").as_bytes(), b"\xff/commit"].concat()),
    ];
    for (what, path) in litter {
        let path = case.machine.store().join(std::ffi::OsStr::from_bytes(&path));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "litter").unwrap();
        case.attempt(what).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
        let args = list::Args { identity: Some(case.machine.kit()), all: true, ..list::Args::default() };
        let listing = list::run(&case.machine.world, &args, &mut |_| {}).unwrap();
        assert_eq!(listing.snapshots.iter().filter(|r| r.status == "ok").count(), 4, "{what}");
        case.reset();
    }
}
