//! Where an image waits between the end of the transaction and its reader.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use age::stream::{StreamReader, StreamWriter};
use age::x25519::Identity;
use age::{Decryptor, Encryptor};
use tempfile::TempPath;

use super::{Job, Privacy, Sink, Stop};
use crate::error::{At, Error};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// An image being written.
pub(super) enum Spool<'a> {
    /// A private file with a name, so that SQLite can look at it.
    Plain { file: BufWriter<File>, path: TempPath },
    /// A file without a name, sealed to an identity that nobody else ever sees.
    Sealed { file: StreamWriter<BufWriter<File>>, identity: Identity, staging: std::path::PathBuf },
    /// Somebody who wants to see the image only once.
    Sink(&'a dyn Sink),
}

impl<'a> Spool<'a> {
    /// An empty spool, in staging where the job names nobody else.
    pub(super) fn new(job: &Job<'a>) -> Result<Self, Stop> {
        let staging = job.staging;
        if let Some(sink) = job.sink {
            sink.restart()?;
            return Ok(Spool::Sink(sink));
        }
        match job.privacy {
            Privacy::Open => {
                // Only the owner may read it, whatever the umask says: tempfile's own default.
                let named = tempfile::Builder::new().prefix("database-").tempfile_in(staging);
                let (file, path) = named.at("create a file in", staging)?.into_parts();
                Ok(Spool::Plain { file: BufWriter::with_capacity(BUFFER_BYTES, file), path })
            }
            Privacy::Secret => {
                let file = tempfile::tempfile_in(staging).at("create a file in", staging)?;
                let identity = Identity::generate();
                let recipient = identity.to_public();
                let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
                    .map_err(|e| Error::failed("cannot seal a database copy").because(e))?;
                let file = BufWriter::with_capacity(BUFFER_BYTES, file);
                let file = encryptor.wrap_output(file).at("write to", staging)?;
                Ok(Spool::Sealed { file, identity, staging: staging.to_owned() })
            }
        }
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        match self {
            Spool::Plain { file, path } => file.write_all(bytes).at("write to", path)?,
            Spool::Sealed { file, staging, .. } => file.write_all(bytes).at("write to", staging)?,
            Spool::Sink(sink) => sink.write(bytes)?,
        }
        Ok(())
    }

    /// Appends the first `bytes` of `source`; a shorter one must have changed.
    pub(super) fn fill(&mut self, source: &File, bytes: u64, path: &Path) -> Result<(), Stop> {
        let mut source = source;
        source.rewind().at("read", path)?;
        let mut part = source.take(bytes);
        // Between two plain files this stays inside the kernel.
        let copied = match self {
            Spool::Plain { file, .. } => io::copy(&mut part, file),
            Spool::Sealed { file, .. } => io::copy(&mut BufReader::with_capacity(BUFFER_BYTES, part), file),
            Spool::Sink(sink) => return pour(&mut part, *sink, bytes, path),
        };
        if copied.at("copy", path)? < bytes {
            return Err(Stop::Again("it changes while it is read".to_owned()));
        }
        Ok(())
    }

    /// Nothing more is written.
    #[must_use = "an unfinished spool is lost"]
    pub(super) fn finish(self) -> Result<Spooled<'a>, Stop> {
        match self {
            Spool::Plain { file, path } => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error).at("write to", &path)?;
                Ok(Spooled::Plain { file, path })
            }
            Spool::Sealed { file, identity, staging } => {
                let file = file.finish().at("write to", &staging)?;
                let mut file = file.into_inner().map_err(io::IntoInnerError::into_error).at("write to", &staging)?;
                file.rewind().at("read from", &staging)?;
                let sealed = BufReader::with_capacity(BUFFER_BYTES, file);
                let reader = Decryptor::new_buffered(sealed)
                    .and_then(|d| d.decrypt(std::iter::once(&identity as &dyn age::Identity)))
                    .map_err(|e| Error::failed("cannot open a sealed database copy").because(e))?;
                Ok(Spooled::Sealed(Box::new(reader)))
            }
            Spool::Sink(_) => Ok(Spooled::Seen(std::marker::PhantomData)),
        }
    }
}

/// Shows `sink` exactly `bytes` of a file.
fn pour(part: &mut dyn Read, sink: &dyn Sink, bytes: u64, path: &Path) -> Result<(), Stop> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    loop {
        match part.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                sink.write(&buffer[..n])?;
                done += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).at("copy", path).map_err(Stop::from),
        }
    }
    if done < bytes { Err(Stop::Again("it changes while it is read".to_owned())) } else { Ok(()) }
}

/// A complete image.
pub(super) enum Spooled<'a> {
    Plain {
        file: File,
        path: TempPath,
    },
    Sealed(Box<StreamReader<BufReader<File>>>),
    /// It went to a sink, and is nowhere any more.
    Seen(std::marker::PhantomData<&'a ()>),
}

impl Spooled<'_> {
    /// Its name, while it has one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Spooled::Plain { path, .. } => Some(path),
            Spooled::Sealed(_) | Spooled::Seen(_) => None,
        }
    }

    /// Takes its name away and starts reading it.
    pub(super) fn into_body(self) -> Result<Body, Stop> {
        match self {
            Spooled::Plain { mut file, path } => {
                file.rewind().at("read", &path)?;
                let name = path.to_path_buf();
                path.close().at("remove", &name)?;
                Ok(Body::Plain(file))
            }
            Spooled::Sealed(reader) => Ok(Body::Sealed(reader)),
            Spooled::Seen(_) => Err(Error::failed("a database that was streamed cannot be read again").into()),
        }
    }
}

/// The bytes of an image, in a file without a name.
pub(super) enum Body {
    Plain(File),
    Sealed(Box<StreamReader<BufReader<File>>>),
}

impl Body {
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        match self {
            Body::Plain(file) => file.rewind(),
            Body::Sealed(reader) => reader.rewind(),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Body::Plain(file) => file.read(buf),
            Body::Sealed(reader) => reader.read(buf),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}
