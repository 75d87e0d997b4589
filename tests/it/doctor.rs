//! `doctor`: what is wrong is found and told, and what a host's credential could do is tried out.

use lifeboat::Kind;
use lifeboat::commands::doctor::{self, Check, Done, Verdict};
use lifeboat::commands::{Event, Report as _, backup};

use crate::fake_cloud::{self, Cloud};
use crate::forge::{copy, files, snapshot};
use crate::store_contract::{below, machine, served, set_up};
use crate::world::Machine;

fn examine(machine: &Machine, attack: bool) -> Done {
    doctor::run(&machine.world, &doctor::Args { attack }, &mut |_| {}).unwrap()
}

fn check<'a>(done: &'a Done, what: &str) -> &'a Check {
    done.checks.iter().find(|c| c.what == what).unwrap_or_else(|| panic!("{what} is not in\n{}", done.text()))
}

fn bad(done: &Done) -> Vec<&str> {
    done.checks.iter().filter(|c| c.verdict == Verdict::Bad).map(|c| c.what.as_str()).collect()
}

/// A machine set up on a store by one user, and then run as another.
fn ready(url: &str, first: Vec<(String, String)>, then: Vec<(String, String)>) -> Machine {
    let mut machine = machine(first);
    machine.write("agent/notes.md", "one");
    set_up(&machine, url).unwrap();
    machine.backup();
    machine.world.env.extend(then.into_iter().map(|(k, v)| (k.into(), v.into())));
    machine
}

#[test]
fn without_a_configuration_there_is_nothing_to_examine() {
    let machine = Machine::new();
    let error = doctor::run(&machine.world, &doctor::Args::default(), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::NotThere);
}

#[test]
fn a_healthy_host_is_healthy_and_nothing_is_changed() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.init(&["agent"]);
    machine.backup();
    let before = machine.all_files();
    let done = examine(&machine, false);
    assert!(done.problems().is_empty() && done.text().ends_with("all is well\n"), "{}", done.text());
    assert_eq!(machine.all_files(), before);
    assert_eq!(check(&done, "recovery kit").verdict, Verdict::Note);
    // A directory protects nothing from who writes it, and doctor does not call it green.
    assert_eq!(bad(&examine(&machine, true)), ["attack"]);
    std::fs::remove_dir_all(machine.store()).unwrap();
    assert_eq!(bad(&examine(&machine, false)), ["store"]);
}

#[test]
fn logins_that_no_backup_brings_back_are_told_of_agents_that_are_there() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.init(&["agent"]);
    let told = |machine: &Machine| {
        let done = examine(machine, false);
        assert!(done.problems().is_empty());
        let logins = done.checks.iter().filter(|c| c.what.starts_with("login of "));
        logins.map(|c| (c.what.clone(), c.verdict, c.hint.clone().unwrap())).collect::<Vec<_>>()
    };
    let details = |machine: &Machine| {
        let mut said = Vec::new();
        backup::run(&machine.world, &backup::Args::default(), &mut |e| said.push(e)).unwrap();
        said.retain(|e| matches!(e, Event::Detail(text) if text.contains("will not bring back a login")));
        said
    };
    assert!(told(&machine).is_empty() && details(&machine).is_empty());
    machine.write(".config/gh/hosts.yml", "github.com:\n    user: ada\n");
    let gh = told(&machine);
    assert_eq!(gh.len(), 1);
    assert_eq!(
        (gh[0].0.as_str(), gh[0].1, gh[0].2.contains("gh auth login")),
        ("login of GitHub CLI", Verdict::Note, true)
    );
    assert_eq!(details(&machine).len(), 1);
    machine.write(".config/gh/hosts.yml", "github.com:\n    oauth_token: gho_fake\n");
    assert!(told(&machine).is_empty());
}

#[test]
fn keys_that_are_lost_or_open_to_others() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.init(&["agent"]);
    let key = machine.world.config_file().with_file_name("signing.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let done = examine(&machine, false);
    assert_eq!(bad(&done), ["signing key"]);
    assert!(check(&done, "signing key").hint.as_ref().unwrap().contains("chmod 600"));
    std::fs::remove_file(&key).unwrap();
    assert!(check(&examine(&machine, false), "signing key").hint.as_ref().unwrap().contains("init --kit"));
}

#[test]
fn an_attack_with_a_credential_that_only_adds_is_green() {
    for kind in [fake_cloud::Kind::S3, fake_cloud::Kind::Gcs] {
        let cloud = Cloud::start(kind);
        let machine = ready(&cloud.url("p", None), cloud.credentials("WRITER"), Vec::new());
        let before = cloud.state.lock().unwrap().objects.clone();
        let done = examine(&machine, true);
        assert!(bad(&done).is_empty() && done.text().contains("nothing else"), "{kind:?}\n{}", done.text());
        // One small object more, and everything else as it was.
        let mut after = cloud.state.lock().unwrap().objects.clone();
        after.retain(|key, _| !key.starts_with("p/doctor/"));
        assert_eq!(after, before);
        assert_eq!(cloud.state.lock().unwrap().objects.len(), before.len() + 1);
    }
}

#[test]
fn an_attack_with_too_many_rights_names_each_and_harms_nothing() {
    for kind in [fake_cloud::Kind::S3, fake_cloud::Kind::Gcs] {
        let cloud = Cloud::start(kind);
        let machine = ready(&cloud.url("p", None), cloud.credentials("ADMIN"), Vec::new());
        let before = cloud.state.lock().unwrap().objects.clone();
        let done = examine(&machine, true);
        assert_eq!(bad(&done), ["overwrite it", "read it", "list names", "delete it", "change lifecycle"], "{kind:?}");
        assert_eq!(done.problems().len(), 5);
        assert_eq!(cloud.state.lock().unwrap().objects, before);
        let lister = ready(&cloud.url("q", None), cloud.credentials("LISTER"), Vec::new());
        assert_eq!(bad(&examine(&lister, true)), ["list names"]);
    }
}

#[test]
fn a_store_that_cannot_be_used_is_told_without_a_secret() {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    for (user, word) in [("EXPIRED", "ExpiredToken"), ("NOBODY", "InvalidAccessKeyId")] {
        let machine =
            ready(&cloud.url(&user.to_lowercase(), None), cloud.credentials("ADMIN"), cloud.credentials(user));
        let done = examine(&machine, true);
        assert_eq!(bad(&done), ["store"]);
        let said = format!("{} {}", done.text(), serde_json::to_string(&done).unwrap());
        assert!(said.contains(word) && !said.contains("hush"), "{said}");
    }
    let machine = ready(&cloud.url("clock", None), cloud.credentials("ADMIN"), Vec::new());
    cloud.state.lock().unwrap().clock_off = 3600;
    let done = examine(&machine, false);
    assert_eq!(bad(&done), ["clock"]);
    assert!(check(&done, "clock").text.contains("behind the store's"), "{}", done.text());
}

fn mirror(machine: &Machine, url: &str) {
    machine.configure(|text| text.replacen("\n[state]", &format!("\n[[mirror]]\nstore = \"{url}\"\n\n[state]"), 1));
}

#[test]
fn a_store_whose_key_is_gone_is_not_well() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.init(&["agent"]);
    machine.backup();
    std::fs::remove_dir_all(machine.store().join("keys")).unwrap();
    let done = examine(&machine, false);
    assert!(bad(&done) == ["store"] && check(&done, "store").hint.is_some(), "{}", done.text());
}

#[test]
fn a_mirror_is_looked_at_and_what_was_never_copied_to_is_left_alone() {
    let mut machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.init(&["agent"]);
    let there = machine.root().join("mirror");
    mirror(&machine, there.to_str().unwrap());
    let done = examine(&machine, false);
    assert_eq!(bad(&done), ["mirror"]);
    assert!(check(&done, "mirror").hint.as_ref().unwrap().contains("mount its disk"), "{}", done.text());
    std::fs::create_dir(&there).unwrap();
    let done = examine(&machine, false);
    assert!(bad(&done).is_empty() && check(&done, "mirrored").verdict == Verdict::Note, "{}", done.text());
    assert!(files(&there).is_empty());
    machine.backup();
    let before = snapshot(&there);
    let done = examine(&machine, false);
    assert!(bad(&done).is_empty() && check(&done, "mirror").text.ends_with("takes objects"), "{}", done.text());
    assert!(check(&done, "mirrored").text.contains("up to date at 2026-11-21T20:15:00Z"), "{}", done.text());
    assert_eq!(snapshot(&there), before);
    // Emptied, and with somebody else in its place.
    let away = machine.root().join("away");
    std::fs::rename(&there, &away).unwrap();
    std::fs::create_dir(&there).unwrap();
    assert_eq!(bad(&examine(&machine, false)), ["mirror"]);
    std::fs::remove_dir_all(&there).unwrap();
    let other = Machine::new();
    other.write("agent/notes.md", "one");
    other.init(&["agent"]);
    copy(&other.store(), &there);
    machine.world.fixed_now = Some(machine.world.now() + 900);
    machine.write("agent/notes.md", "two");
    assert_eq!(machine.backup().verdict(), Some(Kind::Incomplete));
    let done = examine(&machine, false);
    assert_eq!(bad(&done), ["mirror", "mirrored"]);
    assert!(check(&done, "mirror").text.contains("holds another series of the name"), "{}", done.text());
    assert!(check(&done, "mirrored").text.contains("is behind, since 2026-11-21T20:30:00Z"), "{}", done.text());
}

#[test]
fn a_mirror_that_only_takes_objects_is_looked_at_without_a_secret() {
    for kind in [fake_cloud::Kind::S3, fake_cloud::Kind::Gcs] {
        let cloud = Cloud::start(kind);
        let mut machine = Machine::new();
        machine.world.env.extend([("LIFEBOAT_STORE_PATIENCE", "1")].map(|(k, v)| (k.into(), v.into())));
        machine.world.env.extend(cloud.credentials("WRITER").into_iter().map(|(k, v)| (k.into(), v.into())));
        machine.write("agent/notes.md", "one");
        machine.init(&["agent"]);
        mirror(&machine, &cloud.url("m", None));
        assert!(bad(&examine(&machine, false)).is_empty());
        assert!(cloud.state.lock().unwrap().objects.is_empty(), "it put something");
        machine.backup();
        let before = cloud.state.lock().unwrap().objects.clone();
        let done = examine(&machine, false);
        assert!(bad(&done).is_empty() && check(&done, "mirror").text.ends_with("takes objects"), "{}", done.text());
        assert_eq!(cloud.state.lock().unwrap().objects, before);
        machine.world.env.extend(cloud.credentials("NOBODY").into_iter().map(|(k, v)| (k.into(), v.into())));
        let done = examine(&machine, false);
        assert_eq!(bad(&done), ["mirror"], "{kind:?}");
        assert!(!done.text().contains("hush"), "{}", done.text());
    }
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_attacks() {
    for name in ["RADOSGW", "AZURITE"] {
        let ((url, writer), (_, admin)) = (served(name, "WRITER"), served(name, "ADMIN"));
        let done = examine(&ready(&below(&url, "attack"), writer.clone(), Vec::new()), true);
        // Ceph has no policy that wants create-only puts.
        let overwritten: &[&str] = if name == "RADOSGW" { &["overwrite it"] } else { &[] };
        assert_eq!(bad(&done), overwritten, "{name}\n{}", done.text());
        let done = examine(&ready(&below(&url, "attack-admin"), admin, Vec::new()), true);
        let allowed = bad(&done);
        for what in ["read it", "list names", "delete it"] {
            assert!(allowed.contains(&what), "{name}: {what}\n{}", done.text());
        }
        // Azure's rules are not within reach of a storage key.
        assert_eq!(allowed.contains(&"change lifecycle"), name == "RADOSGW", "{name}\n{}", done.text());
        if name == "RADOSGW" {
            // With versions nothing is lost, and doctor says what this server does with create-only puts then.
            let url = url.replace("lifeboat-test", "lifeboat-test-versions");
            let done = examine(&ready(&below(&url, "attack"), writer, Vec::new()), true);
            assert!(bad(&done).is_empty(), "{}", done.text());
            assert!(check(&done, "add it again").text.contains("If-None-Match"), "{}", done.text());
        }
    }
}
