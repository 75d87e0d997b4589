//! Owners' names and extended attributes, read and written.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Stat, XattrFlags};
use rustix::io::Errno;

use crate::model::entry::{Entry, Kind, Owner, Time, Xattr};

/// Names of users and groups, looked up once each.
#[derive(Default)]
pub struct Names {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl Names {
    /// The owner of something that belongs to `uid` and `gid`.
    pub fn owner(&mut self, uid: u32, gid: u32) -> Owner {
        let user = self
            .users
            .entry(uid)
            .or_insert_with(|| nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|u| u.name));
        let group = self
            .groups
            .entry(gid)
            .or_insert_with(|| nix::unistd::Group::from_gid(gid.into()).ok().flatten().map(|g| g.name));
        Owner { uid, gid, user: user.clone(), group: group.clone() }
    }
}

/// Numbers for the owners that a manifest records: a name that is known here wins over the number.
#[derive(Default)]
pub struct Ids {
    users: HashMap<String, Option<u32>>,
    groups: HashMap<String, Option<u32>>,
}

impl Ids {
    /// The user and group that `owner` means on this machine.
    pub fn of(&mut self, owner: &Owner) -> (u32, u32) {
        let number =
            |known: &mut HashMap<String, Option<u32>>, name: &Option<String>, find: fn(&str) -> Option<u32>| {
                let name = name.as_ref()?;
                if let Some(number) = known.get(name) {
                    return *number;
                }
                *known.entry(name.clone()).or_insert_with(|| find(name))
            };
        let user = number(&mut self.users, &owner.user, |name| {
            nix::unistd::User::from_name(name).ok().flatten().map(|u| u.uid.as_raw())
        });
        let group = number(&mut self.groups, &owner.group, |name| {
            nix::unistd::Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw())
        });
        (user.unwrap_or(owner.uid), group.unwrap_or(owner.gid))
    }
}

/// The part of an entry that `stat` tells.
pub fn entry_of(stat: &Stat, kind: Kind, names: &mut Names) -> Entry {
    Entry {
        mode: mode(stat),
        owner: names.owner(stat.st_uid, stat.st_gid),
        mtime: mtime(stat),
        size: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        ..Entry::new(kind)
    }
}

/// Permission bits of a `stat`.
pub fn mode(stat: &Stat) -> u16 {
    u16::try_from(stat.st_mode & 0o7777).expect("twelve bits")
}

/// Modification time of a `stat`.
pub fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Extended attributes, ACLs among them, through an open descriptor; sorted by name.
///
/// # Errors
/// Those of the system; a file system without them has none.
pub fn xattrs(fd: impl AsFd) -> Result<Vec<Xattr>, Errno> {
    let fd = fd.as_fd();
    let list = grow(|buf| rustix::fs::flistxattr(fd, buf))?;
    collect(&list, |name| grow(|buf| rustix::fs::fgetxattr(fd, name, buf)))
}

/// The same of a symbolic link itself.
///
/// # Errors
/// Those of the system.
pub fn link_xattrs(path: &Path) -> Result<Vec<Xattr>, Errno> {
    let list = grow(|buf| rustix::fs::llistxattr(path, buf))?;
    collect(&list, |name| grow(|buf| rustix::fs::lgetxattr(path, name, buf)))
}

fn collect(list: &[u8], get: impl Fn(&[u8]) -> Result<Vec<u8>, Errno>) -> Result<Vec<Xattr>, Errno> {
    let mut out = Vec::new();
    for name in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match get(name) {
            Ok(value) => out.push((name.to_vec(), value)),
            // Gone since the list was made, or not for this user to see.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    out.sort();
    Ok(out)
}

/// Calls with a larger buffer until the answer fits.
fn grow(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match call(&mut small) {
        Ok(n) => return Ok(small[..n].to_vec()),
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    let mut size = 4096;
    loop {
        let mut buf = vec![0; size];
        match call(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::RANGE) if size < 1 << 24 => size *= 4,
            Err(e) => return Err(e),
        }
    }
}

/// Removes an attribute through an open descriptor.
///
/// # Errors
/// Those of the system.
pub fn remove_xattr(fd: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::fremovexattr(fd, name)
}

/// Sets an attribute through an open descriptor.
///
/// # Errors
/// Those of the system.
pub fn set_xattr(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
}

/// Sets an attribute of a symbolic link itself, which has no descriptor of its own: `path` lies below `dir`.
///
/// # Errors
/// Those of the system; that it cannot be done on one without `/proc`.
pub fn set_link_xattr(dir: impl AsFd, path: &[u8], name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(&below(dir, path)[..], name, value, XattrFlags::empty())
}

/// The attributes of a symbolic link below `dir`.
///
/// # Errors
/// As [`set_link_xattr`].
pub fn link_xattrs_at(dir: impl AsFd, path: &[u8]) -> Result<Vec<Xattr>, Errno> {
    use std::os::unix::ffi::OsStrExt as _;
    link_xattrs(Path::new(std::ffi::OsStr::from_bytes(&below(dir, path))))
}

/// A path that begins at an open directory.
fn below(dir: impl AsFd, path: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd as _;
    [format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).as_bytes(), path].concat()
}
