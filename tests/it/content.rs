//! The content rule and the sweep in force: what is secret by what is in it goes to the bundle, and what leaks is told.

use std::os::unix::fs::symlink;

use lifeboat::commands::{Event, Report as _, backup};
use lifeboat::model::kit::Which;

use crate::secrets::{absent, holds, opened};
use crate::world::Machine;

/// A token in the shape of a service, which opens nothing.
const TOKEN: &str = "ghp_Zx81mQvL0tRbY7cKd3NfWj5uHs2aEg9Pq4oT";

/// Backs up, and gives what it said meanwhile.
fn backup_saying(machine: &Machine) -> (backup::Done, String) {
    let mut said = String::new();
    let args = backup::Args::default();
    let done = backup::run(&machine.world, &args, &mut |e| said.push_str(&format!("{e:?}\n"))).unwrap();
    said.push_str(&done.text());
    said.push_str(&serde_json::to_string(&done).unwrap());
    assert!(!said.contains(TOKEN), "{said}");
    (done, said)
}

/// A later run, in which what was written before is old enough for `stat` to be believed.
fn later(machine: &mut Machine, hours: u64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + hours * 3600;
    machine.world.fixed_now = Some(i64::try_from(now).unwrap());
}

#[test]
fn a_text_with_a_token_goes_to_the_bundle_under_all_its_names() {
    let mut machine = Machine::new();
    machine.write("agent/hidden-in/plain-name.md", format!("first\nmy token: {TOKEN}\n"));
    machine.write("agent/notes.md", "nothing");
    let agent = |p: &str| machine.home("agent").join(p);
    std::fs::hard_link(agent("hidden-in/plain-name.md"), agent("plain-name-too.md")).unwrap();
    symlink("hidden-in/plain-name.md", agent("plain-name-link")).unwrap();
    machine.init(&["agent"]);
    later(&mut machine, 1);
    let (done, said) = backup_saying(&machine);
    assert_eq!(done.secret_by_content, 1);
    assert_eq!(done.secrets.unwrap().files, 1);
    assert!(said.contains("plain-name.md, line 2: github-"), "{said}");
    let state = opened(&machine, Which::State, "state");
    for word in [TOKEN, "plain-name", "hidden-in"] {
        absent(&state, word);
        for (path, bytes) in machine.all_files() {
            let own = path.starts_with(machine.home(".local"));
            assert!(!own || !holds(&bytes, word), "{word} is in {}", path.display());
        }
    }
    let bundle = opened(&machine, Which::Secrets, "secrets");
    assert!(holds(&bundle, TOKEN) && holds(&bundle, "\"line\":2,\"rule\":\"github-"));

    // Known from then on: nothing is written, and it stays where it is.
    let (done, said) = backup_saying(&machine);
    assert!(done.unchanged && done.secret_by_content == 1, "{said}");
    // What changes something else writes a bundle that still tells the line.
    machine.write("agent/.env", "A=1");
    later(&mut machine, 2);
    let (done, said) = backup_saying(&machine);
    assert!(done.secrets.is_some() && done.secret_by_content == 1, "{said}");
    let newest = opened(&machine, Which::Secrets, &format!("secrets/testhost/{}", done.secrets.unwrap().id));
    assert!(holds(&newest, "\"line\":2,\"rule\":\"github-"));

    let target = machine.target("t");
    machine.restore(&target);
    assert!(std::fs::read_to_string(target.join("home/agent/plain-name-too.md")).unwrap().contains(TOKEN));
}

#[test]
fn a_file_goes_to_and_fro_as_a_token_comes_and_goes() {
    let mut machine = Machine::new();
    machine.write("agent/config.yaml", "model: x\n");
    machine.write("agent/notes.md", "nothing");
    machine.init(&["agent"]);
    later(&mut machine, 1);
    assert_eq!(backup_saying(&machine).0.secret_by_content, 0);
    machine.write("agent/config.yaml", format!("model: x\ntoken: {TOKEN}\n"));
    later(&mut machine, 2);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.secret_by_content, done.deleted), (1, 1), "{said}");
    assert!(said.contains("earlier state archives hold them"), "{said}");
    absent(&opened(&machine, Which::State, "state"), TOKEN);
    machine.write("agent/config.yaml", "model: y\n");
    later(&mut machine, 3);
    let (done, said) = backup_saying(&machine);
    assert_eq!(done.secret_by_content, 0, "{said}");
    let target = machine.target("t");
    machine.restore(&target);
    assert_eq!(std::fs::read_to_string(target.join("home/agent/config.yaml")).unwrap(), "model: y\n");
}

#[test]
fn the_users_rules_overrule_the_content_rule() {
    let machine = Machine::new();
    machine.write("agent/known/fine.md", TOKEN);
    machine.write("agent/other.md", TOKEN);
    machine.write("agent/big.bin", format!("\0\0{TOKEN}"));
    machine.init(&["agent"]);
    machine.configure(|text| text.replace("[[source]]", "[[source]]\nstate = [\"known/\"]"));
    let (done, said) = backup_saying(&machine);
    assert_eq!(done.secret_by_content, 1, "{said}");
    let state = opened(&machine, Which::State, "state");
    assert!(holds(&state, "fine.md") && holds(&state, "big.bin"));
    absent(&state, "other.md");
    // A dry run says the same, and writes nothing.
    let args = backup::Args { dry_run: true, ..backup::Args::default() };
    let mut details = 0;
    let dry = backup::run(&machine.world, &args, &mut |e| {
        details += usize::from(matches!(e, Event::Detail(text) if text.contains("other.md, line 1")));
    });
    assert_eq!((dry.unwrap().secret_by_content, details), (1, 1));
}

#[test]
fn a_token_far_into_a_large_text_is_found_and_a_kit_is_none_of_its_business() {
    let mut machine = Machine::new();
    machine.write("agent/long.jsonl", format!("{}{TOKEN}\n", "{\"a\": 1}\n".repeat(100_000)));
    machine.init(&["agent"]);
    std::fs::copy(machine.kit(), machine.home("agent/copy.txt")).unwrap();
    later(&mut machine, 1);
    let (done, said) = backup_saying(&machine);
    assert_eq!(done.secret_by_content, 1, "{said}");
    assert!(said.contains("line 100001"), "{said}");
}

#[test]
fn a_secret_that_cannot_be_read_any_more_is_not_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new();
    let file = machine.write("agent/plain-name.md", TOKEN);
    machine.write("agent/notes.md", "nothing");
    machine.init(&["agent"]);
    // As a user for whom permissions count.
    let run = |code| {
        let out = machine.program_unprivileged(&["backup", "-v"]).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    run(0);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0)).unwrap();
    machine.write("agent/notes.md", "changed");
    let said = run(3);
    assert!(said.contains("incomplete: a secret file"), "{said}");
    absent(&opened(&machine, Which::State, "state"), "plain-name");
}
