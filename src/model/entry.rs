//! One file, directory or link of a snapshot.

use crate::error::{Error, Result};

/// The longest text of a symbolic link that a reader accepts, in bytes: what Linux holds.
pub const LINK_BYTES_MAX: usize = 4095;
/// The longest name of an extended attribute that a reader accepts, in bytes.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// The largest file that a reader accepts, in bytes: what an offset can address.
pub const FILE_BYTES_MAX: u64 = i64::MAX.unsigned_abs();

/// The most extents that a delta may have: a file that changed in more places is stored whole.
pub const DELTA_EXTENTS_MAX: usize = 100_000;
/// What offsets and lengths of a delta's extents are multiples of, in bytes, but for the last length.
pub const DELTA_BLOCK_BYTES: u64 = 4096;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with content of its own.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A further name of a file of the same tree.
    Hardlink,
    /// It was there and could not be read.
    Missing,
    /// Incrementals: it was in the parent's tree and is gone.
    Deleted,
}

impl Kind {
    /// The word for it in manifests.
    pub fn word(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Dir => "dir",
            Kind::Symlink => "symlink",
            Kind::Hardlink => "hardlink",
            Kind::Missing => "missing",
            Kind::Deleted => "deleted",
        }
    }

    /// The kind a manifest's word means.
    pub fn parse(word: &str) -> Option<Kind> {
        [Kind::File, Kind::Dir, Kind::Symlink, Kind::Hardlink, Kind::Missing, Kind::Deleted]
            .into_iter()
            .find(|k| k.word() == word)
    }
}

/// A moment as files record it: seconds rounded down and nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds above the seconds, below 1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// `sec.nnnnnnnnn`, as manifests and the tree digest write it.
    pub fn text(self) -> String {
        format!("{}.{:09}", self.seconds, self.nanos)
    }

    /// Parses what [`Time::text`] writes.
    pub fn parse(text: &str) -> Option<Time> {
        let (seconds, nanos) = text.split_once('.')?;
        if nanos.len() != 9 || !nanos.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Time { seconds: seconds.parse().ok()?, nanos: nanos.parse().ok()? })
    }

    /// The decimal fraction that PAX headers use, `-1.5` for one and a half seconds before the epoch.
    pub fn decimal(self) -> String {
        let (sign, seconds, nanos) = match (self.seconds < 0, self.nanos) {
            (false, nanos) => ("", i128::from(self.seconds), nanos),
            (true, 0) => ("-", -i128::from(self.seconds), 0),
            (true, nanos) => ("-", -(i128::from(self.seconds) + 1), 1_000_000_000 - nanos),
        };
        if nanos == 0 {
            return format!("{sign}{seconds}");
        }
        let text = format!("{sign}{seconds}.{nanos:09}");
        text.trim_end_matches('0').to_owned()
    }
}

/// Who owns an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Numeric user.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// The user's name on the source machine, if it had one.
    pub user: Option<String>,
    /// The group's name on the source machine, if it had one.
    pub group: Option<String>,
}

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A run of bytes within a file: offset and length.
pub type Extent = (u64, u64);

/// How a file of an incremental is made from a file of the parent's tree: the base's content, cut or extended with zeros
/// to the final size, then the extents written over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The number of its members `lifeboat/delta/<n>` and `lifeboat/patch/<n>`.
    pub n: u64,
    /// Path of the base in the parent's tree.
    pub base: Vec<u8>,
    /// What the patch replaces, ascending; none for a rename, a copy or a change of metadata.
    pub extents: Vec<Extent>,
}

/// All that a manifest says about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Who owns it.
    pub owner: Owner,
    /// When its content last changed.
    pub mtime: Time,
    /// Bytes of content as restored.
    pub size: u64,
    /// BLAKE3 of the content as restored.
    pub blake3: [u8; 32],
    /// Offset in the tar stream of the stored content, of a delta that of its patch; `None` where nothing is stored.
    pub at: Option<u64>,
    /// Of a file with holes, what is stored.
    pub extents: Option<Vec<Extent>>,
    /// Of an incremental's file that is not stored whole, what it is made from.
    pub delta: Option<Box<Delta>>,
    /// Text of a symbolic link; path of the file a hard link is a name of.
    pub target: Vec<u8>,
    /// Extended attributes, bytewise by name.
    pub xattrs: Vec<Xattr>,
    /// Why it is missing.
    pub reason: String,
}

impl Entry {
    /// An entry of `kind` with nothing else known.
    pub fn new(kind: Kind) -> Self {
        Entry {
            kind,
            mode: 0,
            owner: Owner::default(),
            mtime: Time::default(),
            size: 0,
            blake3: [0; 32],
            at: None,
            extents: None,
            delta: None,
            target: Vec::new(),
            xattrs: Vec::new(),
            reason: String::new(),
        }
    }

    /// How many bytes of content stand in the tar.
    pub fn stored(&self) -> u64 {
        match (&self.delta, &self.extents) {
            (Some(delta), _) => delta.extents.iter().map(|e| e.1).sum(),
            (None, Some(extents)) => extents.iter().map(|e| e.1).sum(),
            (None, None) if self.kind == Kind::File => self.size,
            (None, None) => 0,
        }
    }

    /// Checks what the types cannot: extents in order, inside the file, and consistent with what is stored; link texts
    /// and attribute names that a system could hold.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) without the path, which the caller knows.
    pub fn check(&self) -> Result<()> {
        if self.mode > 0o7777 {
            return Err(Error::damaged("its mode has unknown bits"));
        }
        if self.size > FILE_BYTES_MAX {
            return Err(Error::damaged("it is larger than a file can be"));
        }
        if self.kind == Kind::Symlink {
            check_link(&self.target)?;
        }
        check_xattrs(&self.xattrs)?;
        check_extents(self.extents.as_deref().unwrap_or_default(), self.size)?;
        if let Some(delta) = &self.delta {
            if self.extents.is_some() {
                return Err(Error::damaged("it is a delta and has holes"));
            }
            check_extents(&delta.extents, self.size)?;
            check_blocks(&delta.extents)?;
        }
        if self.kind == Kind::File && self.stored() > 0 && self.at.is_none() {
            return Err(Error::damaged("it has content but no place in the archive"));
        }
        Ok(())
    }
}

fn check_extents(extents: &[Extent], size: u64) -> Result<()> {
    let mut end = 0;
    for (offset, length) in extents {
        let stop = offset.checked_add(*length).ok_or_else(|| Error::damaged("an extent overflows"))?;
        if *offset < end || stop > size {
            return Err(Error::damaged("its extents overlap or leave the file"));
        }
        end = stop;
    }
    Ok(())
}

/// What a script that restores with blocks of 4096 bytes relies on.
fn check_blocks(extents: &[Extent]) -> Result<()> {
    if extents.len() > DELTA_EXTENTS_MAX {
        return Err(Error::damaged(format!("its delta has more than {DELTA_EXTENTS_MAX} extents")));
    }
    let last = extents.len().saturating_sub(1);
    let whole = |n: usize, (offset, length): &Extent| {
        offset % DELTA_BLOCK_BYTES == 0 && (n == last || length % DELTA_BLOCK_BYTES == 0)
    };
    if !extents.iter().enumerate().all(|(n, extent)| whole(n, extent)) {
        return Err(Error::damaged(format!("its delta's extents are not multiples of {DELTA_BLOCK_BYTES} bytes")));
    }
    Ok(())
}

fn check_link(target: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(Error::damaged("its target is empty"));
    }
    if target.len() > LINK_BYTES_MAX {
        return Err(Error::damaged(format!("its target is longer than {LINK_BYTES_MAX} bytes")));
    }
    if target.contains(&0) {
        return Err(Error::damaged("its target contains a NUL byte"));
    }
    Ok(())
}

/// Attributes are sorted by name; equal names would leave open which one is meant.
fn check_xattrs(xattrs: &[Xattr]) -> Result<()> {
    let impossible = |name: &[u8]| name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0);
    if xattrs.iter().any(|(name, _)| impossible(name)) {
        return Err(Error::damaged("an attribute's name is empty, too long, or contains a NUL byte"));
    }
    if xattrs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::damaged("it has an attribute twice"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970() {
        let t = Time { seconds: -2, nanos: 500_000_000 };
        assert_eq!((t.text().as_str(), t.decimal().as_str()), ("-2.500000000", "-1.5"));
        assert_eq!(Time::parse("-2.500000000"), Some(t));
        assert_eq!(Time { seconds: -1, nanos: 999_999_999 }.decimal(), "-0.000000001");
        assert_eq!(Time { seconds: -3, nanos: 0 }.decimal(), "-3");
        assert_eq!(Time { seconds: 7, nanos: 20 }.decimal(), "7.00000002");
        assert_eq!(Time { seconds: 70, nanos: 0 }.decimal(), "70");
    }
}
