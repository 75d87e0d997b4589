//! A machine of its own for each test: home, store, clock, and commands run in process.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lifeboat::Error;
use lifeboat::commands::look::Place;
use lifeboat::commands::reading::Where;
use lifeboat::commands::{Event, backup, dump, init, list, restore};
use lifeboat::host::world::World;

/// A user and group without privileges.
const NOBODY: u32 = 65_534;

/// The clock of every new machine: 2026-11-21T20:15:00Z.
pub const NOW: i64 = 1_795_292_100;

/// A machine. Its directory goes away with it.
pub struct Machine {
    dir: tempfile::TempDir,
    /// What commands see.
    pub world: World,
}

impl Machine {
    /// A machine with an empty home, and no configuration.
    pub fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let home = root.join("home");
        std::fs::create_dir(&home).unwrap();
        let env = HashMap::from([(OsString::from("HOME"), home.clone().into_os_string())]);
        let stop = Arc::new(AtomicBool::new(false));
        let world = World {
            env,
            home,
            host_name: "testhost".to_owned(),
            fixed_now: Some(NOW),
            stop,
            terminal: false,
            wrap_store: None,
        };
        Machine { dir, world }
    }

    /// The machine's own directory; the home is `home` in it.
    pub fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    /// A path in the home.
    pub fn home(&self, path: &str) -> PathBuf {
        self.world.home.join(path)
    }

    /// Writes a file in the home, and the directories above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The default store.
    pub fn store(&self) -> PathBuf {
        self.world.default_store()
    }

    /// The default kit.
    pub fn kit(&self) -> PathBuf {
        self.world.default_kit()
    }

    /// `lifeboat init` with these sources and no keyring.
    pub fn init(&self, sources: &[&str]) -> init::Done {
        let sources = sources.iter().map(|s| self.home(s)).collect();
        let args = init::Args { sources, sealed: true, ..init::Args::default() };
        init::run(&self.world, &args, &mut |_| {}).unwrap()
    }

    /// `lifeboat backup`.
    pub fn backup(&self) -> backup::Done {
        self.try_backup().unwrap()
    }

    /// `lifeboat backup`, which may fail.
    pub fn try_backup(&self) -> Result<backup::Done, Error> {
        backup::run(&self.world, &backup::Args::default(), &mut |_| {})
    }

    /// `lifeboat list`, with the kit.
    pub fn list(&self) -> list::Listing {
        let args = list::Args { identity: Some(self.kit()), ..list::Args::default() };
        list::run(&self.world, &args, &mut |_| {}).unwrap()
    }

    /// `lifeboat restore --identity KIT --target DIR`.
    pub fn restore(&self, target: &Path) -> restore::Done {
        self.try_restore(target, |_| {}).unwrap().0
    }

    /// The same with other arguments; also what it said meanwhile.
    pub fn try_restore(
        &self,
        target: &Path,
        change: impl FnOnce(&mut restore::Args),
    ) -> Result<(restore::Done, Vec<Event>), Error> {
        let identity = Some(self.kit());
        let mut args = restore::Args { identity, target: Some(target.to_owned()), ..restore::Args::default() };
        change(&mut args);
        let mut events = Vec::new();
        let done = restore::run(&self.world, &args, &mut |e| events.push(e))?;
        Ok((done, events))
    }

    /// Where commands look that look into snapshots: with the kit.
    pub fn place(&self) -> Place {
        Place { at: Where { identity: Some(self.kit()), ..Where::default() }, secrets: false }
    }

    /// `lifeboat dump` of the state of a snapshot.
    pub fn dump(&self, snapshot: &str) -> Result<Vec<u8>, Error> {
        let args = dump::Args { place: self.place(), snapshot: snapshot.to_owned(), path: None };
        let mut out = Vec::new();
        dump::run(&self.world, &args, &mut out, &mut |_| {})?;
        Ok(out)
    }

    /// Every file of the machine with its content, links and specials left out.
    pub fn all_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut out, mut pending) = (Vec::new(), vec![self.root()]);
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap() {
                    t if t.is_dir() => pending.push(entry.path()),
                    t if t.is_file() => out.push((entry.path(), std::fs::read(entry.path()).unwrap())),
                    _ => {}
                }
            }
        }
        out
    }

    /// Edits the configuration.
    pub fn configure(&self, edit: impl FnOnce(String) -> String) {
        let file = self.world.config_file();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, edit(text)).unwrap();
    }

    /// The real program on this machine: nothing of the environment but its home.
    pub fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(args).env_clear().env("HOME", &self.world.home).current_dir(self.root()).stdin(Stdio::null());
        command
    }

    /// The same as a user without privileges, who then owns all of this machine: root reads what nobody may read.
    pub fn program_unprivileged(&self, args: &[&str]) -> Command {
        use std::os::unix::process::CommandExt as _;
        if !rustix::process::geteuid().is_root() {
            return self.program(args);
        }
        // The build may lie where only root can go.
        let copy = self.root().join("lifeboat");
        if !copy.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &copy).unwrap();
        }
        let owner = format!("{NOBODY}:{NOBODY}");
        assert!(Command::new("chown").arg("-Rh").arg(owner).arg(self.root()).status().unwrap().success());
        let mut command = Command::new(copy);
        command.args(args).env_clear().env("HOME", &self.world.home).current_dir(self.root()).stdin(Stdio::null());
        command.uid(NOBODY).gid(NOBODY);
        command
    }

    /// A directory that is not there yet.
    pub fn target(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }
}

/// Makes directories below `dir` until their path has more than `bytes` bytes, and opens the last.
pub fn deep_dir(dir: &Path, bytes: usize) -> std::os::fd::OwnedFd {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = open(dir, flags, Mode::empty()).unwrap();
    let name = "d".repeat(200);
    for _ in 0..bytes / name.len() {
        mkdirat(&here, &name[..], Mode::RWXU).unwrap();
        here = openat(&here, &name[..], flags, Mode::empty()).unwrap();
    }
    here
}
