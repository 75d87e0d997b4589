//! Archives as somebody writes them who holds the keys and means no good, and tools to spoil a store with.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use lifeboat::commands::session::sha256;
use lifeboat::model::commit::{Commit, Object, Reference};
use lifeboat::model::entry::{Delta, Entry, Kind, Owner};
use lifeboat::model::kit::Kit;
use lifeboat::model::manifest::{Counts, Header, VolumePlace, write_entry};
use lifeboat::model::store_key::{Archive, COMMIT, MANIFEST, Place, SIGNATURE, SnapshotId};
use lifeboat::model::tree_digest::TreeDigest;
use lifeboat::stream::age_keys::Recipients;
use lifeboat::stream::archive_writer::{self, Options};
use lifeboat::stream::seal;
use lifeboat::stream::sign::SigningKey;
use secrecy::ExposeSecret as _;

use crate::world::{Machine, NOW};

/// What a forger puts into an archive: path, entry, content.
pub type Item = (Vec<u8>, Entry, Vec<u8>);

/// A regular file.
pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    let content = content.as_ref().to_vec();
    let blake3 = *blake3::hash(&content).as_bytes();
    let entry = Entry { mode: 0o644, size: content.len() as u64, blake3, owner: me(), ..Entry::new(Kind::File) };
    (path.as_ref().to_vec(), entry, content)
}

/// A directory.
pub fn dir(path: impl AsRef<[u8]>) -> Item {
    (path.as_ref().to_vec(), Entry { mode: 0o755, owner: me(), ..Entry::new(Kind::Dir) }, Vec::new())
}

/// A symbolic link.
pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    let target = target.as_ref().to_vec();
    (path.as_ref().to_vec(), Entry { target, owner: me(), ..Entry::new(Kind::Symlink) }, Vec::new())
}

/// A hard link.
pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    (path.as_ref().to_vec(), Entry { target: target.as_ref().to_vec(), ..Entry::new(Kind::Hardlink) }, Vec::new())
}

/// A file of an incremental, made from `base` by writing `extents` of its new content over it.
pub fn delta(path: impl AsRef<[u8]>, base: impl AsRef<[u8]>, new: impl AsRef<[u8]>, extents: &[(u64, u64)]) -> Item {
    let (path, entry, new) = file(path, new);
    let cut = |(offset, length): &(u64, u64)| {
        let from = usize::try_from(*offset).unwrap();
        new.iter().skip(from).take(usize::try_from(*length).unwrap()).copied().collect::<Vec<u8>>()
    };
    let patch = extents.iter().flat_map(cut).collect();
    let delta = Delta { n: 0, base: base.as_ref().to_vec(), extents: extents.to_vec() };
    (path, Entry { delta: Some(Box::new(delta)), ..entry }, patch)
}

/// What an incremental says is gone.
pub fn deleted(path: impl AsRef<[u8]>) -> Item {
    (path.as_ref().to_vec(), Entry::new(Kind::Deleted), Vec::new())
}

/// What could not be read.
pub fn missing(path: impl AsRef<[u8]>) -> Item {
    (path.as_ref().to_vec(), Entry { reason: "denied".to_owned(), ..Entry::new(Kind::Missing) }, Vec::new())
}

fn me() -> Owner {
    Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: None,
        group: None,
    }
}

/// An archive that is almost written: everything can still be changed, and is signed afterwards as it is.
pub struct Draft {
    /// Its kind.
    pub archive: Archive,
    /// The manifest's header.
    pub header: Header,
    /// The manifest's other lines, without newlines.
    pub lines: Vec<Vec<u8>>,
    /// The sealed volumes.
    pub volumes: Vec<Vec<u8>>,
    /// The whole plaintext of the manifest, if it is not to be made of header and lines.
    pub raw: Option<Vec<u8>>,
    /// The sealed manifest, if it is not to be made.
    pub sealed: Option<Vec<u8>>,
    /// What it was made against.
    pub parent: Option<Reference>,
    /// What becomes of the commit's text before it is signed.
    pub commit: Box<dyn Fn(String) -> String>,
    /// The place it is put.
    pub place: Place,
    /// Whom it is sealed to.
    pub recipients: Recipients,
}

impl Draft {
    /// Replaces text in the header's line and in all others; it must occur.
    pub fn replace(&mut self, from: &str, to: &str) {
        let mut raw = self.text();
        let text = String::from_utf8(raw).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        raw = text.replace(from, to).into_bytes();
        self.raw = Some(raw);
    }

    fn text(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut out = serde_json::to_vec(&self.header).unwrap();
        out.push(b'\n');
        for line in &self.lines {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        out
    }

    /// Seals `plain` as volume `n` and says so in the header's table of volumes.
    pub fn volume(&mut self, n: usize, plain: &[u8]) {
        self.volumes[n] = sealed(&self.recipients, plain);
        let header = seal::header_length(&self.volumes[n]).unwrap() as u64;
        self.header.volumes[n] = VolumePlace { header, plain: plain.len() as u64 };
    }
}

/// An age file around `plain`.
pub fn sealed(recipients: &Recipients, plain: &[u8]) -> Vec<u8> {
    let mut out = seal::begin(recipients, Vec::new()).unwrap();
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

/// Somebody who holds the keys of a machine's series.
pub struct Forger {
    /// Where the archives go.
    pub store: PathBuf,
    /// The series.
    pub series: String,
    /// Its kit.
    pub kit: Kit,
    /// Its signing key.
    pub key: SigningKey,
    made: Mutex<u32>,
}

impl Forger {
    /// A forger for a machine with a kit.
    pub fn of(machine: &Machine) -> Forger {
        let kit = Kit::parse(&std::fs::read_to_string(machine.kit()).unwrap()).unwrap();
        let key = SigningKey::from_text(kit.signing_secret.as_ref().unwrap().expose_secret()).unwrap();
        Forger { store: machine.store(), series: kit.series.clone(), kit, key, made: Mutex::new(0) }
    }

    /// An archive of `items`, honest but for what the items themselves say, which `edit` may change before it is
    /// signed. Returns its reference.
    pub fn put(&self, archive: Archive, items: Vec<Item>, edit: &dyn Fn(&mut Draft)) -> Reference {
        let mut made = self.made.lock().unwrap();
        *made += 1;
        let id = SnapshotId::new(NOW - 1000 + i64::from(*made), *made);
        self.put_as(archive, &id, u64::from(*made) + 1_795_000_000, items, edit)
    }

    /// [`Forger::put`] with an id and a seq.
    pub fn put_as(
        &self,
        archive: Archive,
        id: &SnapshotId,
        seq: u64,
        items: Vec<Item>,
        edit: &dyn Fn(&mut Draft),
    ) -> Reference {
        self.finish(self.draft(archive, id, seq, items, None), id, seq, edit)
    }

    /// An incremental that lists `items`, which are all that is new in `tree`.
    pub fn put_on(&self, parent: &Reference, items: Vec<Item>, tree: &[Item], edit: &dyn Fn(&mut Draft)) -> Reference {
        let mut made = self.made.lock().unwrap();
        *made += 1;
        let (id, seq) = (SnapshotId::new(NOW - 1000 + i64::from(*made), *made), u64::from(*made) + 1_795_000_000);
        self.put_on_as(parent, &id, seq, items, tree, edit)
    }

    /// [`Forger::put_on`] with an id and a seq.
    pub fn put_on_as(
        &self,
        parent: &Reference,
        id: &SnapshotId,
        seq: u64,
        items: Vec<Item>,
        tree: &[Item],
        edit: &dyn Fn(&mut Draft),
    ) -> Reference {
        let mut draft = self.draft(Archive::State, id, seq, items, Some(tree));
        draft.place.parent = Some(parent.id.clone());
        draft.place.tier = Some("hourly".to_owned());
        draft.header.parent = Some(parent.id.to_string());
        draft.header.tier = Some("hourly".to_owned());
        draft.parent = Some(Reference { life: None, ..parent.clone() });
        self.finish(draft, id, seq, edit)
    }

    fn finish(&self, mut draft: Draft, id: &SnapshotId, seq: u64, edit: &dyn Fn(&mut Draft)) -> Reference {
        edit(&mut draft);
        let text = (draft.commit)(self.commit(&draft, id, seq).render());
        let manifest = manifest_of(&draft);
        let mut objects: Vec<(String, Vec<u8>)> =
            draft.volumes.iter().enumerate().map(|(n, v)| (format!("{n:06}.tar.zst.age"), v.clone())).collect();
        objects.push((MANIFEST.to_owned(), manifest));
        let comment = Commit::trusted_comment(&draft.place.series, &draft.place.id);
        let signature = lifeboat::stream::sign::sign(&self.key, text.as_bytes(), &comment).unwrap();
        objects.push((SIGNATURE.to_owned(), signature.into_bytes()));
        objects.push((COMMIT.to_owned(), text.clone().into_bytes()));
        let dir = self.store.join(draft.place.directory());
        std::fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in objects {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        Reference { id: id.clone(), sha256: sha256(text.as_bytes()), life: Some(365) }
    }

    fn commit(&self, draft: &Draft, id: &SnapshotId, seq: u64) -> Commit {
        let object = |name: String, bytes: &[u8]| Object { name, size: bytes.len() as u64, sha256: sha256(bytes) };
        let volumes = draft.volumes.iter().enumerate();
        let mut objects: Vec<Object> = volumes.map(|(n, v)| object(format!("{n:06}.tar.zst.age"), v)).collect();
        objects.push(object(MANIFEST.to_owned(), &manifest_of(draft)));
        let state = draft.archive == Archive::State;
        Commit {
            archive: draft.archive,
            series: self.series.clone(),
            id: id.clone(),
            seq,
            tier: state.then(|| if draft.parent.is_some() { "hourly" } else { "monthly" }.to_owned()),
            generation: state.then(|| id.clone()),
            life: 365,
            parent: draft.parent.clone(),
            prev: None,
            bundle: None,
            suspicious: None,
            accept: Vec::new(),
            objects,
        }
    }

    fn draft(&self, archive: Archive, id: &SnapshotId, seq: u64, mut items: Vec<Item>, tree: Option<&[Item]>) -> Draft {
        let opening = if archive == Archive::State { &self.kit.state } else { &self.kit.secrets };
        let recipients = Recipients::parse(&[&opening.as_ref().unwrap().recipient]).unwrap();
        let options = Options { level: 3, check: true, workers: 1, uploads: 1, pad: archive == Archive::Secrets };
        let stored = Mutex::new(BTreeMap::new());
        let keep = |name: &str, bytes: bytes::Bytes| {
            stored.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
            Ok(())
        };
        let ((), written) = archive_writer::write(&options, &recipients, &keep, None, |tar| {
            for (n, (path, entry, content)) in items.iter_mut().enumerate() {
                if matches!(entry.kind, Kind::Deleted | Kind::Missing) || tree.is_some() && entry.kind == Kind::Hardlink
                {
                    continue;
                }
                let at = match &mut entry.delta {
                    Some(delta) => {
                        delta.n = n as u64;
                        let patch = Entry { size: content.len() as u64, ..Entry::new(Kind::File) };
                        tar.whole(format!("lifeboat/patch/{n}").as_bytes(), &patch, content)?
                    }
                    None => tar.whole(path, entry, content)?,
                };
                entry.at = entry.at.or((!content.is_empty()).then_some(at));
            }
            Ok(())
        })
        .unwrap();
        let (mut counts, mut digest, mut lines, mut bytes) = (Counts::default(), TreeDigest::new(), Vec::new(), 0u64);
        for (path, entry, _) in &items {
            counts.add(entry.kind);
            bytes = bytes.wrapping_add(if entry.kind == Kind::File { entry.size } else { 0 });
            let mut line = Vec::new();
            write_entry(&mut line, path, entry).unwrap();
            line.pop();
            lines.push(line);
        }
        let tree = tree.unwrap_or(&items);
        for (path, entry, _) in tree {
            let linked = tree.iter().find(|i| entry.kind == Kind::Hardlink && i.0 == entry.target);
            let linked = linked.map_or(entry, |l| &l.1);
            digest.add(path, entry, linked, &lifeboat::model::record::xattr_digests(&linked.xattrs));
        }
        let state = archive == Archive::State;
        let header = Header {
            format: 1,
            archive: archive.word().to_owned(),
            series: self.series.clone(),
            id: id.to_string(),
            seq,
            tier: state.then(|| "monthly".to_owned()),
            generation: state.then(|| id.to_string()),
            program: "forger".to_owned(),
            started: "2026-11-21T20:15:00Z".to_owned(),
            finished: "2026-11-21T20:15:00Z".to_owned(),
            home: "/home/agent".to_owned(),
            counts,
            bytes,
            recipients: recipients.texts(),
            policy: "0".repeat(64),
            tree: digest.finish(),
            volumes: written.volumes,
            frames: written.frames,
            ..Header::default()
        };
        let place = if state { Place::state("monthly", &self.series, id) } else { Place::secrets(&self.series, id) };
        let volumes = stored.into_inner().unwrap().into_values().collect();
        let commit = Box::new(|text| text);
        Draft { archive, header, lines, volumes, raw: None, sealed: None, parent: None, commit, place, recipients }
    }
}

fn manifest_of(draft: &Draft) -> Vec<u8> {
    // Sealing is random, so that it happens once: whoever needs it twice gets it from here.
    thread_local! {
        static LAST: std::cell::RefCell<(Vec<u8>, Vec<u8>)> = const { std::cell::RefCell::new((Vec::new(), Vec::new())) };
    }
    if let Some(sealed) = &draft.sealed {
        return sealed.clone();
    }
    let plain = draft.text();
    LAST.with(|last| {
        let mut last = last.borrow_mut();
        if last.0 != plain || last.1.is_empty() {
            let compressed = zstd::stream::encode_all(&plain[..], 3).unwrap();
            *last = (plain, sealed(&draft.recipients, &compressed));
        }
        last.1.clone()
    })
}

/// Everything below `dir`, with kind, mode and content: to see that nothing changed.
pub fn snapshot(dir: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut out = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(here) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&here) else { continue };
        for entry in entries.flatten() {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let content = if meta.is_dir() {
                pending.push(path.clone());
                String::new()
            } else if meta.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else {
                blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string()
            };
            out.insert(path.strip_prefix(dir).unwrap().to_owned(), format!("{:o} {content}", meta.mode()));
        }
    }
    out
}

/// The message of an error with its causes and its advice: all that a person sees.
pub fn said(e: &lifeboat::Error) -> String {
    let mut out = vec![e.to_string()];
    out.extend(e.causes());
    out.extend(e.advice().map(str::to_owned));
    out.join(" | ")
}

/// Copies a directory tree.
pub fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// All files below `dir`, relative to it, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    snapshot(dir).into_keys().filter(|p| dir.join(p).is_file()).collect()
}
