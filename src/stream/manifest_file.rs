//! Manifests as objects: lines in zstd in age.

use std::io::{BufRead, BufReader, BufWriter, Read, Write as _};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;

use super::age_keys::{Identities, Recipients};
use super::archive_writer::skippable;
use super::seal;
use crate::error::{Error, Result};
use crate::model::entry::Entry;
use crate::model::loader::{Checker, Loader};
use crate::model::manifest::{HEADER_BYTES_MAX, Header, LINE_BYTES_MAX, parse_entry, write_entry};
use crate::model::store_key::Archive;
use crate::model::tree::Tree;
use crate::model::walk::Lines as Entries;

/// The zstd level of manifests: mostly digests, which no level makes smaller.
const LEVEL: i32 = 3;

/// The lines of the entries, compressed while the archive's last frames still are. They make a zstd frame of their own,
/// since the header before them is known last of all.
pub struct Lines<W: std::io::Write>(BufWriter<zstd::stream::write::Encoder<'static, W>>);

/// Lines that zstd is given at once, in bytes: it takes pieces of any size, and asks much of each.
const GATHERED_BYTES: usize = 64 << 10;

impl<W: std::io::Write> Lines<W> {
    /// No lines yet; they are kept in `out`.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub fn new(out: W) -> std::io::Result<Self> {
        let mut zstd = zstd::stream::write::Encoder::new(out, LEVEL)?;
        zstd.include_checksum(true)?;
        Ok(Lines(BufWriter::with_capacity(GATHERED_BYTES, zstd)))
    }

    /// Ends the lines and gives back what holds them.
    ///
    /// # Errors
    /// When the rest cannot be compressed.
    pub fn finish(self) -> std::io::Result<W> {
        self.0.into_inner().map_err(std::io::IntoInnerError::into_error)?.finish()
    }

    /// Adds the next entry, in ascending order of path.
    ///
    /// # Errors
    /// When it cannot be compressed.
    pub fn add(&mut self, path: &[u8], entry: &Entry) -> std::io::Result<()> {
        write_entry(&mut self.0, path, entry)
    }
}

/// Makes the object of the header and what [`Lines`] kept; `pad` as for secrets bundles.
///
/// # Errors
/// When the lines cannot be read, or it cannot be sealed.
pub fn write(header: &Header, recipients: &Recipients, pad: bool, lines: &mut dyn Read) -> Result<Vec<Bytes>> {
    let failed = |e: std::io::Error| Error::failed("cannot write the manifest").because(e);
    let mut counted = Counted { inner: seal::begin(recipients, Chunks::default())?, bytes: 0 };
    let mut zstd = zstd::stream::write::Encoder::new(&mut counted, LEVEL).map_err(failed)?;
    zstd.include_checksum(true).map_err(failed)?;
    serde_json::to_writer(&mut zstd, header).map_err(|e| failed(e.into()))?;
    zstd.write_all(b"\n").map_err(failed)?;
    zstd.finish().map_err(failed)?;
    std::io::copy(lines, &mut counted).map_err(failed)?;
    if pad {
        let padding = skippable(counted.bytes);
        counted.write_all(&padding).map_err(failed)?;
    }
    Ok(counted.inner.finish().map_err(failed)?.finish())
}

/// Bytes of memory that a manifest grows by: to double it as a vector does would take three times its size for a moment.
const CHUNK_BYTES: usize = 1 << 20;

/// Memory that grows by chunks.
#[derive(Default)]
struct Chunks {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

impl Chunks {
    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.full.push(self.open.into());
        }
        self.full
    }
}

impl std::io::Write for Chunks {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.open.len() == CHUNK_BYTES {
            self.full.push(std::mem::take(&mut self.open).into());
        }
        if self.open.capacity() == 0 {
            self.open.reserve_exact(CHUNK_BYTES);
        }
        let n = buf.len().min(CHUNK_BYTES - self.open.len());
        self.open.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: std::io::Write> std::io::Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// The lines of a manifest, one after the other.
struct LineReader<R> {
    input: R,
    line: Vec<u8>,
    name: String,
}

impl<R: BufRead> LineReader<R> {
    /// Reads the next line; `false` at the end.
    fn next(&mut self, limit: usize) -> Result<bool> {
        self.line.clear();
        let n = Read::take(&mut self.input, limit as u64)
            .read_until(b'\n', &mut self.line)
            .map_err(|e| truncated(&self.name, e))?;
        if n > 0 && self.line.pop() != Some(b'\n') {
            let name = &self.name;
            return Err(Error::damaged(format!("{name} ends in the middle of a line, or has one that is too long")));
        }
        Ok(n > 0)
    }

    fn header(&mut self) -> Result<Header> {
        if !self.next(HEADER_BYTES_MAX)? {
            return Err(Error::damaged(format!("{} is empty", self.name)));
        }
        Header::parse(&self.line)
    }
}

/// The object is held in memory, so whatever goes wrong with it is damage.
fn truncated(name: &str, e: std::io::Error) -> Error {
    Error::damaged(format!("{name} is truncated or altered")).because(e)
}

fn lines<'a>(name: &str, plain: impl Read + Send + 'a) -> Result<LineReader<Plain<'a>>> {
    let plain: Box<dyn Read + Send + 'a> = Box::new(plain);
    let mut zstd = zstd::stream::read::Decoder::new(plain).map_err(|e| truncated(name, e))?;
    // 2^27 is what stock zstd accepts without a flag.
    zstd.window_log_max(27).map_err(|e| truncated(name, e))?;
    Ok(LineReader { input: BufReader::with_capacity(1 << 16, zstd), line: Vec::new(), name: name.to_owned() })
}

/// The lines of a manifest, out of zstd, out of age.
type Plain<'a> = BufReader<zstd::stream::read::Decoder<'static, BufReader<Box<dyn Read + Send + 'a>>>>;

impl<R: BufRead> LineReader<R> {
    /// Gives all lines in batches, while `each` wants more, and has `drain` read what is left behind the last.
    fn batches(mut self, each: &mut dyn FnMut(Batch) -> bool, drain: impl FnOnce(R) -> Result<()>) -> Result<()> {
        let mut batch = Batch::new();
        while self.next(LINE_BYTES_MAX)? {
            batch.bytes.extend_from_slice(&self.line);
            batch.ends.push(batch.bytes.len());
            if batch.bytes.len() >= BATCH_BYTES && !each(std::mem::replace(&mut batch, Batch::new())) {
                return Ok(());
            }
        }
        if each(batch) { drain(self.input) } else { Ok(()) }
    }
}

/// Reads to age's last chunk, which proves that nothing was cut off.
fn drain(name: &str, input: Plain<'_>) -> Result<()> {
    let mut plain = input.into_inner().finish();
    std::io::copy(&mut plain, &mut std::io::sink()).map_err(|e| truncated(name, e))?;
    Ok(())
}

/// Reads only the header of the object `sealed`.
///
/// # Errors
/// As [`read`].
pub fn read_header(name: &str, sealed: &[u8], identities: &Identities) -> Result<Header> {
    lines(name, seal::open(sealed, identities, name)?)?.header()
}

/// Reads the object `sealed`, called `name` in errors, to its end.
///
/// # Errors
/// [`Kind::NoIdentity`](crate::Kind::NoIdentity), [`Kind::Damaged`](crate::Kind::Damaged), and what
/// [`Header::parse`] and [`Loader`] refuse.
pub fn read(name: &str, sealed: &[u8], identities: &Identities, archive: Archive) -> Result<(Header, Tree)> {
    let (header, lines) = begin(name, sealed, identities, archive)?;
    let mut loader = Loader::new(archive, &header);
    // A restore waits for this, so decompressing, parsing and building go side by side.
    std::thread::scope(|scope| {
        let (raw_out, raw_in) = sync_channel::<Result<Batch>>(BATCHES);
        let (out, parsed) = sync_channel::<Result<Vec<(Vec<u8>, Entry)>>>(BATCHES);
        // Whoever finds that nobody listens any more has nothing to tell: the error is known there.
        scope.spawn(move || {
            let name = lines.name.clone();
            let end = |input| drain(&name, input);
            if let Err(e) = lines.batches(&mut |batch| raw_out.send(Ok(batch)).is_ok(), end) {
                raw_out.send(Err(e)).unwrap_or(());
            }
        });
        scope.spawn(move || {
            for batch in raw_in {
                if out.send(batch.and_then(|batch| batch.entries())).is_err() {
                    break;
                }
            }
        });
        parsed
            .into_iter()
            .try_for_each(|batch| batch?.into_iter().try_for_each(|(path, entry)| loader.entry(path, &entry)))
    })?;
    let tree = loader.finish()?;
    Ok((header, tree))
}

/// How many batches wait between two threads.
const BATCHES: usize = 4;

/// Bytes after which a batch of lines is full.
const BATCH_BYTES: usize = 128 << 10;

/// Some lines of a manifest, one behind the other.
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// Room for what a batch has, so that it does not move as it grows.
    fn new() -> Batch {
        Batch { bytes: Vec::with_capacity(BATCH_BYTES + (4 << 10)), ends: Vec::with_capacity(1 << 10) }
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// All entries. There is room for them from the start, since they are large to move.
    fn entries(&self) -> Result<Vec<(Vec<u8>, Entry)>> {
        let mut out = Vec::with_capacity(self.ends.len());
        for line in self.lines() {
            out.push(parse_entry(line)?);
        }
        Ok(out)
    }
}

/// Reads the object `sealed` entry by entry: a chain's manifests are merged without holding any of them whole. Whoever
/// reaches the end knows that all was as the header says. A large one is read and parsed in a thread of its own, which ends
/// with the iterator.
///
/// # Errors
/// As [`read`], but for hard links, which are of the tree.
pub fn entries(
    name: &str,
    sealed: &Bytes,
    identities: &Identities,
    archive: Archive,
) -> Result<(Header, Entries<'static>)> {
    let (header, mut lines) = begin(name, std::io::Cursor::new(sealed.clone()), identities, archive)?;
    let checker = Checker::new(&header);
    let mut first = Vec::new();
    let read = Read::take(&mut lines.input, FIRST_BYTES).read_to_end(&mut first);
    let read = read.map_err(|e| truncated(name, e))? as u64;
    let name = name.to_owned();
    if read < FIRST_BYTES {
        drain(&name, lines.input)?;
        let mut lines = LineReader { input: std::io::Cursor::new(first), line: Vec::new(), name };
        let next = move || -> Result<Option<(Vec<u8>, Entry)>> {
            if lines.next(LINE_BYTES_MAX)? { parse_entry(&lines.line).map(Some) } else { Ok(None) }
        };
        return Ok((header, Box::new(checked(next, checker))));
    }
    // A chain may have many of these.
    let (out, parsed) = sync_channel::<Result<Vec<(Vec<u8>, Entry)>>>(1);
    std::thread::spawn(move || {
        let input = std::io::Cursor::new(first).chain(lines.input);
        let end = |rest: std::io::Chain<_, _>| drain(&name, rest.into_inner().1);
        let lines = LineReader { input, line: Vec::new(), name: name.clone() };
        let mut each = |batch: Batch| out.send(batch.entries()).is_ok();
        if let Err(e) = lines.batches(&mut each, end) {
            // Where nobody listens any more nobody wants to know.
            out.send(Err(e)).unwrap_or(());
        }
    });
    let mut batch = Vec::new().into_iter();
    let next = move || -> Result<Option<(Vec<u8>, Entry)>> {
        loop {
            if let Some(entry) = batch.next() {
                return Ok(Some(entry));
            }
            match parsed.recv() {
                Ok(more) => batch = more?.into_iter(),
                // A thread that panicked leaves entries out, which the sums tell.
                Err(_) => return Ok(None),
            }
        }
    };
    Ok((header, Box::new(checked(next, checker))))
}

/// How much of a manifest is read at once, in bytes. Most incrementals' are smaller, and what decompresses them need not
/// be kept until all of a chain is read.
const FIRST_BYTES: u64 = 256 << 10;

/// The entries that `next` gives until there is none, each checked; behind an error nothing comes.
fn checked(
    next: impl FnMut() -> Result<Option<(Vec<u8>, Entry)>>,
    checker: Checker,
) -> impl Iterator<Item = Result<(Vec<u8>, Entry)>> {
    let mut reading = Some((next, checker));
    let mut one = move || -> Result<Option<(Vec<u8>, Entry)>> {
        let Some((mut next, mut checker)) = reading.take() else { return Ok(None) };
        let Some((path, entry)) = next()? else {
            checker.finish()?;
            return Ok(None);
        };
        checker.entry(&path, &entry)?;
        reading = Some((next, checker));
        Ok(Some((path, entry)))
    };
    std::iter::from_fn(move || one().transpose())
}

/// Opens a manifest and reads its header.
fn begin<'a>(
    name: &str,
    sealed: impl BufRead + Send + 'a,
    identities: &Identities,
    archive: Archive,
) -> Result<(Header, LineReader<Plain<'a>>)> {
    let mut lines = lines(name, seal::open(sealed, identities, name)?)?;
    let header = lines.header()?;
    if header.archive != archive.word() {
        return Err(Error::damaged(format!("{name} is of another kind of archive than its commit says")));
    }
    Ok((header, lines))
}
