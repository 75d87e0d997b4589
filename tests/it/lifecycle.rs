//! The rules of a bucket: the texts of `tests/lifecycle`, and what they mean when they are read back.
//! `UPDATE_LIFECYCLE=1` writes what comes out back to the files.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat::commands::{Event, Report as _, lifecycle};
use lifeboat::model::config::Config;
use lifeboat::model::lifecycle::Cloud;
use lifeboat::{Error, Kind};
use serde_json::Value;

use crate::world::Machine;

/// A machine with a store in a cloud that nobody has to reach.
fn machine(store: &str, tiers: &str) -> Machine {
    let machine = Machine::new();
    machine.write("agent/x", "x");
    machine.init(&["agent"]);
    machine.configure(|text| {
        let config = Config { store: store.to_owned(), ..Config::parse(&text).unwrap() };
        let text = config.render();
        let (before, rest) = text.split_once("[tiers]\n").unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        format!("{before}[tiers]\n{tiers}\n\n{after}")
    });
    machine
}

fn run(machine: &Machine, cloud: Option<Cloud>) -> Result<(lifecycle::Rules, Vec<Event>), Error> {
    let mut events = Vec::new();
    let rules = lifecycle::run(&machine.world, &lifecycle::Args { cloud, store: None }, &mut |e| events.push(e))?;
    Ok((rules, events))
}

/// Days by prefix, for live objects, read back from what is printed.
fn days(cloud: Cloud, rules: &Value) -> BTreeMap<String, u64> {
    let list = |of: &Value, name: &str| of[name].as_array().unwrap().clone();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let found = match cloud {
        Cloud::S3 => list(rules, "Rules")
            .iter()
            .filter_map(|r| Some((text(&r["Filter"]["Prefix"]), r["Expiration"]["Days"].as_u64()?)))
            .collect::<Vec<_>>(),
        Cloud::Gcs => list(rules, "rule")
            .iter()
            .filter(|r| r["condition"]["isLive"] == Value::Bool(true))
            .map(|r| (text(&r["condition"]["matchesPrefix"][0]), r["condition"]["age"].as_u64().unwrap()))
            .collect(),
        Cloud::Azure => list(rules, "rules")
            .iter()
            .map(|r| {
                let days = &r["definition"]["actions"]["baseBlob"]["delete"]["daysAfterCreationGreaterThan"];
                (text(&r["definition"]["filters"]["prefixMatch"][0]), days.as_u64().unwrap())
            })
            .collect(),
    };
    let out: BTreeMap<String, u64> = found.iter().cloned().collect();
    assert_eq!(out.len(), found.len(), "one rule for each prefix");
    out
}

const CASES: [(Cloud, &str, &str); 3] = [
    (Cloud::S3, "s3://acme-agent-backups/prod?endpoint=http://nas:9000&region=eu-west-1", "prod/"),
    (Cloud::Gcs, "gs://acme-agent-backups", ""),
    (Cloud::Azure, "az://backups/agents/vm/", "backups/agents/vm/"),
];

#[test]
fn the_texts_are_as_written() {
    for (cloud, store, _) in CASES {
        let (rules, events) = run(&machine(store, ""), Some(cloud)).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/lifecycle/{}.json", cloud.word()));
        if std::env::var_os("UPDATE_LIFECYCLE").is_some() {
            std::fs::write(&file, rules.text()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), rules.text(), "{}", file.display());
        let Event::Note(note) = &events[0] else { panic!("{events:?}") };
        assert!(note.ends_with(&rules.command), "{note}");
    }
}

#[test]
fn each_tier_has_its_days_and_nothing_else_has_any() {
    for (cloud, store, prefix) in CASES {
        let (rules, _) = run(&machine(store, ""), None).unwrap();
        let found = days(cloud, &rules.rules);
        let wanted = [
            ("state/monthly/", 365),
            ("state/weekly/", 115),
            ("state/daily/", 37),
            ("state/hourly/", 2),
            ("secrets/", 90),
            ("drills/", 365),
        ];
        assert_eq!(found, wanted.map(|(below, days)| (format!("{prefix}{below}"), days)).into());
        let kept = ["state/pinned/vm1/x/commit", "secrets-pinned/vm1/x/commit", "keys/vm1/000001.pub", "recover.sh"];
        for key in kept.map(|key| format!("{prefix}{key}")) {
            assert!(!rules.text().contains("pinned"));
            assert!(!found.keys().any(|rule| key.starts_with(rule.as_str())), "{key}");
        }
    }
}

#[test]
fn versions_markers_and_uploads_go_too() {
    let count = |text: &str, what: &str| text.matches(what).count();
    let text = |n: usize| run(&machine(CASES[n].1, ""), None).unwrap().0.text();
    for (n, what) in [
        (0, "\"NoncurrentDays\": 7"),
        (0, "\"ExpiredObjectDeleteMarker\": true"),
        (0, "\"DaysAfterInitiation\": 7"),
        (1, "\"daysSinceNoncurrentTime\": 7"),
        (1, "\"AbortIncompleteMultipartUpload\""),
        (2, "\"version\": {"),
    ] {
        assert_eq!(count(&text(n), what), 6, "{what}");
    }
}

#[test]
fn other_tiers_have_other_days() {
    let tiers = "yearly = \"5y\"\nweekly = \"none\"\nhourly = \"3d\"";
    let (rules, _) = run(&machine("s3://b", tiers), None).unwrap();
    let found = days(Cloud::S3, &rules.rules);
    let of = |tier: &str| found.get(&format!("state/{tier}/")).copied();
    // A daily leans on a monthly now; what a weekly was made for may live as long as anything does.
    assert_eq!((of("hourly"), of("daily"), of("monthly"), of("yearly")), (Some(4), Some(61), Some(731), Some(1825)));
    assert_eq!(of("weekly"), Some(1825));
    // What was coarser than all that is left was promised more than anybody knows.
    let (rules, _) = run(&machine("s3://b", "monthly = \"none\""), None).unwrap();
    assert_eq!(days(Cloud::S3, &rules.rules).get("state/monthly/"), None);
}

#[test]
fn names_of_rules_are_distinct_and_allowed() {
    let (rules, _) = run(&machine(CASES[2].1, ""), None).unwrap();
    let names: Vec<&str> =
        rules.rules["rules"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"lifeboatBackupsAgentsVmStateHourly"), "{names:?}");
    assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_alphanumeric())), "{names:?}");
    let long = format!("s3://b/{}", "x".repeat(250));
    let (rules, _) = run(&machine(&long, ""), None).unwrap();
    for rule in rules.rules["Rules"].as_array().unwrap() {
        assert!(rule["ID"].as_str().is_none_or(|id| id.len() <= 255));
    }
}

#[test]
fn errors_say_what_to_do_instead() {
    for (store, cloud, said, hint) in [
        ("/mnt/backup", None, "is a directory, which has no lifecycle", "prune"),
        ("file:///mnt/backup", Some(Cloud::S3), "is a directory", "prune"),
        ("gs://bucket/x", Some(Cloud::S3), "takes no rules of s3", "--for gcs"),
        ("s3://bucket/a b", None, "no rule can be written", "letters"),
        ("s3://bucket/a//b", None, "no rule can be written", "letters"),
        ("s3:///a", None, "no rule can be written", "letters"),
        ("ftp://host/a", None, "no lifecycle is known", ""),
    ] {
        let error = run(&machine(store, ""), cloud).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{store}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.advice().unwrap_or_default().contains(hint), "{error}");
    }
    assert_eq!(run(&Machine::new(), None).unwrap_err().kind(), Kind::NotThere);
}

#[test]
fn the_program_prints_rules_alone_on_stdout() {
    let machine = machine(CASES[0].1, "");
    let out = machine.program(&["lifecycle", "print", "--for", "s3"]).output().unwrap();
    let rules: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(rules["Rules"].as_array().unwrap().len() == 12);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("--bucket acme-agent-backups ") && said.contains("replaces every rule"), "{said}");
    let out = machine.program(&["lifecycle", "print", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((json["for"].as_str(), &json["rules"]), (Some("s3"), &rules));
    assert_eq!(machine.program(&["lifecycle", "print", "--for", "gcs"]).output().unwrap().status.code(), Some(2));
}
