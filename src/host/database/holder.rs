//! Who else has a file open.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::path::{printable, printable_path};

/// A process that has a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, for the report.
    pub name: String,
}

/// A database that may not be touched, since `holder` has it open.
pub fn in_use(path: &Path, holder: &Holder) -> Error {
    let (shown, name) = (printable_path(path), printable(holder.name.as_bytes()));
    Error::failed(format!("the database {shown} is in use by {name} (process {})", holder.pid))
        .hint("stop that program, then run the restore again; nothing was changed")
}

/// Another process that has the file at `path` open, if there is one and it can be seen: the processes of other
/// users only show themselves to root.
///
/// # Errors
/// If `path` or the list of processes cannot be read.
#[cfg(target_os = "linux")]
pub fn holder(path: &Path) -> Result<Option<Holder>> {
    use crate::error::At;
    use std::os::unix::fs::MetadataExt;

    let wanted = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.at("read", path)?,
    };
    let holds = |fds: std::fs::ReadDir| {
        fds.flatten().any(|fd| {
            // Only what has a path can be the file; sockets and pipes are not worth a look.
            std::fs::read_link(fd.path()).is_ok_and(|target| target.is_absolute())
                && std::fs::metadata(fd.path()).is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
        })
    };
    let processes = Path::new("/proc");
    for entry in std::fs::read_dir(processes).at("list", processes)?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        // A process that ended meanwhile, or that belongs to somebody else.
        let Ok(fds) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        if holds(fds) {
            let name = std::fs::read(entry.path().join("comm")).unwrap_or_default();
            let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
            return Ok(Some(Holder { pid, name }));
        }
    }
    Ok(None)
}

/// Another process that has the file at `path` open: not known on this system.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn holder(_path: &Path) -> Result<Option<Holder>> {
    Ok(None)
}
