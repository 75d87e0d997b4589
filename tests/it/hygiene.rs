//! Every command of the real program, at `-v` and as JSON, with canaries wherever a secret can stand: none of them is in
//! what it says, in what it writes anywhere, or in the environment of what it starts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::secrets::holds;
use crate::world::Machine;

/// The value of a secret.
const VALUE: &str = "PLANTED-VALUE-9e40c7d2";
/// The value of it after it was changed.
const CHANGED: &str = "PLANTED-VALUE-c51b88f0";
const PASSPHRASE: &str = "PLANTED-passphrase-77";
const CLOUD: &str = "PLANTED-cloud-key-1234";
const HOOK: &str = "PLANTED-hook-token-88";
const GRUMBLE: &str = "PLANTED-said-by-a-command";

struct Host {
    machine: Machine,
    /// What must be nowhere.
    canaries: BTreeSet<String>,
    /// Where a secret belongs.
    allowed: Vec<PathBuf>,
}

impl Host {
    fn new() -> Host {
        let machine = Machine::new();
        machine.write("agent/notes.md", format!("a leak: {VALUE}"));
        machine.write("agent/.env", format!("SERVICE_PASSWORD={VALUE}\n"));
        std::fs::create_dir(machine.root().join("tmp")).unwrap();
        let allowed = vec![
            machine.home("agent"),
            machine.kit(),
            machine.world.config_file().with_file_name("signing.key"),
            // Hook and command stand in it as a person wrote them.
            machine.world.config_file(),
        ];
        let canaries = [VALUE, CHANGED, PASSPHRASE, CLOUD, HOOK, GRUMBLE].map(str::to_owned).into();
        Host { machine, canaries, allowed }
    }

    fn path(&self, name: &str) -> String {
        self.machine.root().join(name).display().to_string()
    }

    /// Runs the program, and looks at what it said and wrote.
    fn output(&mut self, args: &[&str]) -> Output {
        let mut command = self.machine.program(args);
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", self.path("tmp"));
        command.env("LIFEBOAT_PASSPHRASE", PASSPHRASE).env("AWS_SECRET_ACCESS_KEY", CLOUD);
        let output = command.output().unwrap();
        self.learn();
        self.look(args, "stderr", &output.stderr);
        for (path, bytes) in self.machine.all_files() {
            if !self.allowed.iter().any(|allowed| path.starts_with(allowed)) {
                self.look(args, &path.display().to_string(), &bytes);
            }
        }
        output
    }

    /// The same at `-v` and as JSON, where nothing of it belongs on stdout either.
    fn run(&mut self, code: i32, args: &[&str]) {
        for how in ["-v", "--json"] {
            let output = self.output(&[args, &[how]].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            self.look(args, "stdout", &output.stdout);
        }
    }

    /// Every key that was made since is a canary, too.
    fn learn(&mut self) {
        for file in &self.allowed {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let words = text.split_whitespace().filter(|w| w.starts_with("AGE-SECRET-KEY-1") || w.len() > 150);
            self.canaries.extend(words.map(str::to_owned));
        }
    }

    fn look(&self, args: &[&str], at: &str, bytes: &[u8]) {
        for canary in &self.canaries {
            assert!(!holds(bytes, canary), "{args:?}: a secret ({}…) is in {at}", &canary[..18]);
        }
    }
}

fn kit_of(host: &mut Host, name: &str) -> String {
    let path = host.path(name);
    host.allowed.push(PathBuf::from(&path));
    path
}

#[test]
fn no_command_tells_a_secret() {
    let mut host = Host::new();
    let agent = host.machine.home("agent").display().to_string();
    let kit = host.machine.kit().display().to_string();
    host.run(0, &["init", "--sealed", "--source", &agent]);
    assert!(host.canaries.len() >= 9, "{}", host.canaries.len());
    // What a hook and an identity command get to see is written where this test looks.
    let (hook, command, copy) = (host.path("hook-saw"), host.path("command-saw"), host.path("copy"));
    std::fs::create_dir(&copy).unwrap();
    host.machine.configure(|text| {
        let hooks = format!("\n[hooks]\nsuccess = [\"env >{hook}; echo {HOOK}\"]\n");
        text + &hooks
    });
    host.run(0, &["backup", "--dry-run"]);
    host.run(0, &["backup"]);
    host.machine.write("agent/.env", format!("SERVICE_PASSWORD={CHANGED}\n"));
    host.run(0, &["backup", "--accept-policy", "--rehash"]);
    assert!(Path::new(&hook).exists());
    // A command that fails after it said a secret, and one that works. Why it failed is told: its last words on stderr.
    let setting = |text: String, identity: &str| {
        let lines = text
            .lines()
            .map(|l| if l.starts_with("identity") { format!("identity = '{identity}'") } else { l.to_owned() });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    };
    host.machine.configure(|text| setting(text, &format!("command:echo {GRUMBLE}; echo sign in first >&2; exit 3")));
    for args in [&["keys", "show"][..], &["list"]] {
        let output = host.output(&[args, &["-v"]].concat());
        host.look(args, "stdout", &output.stdout);
    }
    host.machine.configure(|text| {
        setting(text, &format!("command:env | grep -v AWS_ >{command}; echo {GRUMBLE} >&2; cat {kit}"))
    });
    for args in [
        &["keys", "show"][..],
        &["list"],
        &["ls"],
        &["ls", "latest", "--secrets"],
        &["find", "*.md"],
        &["find", "--all", "notes.md"],
        &["diff", "1 hour ago", "latest"],
        &["log", "~/agent/notes.md"],
        &["secrets", "list"],
        &["secrets", "diff", "1 minute ago"],
        &["secrets", "leaks"],
        &["secrets", "exposure", "SERVICE_PASSWORD"],
        &["verify"],
        &["status"],
        &["prune"],
        &["accept"],
        &["pin", "latest"],
        &["unpin", "latest"],
        &["copy", "--to", &copy],
        &["keys", "set-credential", "AWS_SECRET_ACCESS_KEY"],
        &["lifecycle", "print", "--for", "s3"],
        &["doctor"],
        &["doctor", "--attack"],
        &["drill"],
        &["keys", "check", &kit],
        &["keys", "check", "/nowhere"],
    ] {
        // Whatever comes of it here.
        for how in ["-v", "--json"] {
            let output = host.output(&[args, &[how]].concat());
            host.look(args, "stdout", &output.stdout);
            assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{args:?}");
        }
    }
    assert!(Path::new(&command).exists());
    // What is asked for is printed to a pipe, and stands nowhere else.
    for args in [
        &["secrets", "get", "SERVICE_PASSWORD"][..],
        &["secrets", "env"],
        &["cat", "latest", "~/agent/.env", "--secrets"],
    ] {
        let output = host.output(&[args, &["-v"]].concat());
        assert!(output.status.success() && holds(&output.stdout, CHANGED), "{args:?}");
    }
    // Restored files are where secrets belong; what is said of them is not.
    let target = kit_of(&mut host, "restored");
    host.run(0, &["restore", "--target", &target]);
    host.run(0, &["restore", "--identity", &kit, "--target", &target, "--dry-run"]);
    // Kits and keys, new ones among them, under a passphrase and without.
    let (second, third, fourth) = (kit_of(&mut host, "2.txt"), kit_of(&mut host, "3.txt"), host.path("4.txt"));
    let rotate = ["keys", "rotate", "--kit", &second, "-v"];
    assert_eq!(host.output(&rotate).status.code(), Some(0));
    let rotate = ["keys", "rotate", "--signing", "--secrets", "--identity", &second, "--kit", &third, "-v"];
    let output = host.output(&rotate);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    host.look(&rotate, "stdout", &output.stdout);
    let export = ["keys", "export-kit", &fourth, "--identity", &third, "--passphrase", "-v"];
    assert_eq!(host.output(&export).status.code(), Some(0));
    host.run(0, &["keys", "check", &fourth]);
    host.run(1, &["keys", "export-kit", &fourth, "--identity", &third]);
    // A key file that is damaged is not quoted.
    let text = std::fs::read_to_string(&third).unwrap();
    let broken = kit_of(&mut host, "broken.txt");
    let never = host.path("never");
    for (from, to) in [("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1Q"), ("signing-public: RW", "signing-public: Rw")] {
        std::fs::write(&broken, text.replace(from, to)).unwrap();
        std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for args in [&["keys", "check", &broken][..], &["restore", "--identity", &broken, "--target", &never]] {
            let output = host.output(&[args, &["-v"]].concat());
            assert_ne!(output.status.code(), Some(0), "{args:?}");
            host.look(args, "stdout", &output.stdout);
        }
    }
}

/// The memory of a program that holds keys is in no core dump, and not another program's of the same user to read.
#[test]
#[cfg(target_os = "linux")]
fn its_memory_is_nobodys_to_read() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "x");
    machine.init(&["agent"]);
    let (seen, kit) = (machine.root().join("seen"), machine.kit());
    let look = format!("(ulimit -Hc; stat -c %u /proc/$PPID/environ) >{}", seen.display());
    machine.configure(|text| text.replace("\"none\"", &format!("'command:{look}; cat {}'", kit.display())));
    let mut command = machine.program_unprivileged(&["keys", "show"]);
    let output = command.env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // No limit above 0, and what is below /proc is root's.
    assert_eq!(std::fs::read_to_string(seen).unwrap(), "0\n0\n");
}
