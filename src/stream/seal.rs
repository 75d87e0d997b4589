//! Sealing with age and opening again, with the limits that the age crate leaves to its caller.

use std::io::{Read, Write};

use crate::error::{Error, Kind, Result};

/// The longest age header a reader accepts, in bytes: some hundreds of recipients.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// A recipient that can be used from any thread.
pub type Recipient = Box<dyn age::Recipient + Send + Sync>;
/// An identity that can be used from any thread.
pub type Identity = Box<dyn age::Identity + Send + Sync>;

/// Begins an age file in `out`; nothing is valid before [`age::stream::StreamWriter::finish`].
///
/// # Errors
/// Those of `out`, and recipients that cannot stand together.
pub fn begin<W: Write>(recipients: &[Recipient], out: W) -> Result<age::stream::StreamWriter<W>> {
    let recipients = recipients.iter().map(|r| r.as_ref() as &dyn age::Recipient);
    age::Encryptor::with_recipients(recipients)
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
pub fn open<'a>(sealed: &'a [u8], identities: &[Identity], what: &str) -> Result<impl Read + use<'a>> {
    if header_length(sealed).is_none() {
        return Err(Error::damaged(format!("{what} is not an age file")));
    }
    let damaged = |e: age::DecryptError| match e {
        age::DecryptError::NoMatchingKeys => Error::new(Kind::NoIdentity, format!("no identity at hand opens {what}"))
            .hint("name the recovery kit that belongs to this series with --identity"),
        e => Error::damaged(format!("{what} cannot be opened")).because(e),
    };
    let identities = identities.iter().map(|i| i.as_ref() as &dyn age::Identity);
    age::Decryptor::new_buffered(sealed).map_err(damaged)?.decrypt(identities).map_err(damaged)
}

/// Seals `plain` in memory.
///
/// # Errors
/// As [`begin`].
pub fn seal(recipients: &[Recipient], plain: &[u8]) -> Result<Vec<u8>> {
    let mut writer = begin(recipients, Vec::with_capacity(plain.len() + 1024))?;
    let failed = |e| Error::failed("cannot seal").because(e);
    writer.write_all(plain).map_err(failed)?;
    writer.finish().map_err(failed)
}
