//! From a scan to a committed archive: volumes, manifest, signature, commit, catalog, in this order.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::changes::{Changes, Places};
use super::guard::Guard;
use super::interrupted;
use super::listing::{Listing, Unlisted};
use super::members::{Blocks, Members, Outcome};
use super::plan::Plan;
use super::remember::Seen;
use super::session::{sha256, sign_commit};
use super::sweeping::came_late;
use super::{Event, Events, plugins};
use crate::error::{At as _, Error, Result};
use crate::host::catalog::{Catalog, Transaction};
use crate::host::database::Checks;
use crate::host::scan::{Scan, Source};
use crate::host::store::Store;
use crate::host::world::{World, private_dir};
use crate::model::commit::{Commit, Object, Reference};
use crate::model::config::{Config, Sweep as Sweeping};
use crate::model::entry::Entry;
use crate::model::manifest::{self, Counts, Header, PathName, Skipped};
use crate::model::secret_notes::SecretNotes;
use crate::model::store_key::{Archive, COMMIT, MANIFEST, Place, SIGNATURE, SnapshotId};
use crate::model::sweep::Sweep;
use crate::model::tree::NONE;
use crate::stream::age_keys::Recipients;
use crate::stream::archive_writer::{self, Options, Written};
use crate::stream::manifest_file::{self, Lines};
use crate::stream::sign::SigningKey;
use crate::stream::signers::Signers;

/// The name and version of this program, as manifests record it.
pub const PROGRAM: &str = concat!("lifeboat ", env!("CARGO_PKG_VERSION"));

/// What all archives of one run share.
pub struct Run<'a> {
    /// The machine.
    pub world: &'a World,
    /// The configuration.
    pub config: &'a Config,
    /// Where to.
    pub store: &'a Store,
    /// Who signs.
    pub key: &'a SigningKey,
    /// Who signs which numbers of the series; the last of them is `key`.
    pub signers: &'a Signers,
    /// What this host knows of itself.
    pub catalog: &'a Catalog,
    /// Where from.
    pub sources: &'a [Source],
    /// As the manifest lists them.
    pub described: &'a [manifest::Source],
    /// A private directory.
    pub staging: &'a Path,
    /// Digest of what decides where data goes.
    pub policy: String,
    /// When the run began, in Unix seconds.
    pub started: i64,
}

/// What decides about one archive.
pub struct Terms {
    /// State or secrets.
    pub archive: Archive,
    /// State: the tier.
    pub tier: Option<String>,
    /// State: the generation; the archive's own id if it begins one.
    pub generation: Option<SnapshotId>,
    /// Days that its objects must live.
    pub life: u64,
    /// What orders it.
    pub seq: u64,
    /// Incrementals: what it is made against.
    pub parent: Option<Reference>,
    /// The one before it.
    pub prev: Option<Reference>,
    /// State: the newest secrets bundle.
    pub bundle: Option<Reference>,
    /// Secrets: what is known of them.
    pub notes: Option<SecretNotes>,
    /// State: how many reasons there are to doubt it.
    pub suspicious: Option<u64>,
    /// State: what it accepts.
    pub accept: Vec<SnapshotId>,
}

/// What is known about the state besides the scan.
pub struct StateWork<'a> {
    /// Where everything is in the tree.
    pub places: &'a Places,
    /// What differs from what the catalog knows.
    pub changes: &'a Changes,
    /// What an incremental holds; nothing for a full.
    pub plan: Option<&'a mut Plan>,
    /// The transaction in which the catalog learns of all this.
    pub transaction: Transaction<'a>,
    /// How databases are looked at.
    pub checks: Checks,
    /// What knows what agents have.
    pub guard: &'a Guard,
}

/// An archive that counts.
pub struct Committed {
    /// Its commit.
    pub commit: Commit,
    /// SHA-256 of the commit.
    pub sha256: [u8; 32],
    /// What became of the members.
    pub outcome: Outcome,
    /// What the manifest lists.
    pub counts: Counts,
    /// Bytes of content.
    pub bytes: u64,
}

impl Committed {
    /// How later commits refer to it.
    pub fn reference(&self) -> Reference {
        Reference { id: self.commit.id.clone(), sha256: self.sha256, life: Some(self.commit.life) }
    }
}

/// Writes one archive and commits it. `state` is there for the state archive.
///
/// # Errors
/// When anything of it could not be stored; nothing of it counts then.
pub fn write<'a>(
    run: &Run<'a>,
    mut terms: Terms,
    scan: &mut Scan,
    mut state: Option<StateWork<'a>>,
    sweep: Option<&Sweep>,
    events: &mut Events<'_>,
) -> Result<Committed> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| Error::failed("no random numbers to be had").because(e))?;
    let mut id = SnapshotId::new(run.world.now(), u32::from_le_bytes(random));
    let mut notes = None;
    if let Some(state) = &state {
        let archiving = interrupted::begin(run, &terms, id, scan, (state.plan.as_deref(), sweep), events)?;
        (id, notes) = (archiving.id, Some(archiving.notes));
    }
    let ledger = notes.as_ref().map(|notes| Arc::clone(notes.ledger()));
    let parent = terms.parent.as_ref().map(|p| p.id.clone());
    let place = match &terms.tier {
        Some(tier) => Place { parent: parent.clone(), ..Place::state(tier, &run.config.name, &id) },
        None => Place::secrets(&run.config.name, &id),
    };
    let recipients = recipients(run.world, run.config, terms.archive)?;
    let bytes = state.as_ref().and_then(|state| state.plan.as_ref()).map(|plan| plan.bytes);
    let options = Options { uploads: run.store.uploads(), ..options(run.config, terms.archive, bytes) };
    let class = run.config.upload.class(terms.tier.as_deref()).map(str::to_owned);
    let put = |name: &str, bytes: Bytes| {
        run.world.check_stop()?;
        run.store.put_volume(&place.object(name), bytes, class.as_deref()).map(|_| ())
    };
    let written = archive_writer::write(&options, &recipients, &put, notes, |tar| {
        let checks = state.as_ref().map(|state| state.checks);
        let plan = state.as_mut().and_then(|state| state.plan.as_deref_mut());
        let mut members =
            Members::new(run.world, terms.archive, &mut *scan, run.sources, run.staging, plan, &mut *events);
        if let Some(checks) = checks {
            members.checks = checks;
            members.blocks = Some(Blocks { catalog: run.catalog, seq: terms.seq });
        }
        members.sweep = sweep;
        let outcome = members.write(tar)?;
        refuse_leaks(run, scan, &outcome)?;
        tar.finish()?;
        // The last frames are still being compressed and stored.
        let (listing, lines) = list_and_learn(run, &terms, scan, &outcome, state.as_ref())?;
        Ok((outcome, listing, lines))
    });
    let ((outcome, listing, lines), written) = match written {
        Err(e) if archive_writer::is_stale(&e) => {
            interrupted::forget(run.world, &run.config.name)?;
            return Err(e);
        }
        written => written?,
    };
    let Written { frames, volumes, mut objects } = written;
    let header = Header {
        format: manifest::FORMAT,
        archive: terms.archive.word().to_owned(),
        series: run.config.name.clone(),
        id: id.to_string(),
        seq: terms.seq,
        tier: terms.tier.clone(),
        generation: terms.tier.is_some().then(|| terms.generation.as_ref().unwrap_or(&id).to_string()),
        parent: parent.as_ref().map(ToString::to_string),
        program: PROGRAM.to_owned(),
        // One that was continued began when its id was given.
        started: clock_text(run.started.min(id.unix_seconds())),
        finished: clock_text(run.world.now()),
        home: crate::model::path::printable_path(&run.world.home),
        sources: sources_of(run.described, scan, terms.archive),
        counts: listing.counts,
        bytes: listing.bytes,
        recipients: recipients.texts(),
        policy: run.policy.clone(),
        tree: listing.digest.clone(),
        databases: outcome.databases.clone(),
        agents: state.as_ref().map_or_else(Vec::new, |s| s.guard.counts(scan, s.places)),
        skipped: skipped(scan, terms.archive),
        secrets: terms.notes.take(),
        volumes,
        frames,
    };
    let manifest = manifest_file::write(&header, &recipients, options.pad, &mut *lines.again().map_err(lost)?)?;
    let (size, sha256) = measure(&manifest);
    objects.push(Object { name: MANIFEST.to_owned(), size, sha256 });
    run.world.check_stop()?;
    if let Some(ledger) = &ledger {
        if !ledger.is_whole() {
            events(Event::Detail(
                "the state directory took no more notes: this archive could not be continued".to_owned(),
            ));
        }
        ledger.manifest();
    }
    run.store.put_chunks(&place.object(MANIFEST), manifest)?;
    if let Some(state) = state {
        // Before the commit: should that never be put, then what is known here is later than every parent, and is told
        // again. After it, a crash in between would leave a parent whose content is not known.
        state.transaction.commit()?;
    }
    let commit = commit_of(run, terms, id, objects);
    let sha256 = commit_it(run, &place, &commit)?;
    Ok(Committed { commit, sha256, outcome, counts: listing.counts, bytes: listing.bytes })
}

fn commit_of(run: &Run<'_>, terms: Terms, id: SnapshotId, objects: Vec<Object>) -> Commit {
    Commit {
        archive: terms.archive,
        series: run.config.name.clone(),
        seq: terms.seq,
        generation: terms.tier.is_some().then(|| terms.generation.unwrap_or_else(|| id.clone())),
        id,
        tier: terms.tier,
        life: terms.life,
        parent: terms.parent.map(|parent| Reference { life: None, ..parent }),
        prev: terms.prev,
        bundle: terms.bundle,
        suspicious: terms.suspicious,
        accept: terms.accept,
        objects,
    }
}

/// Under `fail` a value that came into a file after it was searched still keeps the archive from counting.
fn refuse_leaks(run: &Run<'_>, scan: &Scan, outcome: &Outcome) -> Result<()> {
    if came_late(scan, run.sources, &outcome.leaks, Sweeping::Fail) {
        // What is on the store holds it, and would stay in an archive that goes on with that.
        interrupted::forget(run.world, &run.config.name)?;
        return Err(Error::failed("the value of a secret came into a file of the state while that was archived")
            .hint("run the backup again with -v: it lists the files"));
    }
    Ok(())
}

/// Makes the manifest's lines and tells the catalog what was seen, beside each other: neither needs the other, and all else
/// of the run waits for both.
fn list_and_learn(
    run: &Run<'_>,
    terms: &Terms,
    scan: &Scan,
    outcome: &Outcome,
    state: Option<&StateWork<'_>>,
) -> Result<(Listing, Box<dyn Kept>)> {
    let contents = outcome.contents.as_ref().expect("members always keep what they wrote");
    let increment = state.and_then(|state| state.plan.as_deref().map(|plan| (plan, state.places)));
    let unlisted = increment.map(|(plan, places)| Unlisted::of(scan, places, plan, run.catalog)).transpose()?;
    let mut lines = Lines::new(kept(terms.archive, run.staging)?).map_err(lost)?;
    std::thread::scope(|scope| {
        let listed = scope.spawn(move || {
            let each = &mut |path: &[u8], entry: &Entry| lines.add(path, entry);
            let listing = match (increment, &unlisted) {
                (Some((plan, _)), Some(unlisted)) => Listing::of_increment(scan, plan, contents, unlisted, each),
                _ => Listing::of(&scan.tree, terms.archive, &|i| contents.entry(&scan.tree, i), each),
            };
            Ok((listing.map_err(lost)?, lines.finish().map_err(lost)?))
        });
        let learned = state.map_or(Ok(()), |state| learn(run, scan, outcome, state, terms.seq));
        let listed = listed
            .join()
            .unwrap_or_else(|_| Err(Error::failed("making the manifest panicked: this is a bug in lifeboat")));
        learned.and(listed)
    })
}

/// The catalog learns what was seen.
fn learn(run: &Run<'_>, scan: &Scan, outcome: &Outcome, state: &StateWork<'_>, seq: u64) -> Result<()> {
    let StateWork { places, changes, plan, guard, .. } = state;
    let plan = plan.as_deref();
    let (contents, databases) = (outcome.contents.as_ref(), &outcome.database_entries);
    Seen { scan, places, changes, plan, contents, databases, seq }.remember(run.catalog)?;
    guard.remember(run.catalog)?;
    if plan.is_none_or(|plan| plan.changed) {
        run.catalog.set_fact(LAST_CHANGE, &seq.to_string())?;
    }
    Ok(())
}

/// The fact under which the catalog keeps the seq of the last run that saw anything change.
pub const LAST_CHANGE: &str = "last change";

/// A place that is written once and then read from the start.
trait Kept: std::io::Write + Send {
    fn again(self: Box<Self>) -> std::io::Result<Box<dyn std::io::Read>>;
}

impl Kept for Vec<u8> {
    fn again(self: Box<Self>) -> std::io::Result<Box<dyn std::io::Read>> {
        Ok(Box::new(std::io::Cursor::new(*self)))
    }
}

impl Kept for std::io::BufWriter<std::fs::File> {
    fn again(self: Box<Self>) -> std::io::Result<Box<dyn std::io::Read>> {
        use std::io::Seek as _;
        let mut file = (*self).into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Box::new(std::io::BufReader::new(file)))
    }
}

/// Where the manifest's entries wait for its header: what is known of secrets in memory, everything else in a file
/// without a name, since memory still holds the archive's buffers.
fn kept(archive: Archive, staging: &Path) -> Result<Box<dyn Kept>> {
    Ok(match archive {
        Archive::Secrets => Box::new(Vec::new()),
        Archive::State => {
            let file = tempfile::tempfile_in(staging).at("write in", staging)?;
            Box::new(std::io::BufWriter::with_capacity(1 << 16, file))
        }
    })
}

fn lost(e: std::io::Error) -> Error {
    Error::failed("cannot read back what was kept in the staging directory").because(e)
}

/// Size and SHA-256 of an object that comes in chunks.
fn measure(chunks: &[Bytes]) -> (u64, [u8; 32]) {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    chunks.iter().for_each(|chunk| hasher.update(chunk));
    (chunks.iter().map(|c| c.len() as u64).sum(), hasher.finalize().into())
}

/// The zstd level of incrementals: there is little of them, and they are kept for long.
const INCREMENT_LEVEL: i32 = 9;
/// Threads that compress, at most: one thread makes the tar, and more would wait for it. Each takes 9 MiB of memory.
const WORKERS_MAX: usize = 6;
/// An incremental of more bytes is compressed like a full.
const INCREMENT_BYTES_MAX: u64 = 64 << 20;

/// How an archive is written; an incremental holds about `increment` bytes.
fn options(config: &Config, archive: Archive, increment: Option<u64>) -> Options {
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(WORKERS_MAX);
    let level = config.archive.level;
    Options {
        level: if increment.is_some_and(|b| b <= INCREMENT_BYTES_MAX) { level.max(INCREMENT_LEVEL) } else { level },
        check: config.archive.check_frames,
        workers,
        uploads: 1,
        pad: archive == Archive::Secrets,
    }
}

/// The recipients of an archive.
///
/// # Errors
/// When the configuration names one that cannot be used, or whose plugin is not installed.
pub fn recipients(world: &World, config: &Config, archive: Archive) -> Result<Recipients> {
    let texts = match archive {
        Archive::State => &config.state.recipients,
        Archive::Secrets => &config.secrets.recipients,
    };
    Recipients::parse(texts)?.with(&plugins::of(world))
}

/// RFC 3339 in UTC with whole seconds.
pub fn clock_text(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds).map_or_else(|_| String::new(), |t| t.to_string())
}

fn skipped(scan: &Scan, archive: Archive) -> Vec<Skipped> {
    let mine = scan.skipped.iter().filter(|s| s.archive == archive);
    mine.map(|s| Skipped { path: PathName::new(&s.path), reason: s.reason.clone() }).collect()
}

/// The roots that a manifest names: the state's names none that is a secret.
fn sources_of(described: &[manifest::Source], scan: &Scan, archive: Archive) -> Vec<manifest::Source> {
    let of_secrets = |number: usize| {
        let mut roots = scan.roots.iter().filter(|(root, n)| **n == number && scan.tree.node(**root).parent == NONE);
        roots.any(|(root, _)| scan.tree.node(*root).archive == Archive::Secrets)
    };
    let all = described.iter().enumerate();
    all.filter(|(n, _)| archive == Archive::Secrets || !of_secrets(*n)).map(|(_, source)| source.clone()).collect()
}

/// Makes an archive count. Commit and signature are durable here before they are put, so that whoever goes on after a
/// crash puts the very same bytes.
fn commit_it(run: &Run<'_>, place: &Place, commit: &Commit) -> Result<[u8; 32]> {
    let text = commit.render();
    let signature = sign_commit(run.key, commit, &text)?;
    let pending = Pending::write(&run.world.state_dir(&run.config.name), run.store, place, &text, &signature)?;
    if commit.archive == Archive::State {
        interrupted::forget(run.world, &run.config.name)?;
    }
    run.world.check_stop()?;
    pending.finish(run.store, run.catalog, run.world.now())
}

/// A commit that is signed and may not be on the store yet.
pub struct Pending {
    file: PathBuf,
    /// Where its volumes are.
    store: String,
    place: Place,
    text: String,
    signature: String,
}

/// Between the commit and its signature in a pending file, where neither has such a line.
const SEPARATOR: &str = "\n-- signature --\n";

impl Pending {
    fn write(state_dir: &Path, store: &Store, place: &Place, text: &str, signature: &str) -> Result<Pending> {
        let dir = state_dir.join("pending");
        private_dir(&dir)?;
        let file = dir.join(place.directory().replace('/', "!"));
        let mut temporary = tempfile::NamedTempFile::new_in(&dir).at("write in", &dir)?;
        temporary.write_all(format!("{}\n{text}{SEPARATOR}{signature}", store.name()).as_bytes()).at("write", &file)?;
        temporary.as_file().sync_all().at("write", &file)?;
        temporary.persist(&file).map_err(|e| e.error).at("write", &file)?;
        std::fs::File::open(&dir).and_then(|d| d.sync_all()).at("write", &dir)?;
        let (text, signature) = (text.to_owned(), signature.to_owned());
        Ok(Pending { file, store: store.name(), place: place.clone(), text, signature })
    }

    /// What an earlier run signed and could not finish. What is malformed is removed: a crash can cut a file short that
    /// was never synced, and nothing of it was put then.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(state_dir: &Path) -> Result<Vec<Pending>> {
        let dir = state_dir.join("pending");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).at("read", &dir),
        };
        let mut out = Vec::new();
        for entry in entries {
            let file = entry.at("read", &dir)?.path();
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default().replace('!', "/");
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let place = Place::parse(&format!("{name}/{COMMIT}")).map(|(place, _)| place);
            let parts = text.split_once('\n').and_then(|(store, rest)| Some((store, rest.split_once(SEPARATOR)?)));
            match (place, parts) {
                (Some(place), Some((store, (text, signature)))) => {
                    let (store, text, signature) = (store.to_owned(), text.to_owned(), signature.to_owned());
                    out.push(Pending { file, store, place, text, signature });
                }
                _ => std::fs::remove_file(&file).at("remove", &file)?,
            }
        }
        Ok(out)
    }

    /// Why it can never be finished, if that is so: its objects are not there any more, or not on this store, or something
    /// else is where signature and commit belong.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn obstacle(&self, store: &Store) -> Result<Option<String>> {
        let commit = Commit::parse(&self.text)?;
        let listed = match store.list(&self.place.directory()) {
            Err(e) if Store::is_refusal(&e) => return Ok(None),
            listed => listed?,
        };
        let size = |name: &str| listed.iter().find(|l| l.key == self.place.object(name)).map(|l| l.size);
        if let Some(object) = commit.objects.iter().find(|o| size(&o.name) != Some(o.size)) {
            return Ok(Some(format!("its {} is not on the store", object.name)));
        }
        for (name, text) in [(SIGNATURE, &self.signature), (COMMIT, &self.text)] {
            let there = if size(name).is_some() {
                store.get_if_there(&self.place.object(name), text.len() as u64)?
            } else {
                None
            };
            if there.is_some_and(|there| there != text.as_bytes()) {
                return Ok(Some(format!("somebody else put its {name}")));
            }
        }
        Ok(None)
    }

    /// Puts signature and commit, records the snapshot, and forgets the file.
    ///
    /// # Errors
    /// When the store or the catalog cannot be written; the file stays for the next run.
    pub fn finish(self, store: &Store, catalog: &Catalog, now: i64) -> Result<[u8; 32]> {
        let commit = Commit::parse(&self.text)?;
        let sha256 = sha256(self.text.as_bytes());
        store.put(&self.place.object(SIGNATURE), self.signature.into_bytes())?;
        store.put(&self.place.object(COMMIT), self.text.into_bytes())?;
        catalog.record(&commit, &sha256, now)?;
        std::fs::remove_file(&self.file).at("remove", &self.file)?;
        Ok(sha256)
    }
}

/// Finishes what earlier runs signed. What can never be finished is told and given up, or whoever may put an object where
/// a commit will be could stop all backups to come.
///
/// # Errors
/// When the pending files or the store cannot be read or written: the next run tries again.
pub fn settle(world: &World, series: &str, store: &Store, catalog: &Catalog, events: &mut Events<'_>) -> Result<()> {
    for pending in Pending::all(&world.state_dir(series))? {
        let name = pending.place.directory();
        let obstacle = if pending.store == store.name() {
            pending.obstacle(store)?
        } else {
            Some(format!("its volumes are on {}", pending.store))
        };
        if let Some(why) = obstacle {
            std::fs::remove_file(&pending.file).at("remove", &pending.file)?;
            events(Event::Warning(format!(
                "{name}, which an earlier run signed, cannot be finished and is given up: {why}"
            )));
            continue;
        }
        pending.finish(store, catalog, world.now())?;
        events(Event::Note(format!("finished {name}, which an earlier run had written and signed")));
    }
    Ok(())
}
