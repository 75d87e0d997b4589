//! `lifeboat doctor`: whether a backup would work and a restore would be possible, and what to do where not; with
//! `--attack`, whether the host's own credential could do harm.

mod mirrors;

use std::path::Path;

use serde::Serialize;

use super::session::{Configured, configuration};
use super::signing::{Signer, in_force, next_key_file, signing};
use super::sources::lost_logins;
use super::{Event, Events, Report, plugins};
use crate::error::{Error, Result};
use crate::host::store::{Access, Attempt, Outcome, Provider, Source, Store};
use crate::host::world::World;
use crate::model::config::{Config, Identity};
use crate::model::path::printable_path;
use crate::model::store_key::{SnapshotId, public_key};
use crate::stream::age_keys::Recipients;

/// A store's clock may differ by so much, in seconds.
const CLOCK_SECONDS_MAX: i64 = 15 * 60;
/// The largest verification key.
const PUBLIC_KEY_BYTES_MAX: u64 = 4096;

/// What `doctor` was asked to do.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Try what the credential must be refused.
    pub attack: bool,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Note,
    /// Wrong.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// In words.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What `doctor` found.
#[derive(Debug, Default, Serialize)]
pub struct Done {
    /// What was looked at, in order.
    pub checks: Vec<Check>,
    /// Whether `--attack` was asked for.
    pub attacked: bool,
}

impl Report for Done {
    fn text(&self) -> String {
        let mut out = String::new();
        for check in &self.checks {
            let mark = match check.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Note => "note",
                Verdict::Bad => "BAD ",
            };
            out.push_str(&format!("{mark}  {:<18} {}\n", check.what, check.text));
            if let Some(hint) = &check.hint {
                out.push_str(&format!("      {:<18} -> {hint}\n", ""));
            }
        }
        let bad = self.problems().len();
        out.push_str(&match (bad, self.attacked) {
            (0, true) => "this credential can add, and nothing else\n".to_owned(),
            (0, false) => "all is well\n".to_owned(),
            (n, _) => format!("{} to put right\n", super::count_text(n as u64, "thing")),
        });
        out
    }

    fn problems(&self) -> Vec<String> {
        let bad = self.checks.iter().filter(|c| c.verdict == Verdict::Bad);
        bad.map(|c| format!("{}: {}", c.what, c.text)).collect()
    }
}

impl Done {
    fn add(&mut self, what: &str, verdict: Verdict, text: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.checks.push(Check { what: what.to_owned(), verdict, text: text.into(), hint });
    }

    fn bad(&mut self, what: &str, e: &Error) {
        let text = std::iter::once(e.to_string()).chain(e.causes()).collect::<Vec<_>>().join(": ");
        let text = crate::model::path::printable(text.as_bytes());
        self.checks.push(Check {
            what: what.to_owned(),
            verdict: Verdict::Bad,
            text,
            hint: e.advice().map(str::to_owned),
        });
    }
}

/// Looks at everything that a backup needs. Puts nothing on the store but the series' key, where that is gone, and with
/// `--attack` one small object.
///
/// # Errors
/// When there is no configuration, or it cannot be read.
pub fn run(world: &World, args: &Args, events: &mut Events<'_>) -> Result<Done> {
    let Some(Configured { config, file }) = configuration(world)? else {
        return Err(Error::not_there("there is no configuration").hint("`lifeboat init` makes one"));
    };
    let mut done = Done { attacked: args.attack, ..Done::default() };
    done.add("configuration", Verdict::Ok, printable_path(&file), None);
    keys(world, &config, &file, &mut done);
    for login in lost_logins(world) {
        let text = format!("a restore will not bring it back: {}", login.what);
        done.add(
            &format!("login of {}", login.agent),
            Verdict::Note,
            text,
            Some(&format!("on a new machine {}", login.again)),
        );
    }
    events(Event::Phase("asking the store"));
    match Store::open(world, &config.store, Access::Existing) {
        Err(e) => done.bad("store", &e),
        Ok(store) => {
            credential(&store, &mut done);
            if let Ok(own) = signing(world, &file)
                && rights(&store, &config, own.signers.first().to_text().as_bytes(), &mut done)
            {
                still_signs(&store, &config, &own, &mut done);
                if args.attack {
                    attack(world, &store, &config, &mut done)?;
                }
            }
            clock(&store, &mut done);
        }
    }
    if let (Ok(own), false) = (signing(world, &file), config.mirrors.is_empty()) {
        events(Event::Phase("asking the mirrors"));
        mirrors::examine(world, &config, own.signers.first().to_text().as_bytes(), &mut done);
    }
    Ok(done)
}

fn keys(world: &World, config: &Config, file: &Path, done: &mut Done) {
    match signing(world, file) {
        Ok(_) => done.add("signing key", Verdict::Ok, "there, and for nobody else to read", None),
        Err(e) => done.bad("signing key", &e),
    }
    if next_key_file(file).exists() {
        let hint = "the next backup finishes it, and so does `lifeboat keys rotate --signing`";
        done.add("new signing key", Verdict::Note, "its hand-over was interrupted", Some(hint));
    }
    for (what, recipients) in [("state", &config.state.recipients), ("secrets", &config.secrets.recipients)] {
        match Recipients::parse(recipients).and_then(|to| to.with(&plugins::of(world))) {
            Ok(_) if recipients.len() == 1 => {
                let hint = "a second recipient, kept elsewhere, opens it when the kit is lost";
                done.add(&format!("{what} recipients"), Verdict::Note, "one", Some(hint));
            }
            Ok(_) => done.add(&format!("{what} recipients"), Verdict::Ok, recipients.len().to_string(), None),
            Err(e) => done.bad(&format!("{what} recipients"), &e),
        }
    }
    if config.state.recipients.iter().any(|r| config.secrets.recipients.contains(r)) {
        let hint = "whoever opens the state opens the keys, too: give the secrets recipients of their own";
        done.add("two keys", Verdict::Note, "a recipient opens both archives", Some(hint));
    }
    if [&config.state.identity, &config.secrets.identity].iter().any(|i| **i != Identity::None) {
        let hint = "`identity = \"none\"` in both tables seals it; restores then need the kit";
        let text = "this host can open what it wrote, and so can whoever takes it over";
        done.add("sealed", Verdict::Note, text, Some(hint));
    } else {
        done.add("sealed", Verdict::Ok, "this host cannot open what it wrote", None);
    }
    if world.default_kit().exists() {
        let hint = "move it to a password manager or a printed page";
        let text = format!("the recovery kit is still here: {}", printable_path(&world.default_kit()));
        done.add("recovery kit", Verdict::Note, text, Some(hint));
    }
}

/// Where the credential comes from.
fn credential(store: &Store, done: &mut Done) {
    match store.source() {
        None => {}
        Some(Source::Found(place)) => done.add("credential", Verdict::Ok, *place, None),
        Some(Source::Keyring(names)) => {
            done.add("credential", Verdict::Ok, format!("from the OS keyring: {}", names.join(", ")), None);
        }
        Some(Source::Nowhere(why)) => {
            let hint = "`lifeboat keys set-credential NAME` keeps one in the OS keyring; deploy/README.md has all ways";
            let text = format!("none is here but what this machine's role may give ({why})");
            done.add("credential", Verdict::Note, text, Some(hint));
        }
    }
}

/// What the credential may do, found out without changing anything; `false` if the store could not be reached.
fn rights(store: &Store, config: &Config, public: &[u8], done: &mut Done) -> bool {
    let key = public_key(&config.name, 1);
    let there = store.get_if_there(&key, PUBLIC_KEY_BYTES_MAX);
    let seen = matches!(&there, Ok(Some(_)));
    // A create-only put of what is there already needs the right to put, and changes nothing.
    match store.put_if_absent(&key, public.to_vec()) {
        Ok(false) => done.add("store", Verdict::Ok, format!("{} takes objects", store.name()), None),
        Ok(true) if seen => {
            let hint = "keep versions of what is there, and do not use it for several machines";
            let text = "this server ignores `If-None-Match`: what is there can be replaced";
            done.add("store", Verdict::Note, text, Some(hint));
        }
        Ok(true) if there.is_ok() => {
            let hint = "was the store exchanged or emptied? `lifeboat list` shows what is there";
            let text = "the verification key of this series was not there; it was put back";
            done.add("store", Verdict::Bad, text, Some(hint));
        }
        Ok(true) => {
            let hint = "`lifeboat doctor --attack` tells which";
            let text = "it took the series' key again: that was gone, or this server ignores `If-None-Match`";
            done.add("store", Verdict::Note, text, Some(hint));
        }
        Err(e) if Store::is_refusal(&e) && there.is_err() && overwriting_hides_adding(store) => {
            let hint = "`lifeboat doctor --attack` finds out, with an object of its own";
            let text = "it was reached, and does not say whether the credential may add objects";
            done.add("store", Verdict::Note, text, Some(hint));
        }
        Err(e) => {
            done.bad("store", &e);
            return false;
        }
    }
    match there {
        Ok(Some(there)) if there == public => {
            let text = "the credential may read, and the series' key is this host's";
            done.add("reading", Verdict::Ok, text, None);
        }
        Ok(None) => done.add("reading", Verdict::Ok, "the credential may read", None),
        Ok(Some(_)) => {
            let hint = "choose another --name, or continue that series with `lifeboat init --kit KIT`";
            done.add("reading", Verdict::Bad, "the series belongs to another key", Some(hint));
        }
        Err(e) if Store::is_refusal(&e) => {
            let hint = "restores need another credential: keep one with the kit";
            done.add("reading", Verdict::Ok, "the credential may not read, as it should be", Some(hint));
        }
        Err(e) => done.bad("reading", &e),
    }
    match store.list_directories("state") {
        Ok(_) => done.add("listing", Verdict::Ok, "the credential may list", None),
        Err(e) if Store::is_refusal(&e) => {
            let hint = "backups work; with it, a new catalog would find what is there already";
            done.add("listing", Verdict::Ok, "the credential may not list", Some(hint));
        }
        Err(e) => done.bad("listing", &e),
    }
    true
}

/// Whether what this host signs still counts.
fn still_signs(store: &Store, config: &Config, own: &Signer, done: &mut Done) {
    match in_force(store, &config.name, own) {
        Ok(_) if own.signers.from_seq() > 0 => {
            let text = format!(
                "signs from number {} on; what is older was signed by the keys before it",
                own.signers.from_seq()
            );
            done.add("signatures", Verdict::Ok, text, None);
        }
        Ok(_) => done.add("signatures", Verdict::Ok, "the key was handed over to nobody", None),
        Err(e) => done.bad("signatures", &e),
    }
}

/// Azure refuses who may only create in the same words whether the object is there or nothing may be created at all.
fn overwriting_hides_adding(store: &Store) -> bool {
    store.bucket().is_some_and(|b| b.provider == Provider::Azure)
}

fn clock(store: &Store, done: &mut Done) {
    match store.clock_ahead() {
        Some(ahead) if ahead.abs() > CLOCK_SECONDS_MAX => {
            let late = if ahead > 0 { "ahead of" } else { "behind" };
            let text = format!("this machine's is {} s {late} the store's", ahead.abs());
            done.add("clock", Verdict::Bad, text, Some("set it right, and keep it so: timedatectl set-ntp true"));
        }
        Some(_) => done.add("clock", Verdict::Ok, "as the store's", None),
        None => {}
    }
}

/// Tries, on an object made for it, everything that a credential of a host should be refused.
fn attack(world: &World, store: &Store, config: &Config, done: &mut Done) -> Result<()> {
    if store.local().is_some() {
        done.attacked = false;
        let hint = "a user who can add files can remove them: keep a second store where this host cannot";
        done.add("attack", Verdict::Bad, "a directory has no credential that only adds", Some(hint));
        return Ok(());
    }
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| Error::failed("no random numbers to be had").because(e))?;
    let key = format!("doctor/{}/{}", config.name, SnapshotId::new(world.now(), u32::from_le_bytes(random)));
    match store.put_if_absent(&key, "made by lifeboat doctor --attack, of no meaning\n") {
        Ok(_) => done.add("add an object", Verdict::Ok, format!("allowed: {key}"), None),
        Err(e) => {
            done.bad("add an object", &e);
            return Ok(());
        }
    }
    let again = store.put_if_absent(&key, "other bytes\n");
    let mut versioned = false;
    for (attempt, what, hint) in [
        (
            Attempt::Overwrite,
            "overwrite it",
            "the store's policy must want `If-None-Match`, or the bucket versions and locks",
        ),
        (Attempt::Read, "read it", "take the right to get objects away"),
        (Attempt::List, "list names", "take the right to list away, if you did not choose it for new catalogs"),
        (Attempt::Delete, "delete it", "take the right to delete away, and lock the bucket's versions"),
        (Attempt::Lifecycle, "change lifecycle", "take the right to configure the bucket away"),
    ] {
        match store.attempt(attempt, &key) {
            Ok(Outcome::Refused) => done.add(what, Verdict::Ok, "refused", None),
            Ok(Outcome::Versioned) => {
                versioned = true;
                let hint = "keep the right to delete versions away from this host, and lock them if the store can";
                done.add(what, Verdict::Note, "a new version was made, the older one stays", Some(hint));
            }
            Ok(Outcome::Impossible) => {
                done.add(what, Verdict::Ok, "not within reach of a credential of this kind", None);
            }
            Ok(Outcome::Allowed) => {
                done.add(what, Verdict::Bad, "allowed", Some(&format!("{hint}: deploy/ has policies")));
            }
            Err(e) => done.bad(what, &e),
        }
    }
    // Whether a store that does not know create-only puts loses anything depends on its versions.
    match again {
        Ok(false) => done.add("add it again", Verdict::Ok, "refused", None),
        Err(e) if Store::is_refusal(&e) => done.add("add it again", Verdict::Ok, "refused", None),
        Ok(true) => {
            let hint = "keep versions, and let no two machines use one name";
            let verdict = if versioned { Verdict::Note } else { Verdict::Bad };
            let kept = if versioned { "the older one stays" } else { "what is there is lost" };
            done.add("add it again", verdict, format!("this server ignores `If-None-Match`; {kept}"), Some(hint));
        }
        Err(e) => done.bad("add it again", &e),
    }
    Ok(())
}
