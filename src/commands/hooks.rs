//! Tells whoever is configured that a backup starts and how it ended. Nothing of it has an effect on the backup.

use std::time::Duration;

use super::session::configuration;
use super::{Event, Events, Report};
use crate::error::Error;
use crate::host::hooks::call;
use crate::host::world::World;
use crate::model::path::printable;
use crate::model::watch::Moment;

/// The exit code that a result leads to.
pub fn exit_code<R: Report>(result: &Result<R, Error>) -> u8 {
    match result {
        Ok(report) => report.verdict().map_or(0, crate::Kind::exit_code),
        Err(e) => e.kind().exit_code(),
    }
}

/// Calls the hooks of a moment, one after the other. `code` is the exit code, when the run has ended. What goes wrong with
/// a hook becomes a warning; a configuration that cannot be read has none, and the backup itself says why.
pub fn tell(world: &World, moment: Moment, code: Option<u8>, events: &mut Events<'_>) {
    let Ok(Some(configured)) = configuration(world) else { return };
    let config = configured.config;
    let deadline = Duration::from_secs(u64::from(config.hooks.deadline_seconds));
    let code = code.map(|code| code.to_string()).unwrap_or_default();
    let told = [
        ("LIFEBOAT_EVENT", moment.word()),
        ("LIFEBOAT_SERIES", config.name.as_str()),
        ("LIFEBOAT_HOST", world.host_name.as_str()),
        ("LIFEBOAT_EXIT_CODE", code.as_str()),
    ];
    let told = &told[..if code.is_empty() { 3 } else { 4 }];
    for (n, hook) in config.hooks.at(moment).iter().enumerate() {
        if let Err(e) = call(world, hook, told, deadline) {
            // Neither the command nor the URL is repeated: it may hold a token.
            let why = printable(e.to_string().as_bytes());
            let hint = e.advice().map_or(String::new(), |hint| format!("; {hint}"));
            events(Event::Warning(format!("hook {} of `{}`: {why}{hint}", n + 1, moment.word())));
        }
    }
}
