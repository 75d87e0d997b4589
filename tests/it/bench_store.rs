//! Benchmarks of stores that are far. They are run by hand, on a machine that does nothing else, and print figures:
//!
//! ```sh
//! BENCH_MIB=1024 cargo test --release --test it bench_store -- --ignored --nocapture --test-threads 1
//! ```
//!
//! The server is in the process of the test, and the program in one of its own.
#![allow(clippy::print_stdout, reason = "figures")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fake_cloud::{self, Cloud};
use crate::store_contract::{machine, set_up};
use crate::world::Machine;

/// Mebibytes of content to work on.
fn mebibytes() -> usize {
    std::env::var("BENCH_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(128)
}

/// Half of it noise, half of it text, in files of all sizes.
fn fill(machine: &Machine) {
    let mut noise = vec![0; 1 << 20];
    for n in 0..mebibytes() {
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut noise);
        let text: String =
            noise[..1 << 16].chunks(2).map(|b| format!("{{\"n\":{n},\"word\":{}}}\n", b[0] % 16)).collect();
        match n % 4 {
            0 => drop(machine.write(&format!("agent/media/{}/{n}.bin", n / 64), &noise)),
            1 => noise.chunks(1 << 16).enumerate().for_each(|(part, piece)| {
                machine.write(&format!("agent/project/{n}/{part}.o"), piece);
            }),
            _ => drop(machine.write(&format!("agent/logs/{n}.jsonl"), text)),
        }
    }
}

/// Runs the program and gives seconds and the peak of its memory in MiB.
fn measured(machine: &Machine, arguments: &[&str], more: &[(&str, &str)]) -> (f64, u64) {
    let figures = machine.target("figures");
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M", "-o"]).arg(&figures).arg(env!("CARGO_BIN_EXE_lifeboat")).args(arguments);
    command.env_clear().envs(&machine.world.env).envs(more.iter().copied());
    let begun = Instant::now();
    let out = command.stdin(Stdio::null()).output().expect("GNU time is needed");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (seconds, std::fs::read_to_string(figures).unwrap().trim().parse::<u64>().unwrap() >> 10)
}

/// A machine with much to back up, set up on a bucket or a directory.
fn with_store(url: impl Fn(&Machine, &Cloud) -> String) -> (Cloud, Machine) {
    let cloud = Cloud::start(fake_cloud::Kind::S3);
    let machine = machine(cloud.credentials("ADMIN"));
    fill(&machine);
    set_up(&machine, &url(&machine, &cloud)).unwrap();
    (cloud, machine)
}

fn stored(cloud: &Cloud) -> usize {
    cloud.state.lock().unwrap().objects.values().map(|o| o.len()).sum()
}

#[test]
#[ignore = "a benchmark"]
fn upload_beside_a_disk() {
    let disk = |machine: &Machine, _: &Cloud| machine.target("disk").to_str().unwrap().to_owned();
    for round in 0..3 {
        let (_, near) = with_store(disk);
        let (cloud, far) = with_store(|_, cloud| cloud.url("p", None));
        let (seconds_near, _) = measured(&near, &["backup", "-q"], &[]);
        let (seconds_far, four) = measured(&far, &["backup", "-q"], &[]);
        let (cloud_of_eight, eight) = with_store(|_, cloud| cloud.url("p", None));
        // Slow enough that all eight are full.
        let slow = ["backup", "-q", "--limit-upload", "50MiB/s"];
        let (_, peak) = measured(&eight, &slow, &[("LIFEBOAT_STORE_UPLOADS", "8")]);
        println!(
            "round {round}: {} MiB; disk {seconds_near:.2} s; bucket {seconds_far:.2} s, {:.2} of its speed, {four} MiB; \
            eight volumes on a slow line {peak} MiB",
            stored(&cloud) >> 20,
            seconds_near / seconds_far
        );
        assert_eq!(stored(&cloud) >> 22, stored(&cloud_of_eight) >> 22);
    }
}

/// A line with a delay in each direction and so many bytes per second downwards, over all connections.
fn link(to: u16, delay: Duration, bytes_per_second: f64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let free = Arc::new(Mutex::new(Instant::now()));
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", to))) else { continue };
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let up = (near.try_clone().unwrap(), far.try_clone().unwrap(), None);
            for (from, into, free) in [up, (far, near, Some(Arc::clone(&free)))] {
                carry(from, into, delay, free, bytes_per_second);
            }
        }
    });
    port
}

fn carry(mut from: TcpStream, mut into: TcpStream, delay: Duration, free: Option<Arc<Mutex<Instant>>>, rate: f64) {
    // What is on its way: a window of 4 MiB for each connection.
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(256);
    std::thread::spawn(move || {
        let mut piece = vec![0; 16 << 10];
        while let Ok(n) = from.read(&mut piece) {
            if n == 0 {
                break;
            }
            let leaves = free.as_ref().map_or_else(Instant::now, |free| {
                let mut free = free.lock().unwrap();
                *free = (*free).max(Instant::now()) + Duration::from_secs_f64(n as f64 / rate);
                *free
            });
            if sender.send((leaves + delay, piece[..n].to_vec())).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (arrives, piece) in receiver {
            std::thread::sleep(arrives.saturating_duration_since(Instant::now()));
            if into.write_all(&piece).is_err() {
                break;
            }
        }
        into.shutdown(Shutdown::Both).unwrap_or(());
    });
}

#[test]
#[ignore = "a benchmark"]
fn restore_over_a_link() {
    let (cloud, machine) = with_store(|_, cloud| cloud.url("p", None));
    measured(&machine, &["backup", "-q"], &[]);
    let bytes = stored(&cloud) as f64;
    let kit = machine.kit();
    for megabits in [50.0, 100.0, 200.0] {
        let rate = megabits * 125_000.0;
        let port = link(cloud.port, Duration::from_millis(25), rate);
        let (url, target) = (cloud.url("p", Some(port)), machine.target(&format!("restored-{megabits}")));
        let paths = [kit.to_str().unwrap(), &url, target.to_str().unwrap()];
        let arguments = ["restore", "-q", "--identity", paths[0], "--store", paths[1], "--target", paths[2]];
        let (seconds, peak) = measured(&machine, &arguments, &[]);
        println!(
            "{megabits} Mbit/s, 50 ms there and back: {seconds:.2} s, {:.2} of the bandwidth, {peak} MiB",
            bytes / rate / seconds
        );
        assert!(target.join("home/agent").is_dir());
    }
}

#[test]
#[ignore = "a benchmark"]
fn killed_at_sixty_percent() {
    let (cloud, machine) = with_store(|_, cloud| cloud.url("p", None));
    let (whole_seconds, _) = measured(&machine, &["backup", "-q"], &[]);
    let whole = stored(&cloud);
    drop((cloud, machine));
    let (cloud, machine) = with_store(|_, cloud| cloud.url("p", None));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(["backup", "-q"]).env_clear().envs(&machine.world.env).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    while stored(&cloud) < whole / 10 * 6 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = stored(&cloud);
    let (seconds, _) = measured(&machine, &["backup", "-q"], &[]);
    let sent = stored(&cloud) - before;
    println!(
        "killed with {} of {} MiB there: {} MiB sent by the next run, {:.2} of what was lacking; {seconds:.2} s of {whole_seconds:.2} s",
        before >> 20,
        whole >> 20,
        sent >> 20,
        sent as f64 / (whole - before) as f64
    );
    let target = machine.target("restored");
    machine.restore(&target);
    let same = Command::new("diff").arg("-r").args([&machine.home("agent"), &target.join("home/agent")]).status();
    assert!(same.unwrap().success() && Path::new(&target).exists());
}
