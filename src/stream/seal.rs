//! Sealing with age and opening again, with the limits that the age crate leaves to its caller.

use std::io::{BufRead, Read, Seek, Write};

use super::age_keys::{Identities, Recipients, encryptor};
use crate::error::{Error, Kind, Result};

/// The longest age header a reader accepts, in bytes: some hundreds of recipients.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// Bytes between an age header and the first chunk.
pub const NONCE_BYTES: u64 = 16;
/// Bytes of plaintext in one of age's chunks.
pub const CHUNK_BYTES: u64 = 64 << 10;
/// Bytes that each chunk is longer when it is sealed.
pub const TAG_BYTES: u64 = 16;

/// Begins an age file in `out`; nothing is valid before [`age::stream::StreamWriter::finish`].
///
/// # Errors
/// Those of `out`, and recipients that cannot stand together.
pub fn begin<W: Write>(recipients: &Recipients, out: W) -> Result<age::stream::StreamWriter<W>> {
    encryptor(recipients)?.wrap_output(out).map_err(|e| Error::failed("cannot write an age header").because(e))
}

/// Length of the age header at the start of `bytes`, up to and with the newline of its last line; `None` if it has
/// none within [`HEADER_BYTES_MAX`].
pub fn header_length(bytes: &[u8]) -> Option<usize> {
    let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    if !head.starts_with(b"age-encryption.org/v1\n") {
        return None;
    }
    let mac = head.windows(5).position(|w| w == b"\n--- ")? + 1;
    head[mac..].iter().position(|b| *b == b'\n').map(|end| mac + end + 1)
}

/// Opens the age file in `sealed`, which is called `what` in errors. The first run of `sealed` must hold the header.
///
/// # Errors
/// [`Kind::NoIdentity`] when none of `identities` opens it, [`Kind::Damaged`] when it is no age file.
pub fn open<R: BufRead>(sealed: R, identities: &Identities, what: &str) -> Result<impl Read + use<R>> {
    begin_reading(sealed, identities, what)
}

/// [`open`] of what can be read here and there. To seek to the start of a chunk reads the end of the file, too.
///
/// # Errors
/// As [`open`].
pub fn open_seekable<R: BufRead + Seek>(
    sealed: R,
    identities: &Identities,
    what: &str,
) -> Result<impl Read + Seek + use<R>> {
    begin_reading(sealed, identities, what)
}

fn begin_reading<R: BufRead>(
    mut sealed: R,
    identities: &Identities,
    what: &str,
) -> Result<age::stream::StreamReader<R>> {
    let start = sealed.fill_buf().map_err(|e| match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) => Error::failed(format!("cannot read {what}")).because(e),
    })?;
    // age's parser has no limit of its own.
    if header_length(start).is_none() {
        return Err(Error::damaged(format!("{what} is not an age file")));
    }
    let damaged = |e: age::DecryptError| match e {
        age::DecryptError::NoMatchingKeys => Error::new(Kind::NoIdentity, format!("no identity at hand opens {what}"))
            .hint("name the recovery kit that belongs to this series with --identity"),
        age::DecryptError::Io(e) => read_error(what, e),
        // Its text cannot be had safely: a made-up amount of work overflows in it.
        age::DecryptError::ExcessiveWork { .. } => Error::damaged(format!("{what} asks for too much work")),
        e => Error::damaged(format!("{what} cannot be opened")).because(e),
    };
    age::Decryptor::new_buffered(sealed).map_err(damaged)?.decrypt(identities.iter()).map_err(damaged)
}

/// An error in the middle of an age file called `what`: damage, unless it came from the store itself.
pub fn read_error(what: &str, e: std::io::Error) -> Error {
    // A store that is far says what is wrong and what to do.
    let e = match e.downcast::<Error>() {
        Ok(error) => return error,
        Err(e) => e,
    };
    match e.kind() {
        std::io::ErrorKind::Other => Error::failed(format!("cannot read {what}")).because(e),
        _ => Error::damaged(format!("{what} is truncated or altered")).because(e),
    }
}
