//! Large files as blocks of 4 KiB: which of them changed and when, and the hash of the whole file, in one pass.
//!
//! A block is a subtree of BLAKE3's tree over the file (section 2.1 of the BLAKE3 paper), so the chaining values that
//! tell blocks apart merge into the very hash that the manifest lists.

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::varint;
use crate::error::Result;

/// Bytes of a block; patches are made of whole ones.
pub const BLOCK_BYTES: usize = 4096;
/// Smaller files always travel whole, in bytes.
pub const BLOCKS_FROM: u64 = 64 << 10;
/// Blocks that one [`Row`] of the catalog tells of: 1 KiB of digests, so that a changed page rewrites little.
pub const ROW_BLOCKS: usize = 64;
/// Bytes of a chaining value that are kept to tell one content of a block from another.
const DIGEST_BYTES: usize = 16;

/// What tells one content of a block from another.
pub type BlockDigest = [u8; DIGEST_BYTES];

/// What is known of up to [`ROW_BLOCKS`] blocks in a row: digest, and the seq at which the content last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(pub Vec<(BlockDigest, u64)>);

impl Row {
    /// The row as bytes: digests, then runs of equal seqs as pairs of length and seq.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * DIGEST_BYTES + 8);
        varint::put(&mut out, self.0.len() as u64);
        self.0.iter().for_each(|(digest, _)| out.extend_from_slice(digest));
        for run in self.0.chunk_by(|a, b| a.1 == b.1) {
            varint::put(&mut out, run.len() as u64);
            varint::put(&mut out, run[0].1);
        }
        out
    }

    /// Reads what [`Row::encode`] wrote; `None` for anything else.
    pub fn decode(mut bytes: &[u8]) -> Option<Row> {
        let bytes = &mut bytes;
        let count = usize::try_from(varint::take(bytes)?).ok().filter(|n| *n <= ROW_BLOCKS)?;
        let digests = bytes.split_off(..count * DIGEST_BYTES)?;
        let (digests, _) = digests.as_chunks::<DIGEST_BYTES>();
        let mut row = Row(digests.iter().map(|d| (*d, 0)).collect());
        let mut done = 0;
        while done < count {
            let run = usize::try_from(varint::take(bytes)?).ok().filter(|n| *n > 0 && done + n <= count)?;
            let seq = varint::take(bytes)?;
            row.0[done..done + run].iter_mut().for_each(|block| block.1 = seq);
            done += run;
        }
        bytes.is_empty().then_some(row)
    }
}

/// Where the rows of one file are kept.
pub trait Rows {
    /// The row of that number, if it is known.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&mut self, number: u32) -> Result<Option<Row>>;
    /// Keeps a row.
    ///
    /// # Errors
    /// When it cannot be written.
    fn store(&mut self, number: u32, row: &Row) -> Result<()>;
    /// Forgets the rows from that number on.
    ///
    /// # Errors
    /// When they cannot be removed.
    fn truncate(&mut self, count: u32) -> Result<()>;
}

/// Nothing is known and nothing is kept: only the hash is wanted.
pub struct NoRows;

impl Rows for NoRows {
    fn load(&mut self, _: u32) -> Result<Option<Row>> {
        Ok(None)
    }
    fn store(&mut self, _: u32, _: &Row) -> Result<()> {
        Ok(())
    }
    fn truncate(&mut self, _: u32) -> Result<()> {
        Ok(())
    }
}

/// What blocks are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The seq that blocks get which changed.
    pub seq: u64,
    /// Blocks that changed after this seq are shown; `None` shows none.
    pub parent: Option<u64>,
    /// Whether the file is new, so that whatever is known of its path says nothing about it.
    pub born: bool,
}

/// What became of a file that was fed to a [`Differ`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// BLAKE3 of the content.
    pub blake3: [u8; 32],
    /// Bytes of content.
    pub size: u64,
}

/// Takes the content of one file from its start and shows the blocks that changed.
pub struct Differ<R> {
    rows: R,
    since: Since,
    known: Option<Row>,
    row: Row,
    tree: HashTree,
    /// The beginning of a block whose end has not come yet.
    begun: Vec<u8>,
}

impl<R: Rows> Differ<R> {
    /// A differ at the start of a file.
    pub fn new(rows: R, since: Since) -> Self {
        let begun = Vec::with_capacity(BLOCK_BYTES);
        Differ { rows, since, known: None, row: Row::default(), tree: HashTree::default(), begun }
    }

    /// Takes the next bytes; `changed` gets offset and content of every block that is to be shown.
    ///
    /// # Errors
    /// Those of the rows and of `changed`.
    pub fn update(&mut self, mut bytes: &[u8], changed: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        if !self.begun.is_empty() {
            let n = bytes.len().min(BLOCK_BYTES - self.begun.len());
            self.begun.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.begun.len() < BLOCK_BYTES {
                return Ok(());
            }
            let block = std::mem::take(&mut self.begun);
            self.block(&block, changed)?;
            self.begun = block;
            self.begun.clear();
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        blocks.iter().try_for_each(|block| self.block(block, changed))?;
        self.begun.extend_from_slice(rest);
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// As [`Differ::update`].
    pub fn finish(mut self, changed: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<Summary> {
        if !self.begun.is_empty() {
            let block = std::mem::take(&mut self.begun);
            self.block(&block, changed)?;
        }
        if !self.row.0.is_empty() {
            self.flush()?;
        }
        self.rows.truncate(row_number(self.tree.blocks.next_multiple_of(ROW_BLOCKS as u64)))?;
        Ok(Summary { size: self.tree.bytes, blake3: self.tree.root() })
    }

    fn block(&mut self, block: &[u8], changed: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let (offset, at) = (self.tree.bytes, self.row.0.len());
        if at == 0 && !self.since.born {
            self.known = self.rows.load(row_number(self.tree.blocks))?;
        }
        let mut digest = BlockDigest::default();
        digest.copy_from_slice(&self.tree.push(block)[..DIGEST_BYTES]);
        let known = self.known.as_ref().and_then(|row| row.0.get(at));
        let seq = known.filter(|known| known.0 == digest).map_or(self.since.seq, |known| known.1);
        self.row.0.push((digest, seq));
        if self.since.parent.is_some_and(|parent| seq > parent) {
            changed(offset, block)?;
        }
        if self.row.0.len() == ROW_BLOCKS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.known.as_ref() != Some(&self.row) {
            self.rows.store(row_number(self.tree.blocks - 1), &self.row)?;
        }
        self.known = None;
        self.row.0.clear();
        Ok(())
    }
}

/// The number of the row that holds a block: 32 bits count the rows of a petabyte.
fn row_number(block: u64) -> u32 {
    u32::try_from(block / ROW_BLOCKS as u64).unwrap_or(u32::MAX)
}

/// BLAKE3 over blocks whose chaining values are wanted, too.
#[derive(Default)]
struct HashTree {
    stack: Vec<ChainingValue>,
    blocks: u64,
    bytes: u64,
    /// The hash of the first block alone, for a file that ends with it.
    first: Option<[u8; 32]>,
}

impl HashTree {
    fn push(&mut self, block: &[u8]) -> ChainingValue {
        if self.blocks == 0 {
            self.first = Some(*blake3::hash(block).as_bytes());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(self.bytes);
        let value = hasher.update(block).finalize_non_root();
        // The last two subtrees of a file merge to its root, which is another function: so each waits for a successor.
        let merged = self.blocks.count_ones() as usize;
        while self.stack.len() > merged {
            let right = self.stack.pop().expect("longer than something");
            let left = self.stack.pop().expect("a pair is merged");
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
        self.stack.push(value);
        self.blocks += 1;
        self.bytes += block.len() as u64;
        value
    }

    fn root(mut self) -> [u8; 32] {
        if self.blocks <= 1 {
            return self.first.unwrap_or_else(|| *blake3::hash(&[]).as_bytes());
        }
        let mut right = self.stack.pop().expect("there are blocks");
        while let Some(left) = self.stack.pop() {
            if self.stack.is_empty() {
                return *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes();
            }
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        right
    }
}

/// Bytes of blocks that changed after `parent`, by the rows of a file of `size` bytes, without reading it.
///
/// # Errors
/// Those of the rows.
pub fn changed_bytes(rows: &mut dyn Rows, size: u64, parent: u64) -> Result<u64> {
    let mut bytes = 0;
    for number in 0..row_number(size.div_ceil(BLOCK_BYTES as u64).next_multiple_of(ROW_BLOCKS as u64)) {
        let row = rows.load(number)?.unwrap_or_default();
        bytes += row.0.iter().filter(|block| block.1 > parent).count() as u64 * BLOCK_BYTES as u64;
    }
    Ok(bytes.min(size))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{any, proptest};

    use super::*;

    impl Rows for &mut BTreeMap<u32, Vec<u8>> {
        fn load(&mut self, number: u32) -> Result<Option<Row>> {
            Ok(self.get(&number).map(|bytes| Row::decode(bytes).unwrap()))
        }
        fn store(&mut self, number: u32, row: &Row) -> Result<()> {
            self.insert(number, row.encode());
            Ok(())
        }
        fn truncate(&mut self, count: u32) -> Result<()> {
            self.retain(|number, _| *number < count);
            Ok(())
        }
    }

    fn pass(rows: &mut BTreeMap<u32, Vec<u8>>, content: &[u8], since: Since, piece: usize) -> (Summary, Vec<u64>) {
        let mut differ = Differ::new(rows, since);
        let mut shown = Vec::new();
        let mut show = |offset: u64, block: &[u8]| {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(content[at..at + block.len()], *block);
            shown.push(offset / BLOCK_BYTES as u64);
            Ok(())
        };
        content.chunks(piece).try_for_each(|piece| differ.update(piece, &mut show)).unwrap();
        let summary = differ.finish(&mut show).unwrap();
        (summary, shown)
    }

    fn noise(length: usize, seed: u8) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn the_hash_is_that_of_the_whole() {
        let content = noise(300 * BLOCK_BYTES, 1);
        let edges = [0, 1, 4095, 4096, 4097, 8192, 8193, 3 * 4096, 64 * 4096, 64 * 4096 + 1, 65 * 4096, 300 * 4096];
        for size in edges {
            for piece in [1000, 4096, 10_000] {
                let mut rows = BTreeMap::new();
                let since = Since { seq: 5, parent: None, born: false };
                let (summary, shown) = pass(&mut rows, &content[..size], since, piece);
                assert_eq!(summary.blake3, *blake3::hash(&content[..size]).as_bytes(), "{size} in pieces of {piece}");
                assert_eq!((summary.size, shown.len()), (size as u64, 0));
                assert_eq!(rows.len(), size.div_ceil(BLOCK_BYTES * ROW_BLOCKS));
            }
        }
    }

    #[test]
    fn changes_add_up_until_a_parent_has_them() {
        let mut content = noise(200 * BLOCK_BYTES + 7, 2);
        let mut rows = BTreeMap::new();
        let since = |seq, parent| Since { seq, parent: Some(parent), born: false };
        assert_eq!(pass(&mut rows, &content, since(10, 0), 5000).1.len(), 201);
        assert_eq!(pass(&mut rows, &content, since(20, 10), 5000).1.len(), 0);
        content[70 * BLOCK_BYTES] ^= 1;
        assert_eq!(pass(&mut rows, &content, since(30, 10), 5000).1, [70]);
        content.extend_from_slice(b"appended");
        assert_eq!(pass(&mut rows, &content, since(40, 30), 5000).1, [200]);
        assert_eq!(pass(&mut rows, &content, since(50, 10), 5000).1, [70, 200]);
        assert_eq!(changed_bytes(&mut &mut rows, content.len() as u64, 10).unwrap(), 2 * BLOCK_BYTES as u64);
        content.truncate(100 * BLOCK_BYTES);
        assert_eq!(pass(&mut rows, &content, since(60, 40), 5000).1.len(), 0);
        assert_eq!(rows.len(), 2);
        assert_eq!(pass(&mut rows, &content, Since { seq: 70, parent: Some(60), born: true }, 5000).1.len(), 100);
    }

    #[test]
    fn rows_that_were_not_written_by_us_are_none() {
        let row = Row((0..40).map(|n| ([n; 16], u64::from(n) / 7)).collect());
        let bytes = row.encode();
        assert_eq!(Row::decode(&bytes), Some(row));
        for length in 0..bytes.len() {
            assert_eq!(Row::decode(&bytes[..length]), None);
        }
        assert_eq!(Row::decode(&[&bytes[..], &[0]].concat()), None);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            Row::decode(&bytes);
        }

        #[test]
        fn any_edit_is_seen(size in 1..600_000usize, at: proptest::sample::Index, piece in 1..9000usize, bit in any::<u8>()) {
            let mut content = noise(size, 3);
            let mut rows = BTreeMap::new();
            pass(&mut rows, &content, Since { seq: 1, parent: None, born: true }, 7000);
            let at = at.index(size);
            content[at] ^= 1 << (bit % 8);
            let (summary, shown) = pass(&mut rows, &content, Since { seq: 2, parent: Some(1), born: false }, piece);
            assert_eq!(summary.blake3, *blake3::hash(&content).as_bytes());
            assert_eq!(shown, [(at / BLOCK_BYTES) as u64]);
        }
    }
}
