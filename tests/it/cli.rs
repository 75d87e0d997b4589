//! The real program: exit codes, what goes to which stream, help, signals, and the words of its errors.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::Machine;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine with an agent, set up.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "remember this");
    machine.write("agent/.env", "KEY=fake");
    machine.init(&["agent"]);
    machine
}

fn run(machine: &Machine, args: &[&str]) -> Output {
    machine.program(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs, expects an exit code, and gives stderr with the machine's own directory written as `ROOT`.
fn fails(machine: &Machine, code: i32, args: &[&str]) -> String {
    let output = run(machine, args);
    let said = text(&output.stderr).replace(machine.root().to_str().unwrap(), "ROOT");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    // The same as JSON: one object on stdout.
    let output = run(machine, &[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["error"]["exit_code"], code, "{args:?}");
    assert_eq!(text(&output.stdout).lines().count(), 1);
    said
}

#[test]
fn a_first_run_says_what_it_did_and_a_second_is_brief() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    let output = run(&machine, &["backup", "home/agent"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stderr);
    for word in
        ["there was no configuration, so one was made:", "recovery kit", "Move the recovery kit off this machine now"]
    {
        assert!(said.contains(word), "{said}");
    }
    assert!(text(&output.stdout).starts_with("wrote state "));
    let output = run(&machine, &["backup"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert_eq!(text(&output.stdout).lines().count(), 1);
    let output = run(&machine, &["backup", "-q"]);
    assert_eq!((output.status.code(), output.stdout.len(), output.stderr.len()), (Some(0), 0, 0));
    for (output, keys) in [
        (run(&machine, &["--json", "backup"]), ["series", "state", "unreadable"]),
        (run(&machine, &["list", "--json"]), ["store", "snapshots", "hidden"]),
        (
            run(&machine, &["restore", "--identity", "home/lifeboat-key.txt", "--target", "t", "--json"]),
            ["restored", "missing", "not_held"],
        ),
        (run(&machine, &["init", "--json"]), ["config", "kit", "what"]),
    ] {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(keys.iter().all(|k| object.get(k).is_some()), "{object}");
        assert_eq!(text(&output.stdout).lines().count(), 1);
    }
    // No colour, no bar, no escape of any kind.
    let output = run(&machine, &["backup", "-v"]);
    assert!(!output.stderr.contains(&0x1b) && !output.stdout.contains(&0x1b));
    for file in [
        "lifeboat-key.txt",
        ".config/lifeboat/config.toml",
        ".config/lifeboat/signing.key",
        ".local/share/lifeboat/store",
    ] {
        let mode = machine.home(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} is open to others");
    }
}

#[test]
fn what_usage_errors_say() {
    let machine = machine();
    machine.write("other/x", "x");
    assert!(fails(&machine, 2, &["backup", "--bogus"]).starts_with("error: unexpected argument '--bogus' found"));
    assert!(fails(&machine, 2, &["sail"]).starts_with("error: unrecognized subcommand 'sail'"));
    assert!(fails(&machine, 2, &["restore", "--no-secrets", "--secrets-only"]).contains("cannot be used with"));
    assert!(fails(&machine, 2, &["backup", "-q", "-v"]).contains("cannot be used with"));
    assert_eq!(
        fails(&machine, 2, &["restore", "nonsense"]),
        "error: `nonsense` names no snapshot\n\
         hint: name an id, the beginning of one, `latest`, a date as 2026-11-20, or \"3 days ago\"\n"
    );
    assert_eq!(
        fails(&machine, 2, &["backup", "home/other"]),
        "error: home/other is no source of series testhost\n\
         hint: `lifeboat init --source home/other` adds it; a backup is always of all sources\n"
    );
    assert_eq!(
        fails(&machine, 2, &["init", "--name", "else"]),
        "error: ROOT/home/.config/lifeboat/config.toml is there already, with the series testhost\n\
         hint: edit the configuration, or use another one with --config; keys are never made anew over old ones\n"
    );
    assert_eq!(
        fails(&machine, 2, &["restore", "--identity", "home/lifeboat-key.txt", "--name", "../up"]),
        "error: `../up` is no name of a series\n"
    );
    assert_eq!(
        fails(&Machine::new(), 2, &["backup"]),
        "error: there is no agent here that lifeboat knows, and no path was named\n\
         hint: name what to back up: a PATH, or --preset with one of claude-code, codex, hermes, openclaw\n"
    );
}

#[test]
fn what_errors_about_things_that_are_not_there_say() {
    let machine = machine();
    assert_eq!(
        fails(&machine, 10, &["backup", "home/gone"]).lines().next(),
        Some("error: the source home/gone is not there")
    );
    assert_eq!(
        fails(&machine, 10, &["restore", "--identity", "home/lifeboat-key.txt"]),
        "error: there is no state archive on the store\nhint: `lifeboat list --all` shows every series that is there\n"
    );
    assert_eq!(fails(&machine, 10, &["restore", "--identity", "nowhere"]), "error: there is no key file nowhere\n");
    assert_eq!(
        fails(&machine, 10, &["list", "--store", "/no/such/store"]),
        "error: the store /no/such/store is not there\nhint: mount its disk, or name another one with --store\n"
    );
    assert_eq!(
        fails(&Machine::new(), 10, &["list"]).lines().next(),
        Some("error: no store was named, and neither a kit nor a configuration names one")
    );
    std::fs::remove_dir_all(machine.home("agent")).unwrap();
    assert_eq!(
        fails(&machine, 10, &["backup"]),
        "error: no source is there: ROOT/home/agent\n\
         hint: mount what is missing, or change the sources of the configuration\n"
    );
    machine.write("agent/x", "x");
    std::fs::remove_file(machine.home(".config/lifeboat/signing.key")).unwrap();
    assert_eq!(
        fails(&machine, 10, &["backup"]),
        "error: the signing key ROOT/home/.config/lifeboat/signing.key is not there\n\
         hint: `lifeboat init --kit KIT` puts it back from the recovery kit\n"
    );
    std::fs::rename(machine.store(), machine.root().join("elsewhere")).unwrap();
    assert_eq!(
        fails(&machine, 10, &["backup"]),
        "error: the store ROOT/home/.local/share/lifeboat/store is not there\n\
         hint: mount its disk, or name another one with --store\n"
    );
}

#[test]
fn what_errors_about_keys_say() {
    let machine = machine();
    machine.backup();
    assert_eq!(
        fails(&machine, 12, &["restore"]),
        "error: no identity at hand opens the state archive\n  \
           cause: the configuration: it says that this host keeps no identity\n\
         hint: name the recovery kit with --identity FILE\n"
    );
    let other = Machine::new();
    other.write("agent/x", "x");
    other.init(&["agent"]);
    let kit = std::fs::read_to_string(other.kit()).unwrap();
    let identities: String = kit.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
    let foreign = machine.write("foreign.txt", identities);
    std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o600)).unwrap();
    let said = fails(&machine, 12, &["restore", "--identity", "home/foreign.txt", "--target", "t"]);
    assert!(said.starts_with("error: no identity at hand opens state/monthly/testhost/"), "{said}");
    std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        fails(&machine, 1, &["restore", "--identity", "home/foreign.txt"]),
        "error: home/foreign.txt holds keys and is open to others (mode 0644)\nhint: run: chmod 600 home/foreign.txt\n"
    );
    // Keys are never in a message.
    let secret = identities_of(&other);
    for args in [["restore", "--identity", "home/foreign.txt"], ["list", "--identity", "home/foreign.txt"]] {
        let output = run(&machine, &args);
        assert!(secret.iter().all(|s| !text(&output.stderr).contains(s) && !text(&output.stdout).contains(s)));
    }
}

fn identities_of(machine: &Machine) -> Vec<String> {
    let kit = std::fs::read_to_string(machine.kit()).unwrap();
    kit.lines().filter(|l| l.starts_with("AGE-SECRET-KEY")).map(str::to_owned).collect()
}

#[test]
fn what_errors_about_damage_and_conflicts_say() {
    let machine = machine();
    machine.backup();
    run(&machine, &["restore", "--identity", "home/lifeboat-key.txt", "--target", "t"]);
    machine.write("../t/home/agent/notes.md", "mine now");
    assert_eq!(
        fails(&machine, 1, &["restore", "--identity", "home/lifeboat-key.txt", "--target", "t"]),
        "error: what is at the target differs from the snapshot; nothing was changed:\n    ROOT/t/home/agent/notes.md\n\
         hint: restore beside it with --target DIR, or replace what differs with --overwrite\n"
    );
    for (path, bytes) in machine.all_files() {
        if path.ends_with("000000.tar.zst.age") && path.to_str().unwrap().contains("/state/") {
            let mut bytes = bytes;
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    let said = fails(&machine, 4, &["restore", "--identity", "home/lifeboat-key.txt", "--target", "new"]);
    let (first, hint) = said.split_once('\n').unwrap();
    assert!(first.starts_with("error: state/monthly/testhost/"), "{said}");
    assert!(first.ends_with("/000000.tar.zst.age is truncated or altered"), "{said}");
    assert_eq!(hint, "  cause: decryption error\nhint: another snapshot may be whole: `lifeboat list` shows them\n");
    assert!(!machine.target("new").join("home").exists());
    machine.configure(|t| t.replace("[[source]]", "[[sauce]]"));
    let said = fails(&machine, 1, &["backup"]);
    let wrong = "error: the configuration ROOT/home/.config/lifeboat/config.toml is wrong\n  cause: configuration line 24: \
                 unknown field `sauce`, expected one of `name`, `store`, ";
    assert!(said.starts_with(wrong), "{said}");
}

#[test]
fn another_run_holds_the_lock() {
    let machine = machine();
    machine.backup();
    let lock = std::fs::File::open(machine.world.state_dir("testhost").join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(
        fails(&machine, 11, &["backup"]),
        "error: another run of lifeboat holds the lock of this series\n\
         hint: wait until it is done; the lock goes with the process that holds it\n"
    );
    // Whoever only reads needs none.
    assert_eq!(run(&machine, &["list"]).status.code(), Some(0));
    lock.unlock().unwrap();
    assert_eq!(run(&machine, &["backup"]).status.code(), Some(0));
}

#[test]
fn incomplete_is_said_even_quietly() {
    let machine = machine();
    machine.write("agent/bad.db", [b"SQLite format 3\0".as_slice(), &[7; 2000]].concat());
    for args in [&["backup"][..], &["backup", "-q"], &["backup", "--json"]] {
        let output = run(&machine, args);
        assert_eq!(output.status.code(), Some(3));
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("bad.db: it cannot be opened as a database"), "{args:?}: {said}");
    }
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    let machine = Machine::new();
    let name = "agent/\u{1b}]0;owned\u{7}\u{202e}\n.x";
    machine.write(name, "x");
    machine.write("agent/skip\u{1b}[31m.log", "x");
    machine.write("agent/bad\u{1b}[31m.db", [b"SQLite format 3\0".as_slice(), &[7; 2000]].concat());
    machine.init(&["agent"]);
    machine.configure(|t| t.replace("[[source]]", "[[source]]\nexclude = [\"*.log\"]"));
    let kit = "home/lifeboat-key.txt";
    let mut outputs = vec![run(&machine, &["backup", "-v"]), run(&machine, &["list", "--identity", kit])];
    outputs.push(run(&machine, &["restore", "--identity", kit, "--target", "t\u{1b}[31m"]));
    machine.write(&format!("../t\u{1b}[31m/home/{name}"), "other");
    outputs.push(run(&machine, &["restore", "--identity", kit, "--target", "t\u{1b}[31m"]));
    outputs.push(run(&machine, &["restore", "--identity", kit, "--target", "t\u{1b}[31m", "--dry-run"]));
    outputs.push(run(&machine, &["restore", "\u{1b}[31m"]));
    outputs.push(run(&machine, &["backup", "\u{1b}[31m"]));
    outputs.push(run(&machine, &["list", "--store", "/\u{1b}[31m"]));
    outputs.push(run(&machine, &["init", "--source", "\u{1b}[31m", "--preset", "\u{1b}[31m", "--name", "\u{1b}[31m"]));
    outputs.push(run(&machine, &["list", "--identity", "\u{1b}[31m"]));
    let mut all = String::new();
    for output in outputs {
        all.push_str(&(text(&output.stdout) + &text(&output.stderr)));
    }
    assert!(!all.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{all:?}");
    assert!(all.contains("skip\\u{1b}[31m.log") && all.contains("owned"), "{all}");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let machine = Machine::new();
    for command in ["init", "backup", "list", "restore", "verify", "drill", "status", "prune", "lifecycle"] {
        let output = run(&machine, &[command, "--help"]);
        let help = text(&output.stdout);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
        for word in ["Examples:", "Exit codes: 0 done", &format!("  lifeboat {command}"), "--json", "--config"] {
            assert!(help.contains(word), "{command}: {word}\n{help}");
        }
    }
    assert!(text(&run(&machine, &["--help"]).stdout).contains("130 interrupted"));
    assert!(text(&run(&machine, &["--version"]).stdout).starts_with("lifeboat 0."));
    assert_eq!(run(&machine, &[]).status.code(), Some(2));
    assert!(machine.all_files().is_empty());
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let machine = machine();
    machine.backup();
    let mut child = machine.program(&["list"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn looking_from_the_command_line() {
    let machine = machine();
    machine.backup();
    let kit = ["--identity", "home/lifeboat-key.txt"];
    let run = |args: &[&str]| run(&machine, &[args, &kit[..]].concat());
    let notes = "home/agent/notes.md";
    assert_eq!(run(&["cat", "latest", notes]).stdout, b"remember this");
    let tar = run(&["dump", "latest", notes]).stdout;
    assert!(tar.len() >= 2048 && tar.len() % 512 == 0);
    for args in
        [&["ls"][..], &["find", "*.md"], &["find", "--all", "*.md"], &["diff", "latest", "latest"], &["log", notes]]
    {
        let output = run(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(object.is_object() && text(&output.stdout).lines().count() == 1, "{args:?}");
        assert!(!text(&output.stdout).contains(".env"), "{args:?}");
    }
    assert!(fails(&machine, 10, &[&["ls", "latest", "home/agent/.env"], &kit[..]].concat()).contains("--secrets"));
    assert_eq!(run(&["cat", "latest", "home/agent/.env", "--secrets"]).stdout, b"KEY=fake");
    // Bytes cannot be told as JSON.
    assert_eq!(run(&["cat", "latest", notes, "--json"]).status.code(), Some(2));
    // Old scripts have the snapshot behind a plain --overwrite.
    machine.write("agent/notes.md", "forget this");
    assert_eq!(run(&["restore", "--overwrite=never", "latest"]).status.code(), Some(0));
    assert_eq!(std::fs::read(machine.home("agent/notes.md")).unwrap(), b"forget this");
    assert_eq!(run(&["restore", "--overwrite", "latest"]).status.code(), Some(0));
    assert_eq!(std::fs::read(machine.home("agent/notes.md")).unwrap(), b"remember this");
    for command in ["ls", "cat", "dump", "find", "diff", "log"] {
        let help = text(&run(&[command, "--help"]).stdout);
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
}

/// Waits for something, then interrupts the program and gives its exit code.
fn interrupt(mut child: Child, ready: impl Fn() -> bool) -> Option<i32> {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < PATIENCE, "it never got there");
        assert!(child.try_wait().unwrap().is_none(), "it was done before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    child.wait().unwrap().code()
}

/// A machine with so much to back up that there is time to interrupt it.
fn large() -> Machine {
    let machine = machine();
    let mut noise = vec![0; 24 << 20];
    for n in 0..4 {
        blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut noise);
        machine.write(&format!("agent/noise-{n}"), &noise);
    }
    machine
}

#[test]
fn interrupted_a_backup_leaves_nothing_that_counts() {
    let machine = large();
    let child = machine.program(&["backup", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let volume = |m: &Machine| {
        let mut pending = vec![m.store().join("state")];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_name() == "000000.tar.zst.age" {
                    return true;
                }
                if entry.path().is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        false
    };
    assert_eq!(interrupt(child, || volume(&machine)), Some(130));
    let statuses: Vec<_> = machine.list().snapshots.iter().map(|s| (s.archive, s.status)).collect();
    assert_eq!(statuses.iter().filter(|s| **s == ("state", "incomplete")).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|s| **s == ("state", "ok")).count(), 0);
    assert_eq!(std::fs::read_dir(machine.world.state_dir("testhost").join("pending")).unwrap().count(), 0);
    assert!(!machine.world.state_dir("testhost").join("staging").exists());
    // The next run goes on as if nothing had been.
    assert_eq!(run(&machine, &["backup", "-q"]).status.code(), Some(0));
    machine.restore(&machine.target("t"));
}

#[test]
fn interrupted_a_restore_leaves_no_staging() {
    let machine = large();
    machine.backup();
    let target = machine.target("t");
    let args = ["restore", "--identity", "home/lifeboat-key.txt", "--target", "t"];
    let mut child = machine.program(&args).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let staged = || std::fs::read_dir(&target).is_ok_and(|d| d.count() > 0);
    assert_eq!(interrupt(child, staged), Some(130));
    let said: Vec<String> = BufReader::new(stderr).lines().map(|l| l.unwrap()).collect();
    assert_eq!(said, ["error: interrupted"]);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    assert_eq!(run(&machine, &args).status.code(), Some(0));
    assert!(target.join("home/agent/noise-3").exists());
}

#[test]
fn a_killed_restore_is_tidied_up_by_the_next() {
    let machine = large();
    machine.backup();
    let target = machine.target("t");
    let args = ["restore", "--identity", "home/lifeboat-key.txt", "--target", "t"];
    let mut child = machine.program(&args).spawn().unwrap();
    let begun = Instant::now();
    while !std::fs::read_dir(&target).is_ok_and(|d| d.count() > 0) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(run(&machine, &args).status.code(), Some(0));
    let names: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["home"]);
}

/// What a killed restore had finished is taken over; what only looks like it is not, and no link is followed.
#[test]
fn a_killed_restore_is_gone_on_with() {
    use lifeboat::commands::restore;
    let mut machine = large();
    machine.write("agent/d/inside", "inside");
    machine.backup();
    let whole = machine.target("whole");
    machine.restore(&whole);
    let (target, outside) = (machine.target("t"), machine.target("outside"));
    let dead = target.join(".lifeboat-restore-0badcafe");
    let agent = dead.join("home/agent");
    std::fs::create_dir_all(&agent).unwrap();
    std::fs::set_permissions(&dead, std::fs::Permissions::from_mode(0o700)).unwrap();
    let names: Vec<_> = std::fs::read_dir(whole.join("home/agent")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let mut noise: Vec<_> = names.iter().filter(|n| n.to_str().unwrap().starts_with("noise-")).collect();
    noise.sort();
    for name in &noise {
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(whole.join("home/agent").join(name))
                .arg(&agent)
                .status()
                .unwrap()
                .success()
        );
    }
    // One that was cut off by a crash, with its time, and a directory that is a link.
    let torn = agent.join(noise[0]);
    let (time, length) = (torn.metadata().unwrap().modified().unwrap(), torn.metadata().unwrap().len());
    let file = std::fs::File::create(&torn).unwrap();
    file.set_len(length).unwrap();
    file.set_modified(time).unwrap();
    assert!(Command::new("cp").arg("-a").arg(whole.join("home/agent/d")).arg(&outside).status().unwrap().success());
    std::os::unix::fs::symlink(&outside, agent.join("d")).unwrap();
    let stored: u64 = machine.list().snapshots.iter().map(|r| r.stored).sum();
    let args = restore::Args { identity: Some(machine.kit()), target: Some(target.clone()), ..Default::default() };
    let (read, _) = crate::look::read_by(&mut machine, |m| {
        restore::run(&m.world, &args, &mut |_| {}).unwrap();
    });
    assert!(read > 0 && read < stored / 2, "{read} of {stored}");
    for name in noise {
        let read = |dir: &std::path::Path| std::fs::read(dir.join("home/agent").join(name)).unwrap();
        assert!(read(&whole) == read(&target), "{}", name.display());
    }
    assert_eq!(std::fs::read(outside.join("inside")).unwrap(), b"inside");
    assert_eq!(std::fs::read(target.join("home/agent/d/inside")).unwrap(), b"inside");
    assert!(!dead.exists());
}
