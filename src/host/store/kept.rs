//! Credentials of stores in the OS keyring, for whoever does not want them in a file.
//!
//! They are asked for only where neither the environment nor a cloud's own files give one, and then stand for the variables
//! whose names they have. A machine without a keyring, as under cron, goes on without.

use secrecy::{ExposeSecret as _, SecretString};

use super::location::{Bucket, Provider};
use super::{aws, azure, google, locate};
use crate::error::{Error, Result};
use crate::host::keyring;
use crate::host::store::Location;
use crate::host::world::World;

/// Where the credential of a store comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this place.
    Found(&'static str),
    /// From the keyring, under these names.
    Keyring(Vec<&'static str>),
    /// From nowhere here; the machine may have a role. Why the keyring gave none.
    Nowhere(String),
}

/// The names under which a provider's credentials can be kept.
fn names(provider: Provider) -> &'static [&'static str] {
    match provider {
        Provider::S3 => &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
        Provider::Gcs => &["GOOGLE_SERVICE_ACCOUNT_KEY"],
        Provider::Azure => &["AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"],
    }
}

/// What an entry is called: the same bucket of another server is another one.
fn user(bucket: &Bucket, name: &str) -> String {
    let place: Vec<&str> = [&bucket.account, &bucket.endpoint].into_iter().flatten().map(String::as_str).collect();
    let place = if place.is_empty() { String::new() } else { format!(" at {}", place.join(" ")) };
    format!("{}://{}{place}/{name}", bucket.provider.scheme(), bucket.name)
}

/// Where the credential of a bucket comes from, and the environment with what the keyring has.
pub(super) fn find(world: &World, bucket: &Bucket) -> (Source, Option<World>) {
    let found = match bucket.provider {
        Provider::S3 => aws::source(world, bucket),
        Provider::Gcs => google::source(world),
        Provider::Azure => azure::source(world),
    };
    if let Some(found) = found {
        return (Source::Found(found), None);
    }
    let mut with = world.clone();
    let mut kept = Vec::new();
    for name in names(bucket.provider) {
        match keyring::load_credential(&user(bucket, name), world.terminal) {
            Ok(None) => {}
            Ok(Some(value)) => {
                with.env.insert((*name).into(), value.expose_secret().into());
                kept.push(*name);
            }
            Err(e) => {
                let why: Vec<String> = std::iter::once(e.to_string()).chain(e.causes()).collect();
                return (Source::Nowhere(why.join(": ")), None);
            }
        }
    }
    if kept.is_empty() {
        return (Source::Nowhere("the OS keyring has none for this store".to_owned()), None);
    }
    (Source::Keyring(kept), Some(with))
}

/// Adds to an error about a missing credential that the keyring was asked, and why it gave none.
pub(super) fn explain(error: Error, source: Option<&Source>) -> Error {
    match (source, error.advice().map(str::to_owned)) {
        (Some(Source::Nowhere(why)), Some(hint)) => {
            error.hint(format!("{hint}; or keep one with `lifeboat keys set-credential` ({why})"))
        }
        _ => error,
    }
}

/// Keeps a part of a store's credential in the keyring, or with no value removes it. Proves that it is there.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) where the store or the name has none; else when the keyring cannot be used.
pub fn keep(world: &World, url: &str, name: &str, value: Option<&SecretString>) -> Result<()> {
    let Location::Bucket(bucket) = locate(world, url)? else {
        return Err(Error::usage("a directory has no credential"));
    };
    let names = names(bucket.provider);
    if !names.contains(&name) {
        // What was typed may be the value itself.
        return Err(Error::usage("this kind of store has no such part of a credential")
            .hint(format!("it is one of {}", names.join(", "))));
    }
    let user = user(&bucket, name);
    keyring::store_credential(&user, value, world.terminal)?;
    let there = keyring::load_credential(&user, world.terminal)?;
    let same = match (value, &there) {
        (Some(value), Some(there)) => value.expose_secret() == there.expose_secret(),
        (None, None) => true,
        _ => false,
    };
    if same { Ok(()) } else { Err(Error::failed("the OS keyring did not keep what it was given")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn bucket(url: &str) -> Bucket {
        match Location::parse(url, std::path::Path::new("/")).unwrap() {
            Location::Bucket(bucket) => bucket,
            Location::Local(_) => unreachable!(),
        }
    }

    #[test]
    fn entries_are_of_a_bucket_on_its_server() {
        let of = |url| user(&bucket(url), "NAME");
        assert_eq!(of("s3://b/p?region=x"), "s3://b/NAME");
        assert_eq!(of("s3://b/q"), of("s3://b/p"));
        assert_eq!(of("s3://b?endpoint=http://nas:9000"), "s3://b at http://nas:9000/NAME");
        assert_eq!(of("az://c/p?account=acme"), "az://c at acme/NAME");
        assert_ne!(of("az://c?account=one"), of("az://c?account=two"));
    }
}
