//! What the catalog knows of an entry: enough to tell later whether it changed, and since when.

use super::entry::{Entry, Kind, Xattr};
use super::varint;

/// Bytes of the checksum that ends a [`Rack`].
const CHECK_BYTES: usize = 8;

/// The digest of an extended attribute's value, by name.
pub type XattrDigest = (Vec<u8>, [u8; 32]);

/// One entry as it was when it was last looked at. Sequence numbers are those of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it was.
    pub kind: Kind,
    /// Digest of everything by which `stat` tells that nothing changed.
    pub stamp: u64,
    /// Whether it has to be read again whatever `stat` says: it was too young, or changed while it was read.
    pub dirty: bool,
    /// Whether it could not be read since; when it comes back it is as new.
    pub lost: bool,
    /// Whether the content is that of a database copy, read through SQLite.
    pub database: bool,
    /// Digest of metadata: mode, owner, time, attributes, link target.
    pub meta_digest: u64,
    /// Bytes of content as stored.
    pub size: u64,
    /// BLAKE3 of the content as stored.
    pub blake3: [u8; 32],
    /// Extended attributes, bytewise by name.
    pub xattrs: Vec<XattrDigest>,
    /// When the path appeared, or changed kind.
    pub born: u64,
    /// When the content last changed.
    pub changed: u64,
    /// When the metadata last changed.
    pub meta: u64,
}

impl Record {
    /// The record of an entry that was never seen before.
    pub fn born(kind: Kind, seq: u64) -> Record {
        Record {
            kind,
            stamp: 0,
            dirty: true,
            lost: false,
            database: false,
            meta_digest: 0,
            size: 0,
            blake3: [0; 32],
            xattrs: Vec::new(),
            born: seq,
            changed: seq,
            meta: seq,
        }
    }

    /// Whether anything of it is later than `seq`.
    pub fn is_after(&self, seq: u64) -> bool {
        self.born.max(self.changed).max(self.meta) > seq
    }

    /// Whether the tree of a snapshot has this very content under this path, so that something else can be made of it.
    pub fn is_base(&self, parent_seq: u64) -> bool {
        self.kind == Kind::File && !self.lost && self.born <= parent_seq && self.changed <= parent_seq
    }

    fn encode(&self, name: &[u8], out: &mut Vec<u8>) {
        let kind = match self.kind {
            Kind::File => 0,
            Kind::Dir => 1,
            Kind::Symlink => 2,
            Kind::Hardlink => 3,
            Kind::Missing | Kind::Deleted => 4,
        };
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(
            kind | flag(self.dirty, 8)
                | flag(self.lost, 16)
                | flag(self.database, 32)
                | flag(!self.xattrs.is_empty(), 64),
        );
        bytes(out, name);
        out.extend_from_slice(&self.stamp.to_le_bytes());
        out.extend_from_slice(&self.meta_digest.to_le_bytes());
        for seq in [self.born, self.changed, self.meta] {
            varint::put(out, seq);
        }
        if self.kind == Kind::File {
            varint::put(out, self.size);
            out.extend_from_slice(&self.blake3);
        }
        if !self.xattrs.is_empty() {
            varint::put(out, self.xattrs.len() as u64);
            for (name, digest) in &self.xattrs {
                bytes(out, name);
                out.extend_from_slice(digest);
            }
        }
    }

    fn decode<'a>(from: &mut &'a [u8]) -> Option<(&'a [u8], Record)> {
        let flags = *from.split_off_first()?;
        let kind = match flags & 7 {
            0 => Kind::File,
            1 => Kind::Dir,
            2 => Kind::Symlink,
            3 => Kind::Hardlink,
            4 => Kind::Missing,
            _ => return None,
        };
        let name = taken(from)?;
        let mut record = Record {
            dirty: flags & 8 != 0,
            lost: flags & 16 != 0,
            database: flags & 32 != 0,
            stamp: u64::from_le_bytes(*from.split_off(..8)?.as_array()?),
            meta_digest: u64::from_le_bytes(*from.split_off(..8)?.as_array()?),
            born: varint::take(from)?,
            changed: varint::take(from)?,
            meta: varint::take(from)?,
            ..Record::born(kind, 0)
        };
        if kind == Kind::File {
            record.size = varint::take(from)?;
            record.blake3 = *from.split_off(..32)?.as_array()?;
        }
        if flags & 64 != 0 {
            for _ in 0..varint::take(from)? {
                let name = taken(from)?.to_vec();
                record.xattrs.push((name, *from.split_off(..32)?.as_array()?));
            }
        }
        Some((name, record))
    }
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn taken<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint::take(from)?).ok()?;
    from.split_off(..length)
}

/// Records of one directory, or of some of a large one, as the catalog keeps them: in order of name, with a checksum,
/// since a flipped bit would make a snapshot that lies.
pub struct Rack;

impl Rack {
    /// The records as bytes; `key` is what they are kept under.
    pub fn encode<'a>(key: &[u8], records: impl IntoIterator<Item = (&'a [u8], &'a Record)>) -> Vec<u8> {
        let mut out = Vec::new();
        records.into_iter().for_each(|(name, record)| record.encode(name, &mut out));
        let check = check(key, &out);
        out.extend_from_slice(&check);
        out
    }

    /// Shows `each` the records in `bytes`; `None` if they are not what [`Rack::encode`] made for `key`.
    pub fn decode(key: &[u8], bytes: &[u8], each: &mut dyn FnMut(&[u8], Record)) -> Option<()> {
        let (mut rest, sum) = bytes.split_last_chunk::<CHECK_BYTES>()?;
        if check(key, rest) != *sum {
            return None;
        }
        while !rest.is_empty() {
            let (name, record) = Record::decode(&mut rest)?;
            each(name, record);
        }
        Some(())
    }
}

/// The first bytes of BLAKE3 over key and content.
pub fn check(key: &[u8], content: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = blake3::Hasher::new().update(&(key.len() as u64).to_le_bytes()).update(key).update(content).finalize();
    let mut out = [0; CHECK_BYTES];
    out.copy_from_slice(&digest.as_bytes()[..CHECK_BYTES]);
    out
}

/// Digests of attributes' values.
pub fn xattr_digests(xattrs: &[Xattr]) -> Vec<XattrDigest> {
    xattrs.iter().map(|(name, value)| (name.clone(), *blake3::hash(value).as_bytes())).collect()
}

/// Digest of all metadata of an entry, of a hard link only what it is a name of: the rest is its file's.
pub fn meta_digest(entry: &Entry) -> u64 {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    field(&entry.target);
    if entry.kind != Kind::Hardlink {
        field(&entry.mode.to_le_bytes());
        field(&entry.owner.uid.to_le_bytes());
        field(&entry.owner.gid.to_le_bytes());
        field(entry.owner.user.as_deref().unwrap_or_default().as_bytes());
        field(entry.owner.group.as_deref().unwrap_or_default().as_bytes());
        field(&entry.mtime.seconds.to_le_bytes());
        field(&entry.mtime.nanos.to_le_bytes());
        for (name, value) in &entry.xattrs {
            field(name);
            field(value);
        }
    }
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk::<8>().expect("a digest has 32 bytes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn some() -> Vec<(Vec<u8>, Record)> {
        let file = Record {
            stamp: 7,
            meta_digest: u64::MAX,
            size: 5_000_000_000,
            blake3: [9; 32],
            xattrs: vec![(b"user.x".to_vec(), [1; 32])],
            database: true,
            changed: 1_795_292_100,
            ..Record::born(Kind::File, 3)
        };
        let lost = Record { lost: true, dirty: false, ..Record::born(Kind::Dir, 1) };
        let all = [file, lost, Record::born(Kind::Symlink, 0), Record::born(Kind::Hardlink, 9)];
        all.into_iter().enumerate().map(|(n, r)| (format!("name{n}").into_bytes(), r)).collect()
    }

    fn decoded(key: &[u8], bytes: &[u8]) -> Option<Vec<(Vec<u8>, Record)>> {
        let mut out = Vec::new();
        Rack::decode(key, bytes, &mut |name, record| out.push((name.to_vec(), record)))?;
        Some(out)
    }

    #[test]
    fn records_come_back() {
        let all = some();
        let bytes = Rack::encode(b"home/x", all.iter().map(|(n, r)| (&n[..], r)));
        assert_eq!(decoded(b"home/x", &bytes), Some(all));
        assert_eq!(decoded(b"home/y", &bytes), None);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let all = some();
        let bytes = Rack::encode(b"", all.iter().map(|(n, r)| (&n[..], r)));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decoded(b"", &bad), None, "{bit}");
        }
    }

    #[test]
    fn metadata_of_a_hard_link_is_its_target() {
        let link = Entry { target: b"home/a".to_vec(), ..Entry::new(Kind::Hardlink) };
        assert_eq!(meta_digest(&link), meta_digest(&Entry { mode: 7, ..link.clone() }));
        let file = Entry::new(Kind::File);
        assert_ne!(meta_digest(&file), meta_digest(&Entry { mode: 7, ..file.clone() }));
    }
}
