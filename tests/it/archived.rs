//! Storage classes: volumes go where the configuration says, and what a cloud holds in its archive is asked for.

use lifeboat::commands::restore;
use lifeboat::{Error, Kind};

use crate::fake_cloud::{Cloud, Kind as Of};
use crate::forge::said;
use crate::store_contract::{machine, set_up};
use crate::world::Machine;

fn backed_up(kind: Of, classes: &str) -> (Cloud, Machine) {
    let cloud = Cloud::start(kind);
    let machine = machine(cloud.credentials("ADMIN"));
    machine.write("agent/notes.md", "first");
    machine.write("agent/.env", "API_KEY=fake-0000");
    let mut noise = vec![0; 40 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    machine.write("agent/noise", noise);
    set_up(&machine, &cloud.url("p", None)).unwrap();
    machine.configure(|text| format!("{text}\n[storage_class]\n{classes}"));
    machine.backup();
    (cloud, machine)
}

fn restore(machine: &Machine, change: impl FnOnce(&mut restore::Args)) -> Result<restore::Done, Error> {
    let target = machine.target("target");
    let done = machine.try_restore(&target, change).map(|(done, _)| done);
    assert!(done.is_ok() || !target.join("home").exists());
    done
}

#[test]
fn volumes_alone_go_into_a_class() {
    for kind in [Of::S3, Of::Gcs] {
        let (cloud, machine) = backed_up(kind, "monthly = \"COLD\"\nhourly = \"WARM\"\nsecrets = \"COOL\"\n");
        let classes = |cloud: &Cloud| -> Vec<(String, String)> {
            let state = cloud.state.lock().unwrap();
            state.classes.iter().map(|(k, v)| (k.rsplit('/').next().unwrap().to_owned(), v.clone())).collect()
        };
        let volume = |n: usize| format!("{n:06}.tar.zst.age");
        let cold = (0..3).map(|n| (volume(n), "COLD".to_owned()));
        // Keys come in order: secrets before state.
        let first: Vec<_> = std::iter::once((volume(0), "COOL".to_owned())).chain(cold).collect();
        assert_eq!(classes(&cloud), first);
        machine.write("agent/notes.md", "second");
        machine.backup();
        let warm = classes(&cloud).into_iter().filter(|(_, class)| class == "WARM").count();
        assert_eq!((warm, classes(&cloud).len()), (1, 5));
    }
}

/// Puts what `which` says into the archive.
fn freeze(cloud: &Cloud, which: impl Fn(&str) -> bool) -> usize {
    let mut state = cloud.state.lock().unwrap();
    state.archived = state.objects.keys().filter(|key| which(key)).cloned().collect();
    state.archived.len()
}

#[test]
fn what_is_archived_is_asked_for_and_then_restored() {
    let (cloud, machine) = backed_up(Of::S3, "");
    assert_eq!(freeze(&cloud, |key| key.ends_with(".tar.zst.age") && key.contains("/state/")), 3);
    let error = restore(&machine, |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::Archived, "{}", said(&error));
    for word in ["4 volumes", "--warm-up", "restore-object --bucket bucket --key 'p/state/"] {
        assert!(said(&error).contains(word), "`{word}` is not in {}", said(&error));
    }
    let named = restore(&machine, |a| (a.warm_up, a.dry_run) = (true, true)).unwrap().warmed.unwrap();
    assert_eq!(named.objects.len(), 4, "{named:?}");
    assert!(cloud.state.lock().unwrap().asked.is_empty());

    let asked = restore(&machine, |a| a.warm_up = true).unwrap().warmed.unwrap();
    assert_eq!((asked.asked, asked.under_way, asked.ready), (3, 0, 1), "{asked:?}");
    assert!(asked.bytes > 40 << 20);
    let again = restore(&machine, |a| a.warm_up = true).unwrap().warmed.unwrap();
    assert_eq!((again.asked, again.under_way, again.ready), (0, 3, 1), "{again:?}");
    assert_eq!(restore(&machine, |_| {}).unwrap_err().kind(), Kind::Archived);
    freeze(&cloud, |_| false);
    let warm = restore(&machine, |a| a.warm_up = true).unwrap();
    assert_eq!(warm.warmed.as_ref().unwrap().ready, 4);
    assert!(lifeboat::commands::Report::text(&warm).contains("restore now"));
    assert!(restore(&machine, |_| {}).unwrap().restored > 0);
}

#[test]
fn only_what_is_wanted_is_asked_for() {
    let (cloud, machine) = backed_up(Of::S3, "");
    freeze(&cloud, |key| key.ends_with(".tar.zst.age"));
    let asked = restore(&machine, |a| {
        a.warm_up = true;
        a.paths = vec!["~/agent/notes.md".to_owned()];
        a.no_secrets = true;
    });
    assert_eq!(asked.unwrap().warmed.unwrap().objects.len(), 1);
}

#[test]
fn manifests_that_are_archived_come_first() {
    let (cloud, machine) = backed_up(Of::S3, "");
    freeze(&cloud, |key| key.ends_with(".age"));
    let asked = restore(&machine, |a| a.warm_up = true).unwrap().warmed.unwrap();
    assert!(asked.manifests_only && asked.asked == 2, "{asked:?}");
    assert!(asked.text().contains("run the same command once more"));
}

#[test]
fn a_credential_that_may_not_ask_says_so() {
    let (cloud, machine) = backed_up(Of::S3, "");
    freeze(&cloud, |key| key.ends_with(".tar.zst.age"));
    cloud.fate("POST", crate::fake_cloud::Fate::Answer(403, "AccessDenied"));
    let error = restore(&machine, |a| a.warm_up = true).unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(said(&error).contains("cannot warm up") && said(&error).contains("AccessDenied"), "{}", said(&error));
}
