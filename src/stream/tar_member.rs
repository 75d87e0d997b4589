//! Headers of tar members: ustar blocks with pax records, section 4 of `FORMAT.md`.
//!
//! The `tar` crate builds the 512-byte blocks; the pax records are written here because it cannot write values that
//! contain newlines, and because their order matters to GNU tar.

use tar::{EntryType, Header};

use crate::model::entry::{Entry, Extent, Kind};

/// Bytes of a tar block.
pub const BLOCK_BYTES: u64 = 512;
/// The longest name that fits into the block itself.
const NAME_BYTES_MAX: usize = 100;
/// The largest number in the eight-digit octal fields.
const OCTAL7_MAX: u64 = 0o7_777_777;
/// The largest number in the twelve-digit octal fields.
const OCTAL11_MAX: u64 = 0o77_777_777_777;

/// The bytes before a member's content: extended header, block, and the map of a sparse file.
///
/// `stored` is the number of content bytes that will follow.
pub fn header(path: &[u8], entry: &Entry, stored: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut block = Header::new_ustar();
    let map = entry.extents.as_deref().map(|e| sparse_map(e, entry.size)).unwrap_or_default();
    let size = stored + u64::try_from(map.len()).expect("a map fits in memory");

    let mut name = path.to_vec();
    if entry.kind == Kind::Dir {
        name.push(b'/');
    }
    if let Some(extents) = &entry.extents {
        sparse_records(&mut records, &name, entry.size, extents);
        name = sparse_name(path);
    } else if name.len() > NAME_BYTES_MAX {
        record(&mut records, b"path", &name);
    }
    set_bytes(&mut block.as_old_mut().name, &name);
    if matches!(entry.kind, Kind::Symlink | Kind::Hardlink) {
        if entry.target.len() > NAME_BYTES_MAX {
            record(&mut records, b"linkpath", &entry.target);
        }
        set_bytes(&mut block.as_old_mut().linkname, &entry.target);
    }
    block.set_entry_type(match entry.kind {
        Kind::Dir => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::Hardlink => EntryType::Link,
        _ => EntryType::Regular,
    });
    block.set_mode(if entry.kind == Kind::Symlink { 0o777 } else { u32::from(entry.mode) });
    if size > OCTAL11_MAX {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    block.set_size(size.min(OCTAL11_MAX));
    ownership(&mut records, &mut block, entry);
    record(&mut records, b"mtime", entry.mtime.decimal().as_bytes());
    block.set_mtime(u64::try_from(entry.mtime.seconds).unwrap_or(0).min(OCTAL11_MAX));
    for (name, value) in &entry.xattrs {
        record(&mut records, &xattr_keyword(name), value);
    }
    block.set_cksum();

    let mut out = extended_header(&records);
    out.extend_from_slice(block.as_bytes());
    out.extend_from_slice(&map);
    out
}

/// How many zero bytes bring a member of `bytes` to a whole number of blocks.
pub fn padding(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES) - bytes
}

/// What ends a tar.
pub const END: [u8; 1024] = [0; 1024];

fn ownership(records: &mut Vec<u8>, block: &mut Header, entry: &Entry) {
    let (uid, gid) = (u64::from(entry.owner.uid), u64::from(entry.owner.gid));
    if uid > OCTAL7_MAX {
        record(records, b"uid", uid.to_string().as_bytes());
    }
    if gid > OCTAL7_MAX {
        record(records, b"gid", gid.to_string().as_bytes());
    }
    block.set_uid(uid.min(OCTAL7_MAX));
    block.set_gid(gid.min(OCTAL7_MAX));
    let ustar = block.as_ustar_mut().expect("the block was made as ustar");
    // Names that do not fit are left out; the numbers stand.
    for (field, name) in [(&mut ustar.uname, &entry.owner.user), (&mut ustar.gname, &entry.owner.group)] {
        if let Some(name) = name.as_ref().filter(|n| n.len() < field.len()) {
            set_bytes(field, name.as_bytes());
        }
    }
}

/// Copies `value` to the start of `field`, cut to fit: whatever is cut stands in a record.
fn set_bytes(field: &mut [u8], value: &[u8]) {
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
}

/// Appends `LENGTH KEYWORD=VALUE\n`, whose length counts its own digits.
fn record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut digits = 1;
    while (rest + digits).to_string().len() != digits {
        digits += 1;
    }
    out.extend_from_slice((rest + digits).to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn xattr_keyword(name: &[u8]) -> Vec<u8> {
    let mut out = b"SCHILY.xattr.".to_vec();
    for b in name {
        match b {
            b'=' => out.extend_from_slice(b"%3D"),
            b'%' => out.extend_from_slice(b"%25"),
            _ => out.push(*b),
        }
    }
    out
}

fn extended_header(records: &[u8]) -> Vec<u8> {
    let mut block = Header::new_ustar();
    set_bytes(&mut block.as_old_mut().name, b"pax");
    block.set_entry_type(EntryType::XHeader);
    block.set_mode(0o600);
    block.set_uid(0);
    block.set_gid(0);
    block.set_mtime(0);
    let bytes = u64::try_from(records.len()).expect("records fit in memory");
    block.set_size(bytes);
    block.set_cksum();
    let mut out = block.as_bytes().to_vec();
    out.extend_from_slice(records);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn sparse_records(records: &mut Vec<u8>, name: &[u8], real_size: u64, _extents: &[Extent]) {
    record(records, b"GNU.sparse.major", b"1");
    record(records, b"GNU.sparse.minor", b"0");
    record(records, b"GNU.sparse.name", name);
    record(records, b"GNU.sparse.realsize", real_size.to_string().as_bytes());
}

/// The name an older tar sees: beside the file, so that it does no harm.
fn sparse_name(path: &[u8]) -> Vec<u8> {
    let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    let mut out = path[..cut].to_vec();
    out.extend_from_slice(b"GNUSparseFile.0/");
    out.extend_from_slice(&path[cut..]);
    out
}

/// The map at the start of a sparse member's data. A file that ends in a hole gets an empty extent at its end, which
/// is how GNU tar writes it: when it reads, it makes a file as long as its last extent reaches.
fn sparse_map(extents: &[Extent], size: u64) -> Vec<u8> {
    let ends = extents.last().map_or(0, |(offset, length)| offset.saturating_add(*length));
    let end = (ends < size).then_some((size, 0));
    let mut out = format!("{}\n", extents.len() + usize::from(end.is_some()));
    for (offset, length) in extents.iter().chain(&end) {
        out.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut out = out.into_bytes();
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::entry::Time;

    #[test]
    fn record_lengths_count_themselves() {
        for n in [1, 80, 88, 89, 90, 91, 980, 985, 990, 995, 1000] {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; n]);
            let text = String::from_utf8(out.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), out.len());
        }
    }

    #[test]
    fn a_hole_at_the_end_has_an_extent() {
        let text = |map: Vec<u8>| String::from_utf8(map).unwrap().trim_end_matches('\0').to_owned();
        assert_eq!(text(sparse_map(&[], 9000)), "1\n9000\n0\n");
        assert_eq!(text(sparse_map(&[(4096, 10)], 9000)), "2\n4096\n10\n9000\n0\n");
        assert_eq!(text(sparse_map(&[(0, 10), (4096, 4904)], 9000)), "2\n0\n10\n4096\n4904\n");
    }

    #[test]
    fn the_tar_crate_reads_it() {
        let long = [b"home/".to_vec(), vec![b'x'; 200], b"/\xff y".to_vec()].concat();
        let entry = Entry {
            mode: 0o4755,
            size: 3,
            mtime: Time { seconds: -2, nanos: 500_000_000 },
            xattrs: vec![(b"user.a=b".to_vec(), b"v".to_vec())],
            ..Entry::new(Kind::File)
        };
        let mut bytes = header(&long, &entry, 3);
        bytes.extend_from_slice(b"abc");
        bytes.resize(bytes.len() + usize::try_from(padding(3)).unwrap(), 0);
        bytes.extend_from_slice(&END);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut read = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(read.path_bytes(), long);
        assert_eq!(read.header().mode().unwrap(), 0o4755);
        let pax: Vec<(String, Vec<u8>)> = read
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|p| p.map(|p| (p.key().unwrap().to_owned(), p.value_bytes().to_vec())).unwrap())
            .collect();
        assert!(pax.contains(&("mtime".into(), b"-1.5".to_vec())));
        assert!(pax.contains(&("SCHILY.xattr.user.a%3Db".into(), b"v".to_vec())));
    }
}
