//! What is fed with hostile bytes. A target may refuse them; it may not panic, and what it accepts must be what it says.

use std::collections::BTreeMap;

use lifeboat::model::commit::Commit;
use lifeboat::model::entry::{Delta, Entry, Extent, Kind, Owner, Time};
use lifeboat::model::kit::Kit;
use lifeboat::model::loader::{Checker, Loader};
use lifeboat::model::manifest::{Counts, Frame, Header, parse_entry, write_entry};
use lifeboat::model::merge::{Merged, merge};
use lifeboat::model::path;
use lifeboat::model::receipt::{self, Receipt};
use lifeboat::model::store_key::{Archive, Place, SnapshotId, is_name};
use lifeboat::model::tree::Tree;
use lifeboat::model::walk::{Level, Listed};
use lifeboat::stream::tar_member;

/// Takes hostile bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const ALL: [(&str, Target); 6] =
    [("manifest", manifest), ("commit", commit), ("key", key), ("tar", tar), ("patch", patch), ("merge", merged)];

/// The lines of a manifest: what is accepted is written as the same again.
fn manifest(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let Ok(mut header) = Header::parse(lines.next().unwrap_or_default()) else { return };
    let entries: Vec<(Vec<u8>, Entry)> = lines.filter_map(|line| parse_entry(line).ok()).collect();
    for (path, entry) in &entries {
        let mut line = Vec::new();
        write_entry(&mut line, path, entry).expect("memory takes it");
        let again = parse_entry(line.strip_suffix(b"\n").expect("a line ends so")).expect("what was written is read");
        assert_eq!(again, (path.clone(), entry.clone()));
    }
    // The sums are right, so that what comes after them is reached.
    (header.counts, header.bytes) = (Counts::default(), 0);
    let (mut checker, mut taken) = (Checker::new(&header), Vec::new());
    for (path, entry) in &entries {
        if checker.entry(path, entry).is_ok() {
            header.counts.add(entry.kind);
            header.bytes += if entry.kind == Kind::File { entry.size } else { 0 };
            taken.push((path.clone(), entry));
        }
    }
    let mut loader = Loader::new(Archive::State, &header);
    if taken.iter().all(|(path, entry)| loader.entry(path.clone(), entry).is_ok())
        && let Ok(tree) = loader.finish()
    {
        assert_eq!(tree.len(), taken.len());
        let sorted = tree.sorted();
        for (index, (path, entry)) in sorted.into_iter().zip(&taken) {
            assert_eq!((&tree.path(index), &tree.entry(index)), (path, *entry));
        }
        all_stored(&Merged::full(tree), &[header.tar_bytes()]);
    }
}

/// Commits, receipts and kits: what is accepted renders to what reads as the same.
fn commit(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(commit) = Commit::parse(text) {
        assert_eq!(Commit::parse(&commit.render()).expect("what was rendered is read"), commit);
        assert!(commit.stored_bytes() >= commit.manifest().size);
    }
    if let Ok(receipt) = Receipt::parse(text) {
        assert_eq!(Receipt::parse(&receipt.render()).expect("what was rendered is read"), receipt);
        assert!(receipt::parse_key(&receipt.key()).is_some());
    }
    // A kit may be anybody's text; it is not shown.
    drop(Kit::parse(text));
}

/// Names of objects: what is accepted is the name that is made of it.
fn key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some((place, name)) = Place::parse(text) {
        assert_eq!(place.object(name), text);
        assert!(is_name(&place.series) && text.split('/').all(|part| part != ".."));
        assert_eq!(Place::parse(&place.object("commit")), Some((place, "commit")));
    }
    if let Some(id) = SnapshotId::parse(text) {
        assert_eq!(id.as_str(), text);
        let again = SnapshotId::new(id.unix_seconds(), 0);
        assert_eq!(again.as_str()[..16], text[..16]);
    }
    if let Some((series, snapshot, drill)) = receipt::parse_key(text) {
        assert_eq!(format!("{}/{}", receipt::directory(series, &snapshot), drill.as_str()), text);
    }
}

/// Bytes, taken one after the other; zeros when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |n, _| n << 8 | u64::from(self.byte()))
    }

    fn text(&mut self, most: usize) -> Vec<u8> {
        let n = usize::try_from(self.number(2)).unwrap_or(0) % most;
        let n = n.min(self.0.len());
        self.0.split_off(..n).unwrap_or_default().to_vec()
    }
}

/// Members of a tar: what is written for an entry says what the entry is.
fn tar(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut entry = Entry::new([Kind::File, Kind::Dir, Kind::Symlink, Kind::Hardlink][usize::from(bytes.byte() % 4)]);
    entry.mode = u16::try_from(bytes.number(2)).unwrap_or(0) & 0o7777;
    let width = [1, 3, 4, 8][usize::from(bytes.byte() % 4)];
    entry.owner = Owner { uid: bytes.number(4) as u32, gid: bytes.number(2) as u32, ..Owner::default() };
    entry.mtime = Time { seconds: bytes.number(width) as i64, nanos: bytes.number(4) as u32 % 1_000_000_000 };
    if entry.kind == Kind::File {
        entry.size = bytes.number(width) >> 1;
        entry.at = Some(0);
        if bytes.byte() % 2 == 1 {
            let (mut end, mut extents) = (0u64, Vec::new());
            for _ in 0..bytes.byte() % 5 {
                let (hole, length) = (bytes.number(2), bytes.number(2));
                extents.push((end + hole, length));
                end += hole + length;
            }
            entry.size = entry.size.max(end);
            entry.extents = Some(extents);
        }
    }
    entry.target = bytes.text(5000);
    for _ in 0..bytes.byte() % 4 {
        entry.xattrs.push((bytes.text(300), bytes.text(2000)));
    }
    entry.xattrs.sort();
    let path = bytes.text(5000);
    let fits = entry.kind != Kind::Hardlink || path::check(&entry.target).is_ok();
    if path::check(&path).is_err() || entry.check().is_err() || !fits {
        return;
    }
    read_back(&path, &entry, &tar_member::header(&path, &entry, entry.stored()));
}

/// Reads what stands before a member's content, as POSIX has it.
fn read_back(path: &[u8], entry: &Entry, mut head: &[u8]) {
    assert_eq!(head.len() % 512, 0);
    let octal = |field: &[u8]| {
        let text = field.iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect::<String>();
        u64::from_str_radix(&text, 8).expect("a number stands there")
    };
    let name = |field: &[u8]| field.split(|b| *b == 0).next().unwrap_or_default().to_vec();
    let (first, rest) = head.split_at(512);
    let mut pax: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    if first[156] == b'x' {
        let size = usize::try_from(octal(&first[124..136])).expect("a header fits in memory");
        let (mut records, rest) = rest.split_at(size.next_multiple_of(512));
        records = &records[..size];
        while !records.is_empty() {
            let digits = records.iter().position(|b| *b == b' ').expect("a record has a length");
            let length = std::str::from_utf8(&records[..digits]).expect("digits").parse().expect("a number");
            let (record, after) = records.split_at(length);
            let body = record[digits + 1..].strip_suffix(b"\n").expect("a record ends so");
            let equals = body.iter().position(|b| *b == b'=').expect("a record has a value");
            assert!(pax.insert(body[..equals].to_vec(), body[equals + 1..].to_vec()).is_none());
            records = after;
        }
        head = rest;
    }
    let (block, map) = head.split_at(512);
    let sum: u64 = (0..512).map(|n| u64::from(if (148..156).contains(&n) { b' ' } else { block[n] })).sum();
    assert_eq!(octal(&block[148..156]), sum);
    let record = |keyword: &[u8]| pax.get(keyword).cloned();
    let mut wanted = path.to_vec();
    if entry.kind == Kind::Dir {
        wanted.push(b'/');
    }
    let written = record(b"GNU.sparse.name").or_else(|| record(b"path")).unwrap_or_else(|| name(&block[..100]));
    assert_eq!(written, wanted);
    let links = matches!(entry.kind, Kind::Symlink | Kind::Hardlink);
    let written = record(b"linkpath").unwrap_or_else(|| name(&block[157..257]));
    assert_eq!(written, if links { entry.target.clone() } else { Vec::new() });
    assert_eq!(record(b"mtime"), Some(entry.mtime.decimal().into_bytes()));
    let number = |keyword: &[u8], field: &[u8]| match record(keyword) {
        Some(text) => String::from_utf8(text).expect("digits").parse().expect("a number"),
        None => octal(field),
    };
    assert_eq!(number(b"uid", &block[108..116]), u64::from(entry.owner.uid));
    assert_eq!(number(b"gid", &block[116..124]), u64::from(entry.owner.gid));
    assert_eq!(number(b"size", &block[124..136]), entry.stored() + map.len() as u64);
    for (attribute, value) in &entry.xattrs {
        let escape = |b: &u8| match b {
            b'=' => b"%3D".to_vec(),
            b'%' => b"%25".to_vec(),
            b => vec![*b],
        };
        let keyword = [&b"SCHILY.xattr."[..], &attribute.iter().flat_map(escape).collect::<Vec<u8>>()].concat();
        assert_eq!(record(&keyword).as_ref(), Some(value));
    }
    assert_eq!(map.is_empty(), entry.extents.is_none());
}

/// The unit of the made-up files, in bytes: four of them are a block of a delta.
const CELL: u64 = 1024;
/// Where a cell is stored; `None` for zeros.
type Cell = Option<(Level, u64)>;

/// Deltas applied by the book, cell by cell, against what the chain's merge says.
fn patch(data: &[u8]) {
    let mut bytes = Bytes(data);
    let levels = usize::from(bytes.byte() % 5) + 1;
    let mut tree: BTreeMap<Vec<u8>, Vec<Cell>> = BTreeMap::new();
    let mut manifests: Vec<Vec<(Vec<u8>, Entry)>> = Vec::new();
    for level in (0..levels).rev().filter_map(|level| Level::try_from(level).ok()) {
        let (parent, mut lines, mut end, mut deltas) = (tree.clone(), Vec::new(), 0, 0);
        for name in b'a'..=b'f' {
            let path = vec![b'h', b'o', b'm', b'e', b'/', name];
            let mut entry = Entry::new(Kind::File);
            let size = u64::from(bytes.byte() % 24);
            let action = bytes.byte() % 6;
            let mut stored = |cells: u64| {
                let at = end;
                end += cells * CELL;
                at
            };
            let content = match action {
                0 | 1 => continue,
                2 if parent.contains_key(&path) => {
                    tree.remove(&path);
                    lines.push((path, Entry::new(Kind::Deleted)));
                    continue;
                }
                3.. if !parent.is_empty() => {
                    let bases: Vec<&Vec<u8>> = parent.keys().collect();
                    let base = bases[usize::from(bytes.byte()) % bases.len()].clone();
                    let extents = extents(&mut bytes, size);
                    let at = stored(extents.iter().map(|e| e.1 / CELL).sum());
                    let mut content = parent[&base].clone();
                    content.resize(usize::try_from(size).unwrap_or(0), None);
                    let mut from = at;
                    for (offset, length) in &extents {
                        for cell in offset / CELL..(offset + length) / CELL {
                            content[usize::try_from(cell).unwrap_or(0)] = Some((level, from));
                            from += CELL;
                        }
                    }
                    deltas += 1;
                    entry.at = (!extents.is_empty()).then_some(at);
                    entry.delta = Some(Box::new(Delta { n: deltas, base, extents }));
                    content
                }
                _ => {
                    let at = stored(size);
                    entry.at = Some(at);
                    (0..size).map(|n| Some((level, at + n * CELL))).collect()
                }
            };
            entry.size = size * CELL;
            tree.insert(path.clone(), content);
            lines.push((path, entry));
        }
        manifests.insert(0, lines);
    }
    let mut open = |level: Level| {
        let lines: Vec<_> = manifests[usize::from(level)].iter().cloned().map(Ok).collect();
        Ok(Listed { lines: Box::new(lines.into_iter()), sources: Vec::new() })
    };
    let merged = merge(Archive::State, levels, &mut open).expect("the chain was made by the book");
    let paths: Vec<Vec<u8>> = merged.tree.indices().map(|i| merged.tree.path(i)).collect();
    assert!(paths.iter().eq(tree.keys()));
    for (index, content) in merged.tree.indices().zip(tree.values()) {
        let mut cells: Vec<Cell> = vec![None; content.len()];
        for piece in merged.holders.stored(&merged.tree, index) {
            for n in 0..piece.length / CELL {
                let cell = &mut cells[usize::try_from(piece.offset / CELL + n).unwrap_or(0)];
                assert!(cell.replace((piece.level, piece.at + n * CELL)).is_none(), "pieces overlap");
            }
        }
        assert_eq!(&cells, content, "{}", path::printable(&paths[index as usize]));
        assert_eq!(merged.tree.node(index).size, content.len() as u64 * CELL);
    }
}

/// Extents of a delta to a file of `size` cells.
fn extents(bytes: &mut Bytes<'_>, size: u64) -> Vec<Extent> {
    let (mut at, mut out) = (0, Vec::new());
    for _ in 0..bytes.byte() % 4 {
        let start = (at + u64::from(bytes.byte() % 12)).next_multiple_of(4);
        let end = size.min(start + u64::from(bytes.byte() % 3) * 4 + 4);
        if start >= end {
            break;
        }
        out.push((start * CELL, (end - start) * CELL));
        at = end;
    }
    out
}

/// Manifests of a chain that need not fit on each other: the newest first, with a NUL between them.
fn merged(data: &[u8]) {
    let parts: Vec<&[u8]> = data.split(|b| *b == 0).take(6).collect();
    let count = parts.len();
    let mut manifests = Vec::new();
    for (level, part) in parts.into_iter().enumerate() {
        let mut header = Header { parent: (level + 1 < count).then(String::new), ..Header::default() };
        let (volume, offset, length, tar_length, blake3) = (0, 0, 1, 1 << 20, [0; 32]);
        header.frames.push(Frame { volume, offset, length, tar_offset: 1 << 40, tar_length, blake3 });
        let (sources, lines): (Vec<&[u8]>, Vec<&[u8]>) = part.split(|b| *b == b'\n').partition(|l| l.starts_with(b"/"));
        let entries: BTreeMap<Vec<u8>, Entry> = lines.into_iter().filter_map(|line| parse_entry(line).ok()).collect();
        let mut checker = Checker::new(&header);
        let entries: Vec<_> = entries.into_iter().filter(|(path, entry)| checker.entry(path, entry).is_ok()).collect();
        manifests.push((entries, sources.into_iter().map(|s| s[1..].to_vec()).collect::<Vec<_>>(), header.tar_bytes()));
    }
    let mut open = |level: Level| {
        let (entries, sources, _) = &manifests[usize::from(level)];
        let lines: Vec<_> = entries.iter().cloned().map(Ok).collect();
        Ok(Listed { lines: Box::new(lines.into_iter()), sources: sources.clone() })
    };
    let Ok(mut merged) = merge(Archive::State, count, &mut open) else { return };
    let tars: Vec<u64> = manifests.iter().map(|m| m.2).collect();
    all_stored(&merged, &tars);
    merged.take_older();
    all_stored(&merged, &tars);
    let whole = |tree: &Tree| tree.indices().all(|i| tree.node(i).kind != Kind::Deleted && tree.delta(i).is_none());
    assert!(whole(&merged.tree));
}

/// Whether all that a tree's files are made of lies in the archives, and in the files.
fn all_stored(merged: &Merged, tars: &[u64]) {
    let tree = &merged.tree;
    for index in tree.indices().filter(|i| tree.node(*i).kind == Kind::File && tree.delta(*i).is_none()) {
        let mut end = 0;
        for piece in merged.holders.stored(tree, index) {
            assert!(piece.offset >= end && piece.at + piece.length <= tars[usize::from(piece.level)]);
            end = piece.offset + piece.length;
        }
        assert!(end <= tree.node(index).size);
    }
}
