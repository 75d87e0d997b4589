//! Databases as they are found: live, idle, hot, damaged, and what must not happen to them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::{Checks, DatabaseCopy, Image, Job, Privacy, best_name, connect, holder, read, sidecar, spool};
use crate::model::database::Facts;

/// Tells the process that [`child`] starts what to do: a mode, a colon, and the path of a database.
const CHILD: &str = "LIFEBOAT_TEST_CHILD";

/// A source directory and a staging directory.
struct Place {
    source: TempDir,
    staging: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { source: tempfile::tempdir().unwrap(), staging: tempfile::tempdir().unwrap() }
    }

    fn database(&self) -> PathBuf {
        self.source.path().join("state.db")
    }

    fn read(&self, path: &Path, privacy: Privacy, checks: Checks) -> Image {
        read(path, self.staging.path(), privacy, checks).unwrap()
    }

    fn copy(&self, path: &Path, privacy: Privacy, checks: Checks) -> DatabaseCopy {
        match self.read(path, privacy, checks) {
            Image::Copy(copy) => *copy,
            other => panic!("no copy: {other:?}"),
        }
    }

    /// The image as a file that can be opened.
    fn image(&self, privacy: Privacy, checks: Checks) -> (PathBuf, Facts) {
        let mut copy = self.copy(&self.database(), privacy, checks);
        let bytes = all(&mut copy);
        assert_eq!(bytes.len() as u64, copy.size);
        assert_eq!(copy.size, u64::from(copy.facts.page_size) * copy.facts.pages);
        let path = self.staging.path().join("image.db");
        fs::write(&path, bytes).unwrap();
        (path, copy.facts.clone())
    }

    fn raw(&self) -> String {
        match self.read(&self.database(), Privacy::Open, Checks::Full) {
            Image::Raw { why } => why,
            other => panic!("not raw: {other:?}"),
        }
    }

    /// What stands in the source directory, with everything a stray write would change.
    fn listing(&self) -> BTreeMap<PathBuf, (u64, i64, i64, Vec<u8>)> {
        let entries = fs::read_dir(self.source.path()).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| {
                let m = fs::metadata(&path).unwrap();
                let content = fs::read(&path).unwrap();
                (path, (m.ino(), m.mtime(), m.mtime_nsec(), content))
            })
            .collect()
    }
}

fn all(copy: &mut DatabaseCopy) -> Vec<u8> {
    let mut bytes = Vec::new();
    copy.read_to_end(&mut bytes).unwrap();
    bytes
}

fn number(conn: &Connection, query: &str) -> i64 {
    conn.query_row(query, [], |row| row.get(0)).unwrap()
}

fn integrity(conn: &Connection) -> String {
    conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

fn create(path: &Path, setup: &str) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(setup).unwrap();
    conn
}

/// The backup API counts itself as a change of the schema: everything but the counters of the header.
fn without_counters(mut image: Vec<u8>) -> Vec<u8> {
    for counter in [24..28, 40..44, 92..100] {
        image[counter].fill(0);
    }
    image
}

const TWO_TABLES: &str =
    "CREATE TABLE a(id INTEGER PRIMARY KEY, x TEXT); CREATE TABLE b(id INTEGER PRIMARY KEY, x TEXT);";

// ---- other processes ----

/// Not a test: what this binary does when a test starts it as another process.
#[test]
fn child() {
    let Some(order) = std::env::var_os(CHILD) else { return };
    let order = order.into_string().unwrap();
    let (mode, path) = order.split_once(':').unwrap();
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::ZERO).unwrap();
    match mode {
        "wal" => {
            conn.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=50")
                .unwrap();
            write_until_told(&conn, 50);
        }
        "rollback" => {
            conn.busy_timeout(Duration::from_secs(20)).unwrap();
            conn.execute_batch("PRAGMA synchronous=OFF").unwrap();
            write_until_told(&conn, 5);
        }
        "churn" => {
            drop(conn);
            let told = told();
            let mut ready = false;
            while told.try_recv().is_err() {
                let conn = Connection::open(path).unwrap();
                conn.busy_timeout(Duration::ZERO).unwrap();
                insert_pair(&conn, "x");
                drop(conn);
                if !std::mem::replace(&mut ready, true) {
                    say_ready();
                }
            }
        }
        "hold" => {
            conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO a(x) VALUES ('uncommitted')").unwrap();
            say_ready();
            wait_for_end();
        }
        "die-wal" => {
            conn.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
            conn.execute_batch("INSERT INTO a(x) VALUES ('planted-in-wal')").unwrap();
            say_ready();
            wait_for_end();
        }
        "exclusive-wal" => {
            conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL").unwrap();
            conn.execute_batch("INSERT INTO a(x) VALUES ('alone')").unwrap();
            say_ready();
            wait_for_end();
        }
        "die-journal" => {
            // A cache this small makes an open transaction write to the database file itself.
            conn.execute_batch("PRAGMA cache_size=2; BEGIN; UPDATE a SET x = 'torn' || x").unwrap();
            say_ready();
            wait_for_end();
        }
        other => panic!("{other}"),
    }
}

/// Inserts the same number of rows into both tables until standard input ends; every error is a failure.
fn write_until_told(conn: &Connection, text_size: usize) {
    let text = "x".repeat(text_size * 20);
    let told = told();
    let mut ready = false;
    while told.try_recv().is_err() {
        insert_pair(conn, &text);
        if !std::mem::replace(&mut ready, true) {
            say_ready();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Receives something when standard input ends.
fn told() -> std::sync::mpsc::Receiver<()> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        wait_for_end();
        tell.send(()).unwrap();
    });
    told
}

fn insert_pair(conn: &Connection, text: &str) {
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    for table in ["a", "b"] {
        conn.execute(&format!("INSERT INTO {table}(x) VALUES (?1)"), [text]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

fn say_ready() {
    let mut out = std::io::stdout();
    writeln!(out, "\nready").unwrap();
    out.flush().unwrap();
}

fn wait_for_end() {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// Another process at work on `path`, already past its first step.
fn start(mode: &str, path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host::database::tests::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{mode}:{}", path.to_str().unwrap()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "the child failed");
    child
}

/// Lets it finish, and fails if it met any error.
fn stop(mut child: Child) {
    drop(child.stdin.take());
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

// ---- live writers ----

fn images_of_a_live_writer(mode: &str, journal: &str, count: usize) {
    let place = Place::new();
    drop(create(&place.database(), &format!("PRAGMA journal_mode={journal}; {TWO_TABLES}")));
    let writer = start(mode, &place.database());
    let mut last = 0;
    for i in 0..count {
        let privacy = if i % 5 == 4 { Privacy::Secret } else { Privacy::Open };
        let checks = if i % 2 == 0 { Checks::Full } else { Checks::Quick };
        let (path, facts) = place.image(privacy, checks);
        let conn = connect::unchanging(&path).unwrap();
        assert_eq!(integrity(&conn), "ok");
        let rows = number(&conn, "SELECT count(*) FROM a");
        assert_eq!(rows, number(&conn, "SELECT count(*) FROM b"));
        assert_eq!(rows, facts.tables["a"]);
        if checks == Checks::Full {
            assert_eq!(facts.check.as_deref(), Some("ok"));
            assert_eq!(facts.rows.unwrap()["b"], u64::try_from(rows).unwrap());
        }
        assert!(rows >= last, "{rows} after {last}");
        last = rows;
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(last > 10, "the writer hardly wrote: {last}");
    stop(writer);
    let left: Vec<_> = fs::read_dir(place.source.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["state.db"], "the last writer could not clean up");
}

#[test]
fn a_wal_writer_is_never_disturbed() {
    images_of_a_live_writer("wal", "WAL", 50);
}

#[test]
fn a_writer_that_comes_and_goes_finds_nothing_left_beside() {
    images_of_a_live_writer("churn", "WAL", 50);
}

#[test]
fn a_rollback_writer_goes_on() {
    images_of_a_live_writer("rollback", "DELETE", 20);
}

#[test]
fn a_transaction_in_progress_neither_blocks_nor_shows() {
    for journal in ["DELETE", "WAL"] {
        let place = Place::new();
        drop(create(&place.database(), &format!("PRAGMA journal_mode={journal}; {TWO_TABLES}")));
        let writer = start("hold", &place.database());
        let (path, _) = place.image(Privacy::Open, Checks::Full);
        assert_eq!(number(&connect::unchanging(&path).unwrap(), "SELECT count(*) FROM a"), 0);
        let held = holder(&place.database()).unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(held.unwrap().pid, writer.id());
        }
        stop(writer);
        assert_eq!(holder(&place.database()).unwrap(), None);
    }
}

#[test]
fn a_writer_with_exclusive_locks_is_read_by_copying() {
    let place = Place::new();
    drop(create(&place.database(), TWO_TABLES));
    let writer = start("exclusive-wal", &place.database());
    assert!(!sidecar(&place.database(), b"-shm").exists());
    let before = place.listing();
    let (path, facts) = place.image(Privacy::Open, Checks::Full);
    assert_eq!(facts.check.as_deref(), Some("ok"));
    assert_eq!(place.listing(), before);
    stop(writer);
    fs::remove_file(path).unwrap();
}

// ---- what killed writers leave ----

#[test]
fn a_wal_left_behind_is_read_with_and_without_its_index() {
    for (with_shm, privacy) in
        [(true, Privacy::Open), (false, Privacy::Open), (true, Privacy::Secret), (false, Privacy::Secret)]
    {
        let place = Place::new();
        drop(create(&place.database(), TWO_TABLES));
        kill(start("die-wal", &place.database()));
        if !with_shm {
            fs::remove_file(sidecar(&place.database(), b"-shm")).unwrap();
        }
        let before = place.listing();
        let (path, facts) = place.image(privacy, Checks::Full);
        assert_eq!(place.listing(), before);
        assert_eq!(facts.tables["a"], 1);
        assert_eq!(facts.check.as_deref(), Some("ok"));
        let conn = connect::unchanging(&path).unwrap();
        assert_eq!(number(&conn, "SELECT count(*) FROM a WHERE x = 'planted-in-wal'"), 1);
        fs::remove_file(path).unwrap();
        assert_eq!(fs::read_dir(place.staging.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_live_index_with_no_mark_set_is_read_as_well() {
    let place = Place::new();
    drop(create(&place.database(), &format!("PRAGMA journal_mode=WAL; {TWO_TABLES}")));
    // Its first transaction found an empty -wal, so it read without a mark.
    let writer = start("hold", &place.database());
    let (path, facts) = place.image(Privacy::Open, Checks::Full);
    assert_eq!((facts.tables["a"], facts.check.as_deref()), (0, Some("ok")));
    stop(writer);
    fs::remove_file(path).unwrap();
    kill(start("die-wal", &place.database()));
    assert_eq!(place.image(Privacy::Open, Checks::Full).1.tables["a"], 1);
    let writer = start("die-wal", &place.database());
    assert_eq!(place.image(Privacy::Open, Checks::Full).1.tables["a"], 2);
    kill(writer);
}

#[test]
fn a_hot_journal_is_rolled_back_elsewhere() {
    for privacy in [Privacy::Open, Privacy::Secret] {
        let place = Place::new();
        let conn = create(&place.database(), TWO_TABLES);
        conn.execute_batch(
            "INSERT INTO a(x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000)
             SELECT hex(randomblob(100)) FROM n",
        )
        .unwrap();
        drop(conn);
        let committed = fs::read(place.database()).unwrap();
        kill(start("die-journal", &place.database()));
        assert_ne!(fs::read(place.database()).unwrap(), committed, "nothing was torn");
        let before = place.listing();
        let (path, facts) = place.image(privacy, Checks::Full);
        assert_eq!(place.listing(), before);
        assert_eq!(facts.check.as_deref(), Some("ok"));
        assert_eq!(fs::read(&path).unwrap(), committed);
        fs::remove_file(path).unwrap();
        assert_eq!(fs::read_dir(place.staging.path()).unwrap().count(), 0);
    }
}

// ---- idle databases ----

#[test]
fn nothing_appears_beside_an_idle_database() {
    for journal in ["DELETE", "WAL", "PERSIST"] {
        for privacy in [Privacy::Open, Privacy::Secret] {
            let place = Place::new();
            drop(create(&place.database(), &format!("PRAGMA journal_mode={journal}; {TWO_TABLES}")));
            // For root this changes nothing, for everybody else it takes away the chance to leave a trace.
            fs::set_permissions(place.database(), fs::Permissions::from_mode(0o400)).unwrap();
            fs::set_permissions(place.source.path(), fs::Permissions::from_mode(0o500)).unwrap();
            let before = place.listing();
            let (path, _) = place.image(privacy, Checks::Full);
            assert_eq!(place.listing(), before);
            assert_eq!(fs::read(&path).unwrap(), fs::read(place.database()).unwrap());
            fs::set_permissions(place.source.path(), fs::Permissions::from_mode(0o700)).unwrap();
            fs::remove_file(path).unwrap();
            assert_eq!(fs::read_dir(place.staging.path()).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_copy_can_be_read_twice() {
    let place = Place::new();
    drop(create(&place.database(), TWO_TABLES));
    for privacy in [Privacy::Open, Privacy::Secret] {
        let mut copy = place.copy(&place.database(), privacy, Checks::Quick);
        let first = all(&mut copy);
        copy.rewind().unwrap();
        assert_eq!(all(&mut copy), first);
        assert_eq!(first, fs::read(place.database()).unwrap());
    }
}

#[test]
fn names_may_be_any_bytes() {
    let place = Place::new();
    drop(create(&place.database(), &format!("PRAGMA journal_mode=WAL; {TWO_TABLES}")));
    for name in [&b"q?mode=rw&x=1"[..], b"hash#x", b"per%20cent%", b"latin-\xe9", b"new\nline", b" space "] {
        let path = place.source.path().join(std::ffi::OsStr::from_bytes(name));
        for journal in ["DELETE", "WAL"] {
            // A live connection, so that the name is used for more than reading bytes.
            let conn = create(&place.database(), &format!("PRAGMA journal_mode={journal}"));
            drop(conn);
            fs::copy(place.database(), &path).unwrap();
            let uri_conn = connect::private(&path).unwrap();
            uri_conn.execute_batch("PRAGMA query_only=0; INSERT INTO a(x) VALUES ('y')").unwrap();
            let copy = place.copy(&path, Privacy::Open, Checks::Quick);
            assert_eq!(copy.facts.tables["a"], 1, "{name:?} {journal}");
            drop(uri_conn);
            for suffix in [&b""[..], b"-wal", b"-shm"] {
                fs::remove_file(sidecar(&path, suffix)).ok();
            }
        }
    }
}

#[test]
fn small_and_large_pages() {
    for size in [512_u32, 65536] {
        for journal in ["DELETE", "WAL"] {
            let place = Place::new();
            drop(create(
                &place.database(),
                &format!("PRAGMA page_size={size}; PRAGMA journal_mode={journal}; {TWO_TABLES}"),
            ));
            let (path, facts) = place.image(Privacy::Open, Checks::Full);
            assert_eq!((facts.page_size, facts.pages), (size, 3));
            assert_eq!(fs::read(path).unwrap(), fs::read(place.database()).unwrap());
        }
    }
}

#[test]
fn the_lock_page_beyond_one_gibibyte_is_zeros() {
    let place = Place::new();
    let path = place.database();
    drop(create(&path, &format!("PRAGMA page_size=65536; {TWO_TABLES}")));
    // Everything up to the page before the lock page is declared allocated and stays a hole; what SQLite adds
    // then comes to lie on both sides of the lock page.
    let lock_page = 0x4000_0000_u32 / 65536 + 1;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(u64::from(lock_page - 2) * 65536).unwrap();
    file.write_all_at(&(lock_page - 2).to_be_bytes(), 28).unwrap();
    drop(file);
    drop(create(&path, "INSERT INTO a(x) VALUES (hex(zeroblob(100000)))"));
    let mut copy = place.copy(&path, Privacy::Open, Checks::Quick);
    assert!(copy.facts.pages > u64::from(lock_page) + 1, "{:?}", copy.facts);
    assert_eq!(copy.facts.tables["a"], 1);
    let mut source = fs::File::open(&path).unwrap();
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in (0..copy.size).step_by(1 << 20) {
        let n = usize::try_from((copy.size - at).min(1 << 20)).unwrap();
        copy.read_exact(&mut a[..n]).unwrap();
        source.read_exact(&mut b[..n]).unwrap();
        assert!(a[..n] == b[..n], "differs near {at}");
    }
}

#[test]
fn without_the_page_table_the_backup_api_gives_the_same_image() {
    let place = Place::new();
    let writer =
        create(&place.database(), &format!("PRAGMA journal_mode=WAL; {TWO_TABLES} INSERT INTO a(x) VALUES ('y')"));
    for privacy in [Privacy::Open, Privacy::Secret] {
        let path = place.database();
        let job = Job { path: &path, staging: place.staging.path(), privacy, checks: Checks::Quick, sink: None };
        let image = |by_backup: bool| {
            let conn = connect::foreign(&path, connect::Index::ReadOnly).unwrap();
            connect::pin(&conn).unwrap();
            let mut spool = spool::Spool::new(&job).unwrap();
            let shape = if by_backup {
                connect::pages_by_backup(&conn, 4096, &job, &mut spool).unwrap()
            } else {
                connect::pages(&conn, &job, &mut spool).unwrap()
            };
            let mut bytes = Vec::new();
            spool.finish().unwrap().into_body().unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, shape.bytes());
            bytes
        };
        assert!(without_counters(image(true)) == without_counters(image(false)));
    }
    drop(writer);
}

// ---- facts ----

#[test]
fn facts_of_every_kind_of_table() {
    let place = Place::new();
    let setup = "PRAGMA journal_mode=WAL;
        CREATE TABLE plain(id INTEGER PRIMARY KEY, x); INSERT INTO plain VALUES (7, 'a'), (3, 'b');
        CREATE TABLE \"od\"\"d na?me\"(x); INSERT INTO \"od\"\"d na?me\" VALUES (1);
        CREATE TABLE empty(x);
        CREATE TABLE keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO keyed VALUES ('a', 1);
        CREATE TABLE shadowed(rowid TEXT, x); INSERT INTO shadowed VALUES ('z', 1), ('y', 2);
        CREATE TABLE hidden(rowid, _rowid_, oid); INSERT INTO hidden VALUES (1, 2, 3);
        CREATE TABLE pragma_table_list(x);
        CREATE VIRTUAL TABLE words USING fts5(x); INSERT INTO words VALUES ('some words');
        CREATE VIEW v AS SELECT no_such_function(1);
        CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT);";
    drop(create(&place.database(), setup));
    for privacy in [Privacy::Open, Privacy::Secret] {
        let facts = place.image(privacy, Checks::Full).1;
        assert_eq!(facts.check.as_deref(), Some("ok"));
        let rows = facts.rows.unwrap();
        for (name, largest, count) in [
            ("plain", Some(7), 2),
            ("od\"d na?me", Some(1), 1),
            ("empty", Some(0), 0),
            ("keyed", None, 1),
            ("shadowed", Some(2), 2),
            ("hidden", None, 1),
            ("pragma_table_list", Some(0), 0),
            ("words_content", Some(1), 1),
        ] {
            assert_eq!(facts.tables.get(name).copied(), largest, "{name}");
            assert_eq!(rows.get(name).copied(), Some(count), "{name}");
        }
        for name in ["words", "v", "sqlite_sequence", "sqlite_schema"] {
            assert!(!facts.tables.contains_key(name) && !rows.contains_key(name), "{name}");
        }
    }
}

/// Changes the schema behind SQLite's back.
fn doctored(place: &Place, setup: &str, change: &str) {
    let conn = create(&place.database(), setup);
    conn.execute_batch(&format!("PRAGMA writable_schema=ON; {change}")).unwrap();
}

#[test]
fn unknown_modules_and_collations_do_not_stop_the_image() {
    let place = Place::new();
    doctored(
        &place,
        &format!("{TWO_TABLES} CREATE TABLE c(x TEXT COLLATE NOCASE UNIQUE); INSERT INTO c VALUES ('k')"),
        "UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'unknown_icu');
         INSERT INTO sqlite_schema VALUES
         ('table', 'vectors', 'vectors', 0, 'CREATE VIRTUAL TABLE vectors USING vec0(x float[3])')",
    );
    for privacy in [Privacy::Open, Privacy::Secret] {
        let (path, facts) = place.image(privacy, Checks::Full);
        assert_eq!(fs::read(path).unwrap(), fs::read(place.database()).unwrap());
        assert_eq!(facts.tables.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(facts.rows.unwrap()["c"], 1);
        assert!(facts.check.is_none() || facts.check.as_deref() == Some("ok"), "{:?}", facts.check);
    }
}

#[test]
fn a_schema_from_the_future_does_not_stop_the_image() {
    let place = Place::new();
    doctored(
        &place,
        TWO_TABLES,
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE a(x, SORTED BY MOOD ((' WHERE name = 'a'",
    );
    for privacy in [Privacy::Open, Privacy::Secret] {
        let (path, facts) = place.image(privacy, Checks::Full);
        let (image, source) = (fs::read(path).unwrap(), fs::read(place.database()).unwrap());
        assert!(without_counters(image) == without_counters(source));
        assert!(facts.check.unwrap().contains("malformed database schema"));
    }
}

#[test]
fn damage_that_lets_pages_be_read_shows_in_the_check() {
    let place = Place::new();
    let conn = create(&place.database(), TWO_TABLES);
    conn.execute_batch("INSERT INTO a(x) VALUES (hex(zeroblob(9000)))").unwrap();
    drop(conn);
    let file = fs::OpenOptions::new().write(true).open(place.database()).unwrap();
    file.write_all_at(&[0xff; 4096], 3 * 4096).unwrap();
    assert_ne!(place.image(Privacy::Open, Checks::Full).1.check.as_deref(), Some("ok"));
}

// ---- what is no database ----

#[test]
fn what_sqlite_cannot_open_is_raw() {
    let place = Place::new();
    for journal in [1_u8, 2] {
        let mut garbage: Vec<u8> = (0..20_000_u32).map(|i| (i * 7919 % 251) as u8).collect();
        garbage[..16].copy_from_slice(b"SQLite format 3\0");
        garbage[18..20].fill(journal);
        fs::write(place.database(), &garbage).unwrap();
        assert!(!place.raw().is_empty());
        // A header in order, and then noise, as a cipher that leaves the header alone would give.
        drop(fs::remove_file(place.database()));
        drop(create(&place.database(), TWO_TABLES));
        let mut noise = fs::read(place.database()).unwrap();
        for (i, byte) in noise.iter_mut().enumerate().skip(100) {
            *byte = (i * 7919 % 251) as u8;
        }
        noise[18..20].fill(journal);
        fs::write(place.database(), &noise).unwrap();
        assert!(place.raw().contains("malformed") || place.raw().contains("not a database"), "{}", place.raw());
        assert_eq!(place.listing().len(), 1);
        fs::remove_file(place.database()).unwrap();
    }
    fs::write(place.database(), b"SQLite format 3\0").unwrap();
    assert!(place.raw().contains("shorter"));
    fs::write(place.database(), b"").unwrap();
    assert!(place.raw().contains("empty"));
}

#[test]
fn a_truncated_database_is_raw() {
    for journal in ["DELETE", "WAL"] {
        let place = Place::new();
        drop(create(&place.database(), &format!("PRAGMA journal_mode={journal}; {TWO_TABLES}")));
        fs::OpenOptions::new().write(true).open(place.database()).unwrap().set_len(2 * 4096).unwrap();
        let before = place.listing();
        assert!(!place.raw().is_empty());
        assert_eq!(place.listing(), before);
    }
}

#[test]
fn what_is_gone_has_vanished() {
    let place = Place::new();
    assert!(matches!(place.read(&place.database(), Privacy::Open, Checks::Quick), Image::Vanished));
}

// ---- secrets ----

/// Whether `needle` can be read from any file in `dir`, or any nameless file this process has open there.
fn readable_in(dir: &Path, needle: &[u8]) -> bool {
    let named = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().map(|e| e.path());
    let nameless = open.filter(|fd| fs::read_link(fd).is_ok_and(|target| target.starts_with(dir)));
    let mut files = 0;
    let found = named.chain(nameless).any(|path| {
        files += 1;
        fs::read(path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|w| w == needle))
    });
    assert!(files > 0 || !cfg!(target_os = "linux"), "nothing was looked at");
    found
}

#[test]
fn secrets_do_not_reach_the_disk_readable() {
    let needle = b"planted-7c0ffee5ecre7";
    for journal in ["DELETE", "WAL"] {
        let place = Place::new();
        let conn = create(&place.database(), &format!("PRAGMA journal_mode={journal}; {TWO_TABLES}"));
        conn.execute("INSERT INTO a(x) VALUES (?1)", [std::str::from_utf8(needle).unwrap()]).unwrap();
        for live in [true, false] {
            let conn = live.then(|| Connection::open(place.database()).unwrap());
            if let Some(conn) = &conn {
                number(conn, "SELECT count(*) FROM a");
            }
            let mut copy = place.copy(&place.database(), Privacy::Secret, Checks::Full);
            assert!(!readable_in(place.staging.path(), needle));
            assert!(all(&mut copy).windows(needle.len()).any(|w| w == needle));
            assert_eq!(copy.facts.check.as_deref(), Some("ok"));
            drop(copy);
            let copy = place.copy(&place.database(), Privacy::Open, Checks::Full);
            if cfg!(target_os = "linux") {
                assert!(readable_in(place.staging.path(), needle), "the search finds nothing");
            }
            drop(copy);
        }
        drop(conn);
    }
}

// ---- hard links ----

#[test]
fn a_hard_linked_database_is_read_by_the_name_its_writer_uses() {
    let place = Place::new();
    let names: Vec<PathBuf> = ["a.db", "b.db", "c.db"].map(|n| place.source.path().join(n)).to_vec();
    drop(create(&names[1], &format!("PRAGMA journal_mode=WAL; {TWO_TABLES}")));
    fs::hard_link(&names[1], &names[0]).unwrap();
    fs::hard_link(&names[1], &names[2]).unwrap();
    assert_eq!(best_name(&names), &names[0]);
    fs::write(sidecar(&names[0], b"-wal"), b"").unwrap();
    let writer = create(&names[2], "INSERT INTO a(x) VALUES ('y')");
    assert_eq!(best_name(&names), &names[2]);
    assert_eq!(place.copy(best_name(&names), Privacy::Open, Checks::Quick).facts.tables["a"], 1);
    drop(writer);
}
