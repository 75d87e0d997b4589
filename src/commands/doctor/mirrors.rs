//! What `doctor` finds out about the mirrors: whether each is reached and takes objects, and how far behind it is.

use super::{Done, PUBLIC_KEY_BYTES_MAX, Verdict, overwriting_hides_adding};
use crate::commands::mirror::{self, Standing};
use crate::host::store::{Access, Store};
use crate::host::world::World;
use crate::model::config::Config;
use crate::model::store_key::public_key;

/// Looks at each mirror. Puts nothing there that a backup has not put before: what was never copied to is not touched.
pub(super) fn examine(world: &World, config: &Config, public: &[u8], done: &mut Done) {
    for (mirror, standing) in config.mirrors.iter().zip(mirror::standings(world, config)) {
        match Store::open(world, &mirror.store, Access::Existing) {
            Err(e) => done.bad("mirror", &e),
            Ok(store) => reach(&store, config, public, &standing, done),
        }
        stand(&standing, done);
    }
}

/// Whether it is there, is of this series, and takes objects.
fn reach(store: &Store, config: &Config, public: &[u8], standing: &Standing, done: &mut Done) {
    let (key, name) = (public_key(&config.name, 1), store.name());
    let there = match store.get_if_there(&key, PUBLIC_KEY_BYTES_MAX) {
        Ok(there) => there,
        // Whoever may only add there knows of the key if it was put from here.
        Err(e) if Store::is_refusal(&e) && standing.up_to_date.is_none() => {
            done.add("mirror", Verdict::Ok, format!("{name} was reached"), None);
            return;
        }
        Err(e) if Store::is_refusal(&e) && overwriting_hides_adding(store) => {
            let text = format!("{name} was reached, and does not say whether the credential may add objects");
            done.add("mirror", Verdict::Ok, text, None);
            return;
        }
        Err(e) if Store::is_refusal(&e) => None,
        Err(e) => return done.bad("mirror", &e),
    };
    let seen = there.is_some();
    match there {
        Some(there) if there != public => {
            let hint = "give the mirror a place of its own, as a prefix";
            let text = format!("{name} holds another series of the name {}", config.name);
            return done.add("mirror", Verdict::Bad, text, Some(hint));
        }
        None if standing.up_to_date.is_none() => {
            return done.add(
                "mirror",
                Verdict::Ok,
                format!("{name} was reached, and has nothing of this series"),
                None,
            );
        }
        _ => {}
    }
    // As for the store itself: to put what is there already needs the right to put, and changes nothing.
    match store.put_if_absent(&key, public.to_vec()) {
        Ok(false) => done.add("mirror", Verdict::Ok, format!("{name} takes objects"), None),
        Ok(true) if seen => {
            let text = format!("{name} ignores `If-None-Match`: what is there can be replaced");
            done.add("mirror", Verdict::Note, text, Some("keep versions of what is there"));
        }
        Ok(true) => {
            let hint = "was it exchanged or emptied? `lifeboat copy --to` the mirror brings it up to date";
            let text =
                format!("the key of this series was not on {name}, or it ignores `If-None-Match`; it was put back");
            done.add("mirror", Verdict::Bad, text, Some(hint));
        }
        Err(e) => done.bad("mirror", &e),
    }
}

/// How it stood after the last backup.
fn stand(standing: &Standing, done: &mut Done) {
    let hint = "`lifeboat backup` copies to it and says what is wrong";
    match (standing.problem(), &standing.up_to_date, &standing.behind_since) {
        (Some(problem), _, Some(_)) => done.add("mirrored", Verdict::Bad, problem, Some(hint)),
        (Some(problem), ..) => done.add("mirrored", Verdict::Note, problem, Some("the next backup copies to it")),
        (None, ..) => done.add("mirrored", Verdict::Ok, standing.text(), None),
    }
}
