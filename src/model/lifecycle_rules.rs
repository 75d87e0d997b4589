//! The rules that are in force on a bucket, as each cloud's own tool prints them, and whether they are what the tiers
//! need: none missing, none too short, none that removes what has no end.

use serde_json::Value;

use super::lifecycle::{Bucket, Cloud, Rule};
use crate::error::{Error, Result};

/// What has no end, below the store's prefix.
const ENDLESS: [&str; 5] = ["state/pinned/", "secrets-pinned/", "keys/", "RECOVERY.md", "recover.sh"];

/// A rule that removes objects by their age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What keys begin with, the store's prefix included.
    pub prefix: String,
    /// Days after which an object goes.
    pub days: u64,
    /// Whether it is for some of these objects only, by size or by another condition.
    pub some: bool,
}

/// How a prefix fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its rule is as long as it has to be, and no longer.
    Right,
    /// It goes later than it could, after so many days.
    Long(u64),
    /// No rule removes it.
    Missing,
    /// A rule removes it too early, after so many days.
    Short(u64),
    /// A rule removes what is to stay, after so many days.
    Endless(u64),
}

/// A prefix, how it fares, and the days that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Below the store's prefix.
    pub prefix: String,
    /// How it fares.
    pub fate: Fate,
    /// Days that its objects have to live; `None` for what has no end.
    pub wanted: Option<u64>,
}

/// Reads what the cloud's own tool prints: `aws s3api get-bucket-lifecycle-configuration`, `gcloud storage buckets describe
/// --format=json` or `gsutil lifecycle get`, `az storage account management-policy show`. Rules that are not enabled, and
/// those that remove only old versions, delete markers or uploads, are left out.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) when it is none of that.
pub fn read(bucket: &Bucket, text: &str) -> Result<Vec<InForce>> {
    let wrong = |what: &str| {
        let tool = match bucket.cloud {
            Cloud::S3 => "aws s3api get-bucket-lifecycle-configuration --bucket NAME",
            Cloud::Gcs => "gcloud storage buckets describe gs://NAME --format=json",
            Cloud::Azure => "az storage account management-policy show --account-name ACCOUNT --resource-group GROUP",
        };
        Error::usage(format!("these are no rules of {}: {what}", bucket.cloud.word()))
            .hint(format!("they are what this prints: {tool}"))
    };
    let json: Value = serde_json::from_str(text).map_err(|_| wrong("it is not JSON"))?;
    let places: &[&str] = match bucket.cloud {
        Cloud::S3 => &["/Rules"],
        Cloud::Gcs => &["/rule", "/lifecycle/rule", "/lifecycle_config/rule"],
        Cloud::Azure => &["/rules", "/policy/rules"],
    };
    let list = places.iter().find_map(|place| json.pointer(place)).and_then(Value::as_array);
    let Some(list) = list else {
        // A bucket without any says nothing about them.
        let none = bucket.cloud == Cloud::Gcs && json.get("name").is_some();
        return if none { Ok(Vec::new()) } else { Err(wrong("it has no list of rules")) };
    };
    Ok(list
        .iter()
        .flat_map(|rule| match bucket.cloud {
            Cloud::S3 => s3(rule),
            Cloud::Gcs => gcs(rule),
            Cloud::Azure => azure(bucket, rule),
        })
        .collect())
}

fn s3(rule: &Value) -> Vec<InForce> {
    let Some(expiration) = rule.get("Expiration").filter(|_| rule["Status"] == "Enabled") else { return Vec::new() };
    // A day in the calendar is one that comes: whatever is there goes then.
    let dated = expiration.get("Date").map(|_| 0);
    let Some(days) = expiration["Days"].as_u64().or(dated) else { return Vec::new() };
    let filter = &rule["Filter"];
    let both = &filter["And"];
    let prefix = [&filter["Prefix"], &both["Prefix"], &rule["Prefix"]].into_iter().find_map(Value::as_str);
    // Objects of lifeboat have no tags.
    if filter.get("Tag").is_some() || both.get("Tags").is_some_and(|tags| tags.as_array().is_none_or(|t| !t.is_empty()))
    {
        return Vec::new();
    }
    let sized = |of: &Value| of.get("ObjectSizeGreaterThan").is_some() || of.get("ObjectSizeLessThan").is_some();
    let some = sized(filter) || sized(both) || dated.is_some();
    vec![InForce { prefix: prefix.unwrap_or_default().to_owned(), days, some }]
}

fn gcs(rule: &Value) -> Vec<InForce> {
    let condition = &rule["condition"];
    let live = condition.get("isLive").is_none_or(|live| live == &Value::Bool(true));
    let noncurrent = ["daysSinceNoncurrentTime", "numNewerVersions", "noncurrentTimeBefore"];
    let old = noncurrent.iter().any(|name| condition.get(*name).is_some_and(|v| !v.is_null()));
    if rule["action"]["type"] != "Delete" || !live || old {
        return Vec::new();
    }
    let conditions = condition.as_object().into_iter().flatten();
    let known = ["age", "isLive", "matchesPrefix"];
    let some = conditions.filter(|(_, v)| !v.is_null()).any(|(name, _)| !known.contains(&name.as_str()));
    let days = condition["age"].as_u64().unwrap_or(0);
    let prefixes = condition["matchesPrefix"].as_array().cloned().unwrap_or_else(|| vec![Value::from("")]);
    let prefixes = prefixes.iter().filter_map(Value::as_str);
    prefixes.map(|prefix| InForce { prefix: prefix.to_owned(), days, some }).collect()
}

/// Prefixes begin with the container there.
fn azure(bucket: &Bucket, rule: &Value) -> Vec<InForce> {
    let definition = &rule["definition"];
    let delete = &definition["actions"]["baseBlob"]["delete"];
    if rule["enabled"] == Value::Bool(false) || delete.is_null() {
        return Vec::new();
    }
    let ages =
        ["daysAfterCreationGreaterThan", "daysAfterModificationGreaterThan", "daysAfterLastAccessTimeGreaterThan"];
    let days = ages.iter().filter_map(|age| delete[*age].as_f64()).fold(f64::INFINITY, f64::min);
    if !days.is_finite() || days < 0.0 {
        return Vec::new();
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole days, written as 37.0")]
    let days = days as u64;
    let filters = &definition["filters"];
    // All that lifeboat puts are block blobs.
    let kinds = filters["blobTypes"].as_array();
    if kinds.is_some_and(|kinds| !kinds.is_empty() && !kinds.iter().any(|kind| kind == "blockBlob")) {
        return Vec::new();
    }
    let some = filters.get("blobIndexMatch").is_some_and(|f| !f.is_null());
    let prefixes = filters["prefixMatch"].as_array().filter(|list| !list.is_empty()).cloned();
    let prefixes = prefixes.unwrap_or_else(|| vec![Value::from("")]);
    let container = format!("{}/", bucket.name);
    let ours = |prefix: &str| match prefix.strip_prefix(container.as_str()) {
        Some(rest) => Some(rest.to_owned()),
        None => container.starts_with(prefix).then(String::new),
    };
    let prefixes = prefixes.iter().filter_map(Value::as_str).filter_map(ours);
    prefixes.map(|prefix| InForce { prefix, days, some }).collect()
}

/// Compares what is in force with what the tiers need.
pub fn compare(bucket: &Bucket, wanted: &[Rule], in_force: &[InForce]) -> Vec<Finding> {
    let mut out = Vec::new();
    for rule in wanted {
        let prefix = format!("{}{}", bucket.prefix, rule.prefix);
        let shortest = touching(in_force, &prefix).map(|r| r.days).min();
        let whole = in_force.iter().filter(|r| !r.some && prefix.starts_with(&r.prefix)).map(|r| r.days).min();
        let fate = match (shortest, whole) {
            (Some(days), _) if days < rule.days => Fate::Short(days),
            (_, None) => Fate::Missing,
            (_, Some(days)) if days > rule.days => Fate::Long(days),
            _ => Fate::Right,
        };
        out.push(Finding { prefix: rule.prefix.clone(), fate, wanted: Some(rule.days) });
    }
    for endless in ENDLESS {
        let prefix = format!("{}{endless}", bucket.prefix);
        if let Some(days) = touching(in_force, &prefix).map(|r| r.days).min() {
            out.push(Finding { prefix: endless.to_owned(), fate: Fate::Endless(days), wanted: None });
        }
    }
    out
}

/// The rules that remove anything of what begins with `prefix`.
fn touching<'a>(in_force: &'a [InForce], prefix: &str) -> impl Iterator<Item = &'a InForce> {
    in_force.iter().filter(move |r| prefix.starts_with(&r.prefix) || r.prefix.starts_with(prefix))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::lifecycle::document;

    fn bucket(url: &str) -> Bucket {
        Bucket::of(url).unwrap()
    }

    fn wanted() -> Vec<Rule> {
        let rule = |prefix: &str, days| Rule { prefix: prefix.to_owned(), days };
        vec![rule("state/monthly/", 365), rule("state/hourly/", 2), rule("secrets/", 90)]
    }

    fn fates(url: &str, text: &str) -> Vec<Fate> {
        let bucket = bucket(url);
        compare(&bucket, &wanted(), &read(&bucket, text).unwrap()).iter().map(|f| f.fate).collect()
    }

    #[test]
    fn what_is_printed_is_right() {
        for url in ["s3://b/p", "gs://b", "az://c/p"] {
            let text = document(&bucket(url), &wanted()).unwrap();
            assert_eq!(fates(url, &text), [Fate::Right; 3], "{url}");
        }
        // As the tools wrap them.
        for (url, before, after) in
            [("az://c/p", "{\"policy\":", "}"), ("gs://b", "{\"name\":\"b\",\"lifecycle_config\":", "}")]
        {
            let text = document(&bucket(url), &wanted()).unwrap();
            assert_eq!(fates(url, &format!("{before}{text}{after}")), [Fate::Right; 3], "{url}");
        }
    }

    #[test]
    fn rules_that_are_missing_too_short_too_long_or_for_everything() {
        let url = "s3://b/p";
        let text = document(&bucket(url), &wanted()).unwrap();
        assert_eq!(fates(url, &text.replace("\"Days\": 365", "\"Days\": 364"))[0], Fate::Short(364));
        assert_eq!(fates(url, &text.replace("\"Days\": 365", "\"Days\": 400"))[0], Fate::Long(400));
        assert_eq!(fates(url, &text.replacen("\"Enabled\"", "\"Disabled\"", 1))[0], Fate::Missing);
        assert_eq!(fates(url, "{\"Rules\":[]}"), [Fate::Missing; 3]);
        // Another store's rules in the same bucket say nothing about this one.
        assert_eq!(fates("s3://b/q", &text), [Fate::Missing; 3]);
        let all = fates(url, r#"{"Rules":[{"Status":"Enabled","Prefix":"","Expiration":{"Days":30}}]}"#);
        assert_eq!(all[..3], [Fate::Short(30), Fate::Long(30), Fate::Short(30)]);
        assert_eq!(all[3..], [Fate::Endless(30); 5]);
        // One of a single series, and one of large objects only.
        let one =
            r#"{"Rules":[{"Status":"Enabled","Filter":{"Prefix":"p/state/monthly/vm1/"},"Expiration":{"Days":1}}]}"#;
        assert_eq!(fates(url, one)[0], Fate::Short(1));
        let large = r#"{"Rules":[{"Status":"Enabled","Expiration":{"Days":500},
            "Filter":{"And":{"Prefix":"p/","ObjectSizeGreaterThan":5}}}]}"#;
        assert_eq!(fates(url, large)[0], Fate::Missing);
        let tagged =
            r#"{"Rules":[{"Status":"Enabled","Expiration":{"Days":5},"Filter":{"Tag":{"Key":"a","Value":"b"}}}]}"#;
        assert_eq!(fates(url, tagged), [Fate::Missing; 3]);
        assert_eq!(fates("gs://b", r#"{"name":"b"}"#), [Fate::Missing; 3]);
        let azure = r#"{"rules":[{"enabled":true,"definition":{"actions":{"baseBlob":{"delete":
            {"daysAfterModificationGreaterThan":9.0}}},"filters":{"blobTypes":["blockBlob"]}}}]}"#;
        assert_eq!(fates("az://c/p", azure)[0], Fate::Short(9));
        assert_eq!(fates("az://c/p", &azure.replace("blockBlob", "appendBlob")), [Fate::Missing; 3]);
    }

    #[test]
    fn what_is_something_else_is_refused() {
        for (url, text) in [("s3://b", "none"), ("s3://b", "{}"), ("gs://b", "[]"), ("az://c", "{\"Rules\":[]}")] {
            let error = read(&bucket(url), text).unwrap_err();
            assert!(error.kind() == crate::Kind::Usage && error.advice().is_some(), "{error}");
        }
    }
}
