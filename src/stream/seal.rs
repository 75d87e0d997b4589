//! Sealing with age and opening again, with the limits that the age crate leaves to its caller.

use std::io::{Read, Write};

use super::age_keys::{Identities, Recipients};
use crate::error::{Error, Kind, Result};

/// The longest age header a reader accepts, in bytes: some hundreds of recipients.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// Begins an age file in `out`; nothing is valid before [`age::stream::StreamWriter::finish`].
///
/// # Errors
/// Those of `out`, and recipients that cannot stand together.
pub fn begin<W: Write>(recipients: &Recipients, out: W) -> Result<age::stream::StreamWriter<W>> {
    age::Encryptor::with_recipients(recipients.iter())
        .map_err(|e| Error::failed("cannot encrypt to these recipients").because(e))?
        .wrap_output(out)
        .map_err(|e| Error::failed("cannot write an age header").because(e))
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

/// Opens the age file in `sealed`, which is called `what` in errors.
///
/// # Errors
/// [`Kind::NoIdentity`] when none of `identities` opens it, [`Kind::Damaged`] when it is no age file.
pub fn open<'a>(sealed: &'a [u8], identities: &Identities, what: &str) -> Result<impl Read + use<'a>> {
    if header_length(sealed).is_none() {
        return Err(Error::damaged(format!("{what} is not an age file")));
    }
    let damaged = |e: age::DecryptError| match e {
        age::DecryptError::NoMatchingKeys => Error::new(Kind::NoIdentity, format!("no identity at hand opens {what}"))
            .hint("name the recovery kit that belongs to this series with --identity"),
        e => Error::damaged(format!("{what} cannot be opened")).because(e),
    };
    age::Decryptor::new_buffered(sealed).map_err(damaged)?.decrypt(identities.iter()).map_err(damaged)
}
