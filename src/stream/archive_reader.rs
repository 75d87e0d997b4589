//! The way back: a volume is opened, and each of its frames checked and decompressed.

use std::io::{BufRead, Read};

use super::age_keys::Identities;
use super::seal;
use crate::error::{Error, Result};
use crate::model::manifest::{FRAME_BYTES_MAX, Frame, VolumePlace};

/// Buffers for one reading thread, used again for every volume.
pub struct VolumeReader {
    compressed: Vec<u8>,
    tar: Vec<u8>,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl VolumeReader {
    /// A reader with empty buffers.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub fn new() -> Result<Self> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|e| Error::failed("cannot decompress").because(e))?;
        Ok(VolumeReader { compressed: Vec::new(), tar: Vec::new(), zstd })
    }

    /// Opens `sealed`, the volume called `name`, and shows `each` those of its `frames` that are `needed`, with their tar
    /// bytes.
    ///
    /// # Errors
    /// [`Kind::NoIdentity`](crate::Kind::NoIdentity); [`Kind::Damaged`](crate::Kind::Damaged) when anything is not as the
    /// frame table says, or the volume does not end where it must; those of `each`.
    #[allow(clippy::too_many_arguments, reason = "a volume, what is known of it, and what is wanted of it")]
    pub fn read(
        &mut self,
        name: &str,
        sealed: &mut dyn BufRead,
        place: &VolumePlace,
        frames: &[Frame],
        identities: &Identities,
        needed: &dyn Fn(&Frame) -> bool,
        each: &mut dyn FnMut(&Frame, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let truncated = |e| seal::read_error(name, e);
        let mut plain = seal::open(sealed, identities, name)?;
        let mut seen = 0;
        for frame in frames {
            self.compressed.resize(frame.length as usize, 0);
            plain.read_exact(&mut self.compressed).map_err(truncated)?;
            seen += u64::from(frame.length);
            if !needed(frame) {
                continue;
            }
            // Checked before decompressing: anybody can seal something to a public recipient.
            if *blake3::hash(&self.compressed).as_bytes() != frame.blake3 {
                return Err(Error::damaged(format!("a frame of {name} is not the one that the manifest lists")));
            }
            self.decompress(name, frame)?;
            each(frame, &self.tar)?;
        }
        // The rest is padding at most; age's last chunk must be reached, or the end could have been cut off.
        seen += std::io::copy(&mut plain, &mut std::io::sink()).map_err(truncated)?;
        if seen != place.plain {
            return Err(Error::damaged(format!("{name} is longer or shorter than the manifest says")));
        }
        Ok(())
    }

    fn decompress(&mut self, name: &str, frame: &Frame) -> Result<()> {
        let length = frame.tar_length.min(FRAME_BYTES_MAX) as usize;
        self.tar.clear();
        self.tar.reserve(length);
        let wrong = || Error::damaged(format!("a frame of {name} does not decompress to what the manifest says"));
        // The buffer's capacity bounds what a bomb can do, the length is checked exactly.
        let done = self.zstd.decompress_to_buffer(&self.compressed, &mut self.tar).map_err(|e| wrong().because(e))?;
        if done != length || self.tar.len() != length {
            return Err(wrong());
        }
        Ok(())
    }
}
