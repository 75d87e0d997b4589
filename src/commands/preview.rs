//! What a dry run can say: by names and times alone, nothing is read.

use super::backup::{Done, Written};
use super::changes::{Look, Places, compare};
use crate::error::Result;
use crate::host::catalog::Catalog;
use crate::host::scan::Scan;
use crate::host::world::World;
use crate::model::config::Config;
use crate::model::entry::Kind;
use crate::model::store_key::Archive;
use crate::model::tiers::{Past, Question, decide};
use crate::model::tree::Index;

/// Fills in what would be written.
///
/// # Errors
/// When the catalog cannot be read.
pub fn preview(world: &World, config: &Config, found: &Scan, secrets_only: bool, done: &mut Done) -> Result<()> {
    let tree = &found.tree;
    let of = |archive| move |i: &Index| tree.node(*i).archive == archive && tree.node(*i).kind == Kind::File;
    done.secrets = Some(written(found, tree.indices().filter(of(Archive::Secrets)))).filter(|w| w.files > 0);
    if !secrets_only {
        let everything = written(found, tree.indices().filter(of(Archive::State)));
        done.state = Some(increment(world, config, found, done)?.unwrap_or(everything));
    }
    let missing = tree.indices().filter(|i| tree.node(*i).kind == Kind::Missing);
    done.unreadable =
        missing.map(|i| format!("{}: {}", found.shown_on_disk(i, &world.home), tree.entry(i).reason)).collect();
    Ok(())
}

/// What an incremental would look at, if there is something it could be made against.
fn increment(world: &World, config: &Config, found: &Scan, done: &mut Done) -> Result<Option<Written>> {
    let Some(catalog) = Catalog::existing(&world.state_dir(&config.name)) else { return Ok(None) };
    let past: Vec<Past> = catalog.snapshots()?.into_iter().map(|known| known.past).collect();
    let generation = catalog.generation()?;
    let answer = decide(&Question {
        tiers: &config.tiers,
        past: &past,
        generation: generation.as_ref(),
        now: world.now(),
        suspicious: false,
        foreign_full: None,
    });
    let Some(parent) = past.iter().find(|p| Some(&p.id) == answer.parent.as_ref()) else { return Ok(None) };
    let changes = compare(found, &Places::of(&found.tree), &catalog, Look::Since(parent.seq))?;
    done.deleted = changes.gone.len() as u64;
    let listed = changes.looks.iter().map(|(i, _)| *i).chain(changes.later.iter().map(|(i, _)| *i));
    let files = written(found, listed.filter(|i| found.tree.node(*i).kind == Kind::File));
    let tier = Some(config.tiers[answer.tier].name.clone());
    Ok(Some(Written { tier, parent: Some(parent.id.to_string()), ..files }))
}

fn written(found: &Scan, files: impl Iterator<Item = Index>) -> Written {
    let (files, bytes) = files.fold((0, 0), |(n, bytes), i| (n + 1, bytes + found.tree.node(i).size));
    Written { id: String::new(), place: String::new(), tier: None, parent: None, files, bytes, stored: 0 }
}
