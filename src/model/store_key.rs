//! Names of objects on the store, as specified in section 2 of `FORMAT.md`.

use std::fmt;

/// Which of a snapshot's two archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Archive {
    /// Everything but secrets.
    State,
    /// The secrets bundle.
    Secrets,
}

impl Archive {
    /// The word for it in keys, commits and manifests.
    pub fn word(self) -> &'static str {
        match self {
            Archive::State => "state",
            Archive::Secrets => "secrets",
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Archive::State => "state archive",
            Archive::Secrets => "secrets bundle",
        }
    }
}

/// The name of the manifest's object within its snapshot.
pub const MANIFEST: &str = "manifest.jsonl.zst.age";
/// The name of the commit's object within its snapshot.
pub const COMMIT: &str = "commit";
/// The name of the signature's object within its snapshot.
pub const SIGNATURE: &str = "commit.minisig";
/// The name of the object that says of a pinned copy that it was asked for, and is not only what another one leans on.
pub const PIN: &str = "pin";
/// The tier word below which pinned chains stand.
pub const PINNED: &str = "pinned";
/// The top-level prefix of pinned secrets bundles.
pub const SECRETS_PINNED: &str = "secrets-pinned";

/// The name of volume `n` within its snapshot.
pub fn volume_name(n: usize) -> String {
    format!("{n:06}.tar.zst.age")
}

/// Whether `name` is what [`volume_name`] makes.
pub fn is_volume_name(name: &str) -> bool {
    name.strip_suffix(".tar.zst.age").is_some_and(|n| n.len() == 6 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether an object of an archive may be called so.
pub fn is_object_name(name: &str) -> bool {
    is_volume_name(name) || matches!(name, MANIFEST | COMMIT | SIGNATURE)
}

/// The key of verification key number `n` of a series, from 1 on. Its signature has `.minisig` behind that.
pub fn public_key(series: &str, n: u32) -> String {
    format!("keys/{series}/{n:06}.pub")
}

/// Whether `name` is that of a verification key or of its signature in the directory of a series: `000001.pub`.
pub fn is_public_key_name(name: &str) -> bool {
    let stem = name.strip_suffix(".minisig").unwrap_or(name).strip_suffix(".pub");
    stem.is_some_and(|n| n.len() == 6 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The number of a verification key of a series, if `key` is what [`public_key`] makes.
pub fn public_key_number(series: &str, key: &str) -> Option<u32> {
    let name = key.strip_prefix("keys/")?.strip_prefix(series)?.strip_prefix('/')?.strip_suffix(".pub")?;
    let digits = name.len() == 6 && name.bytes().all(|b| b.is_ascii_digit());
    name.parse().ok().filter(|n| digits && *n > 0)
}

/// Checks a series (or tier) name: `[a-z0-9][a-z0-9._-]{0,63}`.
pub fn is_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(ok)
        && name.bytes().all(|b| ok(b) || matches!(b, b'.' | b'_' | b'-'))
}

/// How an id shows the clock.
const CLOCK: &str = "%Y%m%dT%H%M%SZ";

/// The id of a snapshot: the writer's clock and eight random hex digits. It orders nothing.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// The id of a snapshot made at `unix_seconds`, told from its neighbours by `random`.
    pub fn new(unix_seconds: i64, random: u32) -> Self {
        let time = jiff::Timestamp::from_second(unix_seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        SnapshotId(format!("{}-{random:08x}", time.strftime(CLOCK)))
    }

    /// Parses `20261121T201500Z-3f9c02de`.
    pub fn parse(text: &str) -> Option<Self> {
        let b = text.as_bytes();
        let digits = |r: std::ops::Range<usize>| b[r].iter().all(u8::is_ascii_digit);
        let hex = |c: &u8| c.is_ascii_digit() || (b'a'..=b'f').contains(c);
        let shape = b.len() == 25
            && digits(0..8)
            && b[8] == b'T'
            && digits(9..15)
            && &b[15..17] == b"Z-"
            && b[17..].iter().all(hex);
        let id = shape.then(|| SnapshotId(text.to_owned()))?;
        // A leap second would be taken for the one before: there is one id for a second.
        let same = id.time()?.strftime(CLOCK).to_string() == text[..16];
        same.then_some(id)
    }

    /// The clock of the writer when the snapshot was begun.
    pub fn unix_seconds(&self) -> i64 {
        self.time().map_or(0, |t| t.as_second())
    }

    fn time(&self) -> Option<jiff::Timestamp> {
        let stamp = jiff::civil::DateTime::strptime(CLOCK, &self.0[..16]).ok()?;
        stamp.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of one archive on the store, and all that its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// State archive or secrets bundle.
    pub archive: Archive,
    /// The tier, or `pinned`; `None` for secrets bundles that are not pinned.
    pub tier: Option<String>,
    /// The series.
    pub series: String,
    /// The snapshot.
    pub id: SnapshotId,
    /// The parent of an incremental.
    pub parent: Option<SnapshotId>,
}

impl Place {
    /// Where a full state archive of `tier` stands.
    pub fn state(tier: &str, series: &str, id: &SnapshotId) -> Self {
        let tier = Some(tier.to_owned());
        Place { archive: Archive::State, tier, series: series.to_owned(), id: id.clone(), parent: None }
    }

    /// Where a secrets bundle stands.
    pub fn secrets(series: &str, id: &SnapshotId) -> Self {
        Place { archive: Archive::Secrets, tier: None, series: series.to_owned(), id: id.clone(), parent: None }
    }

    /// Whether it is a pinned copy.
    pub fn is_pinned(&self) -> bool {
        self.tier.as_deref() == Some(PINNED)
    }

    /// The key prefix of the directory, without a slash at the end.
    pub fn directory(&self) -> String {
        let Place { series, id, .. } = self;
        match (&self.archive, &self.tier, &self.parent) {
            (Archive::Secrets, None, _) => format!("secrets/{series}/{id}"),
            (Archive::Secrets, Some(_), _) => format!("{SECRETS_PINNED}/{series}/{id}"),
            (Archive::State, tier, None) => format!("state/{}/{series}/{id}", tier.as_deref().unwrap_or(PINNED)),
            (Archive::State, tier, Some(parent)) => {
                format!("state/{}/{series}/{id}.on.{parent}", tier.as_deref().unwrap_or(PINNED))
            }
        }
    }

    /// The key of one of its objects.
    pub fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.directory())
    }

    /// Splits an object key into its directory and the object's name; `None` for whatever is not ours.
    pub fn parse(key: &str) -> Option<(Place, &str)> {
        let parts: Vec<&str> = key.split('/').collect();
        let (archive, tier, series, dir, name) = match parts[..] {
            ["state", tier, series, dir, name] => (Archive::State, Some(tier), series, dir, name),
            ["secrets", series, dir, name] => (Archive::Secrets, None, series, dir, name),
            [SECRETS_PINNED, series, dir, name] => (Archive::Secrets, Some(PINNED), series, dir, name),
            _ => return None,
        };
        let pin = name == PIN && archive == Archive::State && tier == Some(PINNED);
        if !is_object_name(name) && !pin || !is_name(series) || tier.is_some_and(|t| !is_name(t)) {
            return None;
        }
        let (id, parent) = match dir.split_once(".on.") {
            Some((id, parent)) if archive == Archive::State => (id, Some(SnapshotId::parse(parent)?)),
            Some(_) => return None,
            None => (dir, None),
        };
        let id = SnapshotId::parse(id)?;
        Some((Place { archive, tier: tier.map(str::to_owned), series: series.to_owned(), id, parent }, name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strict() {
        let id = SnapshotId::new(1_795_292_100, 0x3f9c_02de);
        assert_eq!(id.as_str(), "20261121T201500Z-3f9c02de");
        assert_eq!(SnapshotId::parse(id.as_str()).unwrap().unix_seconds(), 1_795_292_100);
        for bad in [
            "20261121T201500Z-3F9C02DE",
            "20261321T201500Z-3f9c02de",
            "20261121T201560Z-3f9c02de",
            "20261121T201500Z-3f9c02d",
            "",
            "é20261121T201500Z-3f9c02",
        ] {
            assert!(SnapshotId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn names_of_verification_keys() {
        for name in ["000001.pub", "000012.pub.minisig"] {
            assert!(is_public_key_name(name), "{name}");
        }
        for name in ["1.pub", "000001", "00000a.pub", "000001.pub.minisig.minisig", ".pub", "éééa.pub"] {
            assert!(!is_public_key_name(name), "{name}");
        }
    }

    #[test]
    fn keys_parse_back() {
        let id = SnapshotId::new(0, 1);
        let full = Place::state("monthly", "vm1", &id);
        let incremental = Place { parent: Some(SnapshotId::new(5, 2)), ..Place::state("daily", "vm1", &id) };
        let secrets = Place::secrets("vm1", &id);
        let pinned = Place { tier: Some(PINNED.into()), ..secrets.clone() };
        for place in [full, incremental, secrets, pinned] {
            assert_eq!(Place::parse(&place.object(COMMIT)), Some((place.clone(), COMMIT)));
            assert_eq!(Place::parse(&place.object("000000.tar.zst.age")).unwrap().0, place);
            assert_eq!(Place::parse(&place.object("commit#1")), None);
        }
        assert_eq!(Place::parse("state/monthly/vm1/20261121T201500Z-3f9c02de"), None);
        // Only a pinned chain has a mark.
        assert!(Place::parse("state/pinned/vm1/20261121T201500Z-3f9c02de/pin").is_some());
        assert_eq!(Place::parse("state/monthly/vm1/20261121T201500Z-3f9c02de/pin"), None);
        assert_eq!(Place::parse("secrets-pinned/vm1/20261121T201500Z-3f9c02de/pin"), None);
        assert_eq!(Place::parse("state/monthly/VM1/20261121T201500Z-3f9c02de/commit"), None);
    }
}
