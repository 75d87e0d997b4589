//! A bucket's own rules for the configured tiers, as each cloud's own tool takes them: age rules that are scoped to
//! prefixes, one for each tier.
//!
//! They hold what a commit's `life` says: no rule is shorter, or it would break chains. Pinned chains, keys and the
//! documents on the store have no rule.

use serde::Serialize;

use super::calendar::rank;
use super::config::{Config, PERIODS};
use super::path::printable;
use super::tiers::life_days;
use crate::error::{Error, Result};

/// Days for which a version that was overwritten or deleted can still be brought back, in a bucket that keeps versions.
const NONCURRENT_DAYS: u64 = 7;
/// Days after which an upload in parts that was never finished is given up. lifeboat makes none.
const UPLOAD_DAYS: u64 = 7;
/// The longest name of a rule on S3, in bytes.
const RULE_NAME_BYTES_MAX: usize = 255;

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Cloud {
    /// The word for it on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Cloud::S3 => "s3",
            Cloud::Gcs => "gcs",
            Cloud::Azure => "azure",
        }
    }
}

/// A bucket or container, and where in it the store begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Whose.
    pub cloud: Cloud,
    /// Its name.
    pub name: String,
    /// What all keys begin with: empty, or ending in a slash.
    pub prefix: String,
}

impl Bucket {
    /// The bucket that a store's URL means.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) for a store that is none, and for a prefix that could be written in two ways.
    pub fn of(url: &str) -> Result<Bucket> {
        let shown = printable(url.as_bytes());
        let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
        let cloud = match scheme {
            "s3" => Cloud::S3,
            "gs" => Cloud::Gcs,
            "az" => Cloud::Azure,
            "file" => {
                return Err(Error::usage(format!("the store {shown} is a directory, which has no lifecycle"))
                    .hint("there `lifeboat prune` removes what is past its life, by itself after each backup"));
            }
            _ => return Err(Error::usage(format!("no lifecycle is known for the store {shown}"))),
        };
        // How the bucket is reached is nothing to its rules.
        let rest = rest.split('?').next().unwrap_or_default();
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let parts_are_plain = prefix.is_empty() || prefix.split('/').all(|part| !part.is_empty() && plain(part));
        if name.is_empty() || !plain(name) || !parts_are_plain {
            return Err(Error::usage(format!("no rule can be written for the store {shown}"))
                .hint("bucket and prefix may have letters, digits, `.`, `_`, `-` and single slashes"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Bucket { cloud, name: name.to_owned(), prefix })
    }
}

/// What goes after how many days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What keys begin with, below the store's prefix; ends in a slash.
    pub prefix: String,
    /// Days after which an object goes.
    pub days: u64,
}

/// The rules for a configuration: its tiers, tiers between them that it does not have (any more), secrets, drills.
pub fn rules(config: &Config) -> Vec<Rule> {
    let tiers = &config.tiers;
    let longest = life_days(tiers, 0);
    let mut out = Vec::new();
    for (name, _) in PERIODS {
        let days = match tiers.iter().position(|t| t.name == name) {
            Some(index) => life_days(tiers, index),
            // What was once written to a tier that was taken away may be needed as long as anything that is left. What
            // was coarser than all that is left was promised to live longer, and nobody knows how long.
            None if rank(name) > rank(&tiers[0].name) => longest,
            None => continue,
        };
        out.push(Rule { prefix: format!("state/{name}/"), days });
    }
    out.push(Rule { prefix: "secrets/".to_owned(), days: u64::from(config.secrets.keep_hours.div_ceil(24)) });
    // A receipt outlives what it is about.
    out.push(Rule { prefix: "drills/".to_owned(), days: longest });
    out
}

/// The rules as the cloud's own tool takes them, in JSON.
pub fn document(bucket: &Bucket, rules: &[Rule]) -> serde_json::Result<String> {
    match bucket.cloud {
        Cloud::S3 => serde_json::to_string_pretty(&S3 { rules: rules.iter().flat_map(|r| s3(bucket, r)).collect() }),
        Cloud::Gcs => serde_json::to_string_pretty(&Gcs { rule: rules.iter().flat_map(|r| gcs(bucket, r)).collect() }),
        Cloud::Azure => {
            serde_json::to_string_pretty(&Azure { rules: rules.iter().map(|r| azure(bucket, r)).collect() })
        }
    }
}

/// The command that puts a file with the rules in force.
pub fn command(bucket: &Bucket, file: &str) -> String {
    let name = &bucket.name;
    match bucket.cloud {
        Cloud::S3 => format!(
            "aws s3api put-bucket-lifecycle-configuration --bucket {name} --lifecycle-configuration file://{file}"
        ),
        Cloud::Gcs => format!("gcloud storage buckets update gs://{name} --lifecycle-file={file}"),
        Cloud::Azure => format!(
            "az storage account management-policy create --account-name ACCOUNT --resource-group GROUP --policy @{file}"
        ),
    }
}

/// What `aws s3api put-bucket-lifecycle-configuration` takes.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct S3 {
    rules: Vec<S3Rule>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct S3Rule {
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    status: &'static str,
    filter: S3Filter,
    expiration: S3Expiration,
    #[serde(skip_serializing_if = "Option::is_none")]
    noncurrent_version_expiration: Option<S3Noncurrent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort_incomplete_multipart_upload: Option<S3Abort>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct S3Filter {
    prefix: String,
}

#[derive(Serialize)]
enum S3Expiration {
    Days(u64),
    ExpiredObjectDeleteMarker(bool),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct S3Noncurrent {
    noncurrent_days: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct S3Abort {
    days_after_initiation: u64,
}

/// Two rules: S3 takes no age and no delete markers in one.
fn s3(bucket: &Bucket, rule: &Rule) -> [S3Rule; 2] {
    let prefix = format!("{}{}", bucket.prefix, rule.prefix);
    let id = |what: &str| Some(format!("lifeboat {what}{prefix}")).filter(|id| id.len() <= RULE_NAME_BYTES_MAX);
    let filter = || S3Filter { prefix: prefix.clone() };
    [
        S3Rule {
            id: id(""),
            status: "Enabled",
            filter: filter(),
            expiration: S3Expiration::Days(rule.days),
            noncurrent_version_expiration: Some(S3Noncurrent { noncurrent_days: NONCURRENT_DAYS }),
            abort_incomplete_multipart_upload: Some(S3Abort { days_after_initiation: UPLOAD_DAYS }),
        },
        S3Rule {
            id: id("markers of "),
            status: "Enabled",
            filter: filter(),
            expiration: S3Expiration::ExpiredObjectDeleteMarker(true),
            noncurrent_version_expiration: None,
            abort_incomplete_multipart_upload: None,
        },
    ]
}

/// What `gcloud storage buckets update --lifecycle-file` takes.
#[derive(Serialize)]
struct Gcs {
    rule: Vec<GcsRule>,
}

#[derive(Serialize)]
struct GcsRule {
    action: GcsAction,
    condition: GcsCondition,
}

#[derive(Serialize)]
struct GcsAction {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GcsCondition {
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    days_since_noncurrent_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_live: Option<bool>,
    matches_prefix: [String; 1],
}

/// Age counts from creation for versions that are no longer current, too, so it is asked of live ones only.
fn gcs(bucket: &Bucket, rule: &Rule) -> [GcsRule; 3] {
    let prefix = || [format!("{}{}", bucket.prefix, rule.prefix)];
    let make = |kind, age, days_since_noncurrent_time, is_live| GcsRule {
        action: GcsAction { kind },
        condition: GcsCondition { age, days_since_noncurrent_time, is_live, matches_prefix: prefix() },
    };
    [
        make("Delete", Some(rule.days), None, Some(true)),
        make("Delete", None, Some(NONCURRENT_DAYS), None),
        make("AbortIncompleteMultipartUpload", Some(UPLOAD_DAYS), None, None),
    ]
}

/// What `az storage account management-policy create --policy` takes.
#[derive(Serialize)]
struct Azure {
    rules: Vec<AzureRule>,
}

#[derive(Serialize)]
struct AzureRule {
    enabled: bool,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    definition: AzureDefinition,
}

#[derive(Serialize)]
struct AzureDefinition {
    actions: AzureActions,
    filters: AzureFilters,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AzureActions {
    base_blob: AzureDelete,
    version: AzureDelete,
}

#[derive(Serialize)]
struct AzureDelete {
    delete: AzureAge,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AzureAge {
    days_after_creation_greater_than: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AzureFilters {
    blob_types: [&'static str; 1],
    prefix_match: [String; 1],
}

/// Azure counts the age of a version from its creation, has no delete markers, and drops unfinished uploads by itself.
fn azure(bucket: &Bucket, rule: &Rule) -> AzureRule {
    let key = format!("{}/{}{}", bucket.name, bucket.prefix, rule.prefix);
    let after = |days| AzureDelete { delete: AzureAge { days_after_creation_greater_than: days } };
    AzureRule {
        enabled: true,
        name: azure_name(&key),
        kind: "Lifecycle",
        definition: AzureDefinition {
            actions: AzureActions { base_blob: after(rule.days), version: after(rule.days + NONCURRENT_DAYS) },
            filters: AzureFilters { blob_types: ["blockBlob"], prefix_match: [key] },
        },
    }
}

/// Names of rules are letters and digits there: `backups/prod/state/hourly/` is `lifeboatBackupsProdStateHourly`.
fn azure_name(key: &str) -> String {
    let mut out = "lifeboat".to_owned();
    for word in key.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut letters = word.chars();
        out.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        out.extend(letters);
    }
    out.truncate(RULE_NAME_BYTES_MAX);
    out
}
