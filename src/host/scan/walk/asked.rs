//! What is asked of the disk about an entry besides its `stat`.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Stat, statat};

use crate::host::{at, source};
use crate::model::database::SIDECARS;

/// What something is that is never backed up.
pub(super) fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something that is neither file, directory nor link",
    }
}

/// Whether another machine, or a program, may set the times of what is at `name`.
pub(super) fn is_remote(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    {
        // NFS, CIFS, SMB 2, SMB, FUSE, 9P, Ceph, AFS, Coda: statfs(2).
        const REMOTE: [u32; 9] =
            [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x517b, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f, 0x7375_7245];
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())
            .and_then(rustix::fs::fstatfs)
            .is_ok_and(|fs| REMOTE.iter().any(|magic| u64::try_from(fs.f_type) == Ok(u64::from(*magic))))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (BorrowedFd<'_>, &[u8]) = (dir, name);
        false
    }
}

/// Whether something is mounted on the directory `name`, even from the same device.
pub(super) fn is_mount(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{StatxAttributes, StatxFlags, statx};
        statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()).is_ok_and(|s| {
            let known = StatxAttributes::from_bits_retain(s.stx_attributes_mask.bits());
            let set = StatxAttributes::from_bits_retain(s.stx_attributes.bits());
            known.contains(StatxAttributes::MOUNT_ROOT) && set.contains(StatxAttributes::MOUNT_ROOT)
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (BorrowedFd<'_>, &[u8]) = (dir, name);
        false
    }
}

/// Which of `names` are the sidecars of a database beside them: those are read through SQLite, never by themselves.
pub(super) fn sidecars<'n>(dir: BorrowedFd<'_>, names: &'n [Vec<u8>]) -> HashSet<&'n [u8]> {
    let mut out = HashSet::new();
    for name in names {
        let Some(base) = SIDECARS.iter().find_map(|s| name.strip_suffix(*s)).filter(|b| !b.is_empty()) else {
            continue;
        };
        if is_database(dir, base) {
            out.insert(&name[..]);
        }
    }
    out
}

fn is_database(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    // Looked at first: to open a device may do something.
    let is_file = |s: Stat| FileType::from_raw_mode(s.st_mode).is_file();
    if !statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_file) {
        return false;
    }
    let Ok(fd) = at::open_file(dir, name) else { return false };
    let regular = rustix::fs::fstat(&fd).is_ok_and(is_file);
    regular && source::is_database(&fd)
}
