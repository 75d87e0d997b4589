//! An object read here and there: what is near what was asked for comes in one request.

use std::cell::Cell;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

/// Gets the bytes of a range of the object.
pub type Fetch<'a> = dyn Fn(Range<u64>) -> std::io::Result<Bytes> + 'a;

/// Bytes that are asked for where nobody said what will be wanted: a chunk of age's, with its tag.
const STEP_BYTES: u64 = (64 << 10) + 16;

/// An object behind [`Fetch`]. It holds one run of bytes, which is as long as what was wanted last.
pub struct Ranged<'a> {
    fetch: &'a Fetch<'a>,
    size: u64,
    at: u64,
    run_start: u64,
    run: Bytes,
    wanted: Wanted,
}

/// What will be read of an object next, told beside whoever owns its reader.
#[derive(Clone, Default)]
pub struct Wanted(Rc<Cell<(u64, u64)>>);

impl Wanted {
    /// Says that `range` will be read.
    pub fn tell(&self, range: Range<u64>) {
        self.0.set((range.start, range.end));
    }
}

impl<'a> Ranged<'a> {
    /// The object of `size` bytes that `fetch` reads.
    pub fn new(fetch: &'a Fetch<'a>, size: u64, wanted: &Wanted) -> Self {
        Ranged { fetch, size, at: 0, run_start: 0, run: Bytes::new(), wanted: wanted.clone() }
    }

    /// What has come and is not read yet.
    fn rest(&self) -> Option<Range<usize>> {
        let skipped = usize::try_from(self.at.checked_sub(self.run_start)?).ok()?;
        (skipped < self.run.len()).then_some(skipped..self.run.len())
    }
}

impl BufRead for Ranged<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.rest().is_none() && self.at < self.size {
            let (start, end) = self.wanted.0.get();
            let end = if (start..end).contains(&self.at) { end } else { self.at.saturating_add(STEP_BYTES) };
            self.run = (self.fetch)(self.at..end.min(self.size))?;
            self.run_start = self.at;
            if self.run.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.rest().map_or(&[], |rest| &self.run[rest]))
    }

    fn consume(&mut self, n: usize) {
        self.at += n as u64;
    }
}

impl Read for Ranged<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let run = self.fill_buf()?;
        let n = run.len().min(buf.len());
        buf[..n].copy_from_slice(&run[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl Seek for Ranged<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_comes_at_once_and_nothing_else() {
        let object: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
        let asked = std::cell::RefCell::new(Vec::new());
        let fetch = |range: Range<u64>| {
            asked.borrow_mut().push(range.clone());
            Ok(Bytes::copy_from_slice(&object[range.start as usize..range.end as usize]))
        };
        let wanted = Wanted::default();
        let mut reader = Ranged::new(&fetch, object.len() as u64, &wanted);
        let mut read = |at: u64, n: usize| {
            reader.seek(SeekFrom::Start(at)).unwrap();
            let mut out = vec![0; n];
            reader.read_exact(&mut out).unwrap();
            assert_eq!(out, &object[at as usize..at as usize + n]);
        };
        wanted.tell(0..200);
        read(0, 150);
        wanted.tell(500_000..700_000);
        read(500_000, 10);
        read(500_100, 199_900);
        read(500_000, 5);
        read(900_000, 100_000);
        let asked = asked.borrow().clone();
        assert_eq!(asked[..2], [0..200, 500_000..700_000]);
        assert_eq!(asked[2..], [900_000..900_000 + STEP_BYTES, 900_000 + STEP_BYTES..1_000_000]);
        reader.seek(SeekFrom::Start(2_000_000)).unwrap();
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
    }
}
