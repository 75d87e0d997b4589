//! Recipients and identities of age's plugins, with a plugin that keeps no secret: what is sealed to it alone comes back
//! through it, one that is missing or hangs is named, and nobody is asked where nobody is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use lifeboat::commands::{doctor, keys, restore};
use lifeboat::{Error, Kind};

use crate::forge::said;
use crate::world::Machine;

const RECIPIENT: &str = "age1fake1qqqqqqqqq";
const IDENTITY: &str = "AGE-PLUGIN-FAKE-1QQQQQQQQQ";

/// Reads what it is told, up to `done`. A body goes on while its lines are full.
const LISTENS: &str = r#"#!/bin/sh
answered() { read -r _; read -r _; }
while read -r arrow command a b c; do
  [ "$arrow" = '->' ] || exit 1
  body= line=$(printf %064d 0)
  while [ ${#line} -eq 64 ]; do read -r line; body=$body$line; done
  case "$command $b" in
    'wrap-file-key ' | 'recipient-stanza fake') key=$body kind=$b ;;
    'done ') break ;;
  esac
done
"#;

/// Both state machines in as few words as possible. Its stanza holds the file key as it is.
const WORKS: &str = r#"case $1 in
  --age-plugin=recipient-v1) printf -- '-> recipient-stanza 0 fake\n%s\n' "$key"; answered ;;
  --age-plugin=identity-v1)
    printf -- '-> request-secret\nUElO\n'
    read -r _ answer; read -r _
    [ "$answer" = fail ] || exit 1
    [ "$kind" != fake ] || { printf -- '-> file-key 0\n%s\n' "$key"; answered; } ;;
esac
printf -- '-> done\n\n'
"#;

/// Says that there is no key.
const FAILS: &str = "printf -- '-> error internal\\nbm8ga2V5\\n'; answered; printf -- '-> done\\n\\n'\n";

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.world.env.insert("PATH".into(), format!("{}:/usr/bin:/bin", machine.home("bin").display()).into());
    machine.write("agent/notes.md", "remember this");
    machine.write("agent/.env", "API_KEY=fake-0000");
    machine.init(&["agent"]);
    machine
}

fn install(machine: &Machine, then: &str) -> PathBuf {
    let file = machine.write("bin/age-plugin-fake", format!("{LISTENS}{then}"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

/// A key file with the plugin's identity, and the key that signatures are checked with.
fn key_file(machine: &Machine) -> PathBuf {
    let kit = std::fs::read_to_string(machine.kit()).unwrap();
    let signing = kit.lines().find(|l| l.starts_with("# signing-public: ")).unwrap();
    let text = format!("# series: testhost\n# store: {}\n{signing}\n{IDENTITY}\n", machine.store().display());
    let file = machine.write("plugin.txt", text);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// Seals to the plugin beside the recipients that are there, or instead of them.
fn seal_to_plugin(machine: &Machine, beside: bool) {
    machine.configure(|text| {
        let lines = text.lines().map(|line| match line.split_once("recipients = [") {
            Some((_, rest)) if beside => format!("recipients = [\"{RECIPIENT}\", {rest}"),
            Some(_) => format!("recipients = [\"{RECIPIENT}\"]"),
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    });
}

fn restored(machine: &Machine, identity: PathBuf) -> Result<String, Error> {
    let target = machine.target("t");
    let args = restore::Args { identity: Some(identity), target: Some(target.clone()), ..restore::Args::default() };
    restore::run(&machine.world, &args, &mut |_| {})?;
    let text = std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap();
    assert!(target.join("home/agent/.env").exists());
    std::fs::remove_dir_all(target).unwrap();
    Ok(text)
}

#[test]
fn what_is_sealed_to_a_plugin_comes_back_through_it() {
    let machine = machine();
    install(&machine, WORKS);
    seal_to_plugin(&machine, false);
    machine.backup();
    assert_eq!(restored(&machine, key_file(&machine)).unwrap(), "remember this");
    let error = restored(&machine, machine.kit()).unwrap_err();
    assert_eq!(error.kind(), Kind::NoIdentity, "{}", said(&error));
    // Where the configuration keeps it, it is found and proved.
    let setting = format!("identity = \"file:{}\"", key_file(&machine).display());
    machine.configure(|text| text.replace("identity = \"none\"", &setting));
    assert!(keys::show(&machine.world, &mut |_| {}).unwrap().state.opens);
    // A kit of a key that lies in hardware would hold nothing.
    let args = keys::ExportArgs { file: machine.home("kit2.txt"), ..keys::ExportArgs::default() };
    let error = keys::export_kit(&machine.world, &args, &mut |_| {}).unwrap_err();
    assert!(error.advice().unwrap().contains("hardware"), "{}", said(&error));
}

#[test]
fn a_plugin_stands_beside_a_kit_that_needs_none() {
    let machine = machine();
    let plugin = install(&machine, WORKS);
    seal_to_plugin(&machine, true);
    machine.backup();
    assert_eq!(restored(&machine, key_file(&machine)).unwrap(), "remember this");
    std::fs::remove_file(plugin).unwrap();
    assert_eq!(restored(&machine, machine.kit()).unwrap(), "remember this");
}

#[test]
fn a_plugin_that_is_missing_is_named() {
    let machine = machine();
    let plugin = install(&machine, WORKS);
    seal_to_plugin(&machine, false);
    machine.backup();
    std::fs::remove_file(plugin).unwrap();
    machine.write("agent/.env", "API_KEY=other");
    for error in [machine.try_backup().map(drop), restored(&machine, key_file(&machine)).map(drop)] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("age-plugin-fake is not installed"), "{}", said(&error));
        assert!(error.advice().unwrap().contains("install age-plugin-fake"), "{}", said(&error));
        assert!(!format!("{error:?}").contains(IDENTITY));
    }
    let done = doctor::run(&machine.world, &doctor::Args::default(), &mut |_| {}).unwrap();
    let bad = done.checks.iter().filter(|c| c.verdict == doctor::Verdict::Bad);
    assert!(bad.filter(|c| c.text.contains("age-plugin-fake is not installed")).count() == 2, "{:?}", done.checks);
}

#[test]
fn a_plugin_that_fails_says_why_and_writes_nothing() {
    let machine = machine();
    install(&machine, WORKS);
    seal_to_plugin(&machine, false);
    machine.backup();
    let before = machine.list().snapshots.len();
    for (then, expected) in [(FAILS, "no key"), ("exit\n", "in the middle of a conversation")] {
        install(&machine, then);
        machine.write("agent/.env", format!("API_KEY={}", expected.len()));
        for error in [machine.try_backup().map(drop), restored(&machine, key_file(&machine)).map(drop)] {
            let error = error.unwrap_err();
            assert!(said(&error).contains(expected), "{}", said(&error));
            assert_eq!(error.kind(), Kind::Failed, "{}", said(&error));
        }
    }
    let whole = machine.list().snapshots.iter().filter(|row| row.status == "ok").count();
    assert_eq!(whole, before);
}
