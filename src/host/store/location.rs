//! The URL of a store: a directory, or a bucket with a prefix and how to reach it. No credential may stand in one.

use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{At as _, Error, Result};
use crate::model::path::printable;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    Local(PathBuf),
    /// A bucket somewhere else.
    Bucket(Bucket),
}

/// Whose interface a bucket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Amazon S3, and all that imitate it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage, where a bucket is called a container.
    Azure,
}

impl Provider {
    /// The scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Provider::S3 => "s3",
            Provider::Gcs => "gs",
            Provider::Azure => "az",
        }
    }

    /// What may stand after the `?` of its URLs, in the order in which it is written.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Provider::S3 => &["endpoint", "region", "style", "profile"],
            Provider::Gcs => &["endpoint"],
            Provider::Azure => &["account", "endpoint"],
        }
    }
}

/// A bucket, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Whose interface it has.
    pub provider: Provider,
    /// Its name.
    pub name: String,
    /// What all keys begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Where its server is, if not where the provider has its own. `http://` is allowed only here.
    pub endpoint: Option<String>,
    /// S3: the region.
    pub region: Option<String>,
    /// S3: whether the bucket's name goes into the host's; where it is not said, the kind of server decides.
    pub virtual_hosted: Option<bool>,
    /// S3: the profile of `~/.aws` to take credentials from.
    pub profile: Option<String>,
    /// Azure: the storage account.
    pub account: Option<String>,
}

impl Location {
    /// Reads a URL or a plain path.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage), without repeating what may be a credential.
    pub fn parse(text: &str, home: &Path) -> Result<Location> {
        let Some((scheme, _)) = text.split_once("://") else {
            let path = crate::model::config::expand_home(text, home);
            let path = if path.is_absolute() { path } else { std::path::absolute(&path).at("find", &path)? };
            return Ok(Location::Local(path));
        };
        let scheme = scheme.to_ascii_lowercase();
        let provider = match scheme.as_str() {
            "file" => {
                let parsed = Url::parse(text).ok().and_then(|u| u.to_file_path().ok());
                let path = parsed.ok_or_else(|| {
                    Error::usage(format!("`{}` is no file URL", printable(text.as_bytes()))).hint("write file:///path")
                })?;
                return Ok(Location::Local(path));
            }
            "s3" | "s3a" => Provider::S3,
            "gs" | "gcs" => Provider::Gcs,
            "az" | "azure" | "abfs" | "abfss" => Provider::Azure,
            _ => {
                return Err(Error::usage(format!(
                    "no store of kind `{}://` can be used",
                    printable(scheme.as_bytes())
                ))
                .hint("use a path, file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"));
            }
        };
        bucket(provider, text).map(Location::Bucket)
    }
}

fn bucket(provider: Provider, text: &str) -> Result<Bucket> {
    let scheme = provider.scheme();
    let shape =
        || format!("write {scheme}://NAME/PREFIX, and settings after a `?`: {}", provider.settings().join(", "));
    let parsed = Url::parse(text).map_err(|e| Error::usage(format!("this {scheme} URL is none: {e}")).hint(shape()))?;
    let host = parsed.host_str().unwrap_or_default();
    let (name, mut account) = match (provider, parsed.username(), host.split_once('.')) {
        // As Hadoop writes it: abfs://container@account.dfs.core.windows.net/prefix.
        (Provider::Azure, user, Some((account, "dfs.core.windows.net" | "blob.core.windows.net")))
            if !user.is_empty() =>
        {
            (user, Some(account.to_owned()))
        }
        (_, "", _) => (host, None),
        _ => ("", None),
    };
    if parsed.password().is_some() || name.is_empty() {
        let error = Error::usage(format!("a {scheme} URL names a bucket and holds no user or password"));
        return Err(error.hint("credentials come from the environment or the cloud's own files"));
    }
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    let prefix = parsed.path().trim_matches('/');
    if !plain(name) || name.contains('/') || parsed.port().is_some() || parsed.fragment().is_some() {
        return Err(Error::usage(format!("`{}` is no name of a bucket", printable(name.as_bytes()))).hint(shape()));
    }
    // Parsing has taken `..` away, and what came before it.
    let written = text.split('?').next().unwrap_or_default();
    let dots = written.split('/').any(|part| part == ".." || part == ".");
    if dots || !plain(prefix) || prefix.contains("//") {
        return Err(Error::usage("the prefix of a store has letters, digits, `.`, `_`, `-` and single slashes only"));
    }
    let mut out = Bucket {
        provider,
        name: name.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: None,
        region: None,
        virtual_hosted: None,
        profile: None,
        account: None,
    };
    for (setting, value) in parsed.query_pairs() {
        if !provider.settings().contains(&setting.as_ref()) {
            // What else stands in a query may be the signature of a shared access token: its value is not repeated.
            let setting: String = printable(setting.as_bytes()).chars().take(40).collect();
            return Err(Error::usage(format!("a {scheme} URL has no setting `{setting}`")).hint(shape()));
        }
        match setting.as_ref() {
            "endpoint" => out.endpoint = Some(endpoint(&value)?),
            "region" => out.region = Some(value.into_owned()),
            "profile" => out.profile = Some(value.into_owned()),
            "account" => account = Some(value.into_owned()),
            _ => {
                out.virtual_hosted = Some(match value.as_ref() {
                    "virtual" => true,
                    "path" => false,
                    _ => return Err(Error::usage("the style of a bucket's address is `path` or `virtual`")),
                });
            }
        }
    }
    let word = |text: &Option<String>| text.as_deref().is_none_or(|t| !t.is_empty() && plain(t) && !t.contains('/'));
    if !word(&out.region) || !word(&account) || out.profile.as_ref().is_some_and(|p| p.chars().any(char::is_control)) {
        return Err(
            Error::usage(format!("a setting of this {scheme} URL has a value that cannot be one")).hint(shape())
        );
    }
    out.account = account;
    Ok(out)
}

/// An endpoint as it is used: scheme, host, port and perhaps a path, nothing else.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) for anything else.
pub(super) fn endpoint(text: &str) -> Result<String> {
    let wrong = || Error::usage("an endpoint is https://HOST or http://HOST, perhaps with a port and a path");
    let parsed = Url::parse(text).map_err(|_| wrong())?;
    let bare = parsed.username().is_empty() && parsed.password().is_none();
    if !["http", "https"].contains(&parsed.scheme()) || !bare || parsed.query().is_some() || parsed.host().is_none() {
        return Err(wrong());
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

impl Bucket {
    /// The URL that means this bucket.
    pub fn url(&self) -> String {
        let mut out = format!("{}://{}", self.provider.scheme(), self.name);
        if !self.prefix.is_empty() {
            out.push('/');
            out.push_str(&self.prefix);
        }
        let style = self.virtual_hosted.map(|v| if v { "virtual" } else { "path" }.to_owned());
        let mut first = true;
        for setting in self.provider.settings() {
            let value = match *setting {
                "endpoint" => &self.endpoint,
                "region" => &self.region,
                "profile" => &self.profile,
                "account" => &self.account,
                _ => &style,
            };
            if let Some(value) = value {
                let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
                // What a person reads in an endpoint may stand in a query as it is.
                let value = value.replace("%3A", ":").replace("%2F", "/");
                out.push_str(&format!("{}{setting}={value}", if first { '?' } else { '&' }));
                first = false;
            }
        }
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Bucket> {
        match Location::parse(text, Path::new("/home/ada"))? {
            Location::Bucket(bucket) => Ok(bucket),
            Location::Local(path) => panic!("{path:?}"),
        }
    }

    #[test]
    fn directories() {
        let local = |text| Location::parse(text, Path::new("/home/ada")).unwrap();
        assert_eq!(local("~/store"), Location::Local("/home/ada/store".into()));
        assert_eq!(local("file:///mnt/a%20b"), Location::Local("/mnt/a b".into()));
        assert!(Location::parse("file://host/x", Path::new("/")).is_err());
    }

    #[test]
    fn urls_of_buckets_read_back_to_the_same() {
        for url in [
            "s3://bucket",
            "s3://my.bucket/a/b?endpoint=http://127.0.0.1:9000&region=us-east-1&style=virtual&profile=two+words",
            "gs://bucket/p?endpoint=https://gcs.example",
            "az://container/p?account=acme&endpoint=http://127.0.0.1:10000/devstoreaccount1",
        ] {
            assert_eq!(parse(url).unwrap().url(), url);
        }
        assert_eq!(parse("s3a://b/p/").unwrap().url(), "s3://b/p");
        assert_eq!(parse("abfss://c@acme.dfs.core.windows.net/p").unwrap().url(), "az://c/p?account=acme");
        assert_eq!(parse("az://c/p?account=acme").unwrap().account.as_deref(), Some("acme"));
    }

    #[test]
    fn what_may_be_a_credential_is_refused_and_not_repeated() {
        for url in [
            "s3://AKIAEXAMPLE:hush@bucket/p",
            "s3://hush@bucket/p",
            "az://c/p?sv=2022&sig=hush",
            "gs://b?endpoint=https://user:hush@host",
            "s3://b?endpoint=https://host/?x=hush",
            "s3://b/p#hush",
            "hushed://x?hush",
            "s3://b/a%20hush",
            "s3://b/a//b",
            "s3://b/../c",
            "s3://b?style=hush",
            "az://c?account=hush/hush",
        ] {
            let error = parse(url).unwrap_err();
            let said = format!("{error} {:?} {:?}", error.advice(), error.causes());
            assert_eq!(error.kind(), crate::Kind::Usage, "{url}");
            assert!(!said.replace("hushed", "").contains("hush"), "{url}: {said}");
        }
    }
}
