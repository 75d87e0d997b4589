//! Reads and writes the tables of a configuration that are about watching: `[status]`, `[hooks]` and `[guard]`.

use serde::Deserialize;
use toml::Spanned;

use super::config::{Config, KEEP_HOURS_MAX, duration, parse_duration};
use super::config_read::{Reader, holds_key};
use super::config_text::{assign, list, quoted};
use super::guard::Bounds;
use super::watch::{
    DEADLINE_SECONDS, DEADLINE_SECONDS_MAX, Hooks, Moment, Status, is_plain_url, is_url, parse_seconds,
};
use crate::error::Result;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStatus {
    snapshot: Option<Spanned<String>>,
    drill: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHooks {
    ping: Option<Spanned<String>>,
    #[serde(default)]
    start: Vec<Spanned<String>>,
    #[serde(default)]
    success: Vec<Spanned<String>>,
    #[serde(default)]
    incomplete: Vec<Spanned<String>>,
    #[serde(default)]
    suspicious: Vec<Spanned<String>>,
    #[serde(default)]
    failure: Vec<Spanned<String>>,
    deadline: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuard {
    gone: Option<Spanned<String>>,
    documents: Option<Spanned<String>>,
    rewritten: Option<Spanned<String>>,
    rows: Option<Spanned<String>>,
    emptied: Option<Spanned<String>>,
}

pub(super) fn guard(reader: &Reader<'_>, raw: RawGuard) -> Result<Bounds> {
    let bound = |text: Option<Spanned<String>>, default: Option<u8>| match text {
        None => Ok(default),
        Some(text) if text.get_ref() == "none" => Ok(None),
        Some(text) => match text.get_ref().strip_suffix('%').map(|n| n.trim().parse::<u8>()) {
            Some(Ok(percent)) if (1..=100).contains(&percent) => Ok(Some(percent)),
            _ => Err(reader
                .wrong(text.span(), format!("{:?} is no share", text.get_ref()))
                .hint("write a share of what was there before, from `1%` to `100%`, or \"none\"")),
        },
    };
    let default = Bounds::default();
    Ok(Bounds {
        gone: bound(raw.gone, default.gone)?,
        documents: bound(raw.documents, default.documents)?,
        rewritten: bound(raw.rewritten, default.rewritten)?,
        rows: bound(raw.rows, default.rows)?,
        emptied: bound(raw.emptied, default.emptied)?,
    })
}

pub(super) fn status(reader: &Reader<'_>, raw: RawStatus) -> Result<Status> {
    let age = |text: Option<Spanned<String>>, default: Option<u32>| match text {
        None => Ok(default),
        Some(text) if text.get_ref() == "none" => Ok(None),
        Some(text) => match parse_duration(text.get_ref()) {
            Some(hours) if (1..=KEEP_HOURS_MAX).contains(&hours) => Ok(Some(hours)),
            _ => Err(reader
                .wrong(text.span(), format!("{:?} is no age", text.get_ref()))
                .hint("write a number with h, d, w, mo or y, like `26h` or `35d`, or \"none\"")),
        },
    };
    let default = Status::default();
    Ok(Status {
        snapshot_hours: age(raw.snapshot, default.snapshot_hours)?,
        drill_hours: age(raw.drill, default.drill_hours)?,
    })
}

/// No message repeats a command or a URL: either may hold a token.
pub(super) fn hooks(reader: &Reader<'_>, raw: RawHooks) -> Result<Hooks> {
    let given = [raw.start, raw.success, raw.incomplete, raw.suspicious, raw.failure];
    let mut calls = Vec::new();
    for (moment, texts) in Moment::ALL.into_iter().zip(given) {
        for text in texts {
            if text.get_ref().trim().is_empty() || text.get_ref().contains('\0') || holds_key(text.get_ref()) {
                let error = reader.wrong(text.span(), format!("a hook of {} cannot be run", moment.word()));
                return Err(error.hint("write a command for `sh`, or a URL; and no key in either"));
            }
            if is_url(text.get_ref()) {
                check_url(reader, &text)?;
            }
            calls.push((moment, text.into_inner()));
        }
    }
    if let Some(url) = &raw.ping {
        check_url(reader, url)?;
    }
    let deadline_seconds = match &raw.deadline {
        None => DEADLINE_SECONDS,
        Some(text) => match parse_seconds(text.get_ref()) {
            Some(seconds) if (1..=DEADLINE_SECONDS_MAX).contains(&seconds) => seconds,
            _ => {
                let error = reader.wrong(text.span(), format!("{:?} is no deadline", text.get_ref()));
                return Err(error.hint("write seconds or minutes, from `1s` to `10m`"));
            }
        },
    };
    Ok(Hooks { ping: raw.ping.map(Spanned::into_inner), calls, deadline_seconds })
}

fn check_url(reader: &Reader<'_>, url: &Spanned<String>) -> Result<()> {
    if is_plain_url(url.get_ref()) {
        return Ok(());
    }
    let error =
        reader.wrong(url.span(), "a URL of [hooks] does not start with https:// or has a character that no URL has");
    Err(error.hint("write it as the monitoring service shows it; what is no letter or sign of a URL as %XX"))
}

/// The tables as text; `[hooks]` and `[guard]` only where something is in them that is not the default.
pub(super) fn render(out: &mut String, config: &Config) {
    out.push_str("\n# `lifeboat status` fails when the newest is older; \"none\" never does.\n[status]\n");
    let age = |hours: Option<u32>| hours.map_or_else(|| "none".to_owned(), duration);
    assign(out, "snapshot", &quoted(&age(config.status.snapshot_hours)), "");
    assign(out, "drill", &quoted(&age(config.status.drill_hours)), "a rehearsed restore: `lifeboat drill`");
    render_guard(out, &config.guard);
    let hooks = &config.hooks;
    if *hooks == Hooks::default() {
        return;
    }
    out.push_str("\n# Called when a backup starts and ends: commands for `sh`, or URLs.\n[hooks]\n");
    if let Some(url) = &hooks.ping {
        assign(out, "ping", &quoted(url), "/start and /fail are added");
    }
    for moment in Moment::ALL {
        let calls: Vec<String> = hooks.calls.iter().filter(|(m, _)| *m == moment).map(|(_, c)| c.clone()).collect();
        if !calls.is_empty() {
            assign(out, moment.word(), &list(&calls), "");
        }
    }
    assign(out, "deadline", &quoted(&format!("{}s", hooks.deadline_seconds)), "for each of them");
}

fn render_guard(out: &mut String, bounds: &Bounds) {
    if *bounds == Bounds::default() {
        return;
    }
    out.push_str(
        "\n# What makes a snapshot suspicious, as shares of what was there before; \"none\" asks nothing.\n[guard]\n",
    );
    for (name, bound, what) in [
        ("gone", bounds.gone, "files or bytes that are gone"),
        ("documents", bounds.documents, "documents of one kind that are gone"),
        ("rewritten", bounds.rewritten, "files that have other content"),
        ("rows", bounds.rows, "rows of a table that are gone"),
        ("emptied", bounds.emptied, "bytes of an identity, memory or jobs file that are gone"),
    ] {
        let text = bound.map_or_else(|| "none".to_owned(), |percent| format!("{percent}%"));
        assign(out, name, &quoted(&text), what);
    }
}
