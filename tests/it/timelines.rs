//! Timelines of `tests/timelines/*.txt`: a run per line, and what becomes of it after the bar: tier, parent, life, the
//! earliest end of life in the chain, and why. `UPDATE_TIMELINES=1` writes what comes out back to the files.
//!
//! A line is one of
//! - `tiers NAME=KEEP …`: the configuration from here on;
//! - `DATE TIME [suspicious] [unchanged] [took=3h]`: a run, which takes a number if it writes a snapshot; times are UTC;
//! - `DATE TIME burst`: a run, of which the other tiers that it could take are told, too;
//! - `every 15m until DATE TIME`: many runs, told in numbers;
//! - `gone #3`, `lost catalog`, `accept`: what happens meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use lifeboat::model::config::{Tier, default_tiers};
use lifeboat::model::store_key::SnapshotId;
use lifeboat::model::tiers::{Answer, Past, Question, decide, life_days, promotions};

const DAY: i64 = 86_400;

#[test]
fn timelines_come_out_as_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/timelines");
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "the timelines are there");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let played = play(&text);
        if std::env::var_os("UPDATE_TIMELINES").is_some() {
            std::fs::write(&file, &played).unwrap();
        } else {
            assert_eq!(text, played, "{}", file.display());
        }
    }
}

/// What a host knows in the course of a timeline.
struct Host {
    tiers: Vec<Tier>,
    past: Vec<Past>,
    /// What other catalogs wrote: no longer known, but on the store.
    foreign_full: Option<i64>,
    generation: Option<SnapshotId>,
    runs: u32,
    now: i64,
}

fn play(text: &str) -> String {
    let mut host = Host::new();
    let mut out = String::new();
    for line in text.lines() {
        let input = line.split('|').next().unwrap().trim_end();
        let result = if input.starts_with('#') || input.is_empty() { String::new() } else { host.line(input) };
        match result.is_empty() {
            true => writeln!(out, "{input}").unwrap(),
            false => writeln!(out, "{input:<40} | {result}").unwrap(),
        }
    }
    out
}

impl Host {
    fn new() -> Host {
        Host { tiers: default_tiers(), past: Vec::new(), foreign_full: None, generation: None, runs: 0, now: 0 }
    }

    /// The catalog is lost; what is on the store is found again, as another generation's.
    fn lose(&mut self) {
        let fulls = self.past.iter().filter(|p| p.parent.is_none());
        self.foreign_full = fulls.map(|p| p.id.unix_seconds()).max();
        self.generation = None;
        self.past.iter_mut().for_each(|p| p.generation = None);
    }

    fn line(&mut self, input: &str) -> String {
        let words: Vec<&str> = input.split_whitespace().collect();
        match words[0] {
            "tiers" => self.tiers = words[1..].iter().map(|w| tier(w)).collect(),
            "gone" => {
                let id = self.past.iter_mut().find(|p| label(&p.id) == words[1]).unwrap();
                id.whole = false;
            }
            "lost" => self.lose(),
            "accept" => self.past.iter_mut().for_each(|p| p.suspicious = false),
            "every" => return self.every(&words),
            _ => return self.run(&words),
        }
        String::new()
    }

    fn question(&self, suspicious: bool) -> Question<'_> {
        Question {
            tiers: &self.tiers,
            past: &self.past,
            generation: self.generation.as_ref(),
            now: self.now,
            suspicious,
            foreign_full: self.foreign_full,
        }
    }

    fn run(&mut self, words: &[&str]) -> String {
        self.now = time(words[0], words[1]);
        let has = |word: &str| words.contains(&word);
        let answer = decide(&self.question(has("suspicious")));
        if has("unchanged") && !answer.fills {
            return "nothing written".to_owned();
        }
        let mut others = String::new();
        if has("burst") {
            for other in promotions(&self.question(false), &answer) {
                let parent = other.parent.as_ref().map(label).unwrap_or_default();
                let text = with_labels(&other.reason);
                write!(others, "; or {} on {parent}, {}d: {text}", self.tiers[other.tier].name, other.life).unwrap();
            }
        }
        let took = words.iter().find_map(|w| w.strip_prefix("took=")).map_or(0, |t| i64::from(hours(t)) * 3600);
        let id = self.write(&answer, has("suspicious"), took);
        let Answer { tier, parent, life, reason, fills, not_persistent } = &answer;
        let parent = parent.as_ref().map_or("full".to_owned(), |p| format!("on {}", label(p)));
        let chain = self.chain(&id);
        let end = chain.iter().map(|p| p.id.unix_seconds() + i64::try_from(p.life).unwrap() * DAY).min().unwrap();
        let (must, exit) = (if *fills { ", must" } else { "" }, if *not_persistent { ", exit 3" } else { "" });
        let name = &self.tiers[*tier].name;
        assert_eq!(*life, life_days(&self.tiers, *tier));
        let (end, reason) = (day(end), with_labels(reason));
        format!("{} {name} {parent}, {life}d, until {end}{must}{exit}: {reason}{others}", label(&id))
    }

    fn every(&mut self, words: &[&str]) -> String {
        let step: i64 = words[1].strip_suffix('m').unwrap().parse().unwrap();
        let until = time(words[3], words[4]);
        let mut written: BTreeMap<usize, u32> = BTreeMap::new();
        let (mut fulls, mut longest, mut most) = (0, 0, 0);
        while self.now + step * 60 <= until {
            self.now += step * 60;
            let answer = decide(&self.question(false));
            let id = self.write(&answer, false, 0);
            *written.entry(answer.tier).or_default() += 1;
            fulls += u32::from(answer.parent.is_none());
            longest = longest.max(self.chain(&id).len());
            // As the catalog does, and the store: what is past its life is gone.
            let now = self.now;
            self.past.retain(|p| p.id.unix_seconds() + i64::try_from(p.life).unwrap() * DAY > now);
            most = most.max(self.past.len());
        }
        let tiers: Vec<String> = written.iter().map(|(tier, n)| format!("{n} {}", self.tiers[*tier].name)).collect();
        format!("{}; {fulls} fulls, longest chain {longest}, at most {most} at once", tiers.join(", "))
    }

    fn write(&mut self, answer: &Answer, suspicious: bool, took: i64) -> SnapshotId {
        self.runs += 1;
        let id = SnapshotId::new(self.now, self.runs);
        let last = self.past.iter().map(|p| p.seq).max().unwrap_or(0);
        self.generation.get_or_insert_with(|| id.clone());
        self.past.push(Past {
            id: id.clone(),
            seq: (last + 1).max(u64::try_from(self.now).unwrap()),
            committed: self.now + took,
            tier: self.tiers[answer.tier].name.clone(),
            generation: self.generation.clone(),
            parent: answer.parent.clone(),
            life: answer.life,
            suspicious,
            whole: true,
            delta_bytes: 1,
        });
        id
    }

    fn chain(&self, id: &SnapshotId) -> Vec<&Past> {
        let mut out: Vec<&Past> = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            out.push(self.past.iter().find(|p| p.id == *id).unwrap());
            next = out.last().unwrap().parent.as_ref();
        }
        out
    }
}

fn tier(word: &str) -> Tier {
    let (name, keep) = word.split_once('=').unwrap();
    Tier { name: name.to_owned(), keep_hours: hours(keep) }
}

fn hours(text: &str) -> u32 {
    let (number, unit) = text.split_at(text.len() - 1);
    number.parse::<u32>().unwrap() * if unit == "d" { 24 } else { 1 }
}

fn time(date: &str, time: &str) -> i64 {
    let time: DateTime = format!("{date}T{time}").parse().unwrap();
    time.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second()
}

fn day(at: i64) -> String {
    jiff::Timestamp::from_second(at).unwrap().strftime("%Y-%m-%d").to_string()
}

/// The random part of an id is the number of its run.
fn label(id: &SnapshotId) -> String {
    let number = u32::from_str_radix(&id.as_str()[17..], 16).unwrap();
    format!("#{number}")
}

fn with_labels(text: &str) -> String {
    let word = |w: &str| {
        let bare = w.trim_end_matches(',');
        SnapshotId::parse(bare).map_or(w.to_owned(), |id| format!("{}{}", label(&id), &w[bare.len()..]))
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Whatever happens in the course of a timeline, a chain has at most as many members as section 4 of the design allows:
/// one, and for each finer tier the binary logarithm of how many there were.
mod chains {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Run { after: i64, suspicious: bool, promoted: bool },
        Gone(usize),
        Accept,
        LostCatalog,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Mostly forwards by minutes or hours, now and then by weeks, and sometimes back.
        let after = prop_oneof![
            12 => 1..7200_i64,
            3 => 7200..3 * DAY,
            1 => 3 * DAY..60 * DAY,
            1 => -40 * DAY..0,
        ];
        let run = |(after, suspicious, promoted)| Step::Run { after, suspicious, promoted };
        prop_oneof![
            40 => (after, prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(run),
            2 => any::<prop::sample::Index>().prop_map(|i| Step::Gone(i.index(1000))),
            1 => Just(Step::Accept),
            1 => Just(Step::LostCatalog),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn stay_short_and_whole(steps in prop::collection::vec(step(), 1..120)) {
            let mut host = Host { now: 1_800_000_000, ..Host::new() };
            for step in steps {
                match step {
                    Step::Run { after, suspicious, promoted } => {
                        host.now += after;
                        let mut answer = decide(&host.question(suspicious));
                        if promoted && let Some(other) = promotions(&host.question(suspicious), &answer).pop() {
                            answer = other;
                        }
                        let id = host.write(&answer, suspicious, 0);
                        let chain = host.chain(&id);
                        let count = |tier: &&Tier| host.past.iter().filter(|p| p.tier == tier.name).count();
                        let bound: u32 = host.tiers[1..].iter().map(|t| (count(&t) + 1).ilog2()).sum();
                        prop_assert!(chain.len() <= 1 + usize::try_from(bound).unwrap(), "{} members", chain.len());
                        let keep = i64::from(host.tiers[answer.tier].keep_hours) * 3600;
                        for member in &chain[1..] {
                            prop_assert!(member.whole && member.seq < chain[0].seq);
                            prop_assert!(member.id.unix_seconds() <= host.now);
                            prop_assert!(suspicious || !member.suspicious);
                            prop_assert_eq!(&member.generation, &host.generation);
                            let ends = member.id.unix_seconds() + i64::try_from(member.life).unwrap() * DAY;
                            prop_assert!(ends >= host.now + keep, "{} ends before what leans on it", member.id);
                        }
                    }
                    Step::Gone(n) => {
                        let count = host.past.len().max(1);
                        if let Some(p) = host.past.get_mut(n % count) {
                            p.whole = false;
                        }
                    }
                    Step::Accept => host.past.iter_mut().for_each(|p| p.suspicious = false),
                    Step::LostCatalog => host.lose(),
                }
            }
        }
    }
}
