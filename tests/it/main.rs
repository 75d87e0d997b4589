//! The integration tests: one binary, one module per thing that users rely on.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "tests")]

/// A home with an agent in it, a store, and commands run in process.
mod world;

/// The real program: exit codes, streams, messages, signals.
mod cli;

/// Keys, kit and configuration.
mod init;

/// Which keys are in force, kits written again and checked.
mod keys;

/// A new signing key, and who follows it.
mod signing;

/// Recipients and identities of age's plugins.
mod plugins;

/// Looking into snapshots without restoring them.
mod look;

/// The layers of the design, by reading the source.
mod layering;

/// Specials, files that change, databases, nested and absent sources.
mod scan;

/// The content rule against a labelled set.
mod labelled;

/// What is secret by its content, and values that leak.
mod content;

/// What is secret stays in its bundle.
mod secrets;

/// No command says or writes a secret.
mod hygiene;

/// What is on a store, and what is wrong with it.
mod list;

/// Colder classes of storage, and what a cloud has to be asked for.
mod archived;

/// What is measured rather than tested.
mod bench_store;

/// A backup that was cut off, and goes on.
mod interrupted;

/// The spine: what was backed up comes back.
mod roundtrip;

/// What an incremental holds and leans on.
mod incremental;
/// Restoring parts of snapshots, and onto what is there already.
mod parts;
/// What `restore --delete` removes, and what it never does.
mod surplus;

/// What stands at the target, or appears there while a restore runs.
mod targets;

/// Histories of edits, and every snapshot of them.
mod history;

/// Archives forged by somebody who holds the keys, and other tools of attackers.
mod forge;

/// What a malicious holder of the keys could sign: each refused, and nothing written.
mod hostile;

/// Chains forged member by member: what comes back, and which snapshot is taken.
mod chains;

/// What a malicious holder of the keys could sign as a chain.
mod hostile_chains;

/// Hostile bytes for everything that parses, near the corpus of `tests/fuzz`.
mod fuzz;

/// What somebody with write access to the store could do to it.
mod tamper;

/// What fails at the worst moment: operations of the store, the process, the disk.
mod faults;

/// Stores of earlier versions still open.
mod golden;

/// Tier, parent, life and reason of snapshots, as timelines in text.
mod timelines;

/// Years of tiers, parents and lives, on a made-up store.
mod simulation;

/// What is past its life goes, and nothing else.
mod prune;

/// Copies on other stores.
mod copies;

/// Stores that each backup brings up to date.
mod mirrors;

/// What is kept without end, what may not be removed, and the rules that are in force.
mod pins;

/// Buckets in this process.
mod fake_cloud;
/// What a bucket is told to do by itself.
mod lifecycle;

/// Months on a server that executes the rules.
mod retention;

/// What every store keeps, wherever it is.
mod store_contract;

/// A bad line to the store.
mod network;

/// What is wrong, and what a credential could do.
mod doctor;

/// Certificates and proxies between lifeboat and its store.
mod tls_and_proxies;
/// What is on a store against what was signed.
mod verify;

/// What is too old, and a whole fleet at a glance.
mod status;

/// Incidents, from the alarm to the home that is well again.
mod guard;

/// Who is told what became of a backup.
mod hooks;

/// Rehearsed restores, what they find, and their receipts.
mod drill;
