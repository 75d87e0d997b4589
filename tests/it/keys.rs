//! `lifeboat keys`: what it shows, the kit that it writes again, and what it says of kits that would not do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lifeboat::commands::keys::{self, CheckArgs, Checked, ExportArgs, Exported, Shown};
use lifeboat::commands::{Report, init, restore};
use lifeboat::{Error, Kind};

use crate::world::Machine;

/// A machine with a snapshot and a bundle, whose identities are in a file that the configuration names.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "remember this");
    machine.write("agent/.env", "API_KEY=fake");
    machine.init(&["agent"]);
    machine.backup();
    let kit = machine.kit();
    let setting = format!("identity = \"file:{}\"", kit.display());
    machine.configure(|text| text.replace("identity = \"none\"", &setting));
    machine
}

fn show(machine: &Machine) -> Shown {
    keys::show(&machine.world, &mut |_| {}).unwrap()
}

fn export(machine: &Machine, file: &Path, change: impl FnOnce(&mut ExportArgs)) -> Result<Exported, Error> {
    let mut args = ExportArgs { file: file.to_owned(), ..ExportArgs::default() };
    change(&mut args);
    keys::export_kit(&machine.world, &args, &mut |_| {})
}

fn check(machine: &Machine, kit: &Path) -> Result<Checked, Error> {
    keys::check(&machine.world, &CheckArgs { kit: kit.to_owned(), store: None }, &mut |_| {})
}

/// The kit with one of its lines changed; a line that is left empty goes.
fn altered(machine: &Machine, change: impl Fn(&str) -> String) -> std::path::PathBuf {
    let text = std::fs::read_to_string(machine.kit()).unwrap();
    let text: Vec<String> = text.lines().map(change).filter(|l| !l.is_empty()).collect();
    let file = machine.write("altered.txt", text.join("\n") + "\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// No secret line of the kit is in `text`.
fn assert_tells_nothing(machine: &Machine, text: &str) {
    let kit = std::fs::read_to_string(machine.kit()).unwrap();
    let secrets: Vec<&str> = kit
        .lines()
        .map(|l| l.trim_start_matches("# signing-secret: "))
        .filter(|l| l.starts_with("AGE-") || l.len() > 150)
        .collect();
    assert!(secrets.len() >= 3, "{}", secrets.len());
    for secret in secrets {
        assert!(!text.contains(secret));
    }
}

#[test]
fn show_names_everything_and_tells_nothing() {
    let machine = machine();
    let shown = show(&machine);
    let kit = machine.kit().display().to_string();
    for sealed in [&shown.state, &shown.secrets] {
        assert_eq!((sealed.identity, sealed.opens, sealed.recipients.len()), ("file", true, 1));
        assert_eq!(sealed.found, [format!("the file {kit}")]);
    }
    assert_ne!(shown.state.recipients, shown.secrets.recipients);
    assert!(shown.signing.public.as_ref().unwrap().starts_with("RW"));
    assert_eq!(shown.problems(), [] as [&str; 0]);
    assert!(shown.text().contains(&shown.state.recipients[0]));
    assert_tells_nothing(&machine, &(shown.text() + &serde_json::to_string(&shown).unwrap() + &format!("{shown:?}")));
}

#[test]
fn show_says_what_is_wrong() {
    let machine = machine();
    machine.configure(|text| text.replace("identity = \"file:", "identity = \"file:/nowhere"));
    let shown = show(&machine);
    assert!(shown.state.found.is_empty() && !shown.state.opens);
    assert!(shown.state.tried[0].contains("/nowhere"), "{:?}", shown.state.tried);
    assert_eq!(shown.problems(), [] as [&str; 0]);

    // The two archives' recipients exchanged: what is found opens nothing any more.
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    let kit = other.kit();
    machine.configure(|text| {
        text.replace("/nowhere", "").replace(&machine.kit().display().to_string(), &kit.display().to_string())
    });
    std::fs::remove_file(machine.world.config_file().with_file_name("signing.key")).unwrap();
    let problems = show(&machine).problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("signing.key") && problems[1].contains("does not open"), "{problems:?}");

    let error = keys::show(&Machine::new().world, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NotThere);
}

#[test]
fn an_exported_kit_restores_and_continues() {
    let machine = machine();
    let file = machine.home("safe/kit.txt");
    let done = export(&machine, &file, |_| {}).unwrap();
    assert_eq!(done.series, "testhost");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), std::fs::read_to_string(machine.kit()).unwrap());
    assert_tells_nothing(&machine, &(done.text() + &format!("{done:?}")));

    let target = machine.root().join("out");
    let args = restore::Args { identity: Some(file.clone()), target: Some(target.clone()), ..restore::Args::default() };
    restore::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read_to_string(target.join("home/agent/.env")).unwrap(), "API_KEY=fake");

    std::fs::remove_dir_all(machine.world.config_file().parent().unwrap()).unwrap();
    let args = init::Args { kit: Some(file), sealed: true, ..init::Args::default() };
    assert_eq!(init::run(&machine.world, &args, &mut |_| {}).unwrap().what, "continued");
}

#[test]
fn an_export_replaces_nothing_and_leaves_no_useless_kit() {
    let machine = machine();
    let before = std::fs::read(machine.kit()).unwrap();
    assert!(export(&machine, &machine.kit(), |_| {}).unwrap_err().to_string().contains("exists already"));
    assert_eq!(std::fs::read(machine.kit()).unwrap(), before);

    let beside = machine.store().join("kit.txt");
    assert_eq!(export(&machine, &beside, |_| {}).unwrap_err().kind(), Kind::Usage);

    let file = machine.home("kit2.txt");
    machine.configure(|text| text.replace("identity = \"file:", "identity = \"none\" # "));
    let error = export(&machine, &file, |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity);
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    let error = export(&machine, &file, |a| a.identity = Some(other.kit())).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity);
    assert!(error.to_string().contains("of another key"), "{error}");
    assert!(!beside.exists() && !file.exists());

    let kit = machine.kit();
    export(&machine, &file, |a| a.identity = Some(kit)).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn a_kit_with_a_passphrase_is_written_and_checked() {
    let mut machine = machine();
    machine.world.env.insert("LIFEBOAT_PASSPHRASE".into(), "hunter2".into());
    let file = machine.home("kit2.txt");
    assert!(export(&machine, &file, |a| a.passphrase = true).unwrap().passphrase);
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("-----BEGIN AGE ENCRYPTED FILE"));
    assert_eq!(check(&machine, &file).unwrap().opened.len(), 2);
    machine.world.env.remove(std::ffi::OsStr::new("LIFEBOAT_PASSPHRASE"));
    assert_eq!(check(&machine, &file).unwrap_err().kind(), Kind::NoIdentity);
}

#[test]
fn a_good_kit_opens_the_newest_archives() {
    let machine = machine();
    let checked = check(&machine, &machine.kit()).unwrap();
    assert_eq!(checked.opened.iter().map(|o| (o.archive, o.files)).collect::<Vec<_>>(), [("state", 1), ("secrets", 1)]);
    assert_eq!(checked.problems(), [] as [&str; 0]);
    assert_tells_nothing(&machine, &(checked.text() + &format!("{checked:?}")));
    // A machine that knows nothing else can check it, too.
    std::fs::remove_dir_all(machine.world.config_file().parent().unwrap()).unwrap();
    assert_eq!(check(&machine, &machine.kit()).unwrap().opened.len(), 2);
}

#[test]
fn a_kit_that_would_not_do_is_told() {
    let machine = machine();
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    let foreign = std::fs::read_to_string(other.kit()).unwrap();
    let identity = foreign.lines().find(|l| l.starts_with("AGE-SECRET-KEY-1")).unwrap().to_owned();
    let fails = |kit: &Path, kind: Kind, says: &str| {
        let error = check(&machine, kit).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains(says)), (kind, true), "{error}");
        assert_tells_nothing(&machine, &format!("{error:?}"));
    };
    // Another machine's identities with this one's signing key.
    let kit = altered(&machine, |l| if l.starts_with("AGE-") { identity.clone() } else { l.to_owned() });
    fails(&kit, Kind::NoIdentity, "does not open the state archive");
    // Only one archive's identity.
    let n = std::cell::Cell::new(0);
    let kit = altered(&machine, |l| match l.starts_with("AGE-") {
        true if n.replace(n.get() + 1) == 1 => identity.clone(),
        _ => l.to_owned(),
    });
    fails(&kit, Kind::NoIdentity, "does not open the secrets bundle");
    // Halves of two signing keys.
    let public = foreign.lines().find(|l| l.starts_with("# signing-public: ")).unwrap();
    let kit = altered(&machine, |l| if l.starts_with("# signing-public: ") { public.to_owned() } else { l.to_owned() });
    fails(&kit, Kind::Damaged, "do not belong together");
    // Another series of the same name.
    let kit = machine.write(
        "other.txt",
        foreign.replace(&other.store().display().to_string(), &machine.store().display().to_string()),
    );
    std::fs::set_permissions(&kit, std::fs::Permissions::from_mode(0o600)).unwrap();
    fails(&kit, Kind::Damaged, "another signing key than this host");
    // No kit at all.
    let kit = altered(&machine, |l| if l.starts_with("AGE-") { l.to_owned() } else { String::new() });
    fails(&kit, Kind::Usage, "holds no signing key");
    fails(&machine.home("nowhere"), Kind::NotThere, "there is no");
}

#[test]
fn a_kit_without_its_signing_key_restores_and_is_not_complete() {
    let machine = machine();
    let kit = altered(&machine, |l| if l.starts_with("# signing-secret: ") { String::new() } else { l.to_owned() });
    let checked = check(&machine, &kit).unwrap();
    assert_eq!(checked.opened.len(), 2);
    assert!(checked.problems()[0].contains("cannot continue the series"));
}

#[test]
fn a_check_sees_what_was_replaced_on_the_store() {
    let machine = machine();
    let claimed = machine.store().join("keys/testhost/000001.pub");
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    std::fs::copy(other.store().join("keys/testhost/000001.pub"), &claimed).unwrap();
    let error = check(&machine, &machine.kit()).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("than the series testhost on the store"), "{error}");
}
