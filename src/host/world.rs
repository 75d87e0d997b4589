//! What a command may ask of the machine it runs on: environment, clock, directories, a wish to stop.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use object_store::ObjectStore;

use crate::error::{At as _, Error, Result};

/// Variables that hold what opens backups. No process that is started gets them.
pub(crate) const KEY_VARIABLES: [&str; 2] = ["LIFEBOAT_IDENTITY", "LIFEBOAT_PASSPHRASE"];

/// Wraps a store, for tests that make its Nth operation fail.
pub type Wrapper = Arc<dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync>;

/// The machine as commands see it. Tests make their own.
#[derive(Clone)]
pub struct World {
    /// Environment variables.
    pub env: HashMap<OsString, OsString>,
    /// The user's home directory, without symbolic links.
    pub home: PathBuf,
    /// The name of the machine.
    pub host_name: String,
    /// A fixed clock in Unix seconds, for tests.
    pub fixed_now: Option<i64>,
    /// Set by a signal.
    pub stop: Arc<AtomicBool>,
    /// Whether a person can be asked and shown progress.
    pub terminal: bool,
    /// Put between lifeboat and the store, for tests.
    pub wrap_store: Option<Wrapper>,
}

impl World {
    /// The real machine.
    ///
    /// # Errors
    /// When there is no usable home directory.
    pub fn real(stop: Arc<AtomicBool>) -> Result<World> {
        let env: HashMap<OsString, OsString> = std::env::vars_os().collect();
        let home = match env.get(OsStr::new("HOME")).filter(|h| !h.is_empty()) {
            Some(home) => PathBuf::from(home),
            None => nix::unistd::User::from_uid(nix::unistd::geteuid())
                .ok()
                .flatten()
                .map(|user| user.dir)
                .ok_or_else(|| Error::failed("there is no home directory").hint("set HOME"))?,
        };
        let home = std::fs::canonicalize(&home).at("find the home directory", &home)?;
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Ok(World { env, home, host_name, fixed_now: None, stop, terminal, wrap_store: None })
    }

    /// The program that runs now.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn own_program() -> Result<PathBuf> {
        std::env::current_exe().map_err(|e| Error::failed("cannot find this program's own file").because(e))
    }

    /// An environment variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.env.get(OsStr::new(name)).map(OsString::as_os_str).filter(|v| !v.is_empty())
    }

    /// The operating system: `linux`, `macos`.
    pub fn os(&self) -> &'static str {
        std::env::consts::OS
    }

    /// The program that the user's path leads to. Places that are not absolute are passed over: they mean another one in each
    /// directory.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let runs = |file: &PathBuf| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        let places = std::env::split_paths(self.var("PATH")?).filter(|place| place.is_absolute());
        places.map(|place| place.join(name)).find(runs)
    }

    /// The clock, in Unix seconds.
    pub fn now(&self) -> i64 {
        self.fixed_now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
    }

    /// Fails once a signal asked the program to stop.
    ///
    /// # Errors
    /// [`Kind::Interrupted`](crate::Kind::Interrupted).
    pub fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// Where a new configuration goes: `$LIFEBOAT_CONFIG`, else below `$XDG_CONFIG_HOME`.
    pub fn config_file(&self) -> PathBuf {
        match self.var("LIFEBOAT_CONFIG") {
            Some(file) => PathBuf::from(file),
            None => self.xdg("XDG_CONFIG_HOME", ".config").join("config.toml"),
        }
    }

    /// The configuration in force, if there is one: [`World::config_file`], else the machine's.
    pub fn existing_config_file(&self) -> Option<PathBuf> {
        let own = self.config_file();
        if own.exists() || self.var("LIFEBOAT_CONFIG").is_some() {
            return own.exists().then_some(own);
        }
        let machine = PathBuf::from("/etc/lifeboat/config.toml");
        machine.exists().then_some(machine)
    }

    /// Catalog, lock and staging of a series.
    pub fn state_dir(&self, series: &str) -> PathBuf {
        let base = match self.var("LIFEBOAT_STATE_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => self.xdg("XDG_STATE_HOME", ".local/state"),
        };
        base.join(series)
    }

    /// Where a local-disk store goes when nothing is said.
    pub fn default_store(&self) -> PathBuf {
        self.xdg("XDG_DATA_HOME", ".local/share").join("store")
    }

    /// Where a recovery kit goes when nothing is said.
    pub fn default_kit(&self) -> PathBuf {
        self.home.join("lifeboat-key.txt")
    }

    fn xdg(&self, variable: &str, below_home: &str) -> PathBuf {
        // The specification says that relative paths are to be ignored.
        let base = self.var(variable).map(PathBuf::from).filter(|p| p.is_absolute());
        base.unwrap_or_else(|| self.home.join(below_home)).join("lifeboat")
    }
}

/// Makes a directory and its parents, readable by nobody else.
///
/// # Errors
/// When it cannot be made.
pub fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("make the directory", path)
}

/// Holds the lock of a series; nothing else may write its catalog or snapshots meanwhile.
pub struct Lock(std::fs::File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough while a child that was forked meanwhile still has a copy of the descriptor.
        self.0.unlock().unwrap_or(());
    }
}

impl Lock {
    /// Takes the lock in `dir`.
    ///
    /// # Errors
    /// [`Kind::Locked`](crate::Kind::Locked) when another run holds it.
    pub fn take(dir: &Path) -> Result<Lock> {
        private_dir(dir)?;
        let path = dir.join("lock");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .at("open the lock", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::new(crate::Kind::Locked, "another run of lifeboat holds the lock of this series")
                    .hint("wait until it is done; the lock goes with the process that holds it"))
            }
            Err(std::fs::TryLockError::Error(e)) => Err(e).at("lock", &path),
        }
    }
}
