//! The content rule and the sweep in force: what is secret by what is in it goes to the bundle, and what leaks is told.

use std::os::unix::fs::symlink;

use lifeboat::commands::{Event, Report as _, backup, keys, rotate, secrets};
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
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    machine.write("agent/notes.md", "changed");
    let said = run(3);
    assert!(said.contains("incomplete: a secret file"), "{said}");
    absent(&opened(&machine, Which::State, "state"), "plain-name");
}

/// A value that has no shape of its own: only the file it is in says that it is a secret.
const VALUE: &str = "quiet-Horse.staple_77";

/// A home in which a secret leaked into places of several kinds.
fn leaky() -> Machine {
    let machine = Machine::new();
    machine.write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\nMODEL=x\n"));
    machine.write("agent/notes.md", format!("I used {VALUE} and it works\n"));
    machine.write("agent/session.jsonl", format!("{}{{\"x\":\"{VALUE}\"}}\n", "{\"a\": 1}\n".repeat(200_000)));
    let connection = rusqlite::Connection::open(machine.home("agent/state.db")).unwrap();
    connection.execute_batch("create table m(t)").unwrap();
    connection.execute("insert into m values (?)", [format!("export P={VALUE}")]).unwrap();
    machine.write("agent/clean.md", "nothing");
    machine.init(&["agent"]);
    machine
}

/// The leaks that the bundles tell, by who can open them.
fn told(machine: &Machine) -> Vec<String> {
    let bundles = opened(machine, Which::Secrets, "secrets");
    let mut out = Vec::new();
    for line in bundles.split(|b| *b == b'\n') {
        // A tar may end just before it.
        let Some(at) = line.windows(9).position(|w| w == b"{\"format\"") else { continue };
        let header: serde_json::Value = serde_json::from_slice(&line[at..]).unwrap();
        for leak in header["secrets"]["leaks"].as_array().into_iter().flatten() {
            out.push(format!(
                "{} in {} {}",
                leak["name"].as_str().unwrap(),
                leak["path"].as_str().unwrap(),
                leak["count"]
            ));
        }
    }
    out
}

/// Refuses a value in anything that lifeboat says or keeps for itself.
fn unsaid(machine: &Machine, said: &str) {
    assert!(!said.contains(VALUE), "{said}");
    for (path, bytes) in machine.all_files() {
        let own = path.starts_with(machine.home(".local")) || path.starts_with(machine.home(".config"));
        assert!(!own || !holds(&bytes, VALUE), "{}", path.display());
    }
}

#[test]
fn leaks_are_counted_and_only_the_bundle_tells_which() {
    let mut machine = leaky();
    later(&mut machine, 1);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.leaked_values, done.leaking_files), (1, 3), "{said}");
    unsaid(&machine, &said);
    assert!(!said.contains("SERVICE_PASSWORD") && !said.contains(".env"), "{said}");
    let names = ["notes.md", "session.jsonl", "state.db"];
    assert_eq!(told(&machine), names.map(|n| format!("SERVICE_PASSWORD in home/agent/{n} 1")));
    absent(&opened(&machine, Which::State, "state"), "SERVICE_PASSWORD");

    // The same leak is told once; nothing is written for it again.
    let (done, said) = backup_saying(&machine);
    assert!(done.unchanged, "{said}");
    let mut file = std::fs::OpenOptions::new().append(true).open(machine.home("agent/session.jsonl")).unwrap();
    std::io::Write::write_all(&mut file, format!("once more {VALUE}\n").as_bytes()).unwrap();
    later(&mut machine, 2);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.leaked_values, done.leaking_files), (1, 1), "{said}");
    assert!(done.secrets.is_none() && done.state.unwrap().parent.is_some());

    // What a patch brings that was not there before is told.
    machine.write("agent/clean.md", format!("now {VALUE}"));
    later(&mut machine, 3);
    assert!(backup_saying(&machine).0.secrets.is_some());
    assert!(told(&machine).contains(&"SERVICE_PASSWORD in home/agent/clean.md 1".to_owned()));
    // The chain comes back whole, and the newest bundle with it.
    let target = machine.target("t");
    machine.restore(&target);
    assert!(target.join("home/agent/.env").exists());
}

#[test]
fn a_new_value_is_searched_for_in_what_did_not_change() {
    let mut machine = Machine::new();
    machine.write("agent/.env", "SERVICE_PASSWORD=Old.value-66-rotated\n");
    machine.write("agent/notes.md", format!("tomorrow's password will be {VALUE}\n"));
    machine.init(&["agent"]);
    later(&mut machine, 1);
    assert_eq!(backup_saying(&machine).0.leaked_values, 0);
    machine.write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\n"));
    later(&mut machine, 2);
    // The bundle alone reads nothing of the state; the next run makes up for it.
    let args = backup::Args { secrets_only: true, ..backup::Args::default() };
    let done = backup::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert!(done.secrets.is_some() && done.leaked_values == 0);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.leaked_values, done.leaking_files), (1, 1), "{said}");
    unsaid(&machine, &said);
    assert_eq!(told(&machine), ["SERVICE_PASSWORD in home/agent/notes.md 1"]);
    assert_eq!(backup_saying(&machine).0.leaked_values, 0);
}

#[test]
fn leaking_files_move_to_the_bundle() {
    let mut machine = leaky();
    machine.configure(|text| text.replace("sweep = \"report\"", "sweep = \"move\""));
    later(&mut machine, 1);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.leaked_values, done.secret_by_content), (0, 3), "{said}");
    unsaid(&machine, &said);
    absent(&opened(&machine, Which::State, "state"), VALUE);
    // They stay there, until the value is gone from them.
    let (done, said) = backup_saying(&machine);
    assert!(done.unchanged && done.secret_by_content == 3, "{said}");
    machine.write("agent/notes.md", "cleaned");
    machine.write("agent/clean.md", format!("dirty: {VALUE}"));
    later(&mut machine, 2);
    let (done, said) = backup_saying(&machine);
    assert_eq!(done.secret_by_content, 3, "{said}");
    let state = opened(&machine, Which::State, "state");
    absent(&state, VALUE);
    assert!(holds(&state, "cleaned"));
    let target = machine.target("t");
    machine.restore(&target);
    for name in ["clean.md", "session.jsonl", "notes.md", "state.db"] {
        let was = std::fs::read(machine.home("agent").join(name)).unwrap();
        assert_eq!(std::fs::read(target.join("home/agent").join(name)).unwrap().len(), was.len(), "{name}");
    }
}

#[test]
fn each_source_has_its_own_policy() {
    let mut machine = Machine::new();
    machine.write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\n"));
    machine.write("agent/notes.md", format!("I used {VALUE}\n"));
    machine.write("projects/readme.md", format!("set P={VALUE}\n"));
    machine.write("projects/other.md", "clean");
    machine.init(&["agent", "projects"]);
    let policy = |which: &'static str| {
        move |text: String| {
            let text = text.lines().filter(|line| !line.contains("for this source")).collect::<Vec<_>>().join("\n");
            let at = text.find("/projects\"").unwrap();
            let end = at + text[at..].find('\n').unwrap();
            format!("{}\nsweep = \"{which}\"\n{}\n", &text[..end], &text[end..])
        }
    };
    machine.configure(policy("move"));
    later(&mut machine, 1);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.secret_by_content, done.leaking_files), (1, 1), "{said}");
    unsaid(&machine, &said);
    assert_eq!(told(&machine), ["SERVICE_PASSWORD in home/agent/notes.md 1"]);
    let state = opened(&machine, Which::State, "state");
    assert!(holds(&state, "I used") && !holds(&state, "set P="));
    let (done, said) = backup_saying(&machine);
    assert!(done.unchanged && done.secret_by_content == 1, "{said}");
    // What is new there moves, too; what is new elsewhere is told.
    machine.write("projects/other.md", format!("not clean: {VALUE}"));
    machine.write("agent/more.md", format!("more {VALUE}"));
    later(&mut machine, 2);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.secret_by_content, done.leaking_files), (2, 1), "{said}");
    assert!(!holds(&opened(&machine, Which::State, "state"), "not clean"));
}

#[test]
fn one_source_fails_a_backup_and_another_one_is_told() {
    let mut machine = Machine::new();
    machine.write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\n"));
    machine.write("agent/notes.md", "clean");
    machine.write("projects/readme.md", format!("set P={VALUE}\n"));
    machine.init(&["agent", "projects"]);
    machine.configure(|text| {
        let text = text.replace("sweep = \"report\"", "sweep = \"fail\"");
        let end = text.find("/projects\"").unwrap() + "/projects\"".len();
        format!("{}\nsweep = \"report\"{}", &text[..end], &text[end..])
    });
    later(&mut machine, 1);
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.secret_by_content, done.leaking_files), (0, 1), "{said}");
    machine.write("projects/more.md", format!("more {VALUE}"));
    later(&mut machine, 2);
    assert_eq!(backup_saying(&machine).0.leaking_files, 1);
    machine.write("agent/notes.md", format!("not clean: {VALUE}"));
    later(&mut machine, 3);
    let error = backup::run(&machine.world, &backup::Args::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("1 file of the state"), "{error}");
}

#[test]
fn a_leak_can_fail_a_backup_before_anything_is_written() {
    let machine = leaky();
    machine.configure(|text| text.replace("sweep = \"report\"", "sweep = \"fail\""));
    let mut said = String::new();
    let args = backup::Args::default();
    let error = backup::run(&machine.world, &args, &mut |e| said.push_str(&format!("{e:?}\n"))).unwrap_err();
    assert!(error.to_string().contains("3 files of the state"), "{error}");
    assert!(said.contains("notes.md") && !said.contains(VALUE), "{said}");
    assert!(machine.all_files().iter().all(|(path, _)| path.file_name().is_none_or(|n| n != "commit")));
    // What the user calls state is told, and no reason to fail.
    machine.configure(|text| text.replace("[[source]]", "[[source]]\nstate = [\"*.md\", \"*.jsonl\", \"*.db\"]"));
    let (done, said) = backup_saying(&machine);
    assert_eq!((done.leaked_values, done.leaking_files), (1, 3), "{said}");
}

fn secrets_args(machine: &Machine) -> secrets::Args {
    secrets::Args { identity: Some(machine.kit()), ..secrets::Args::default() }
}

#[test]
fn bundles_tell_names_ages_and_differences() {
    let mut machine = Machine::new();
    machine.write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\nOTHER_TOKEN={TOKEN}\n"));
    machine.write("agent/notes.md", "x");
    machine.init(&["agent"]);
    later(&mut machine, 1);
    let first = backup_saying(&machine).0.secrets.unwrap().id;
    let other = TOKEN.replace("Zx81", "By92");
    machine
        .write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\nOTHER_TOKEN={other}\nNEW_SECRET=Tulip-8842-river\n"));
    later(&mut machine, 1 + 5 * 24);
    let second = backup_saying(&machine).0.secrets.unwrap().id;
    later(&mut machine, 1 + 7 * 24);
    let args = secrets_args(&machine);
    let listed = secrets::list(&machine.world, &args, &mut |_| {}).unwrap();
    let ages: Vec<(&str, i64)> = listed.values.iter().map(|v| (v.name.as_str(), v.days)).collect();
    assert_eq!(ages, [("SERVICE_PASSWORD", 7), ("OTHER_TOKEN", 2), ("NEW_SECRET", 2)]);
    let diff = secrets::diff(&machine.world, &args, &first, &second, &mut |_| {}).unwrap();
    let names = |list: &[secrets::NameInFile]| list.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    assert_eq!(
        (names(&diff.added), names(&diff.removed), names(&diff.rotated), diff.same),
        (vec!["NEW_SECRET".into()], vec![], vec!["OTHER_TOKEN".into()], 1)
    );
    let back = secrets::diff(&machine.world, &args, &second, &first, &mut |_| {}).unwrap();
    assert_eq!(names(&back.removed), ["NEW_SECRET"]);
    for text in [listed.text(), diff.text(), serde_json::to_string(&listed).unwrap()] {
        assert!(!text.contains(VALUE) && !text.contains(&other) && !text.contains(TOKEN), "{text}");
    }
    // Only who can open bundles learns anything.
    let error = secrets::list(&machine.world, &secrets::Args::default(), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), lifeboat::Kind::NoIdentity);
}

#[test]
fn exposure_names_every_archive_that_holds_a_value() {
    let mut machine = leaky();
    later(&mut machine, 1);
    let first = backup_saying(&machine).0;
    // Rotated: the old value stays where it was, and its name leads to the new one.
    machine.write("agent/.env", "SERVICE_PASSWORD=Tulip-8842-river\n");
    later(&mut machine, 2);
    let second = backup_saying(&machine).0;
    let args = secrets_args(&machine);
    let expose =
        |bundle: &str| secrets::exposure(&machine.world, &args, bundle, "SERVICE_PASSWORD", &mut |_| {}).unwrap();
    let new = expose("latest");
    let ids = |list: &[secrets::Holder]| list.iter().map(|h| h.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&new.bundles), [second.secrets.unwrap().id]);
    assert!(new.files.is_empty() && new.snapshots.is_empty());
    let old_bundle = first.secrets.unwrap().id;
    let old = expose(&old_bundle);
    assert!(ids(&old.bundles).contains(&old_bundle) && old.bundles.len() == 2, "{:?}", old.bundles);
    assert_eq!(old.files, ["home/agent/notes.md", "home/agent/session.jsonl", "home/agent/state.db"]);
    let state = first.state.unwrap();
    assert_eq!(ids(&old.snapshots)[0], state.id);
    // A monthly full outlives the bundles.
    assert!(old.until.unwrap() > old.bundles[0].until);
    let leaks = secrets::leaks(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(leaks.leaks.len(), 3);
    assert!(!leaks.text().contains(VALUE));
}

#[test]
fn a_value_is_printed_to_a_pipe_alone() {
    let machine = Machine::new();
    machine.write(
        "agent/.env",
        "SERVICE_PASSWORD=it's-4-Tulips-in-may\nOTHER_PASSWORD=Rose-and-thorn-1899\nTHE_PASSWORD=abc\n",
    );
    machine.write("agent/auth.json", "{\"service-password\": \"Daisy-7-in-the-rain\"}");
    machine.write("agent/notes.md", "abc, as everybody knows");
    machine.write("agent/deep/.env", format!("OTHER_PASSWORD={VALUE}\n"));
    machine.init(&["agent"]);
    machine.backup();
    let args = secrets::GetArgs {
        common: secrets_args(&machine),
        bundle: "latest".into(),
        name: Some("SERVICE_PASSWORD".into()),
        ..secrets::GetArgs::default()
    };
    let get = |args: &secrets::GetArgs| secrets::get(&machine.world, args, &mut |_| {});
    assert_eq!(get(&args).unwrap().text(), "it's-4-Tulips-in-may\n");
    assert!(!format!("{:?}", get(&args).unwrap()).contains("Tulips"));
    let terminal = secrets::GetArgs { to_terminal: true, ..args.clone() };
    assert_eq!(get(&terminal).unwrap_err().kind(), lifeboat::Kind::Usage);
    assert!(get(&secrets::GetArgs { force: true, ..terminal }).is_ok());
    let several = secrets::GetArgs { name: Some("OTHER_PASSWORD".into()), ..args.clone() };
    let error = get(&several).unwrap_err();
    assert!(error.to_string().contains("home/agent/deep/.env") && !error.to_string().contains(VALUE), "{error}");
    let one = secrets::GetArgs { file: Some("deep/.env".into()), ..several };
    assert_eq!(get(&one).unwrap().text(), format!("{VALUE}\n"));
    // One that would be found everywhere is not searched for, and can be had all the same.
    let short = secrets::GetArgs { name: Some("THE_PASSWORD".into()), ..args.clone() };
    assert_eq!(get(&short).unwrap().text(), "abc\n");
    let listed = secrets::list(&machine.world, &args.common, &mut |_| {}).unwrap();
    let unsearched: Vec<_> = listed.values.iter().filter(|v| v.unsearched).map(|v| v.name.as_str()).collect();
    assert_eq!(unsearched, ["THE_PASSWORD"]);
    assert!(secrets::leaks(&machine.world, &args.common, &mut |_| {}).unwrap().leaks.is_empty());
    let none = secrets::GetArgs { name: Some("NOT_THERE".into()), ..args.clone() };
    assert_eq!(get(&none).unwrap_err().kind(), lifeboat::Kind::NotThere);
    // What the shell makes of it is the value.
    let mut notes = Vec::new();
    let everything = secrets::GetArgs { name: None, ..args };
    let all = secrets::env(&machine.world, &everything, &mut |event| notes.push(format!("{event:?}"))).unwrap();
    let others = listed.values.iter().filter(|v| v.name.contains('-')).count();
    assert!(others == 1 && notes.iter().any(|n| n.contains("1 value has a name that no shell takes")), "{notes:?}");
    let script = format!("{}printf %s \"$SERVICE_PASSWORD\"", all.text());
    let out = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert_eq!(out.stdout, b"it's-4-Tulips-in-may");
}

/// Every command with values at its fingertips, and everything written anywhere looked at.
#[test]
fn no_command_says_or_leaves_a_value() {
    let mut machine = leaky();
    machine.write("agent/by-content.md", format!("and {TOKEN}"));
    later(&mut machine, 1);
    let kit = machine.kit().display().to_string();
    let target = machine.target("t").display().to_string();
    let bundle = ["--identity", &kit];
    let runs: Vec<Vec<&str>> = vec![
        vec!["backup", "--dry-run"],
        vec!["backup"],
        vec!["backup"],
        vec!["backup", "--rehash"],
        vec!["backup", "--secrets-only"],
        [&["list"][..], &bundle].concat(),
        [&["restore", "--target", &target][..], &bundle].concat(),
        [&["restore", "--target", &target, "--dry-run"][..], &bundle].concat(),
        vec!["keys", "show"],
        vec!["keys", "check", &kit],
        [&["secrets", "list"][..], &bundle].concat(),
        [&["secrets", "leaks"][..], &bundle].concat(),
        [&["secrets", "diff", "20"][..], &bundle].concat(),
        [&["secrets", "exposure", "SERVICE_PASSWORD"][..], &bundle].concat(),
        [&["secrets", "get", "NOT_THERE"][..], &bundle].concat(),
        vec!["prune", "--dry-run"],
        vec!["lifecycle", "print"],
    ];
    for args in runs {
        for voice in [&["-v"][..], &["--json"]] {
            let args = [&args[..], voice].concat();
            let out = machine.program(&args).output().unwrap();
            let said = [out.stdout, out.stderr].concat();
            for word in [VALUE, TOKEN] {
                assert!(!holds(&said, word), "{args:?}: {}", String::from_utf8_lossy(&said));
            }
        }
    }
    let restored = machine.target("t");
    for (path, bytes) in machine.all_files() {
        let theirs = path.starts_with(machine.home("agent")) || path.starts_with(&restored);
        for word in [VALUE, TOKEN] {
            assert!(theirs || !holds(&bytes, word), "{word} is in {}", path.display());
        }
    }
}

#[test]
fn a_changed_policy_is_shouted_about_until_it_is_accepted() {
    let machine = Machine::new();
    machine.write("agent/.env", "A=1");
    machine.write("agent/notes.md", "x");
    machine.write("more/notes.md", "x");
    machine.init(&["agent"]);
    let run = |accept_policy| {
        let mut warned = String::new();
        let args = backup::Args { accept_policy, ..backup::Args::default() };
        let done = backup::run(&machine.world, &args, &mut |e| {
            if let Event::Warning(text) = e {
                warned.push_str(&text);
            }
        });
        (done.unwrap().policy_changes, warned)
    };
    assert_eq!(run(false), (vec![], String::new()));
    assert_eq!(run(false), (vec![], String::new()));
    machine.configure(|text| text.replace("[[source]]", "[[source]]\nexclude = [\"notes.md\"]"));
    for _ in 0..2 {
        let (changes, warned) = run(false);
        assert_eq!(changes, ["what source number 1 leaves out or calls a secret changed"]);
        assert!(warned.contains("--accept-policy"), "{warned}");
    }
    assert_eq!(run(true), (vec![], String::new()));
    assert_eq!(run(false), (vec![], String::new()));
    // Who reads the bundle: another key beside the owner's.
    let other = "age1xjpk6mqks5jpllkkarees8q5a8xlzmxurdl2xyl8ep0esg2njf8sm9fytm";
    machine.configure(|text| {
        let (head, tail) = text.split_once("[secrets]").unwrap();
        let tail = tail.replacen("recipients = [", &format!("recipients = [\"{other}\", "), 1);
        format!("{head}[secrets]{tail}")
    });
    assert_eq!(run(false).0, ["who can open the secrets bundle changed"]);
    run(true);
    // A source that is added takes nothing from anybody; one that goes does.
    machine.init(&["more"]);
    assert_eq!(run(false), (vec![], String::new()));
    let added = machine.home("more").display().to_string();
    machine.configure(|text| {
        let at = text.find("more").map(|at| text[..at].rfind("[[source]]").unwrap()).unwrap();
        assert!(text[at..].contains("more") && !added.is_empty());
        let rest = text[at + 10..].find("\n[").map_or("", |end| &text[at + 10 + end..]);
        format!("{}{rest}", &text[..at])
    });
    assert_eq!(run(false).0, ["1 source removed"]);
}

#[test]
fn new_keys_open_what_comes_and_the_new_kit_opens_all() {
    let mut machine = Machine::new();
    machine.write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\n"));
    machine.write("agent/notes.md", "x");
    machine.init(&["agent"]);
    later(&mut machine, 1);
    machine.backup();
    let new = machine.root().join("new-kit.txt");
    let args = rotate::Args { kit: new.clone(), secrets: true, ..rotate::Args::default() };
    // A host that holds no identity cannot write a kit that opens everything.
    let error = rotate::run(&machine.world, &args, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), lifeboat::Kind::NoIdentity);
    assert!(!new.exists());
    let args = rotate::Args { identity: Some(machine.kit()), ..args };
    // What somebody else changed is not accepted along with it.
    let before = std::fs::read_to_string(machine.world.config_file()).unwrap();
    machine.configure(|text| text.replace("[[source]]", "[[source]]\nexclude = [\"notes.md\"]"));
    assert!(rotate::run(&machine.world, &args, &mut |_| {}).unwrap_err().advice().unwrap().contains("--accept-policy"));
    machine.configure(|_| before);
    later(&mut machine, 2);
    let done = rotate::run(&machine.world, &args, &mut |_| {}).unwrap();
    assert_eq!(done.rotated, ["secrets"]);
    let bundle = done.bundle.unwrap();
    let again = rotate::run(&machine.world, &args, &mut |_| {}).unwrap_err();
    assert!(new.exists(), "{again}");

    // The old kit opens no new bundle, but the old one; the new kit opens both.
    let old = keys::CheckArgs { kit: machine.kit(), store: None };
    assert_eq!(keys::check(&machine.world, &old, &mut |_| {}).unwrap_err().kind(), lifeboat::Kind::NoIdentity);
    let check = keys::CheckArgs { kit: new.clone(), store: None };
    assert_eq!(keys::check(&machine.world, &check, &mut |_| {}).unwrap().opened.last().unwrap().id, bundle);
    let common = secrets::Args { identity: Some(new.clone()), ..secrets::Args::default() };
    let listed = secrets::list(&machine.world, &common, &mut |_| {}).unwrap();
    assert_eq!((listed.values.len(), listed.bundle == bundle), (1, true));
    let both = secrets::exposure(&machine.world, &common, "latest", "SERVICE_PASSWORD", &mut |_| {}).unwrap();
    assert_eq!(both.bundles.len(), 2);

    // Both kinds at once: the state begins anew for the new key, and nothing warns of what was meant.
    let newest = machine.root().join("newest-kit.txt");
    let args = rotate::Args { kit: newest.clone(), identity: Some(new), ..rotate::Args::default() };
    assert_eq!(rotate::run(&machine.world, &args, &mut |_| {}).unwrap().rotated, ["state", "secrets"]);
    machine.write("agent/notes.md", "y");
    later(&mut machine, 3);
    let (done, said) = backup_saying(&machine);
    assert!(done.state.unwrap().parent.is_none() && done.policy_changes.is_empty(), "{said}");
    for snapshot in ["latest", "2026-"] {
        let target = machine.target(snapshot);
        let restored = machine.try_restore(&target, |a| {
            a.identity = Some(newest.clone());
            if snapshot != "latest" {
                a.snapshot = "1 hour ago".to_owned();
            }
        });
        restored.unwrap();
        assert!(target.join("home/agent/.env").exists());
    }
}
