//! The configuration as `init` writes it: commented, and the same again when it is read.

use super::config::{Config, Identity, Origin, Source, duration};
use super::preset;

pub(super) fn render(config: &Config) -> String {
    let mut out = String::new();
    out.push_str(
        "# lifeboat's configuration. Unknown names are errors: a mistyped rule would keep quiet for years.\n\n",
    );
    assign(&mut out, "name", &quoted(&config.name), "the series: this machine's line of snapshots");
    assign(&mut out, "store", &quoted(&config.store), "where snapshots go");
    super::upload::render_limit(&mut out, &config.upload);

    for mirror in &config.mirrors {
        out.push_str("\n# A second place: each backup brings it up to date.\n[[mirror]]\n");
        assign(&mut out, "store", &quoted(&mirror.store), "");
    }

    out.push_str("\n# Memories, transcripts, databases, projects.\n[state]\n");
    assign(&mut out, "recipients", &list(&config.state.recipients), "who can open it");
    let places = "where this host keeps the identity: keyring | file:PATH | command:COMMAND | none";
    assign(&mut out, "identity", &quoted(&place(&config.state.identity)), places);

    out.push_str("\n# API keys, tokens, private keys: an archive and a key of their own.\n[secrets]\n");
    assign(&mut out, "recipients", &list(&config.secrets.recipients), "who can open it");
    assign(&mut out, "identity", &quoted(&place(&config.secrets.identity)), "as above");
    let sweep = "what a secret value in the state archive leads to: report | move | fail";
    assign(&mut out, "sweep", &quoted(config.secrets.sweep.name()), sweep);
    assign(&mut out, "keep", &quoted(&duration(config.secrets.keep_hours)), "how long a bundle is kept");

    out.push_str(&format!("\n# What is backed up: a preset ({}) or a path.\n", preset::names()));
    out.push_str("# include, exclude, secret and state are patterns: `*.iso` at any depth, `a/b` below the source.\n");
    for source in &config.sources {
        render_source(&mut out, source);
    }

    out.push_str(
        "\n# How long snapshots can be restored. A tier that is not named has its default; \"none\" removes it.\n",
    );
    out.push_str("[tiers]\n");
    for (name, _) in super::config::PERIODS.iter().rev() {
        match config.tiers.iter().find(|t| t.name == *name) {
            Some(tier) => assign(&mut out, name, &quoted(&duration(tier.keep_hours)), ""),
            None if *name == "yearly" => {}
            None => assign(&mut out, name, &quoted("none"), ""),
        }
    }

    out.push_str("\n[archive]\n");
    assign(&mut out, "level", &config.archive.level.to_string(), "zstd, 1 to 19");
    let check = "decompress and compare every frame before it is sealed";
    assign(&mut out, "check_frames", &config.archive.check_frames.to_string(), check);
    super::upload::render_classes(&mut out, &config.upload);
    super::config_watch::render(&mut out, config);
    out
}

fn render_source(out: &mut String, source: &Source) {
    out.push_str("\n[[source]]\n");
    match &source.origin {
        Origin::Preset(name) => {
            assign(out, "preset", &quoted(name), "knows the home, the classes, the databases, the drill");
        }
        Origin::Path(path) => assign(out, "path", &quoted(path), ""),
    }
    for (name, patterns) in [
        ("include", &source.include),
        ("exclude", &source.exclude),
        ("secret", &source.secret),
        ("state", &source.state),
    ] {
        if !patterns.is_empty() {
            assign(out, name, &list(patterns), "");
        }
    }
    if let Some(sweep) = source.sweep {
        assign(out, "sweep", &quoted(sweep.name()), "for this source");
    }
}

fn place(identity: &Identity) -> String {
    match identity {
        Identity::Keyring => "keyring".to_owned(),
        Identity::None => "none".to_owned(),
        Identity::File(path) => format!("file:{path}"),
        Identity::Command(command) => format!("command:{command}"),
    }
}

pub(super) fn assign(out: &mut String, name: &str, value: &str, comment: &str) {
    // Long lists push a comment out of sight: it goes above them.
    let line = format!("{name} = {value}");
    if comment.is_empty() {
        out.push_str(&line);
    } else if line.len() <= 40 {
        out.push_str(&format!("{line:<40}  # {comment}"));
    } else {
        out.push_str(&format!("# {comment}\n{line}"));
    }
    out.push('\n');
}

pub(super) fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|i| quoted(i)).collect();
    if items.iter().map(String::len).sum::<usize>() > 90 {
        return format!("[\n  {},\n]", items.join(",\n  "));
    }
    format!("[{}]", items.join(", "))
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
