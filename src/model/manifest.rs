//! The manifest: the sealed list of a snapshot's entries, as specified in section 5 of `FORMAT.md`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::counts::AgentCounts;
use super::entry::{Delta, Entry, Kind, Owner, Time};
use super::path;
use super::secret_notes::SecretNotes;
use crate::error::{Error, Result};

/// The version this program writes and reads.
pub const FORMAT: u32 = 1;
/// The longest header line a reader accepts, in bytes: the frame table of some 10 TB.
pub const HEADER_BYTES_MAX: usize = 256 << 20;
/// The longest entry line a reader accepts, in bytes.
pub const LINE_BYTES_MAX: usize = 16 << 20;
/// The largest tar length of one frame that a reader accepts, in bytes.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;

/// The first line of a manifest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "section 5 of FORMAT.md says what each means")]
pub struct Header {
    pub format: u32,
    pub archive: String,
    pub series: String,
    pub id: String,
    pub seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    pub program: String,
    pub started: String,
    pub finished: String,
    pub home: String,
    #[serde(default)]
    pub sources: Vec<Source>,
    pub counts: Counts,
    pub bytes: u64,
    pub recipients: Vec<String>,
    pub policy: String,
    pub tree: String,
    #[serde(default)]
    pub databases: Vec<Database>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentCounts>,
    #[serde(default)]
    pub skipped: Vec<Skipped>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretNotes>,
    pub volumes: Vec<VolumePlace>,
    pub frames: Vec<Frame>,
}

/// An archive path as JSON members: `path`, or `path_b64` where it is not UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathName {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

impl PathName {
    /// The members for `path`.
    pub fn new(path: &[u8]) -> Self {
        let owned = |text: Option<Text<'_>>| text.map(|t| t.0.into_owned());
        let (path, path_b64) = text(path);
        PathName { path: owned(path), path_b64: owned(path_b64) }
    }

    /// The path; empty where the members are no path.
    pub fn bytes(&self) -> Vec<u8> {
        let borrowed = |text: &'_ Option<String>| text.clone().map(Text::from);
        bytes(borrowed(&self.path), borrowed(&self.path_b64), "path").ok().flatten().unwrap_or_default()
    }
}

/// A source root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The archive path.
    #[serde(flatten)]
    pub path: PathName,
    /// The preset that knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
}

/// How many entries of each kind a manifest lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub hardlinks: u64,
    pub missing: u64,
    pub deleted: u64,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, kind: Kind) {
        *match kind {
            Kind::File => &mut self.files,
            Kind::Dir => &mut self.directories,
            Kind::Symlink => &mut self.symlinks,
            Kind::Hardlink => &mut self.hardlinks,
            Kind::Missing => &mut self.missing,
            Kind::Deleted => &mut self.deleted,
        } += 1;
    }
}

/// A SQLite database in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its path.
    #[serde(flatten)]
    pub path: PathName,
    /// What was read from it.
    #[serde(flatten)]
    pub facts: super::database::Facts,
}

/// Something a scan left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its path.
    #[serde(flatten)]
    pub path: PathName,
    /// Why.
    pub reason: String,
}

/// Sizes of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlace {
    /// Bytes of the age header.
    pub header: u64,
    /// Bytes of plaintext.
    pub plain: u64,
}

/// One frame of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "FrameRow", try_from = "FrameRow")]
pub struct Frame {
    /// The volume that holds it.
    pub volume: u32,
    /// Offset in the volume's plaintext.
    pub offset: u64,
    /// Compressed bytes.
    pub length: u32,
    /// Offset in the tar stream of its first byte.
    pub tar_offset: u64,
    /// Bytes of tar it decompresses to.
    pub tar_length: u32,
    /// BLAKE3 of the compressed bytes.
    pub blake3: [u8; 32],
}

impl Frame {
    /// Offset in the tar stream of the first byte behind it.
    pub fn tar_end(&self) -> u64 {
        self.tar_offset + u64::from(self.tar_length)
    }
}

type FrameRow = (u32, u64, u32, u64, u32, String);

impl From<Frame> for FrameRow {
    fn from(f: Frame) -> Self {
        (f.volume, f.offset, f.length, f.tar_offset, f.tar_length, hex(&f.blake3))
    }
}

impl TryFrom<FrameRow> for Frame {
    type Error = String;
    fn try_from(r: FrameRow) -> Result<Self, String> {
        let blake3 = unhex(&r.5).ok_or("a frame's digest is not 64 hex digits")?;
        Ok(Frame { volume: r.0, offset: r.1, length: r.2, tar_offset: r.3, tar_length: r.4, blake3 })
    }
}

/// Lower-case hex of a digest.
pub fn hex(digest: &[u8; 32]) -> String {
    // There are two per file, so this is worth a table.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 * digest.len());
    for byte in digest {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// What each byte is as a hex digit, [`u8::MAX`] where it is none.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// Parses 64 lower-case hex digits.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != out.len() || !rest.is_empty() {
        return None;
    }
    // Whether all were digits is asked once: a manifest has two digests a file.
    let mut all = 0;
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    (all <= 15).then_some(out)
}

impl Header {
    /// Parses and checks the first line.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged) for a header that is malformed or contradicts itself,
    /// [`Kind::Failed`](crate::Kind::Failed) for a version this program does not know.
    pub fn parse(line: &[u8]) -> Result<Header> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let malformed = |e: serde_json::Error| Error::damaged("the manifest's header is malformed").because(e);
        let version: Version = serde_json::from_slice(line).map_err(malformed)?;
        if version.format != FORMAT {
            return Err(Error::failed(format!(
                "the manifest is of format {}, this program reads {FORMAT}",
                version.format
            ))
            .hint("restore with a newer lifeboat, or by hand as RECOVERY.md on the store says"));
        }
        let header: Header = serde_json::from_slice(line).map_err(malformed)?;
        header.check_frames()?;
        Ok(header)
    }

    /// Checks that frames follow each other without gap in tar and volumes, within limits.
    fn check_frames(&self) -> Result<()> {
        let refuse =
            |n: usize, why: &str| Err(Error::damaged(format!("frame {n} of the manifest's frame table {why}")));
        let (mut tar, mut volume, mut offset) = (0u64, 0u32, 0u64);
        for (n, f) in self.frames.iter().enumerate() {
            if f.volume == volume.wrapping_add(1) && offset > 0 {
                volume = f.volume;
                offset = 0;
            }
            if f.tar_length == 0 || f.tar_length > FRAME_BYTES_MAX || f.length == 0 || f.length > 2 * FRAME_BYTES_MAX {
                return refuse(n, "has an impossible length");
            }
            if f.tar_offset != tar || f.volume != volume || f.offset != offset {
                return refuse(n, "does not follow the one before");
            }
            tar += u64::from(f.tar_length);
            offset += u64::from(f.length);
            if self.volumes.get(volume as usize).is_none_or(|v| offset > v.plain) {
                return refuse(n, "leaves its volume");
            }
        }
        if self.frames.last().map_or(0, |f| f.volume as usize + 1) != self.volumes.len() {
            return Err(Error::damaged("the manifest names a volume without frames"));
        }
        Ok(())
    }

    /// Bytes of the tar stream.
    pub fn tar_bytes(&self) -> u64 {
        self.frames.last().map_or(0, Frame::tar_end)
    }
}

/// Text of a line that is read, borrowed where nothing in it is escaped: a home has hundreds of thousands of lines.
/// (Of an `Option<Cow>` serde would always make a copy.)
#[derive(Serialize, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> From<Cow<'a, str>> for Text<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Text(text)
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Text(Cow::Owned(text))
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// One entry as a JSON object.
#[derive(Serialize, Deserialize, Default)]
struct Line<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    path: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    path_b64: Option<Text<'a>>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    mode: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    user: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    group: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    mtime: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    blake3: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extents: Option<Vec<(u64, u64)>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    delta: Option<DeltaLine<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    target: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    target_b64: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs_b64: Vec<(String, String)>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    reason: Option<Text<'a>>,
}

/// The `delta` of an entry.
#[derive(Serialize, Deserialize, Default)]
struct DeltaLine<'a> {
    n: u64,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    base: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    base_b64: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extents: Vec<(u64, u64)>,
}

/// Splits a byte string into its plain and its base64 member.
fn text(bytes: &[u8]) -> (Option<Text<'_>>, Option<Text<'_>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(Text(Cow::Borrowed(text))), None),
        Err(_) => (None, Some(BASE64.encode(bytes).into())),
    }
}

fn bytes(plain: Option<Text<'_>>, b64: Option<Text<'_>>, what: &str) -> Result<Option<Vec<u8>>> {
    match (plain, b64) {
        (Some(plain), None) => Ok(Some(plain.0.into_owned().into_bytes())),
        (None, Some(b64)) => Ok(Some(unbase64(&b64, what)?)),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Error::damaged(format!("a manifest's entry has its {what} twice"))),
    }
}

fn unbase64(text: &str, what: &str) -> Result<Vec<u8>> {
    BASE64.decode(text).map_err(|e| Error::damaged(format!("a manifest's {what} is not base64")).because(e))
}

/// Writes one entry's line.
///
/// # Errors
/// Those of `out`.
pub fn write_entry(out: &mut dyn Write, path: &[u8], entry: &Entry) -> std::io::Result<()> {
    let (plain, path_b64) = text(path);
    let mut line = Line { path: plain, path_b64, kind: entry.kind.word().into(), ..Line::default() };
    let meta = matches!(entry.kind, Kind::File | Kind::Dir | Kind::Symlink);
    if meta {
        line.uid = Some(entry.owner.uid);
        line.gid = Some(entry.owner.gid);
        line.user = entry.owner.user.as_deref().map(|u| Text(u.into()));
        line.group = entry.owner.group.as_deref().map(|g| Text(g.into()));
        line.mtime = Some(entry.mtime.text().into());
        for (name, value) in &entry.xattrs {
            match std::str::from_utf8(name) {
                Ok(name) => drop(line.xattrs.insert(name.to_owned(), BASE64.encode(value))),
                Err(_) => line.xattrs_b64.push((BASE64.encode(name), BASE64.encode(value))),
            }
        }
    }
    if matches!(entry.kind, Kind::File | Kind::Dir) {
        line.mode = Some(format!("{:o}", entry.mode).into());
    }
    match entry.kind {
        Kind::File => {
            line.size = Some(entry.size);
            line.blake3 = Some(hex(&entry.blake3).into());
            line.extents.clone_from(&entry.extents);
            match &entry.delta {
                Some(delta) => {
                    let (base, base_b64) = text(&delta.base);
                    let extents = delta.extents.clone();
                    line.delta = Some(DeltaLine { n: delta.n, base, base_b64, at: entry.at, extents });
                }
                None => line.at = entry.at,
            }
        }
        Kind::Symlink | Kind::Hardlink => (line.target, line.target_b64) = text(&entry.target),
        Kind::Missing => line.reason = Some(Text(Cow::Borrowed(&entry.reason))),
        Kind::Dir | Kind::Deleted => {}
    }
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Parses one entry's line.
///
/// # Errors
/// [`Kind::Damaged`](crate::Kind::Damaged).
pub fn parse_entry(line: &[u8]) -> Result<(Vec<u8>, Entry)> {
    let line: Line =
        serde_json::from_slice(line).map_err(|e| Error::damaged("an entry of the manifest is malformed").because(e))?;
    let path =
        bytes(line.path, line.path_b64, "path")?.ok_or_else(|| Error::damaged("a manifest's entry has no path"))?;
    path::check(&path)?;
    let named = |why: String| Error::damaged(format!("entry {} of the manifest: {why}", path::printable(&path)));
    let need = |what: &str| named(format!("it has no {what}"));
    let kind = Kind::parse(&line.kind).ok_or_else(|| {
        named(format!("kind `{}` is not one that can be restored", path::printable(line.kind.as_bytes())))
    })?;
    let mut entry = Entry::new(kind);
    if matches!(kind, Kind::File | Kind::Dir) {
        entry.mode = line.mode.and_then(|m| u16::from_str_radix(&m, 8).ok()).ok_or_else(|| need("mode"))?;
    }
    if matches!(kind, Kind::File | Kind::Dir | Kind::Symlink) {
        let (uid, gid) = (line.uid.ok_or_else(|| need("uid"))?, line.gid.ok_or_else(|| need("gid"))?);
        let name = |text: Option<Text<'_>>| text.map(|t| t.0.into_owned());
        entry.owner = Owner { uid, gid, user: name(line.user), group: name(line.group) };
        entry.mtime = line.mtime.as_deref().and_then(Time::parse).ok_or_else(|| need("mtime"))?;
        for (name, value) in line.xattrs {
            entry.xattrs.push((name.into_bytes(), unbase64(&value, "xattr")?));
        }
        for (name, value) in line.xattrs_b64 {
            entry.xattrs.push((unbase64(&name, "xattr name")?, unbase64(&value, "xattr")?));
        }
        entry.xattrs.sort();
    }
    match kind {
        Kind::File => {
            entry.size = line.size.ok_or_else(|| need("size"))?;
            entry.blake3 = line.blake3.as_deref().and_then(unhex).ok_or_else(|| need("blake3"))?;
            entry.at = line.at;
            entry.extents = line.extents;
            if let Some(delta) = line.delta {
                let base = bytes(delta.base, delta.base_b64, "base")?.ok_or_else(|| need("base"))?;
                path::check(&base).map_err(|e| named(format!("its base is impossible: {e}")))?;
                if entry.at.is_some() {
                    return Err(named("it is stored whole and as a delta".to_owned()));
                }
                entry.at = delta.at;
                entry.delta = Some(Box::new(Delta { n: delta.n, base, extents: delta.extents }));
            }
        }
        Kind::Symlink | Kind::Hardlink => {
            entry.target = bytes(line.target, line.target_b64, "target")?.ok_or_else(|| need("target"))?;
        }
        Kind::Missing => entry.reason = line.reason.map(|r| r.0.into_owned()).unwrap_or_default(),
        Kind::Dir | Kind::Deleted => {}
    }
    entry.check().map_err(|e| named(e.to_string()))?;
    Ok((path, entry))
}
