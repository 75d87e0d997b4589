//! Hooks around a backup: called when they should be, with nothing that is secret, and without an effect on it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Output;

use crate::world::Machine;

/// A machine whose hooks write what they know to a file each.
fn machine(hooks: &str) -> Machine {
    let machine = Machine::new();
    machine.write("agent/notes.md", "one");
    machine.init(&["agent"]);
    machine.configure(|text| format!("{text}\n[hooks]\n{hooks}\n"));
    machine
}

fn backup(machine: &Machine) -> Output {
    let mut command = machine.program(&["backup"]);
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("AWS_SECRET_ACCESS_KEY", "fake-0000").output().unwrap()
}

fn said(machine: &Machine, name: &str) -> Option<String> {
    std::fs::read_to_string(machine.root().join(name)).ok()
}

#[test]
fn start_and_end_are_told_with_the_exit_code_and_nothing_else() {
    let root = "{ROOT}";
    let hooks = ["start", "success", "incomplete", "failure"]
        .map(|moment| format!("{moment} = [\"env > {root}/{moment}; echo fake-1111\"]"))
        .join("\n");
    let machine = machine("");
    let hooks = hooks.replace(root, machine.root().to_str().unwrap());
    machine.configure(|text| format!("{text}{hooks}\n"));
    let out = backup(&machine);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let start = said(&machine, "start").unwrap();
    assert!(start.contains("LIFEBOAT_EVENT=start\n") && start.contains("LIFEBOAT_SERIES=testhost\n"), "{start}");
    assert!(!start.contains("EXIT_CODE") && !start.contains("fake-0000"), "{start}");
    assert!(said(&machine, "success").unwrap().contains("LIFEBOAT_EXIT_CODE=0\n"));
    assert!(said(&machine, "incomplete").is_none() && said(&machine, "failure").is_none());
    // What a hook prints is seen nowhere.
    assert!(!String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).contains("fake-1111"));

    std::fs::rename(machine.store(), machine.root().join("away")).unwrap();
    assert_eq!(backup(&machine).status.code(), Some(10));
    assert!(said(&machine, "failure").unwrap().contains("LIFEBOAT_EXIT_CODE=10\n"));
}

#[test]
fn a_hook_that_hangs_or_fails_changes_nothing() {
    let machine =
        machine("start = [\"sleep 600 & sleep 600; echo token-2222\"]\nsuccess = [\"exit 7\"]\ndeadline = \"1s\"");
    let out = backup(&machine);
    assert_eq!(out.status.code(), Some(0));
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("hook 1 of `start`: it was not done within 1 s, and was ended"), "{text}");
    assert!(text.contains("hook 1 of `success`: it failed (exit status: 7)"), "{text}");
    assert!(!text.contains("token-2222"), "{text}");
    assert_eq!(machine.list().snapshots.len(), 1);
}

#[test]
fn a_dry_run_tells_nobody() {
    let machine = machine("");
    let file = machine.root().join("told");
    machine.configure(|text| format!("{text}start = [\"touch {}\"]\n", file.display()));
    let out =
        machine.program(&["backup", "--dry-run"]).env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(!file.exists());
}

#[test]
fn a_check_is_pinged() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let machine = machine(&format!("ping = \"http://{address}/uuid\""));
    let server = std::thread::spawn(move || {
        (0..2)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
                line
            })
            .collect::<Vec<_>>()
    });
    let out = backup(&machine);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(0) && !text.contains("hook"), "{text}");
    assert_eq!(server.join().unwrap(), ["GET /uuid/start HTTP/1.1\r\n", "GET /uuid HTTP/1.1\r\n"]);
}
