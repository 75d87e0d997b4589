//! What a configuration may say, and what is said about one that is wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::watch::Moment;

const GOOD: &str = r#"name  = "vm1"
store = "s3://acme-agent-backups/prod"

[state]
recipients = ["age1aaa", "age1bbb"]
identity   = "keyring"
[secrets]
recipients = ["age1ccc"]

[[source]]
preset = "hermes"
[[source]]
path    = "~/projects"
exclude = ["**/node_modules", "**/target"]
"#;

#[test]
fn the_example_of_the_manual_parses() {
    let config = Config::parse(GOOD).unwrap();
    assert_eq!(config.name, "vm1");
    assert_eq!(config.state.recipients, ["age1aaa", "age1bbb"]);
    assert_eq!(config.secrets.identity, Identity::Keyring);
    assert_eq!(config.secrets.sweep, Sweep::Report);
    assert_eq!(config.secrets.keep_hours, 90 * 24);
    assert_eq!(config.sources[0].origin, Origin::Preset("hermes".into()));
    assert_eq!(config.sources[1].exclude, ["**/node_modules", "**/target"]);
    assert_eq!(config.archive, Archive { level: 3, check_frames: true });
    assert_eq!(config.tiers, default_tiers());
    let tiers: Vec<(&str, u32)> = config.tiers.iter().map(|t| (t.name.as_str(), t.keep_hours)).collect();
    assert_eq!(tiers, [("monthly", 365 * 24), ("weekly", 84 * 24), ("daily", 720), ("hourly", 24)]);
}

#[test]
fn tiers_change_the_defaults() {
    let tiers = |text: &str| -> Vec<(String, u32)> {
        let config = Config::parse(&format!("{GOOD}\n[tiers]\n{text}")).unwrap();
        config.tiers.into_iter().map(|t| (t.name, t.keep_hours)).collect()
    };
    assert_eq!(tiers("yearly = \"5y\"")[0], ("yearly".into(), 5 * 8760));
    assert_eq!(tiers("yearly = \"5y\"").len(), 5);
    assert_eq!(tiers("weekly = \"none\"\nhourly = \"2d\"").len(), 3);
    assert_eq!(tiers("hourly = \"2d\"")[3], ("hourly".into(), 48));
}

/// What is put in place of what, what the error says then, and a word of its hint.
const WRONG: &[(&str, &str, &str, &str)] = &[
    (
        "identity   =",
        "recipient =",
        "configuration line 6: unknown field `recipient`, expected `recipients` or `identity`",
        "correct the name",
    ),
    ("name  =", "nmae =", "configuration line 1: unknown field `nmae`", "correct the name"),
    ("name  = \"vm1\"", "", "configuration: missing field `name`", "lifeboat init"),
    ("name  = \"vm1\"", "name = 5", "configuration line 1: invalid type: integer `5`, expected a string", "quotes"),
    ("\"vm1\"", "\"VM 1\"", "configuration line 1: \"VM 1\" cannot name a series", "`vm-1`"),
    ("\"vm1\"", "\"vm1", "configuration line 1: ", "TOML"),
    ("\"s3://acme-agent-backups/prod\"", "\" \"", "configuration line 2: `store` is empty", "s3://"),
    ("[\"age1aaa\", \"age1bbb\"]", "[]", "configuration line 5: [state] has no recipient", "at least one"),
    ("\"age1ccc\"", "\"agé1ccc\"", "configuration line 8: [secrets] has a recipient that does not start", "age1"),
    ("\"age1ccc\"", "\"AGE-SECRET-KEY-1QQ\"", "configuration line 8: [secrets] names an identity", "age-keygen -y"),
    ("\"keyring\"", "\"key ring\"", "configuration line 6: unknown place for an identity: \"key ring\"", "file:PATH"),
    ("\"keyring\"", "\"AGE-SECRET-KEY-1QQ\"", "configuration line 6: an identity itself", "file:PATH"),
    ("\"keyring\"", "\"file:id.txt\"", "configuration line 6: \"id.txt\" is no path", "absolute"),
    ("\"keyring\"", "\"command:\"", "configuration line 6: unknown place", "command:"),
    (
        "preset = \"hermes\"",
        "preset = \"hermse\"",
        "configuration line 11: unknown preset \"hermse\"",
        "claude-code, codex, hermes, openclaw",
    ),
    ("preset = \"hermes\"", "", "configuration line 10: a source has neither", "path"),
    (
        "preset = \"hermes\"",
        "preset = \"hermes\"\npath = \"/x\"",
        "configuration line 12: a source has both",
        "of their own",
    ),
    ("preset = \"hermes\"", "path = \"~/projects\"", "configuration line 12: this source is there twice", "merge"),
    ("\"~/projects\"", "\"projects\"", "configuration line 13: \"projects\" is no path", "~/"),
    ("\"~/projects\"", "\"~bob/x\"", "configuration line 13: ", "~/"),
    ("\"~/projects\"", "\"/a/../b\"", "configuration line 13: ", ".."),
    ("\"**/target\"", "\"[\"", "configuration line 14: pattern `**/[` is no glob", "backslash"),
    ("\"**/target\"", "\"../x\"", "configuration line 14: pattern `../x` can match no path", "relative"),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\npinned = \"1y\"",
        "configuration line 16: unknown field `pinned`",
        "lifeboat pin",
    ),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\nfortnightly = \"1y\"",
        "configuration line 16: unknown field `fortnightly`",
        "correct",
    ),
    ("\"**/target\"]", "\"x\"]\n[tiers]\ndaily = \"30 days\"", "configuration line 16: \"30 days\" is no time", "30d"),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\ndaily = \"1h\"",
        "configuration line 16: daily keeps \"1h\", less than the 24h from one to the next",
        "at least 24h",
    ),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\nyearly = \"11mo\"",
        "configuration line 16: yearly keeps \"11mo\", less than the 12mo",
        "none",
    ),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\nyearly = \"18mo\"\nmonthly = \"2y\"",
        "configuration line 16: yearly keeps 18mo and monthly 24mo",
        "raise",
    ),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\nfortnightly = \"8w\"",
        "configuration line 16: unknown field `fortnightly`",
        "correct the name",
    ),
    ("\"**/target\"]", "\"x\"]\n[tiers]\npinned = \"8w\"", "configuration line 16: unknown field `pinned`", "no tier"),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\nmonthly=\"none\"\nweekly=\"none\"\ndaily=\"none\"",
        "configuration line 16: hourly alone would store everything again",
        "daily",
    ),
    ("\"**/target\"]", "\"x\"]\n[tiers]\ndaily = \"99999999y\"", "configuration line 16: ", "12mo"),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\nweekly = \"2w\"",
        "configuration line 16: weekly keeps 14d and daily 30d",
        "raise",
    ),
    ("\"**/target\"]", "\"x\"]\n[tiers]\nhourly = \"2y\"", "configuration: daily keeps 30d and hourly 24mo", "raise"),
    (
        "\"**/target\"]",
        "\"x\"]\n[tiers]\nmonthly=\"none\"\nweekly=\"none\"\ndaily=\"none\"\nhourly=\"none\"",
        "configuration line 16: no tier is left",
        "one",
    ),
    ("\"**/target\"]", "\"x\"]\n[archive]\nlevel = 22", "configuration line 16: no zstd level 22", "1 to 19"),
    ("[secrets]", "[secrets]\nsweep = \"delete\"", "configuration line 8: unknown sweep \"delete\"", "move"),
    ("[secrets]", "[secrets]\nkeep = \"1h\"", "configuration line 8: \"1h\" is too short", "24h"),
    ("[secrets]", "[status]\nsnapshot = \"1m\"\n[secrets]", "configuration line 8: \"1m\" is no age", "26h"),
    ("[secrets]", "[status]\nbundle = \"1d\"\n[secrets]", "configuration line 8: unknown field `bundle`", "correct"),
    ("[secrets]", "[hooks]\nping = \"ftp://KEY-1QQ\"\n[secrets]", "configuration line 8: a URL of [hooks]", "%XX"),
    ("[secrets]", "[hooks]\nstart = [\"\"]\n[secrets]", "configuration line 8: a hook of start", "command"),
    ("[secrets]", "[hooks]\nfailure = [\"https://a b\"]\n[secrets]", "configuration line 8: a URL of [hooks]", "%XX"),
    ("[secrets]", "[[mirror]]\nstore = \"\"\n[secrets]", "configuration line 8: a [[mirror]] has an empty", "path"),
    (
        "[secrets]",
        "[[mirror]]\nstore = \"s3://acme-agent-backups/prod\"\n[secrets]",
        "configuration line 8: a [[mirror]] is the store itself",
        "another place",
    ),
    ("[secrets]", "[guard]\ngone = \"half\"\n[secrets]", "configuration line 8: \"half\" is no share", "100%"),
    ("[secrets]", "[guard]\nrows = \"0%\"\n[secrets]", "configuration line 8: \"0%\" is no share", "none"),
    (
        "[state]",
        "limit_upload = \"KEY-1QQ\"\n[state]",
        "configuration line 4: the limit of uploads is no rate",
        "MiB/s",
    ),
    (
        "[secrets]",
        "[storage_class]\ndaily = \"a KEY-1QQ\"\n[secrets]",
        "configuration line 8: the storage class",
        "NEARLINE",
    ),
    (
        "[secrets]",
        "[storage_class]\nweakly = \"x\"\n[secrets]",
        "configuration line 8: unknown field `weakly`",
        "correct",
    ),
    ("[secrets]", "[hooks]\ndeadline = \"1h\"\n[secrets]", "configuration line 8: \"1h\" is no deadline", "10m"),
    ("[secrets]", "[secrets]\nsweep = [\"AGE-SECRET-KEY-1QQ\"]", "configuration line 8: ", ""),
];

#[test]
fn errors_name_the_line() {
    for (old, new, message, hint) in WRONG {
        assert!(GOOD.contains(old), "{old}");
        let error = Config::parse(&GOOD.replacen(old, new, 1)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(message), "{new}: {text}");
        assert!(error.advice().unwrap().contains(hint), "{new}: {:?}", error.advice());
        assert_eq!(error.kind(), crate::Kind::Failed);
        assert!(!text.contains("KEY-1QQ") && !error.causes().join("").contains("KEY-1QQ"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let none = &GOOD[..GOOD.find("[[source]]").unwrap()];
    assert!(Config::parse(none).unwrap_err().to_string().contains("no [[source]]"));
    assert!(Config::parse("").unwrap_err().to_string().starts_with("configuration: missing field `name`"));
}

#[test]
fn what_is_rendered_parses_to_the_same() {
    let plain = Config::parse(GOOD).unwrap();
    let mut odd = plain.clone();
    odd.store = "/mnt/back\\up \"one\"".into();
    odd.state.identity = Identity::File("~/it's \"mine\"/id\t.txt".into());
    odd.secrets.identity = Identity::Command("pass show 'life\\boat'".into());
    odd.secrets.sweep = Sweep::Fail;
    odd.secrets.keep_hours = 25;
    odd.state.recipients = (0..4).map(|i| format!("age1{}{i}", "q".repeat(58))).collect();
    for path in ["/a\"b\\c/# d", "/new\nline\r\u{7f}\u{1b}", "~/\u{e9}\u{202e}'''", "/[x]", "~"] {
        odd.sources.push(Source::new(Origin::Path(path.into())));
    }
    odd.sources[0].include = vec!["checkpoints/".into()];
    odd.sources[1].secret = vec!["a \"b\"".into(), "\\[x\\]".into()];
    odd.sources[1].state = vec!["fixtures/**".into()];
    odd.tiers = vec![
        Tier { name: "yearly".into(), keep_hours: 5 * YEAR },
        Tier { name: "weekly".into(), keep_hours: 12 * WEEK + 1 },
        Tier { name: "hourly".into(), keep_hours: 31 },
    ];
    odd.archive = Archive { level: 9, check_frames: false };
    let classes = [("monthly", "GLACIER_IR"), ("secrets", "Cool")];
    let classes = classes.map(|(tier, class)| (tier.to_owned(), class.to_owned())).into();
    odd.upload = crate::model::upload::Upload { limit: Some(1_250_000), classes };
    odd.status = Status { snapshot_hours: Some(1), drill_hours: None };
    odd.mirrors = vec![Mirror { store: "/mnt/\"two\"".into() }, Mirror { store: "gs://b/p".into() }];
    odd.guard = Bounds { gone: Some(1), documents: None, rewritten: Some(100), ..Bounds::default() };
    let calls = vec![(Moment::Start, "echo \"a\"".into()), (Moment::Failure, "https://x.example/y".into())];
    odd.hooks = Hooks { ping: Some("https://hc.example/uuid".into()), calls, deadline_seconds: 90 };
    let mut sealed = plain.clone();
    sealed.state.identity = Identity::None;
    for config in [plain, odd, sealed] {
        let text = config.render();
        assert_eq!(Config::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")), config, "{text}");
        assert!(text.lines().all(|l| l.len() < 200 && l.trim_end() == l), "{text}");
    }
}

#[test]
fn durations_are_written_as_they_are_read() {
    for hours in [1, 24, 31, 48, 720, 730, 8760, 5 * YEAR, KEEP_HOURS_MAX, WEEK, 12 * WEEK, 12 * WEEK + 1] {
        assert_eq!(parse_duration(&duration(hours)), Some(hours), "{}", duration(hours));
    }
    for bad in ["", "h", "24", "-1h", "1.5d", "24 h", "4294967295y", "1m"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}

#[test]
fn series_come_from_hosts() {
    for (host, want) in [
        ("vm1", "vm1"),
        ("VM1.Example.COM", "vm1.example.com"),
        ("Jane's MacBook", "jane-s-macbook"),
        ("--x--", "x"),
        ("", "host"),
        ("...", "host"),
        ("b\u{fc}ro", "b-ro"),
        ("\u{fc}", "host"),
    ] {
        assert_eq!(series_from(host), want, "{host}");
        assert!(is_series(want));
    }
    assert!(is_series(&series_from(&"a-".repeat(80))));
    for bad in ["", "A", "-a", ".a", "a b", "a/b", &"a".repeat(65)] {
        assert!(!is_series(bad), "{bad}");
    }
}

#[test]
fn the_home_is_expanded_by_its_sign_only() {
    let home = Path::new("/home/u");
    for (text, want) in
        [("~", "/home/u"), ("~/x", "/home/u/x"), ("~//x", "/home/u/x"), ("/~/x", "/~/x"), ("~b/x", "~b/x")]
    {
        assert_eq!(expand_home(text, home), Path::new(want));
    }
}
