//! Years of snapshots on a made-up store with a made-up clock, for several lists of tiers: irregular runs, long sleeps,
//! and lives that end as a bucket ends them, whole days and up to one late, or as `prune` does. At every step each
//! snapshot within its `keep` has its whole chain.

use std::collections::{BTreeSet, HashMap};

use lifeboat::model::calendar::period_start;
use lifeboat::model::chain::{Link, Links, Worth, worth};
use lifeboat::model::config::{Tier, default_tiers};
use lifeboat::model::prune::{self, Held, Standing};
use lifeboat::model::store_key::{Archive, SnapshotId};
use lifeboat::model::tiers::{Past, Question, decide, keep_seconds, promotions};

const DAY: i64 = 86_400;
/// 2026-11-21T20:15:00Z.
const BEGIN: i64 = 1_795_292_100;

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % u64::try_from(sides).unwrap()).unwrap()
    }
}

/// Who removes what is past its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaper {
    /// To the second.
    Punctual,
    /// Up to a day late, each as it comes: S3 waits until midnight, and then a while.
    Late,
    /// `prune` after each run.
    Prune,
}

/// A snapshot on the store.
struct Stored {
    past: Past,
    keep: i64,
    /// When a bucket removes it.
    goes: i64,
}

struct World {
    tiers: Vec<Tier>,
    reaper: Reaper,
    now: i64,
    dice: Dice,
    /// What is there.
    store: Vec<Stored>,
    links: Links,
    /// What the host remembers. Nobody tells it what a bucket removed.
    past: Vec<Past>,
    generation: Option<SnapshotId>,
    last_seq: u64,
    /// The tier of all that was ever written.
    tier_of: HashMap<SnapshotId, String>,
    /// The seqs of all that was ever written, by tier.
    written: HashMap<String, Vec<u64>>,
    fulls: usize,
    /// Periods of the coarsest tier in which there was a run.
    periods: BTreeSet<i64>,
    expired_seen: usize,
}

impl World {
    fn new(tiers: Vec<Tier>, reaper: Reaper, seed: u64) -> World {
        let (store, past) = (Vec::new(), Vec::new());
        World {
            tiers,
            reaper,
            now: BEGIN,
            dice: Dice(seed),
            store,
            links: Links::new(),
            past,
            generation: None,
            last_seq: 0,
            tier_of: HashMap::new(),
            written: HashMap::new(),
            fulls: 0,
            periods: BTreeSet::new(),
            expired_seen: 0,
        }
    }

    fn run(&mut self) {
        let question = Question {
            tiers: &self.tiers,
            past: &self.past,
            generation: self.generation.as_ref(),
            now: self.now,
            suspicious: false,
            foreign_full: None,
        };
        let mut answer = decide(&question);
        if self.dice.roll(4) == 0 && !answer.fills {
            return;
        }
        if self.dice.roll(100) == 0 {
            answer = promotions(&question, &answer).pop().unwrap_or(answer);
        }
        let id = SnapshotId::new(self.now, u32::try_from(self.tier_of.len()).unwrap());
        self.generation.get_or_insert_with(|| id.clone());
        self.last_seq = (self.last_seq + 1).max(u64::try_from(self.now).unwrap());
        let tier = self.tiers[answer.tier].name.clone();
        let began = self.now;
        let took = if self.dice.roll(50) == 0 { self.dice.roll(5 * 3600) } else { self.dice.roll(20) };
        let past = Past {
            id: id.clone(),
            seq: self.last_seq,
            committed: self.now + took,
            tier: tier.clone(),
            generation: self.generation.clone(),
            parent: answer.parent,
            life: answer.life,
            suspicious: false,
            whole: true,
            delta_bytes: 1,
        };
        self.now += took;
        if past.parent.is_none() {
            self.fulls += 1;
        }
        self.periods.extend(period_start(&self.tiers[0].name, began));
        self.tier_of.insert(id.clone(), tier.clone());
        self.written.entry(tier.clone()).or_default().push(past.seq);
        let ends = began + i64::try_from(past.life).unwrap() * DAY;
        let goes = match self.reaper {
            Reaper::Punctual => ends,
            Reaper::Late => ends + self.dice.roll(DAY),
            Reaper::Prune => i64::MAX,
        };
        let (parent, seq, life) = (past.parent.clone(), past.seq, past.life);
        self.links.insert(id.clone(), Link { id: id.clone(), parent, seq, life, stored: 1 });
        let keep = keep_seconds(&self.tiers, &tier, past.life);
        self.store.push(Stored { past: past.clone(), keep, goes });
        self.past.push(past);
        self.check_bound(&id);
        if self.reaper == Reaper::Prune {
            self.prune(began);
        }
    }

    /// The bound of section 4, tier by tier: of `k` snapshots since the next coarser one of its chain, a chain has at most
    /// `floor(log2(k + 1))`.
    fn check_bound(&self, id: &SnapshotId) {
        let Worth::Whole(chain) = worth(&self.links, id, 0, self.now) else { panic!("{id} has no chain") };
        let tier = |link: &Link| self.tier_of[&link.id].as_str();
        let mut from = 0;
        while from + 1 < chain.len() {
            let of = tier(chain[from]);
            let members = chain[from..].iter().take_while(|link| tier(link) == of).count();
            let base = chain.get(from + members).expect("a full is of the coarsest tier");
            let since = |seq: &&u64| **seq > base.seq && **seq <= chain[from].seq;
            let k = self.written[of].iter().rev().take_while(|s| **s > base.seq).filter(since).count();
            let bound = usize::try_from((k + 1).ilog2()).unwrap();
            assert!(members <= bound, "{members} {of} of {k} in the chain of {id}");
            from += members;
        }
    }

    fn prune(&mut self, began: i64) {
        let held: Vec<Held> = self
            .store
            .iter()
            .map(|s| Held {
                archive: Archive::State,
                link: self.links[&s.past.id].clone(),
                standing: Standing::Whole,
                suspicious: false,
                pinned: false,
            })
            .collect();
        let question = prune::Question { held: &held, now: self.now, began, clock_is_right: false };
        for index in prune::plan(&question).remove {
            let id = &held[index].link.id;
            let leans = self.store.iter().find(|s| s.past.parent.as_ref() == Some(id));
            assert!(leans.is_none(), "{id} goes before its child");
            self.links.remove(id);
            self.store.retain(|s| s.past.id != *id);
        }
    }

    /// Time passes, and the bucket does what it does.
    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        let now = self.now;
        let links = &mut self.links;
        self.store.retain(|s| {
            let stays = s.goes > now;
            if !stays {
                links.remove(&s.past.id);
            }
            stays
        });
        self.check();
    }

    fn check(&mut self) {
        for stored in &self.store {
            let id = &stored.past.id;
            let ends = id.unix_seconds() + i64::try_from(stored.past.life).unwrap() * DAY;
            match worth(&self.links, id, stored.keep, self.now) {
                Worth::Whole(_) => {}
                Worth::Expired(gap) => {
                    self.expired_seen += 1;
                    assert!(self.now >= id.unix_seconds() + stored.keep, "{id} lacks {}", gap.0);
                    // Beyond its keep, too, it is a member of its own tier that goes first.
                    let gone = &self.tier_of[&gap.0];
                    assert!(*gone == stored.past.tier || self.now >= ends, "{id} lost its {gone}");
                }
                Worth::Broken(gap) => panic!("{id} is broken within its keep: {} is gone", gap.0),
            }
        }
        // What the host remembers ends with its life, long after which nobody asks.
        let now = self.now;
        self.past.retain(|p| p.id.unix_seconds() + (i64::try_from(p.life).unwrap() + 3) * DAY > now);
        self.check_number();
    }

    /// Of each tier with a calendar there are as many as its life has periods; of the finest, what was written in its
    /// life.
    fn check_number(&self) {
        let finest = self.tiers.len() - 1;
        for (index, tier) in self.tiers.iter().enumerate().filter(|(i, _)| *i < finest || *i == 0) {
            let count = self.store.iter().filter(|s| s.past.tier == tier.name).count();
            let days = match tier.name.as_str() {
                "yearly" => 365,
                "monthly" => 28,
                "weekly" => 7,
                _ => 1,
            };
            let life = lifeboat::model::tiers::life_days(&self.tiers, index);
            // Promoted bursts come on top; and a pruned host waits for witnesses, or for children to end.
            let most = usize::try_from(life / days).unwrap() + 30;
            assert!(self.tiers.len() == 1 || count <= most, "{count} {} at once", tier.name);
        }
    }
}

fn tiers(list: &[(&str, u32)]) -> Vec<Tier> {
    list.iter().map(|(name, days)| Tier { name: (*name).to_owned(), keep_hours: days * 24 }).collect()
}

fn lists() -> Vec<Vec<Tier>> {
    vec![
        default_tiers(),
        tiers(&[("yearly", 1825), ("monthly", 365), ("weekly", 84), ("daily", 30), ("hourly", 2)]),
        tiers(&[("monthly", 60), ("hourly", 3)]),
        tiers(&[("weekly", 28), ("daily", 7), ("hourly", 1)]),
        tiers(&[("yearly", 366), ("daily", 100)]),
        tiers(&[("daily", 10)]),
    ]
}

/// Two years of quarter hours, hours, days, weeks and sleep, in no order; then two years in which no run comes.
fn years(tiers: Vec<Tier>, reaper: Reaper, seed: u64) -> World {
    let mut world = World::new(tiers, reaper, seed);
    while world.now < BEGIN + 2 * 365 * DAY {
        let (runs, seconds) = match world.dice.roll(20) {
            0..6 => (40, 900),
            6..12 => (24, 3600),
            12..18 => (12, DAY),
            18 => (5, 7 * DAY),
            _ => (1, 90 * DAY),
        };
        for _ in 0..world.dice.roll(runs) + 1 {
            let irregular = seconds / 2 + world.dice.roll(seconds);
            world.pass(irregular);
            world.run();
        }
    }
    let bucket = reaper != Reaper::Prune;
    for _ in 0..if bucket { 730 } else { 0 } {
        world.pass(DAY);
    }
    world
}

#[test]
fn nothing_within_its_keep_loses_its_chain() {
    for (n, tiers) in lists().into_iter().enumerate() {
        for (m, reaper) in [Reaper::Punctual, Reaper::Late, Reaper::Prune].into_iter().enumerate() {
            let only = tiers.len() == 1;
            let world = years(tiers.clone(), reaper, u64::try_from(10 * n + m).unwrap());
            let written: usize = world.written.values().map(Vec::len).sum();
            assert!(written > 500, "{written}");
            // A full is written at the first run of a period, and at no other: there always is a parent.
            assert_eq!(world.fulls, if only { written } else { world.periods.len() }, "{tiers:?} {reaper:?}");
            // Past its keep a snapshot may lose its chain before it goes itself, and is told apart from damage. `prune`
            // keeps what is needed.
            assert_eq!(world.expired_seen > 0, !only && reaper != Reaper::Prune, "{tiers:?} {reaper:?}");
        }
    }
}
