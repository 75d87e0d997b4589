//! Months of snapshots on a real server that executes the rules that lifeboat prints. Its day has one second.
//!
//! Backups go to a directory, by a clock that runs as many times faster, and are copied to the bucket as they are made,
//! so that the server sees each arrive when it would have.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lifeboat::commands::{Report as _, copy, lifecycle, list, pin, prune, verify};
use lifeboat::{Error, Kind};

use crate::forge::said;
use crate::store_contract::{below, machine, served, set_up};
use crate::world::{Machine, NOW};

const DAY: i64 = 86_400;
/// How long it goes on, in days of a second.
const DAYS: i64 = 104;
/// Days that may pass over there while a command runs.
const AHEAD: i64 = 30;
/// How often a server goes through its rules, at most, until whatever was over when it began is gone.
const PASSES: u64 = 20;
/// What is kept for how many days, and the days that its objects live by the rules of section 11 of `FORMAT.md`.
const TIERS: [(&str, &str, i64, i64); 4] =
    [("monthly", "84d", 84, 90), ("weekly", "4w", 28, 59), ("daily", "14d", 14, 21), ("hourly", "4d", 4, 5)];

/// A clock that makes a second a day.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> i64 {
        NOW + i64::try_from(self.0.elapsed().as_millis()).unwrap() * DAY / 1000
    }
}

/// Has the server execute its rules again and again, until it is dropped.
struct Reaper {
    over: Arc<AtomicBool>,
    passes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    fn start() -> Reaper {
        let rules = std::env::var("LIFEBOAT_TEST_RADOSGW_RULES").expect("run tests/run");
        let (over, passes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&over), Arc::clone(&passes));
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                // It says much on stderr, and its failures show in what is not removed.
                let run = Command::new("sh").args(["-c", &rules]).stderr(Stdio::null()).status();
                assert!(run.is_ok());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Reaper { over, passes, thread: Some(thread) }
    }

    /// How often it has done so.
    fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or(());
        }
    }
}

struct Made {
    id: String,
    tier: usize,
    words: String,
    at: i64,
}

fn prepare(arguments: &[&str], input: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clouds/prepare.py");
    let mut child = Command::new(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{arguments:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn restored(machine: &Machine, url: &str, id: &str) -> Result<String, Error> {
    let target = machine.target("restored");
    let restored = machine.try_restore(&target, |a| (a.store, a.snapshot) = (Some(url.to_owned()), id.to_owned()));
    let words = restored.map(|_| std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap());
    if target.exists() {
        std::fs::remove_dir_all(target).unwrap();
    }
    words
}

/// Whether it is there, other than pinned.
fn stays(listing: &list::Listing, one: &Made) -> bool {
    listing.snapshots.iter().any(|r| r.id == one.id && r.tier.as_deref() != Some("pinned"))
}

/// Lists a bucket until none of those that were over stays, or the server has had its time. How long it takes for its rules
/// is its own affair: by its clock, which does not wait for it, that may be weeks.
fn list_without(machine: &mut Machine, url: &str, over: &[&Made], clock: &Clock, reaper: &Reaper) -> list::Listing {
    let begun = reaper.passes();
    loop {
        let is_last = reaper.passes() >= begun + PASSES;
        // While a command runs, days pass over there.
        machine.world.fixed_now = Some(clock.now() + AHEAD * DAY);
        let store = Some(url.to_owned());
        let args = list::Args { store, identity: Some(machine.kit()), ..list::Args::default() };
        let listing = list::run(&machine.world, &args, &mut |_| {}).unwrap();
        if is_last || !over.iter().any(|one| stays(&listing, one)) {
            return listing;
        }
    }
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_months() {
    let (url, admin) = served("RADOSGW", "ADMIN");
    let endpoint = url.split_once("endpoint=").unwrap().1.to_owned();
    let url = below(&url, "months");
    let mut machine = machine(admin);
    machine.world.fixed_now = Some(NOW);
    machine.write("agent/notes.md", "");
    machine.write("agent/.env", "API_KEY=first");
    machine.init(&["agent"]);
    machine.configure(|mut text| {
        for (name, keep, ..) in TIERS {
            let default = text.lines().find(|l| l.starts_with(&format!("{name} = "))).unwrap().to_owned();
            text = text.replace(&default, &format!("{name} = \"{keep}\""));
        }
        text
    });
    let asked = lifecycle::Args { store: Some(url.clone()), ..lifecycle::Args::default() };
    let rules = lifecycle::run(&machine.world, &asked, &mut |_| {}).unwrap();
    for (name, _, _, life) in TIERS {
        let rule = format!("/state/{name}/\"\n      }},\n      \"Expiration\": {{\n        \"Days\": {life}\n");
        assert!(rules.document.contains(&rule), "{name}: {}", rules.document);
    }
    prepare(&["rules", &endpoint, &rules.bucket], &rules.document);

    let clock = Clock(Instant::now());
    let reaper = Reaper::start();
    let (mut made, mut kept, mut steps, mut tried) = (Vec::<Made>::new(), None, 0, [0; 4]);
    let copied = |machine: &Machine| {
        let args = copy::Args { to: url.clone(), ..copy::Args::default() };
        let done = copy::run(&machine.world, &args, &mut |_| {}).unwrap_or_else(|e| panic!("{}", said(&e)));
        assert_eq!(done.verdict(), None, "{:?}", done.problems());
    };
    // The oldest of a tier that is still promised, and will be a day and a half from now, restores; unless that took so long
    // that the promise was over.
    let promised = |machine: &mut Machine, made: &[Made], tier: usize| {
        let until = |one: &Made| one.at + TIERS[one.tier].2 * DAY;
        machine.world.fixed_now = Some(clock.now());
        let Some(one) = made.iter().find(|m| m.tier == tier && until(m) > clock.now() + DAY * 3 / 2) else { return 0 };
        let words = restored(machine, &url, &one.id);
        if clock.now() >= until(one) {
            return 0;
        }
        assert_eq!(words.unwrap_or_else(|e| panic!("{} {}: {}", TIERS[tier].0, one.id, said(&e))), one.words);
        1
    };
    while clock.now() < NOW + DAYS * DAY {
        // Two in what is about a day, some hours apart.
        for hours in [0, 5] {
            let at = clock.now() + hours * 3600;
            machine.world.fixed_now = Some(at);
            let words = format!("words {steps} {hours}");
            machine.write("agent/notes.md", &words);
            let state = machine.backup().state.unwrap();
            let tier = TIERS.iter().position(|t| Some(t.0) == state.tier.as_deref()).unwrap();
            made.push(Made { id: state.id, tier, words, at });
        }
        copied(&machine);
        steps += 1;
        if kept.is_none() && made.last().is_some_and(|m| m.tier == 3) && clock.now() > NOW + 8 * DAY {
            let last = made.last().unwrap();
            let args = pin::Args { snapshot: last.id.clone(), store: Some(url.clone()), ..pin::Args::default() };
            let done = pin::pin(&machine.world, &args, &mut |_| {}).unwrap();
            assert!(done.archives.len() >= 3, "{}", done.text());
            kept = Some((last.id.clone(), last.words.clone()));
        }
        tried[steps % 4] += promised(&mut machine, &made, steps % 4);
    }
    assert!(made.len() > 25, "{} snapshots in {DAYS} days: this machine is too slow for it", made.len());

    for (tier, count) in tried.iter_mut().enumerate() {
        *count += promised(&mut machine, &made, tier);
    }
    assert!(tried.iter().all(|n| *n > 0), "{tried:?}");
    let end = clock.now();
    let is_over = |one: &&Made| one.at + TIERS[one.tier].3 * DAY <= end;
    let over: Vec<&Made> = made.iter().filter(is_over).collect();
    let listing = list_without(&mut machine, &url, &over, &clock, &reaper);
    // The store's list does not call what is gone damage.
    assert!(listing.hidden.is_empty(), "{:?}", listing.hidden);
    // The server may be at one while the list looks at it, if that one's life is over.
    let ended = |id: &str| made.iter().any(|m| m.id == id && m.at + TIERS[m.tier].3 * DAY <= clock.now());
    let fine = |r: &list::Row| matches!(r.status, "ok" | "expired") || ended(&r.id);
    assert!(listing.snapshots.iter().all(fine), "{}", listing.text());
    let mut gone = [0; 4];
    for one in over {
        let day = (one.at - NOW) / DAY;
        assert!(!stays(&listing, one), "{} {} of day {day} is still there", TIERS[one.tier].0, one.id);
        gone[one.tier] += 1;
    }
    assert!(gone.iter().all(|n| *n > 0), "{gone:?}");
    // What was pinned stays, with all that it leans on, though nothing of that is left in the tiers.
    let (id, words) = kept.unwrap();
    assert!(!listing.snapshots.iter().any(|r| r.id == id && r.tier.as_deref() == Some("hourly")));
    assert_eq!(restored(&machine, &url, &id).unwrap_or_else(|e| panic!("{}", said(&e))), words);
    machine.world.fixed_now = Some(clock.now() + AHEAD * DAY);
    let asked = verify::Args { all: true, store: Some(url.clone()), ..verify::Args::default() };
    let done = verify::run(&machine.world, &asked, &mut |_| {}).unwrap();
    // While it was read, more of it came to its end.
    assert!(done.findings.iter().all(|f| f.what == verify::What::Missing), "{:?}", done.findings);
    drop(reaper);
    // The rules that the server has are those that are needed.
    machine.configure(|text| {
        let store = text.lines().find(|l| l.starts_with("store = ")).unwrap().to_owned();
        text.replace(&store, &format!("store = \"{url}\""))
    });
    let file = machine.write("in-force.json", prepare(&["in-force", &endpoint, &rules.bucket], ""));
    let check = lifecycle::CheckArgs { rules: Some(file), store: None };
    let done = lifecycle::check(&machine.world, &check, &mut |_| {}).unwrap();
    assert!(done.prefixes.len() == 6 && done.verdict().is_none(), "{}", done.text());
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_versions() {
    let (url, admin) = served("RADOSGW", "ADMIN");
    let endpoint = url.split_once("endpoint=").unwrap().1.to_owned();
    let url = below(&url.replace("lifeboat-test", "lifeboat-test-versions"), "versions");
    let machine = machine(admin);
    machine.write("agent/notes.md", "one");
    machine.init(&["agent"]);
    let asked = lifecycle::Args { store: Some(url.clone()), ..lifecycle::Args::default() };
    let rules = lifecycle::run(&machine.world, &asked, &mut |_| {}).unwrap();
    prepare(&["rules", &endpoint, &rules.bucket], &rules.document);
    let _reaper = Reaper::start();
    let store = crate::store_contract::open(&machine.world, &url);
    let kept = ["keys/vm1/000001.pub", "state/pinned/vm1/x", "secrets-pinned/vm1/x", "state/weekly/vm1/x"];
    for key in kept.into_iter().chain(["state/hourly/vm1/x"]) {
        store.put(key, "x").unwrap();
    }
    let prefix = url.split_once("-versions/").unwrap().1.split('?').next().unwrap();
    let versions = || prepare(&["versions", &endpoint, &rules.bucket, prefix], "");
    // An hourly lives two days; what was deleted can be brought back for a week, and then not even its marker is left.
    let (mut seen, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < Duration::from_secs(180) {
        let hourly: Vec<String> = versions().lines().filter(|l| l.contains("/hourly/")).map(str::to_owned).collect();
        let kinds: Vec<String> = hourly.iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
        if seen.last() != Some(&kinds) {
            seen.push(kinds);
        }
        if hourly.is_empty() {
            break;
        }
    }
    assert_eq!(seen.last(), Some(&Vec::new()), "{seen:?}");
    assert!(seen.iter().any(|kinds| kinds.len() == 2), "it was deleted before it went: {seen:?}");
    for key in kept {
        assert_eq!(store.get(key, 9).unwrap(), "x", "{key}");
    }
}

#[test]
#[ignore = "needs a server: tests/run starts it"]
fn served_lock() {
    let (url, admin) = served("RADOSGW", "ADMIN");
    let url = below(&url.replace("lifeboat-test", "lifeboat-test-lock"), "lock");
    let mut machine = machine(admin);
    machine.write("agent/notes.md", "one");
    machine.write("agent/.env", "API_KEY=first");
    set_up(&machine, &url).unwrap();
    let first = machine.backup().state.unwrap().id;
    machine.write("agent/notes.md", "two");
    machine.backup();
    assert_eq!(restored(&machine, &url, &first).unwrap(), "one");
    assert_eq!(restored(&machine, &url, "latest").unwrap(), "two");
    // A year on, by this machine's clock: a delete leaves a marker there, or is refused, and neither fails the rest.
    machine.world.fixed_now = Some(jiff::Timestamp::now().as_second() + 800 * DAY);
    let done = prune::run(&machine.world, &prune::Args { dry_run: false, yes: true }, &mut |_| {}).unwrap();
    assert!(done.verdict().is_none_or(|kind| kind == Kind::Incomplete), "{}", done.text());
    machine.world.fixed_now = None;
    assert_eq!(restored(&machine, &url, "latest").unwrap(), "two");
}
