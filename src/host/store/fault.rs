//! What is wrong with a store, in words that help and hold no credential.

use std::time::Duration;

use super::location::{Bucket, Provider};
use super::trace::Seen;
use crate::error::{Error, Kind};

/// A store's clock may differ by so much before requests are refused, in seconds.
const CLOCK_SECONDS_MAX: i64 = 15 * 60;

/// What kind of fault it is: what a program can do about it depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The credential may not do this.
    Refused,
    /// The credential is not one, or not any more.
    Credential,
    /// There is no credential.
    NoCredential,
    /// This machine's clock is wrong.
    Clock,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is somewhere else.
    Region,
    /// There is no such object.
    Missing,
    /// The object ends before what was asked for.
    Short,
    /// There is such an object already.
    Exists,
    /// The store asks for fewer requests.
    Slow,
    /// There is no room.
    Full,
    /// The object is in an archive and must be warmed up first.
    Archived,
    /// The server's certificate is of nobody whom this machine trusts.
    Untrusted,
    /// The store was not reached, and nothing of the request has left.
    Unreached,
    /// The line broke, or the store had a bad moment: what became of the request is not known.
    Broken,
    /// Anything else.
    Other,
}

/// A fault of a store.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// What kind it is.
    pub class: Class,
    text: String,
    region: Option<String>,
    clock: Option<i64>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// What one operation met: what the transport saw, and what the store's crate made of it. Its words may repeat a
    /// signed request and are used only where the transport saw nothing wrong.
    pub(super) fn of(seen: &Seen, error: &object_store::Error) -> Fault {
        let mut text = match (&seen.failure, seen.status) {
            (Some(failure), _) => failure.text.clone(),
            (None, Some(status)) if status >= 300 => {
                let code = if seen.code.is_empty() { String::new() } else { format!(" {}", seen.code) };
                let message = if seen.message.is_empty() { String::new() } else { format!(": {}", seen.message) };
                format!("the store answered {status}{code}{message}")
            }
            _ => own_words(error),
        };
        let class = class(seen, error);
        if class == Class::NoCredential && seen.metadata {
            text = format!("no credential was found, and this machine has no role that gives one ({text})");
        }
        Fault { class, text, region: seen.region.clone(), clock: seen.clock }
    }

    /// Whether another try may go better; `fresh` for the first time that a credential or the clock is in question: it
    /// may have run out while the machine slept.
    pub(super) fn may_pass(&self, fresh: bool) -> bool {
        match self.class {
            Class::Slow | Class::Unreached | Class::Broken => true,
            Class::Credential | Class::Clock => fresh,
            _ => false,
        }
    }

    /// Whether the request may have had its effect all the same.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.class == Class::Broken
    }

    /// The error for a person: what could not be done, this as its cause, and what to do about it.
    pub(super) fn into_error(self, what: String, bucket: &Bucket, key: &str, now: i64) -> Error {
        let kind = match self.class {
            Class::NoBucket => Kind::NotThere,
            Class::Archived => Kind::Archived,
            _ => Kind::Failed,
        };
        let error = Error::new(kind, what);
        match self.hint(bucket, key, now) {
            Some(hint) => error.hint(hint),
            None => error,
        }
        .because(self)
    }

    fn hint(&self, bucket: &Bucket, key: &str, now: i64) -> Option<String> {
        let skew = self.clock.map(|clock| now - clock).filter(|s| s.abs() > CLOCK_SECONDS_MAX);
        if let (Some(skew), Class::Clock | Class::Credential | Class::Refused) = (skew, self.class) {
            let late = if skew > 0 { "ahead of" } else { "behind" };
            return Some(format!("this machine's clock is {} s {late} the store's: set it right", skew.abs()));
        }
        let name = &bucket.name;
        Some(match (self.class, bucket.provider) {
            (Class::Refused, _) => {
                "the credential may not do this: `lifeboat doctor` says what it may; deploy/ has policies".to_owned()
            }
            (Class::Credential, Provider::S3) => {
                "the access key or the session is not valid: renew it (`aws sso login`), or correct the environment or \
                ~/.aws"
                    .to_owned()
            }
            (Class::Credential, Provider::Gcs) => {
                "renew the login (`gcloud auth application-default login`) or the service account's key".to_owned()
            }
            (Class::Credential, Provider::Azure) => {
                "the key, shared access signature or login is not valid (any more): make a new one".to_owned()
            }
            (Class::NoCredential, Provider::S3) => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws and AWS_PROFILE".to_owned()
            }
            (Class::NoCredential, Provider::Gcs) => {
                "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`".to_owned()
            }
            (Class::NoCredential, Provider::Azure) => {
                "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID and its like, or run `az login`"
                    .to_owned()
            }
            (Class::Clock, _) => "set this machine's clock right".to_owned(),
            (Class::NoBucket, _) => format!("lifeboat makes no buckets: make {name}, or correct the store's URL"),
            (Class::Region, _) => match &self.region {
                Some(region) => format!("the bucket is in {region}: add `?region={region}` to the store's URL"),
                None => "add `?region=REGION` to the store's URL, with the bucket's region".to_owned(),
            },
            (Class::Slow, _) => "it asks for fewer requests: try again later".to_owned(),
            (Class::Full, _) => {
                "the store is full or over its quota: make room, then run the same command again".to_owned()
            }
            (Class::Archived, Provider::Azure) => format!(
                "warm it up, then try again: az storage blob set-tier --tier Hot --container-name {name} --name '{key}'"
            ),
            (Class::Archived, _) => format!(
                "warm it up, then try again: aws s3api restore-object --bucket {name} --key '{key}' --restore-request Days=7"
            ),
            (Class::Untrusted, _) => {
                "for a server with a certificate of your own, name its authority's: LIFEBOAT_CA_FILE=/path/ca.pem"
                    .to_owned()
            }
            (Class::Unreached, _) => "look after the network, the proxy and the endpoint in the store's URL".to_owned(),
            (Class::Broken, _) => "the line or the store failed: run the same command again".to_owned(),
            (Class::Missing | Class::Short | Class::Exists | Class::Other, _) => return None,
        })
    }
}

fn class(seen: &Seen, error: &object_store::Error) -> Class {
    use object_store::Error as E;
    if let Some(failure) = &seen.failure {
        return match (seen.metadata || seen.program, failure.sent) {
            (true, _) => Class::NoCredential,
            (false, false) if failure.text.contains("certificate") => Class::Untrusted,
            (false, false) => Class::Unreached,
            (false, true) => Class::Broken,
        };
    }
    let by_code = by_code(seen);
    if let Some(class) = by_code {
        return class;
    }
    match (seen.status, error) {
        (Some(_), _) if seen.metadata => Class::NoCredential,
        (Some(401), _) => Class::Credential,
        (Some(403), _) => Class::Refused,
        (Some(404), _) => Class::Missing,
        (Some(412), _) => Class::Exists,
        // A store that means an object that is there says so: without that word it is any conflict, and nothing is known.
        (Some(409), _) => Class::Other,
        (Some(416), _) => Class::Short,
        (Some(429), _) => Class::Slow,
        (Some(507), _) => Class::Full,
        (Some(301 | 307 | 308), _) => Class::Region,
        (Some(408 | 500..), _) => Class::Broken,
        (_, E::NotFound { .. }) => Class::Missing,
        (_, E::AlreadyExists { .. }) => Class::Exists,
        (_, E::PermissionDenied { .. } | E::NotSupported { .. } | E::NotImplemented { .. }) => Class::Refused,
        (_, E::Unauthenticated { .. }) => Class::Credential,
        (Some(200..=299), E::Generic { .. }) => match status_in_batch(error) {
            Some(403) => Class::Refused,
            Some(404) => Class::Missing,
            Some(_) => Class::Other,
            // A body that ends early is a line that broke.
            None => Class::Broken,
        },
        _ => Class::Other,
    }
}

/// Azure deletes in batches of one, whose answer is a success with another answer in it; the crate puts that into words.
fn status_in_batch(error: &object_store::Error) -> Option<u16> {
    let text = super::transport::words(error);
    text.rsplit_once("(code: ")?.1.split(')').next()?.parse().ok()
}

/// What the store's own word says, which is more than the number of the status.
fn by_code(seen: &Seen) -> Option<Class> {
    Some(match seen.code.as_str() {
        "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" => Class::NoBucket,
        "NoSuchKey" | "BlobNotFound" => Class::Missing,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "AuthenticationFailed"
        | "InvalidAuthenticationInfo"
        | "invalid_grant"
        | "invalid_client"
        | "InvalidIdentityToken" => Class::Credential,
        "RequestTimeTooSkewed" | "RequestExpired" => Class::Clock,
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "TemporaryRedirect" => Class::Region,
        "SlowDown" | "ServerBusy" | "Throttling" | "RequestLimitExceeded" | "TooManyRequests" | "OperationTimedOut" => {
            Class::Slow
        }
        "RequestTimeout" | "InternalError" | "OperationAborted" | "ConditionalRequestConflict" => Class::Broken,
        "QuotaExceeded"
        | "AccountQuotaExceeded"
        | "StorageQuotaExceeded"
        | "InsufficientAccountQuota"
        | "XMinioStorageFull"
        | "XAmzContentQuotaExceeded" => Class::Full,
        "BlobImmutableDueToPolicy" => Class::Refused,
        "InvalidObjectState" | "BlobArchived" | "BlobBeingRehydrated" | "RestoreAlreadyInProgress" => Class::Archived,
        "BlobAlreadyExists" | "PreconditionFailed" | "UnauthorizedBlobOverwrite" => Class::Exists,
        // Google names the right that is lacking: that to overwrite is wanted only for what is there.
        _ if seen.status == Some(403) && seen.message.contains("storage.objects.delete access") => Class::Exists,
        _ => return None,
    })
}

/// What the store's crate says by itself, of which nothing was sent: without what may be a credential.
fn own_words(error: &object_store::Error) -> String {
    let mut text = super::transport::words(error);
    if ["http://", "https://", "?"].iter().any(|mark| text.contains(mark)) {
        // An address in it would be that of a request, and a signed one holds its signature.
        text = match error {
            object_store::Error::NotFound { .. } => "it is not there".to_owned(),
            object_store::Error::AlreadyExists { .. } => "it is there already".to_owned(),
            _ => "the store's answer makes no sense".to_owned(),
        };
    }
    crate::model::path::printable(text.as_bytes()).chars().take(300).collect()
}

/// How long to wait before the next try: longer each time, at most a quarter of a minute, and never twice the same, so
/// that machines that failed together do not come back together.
pub(super) fn backoff(tries: u32) -> Duration {
    let millis = 200u64.saturating_mul(1 << tries.min(7)).min(15_000);
    let mut random = [0; 1];
    // Without a random number it waits the whole time.
    getrandom::fill(&mut random).unwrap_or(());
    Duration::from_millis(millis - millis / 2 * u64::from(random[0]) / 255)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn seen(status: u16, code: &str) -> Seen {
        Seen { status: Some(status), code: code.to_owned(), ..Seen::default() }
    }

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn a_leaking_text_of_the_crate_is_never_repeated() {
        let leak = generic("GET https://acme.blob.core.windows.net/c/k?sv=1&sig=HUSH failed");
        for seen in [Seen::default(), seen(200, ""), seen(403, "AuthenticationFailed")] {
            let fault = Fault::of(&seen, &leak);
            assert!(!format!("{fault} {fault:?}").contains("HUSH"));
        }
    }

    #[test]
    fn classes() {
        for (status, code, class) in [
            (403, "AccessDenied", Class::Refused),
            (403, "ExpiredToken", Class::Credential),
            (400, "ExpiredToken", Class::Credential),
            (403, "RequestTimeTooSkewed", Class::Clock),
            (404, "NoSuchBucket", Class::NoBucket),
            (404, "NoSuchKey", Class::Missing),
            (301, "PermanentRedirect", Class::Region),
            (503, "SlowDown", Class::Slow),
            (429, "", Class::Slow),
            (500, "", Class::Broken),
            (400, "RequestTimeout", Class::Broken),
            (403, "QuotaExceeded", Class::Full),
            (403, "InvalidObjectState", Class::Archived),
            (409, "BlobArchived", Class::Archived),
            (409, "ConditionalRequestConflict", Class::Broken),
            (412, "PreconditionFailed", Class::Exists),
            (403, "UnauthorizedBlobOverwrite", Class::Exists),
            (409, "BlobAlreadyExists", Class::Exists),
            (409, "InvalidBucketState", Class::Other),
            (409, "", Class::Other),
            (400, "InvalidRequest", Class::Other),
        ] {
            assert_eq!(Fault::of(&seen(status, code), &generic("x")).class, class, "{status} {code}");
        }
    }

    #[test]
    fn an_answer_within_an_answer() {
        let refused = generic("Bulk delete request failed for key k: not authorized (code: 403)");
        assert_eq!(Fault::of(&seen(202, ""), &refused).class, Class::Refused);
        let gone = generic("Bulk delete request failed for key k: BlobNotFound (code: 404)");
        assert_eq!(Fault::of(&seen(202, ""), &gone).class, Class::Missing);
        assert_eq!(Fault::of(&seen(200, ""), &generic("it ended before its 9 bytes")).class, Class::Broken);
    }

    #[test]
    fn hints_name_what_to_change() {
        let bucket = |url: &str| match super::super::location::Location::parse(url, std::path::Path::new("/")).unwrap()
        {
            super::super::location::Location::Bucket(bucket) => bucket,
            super::super::location::Location::Local(_) => unreachable!(),
        };
        let hint = |seen: Seen, url: &str| {
            let error = Fault::of(&seen, &generic("x")).into_error("cannot".to_owned(), &bucket(url), "a/b", 1_000_000);
            (error.kind(), error.advice().unwrap_or_default().to_owned())
        };
        let region = Seen { region: Some("eu-west-1".to_owned()), ..seen(301, "PermanentRedirect") };
        assert!(hint(region, "s3://b").1.contains("?region=eu-west-1"));
        let skewed = Seen { clock: Some(1_000_000 - 7200), ..seen(403, "RequestTimeTooSkewed") };
        assert!(hint(skewed, "s3://b").1.contains("7200 s ahead of"));
        let (kind, text) = hint(seen(403, "InvalidObjectState"), "s3://b/p");
        assert!(kind == Kind::Archived && text.contains("restore-object --bucket b --key 'a/b'"), "{text}");
        assert_eq!(hint(seen(404, "NoSuchBucket"), "gs://b").0, Kind::NotThere);
    }

    #[test]
    fn waits_grow_to_a_quarter_of_a_minute() {
        for tries in 0..40 {
            let whole = Duration::from_millis(200 * (1 << tries.min(7))).min(Duration::from_secs(15));
            let wait = backoff(tries);
            assert!(wait >= whole / 2 && wait <= whole, "{tries}: {wait:?}");
        }
    }
}
