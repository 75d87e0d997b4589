//! Files that are on no disk, as a directory: a read-only file system in user space (fuse(4)), for as long as it is wanted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};

use crate::error::{Error, Result};
use crate::model::entry::Time;
use crate::model::path::printable_path;

/// The number of something that is shown; a file keeps it whatever it is called.
pub type Node = u64;

/// The number of the directory that holds everything.
pub const ROOT: Node = 1;

/// For how long the kernel need not ask again: what is shown never changes.
const LASTS: Duration = Duration::from_secs(24 * 3600);

/// The blocks that sizes are told in, in bytes.
const BLOCK_BYTES: u32 = 512;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

/// What is told of something.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// What it is.
    pub what: What,
    /// Permission bits.
    pub mode: u16,
    /// How many names it has.
    pub names: u32,
    /// Number of its owner.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// When that last changed.
    pub mtime: Time,
}

/// The files that are shown.
pub trait Files: Send + Sync + 'static {
    /// What is told of `node`, if it is there.
    fn attributes(&self, node: Node) -> Option<Attributes>;
    /// What is called `name` in a directory.
    fn named(&self, directory: Node, name: &[u8]) -> Option<Node>;
    /// What is at a place of a directory, counted from 0, and its name.
    fn nth(&self, directory: Node, place: usize) -> Option<(Node, Vec<u8>)>;
    /// The text of a symbolic link.
    fn target(&self, node: Node) -> Vec<u8>;
    /// Extended attributes, names and values.
    fn xattrs(&self, node: Node) -> Vec<(Vec<u8>, Vec<u8>)>;
    /// Up to `length` bytes of a file from `offset` on; `None` if they cannot be had, which whoever asked is told as an
    /// input/output error.
    fn read(&self, node: Node, offset: u64, length: usize) -> Option<Vec<u8>>;
}

/// Files that are shown at a directory.
pub struct Shown(BackgroundSession);

impl Shown {
    /// Shows `files` at the directory `at`, to whoever called and to nobody else; `name` stands in the list of mounts.
    ///
    /// # Errors
    /// When the system does not let this user mount there.
    pub fn begin(files: impl Files, at: &Path, name: &str) -> Result<Shown> {
        let mut config = Config::default();
        let name = MountOption::FSName(name.to_owned());
        let kind = MountOption::Subtype("lifeboat".to_owned());
        config.mount_options = vec![name, kind, MountOption::RO, MountOption::NoDev, MountOption::NoSuid];
        let begun = fuser::Session::new(Bridge(files), at, &config).and_then(fuser::Session::spawn);
        begun.map(Shown).map_err(|e| {
            Error::failed(format!("cannot mount anything at {}", printable_path(at)))
                .because(e)
                .hint("it needs /dev/fuse and, for users other than root, fusermount3 (package fuse3)")
        })
    }

    /// Whether somebody has unmounted it.
    pub fn is_over(&self) -> bool {
        self.0.guard.is_finished()
    }

    /// Unmounts it, if nobody has.
    ///
    /// # Errors
    /// When something still uses it, or the kernel could not be talked to any more.
    pub fn end(self) -> std::io::Result<()> {
        if self.is_over() { self.0.join() } else { self.0.umount_and_join() }
    }
}

/// What the kernel asks, and the answers of [`Files`].
struct Bridge<F>(F);

impl<F: Files> Bridge<F> {
    fn attributes(&self, node: Node) -> Option<FileAttr> {
        let Attributes { what, mode, names, uid, gid, size, mtime } = self.0.attributes(node)?;
        let time = system_time(mtime);
        Some(FileAttr {
            ino: INodeNo(node),
            size,
            blocks: size.div_ceil(u64::from(BLOCK_BYTES)),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: kind(what),
            perm: mode,
            nlink: names,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn kind(what: What) -> FileType {
    match what {
        What::Directory => FileType::Directory,
        What::File => FileType::RegularFile,
        What::Link => FileType::Symlink,
    }
}

/// What this system's clock cannot tell becomes its beginning.
fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(time.nanos)))).unwrap_or(UNIX_EPOCH)
}

impl<F: Files> Filesystem for Bridge<F> {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let node = self.0.named(parent.0, name.as_bytes());
        match node.and_then(|node| self.attributes(node)) {
            Some(attributes) => reply.entry(&LASTS, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node.0) {
            Some(attributes) => reply.attr(&LASTS, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        reply.data(&self.0.target(node.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // What was read once stays true: the kernel may keep it.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(node.0, offset, usize::try_from(size).unwrap_or(usize::MAX)) {
            Some(bytes) => reply.data(&bytes),
            None => reply.error(Errno::EIO),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        // The two that every directory has come first. Of the one above nobody believes the number.
        let dots: [&[u8]; 2] = [b".", b".."];
        let mut place = usize::try_from(offset).unwrap_or(usize::MAX);
        loop {
            let (child, what, name) = match dots.get(place) {
                Some(dot) => (node.0, FileType::Directory, dot.to_vec()),
                None => {
                    let Some((child, name)) = self.0.nth(node.0, place - dots.len()) else { break };
                    let what = self.0.attributes(child).map_or(FileType::RegularFile, |a| kind(a.what));
                    (child, what, name)
                }
            };
            place += 1;
            if reply.add(INodeNo(child), place as u64, what, OsStr::from_bytes(&name)) {
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.0.xattrs(node.0).into_iter().find(|(n, _)| n == name.as_bytes()) {
            Some((_, value)) => answer(&value, size, reply),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.0.xattrs(node.0).into_iter().flat_map(|(name, _)| name.into_iter().chain([0]));
        answer(&names.collect::<Vec<u8>>(), size, reply);
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}

/// A size of 0 asks how long the answer is.
fn answer(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}
