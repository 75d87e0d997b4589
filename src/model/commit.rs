//! The commit: the signed plaintext record that makes a snapshot count, section 7 of `FORMAT.md`.

use std::fmt::Write as _;

use super::manifest::{hex, unhex};
use super::store_key::{Archive, MANIFEST, PINNED, Place, SnapshotId, is_name, is_volume_name};
use crate::error::{Error, Result};

/// The largest commit a reader accepts, in bytes: the volumes of some 5 TB.
pub const COMMIT_BYTES_MAX: u64 = 64 << 20;
/// The largest signature a reader accepts, in bytes.
pub const SIGNATURE_BYTES_MAX: u64 = 4096;

/// A reference to another snapshot: its id and the SHA-256 of its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The snapshot.
    pub id: SnapshotId,
    /// SHA-256 of its commit.
    pub sha256: [u8; 32],
    /// Days that its objects live, where the line carries them.
    pub life: Option<u64>,
}

/// One object of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name within the snapshot's directory.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// What a commit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// State archive or secrets bundle.
    pub archive: Archive,
    /// The series.
    pub series: String,
    /// The snapshot.
    pub id: SnapshotId,
    /// What orders it.
    pub seq: u64,
    /// State archives: the tier.
    pub tier: Option<String>,
    /// State archives: the first full of the catalog it was made from.
    pub generation: Option<SnapshotId>,
    /// Days that the store must hold its objects.
    pub life: u64,
    /// The parent of an incremental.
    pub parent: Option<Reference>,
    /// The archive of the same kind before it.
    pub prev: Option<Reference>,
    /// State archives: the newest secrets bundle.
    pub bundle: Option<Reference>,
    /// How many findings made it suspicious.
    pub suspicious: Option<u64>,
    /// Suspicious snapshots that it accepts.
    pub accept: Vec<SnapshotId>,
    /// Volumes in order, then the manifest.
    pub objects: Vec<Object>,
}

impl Commit {
    /// The text that is signed and stored.
    pub fn render(&self) -> String {
        let mut out = String::from("# lifeboat commit 1\n");
        let mut line = |word: &str, value: &dyn std::fmt::Display| {
            writeln!(out, "# {word} {value}").expect("writing to a String cannot fail");
        };
        line("archive", &self.archive.word());
        line("series", &self.series);
        line("id", &self.id);
        line("seq", &self.seq);
        if let Some(tier) = &self.tier {
            line("tier", tier);
        }
        if let Some(generation) = &self.generation {
            line("generation", generation);
        }
        line("life", &self.life);
        for (word, reference) in [("parent", &self.parent), ("prev", &self.prev), ("bundle", &self.bundle)] {
            if let Some(r) = reference {
                let life = r.life.map_or(String::new(), |days| format!(" {days}"));
                line(word, &format!("{} {}{life}", r.id, hex(&r.sha256)));
            }
        }
        if let Some(count) = self.suspicious {
            line("suspicious", &count);
        }
        for id in &self.accept {
            line("accept", id);
        }
        for object in &self.objects {
            line("size", &format!("{} {}", object.size, object.name));
        }
        for object in &self.objects {
            writeln!(out, "{}  {}", hex(&object.sha256), object.name).expect("writing to a String cannot fail");
        }
        out
    }

    /// Parses a commit. Its signature has to be checked beforehand.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged), or [`Kind::Failed`](crate::Kind::Failed) for an unknown version.
    pub fn parse(text: &str) -> Result<Commit> {
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        match lines.next().and_then(|l| l.strip_prefix("# lifeboat commit ")) {
            Some("1") => {}
            Some(version) => {
                let version = super::path::printable(version.as_bytes());
                return Err(Error::failed(format!("the commit is of version {version}, this program reads 1"))
                    .hint("restore with a newer lifeboat, or by hand as RECOVERY.md on the store says"));
            }
            None => return Err(malformed("its first line")),
        }
        let mut fields = Fields::default();
        let mut sums = Vec::new();
        for line in lines {
            match line.strip_prefix("# ") {
                Some(field) => fields.take(field)?,
                None if line.starts_with('#') => {}
                None => sums.push(parse_sum(line)?),
            }
        }
        fields.finish(sums)
    }

    /// The trusted comment of its signature.
    pub fn trusted_comment(series: &str, id: &SnapshotId) -> String {
        format!("lifeboat {series} {id}")
    }

    /// Refuses a commit that was not made for the place it was read from.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::Kind::Damaged), saying what disagrees.
    pub fn check_place(&self, place: &Place) -> Result<()> {
        let wrong = |what: &str| {
            let at = place.directory();
            Err(Error::damaged(format!("{at}/commit says another {what} than its name"))
                .hint("somebody moved or renamed objects on the store; this snapshot is not used"))
        };
        if self.archive != place.archive {
            return wrong("archive");
        }
        if self.series != place.series {
            return wrong("series");
        }
        if self.id != place.id {
            return wrong("id");
        }
        if self.parent.as_ref().map(|p| &p.id) != place.parent.as_ref() {
            return wrong("parent");
        }
        if self.tier != place.tier && place.tier.as_deref() != Some(PINNED) {
            return wrong("tier");
        }
        Ok(())
    }

    /// The volumes, without the manifest.
    pub fn volumes(&self) -> &[Object] {
        &self.objects[..self.objects.len().saturating_sub(1)]
    }

    /// The manifest's object.
    pub fn manifest(&self) -> &Object {
        self.objects.last().expect("a commit without a manifest is not parsed or made")
    }

    /// Bytes on the store of volumes and manifest.
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|o| o.size).sum()
    }
}

fn malformed(what: &str) -> Error {
    Error::damaged(format!("the commit is malformed: {what}"))
}

fn parse_sum(line: &str) -> Result<(String, [u8; 32])> {
    let (sum, name) = line.split_once("  ").ok_or_else(|| malformed("a line is no checksum"))?;
    let sum = unhex(sum).ok_or_else(|| malformed("a checksum is not 64 hex digits"))?;
    if name != MANIFEST && !is_volume_name(name) {
        return Err(malformed("an object with an unknown name"));
    }
    Ok((name.to_owned(), sum))
}

/// The `#` lines as they come.
#[derive(Default)]
struct Fields {
    archive: Option<String>,
    series: Option<String>,
    id: Option<String>,
    seq: Option<String>,
    tier: Option<String>,
    generation: Option<String>,
    life: Option<String>,
    parent: Option<String>,
    prev: Option<String>,
    bundle: Option<String>,
    suspicious: Option<String>,
    accept: Vec<SnapshotId>,
    sizes: Vec<(String, u64)>,
}

impl Fields {
    fn take(&mut self, line: &str) -> Result<()> {
        let Some((word, value)) = line.split_once(' ') else { return Ok(()) };
        let slot = match word {
            "archive" => &mut self.archive,
            "series" => &mut self.series,
            "id" => &mut self.id,
            "seq" => &mut self.seq,
            "tier" => &mut self.tier,
            "generation" => &mut self.generation,
            "life" => &mut self.life,
            "parent" => &mut self.parent,
            "prev" => &mut self.prev,
            "bundle" => &mut self.bundle,
            "suspicious" => &mut self.suspicious,
            "accept" => {
                self.accept.push(SnapshotId::parse(value).ok_or_else(|| malformed("accept"))?);
                return Ok(());
            }
            "size" => {
                let (size, name) = value.split_once(' ').ok_or_else(|| malformed("size"))?;
                self.sizes.push((name.to_owned(), number(size, "size")?));
                return Ok(());
            }
            _ => return Ok(()),
        };
        if slot.replace(value.to_owned()).is_some() {
            return Err(malformed(&format!("`{word}` stands twice")));
        }
        Ok(())
    }

    fn finish(self, sums: Vec<(String, [u8; 32])>) -> Result<Commit> {
        let need = |value: Option<String>, what: &str| value.ok_or_else(|| malformed(&format!("no `{what}`")));
        let archive = match need(self.archive, "archive")?.as_str() {
            "state" => Archive::State,
            "secrets" => Archive::Secrets,
            _ => return Err(malformed("unknown archive")),
        };
        let series = need(self.series, "series")?;
        if !is_name(&series) || self.tier.as_deref().is_some_and(|t| !is_name(t)) {
            return Err(malformed("series or tier"));
        }
        let id = |text: &str| SnapshotId::parse(text).ok_or_else(|| malformed("an id"));
        let names_agree = self.sizes.iter().map(|s| &s.0).eq(sums.iter().map(|s| &s.0));
        // Names of volumes have six digits, so that they compare as their numbers do.
        let volumes = &sums[..sums.len().saturating_sub(1)];
        let in_order = volumes.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && volumes.iter().all(|(name, _)| is_volume_name(name))
            && sums.last().is_some_and(|(name, _)| name == MANIFEST);
        if !names_agree || !in_order {
            return Err(malformed("sizes and checksums do not list the volumes in order and then the manifest"));
        }
        let objects = self.sizes.into_iter().zip(sums);
        Ok(Commit {
            archive,
            series,
            id: id(&need(self.id, "id")?)?,
            seq: number(&need(self.seq, "seq")?, "seq")?,
            tier: self.tier,
            generation: self.generation.as_deref().map(id).transpose()?,
            life: number(&need(self.life, "life")?, "life")?,
            parent: self.parent.as_deref().map(reference).transpose()?,
            prev: self.prev.as_deref().map(reference).transpose()?,
            bundle: self.bundle.as_deref().map(reference).transpose()?,
            suspicious: self.suspicious.as_deref().map(|s| number(s, "suspicious")).transpose()?,
            accept: self.accept,
            objects: objects.map(|((name, size), (_, sha256))| Object { name, size, sha256 }).collect(),
        })
    }
}

fn number(text: &str, what: &str) -> Result<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten().ok_or_else(|| malformed(&format!("`{what}` is no number")))
}

fn reference(text: &str) -> Result<Reference> {
    let mut parts = text.split(' ');
    let id = parts.next().and_then(SnapshotId::parse).ok_or_else(|| malformed("the id of a reference"))?;
    let sha256 = parts.next().and_then(unhex).ok_or_else(|| malformed("the digest of a reference"))?;
    let life = parts.next().map(|days| number(days, "life")).transpose()?;
    Ok(Reference { id, sha256, life })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn example() -> Commit {
        let id = |n| SnapshotId::new(1_795_292_100 + i64::from(n), n);
        let reference = |n, life| Some(Reference { id: id(n), sha256: [7; 32], life });
        Commit {
            archive: Archive::State,
            series: "vm1".into(),
            id: id(9),
            seq: 1_795_292_109,
            tier: Some("hourly".into()),
            generation: Some(id(1)),
            life: 2,
            parent: reference(8, None),
            prev: reference(8, Some(2)),
            bundle: reference(7, Some(90)),
            suspicious: None,
            accept: vec![id(5), id(6)],
            objects: vec![
                Object { name: "000000.tar.zst.age".into(), size: 5, sha256: [1; 32] },
                Object { name: MANIFEST.into(), size: 6, sha256: [2; 32] },
            ],
        }
    }

    #[test]
    fn what_is_rendered_parses_back() {
        let commit = example();
        let text = commit.render();
        assert_eq!(Commit::parse(&text).unwrap(), commit);
        assert_eq!(Commit::parse(&text.replace("# life 2\n", "# life 2\n# color blue\n#\n")).unwrap(), commit);
    }

    #[test]
    fn malformed_commits_are_refused() {
        let text = example().render();
        for (from, to) in [
            ("commit 1", "commit 2"),
            ("# seq 1795292109\n", ""),
            ("# seq 1795292109\n", "# seq 1\n# seq 1\n"),
            ("000000.tar.zst.age\n# size 6", "000001.tar.zst.age\n# size 6"),
            ("# archive state", "# archive other"),
            ("  manifest", " manifest"),
            ("# series vm1", "# series ../vm1"),
            ("# seq 1", "# seq +1"),
        ] {
            let bad = text.replacen(from, to, 1);
            assert_ne!(bad, text, "{from}");
            assert!(Commit::parse(&bad).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn a_moved_commit_is_refused() {
        let commit = example();
        let place = Place {
            archive: Archive::State,
            tier: Some("hourly".into()),
            series: "vm1".into(),
            id: commit.id.clone(),
            parent: commit.parent.as_ref().map(|p| p.id.clone()),
        };
        commit.check_place(&place).unwrap();
        commit.check_place(&Place { tier: Some(PINNED.into()), ..place.clone() }).unwrap();
        for moved in [
            Place { tier: Some("daily".into()), ..place.clone() },
            Place { series: "vm2".into(), ..place.clone() },
            Place { id: SnapshotId::new(0, 0), ..place.clone() },
            Place { parent: None, ..place.clone() },
            Place { archive: Archive::Secrets, tier: None, ..place.clone() },
        ] {
            assert!(commit.check_place(&moved).is_err(), "{moved:?}");
        }
    }
}
