//! The way back: a volume is opened, and each of its frames checked and decompressed.

use std::io::{BufRead, Read, Seek as _, SeekFrom};

use super::age_keys::Identities;
use super::ranged::{Fetch, Ranged, Wanted};
use super::seal;
use crate::error::{Error, Result};
use crate::model::manifest::{FRAME_BYTES_MAX, Frame, VolumePlace};

/// How much of frames that follow each other is asked for at once, in bytes: what a thread then holds of it.
const RUN_BYTES: u64 = 2 << 20;

/// How much of a volume comes first, in bytes, if its header is not longer: those of a few recipients are shorter.
const FIRST_BYTES: u64 = 4 << 10;

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

    /// Opens `sealed`, the volume called `name`, and shows `each` of its `frames` with its tar bytes.
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
        each: &mut dyn FnMut(&Frame, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let truncated = |e| seal::read_error(name, e);
        let mut plain = seal::open(sealed, identities, name)?;
        let mut seen = 0;
        for frame in frames {
            self.compressed.resize(frame.length as usize, 0);
            plain.read_exact(&mut self.compressed).map_err(truncated)?;
            seen += u64::from(frame.length);
            self.check(name, frame)?;
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

    /// Reads single `frames` of a volume of `size` bytes, ascending, and nothing else of it but its header.
    ///
    /// # Errors
    /// As [`VolumeReader::read`]; that the volume was cut short behind them is not seen.
    #[allow(clippy::too_many_arguments, reason = "a volume, what is known of it, and what is wanted of it")]
    pub fn read_frames(
        &mut self,
        name: &str,
        fetch: &Fetch<'_>,
        size: u64,
        place: &VolumePlace,
        frames: &[&Frame],
        identities: &Identities,
        each: &mut dyn FnMut(&Frame, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let truncated = |e| seal::read_error(name, e);
        let wanted = Wanted::default();
        let chunks = place.header.saturating_add(seal::NONCE_BYTES);
        // Where the manifest is wrong about it, age still finds the end of the header.
        wanted.tell(0..chunks.clamp(FIRST_BYTES, seal::HEADER_BYTES_MAX as u64));
        let mut plain = seal::open_seekable(Ranged::new(fetch, size, &wanted), identities, name)?;
        let mut rest = frames;
        while let Some(first) = rest.first() {
            let (mut n, mut end) = (0, first.offset);
            while let Some(next) = rest.get(n).filter(|f| f.offset == end && (n == 0 || end - first.offset < RUN_BYTES))
            {
                end = next.offset + u64::from(next.length);
                n += 1;
            }
            // One byte earlier: whoever seeks to the start of a chunk makes age look at the end of the file.
            let from = first.offset.saturating_sub(1);
            let sealed = |plain: u64| chunks.saturating_add(plain.saturating_mul(seal::CHUNK_BYTES + seal::TAG_BYTES));
            wanted.tell(sealed(from / seal::CHUNK_BYTES)..sealed(end.div_ceil(seal::CHUNK_BYTES)));
            plain.seek(SeekFrom::Start(from)).map_err(truncated)?;
            if from < first.offset {
                plain.read_exact(&mut [0]).map_err(truncated)?;
            }
            for frame in &rest[..n] {
                self.frame(name, frame, &mut plain)?;
                each(frame, &self.tar)?;
            }
            rest = &rest[n..];
        }
        Ok(())
    }

    /// Reads the next frame, checks it and decompresses it.
    fn frame(&mut self, name: &str, frame: &Frame, plain: &mut dyn Read) -> Result<()> {
        self.compressed.resize(frame.length as usize, 0);
        plain.read_exact(&mut self.compressed).map_err(|e| seal::read_error(name, e))?;
        self.check(name, frame)?;
        self.decompress(name, frame)
    }

    /// Checked before decompressing: anybody can seal something to a public recipient.
    fn check(&self, name: &str, frame: &Frame) -> Result<()> {
        if *blake3::hash(&self.compressed).as_bytes() == frame.blake3 {
            return Ok(());
        }
        Err(Error::damaged(format!("a frame of {name} is not the one that the manifest lists")))
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
