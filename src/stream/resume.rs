//! What an archive notes of itself while it is written, so that the next run can go on where one was cut off.
//!
//! What is on the store is sealed with keys that nobody has any more and cannot be made again. It can be used again, though:
//! [`Past`] knows the volumes that arrived, and for each member in them its name and a digest of all that it consists of.
//! The next run makes its members as any run does; one that comes out the same is in the archive already, anything else is
//! appended, and counts as the later member of its name. So nothing depends on whether files look unchanged, but for the
//! one file that the cut went through: only its beginning is there, and `stat` says whether it still is what follows.
//!
//! The notes are two lists. Members are records of fixed size, noted before their bytes leave; volumes are lines of JSON,
//! noted before they are put and again when they are there. Whatever is malformed ends the list, as a kill in the middle of
//! a write leaves it, and is cut away before anything is noted behind it. A crash of the machine may keep the note of a
//! volume and lose those of what is in it: so each volume says how many records there were, and where there are fewer it is
//! not used. What is lost of the notes costs the upload of a few volumes, never a snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::commit::Object;
use crate::model::manifest::{Frame, VolumePlace, hex, unhex};
use crate::model::store_key::volume_name;

/// Bytes of a record: kind, name, digest, start, offset of the content, end, stamp.
const RECORD_BYTES: usize = 1 + 16 + 32 + 4 * 8;
/// The stamp of a file that is not to be continued.
pub const NO_STAMP: u64 = 0;

/// The beginning of the digest of a member's name: enough to tell names apart, and all that is kept of them.
type Name = [u8; 16];

fn name_of(path: &[u8]) -> Name {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
    out
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A member; the digest is of its header and its content.
    Whole = 1,
    /// A member that takes its time begins; the digest is of its header.
    Begun,
    /// It ended; the digest is of its content.
    Done,
    /// The tar ends.
    End,
    /// Another run goes on from here: what was noted beyond never arrived.
    Resumed,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    kind: Kind,
    name: Name,
    digest: [u8; 32],
    /// Where in the tar its header begins, its content begins, and its padding ends.
    start: u64,
    at: u64,
    end: u64,
    stamp: u64,
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[0] = self.kind as u8;
        out[1..17].copy_from_slice(&self.name);
        out[17..49].copy_from_slice(&self.digest);
        for (n, number) in [self.start, self.at, self.end, self.stamp].into_iter().enumerate() {
            out[49 + 8 * n..57 + 8 * n].copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    fn of_bytes(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
        let kind = match bytes[0] {
            1 => Kind::Whole,
            2 => Kind::Begun,
            3 => Kind::Done,
            4 => Kind::End,
            5 => Kind::Resumed,
            _ => return None,
        };
        let number = |n: usize| bytes[49 + 8 * n..57 + 8 * n].try_into().map(u64::from_le_bytes).ok();
        let (mut name, mut digest) = ([0; 16], [0; 32]);
        name.copy_from_slice(&bytes[1..17]);
        digest.copy_from_slice(&bytes[17..49]);
        Some(Record { kind, name, digest, start: number(0)?, at: number(1)?, end: number(2)?, stamp: number(3)? })
    }
}

/// A line of the list of volumes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A volume is about to be put.
    Sealed {
        index: usize,
        number: usize,
        size: u64,
        sha256: String,
        place: VolumePlace,
        frames: Vec<Frame>,
        /// How many members' records there were by then: those of all that is in it are among them.
        records: u64,
    },
    /// It is on the store.
    Stored(usize),
    /// Another run goes on behind so many volumes.
    Resumed(usize),
    /// The manifest is about to be put.
    Manifest,
}

/// A volume, sealed.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// Its place among the archive's volumes.
    pub index: usize,
    /// The number in its name.
    pub number: usize,
    /// What the commit will say of it.
    pub object: &'a Object,
    /// Its sizes.
    pub place: VolumePlace,
    /// The frames in it.
    pub frames: &'a [Frame],
}

/// Takes notes. One that cannot be written is the last: the archive goes on, and cannot be continued from there.
pub struct Ledger {
    members: Mutex<Option<Members>>,
    volumes: Mutex<Option<Box<dyn Write + Send>>>,
}

/// The list of members, and how many records it has.
struct Members {
    list: Box<dyn Write + Send>,
    records: u64,
}

impl Ledger {
    /// Appends to the two lists, which end where [`Past::whole_bytes`] says that what is whole of them ends; `volumes` MUST
    /// not buffer.
    pub fn new(past: &Past, members: Box<dyn Write + Send>, volumes: Box<dyn Write + Send>) -> Ledger {
        let members = Members { list: members, records: past.records };
        Ledger { members: Mutex::new(Some(members)), volumes: Mutex::new(Some(volumes)) }
    }

    /// Whether everything could be noted so far.
    pub fn is_whole(&self) -> bool {
        lock(&self.members).is_some() && lock(&self.volumes).is_some()
    }

    fn member(&self, record: Record) {
        let mut members = lock(&self.members);
        if let Some(Members { list, records }) = members.as_mut() {
            *records += 1;
            if list.write_all(&record.to_bytes()).is_err() {
                *members = None;
            }
        }
    }

    /// What lies in a volume has to be known before the volume is. `line` is told how many records there are.
    fn volume(&self, line: impl FnOnce(u64) -> Line) {
        let mut members = lock(&self.members);
        let Some(records) = members.as_mut().and_then(|m| m.list.flush().ok().map(|()| m.records)) else {
            *members = None;
            return;
        };
        drop(members);
        let mut volumes = lock(&self.volumes);
        let Ok(mut text) = serde_json::to_vec(&line(records)) else { return };
        text.push(b'\n');
        if volumes.as_mut().is_some_and(|list| list.write_all(&text).is_err()) {
            *volumes = None;
        }
    }

    /// A volume is about to be put.
    pub fn sealed(&self, volume: &Sealed<'_>) {
        self.volume(|records| Line::Sealed {
            records,
            index: volume.index,
            number: volume.number,
            size: volume.object.size,
            sha256: hex(&volume.object.sha256),
            place: volume.place,
            frames: volume.frames.to_vec(),
        });
    }

    /// The volume at `index` is on the store.
    pub fn stored(&self, index: usize) {
        self.volume(|_| Line::Stored(index));
    }

    /// The manifest is about to be put: from now on there may be one.
    pub fn manifest(&self) {
        self.volume(|_| Line::Manifest);
    }

    /// The archive goes on behind what `past` has.
    pub fn resumed(&self, past: &Past) {
        let floor = past.floor;
        self.member(Record { start: floor, at: floor, end: floor, ..Record::nameless(Kind::Resumed) });
        // Whoever goes on from here once more has to know of it, too.
        if let Some(cut) = &past.cut {
            self.member(*cut);
        }
        self.volume(|_| Line::Resumed(past.objects.len()));
    }

    /// A member that is about to be written whole: its header begins at `start`, its content at `at`.
    pub fn whole(&self, path: &[u8], digest: [u8; 32], (start, at, end): (u64, u64, u64)) {
        self.member(Record { kind: Kind::Whole, name: name_of(path), digest, start, at, end, stamp: NO_STAMP });
    }

    /// The tar ends at `start`.
    pub fn end(&self, start: u64) {
        self.member(Record { start, at: start, end: start, ..Record::nameless(Kind::End) });
    }
}

impl Record {
    fn nameless(kind: Kind) -> Record {
        Record { kind, name: [0; 16], digest: [0; 32], start: 0, at: 0, end: 0, stamp: NO_STAMP }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Who panicked with it left a list that is as good as one that a crash cut.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a member in the volumes that arrived.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Of header and content, or, of one that took its time, of the header.
    digest: [u8; 32],
    start: u64,
    at: u64,
    /// Of one that took its time: the digest of its content, once it was whole.
    content: Option<[u8; 32]>,
    long: bool,
    /// Whether this run has made a member of this name, too.
    made: bool,
}

/// What is to be done about a member that takes its time.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    record: Record,
    /// What its content has to come to, where all of it is there.
    expected: Option<[u8; 32]>,
}

impl Begun {
    /// Where in the tar its header begins.
    pub fn start(&self) -> u64 {
        self.record.start
    }
}

/// What an earlier run has brought to the store.
#[derive(Debug, Default)]
pub struct Past {
    floor: u64,
    /// The frames in it.
    pub frames: Vec<Frame>,
    /// The sizes of its volumes.
    pub volumes: Vec<VolumePlace>,
    /// Its volumes, as the commit lists them.
    pub objects: Vec<Object>,
    /// The lowest number that no volume ever had.
    pub next_number: usize,
    /// Whether a manifest may be there.
    pub manifest: bool,
    known: HashMap<Name, Known>,
    /// The member that the end of the volumes goes through.
    cut: Option<Record>,
    /// Whole records in the list of members, and bytes of whole lines in that of volumes.
    records: u64,
    lines_bytes: u64,
}

/// What the list of members tells.
struct Noted {
    /// The records in force.
    records: Vec<Record>,
    /// Where the tar ends.
    end: u64,
    /// Behind how many records a run went on, and from where in the tar.
    resumed: Vec<(u64, u64)>,
}

/// A volume as its lines tell it.
struct Told {
    object: Object,
    place: VolumePlace,
    frames: Vec<Frame>,
    records: u64,
    stored: bool,
}

impl Past {
    /// Reads notes. `is_there` says of a volume whether it is on the store: of one of which that was noted, whether it still
    /// is, and of one that was only begun, whether it arrived all the same, as it was sealed.
    ///
    /// # Errors
    /// When they cannot be read; what is malformed ends them.
    pub fn read(
        members: &mut dyn Read,
        volumes: &mut dyn BufRead,
        is_there: &dyn Fn(&Object, bool) -> bool,
    ) -> std::io::Result<Past> {
        let mut past = Past::default();
        let told = past.read_volumes(volumes)?;
        let Noted { records, end, resumed } = past.read_members(members)?;
        let mut tar_end = 0;
        let mut ends = vec![0];
        for (index, told) in told {
            let follows = told.frames.first().is_some_and(|f| f.tar_offset == tar_end);
            tar_end = told.frames.last().map_or(tar_end, Frame::tar_end);
            // What follows the end of a tar is seen by nobody, and where notes of members are lost nobody knows its ends.
            let noted = tar_end <= end && told.records <= past.records;
            // A later run went on before its end, and noted members in the place of its own.
            let replaced = resumed.iter().any(|(records, floor)| told.records <= *records && tar_end > *floor);
            let usable = index == past.objects.len() && follows && noted && !replaced;
            if !usable || !is_there(&told.object, told.stored) {
                break;
            }
            past.objects.push(told.object);
            past.volumes.push(told.place);
            past.frames.extend(told.frames);
            ends.push(tar_end);
        }
        // A header that is cut cannot be told from damage by any tar: then one volume less will do.
        let is_in_header = |floor: u64| records.iter().any(|r| r.start < floor && floor < r.at);
        while is_in_header(ends[past.objects.len()]) {
            past.objects.pop();
        }
        past.floor = ends[past.objects.len()];
        past.volumes.truncate(past.objects.len());
        past.frames.retain(|f| f.tar_offset < past.floor);
        let floor = past.floor;
        for record in records.iter().filter(|r| r.start < floor) {
            past.note(record);
        }
        Ok(past)
    }

    fn read_volumes(&mut self, volumes: &mut dyn BufRead) -> std::io::Result<BTreeMap<usize, Told>> {
        let mut out = BTreeMap::new();
        let mut text = Vec::new();
        while volumes.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
            let Ok(line) = serde_json::from_slice(&text) else { break };
            self.lines_bytes += text.len() as u64;
            text.clear();
            match line {
                Line::Sealed { index, number, size, sha256, place, frames, records } => {
                    self.next_number = self.next_number.max(number + 1);
                    let Some(sha256) = unhex(&sha256) else { break };
                    let object = Object { name: volume_name(number), size, sha256 };
                    out.insert(index, Told { object, place, frames, records, stored: false });
                }
                Line::Stored(index) => {
                    if let Some(told) = out.get_mut(&index) {
                        told.stored = true;
                    }
                }
                Line::Resumed(volumes) => drop(out.split_off(&volumes)),
                Line::Manifest => self.manifest = true,
            }
        }
        Ok(out)
    }

    fn read_members(&mut self, list: &mut dyn Read) -> std::io::Result<Noted> {
        let mut out = Noted { records: Vec::new(), end: u64::MAX, resumed: Vec::new() };
        let mut bytes = [0; RECORD_BYTES];
        loop {
            match list.read_exact(&mut bytes) {
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(out),
                other => other?,
            }
            let Some(record) = Record::of_bytes(&bytes) else { return Ok(out) };
            match record.kind {
                Kind::Resumed => {
                    out.records.retain(|r| r.end <= record.end);
                    out.end = u64::MAX;
                    out.resumed.push((self.records, record.end));
                }
                Kind::End => out.end = record.start,
                _ => out.records.push(record),
            }
            self.records += 1;
        }
    }

    fn note(&mut self, record: &Record) {
        let Record { kind, name, digest, start, at, end, stamp } = *record;
        match kind {
            Kind::Whole | Kind::Begun => {
                let (is_cut, long) = (end > self.floor, kind == Kind::Begun);
                if is_cut {
                    // Of a member that was to be there at once nobody knows what follows.
                    let stamp = if long { stamp } else { NO_STAMP };
                    self.cut = Some(Record { kind: Kind::Begun, stamp, ..*record });
                }
                let long = long || is_cut;
                self.known.insert(name, Known { digest, start, at, content: None, long, made: false });
            }
            // Read to its end it was, and not all of it arrived.
            Kind::Done if end > self.floor => {}
            Kind::Done => {
                if let Some(known) = self.known.get_mut(&name).filter(|known| known.long && known.at == at) {
                    known.content = Some(digest);
                }
            }
            Kind::End | Kind::Resumed => {}
        }
    }

    /// How many bytes of the list of members, and of that of volumes, are whole. What follows has to be cut away before
    /// anything is noted behind it, or that could not be read.
    pub fn whole_bytes(&self) -> (u64, u64) {
        (self.records * RECORD_BYTES as u64, self.lines_bytes)
    }

    /// Where in the tar what is missing begins.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Bytes of the volumes that are there.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|o| o.size).sum()
    }

    /// Whether each member that is there is one of `names`: one that is not would stay in the tar and nowhere else.
    pub fn is_part_of(&self, names: impl Iterator<Item = Vec<u8>>) -> bool {
        let all: HashSet<Name> = names.map(|name| name_of(&name)).collect();
        self.known.keys().chain(self.cut.as_ref().map(|cut| &cut.name)).all(|name| all.contains(name))
    }
}

/// What a writer of tar asks about members: what is there already, and what it notes about the rest.
pub struct Notes {
    ledger: std::sync::Arc<Ledger>,
    past: Past,
}

impl Notes {
    /// Notes of an archive that begins, or goes on behind `past`.
    pub fn new(ledger: std::sync::Arc<Ledger>, past: Past) -> Notes {
        Notes { ledger, past }
    }

    /// Where the notes go.
    pub fn ledger(&self) -> &std::sync::Arc<Ledger> {
        &self.ledger
    }

    /// What is there.
    pub fn past(&self) -> &Past {
        &self.past
    }

    /// Where the content of a member is that is there already.
    pub fn find(&mut self, path: &[u8], digest: &[u8; 32]) -> Option<u64> {
        let known = self.past.known.get_mut(&name_of(path))?;
        let same = !known.long && !known.made && known.digest == *digest;
        known.made |= same;
        same.then_some(known.at)
    }

    /// A member that is written now, since it is not there or is another one by now.
    pub fn whole(&mut self, path: &[u8], digest: [u8; 32], places: (u64, u64, u64)) {
        self.made(path);
        self.ledger.whole(path, digest, places);
    }

    fn made(&mut self, path: &[u8]) {
        if let Some(known) = self.past.known.get_mut(&name_of(path)) {
            known.made = true;
        }
    }

    /// Whether this is the member that the cut went through, and might go on.
    pub fn is_cut(&self, path: &[u8]) -> bool {
        self.past.cut.as_ref().is_some_and(|cut| cut.stamp != NO_STAMP && cut.name == name_of(path))
    }

    /// Whether there is such a member.
    pub fn has_cut(&self) -> bool {
        self.past.cut.as_ref().is_some_and(|cut| cut.stamp != NO_STAMP)
    }

    /// A member that takes its time: where it is, if all or the beginning of it is there.
    pub fn begin(&mut self, path: &[u8], digest: &[u8; 32], stamp: u64) -> Option<Begun> {
        let name = name_of(path);
        if let Some(record) = self
            .past
            .cut
            .take_if(|cut| cut.name == name && cut.digest == *digest && cut.stamp == stamp && stamp != NO_STAMP)
        {
            self.made(path);
            return Some(Begun { record, expected: None });
        }
        let known = self.past.known.get(&name).filter(|k| k.long && !k.made && k.digest == *digest)?;
        let expected = Some(known.content?);
        let record = Record { start: known.start, at: known.at, ..Record::nameless(Kind::Begun) };
        Some(Begun { record: Record { name, ..record }, expected })
    }

    /// The same for one that is written now.
    pub fn begin_new(&mut self, path: &[u8], digest: [u8; 32], (start, at, end): (u64, u64, u64), stamp: u64) -> Begun {
        self.made(path);
        let record = Record { kind: Kind::Begun, name: name_of(path), digest, start, at, end, stamp };
        self.ledger.member(record);
        Begun { record, expected: None }
    }

    /// The content of such a member came to `content`. Says whether that is what is there.
    pub fn end(&mut self, begun: &Begun, content: [u8; 32]) -> bool {
        match begun.expected {
            None => {
                self.ledger.member(Record { kind: Kind::Done, digest: content, ..begun.record });
                true
            }
            Some(expected) => {
                let known = self.past.known.get_mut(&begun.record.name);
                if let Some(known) = known {
                    known.made = expected == content;
                    // Another try writes it.
                    known.content = known.content.filter(|_| known.made);
                }
                expected == content
            }
        }
    }

    /// The member that the cut went through will not go on: up to where it has to be filled.
    pub fn give_up_cut(&mut self) -> Option<u64> {
        let cut = self.past.cut.take()?;
        self.ledger.member(Record { stamp: NO_STAMP, ..cut });
        Some(cut.end)
    }

    /// The tar ends at `start`. Says whether all that is there was made once more.
    pub fn finish(&self, start: u64) -> bool {
        self.ledger.end(start);
        self.past.known.values().all(|known| known.made)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A list in memory, read while it is written.
    #[derive(Clone, Default)]
    struct List(Arc<Mutex<Vec<u8>>>);

    impl Write for List {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Lists {
        members: List,
        volumes: List,
    }

    impl Lists {
        /// As a run begins: what is not whole is cut away.
        fn ledger(&self) -> Arc<Ledger> {
            let past = self.read();
            let (members, volumes) = past.whole_bytes();
            for (list, whole) in [(&self.members, members), (&self.volumes, volumes)] {
                list.0.lock().unwrap().truncate(usize::try_from(whole).unwrap());
            }
            Arc::new(Ledger::new(&past, Box::new(self.members.clone()), Box::new(self.volumes.clone())))
        }

        fn read(&self) -> Past {
            let (members, volumes) = (self.members.0.lock().unwrap().clone(), self.volumes.0.lock().unwrap().clone());
            Past::read(&mut &members[..], &mut &volumes[..], &|_, noted| noted).unwrap()
        }

        /// Volumes of 1000 bytes of tar each, those in `stored` on the store.
        fn volumes(&self, ledger: &Ledger, all: std::ops::Range<usize>, stored: &[usize]) {
            for index in all.clone() {
                let number = index + 10;
                let object = Object { name: volume_name(number), size: 100, sha256: [7; 32] };
                let (volume, tar_offset) = (u32::try_from(index).unwrap(), index as u64 * 1000);
                let frame = Frame { volume, offset: 0, length: 99, tar_offset, tar_length: 1000, blake3: [1; 32] };
                let place = VolumePlace { header: 10, plain: 99 };
                ledger.sealed(&Sealed { index, number, object: &object, place, frames: &[frame] });
            }
            stored.iter().for_each(|index| ledger.stored(*index));
        }
    }

    #[test]
    fn only_what_is_there_without_a_gap_counts() {
        let lists = Lists::default();
        lists.volumes(&lists.ledger(), 0..5, &[0, 1, 3, 4]);
        let past = lists.read();
        assert_eq!((past.objects.len(), past.floor(), past.next_number), (2, 2000, 15));
        assert_eq!((past.frames.len(), past.volumes.len()), (2, 2));
    }

    #[test]
    fn a_header_that_is_cut_costs_its_volume() {
        for (start, at, volumes) in [(1990, 2000, 2), (1990, 2010, 1), (2000, 2010, 2), (900, 1990, 2), (900, 2001, 0)]
        {
            let lists = Lists::default();
            let ledger = lists.ledger();
            ledger.whole(b"home/a", [3; 32], (start, at, 5000));
            lists.volumes(&ledger, 0..2, &[0, 1]);
            assert_eq!(lists.read().objects.len(), volumes, "{start} {at}");
        }
    }

    #[test]
    fn nothing_follows_the_end_of_a_tar() {
        let lists = Lists::default();
        let ledger = lists.ledger();
        ledger.end(1500);
        lists.volumes(&ledger, 0..2, &[0, 1]);
        assert_eq!(lists.read().objects.len(), 1);
    }

    #[test]
    fn what_was_noted_beyond_the_end_never_arrived() {
        let lists = Lists::default();
        let ledger = lists.ledger();
        ledger.whole(b"home/a", [1; 32], (0, 500, 900));
        ledger.whole(b"home/b", [2; 32], (1200, 1300, 1400));
        ledger.whole(b"home/c", [3; 32], (900, 950, 1100));
        lists.volumes(&ledger, 0..2, &[0]);
        let past = lists.read();
        let ledger = lists.ledger();
        ledger.resumed(&past);
        let mut notes = Notes::new(Arc::clone(&ledger), past);
        assert_eq!(notes.find(b"home/a", &[1; 32]), Some(500));
        assert_eq!(notes.find(b"home/b", &[2; 32]), None, "it lies beyond");
        assert_eq!(notes.find(b"home/c", &[3; 32]), None, "only its beginning is there");
        // This run writes other members, and gets further.
        assert_eq!(notes.give_up_cut(), Some(1100));
        notes.whole(b"home/d", [4; 32], (1100, 1200, 2000));
        lists.volumes(&ledger, 1..2, &[1]);
        let mut notes = Notes::new(lists.ledger(), lists.read());
        assert_eq!(notes.find(b"home/b", &[2; 32]), None, "it never arrived");
        assert_eq!(notes.find(b"home/d", &[4; 32]), Some(1200));
        assert_eq!(notes.find(b"home/a", &[1; 32]), Some(500));
        assert!(!notes.finish(2000), "the remains of c stand in the tar");
        notes.whole(b"home/c", [5; 32], (2000, 2100, 2200));
        assert!(notes.finish(2200));
    }

    #[test]
    fn a_member_that_was_read_to_its_end_is_there_only_if_it_arrived() {
        for (end, there) in [(1000, true), (1001, false)] {
            let lists = Lists::default();
            let mut notes = Notes::new(lists.ledger(), Past::default());
            let begun = notes.begin_new(b"home/a", [1; 32], (0, 500, end), 77);
            assert!(notes.end(&begun, [2; 32]));
            lists.volumes(notes.ledger(), 0..2, &[0]);
            let mut notes = Notes::new(lists.ledger(), lists.read());
            assert_eq!(notes.has_cut(), !there);
            assert!(notes.begin(b"home/a", &[1; 32], 78).is_none_or(|_| there), "another stamp goes on");
            let begun = notes.begin(b"home/a", &[1; 32], 77).unwrap();
            assert_eq!(begun.start(), 0);
            // What arrived is compared; what did not is written now, whatever it is.
            assert_eq!(notes.end(&begun, [3; 32]), !there);
            assert!(notes.begin(b"home/a", &[1; 32], 77).is_none());
        }
    }

    /// However much of the list of members is lost: a volume is used only if all notes of what is in it are there.
    #[test]
    fn a_volume_needs_the_notes_of_what_is_in_it() {
        let whole = Lists::default();
        let ledger = whole.ledger();
        for index in 0..3 {
            let start = 1000 * index;
            ledger.whole(format!("home/{index}").as_bytes(), [1; 32], (start, start + 500, start + 900));
            whole.volumes(&ledger, usize::try_from(index).unwrap()..usize::try_from(index).unwrap() + 1, &[0, 1, 2]);
        }
        let bytes = whole.members.0.lock().unwrap().len();
        for kept in 0..=bytes {
            let lists = Lists { volumes: whole.volumes.clone(), ..Lists::default() };
            lists.members.0.lock().unwrap().extend(&whole.members.0.lock().unwrap()[..kept]);
            assert_eq!(lists.read().objects.len(), kept / RECORD_BYTES, "{kept} of {bytes}");
        }
        // A line that lacks its end is as good as none: what is noted next would stand in it.
        whole.volumes.0.lock().unwrap().pop();
        let (past, end) = (whole.read(), whole.volumes.0.lock().unwrap().len());
        assert!(past.whole_bytes().1 < u64::try_from(end).unwrap());
    }

    /// The note that a run went on may be lost from one list and not from the other.
    #[test]
    fn what_a_later_run_replaced_is_not_used_again() {
        let lists = Lists::default();
        let ledger = lists.ledger();
        ledger.whole(b"home/a", [1; 32], (0, 500, 900));
        ledger.whole(b"home/b", [2; 32], (1000, 1500, 1900));
        lists.volumes(&ledger, 0..2, &[0, 1]);
        let before = lists.volumes.0.lock().unwrap().clone();
        // The next one found the second of them gone, and stored another in its place.
        let past = {
            let (members, volumes) = (lists.members.0.lock().unwrap().clone(), before.clone());
            let first = |object: &Object, noted| noted && object.name == volume_name(10);
            Past::read(&mut &members[..], &mut &volumes[..], &first).unwrap()
        };
        let ledger = lists.ledger();
        ledger.resumed(&past);
        ledger.whole(b"home/c", [3; 32], (1000, 1100, 1900));
        lists.volumes(&ledger, 1..2, &[1]);
        assert_eq!(lists.read().objects.len(), 2);
        // Its own lines are lost, and the older one is there after all.
        *lists.volumes.0.lock().unwrap() = before;
        assert_eq!(lists.read().objects.len(), 1);
    }

    #[test]
    fn a_list_ends_where_it_is_malformed() {
        let lists = Lists::default();
        let ledger = lists.ledger();
        ledger.whole(b"home/a", [1; 32], (0, 500, 900));
        lists.volumes(&ledger, 0..1, &[0]);
        lists.members.0.lock().unwrap().extend([9; 200]);
        lists.volumes.0.lock().unwrap().extend(b"{\"stored\":");
        // What another run notes is read behind it, and not as a part of it.
        let ledger = lists.ledger();
        ledger.resumed(&lists.read());
        ledger.whole(b"home/b", [2; 32], (1000, 1500, 1900));
        lists.volumes(&ledger, 1..2, &[1]);
        let mut notes = Notes::new(ledger, lists.read());
        assert_eq!(notes.past().objects.len(), 2);
        assert_eq!(notes.find(b"home/a", &[1; 32]), Some(500));
        assert_eq!(notes.find(b"home/b", &[2; 32]), Some(1500));
    }
}
