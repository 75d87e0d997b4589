//! Mirrors: other stores that a backup brings up to date when it has written what it had to write. One that is down does
//! not fail the backup; it is told by each run until it has caught up.
//!
//! What became of each is remembered beside the catalog. That is told by `status`, spares asking a mirror that has
//! everything, and is all there is to know of one that may not be listed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::catch_up::{Copied, Series, Why};
use super::transfer::Way;
use super::write_archive::clock_text;
use super::{Event, Events, bytes_text, copy, count_text, prune};
use crate::error::{Error, Kind, Result};
use crate::host::replace::replace_file;
use crate::host::store::Store;
use crate::host::world::{Lock, World, private_dir};
use crate::model::config::Config;
use crate::model::path::printable;
use crate::stream::signers::Signers;

/// A mirror that has everything is asked again after so many seconds: receipts of drills, and what was lost there.
const AGAIN_SECONDS: i64 = 86_400;

/// How a mirror stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The store.
    pub store: String,
    /// Archives that this run copied.
    pub archives: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Archives past their life that were removed there, if it is a directory.
    pub pruned: u64,
    /// RFC 3339: when it last had everything.
    pub up_to_date: Option<String>,
    /// The same in Unix seconds.
    pub up_to_date_unix: Option<i64>,
    /// RFC 3339: since when it has not.
    pub behind_since: Option<String>,
    /// The same in Unix seconds.
    pub behind_since_unix: Option<i64>,
    /// Why it has not.
    pub why: Option<String>,
}

impl Standing {
    /// What is wrong with it, as a sentence.
    pub fn problem(&self) -> Option<String> {
        let why = self.why.as_ref()?;
        let since = self.behind_since.as_ref().map_or(String::new(), |since| format!(", since {since}"));
        Some(format!("the mirror {} is behind{since}: {why}", self.store))
    }

    /// For a person: what was copied, or how it stands.
    pub fn text(&self) -> String {
        match (&self.why, &self.up_to_date) {
            (None, Some(at)) => format!("{}, up to date at {at}", self.store),
            (_, at) => {
                let last = at.as_ref().map_or("it never had everything".to_owned(), |at| format!("up to date at {at}"));
                let since = self.behind_since.as_deref().unwrap_or("now");
                format!("{}, BEHIND since {since}; {last}", self.store)
            }
        }
    }

    /// For a person, after a backup.
    pub fn copied_text(&self) -> Option<String> {
        let (archives, bytes) = (count_text(self.archives, "archive"), bytes_text(self.bytes));
        (self.archives > 0).then(|| format!("copied {archives}, {bytes}, to {}", self.store))
    }
}

/// What is remembered of a mirror.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Memory {
    store: String,
    up_to_date: Option<i64>,
    behind_since: Option<i64>,
    why: Option<String>,
    /// The seq of the newest archive that it has, if it has everything before it, too.
    seq: Option<u64>,
    /// When what is past its life was last removed there.
    pruned: Option<i64>,
    /// What is known to be there, of one that may not be listed.
    put: BTreeSet<String>,
}

impl Memory {
    fn standing(&self) -> Standing {
        Standing {
            store: printable(self.store.as_bytes()),
            up_to_date: self.up_to_date.map(clock_text),
            up_to_date_unix: self.up_to_date,
            behind_since: self.behind_since.map(clock_text),
            behind_since_unix: self.behind_since,
            why: self.why.clone(),
            ..Standing::default()
        }
    }

    /// Notes why it is behind, and since when; a clock that was ahead then tells no time.
    fn lag(&mut self, now: i64, why: String) {
        self.why = Some(why);
        self.behind_since = Some(self.behind_since.map_or(now, |since| since.min(now)));
    }

    /// Notes that it has everything up to `seq`.
    fn catch_up(&mut self, now: i64, seq: Option<u64>) {
        (self.why, self.behind_since) = (None, None);
        (self.up_to_date, self.seq) = (Some(now), seq);
    }
}

/// What a backup knows when it is done.
pub struct Mirrors<'a> {
    /// The machine.
    pub world: &'a World,
    /// The configuration.
    pub config: &'a Config,
    /// The store that was written.
    pub store: &'a Store,
    /// The keys that signed.
    pub key: &'a Signers,
    /// The seq of the newest archive.
    pub seq: Option<u64>,
    /// When the run began, in Unix seconds.
    pub started: i64,
    /// Whether what is past its life may go from a mirror that is a directory: not while an alarm is open.
    pub prunes: bool,
    /// Bytes a second that leave for a bucket, at most.
    pub limit: Option<u64>,
}

impl Mirrors<'_> {
    /// Brings every mirror up to date, as far as that goes.
    ///
    /// # Errors
    /// Only [`Kind::Interrupted`]: whatever else keeps a mirror behind stands in its [`Standing`].
    pub fn catch_up(&self, events: &mut Events<'_>) -> Result<Vec<Standing>> {
        if self.config.mirrors.is_empty() {
            return Ok(Vec::new());
        }
        // Not the series' own lock: the first copy of everything may take long, and backups go on meanwhile.
        let lock = Lock::take(&directory(self.world, self.config));
        let mut out = Vec::new();
        for mirror in &self.config.mirrors {
            let mut memory = self.remembered(&mirror.store);
            if let Err(e) = &lock {
                let why = match e.kind() {
                    Kind::Locked => "another run is copying to it; the next one goes on".to_owned(),
                    _ => in_words(e),
                };
                out.push(Standing { why: Some(why), ..memory.standing() });
                continue;
            }
            if self.has_everything(&memory) {
                out.push(memory.standing());
                continue;
            }
            // Whoever is killed tells nobody, so that this stands there until it is known better.
            memory.lag(self.started, "a backup is copying to it, or was ended while it did".to_owned());
            self.try_to_remember(&memory, events);
            let mut copied = Copied::default();
            let tried = self.one(&mut memory, &mut copied, events);
            let (pruned, why) = match tried {
                Err(e) if e.kind() == Kind::Interrupted => return Err(e),
                Err(e) => (0, Some(in_words(&e))),
                Ok(pruned) => (pruned, lacking(&copied)),
            };
            match why {
                Some(why) => memory.lag(self.started, why),
                None => memory.catch_up(self.started, self.seq),
            }
            self.try_to_remember(&memory, events);
            let (archives, bytes) = (copied.archives.len() as u64, copied.bytes);
            out.push(Standing { archives, bytes, pruned, ..memory.standing() });
        }
        Ok(out)
    }

    fn has_everything(&self, memory: &Memory) -> bool {
        let young = |at: i64| (0..AGAIN_SECONDS).contains(&(self.started - at));
        memory.why.is_none() && memory.seq.is_some() && memory.seq == self.seq && memory.up_to_date.is_some_and(young)
    }

    /// Copies to one mirror, and gives how many archives were removed there.
    fn one(&self, memory: &mut Memory, copied: &mut Copied, events: &mut Events<'_>) -> Result<u64> {
        let Mirrors { world, config, key, .. } = self;
        let to = copy::open(world, &memory.store, self.store, self.limit)?;
        let listable = match to.list_directories("keys") {
            Ok(_) => true,
            Err(e) if Store::is_refusal(&e) => false,
            Err(e) => return Err(e),
        };
        events(Event::Phase("copying to a mirror"));
        let known = if listable { BTreeSet::new() } else { memory.put.clone() };
        let way = Way { world, from: self.store, to: &to, listable };
        let series = Series { way, name: &config.name, key, trusted: true, tiers: &config.tiers, dry_run: false };
        *copied = series.catch_up(
            &known,
            &mut |place| {
                if !listable && memory.put.insert(place.to_owned()) {
                    self.remember(memory)?;
                }
                Ok(())
            },
            events,
        )?;
        // What the store has lost, nobody will ask for again.
        memory.put.retain(|place| copied.present.contains(place));
        let due = memory.pruned.is_none_or(|at| !(0..AGAIN_SECONDS).contains(&(self.started - at)));
        if to.local().is_none() || !due || !self.prunes {
            return Ok(0);
        }
        memory.pruned = Some(self.started);
        match prune::after_backup(world, &to, config, key, self.started) {
            Ok(pruned) => {
                pruned.warning().into_iter().for_each(|text| events(Event::Warning(text)));
                Ok(pruned.removed.len() as u64)
            }
            Err(e) => {
                events(Event::Warning(format!("old snapshots could not be removed from {}: {e}", to.name())));
                Ok(0)
            }
        }
    }

    fn remembered(&self, store: &str) -> Memory {
        remembered(self.world, self.config, store)
    }

    fn try_to_remember(&self, memory: &Memory, events: &mut Events<'_>) {
        if let Err(e) = self.remember(memory) {
            events(Event::Warning(format!("what became of the mirror cannot be remembered: {}", in_words(&e))));
        }
    }

    fn remember(&self, memory: &Memory) -> Result<()> {
        private_dir(&directory(self.world, self.config))?;
        let text = serde_json::to_string(memory).map_err(|e| Error::failed("cannot write it down").because(e))?;
        replace_file(&file(self.world, self.config, &memory.store), &text)
    }
}

/// How each configured mirror stands, as far as this host remembers. Asks nobody.
pub fn standings(world: &World, config: &Config) -> Vec<Standing> {
    let of = |store: &str| {
        let mut memory = remembered(world, config, store);
        if memory.up_to_date.is_none() && memory.why.is_none() {
            memory.why = Some("no backup of this machine has copied to it yet".to_owned());
        }
        memory.standing()
    };
    config.mirrors.iter().map(|mirror| of(&mirror.store)).collect()
}

fn remembered(world: &World, config: &Config, store: &str) -> Memory {
    let text = std::fs::read_to_string(file(world, config, store)).unwrap_or_default();
    // It is only a memory: where it was lost, the mirror is asked.
    let memory: Memory = serde_json::from_str(&text).unwrap_or_default();
    Memory { store: store.to_owned(), ..memory }
}

fn directory(world: &World, config: &Config) -> PathBuf {
    world.state_dir(&config.name).join("mirrors")
}

fn file(world: &World, config: &Config, store: &str) -> PathBuf {
    let name = blake3::hash(store.as_bytes()).to_hex();
    directory(world, config).join(format!("{}.json", &name[..16]))
}

/// What was not copied, in one sentence.
fn lacking(copied: &Copied) -> Option<String> {
    let lacking: Vec<_> = copied.skipped.iter().filter(|s| s.why != Why::Expired).collect();
    let first = lacking.first()?;
    let more = match lacking.len() {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    Some(format!("{} was not copied: {}{more}", first.place, first.text))
}

fn in_words(e: &Error) -> String {
    let parts = std::iter::once(e.to_string()).chain(e.causes()).chain(e.advice().map(str::to_owned));
    printable(parts.collect::<Vec<_>>().join(": ").as_bytes())
}
