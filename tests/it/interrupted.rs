//! A backup that was cut off goes on in the next run with what is on the store, if the sources still allow it; whatever
//! happened to them meanwhile, what comes out restores to what is there then, by lifeboat and by `tar` alone.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat::commands::{Event, backup, rotate, verify};
use lifeboat::model::commit::Commit;

use crate::faults::full_after;
use crate::forge::{files, said, snapshot};
use crate::world::{Machine, NOW};

/// A clock ahead of the files', so that `stat` is believed.
const LATER: i64 = NOW + 60 * 86_400;

/// What no compressor makes smaller.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// An agent whose archive has some volumes: small files and a small database, then what goes through several frames, the
/// largest across volumes, then a large database.
fn agent() -> Machine {
    let mut machine = Machine::new();
    machine.world.fixed_now = Some(LATER);
    for n in 0..40u64 {
        machine.write(&format!("agent/notes/{n}.md"), noise(100_000 + 1000 * usize::try_from(n).unwrap(), n));
    }
    machine.write("agent/a.bin", noise(9 << 20, 100));
    machine.write("agent/b.bin", noise(26 << 20, 101));
    std::fs::hard_link(machine.home("agent/a.bin"), machine.home("agent/z.bin")).unwrap();
    std::os::unix::fs::symlink("a.bin", machine.home("agent/link")).unwrap();
    for (name, bytes) in [("small.db", 10_000), ("large.db", 9 << 20)] {
        let db = rusqlite::Connection::open(machine.home(&format!("agent/{name}"))).unwrap();
        db.execute_batch("create table t(x)").unwrap();
        db.execute("insert into t values (?1)", [noise(bytes, 102)]).unwrap();
    }
    machine.init(&["agent"]);
    machine
}

fn insert(machine: &Machine, name: &str) {
    let db = rusqlite::Connection::open(machine.home(name)).unwrap();
    db.execute("insert into t values (?1)", [noise(5000, 7)]).unwrap();
}

/// Cuts a backup off after so many puts.
fn cut_off(machine: &mut Machine, puts: usize) {
    machine.world.wrap_store = Some(full_after(puts));
    let error = machine.try_backup().expect_err("it calls itself done");
    assert!(said(&error).contains("the store is full"), "{}", said(&error));
    machine.world.wrap_store = None;
    assert!(machine.list().snapshots.iter().all(|row| row.status == "incomplete"), "something counts");
}

/// A run, and how many volumes of an earlier one it went on behind.
fn go_on(machine: &Machine) -> (backup::Done, Option<usize>) {
    let mut events = Vec::new();
    let done = backup::run(&machine.world, &backup::Args::default(), &mut |e| events.push(e));
    let done = done.unwrap_or_else(|e| panic!("{}", said(&e)));
    let volumes = |text: &String| text.split_once("of which ")?.1.split(' ').next()?.parse().ok();
    let mut notes = events.iter().filter_map(|e| if let Event::Note(text) = e { volumes(text) } else { None });
    (done, notes.next_back())
}

/// The directory of the newest snapshot, and its commit.
fn newest(machine: &Machine, done: &backup::Done) -> (PathBuf, Commit) {
    let dir = machine.store().join(&done.state.as_ref().unwrap().place);
    let commit = Commit::parse(&std::fs::read_to_string(dir.join("commit")).unwrap()).unwrap();
    (dir, commit)
}

/// What `tar` alone makes of an archive: volumes decrypted one after the other, as `RECOVERY.md` says.
fn by_tar(machine: &Machine, done: &backup::Done, target: &Path) {
    let kit = std::fs::read_to_string(machine.kit()).unwrap();
    let keys = kit.lines().filter(|line| line.starts_with("AGE-SECRET-KEY-"));
    let keys: Vec<age::x25519::Identity> = keys.map(|line| line.parse().unwrap()).collect();
    let (dir, commit) = newest(machine, done);
    let mut frames = Vec::new();
    for object in commit.objects.iter().filter(|o| o.name.ends_with(".tar.zst.age")) {
        let sealed = std::fs::read(dir.join(&object.name)).unwrap();
        let opened = age::Decryptor::new(&sealed[..]).unwrap();
        opened.decrypt(keys.iter().map(|k| k as _)).unwrap().read_to_end(&mut frames).unwrap();
    }
    let tar = zstd::decode_all(&frames[..]).unwrap();
    std::fs::create_dir_all(target).unwrap();
    let file = machine.target("whole.tar");
    std::fs::write(&file, tar).unwrap();
    let mut command = Command::new("tar");
    command.args(["-x", "-p", "--delay-directory-restore", "-f"]).arg(&file).arg("-C").arg(target);
    let out = command.output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}

/// Content, modes and times; of directories as well.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt as _;
    let time = |path: &Path| {
        let meta = std::fs::symlink_metadata(dir.join(path)).unwrap();
        if meta.is_symlink() { String::new() } else { format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()) }
    };
    snapshot(dir).into_iter().map(|(path, what)| (path.clone(), format!("{what} {}", time(&path)))).collect()
}

/// The newest snapshot is what is there now, by either way, and nothing of the cut is left on this machine.
fn expect(machine: &Machine, done: &backup::Done, what: &str) {
    let (restored, by_hand) = (machine.target("restored"), machine.target("by-hand"));
    machine.try_restore(&restored, |_| {}).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
    let mut is = tree(&machine.home("agent"));
    let there = tree(&restored.join("home/agent"));
    // A copy of a database is one of its pages, in another file.
    let same = |name: &str| {
        let rows = |dir: &Path| {
            let db = rusqlite::Connection::open(dir.join(name)).unwrap();
            db.query_row("select count(*), sum(length(x)) from t", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap()
        };
        let [a, b]: [(i64, i64); 2] = [rows(&machine.home("agent")), rows(&restored.join("home/agent"))];
        assert_eq!(a, b, "{what}: {name}");
    };
    for name in ["small.db", "large.db"].into_iter().filter(|name| is.contains_key(Path::new(name))) {
        same(name);
    }
    is.retain(|path, _| !path.to_str().unwrap().contains(".db-"));
    assert_eq!(there, is, "{what}");
    if done.state.as_ref().unwrap().parent.is_none() {
        by_tar(machine, done, &by_hand);
        let mut by_hand_tree = tree(&by_hand.join("home/agent"));
        by_hand_tree.retain(|path, _| !path.starts_with("lifeboat"));
        assert_eq!(by_hand_tree, there, "{what}: by tar");
        std::fs::remove_dir_all(by_hand).unwrap();
    }
    std::fs::remove_dir_all(restored).unwrap();
    let state = machine.world.state_dir(&done.series);
    assert!(files(&state).iter().all(|p| !p.starts_with("interrupted")), "{what}: {:?}", files(&state));
}

fn stored(machine: &Machine) -> BTreeMap<PathBuf, Vec<u8>> {
    let store = machine.store();
    files(&store).into_iter().map(|p| (p.clone(), std::fs::read(store.join(p)).unwrap())).collect()
}

#[test]
fn what_is_on_the_store_is_not_sent_again() {
    let machine = agent();
    let whole = newest(&machine, &machine.backup()).1.objects.len() - 1;
    assert!(whole > 2);
    for puts in 1..=whole {
        let mut machine = agent();
        cut_off(&mut machine, puts);
        let before = stored(&machine);
        let (done, volumes) = go_on(&machine);
        // The last volume has the end of the tar in it, and can only be the last.
        assert_eq!(volumes, Some(puts.min(whole - 1)), "{puts}");
        expect(&machine, &done, &format!("cut off after {puts}"));
        let (_, commit) = newest(&machine, &done);
        assert_eq!(commit.objects.len(), whole + 1, "{puts}");
        let after = stored(&machine);
        assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "{puts}: something was changed");
        assert_eq!(machine.list().snapshots.len(), 1, "{puts}");
        let verified = lifeboat::commands::verify::run(&machine.world, &Default::default(), &mut |_| {}).unwrap();
        assert!(verified.findings.is_empty(), "{puts}: {:?}", verified.findings);
    }
}

/// Once there is a manifest there can be no other, so that the next run begins anew.
#[test]
fn cut_off_behind_the_manifest() {
    let mut machine = agent();
    cut_off(&mut machine, 3);
    let volume = files(&machine.store()).into_iter().find(|p| p.ends_with("000000.tar.zst.age")).unwrap();
    std::fs::write(machine.store().join(volume).with_file_name("manifest.jsonl.zst.age"), "sealed").unwrap();
    machine.world.fixed_now = Some(LATER + 900);
    let (done, volumes) = go_on(&machine);
    assert_eq!(volumes, None);
    expect(&machine, &done, "behind the manifest");
}

/// Something that happens between the cut and the next run, after how many volumes that is, and whether that run can go
/// on. Two volumes end in the middle of the largest file, behind three there are small ones.
type Change = (&'static str, usize, fn(&Machine), bool);

const CHANGES: &[Change] = &[
    ("a small file grew", 3, |m| drop(m.write("agent/notes/3.md", "longer now")), true),
    ("a file is new", 3, |m| drop(m.write("agent/notes/new.md", "new")), true),
    ("a file that was cut through changed", 2, |m| drop(m.write("agent/b.bin", noise(26 << 20, 200))), true),
    ("a large file changed", 2, |m| drop(m.write("agent/a.bin", noise(9 << 20, 201))), true),
    ("a large file became small", 2, |m| drop(m.write("agent/a.bin", "small")), true),
    ("a small file became large", 3, |m| drop(m.write("agent/notes/5.md", noise(3 << 20, 202))), true),
    (
        "a mode changed",
        3,
        |m| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(m.home("agent/notes"), std::fs::Permissions::from_mode(0o700)).unwrap();
        },
        true,
    ),
    ("databases changed", 3, |m| ["agent/small.db", "agent/large.db"].iter().for_each(|name| insert(m, name)), true),
    (
        "a file became a directory",
        3,
        |m| {
            std::fs::remove_file(m.home("agent/notes/4.md")).unwrap();
            m.write("agent/notes/4.md/inside", "x");
        },
        true,
    ),
    ("a file is gone", 3, |m| std::fs::remove_file(m.home("agent/notes/7.md")).unwrap(), false),
    ("what was cut through is gone", 2, |m| std::fs::remove_file(m.home("agent/b.bin")).unwrap(), false),
    (
        "a file became a secret",
        3,
        |m| drop(m.write("agent/notes/8.md", format!("token: ghp_{}\n", "16C7e42F292c6912E7710c838347Ae178B4a"))),
        false,
    ),
];

#[test]
fn whatever_changed_meanwhile() {
    for (what, puts, change, goes_on) in CHANGES {
        let mut machine = agent();
        cut_off(&mut machine, *puts);
        std::thread::sleep(std::time::Duration::from_millis(12));
        change(&machine);
        machine.world.fixed_now = Some(LATER + 900);
        let (done, volumes) = go_on(&machine);
        assert_eq!(volumes, goes_on.then_some(*puts), "{what}");
        if done.secrets.is_none() {
            expect(&machine, &done, what);
        } else {
            let target = machine.target("secret");
            machine.try_restore(&target, |a| a.no_secrets = true).unwrap();
            assert!(!target.join("home/agent/notes/8.md").exists());
        }
    }
}

/// What goes away just when a run goes on: that is found out at the end, and the same run begins anew.
#[test]
fn what_goes_away_while_it_goes_on() {
    let mut machine = agent();
    cut_off(&mut machine, 3);
    let (mut gone, mut anew) = (false, false);
    let done = backup::run(&machine.world, &backup::Args::default(), &mut |event| {
        let Event::Note(text) = event else { return };
        if text.contains("going on with") {
            assert!(!gone, "it goes on twice");
            std::fs::remove_file(machine.home("agent/notes/7.md")).unwrap();
            gone = true;
        }
        anew |= text.contains("beginning anew");
    });
    let done = done.unwrap_or_else(|e| panic!("{}", said(&e)));
    assert!(gone && anew);
    assert_eq!(done.vanished, 0);
    expect(&machine, &done, "begun anew");
}

/// Cut off again and again, with changes in between.
#[test]
fn a_long_way() {
    let mut machine = agent();
    machine.write("agent/d.bin", noise(24 << 20, 300));
    for round in 0..3u64 {
        cut_off(&mut machine, 1);
        std::thread::sleep(std::time::Duration::from_millis(12));
        machine.write("agent/notes/3.md", format!("round {round}"));
        machine.write(&format!("agent/c{round}.bin"), noise(700_000, round));
    }
    let (done, volumes) = go_on(&machine);
    assert_eq!(volumes, Some(3));
    expect(&machine, &done, "after three cuts");
}

/// An incremental goes on, too, with what is whole in it; a second run after it has it as its parent.
#[test]
fn an_incremental() {
    let mut machine = agent();
    machine.backup();
    machine.world.fixed_now = Some(LATER + 900);
    std::thread::sleep(std::time::Duration::from_millis(12));
    insert(&machine, "agent/small.db");
    insert(&machine, "agent/large.db");
    machine.write("agent/d.bin", noise(40 << 20, 300));
    std::fs::remove_file(machine.home("agent/notes/9.md")).unwrap();
    machine.world.wrap_store = Some(full_after(2));
    machine.try_backup().expect_err("it calls itself done");
    machine.world.wrap_store = None;
    insert(&machine, "agent/small.db");
    machine.world.fixed_now = Some(LATER + 1800);
    let (done, volumes) = go_on(&machine);
    assert_eq!(volumes, Some(2));
    assert!(done.state.as_ref().unwrap().parent.is_some());
    expect(&machine, &done, "an incremental");
    machine.write("agent/notes/1.md", "after it");
    machine.world.fixed_now = Some(LATER + 2700);
    let done = machine.backup();
    expect(&machine, &done, "the one after it");
}

/// What would be another archive begins anew, and so does what is not on the store any more.
#[test]
fn what_cannot_go_on_begins_anew() {
    type Case = (&'static str, fn(&mut Machine), Option<usize>);
    let cases: &[Case] = &[
        ("another day", |m| m.world.fixed_now = Some(LATER + 86_400), None),
        (
            "other recipients",
            |m| {
                m.configure(|text| {
                    text.replacen(
                        "recipients = [\"",
                        "recipients = [\"age1xjpk6mqks5jpllkkarees8q5a8xlzmxurdl2xyl8ep0esg2njf8sm9fytm\", \"",
                        1,
                    )
                })
            },
            None,
        ),
        (
            "other rules",
            |m| m.configure(|text| text.replace("[[source]]\n", "[[source]]\nexclude = [\"*.tmp\"]\n")),
            None,
        ),
        (
            "a damaged note",
            |m| {
                let notes = m.world.state_dir("testhost").join("interrupted/volumes");
                std::fs::write(notes, "nonsense").unwrap();
            },
            None,
        ),
        (
            "a volume is gone",
            |m| {
                let volume = files(&m.store()).into_iter().find(|p| p.ends_with("000001.tar.zst.age")).unwrap();
                std::fs::remove_file(m.store().join(volume)).unwrap();
            },
            Some(1),
        ),
        (
            "all volumes are gone",
            |m| {
                std::fs::remove_dir_all(m.store().join("state")).unwrap();
            },
            None,
        ),
        (
            "the list of members ends within a record",
            |m| {
                let notes = m.world.state_dir("testhost").join("interrupted/members");
                std::fs::OpenOptions::new().append(true).open(notes).unwrap().write_all(&[1; 5]).unwrap();
            },
            Some(2),
        ),
    ];
    for (what, change, goes_on) in cases {
        let mut machine = agent();
        cut_off(&mut machine, 2);
        change(&mut machine);
        let (done, volumes) = go_on(&machine);
        assert_eq!(volumes, *goes_on, "{what}");
        expect(&machine, &done, what);
    }
}

/// Numbers that look random, the same for each seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// Mostly small, at times across volumes.
    fn bytes(&mut self) -> Vec<u8> {
        let most = [2000, 600_000, 3 << 20, 24 << 20][usize::try_from(self.roll(4)).unwrap()];
        let bytes = usize::try_from(self.roll(most)).unwrap();
        noise(bytes, self.0)
    }
}

/// What happens in an agent's home.
fn edit(machine: &Machine, dice: &mut Dice) {
    let mut all: Vec<PathBuf> = files(&machine.home("agent")).into_iter().collect();
    all.retain(|path| path.extension().is_none_or(|e| !e.to_str().unwrap().starts_with("db")));
    all.sort();
    let any = machine.home("agent").join(&all[usize::try_from(dice.roll(all.len() as u64)).unwrap()]);
    match dice.roll(7) {
        0 => std::fs::write(any, dice.bytes()).unwrap(),
        1 => std::fs::OpenOptions::new().append(true).open(any).unwrap().write_all(&dice.bytes()).unwrap(),
        2 => drop(machine.write(&format!("agent/new/{}", dice.0), dice.bytes())),
        3 => std::fs::rename(&any, any.with_extension("renamed")).unwrap(),
        4 => insert(machine, "agent/large.db"),
        5 => {
            // The same size and time, and other content: only reading tells.
            let (content, time) = (std::fs::read(&any).unwrap(), std::fs::metadata(&any).unwrap().modified().unwrap());
            std::fs::write(&any, content.iter().map(|b| !b).collect::<Vec<u8>>()).unwrap();
            std::fs::File::options().write(true).open(any).unwrap().set_modified(time).unwrap();
        }
        _ => std::fs::remove_file(any).unwrap(),
    }
}

/// Sometimes the end of one list or the other, as a kill in the middle of a write or a loss of power leaves it.
fn lose_notes(machine: &Machine, dice: &mut Dice) {
    for name in ["members", "volumes"] {
        let notes = machine.world.state_dir("testhost").join("interrupted").join(name);
        if let Ok(content) = std::fs::read(&notes)
            && dice.roll(3) == 0
        {
            let most = if dice.roll(2) == 0 { 81 } else { content.len() as u64 + 1 };
            let lost = dice.roll(most.min(content.len() as u64 + 1));
            std::fs::write(notes, &content[..content.len() - usize::try_from(lost).unwrap()]).unwrap();
        }
    }
}

/// Whatever happens between any number of cuts anywhere, in a full and in what follows it.
#[test]
fn anything_between_cuts_anywhere() {
    for seed in 0..6 {
        let (mut machine, mut dice) = (agent(), Dice(seed));
        for snapshot in 0..2 {
            for round in 0..dice.roll(3) + 1 {
                machine.world.wrap_store = Some(full_after(usize::try_from(dice.roll(4)).unwrap() + 1));
                let done = machine.try_backup().is_ok();
                machine.world.wrap_store = None;
                lose_notes(&machine, &mut dice);
                std::thread::sleep(std::time::Duration::from_millis(12));
                (0..dice.roll(3)).for_each(|_| edit(&machine, &mut dice));
                machine.world.fixed_now = Some(LATER + 900 * i64::try_from(10 * snapshot + round + 1).unwrap());
                if done {
                    break;
                }
            }
            let (done, _) = go_on(&machine);
            if done.state.is_some() {
                expect(&machine, &done, &format!("seed {seed}, snapshot {snapshot}"));
            }
            (0..3).for_each(|_| edit(&machine, &mut dice));
        }
    }
}

/// The real program, killed; what it had stored is not stored again.
#[test]
fn killed_and_gone_on() {
    let machine = agent();
    machine.write("agent/e.bin", noise(60 << 20, 400));
    let program = |args: &[&str]| {
        let mut command = machine.program(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // While the program runs, its temporary files come and go.
    let volumes = || {
        let find = Command::new("find").arg(machine.store()).args(["-name", "*.tar.zst.age"]).output().unwrap();
        find.stdout.iter().filter(|b| **b == b'\n').count()
    };
    for until in [1, 3, 4] {
        let mut child = program(&["backup"]).spawn().unwrap();
        while volumes() < until && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let before = stored(&machine);
    assert!(program(&["backup"]).status().unwrap().success());
    let rows = machine.list().snapshots;
    assert!(rows.len() == 1 && rows[0].status == "ok", "{rows:?}");
    let after = stored(&machine);
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "something was changed");
    let target = machine.target("target");
    machine.restore(&target);
    assert_eq!(std::fs::read(target.join("home/agent/e.bin")).unwrap(), noise(60 << 20, 400));
}

/// A list of members that ends within a record, as a kill in the middle of a write leaves it. What the next run notes
/// behind that has to be read as what it is, or the one after it takes places in the tar for what they are not.
#[test]
fn a_note_that_was_cut_and_others_behind_it() {
    let mut machine = agent();
    machine.write("agent/d.bin", noise(60 << 20, 400));
    cut_off(&mut machine, 2);
    let notes = machine.world.state_dir("testhost").join("interrupted/members");
    // What was noted last is beyond the volumes that arrived; half of that once more.
    let content = std::fs::read(&notes).unwrap();
    let half = &content[content.len() - 81..][..40];
    std::fs::OpenOptions::new().append(true).open(notes).unwrap().write_all(half).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(12));
    machine.write("agent/b.bin", noise(26 << 20, 200));
    cut_off(&mut machine, 1);
    let (done, volumes) = go_on(&machine);
    expect(&machine, &done, "a note that was cut");
    assert_eq!(volumes, Some(3));
}

/// A machine that lost its power may keep the note of a volume and lose those of what is in it.
#[test]
fn what_is_in_a_volume_and_was_not_noted() {
    for records in [0, 3] {
        let mut machine = agent();
        cut_off(&mut machine, 3);
        let notes = machine.world.state_dir("testhost").join("interrupted/members");
        let content = std::fs::read(&notes).unwrap();
        std::fs::write(notes, &content[..records * 81]).unwrap();
        std::fs::remove_file(machine.home("agent/notes/7.md")).unwrap();
        let (done, volumes) = go_on(&machine);
        expect(&machine, &done, "a gone file that was not noted");
        assert_eq!(volumes, None, "{records}");
    }
}

/// What an interrupted run has stored may hold the value of what is a secret by now, and nobody can search it once more.
#[test]
fn a_value_that_became_a_secret() {
    let value = "Quartz-Meadow-7731-tango";
    for policy in ["report", "move", "fail"] {
        let mut machine = agent();
        machine.configure(|text| text.replace("sweep = \"report\"", &format!("sweep = \"{policy}\"")));
        let secret = [format!("the word is {value}\n").into_bytes(), noise(90_000, 7)].concat();
        machine.write("agent/notes/5.md", secret);
        cut_off(&mut machine, 3);
        std::thread::sleep(std::time::Duration::from_millis(12));
        machine.write("agent/.env", format!("SERVICE_PASSWORD={value}\n"));
        if policy == "fail" {
            let error = machine.try_backup().unwrap_err();
            assert!(error.to_string().contains("1 file of the state"), "{}", said(&error));
        }
        machine.write("agent/notes/5.md", "clean");
        machine.world.fixed_now = Some(LATER + 900);
        let (done, volumes) = go_on(&machine);
        assert_eq!(volumes, None, "{policy}");
        by_tar(&machine, &done, &machine.target("by-hand"));
        let tar = std::fs::read(machine.target("whole.tar")).unwrap();
        assert!(!tar.windows(value.len()).any(|bytes| bytes == value.as_bytes()), "{policy}");
    }
}

/// Under `fail` an archive is not gone on with that has the value in it, though it is out of the file by then.
#[test]
fn a_value_that_came_while_it_was_written() {
    let value = "Quartz-Meadow-7731-tango";
    let mut machine = agent();
    machine.configure(|text| text.replace("sweep = \"report\"", "sweep = \"fail\""));
    machine.write("agent/.env", format!("SERVICE_PASSWORD={value}\n"));
    let error = backup::run(&machine.world, &backup::Args::default(), &mut |event| {
        if matches!(event, Event::Phase("writing the state archive")) {
            machine.write("agent/notes/5.md", format!("the word is {value}\n"));
        }
    })
    .unwrap_err();
    assert!(error.to_string().contains("came into a file of the state"), "{}", said(&error));
    machine.write("agent/notes/5.md", "clean");
    machine.world.fixed_now = Some(LATER + 900);
    let (done, volumes) = go_on(&machine);
    assert_eq!(volumes, None);
    by_tar(&machine, &done, &machine.target("by-hand"));
    let tar = std::fs::read(machine.target("whole.tar")).unwrap();
    assert!(!tar.windows(value.len()).any(|bytes| bytes == value.as_bytes()));
}

/// What is on the store was sealed for keys that are not in force any more, or leans on what is gone.
#[test]
fn keys_that_changed_and_a_parent_that_went() {
    for signing in [false, true] {
        let mut machine = agent();
        cut_off(&mut machine, 2);
        let kit = machine.root().join("new.txt");
        let identity = Some(machine.kit());
        let asked = rotate::Args { signing, kit: kit.clone(), identity, ..rotate::Args::default() };
        rotate::run(&machine.world, &asked, &mut |_| {}).unwrap_or_else(|e| panic!("{}", said(&e)));
        machine.world.fixed_now = Some(LATER + 900);
        let (_, volumes) = go_on(&machine);
        assert_eq!(volumes, None, "{signing}");
        let target = machine.target("restored");
        machine.try_restore(&target, |a| a.identity = Some(kit)).unwrap_or_else(|e| panic!("{}", said(&e)));
        assert_eq!(std::fs::read(target.join("home/agent/b.bin")).unwrap(), noise(26 << 20, 101));
        let verified = verify::run(&machine.world, &verify::Args::default(), &mut |_| {}).unwrap();
        assert!(verified.findings.is_empty(), "{signing}: {:?}", verified.findings);
    }
    let mut machine = agent();
    let full = machine.backup().state.unwrap().place;
    machine.write("agent/d.bin", noise(40 << 20, 300));
    machine.world.fixed_now = Some(LATER + 900);
    machine.world.wrap_store = Some(full_after(2));
    machine.try_backup().expect_err("it calls itself done");
    machine.world.wrap_store = None;
    std::fs::remove_dir_all(machine.store().join(full)).unwrap();
    machine.world.fixed_now = Some(LATER + 1800);
    let (done, volumes) = go_on(&machine);
    assert!(volumes.is_none() && done.state.as_ref().unwrap().parent.is_none());
    expect(&machine, &done, "without its parent");
}
