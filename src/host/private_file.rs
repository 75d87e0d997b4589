//! Files that hold keys: read only if nobody else can, written so that nobody else can.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::error::{At, Error, Result};
use crate::model::path::printable_path;

/// The largest key file, in bytes; a kit has a few thousand.
pub const KEY_FILE_BYTES_MAX: usize = 1 << 20;

/// The first size of a reading buffer, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Reads a file that holds keys.
///
/// # Errors
/// [`Kind::NotThere`](crate::Kind::NotThere) if it is missing; otherwise if others have access to it, it is not a
/// regular file, or larger than [`KEY_FILE_BYTES_MAX`].
pub fn read_private_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let file = open_regular(path)?;
    let mode = file.metadata().at("examine", path)?.mode();
    if mode & 0o077 != 0 {
        let name = printable_path(path);
        return Err(Error::failed(format!("{name} holds keys and is open to others (mode {:04o})", mode & 0o7777))
            .hint(format!("run: chmod 600 {}", quoted(path))));
    }
    read_all(file, path)
}

/// [`read_private_file`] where somebody else answers for the permissions, as systemd does for its credentials: it
/// grants access by an ACL, which looks like a file that its group can read.
pub(crate) fn read_granted_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    read_all(open_regular(path)?, path)
}

/// Reads a small file that is no secret, such as a public key.
///
/// # Errors
/// As [`read_private_file`], but for the mode.
pub fn read_small_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    read_all(open_regular(path)?, path)
}

/// Writes a new file that only its owner can read, and makes it durable. It never replaces a file.
///
/// # Errors
/// If the file exists, its directory is missing, or it cannot be written; nothing is left behind then.
pub fn write_private_file(path: &Path, text: &SecretString) -> Result<()> {
    let name = printable_path(path);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Error::failed(format!("{name} exists already, and key files are not replaced"))
                .hint("move it to a safe place, or name another file"),
            ErrorKind::NotFound => Error::not_there(format!("cannot create {name}: its directory is missing")),
            _ => Error::failed(format!("cannot create {name}")).because(e),
        })?;
    let written = file.write_all(text.expose_secret().as_bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // Half a key file would be mistaken for one; the first error is the one that counts.
        std::fs::remove_file(path).ok();
        return Err(e).at("write", path);
    }
    sync(parent_of(path))
}

/// The same with the content whole or not there at all, whenever the machine stops: for what another run goes on with.
///
/// # Errors
/// As [`write_private_file`].
pub fn write_private_file_at_once(path: &Path, text: &SecretString) -> Result<()> {
    let parent = parent_of(path);
    let mut file = tempfile::Builder::new().prefix(".lifeboat-").tempfile_in(parent).at("write in", parent)?;
    file.write_all(text.expose_secret().as_bytes()).and_then(|()| file.as_file().sync_all()).at("write", path)?;
    file.persist_noclobber(path).map_err(|e| e.error).at("write", path)?;
    sync(parent).inspect_err(|_| {
        // What may not last is taken back, so that nobody goes on with it who was told that there is nothing.
        std::fs::remove_file(path).ok();
    })
}

/// Puts one private file in the place of another, durably.
///
/// # Errors
/// If it cannot be renamed.
pub fn replace_private_file(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).at("replace", to)?;
    sync(parent_of(to))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."))
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).at("make durable", dir)
}

/// Opens without waiting, since opening a pipe would wait for its other end.
fn open_regular(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| {
        let e = std::io::Error::from(e);
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Error::not_there(format!("there is no key file {}", printable_path(path)))
            }
            _ => Error::failed(format!("cannot open {}", printable_path(path))).because(e),
        }
    })?;
    let file = File::from(file);
    if !file.metadata().at("examine", path)?.is_file() {
        let name = printable_path(path);
        return Err(Error::failed(format!("{name} is not a regular file"))
            .hint("to pass an identity without a file, put its text into LIFEBOAT_IDENTITY"));
    }
    Ok(file)
}

fn read_all(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = read_capped(file, KEY_FILE_BYTES_MAX).at("read", path)?;
    bytes.ok_or_else(|| Error::failed(format!("{} is too large to be a key file", printable_path(path))))
}

/// Reads to the end, or `None` if that is beyond `max` bytes. No unwiped copy is left where the buffer grew.
pub(crate) fn read_capped(mut from: impl Read, max: usize) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(vec![0; BUFFER_BYTES]);
    let mut length = 0;
    loop {
        if length == bytes.len() {
            let mut larger = Zeroizing::new(vec![0; length * 2]);
            larger[..length].copy_from_slice(&bytes);
            bytes = larger;
        }
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if length > max {
            return Ok(None);
        }
    }
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = printable_path(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%,:=".contains(c);
    if text.chars().all(plain) && !text.starts_with('-') {
        return text;
    }
    let dashes = if text.starts_with('-') { "-- " } else { "" };
    format!("{dashes}'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::error::Kind;

    fn refusal(path: &Path) -> Error {
        read_private_file(path).unwrap_err()
    }

    #[test]
    fn what_is_written_is_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private_file(&path, &"secret\n".into()).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(**read_private_file(&path).unwrap(), *b"secret\n");
    }

    #[test]
    fn nothing_is_ever_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private_file(&path, &"one".into()).unwrap();
        let error = write_private_file(&path, &"two".into()).unwrap_err();
        assert!(error.to_string().contains("exists already"));
        assert_eq!(**read_private_file(&path).unwrap(), *b"one");
        let dangling = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &dangling).unwrap();
        assert!(write_private_file(&dangling, &"two".into()).is_err());
        assert!(!dir.path().join("elsewhere").exists());
        let error = write_private_file(&dir.path().join("no/key"), &"x".into()).unwrap_err();
        assert_eq!(error.kind(), Kind::NotThere);
    }

    #[test]
    fn what_is_written_at_once_is_private_and_replaces_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let (path, next) = (dir.path().join("key"), dir.path().join("next"));
        write_private_file_at_once(&path, &"one".into()).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert!(write_private_file_at_once(&path, &"two".into()).is_err());
        assert_eq!(**read_private_file(&path).unwrap(), *b"one");
        write_private_file_at_once(&next, &"two".into()).unwrap();
        replace_private_file(&next, &path).unwrap();
        assert_eq!(**read_private_file(&path).unwrap(), *b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_open_to_others_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my key's file");
        write_private_file(&path, &"x".into()).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = refusal(&path);
            assert_eq!(error.kind(), Kind::Failed);
            let quoted = format!("'{}/my key'\\''s file'", dir.path().display());
            assert_eq!(error.advice().unwrap(), format!("run: chmod 600 {quoted}"));
        }
        assert_eq!(**read_granted_file(&path).unwrap(), *b"x");
        assert_eq!(quoted(Path::new("/home/a/k.txt")), "/home/a/k.txt");
        assert_eq!(quoted(Path::new("-k")), "-- '-k'");
    }

    #[test]
    fn only_regular_files_of_modest_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(refusal(&dir.path().join("missing")).kind(), Kind::NotThere);
        assert!(refusal(dir.path()).to_string().contains("not a regular file"));
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(refusal(&fifo).to_string().contains("not a regular file"));
        assert!(refusal(Path::new("/dev/null")).to_string().contains("not a regular file"));

        let path = dir.path().join("large");
        write_private_file(&path, &"x".repeat(KEY_FILE_BYTES_MAX).into()).unwrap();
        assert_eq!(read_private_file(&path).unwrap().len(), KEY_FILE_BYTES_MAX);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        assert!(refusal(&path).to_string().contains("too large"));
    }
}
