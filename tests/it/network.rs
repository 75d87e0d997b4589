//! A bad line between lifeboat and its store: cut, reset, stalled and slowed at every phase of a backup and a restore.
//!
//! A proxy counts the bytes that pass, and does its worst at a given one. Once is forgiven; for ever is told, leaves
//! nothing partial that counts, and the next run on a good line succeeds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifeboat::commands::{Report as _, copy, list, restore};
use lifeboat::{Error, Kind};

use crate::fake_cloud::{self, Cloud};
use crate::forge::{files, said};
use crate::store_contract::{machine, set_up};
use crate::world::Machine;

/// What happens to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It ends, as if the other side had closed it.
    Cut,
    /// It ends with a reset.
    Reset,
    /// Nothing passes any more, and nobody says so.
    Stall,
}

/// In which direction the bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// When the worst happens.
#[derive(Clone, Copy, Debug)]
struct Plan {
    fault: Fault,
    way: Way,
    /// At this byte, counted over all connections.
    at: u64,
    /// Whether every connection after it fails at once.
    for_ever: bool,
}

#[derive(Default)]
struct Line {
    plan: Mutex<Option<Plan>>,
    up: AtomicU64,
    down: AtomicU64,
    happened: AtomicBool,
    /// How long each piece waits.
    delay: Mutex<Duration>,
}

/// A proxy. It ends with the process.
struct Proxy {
    port: u16,
    line: Arc<Line>,
}

impl Proxy {
    fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy { port: listener.local_addr().unwrap().port(), line: Arc::default() };
        let line = Arc::clone(&proxy.line);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", to))) else { continue };
                for (from, into, way) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap(), Way::Up),
                    (far.try_clone().unwrap(), near.try_clone().unwrap(), Way::Down),
                ] {
                    let line = Arc::clone(&line);
                    let near = near.try_clone().unwrap();
                    std::thread::spawn(move || line.pass(from, into, way, &near));
                }
            }
        });
        proxy
    }

    /// Does its worst as planned, counting from now.
    fn plan(&self, plan: Option<Plan>) {
        *self.line.plan.lock().unwrap() = plan;
        self.line.up.store(0, Ordering::SeqCst);
        self.line.down.store(0, Ordering::SeqCst);
        self.line.happened.store(false, Ordering::SeqCst);
    }

    /// Bytes that have passed since.
    fn passed(&self, way: Way) -> u64 {
        match way {
            Way::Up => self.line.up.load(Ordering::SeqCst),
            Way::Down => self.line.down.load(Ordering::SeqCst),
        }
    }

    fn happened(&self) -> bool {
        self.line.happened.load(Ordering::SeqCst)
    }
}

impl Line {
    /// Passes bytes on until the line ends, and says whether it does.
    fn pass(&self, mut from: TcpStream, mut into: TcpStream, way: Way, near: &TcpStream) {
        let mut piece = vec![0; 16 << 10];
        loop {
            let n = match from.read(&mut piece) {
                Ok(n) if n > 0 => n,
                // What is over is over for both; it may be already.
                _ => return into.shutdown(Shutdown::Both).unwrap_or(()),
            };
            std::thread::sleep(*self.delay.lock().unwrap());
            let counter = if way == Way::Up { &self.up } else { &self.down };
            let before = counter.fetch_add(n as u64, Ordering::SeqCst);
            let mut passes = n;
            if let Some(plan) = *self.plan.lock().unwrap() {
                let again = self.happened.load(Ordering::SeqCst);
                if again && plan.for_ever {
                    passes = 0;
                } else if !again && plan.way == way && plan.at < before + n as u64 {
                    self.happened.store(true, Ordering::SeqCst);
                    passes = usize::try_from(plan.at.saturating_sub(before)).unwrap();
                }
                if passes < n {
                    into.write_all(&piece[..passes]).unwrap_or(());
                    return self.worst(plan.fault, near, &mut from, &into);
                }
            }
            if into.write_all(&piece[..n]).is_err() {
                return from.shutdown(Shutdown::Both).unwrap_or(());
            }
        }
    }

    fn worst(&self, fault: Fault, near: &TcpStream, from: &mut TcpStream, into: &TcpStream) {
        match fault {
            Fault::Cut => {}
            Fault::Reset => {
                rustix::net::sockopt::set_socket_linger(near, Some(Duration::ZERO)).unwrap();
            }
            Fault::Stall => {
                // Until the other side has enough of it.
                std::io::copy(from, &mut std::io::sink()).map(|_| ()).unwrap_or(());
            }
        }
        for stream in [near, &*from, into] {
            stream.shutdown(Shutdown::Both).unwrap_or(());
        }
    }
}

/// A machine with something to back up, set up on a store behind a proxy.
fn behind() -> (Cloud, Proxy, Machine) {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let proxy = Proxy::start(cloud.port);
    let mut machine = machine(cloud.credentials("ADMIN"));
    machine.world.env.insert("LIFEBOAT_STORE_SILENCE".into(), "1".into());
    machine.write("agent/notes.md", "first");
    machine.write("agent/.env", "API_KEY=fake-0000");
    noise(&machine, 0);
    set_up(&machine, &cloud.url("p", Some(proxy.port))).unwrap();
    (cloud, proxy, machine)
}

/// Three megabytes that no compressor makes smaller, other ones for each seed: a backup has to carry all of them.
fn noise(machine: &Machine, seed: u64) {
    let mut noise = vec![0; 3 << 20];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    machine.write("agent/noise", noise);
}

/// Where to do the worst: at both ends, and all over what is between.
fn places(length: u64) -> Vec<u64> {
    let mut out: Vec<u64> = (0..6).map(|n| length * n / 6).collect();
    out.extend([1, 700, length - 1]);
    out
}

fn restored(machine: &Machine, what: &str, snapshot: &str) -> Result<String, Error> {
    let target = machine.target("restored");
    let done = machine.try_restore(&target, |a: &mut restore::Args| a.snapshot = snapshot.to_owned());
    let read = done.map(|(done, _)| {
        assert!(done.missing.is_empty(), "{what}");
        assert_eq!(std::fs::read(target.join("home/agent/noise")).unwrap().len(), 3 << 20, "{what}");
        std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap()
    });
    if target.exists() {
        assert!(read.is_ok() || files(&target).is_empty(), "{what}: a failed restore left {:?}", files(&target));
        std::fs::remove_dir_all(&target).unwrap();
    }
    read
}

fn complete(machine: &Machine, what: &str) -> usize {
    let args = list::Args { identity: Some(machine.kit()), ..list::Args::default() };
    let listing = list::run(&machine.world, &args, &mut |_| {}).unwrap_or_else(|e| panic!("{what}: {}", said(&e)));
    assert!(listing.hidden.is_empty(), "{what}");
    listing.snapshots.iter().filter(|s| s.status == "ok").count()
}

#[test]
fn a_backup_over_a_line_that_fails_once_succeeds() {
    let (_cloud, proxy, machine) = behind();
    proxy.plan(None);
    machine.backup();
    let lengths = [(Way::Up, proxy.passed(Way::Up)), (Way::Down, proxy.passed(Way::Down))];
    let mut written = complete(&machine, "first");
    for (way, length) in lengths {
        for (n, at) in places(length).into_iter().enumerate() {
            let fault = [Fault::Cut, Fault::Reset, Fault::Stall][n % 3];
            let plan = Plan { fault, way, at, for_ever: false };
            machine.write("agent/notes.md", format!("{plan:?}"));
            noise(&machine, at + n as u64);
            proxy.plan(Some(plan));
            machine.try_backup().unwrap_or_else(|e| panic!("{plan:?}: {}", said(&e)));
            // Sizes differ a little from run to run: only the very end may be missed.
            assert!(proxy.happened() || at + 2000 > length, "{plan:?}: nothing happened");
            proxy.plan(None);
            let now = complete(&machine, &format!("{plan:?}"));
            assert!(now > written, "{plan:?}");
            written = now;
            assert_eq!(restored(&machine, "after", "latest").unwrap(), format!("{plan:?}"));
        }
    }
}

#[test]
fn a_backup_over_a_line_that_stays_broken_says_so_and_leaves_nothing_that_counts() {
    let (_cloud, proxy, machine) = behind();
    proxy.plan(None);
    machine.backup();
    let first = complete(&machine, "first");
    for (n, at) in [0, 1_000_000, 2_900_000].into_iter().enumerate() {
        let plan = Plan { fault: [Fault::Reset, Fault::Stall, Fault::Cut][n], way: Way::Up, at, for_ever: true };
        machine.write("agent/notes.md", "never");
        noise(&machine, 1 + n as u64);
        proxy.plan(Some(plan));
        let error = machine.try_backup().err().unwrap_or_else(|| panic!("{plan:?}: it calls itself done"));
        assert_eq!(error.kind(), Kind::Failed, "{}", said(&error));
        assert!(error.advice().is_some(), "{}", said(&error));
        proxy.plan(None);
        // The bundle comes first and may be whole; the state is not.
        assert!(complete(&machine, "meanwhile") >= first, "{plan:?}");
        assert_eq!(restored(&machine, "what was before", "latest").unwrap(), "first");
    }
    machine.write("agent/notes.md", "second");
    machine.backup();
    assert_eq!(restored(&machine, "healed", "latest").unwrap(), "second");
}

#[test]
fn a_restore_over_a_line_that_fails_once_succeeds() {
    let (_cloud, proxy, machine) = behind();
    machine.backup();
    proxy.plan(None);
    restored(&machine, "clean", "latest").unwrap();
    for (way, length) in [(Way::Down, proxy.passed(Way::Down)), (Way::Up, proxy.passed(Way::Up))] {
        for (n, at) in places(length).into_iter().enumerate() {
            let fault = [Fault::Stall, Fault::Cut, Fault::Reset][n % 3];
            let plan = Plan { fault, way, at, for_ever: false };
            proxy.plan(Some(plan));
            let what = format!("{plan:?}");
            let read = restored(&machine, &what, "latest").unwrap_or_else(|e| panic!("{plan:?}: {}", said(&e)));
            assert!(proxy.happened() || at + 2000 > length, "{plan:?}: nothing happened");
            assert_eq!(read, "first", "{plan:?}");
        }
    }
}

#[test]
fn a_restore_over_a_line_that_stays_broken_is_no_damage() {
    let (_cloud, proxy, machine) = behind();
    machine.backup();
    proxy.plan(None);
    restored(&machine, "clean", "latest").unwrap();
    let length = proxy.passed(Way::Down);
    for (n, at) in [0, length / 20, length / 2, length - 4000].into_iter().enumerate() {
        let fault = [Fault::Cut, Fault::Reset, Fault::Stall, Fault::Reset][n];
        let plan = Plan { fault, way: Way::Down, at, for_ever: true };
        proxy.plan(Some(plan));
        let error = restored(&machine, "broken", "latest").expect_err("it calls itself done");
        assert_eq!(error.kind(), Kind::Failed, "{plan:?}: {}", said(&error));
        assert!(error.advice().is_some_and(|a| a.contains("run the same command again")), "{}", said(&error));
    }
    proxy.plan(None);
    assert_eq!(restored(&machine, "healed", "latest").unwrap(), "first");
}

#[test]
fn a_copy_over_a_line_that_fails_goes_on() {
    let (cloud, proxy, machine) = behind();
    machine.backup();
    let asked = copy::Args { to: cloud.url("copy", Some(proxy.port)), ..copy::Args::default() };
    let copied = || copy::run(&machine.world, &asked, &mut |_| {});
    let keys = |prefix: &str| -> Vec<String> {
        let state = cloud.state.lock().unwrap();
        state.objects.keys().filter_map(|key| key.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    proxy.plan(None);
    copied().unwrap();
    let lengths = [(Way::Up, proxy.passed(Way::Up)), (Way::Down, proxy.passed(Way::Down))];
    let all = keys("p/");
    assert_eq!(keys("copy/"), all);
    for (way, length) in lengths {
        for (n, at) in places(length).into_iter().enumerate() {
            let fault = [Fault::Reset, Fault::Stall, Fault::Cut][n % 3];
            for for_ever in [false, n == 3] {
                cloud.state.lock().unwrap().objects.retain(|key, _| key.starts_with("p/"));
                let plan = Plan { fault, way, at, for_ever };
                proxy.plan(Some(plan));
                let result = copied();
                assert!(proxy.happened() || at + 2000 > length, "{plan:?}: nothing happened");
                proxy.plan(None);
                if for_ever {
                    let error = result.err().unwrap_or_else(|| panic!("{plan:?}: it calls itself done"));
                    assert_eq!(error.kind(), Kind::Failed, "{plan:?}: {}", said(&error));
                    let (there, whole) = (keys("copy/"), keys("p/"));
                    let partial = |dir: &str| whole.iter().any(|key| key.starts_with(dir) && !there.contains(key));
                    let committed = there.iter().filter_map(|key| key.strip_suffix("commit"));
                    assert!(committed.into_iter().all(|dir| !partial(dir)), "{plan:?}: {there:?}");
                    copied().unwrap();
                } else {
                    assert_eq!(result.unwrap_or_else(|e| panic!("{plan:?}: {}", said(&e))).verdict(), None);
                }
                assert_eq!(keys("copy/"), all, "{plan:?}");
            }
        }
    }
}

#[test]
fn a_store_that_is_down_for_a_while_is_waited_for() {
    let (_cloud, proxy, mut machine) = behind();
    machine.world.env.insert("LIFEBOAT_STORE_PATIENCE".into(), "60".into());
    for (n, at) in [500, 1_000_000, 2_900_000].into_iter().enumerate() {
        machine.write("agent/notes.md", format!("{n}"));
        noise(&machine, 1 + n as u64);
        proxy.plan(Some(Plan { fault: Fault::Reset, way: Way::Up, at, for_ever: true }));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !proxy.happened() && !done.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                std::thread::sleep(Duration::from_millis(1500));
                *proxy.line.plan.lock().unwrap() = None;
            });
            let backup = machine.try_backup();
            done.store(true, Ordering::SeqCst);
            backup.unwrap_or_else(|e| panic!("{}", said(&e)));
            assert!(proxy.happened());
        });
        assert_eq!(restored(&machine, "after", "latest").unwrap(), format!("{n}"));
    }
}

/// A line that was gone for too long, and a credential that may only add: the next run sends what is not there yet.
#[test]
fn a_snapshot_goes_on_when_the_line_is_back() {
    let (cloud, proxy, mut machine) = behind();
    machine.world.env.insert("AWS_ACCESS_KEY_ID".into(), "WRITER".into());
    // One after the other, so that what arrives is known; several may leave a gap, and what is behind it is sent again.
    machine.world.env.insert("LIFEBOAT_STORE_UPLOADS".into(), "1".into());
    let mut noise = vec![0; 100 << 20];
    blake3::Hasher::new().update(b"a long way").finalize_xof().fill(&mut noise);
    // One file that is so young would be sent again, as only its beginning arrived.
    for (n, piece) in noise.chunks(1 << 20).enumerate() {
        machine.write(&format!("agent/many/{n}"), piece);
    }
    proxy.plan(Some(Plan { fault: Fault::Stall, way: Way::Up, at: 85 << 20, for_ever: true }));
    let error = machine.try_backup().expect_err("it calls itself done");
    assert_eq!(error.kind(), Kind::Failed, "{}", said(&error));
    let is_volume = |key: &str| key.starts_with("p/state/") && key.ends_with(".tar.zst.age");
    let there: usize = {
        let state = cloud.state.lock().unwrap();
        state.objects.iter().filter(|(key, _)| is_volume(key)).map(|(_, content)| content.len()).sum::<usize>() >> 20
    };
    assert!(there > 50, "{there} MiB arrived");
    proxy.plan(None);
    machine.write("agent/notes.md", "second");
    let mut events = Vec::new();
    lifeboat::commands::backup::run(&machine.world, &Default::default(), &mut |e| events.push(e)).unwrap();
    events.retain(|e| matches!(e, lifeboat::commands::Event::Note(_) | lifeboat::commands::Event::Warning(_)));
    let sent = usize::try_from(proxy.passed(Way::Up) >> 20).unwrap();
    // 103 MiB in all, and a little of headers and manifests.
    assert!(sent <= 103 - there + 3, "{there} MiB were there, and {sent} were sent: {events:?}");
    machine.world.env.insert("AWS_ACCESS_KEY_ID".into(), "ADMIN".into());
    assert_eq!(complete(&machine, "gone on"), 2);
    let target = machine.target("all");
    machine.restore(&target);
    for (n, piece) in noise.chunks(1 << 20).enumerate() {
        assert!(std::fs::read(target.join(format!("home/agent/many/{n}"))).unwrap() == piece, "{n}");
    }
    assert_eq!(std::fs::read_to_string(target.join("home/agent/notes.md")).unwrap(), "second");
}

#[test]
fn a_slow_line_is_slow_and_no_more() {
    let (_cloud, proxy, machine) = behind();
    // Each piece waits, and all together for longer than a silence may last.
    *proxy.line.delay.lock().unwrap() = Duration::from_millis(15);
    machine.backup();
    *proxy.line.delay.lock().unwrap() = Duration::ZERO;
    assert_eq!(restored(&machine, "slow", "latest").unwrap(), "first");
}

#[test]
fn a_refusal_that_comes_before_the_body_was_read_is_a_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("s3://bucket/p?endpoint=http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The head of the request and no more, as a server that knows at once whom it has before it.
            stream.read_exact(&mut [0; 200]).unwrap();
            let body = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
            let length = body.len();
            let answer =
                format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let machine = machine(Cloud { kind: fake_cloud::Kind::S3, port: 0, state: Arc::default() }.credentials("ADMIN"));
    let store = crate::store_contract::open(&machine.world, &url);
    let error = store.put("a", vec![7; 16 << 20]).unwrap_err();
    assert!(said(&error).contains("403 AccessDenied: No."), "{}", said(&error));
}
