//! What a credential that may only add must be refused, tried out: `doctor --attack`.

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::azure::AzureCredentialProvider;
use object_store::client::{HttpRequestBody, HttpService as _};
use object_store::gcp::GcpCredentialProvider;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutOptions, PutPayload};

use super::fault::Class;
use super::transport::Transport;
use super::{Failed, Provider, Store};
use crate::error::Result;

/// A rule that none of the clouds can parse: who may change the rules is told that it is malformed, and the rules stay as
/// they are; who may not is refused before anybody reads it.
const NO_RULES: &str = "<LifecycleConfiguration><This-is-a-test-by-lifeboat-doctor/></LifecycleConfiguration>";

/// Something that a credential may be tried at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// To put other bytes over an object.
    Overwrite,
    /// To read an object.
    Read,
    /// To see names and sizes.
    List,
    /// To delete an object.
    Delete,
    /// To change the rules by which objects expire.
    Lifecycle,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was refused.
    Refused,
    /// It was done.
    Allowed,
    /// It was done, and what was there before stays as an older version.
    Versioned,
    /// No credential of this kind can do it, on this kind of store.
    Impossible,
}

/// How to ask a bucket for what the store's crate has no word for.
pub(super) enum Door {
    S3 {
        credentials: AwsCredentialProvider,
        region: String,
        address: String,
        transport: Transport,
    },
    Gcs {
        credentials: GcpCredentialProvider,
        address: String,
        transport: Transport,
    },
    /// Azure keeps its rules where keys and signatures of the storage do not reach.
    Azure {
        credentials: AzureCredentialProvider,
        account: String,
        address: String,
        transport: Transport,
    },
    /// A directory has none.
    None,
}

impl Store {
    /// Tries one thing on the object `key`, which must be of the caller's own making.
    ///
    /// # Errors
    /// When it can be said neither that it was refused nor that it was done.
    pub fn attempt(&self, attempt: Attempt, key: &str) -> Result<Outcome> {
        let location = Key::from(key);
        let inner = &self.shared.inner;
        let mut done = Outcome::Allowed;
        let (verb, tried) = match attempt {
            Attempt::Overwrite => {
                let put = || {
                    let payload = PutPayload::from_static(b"overwritten by lifeboat doctor --attack\n");
                    inner.put_opts(&location, payload, PutOptions::default())
                };
                let put = self.run(put, || ());
                // Google numbers every object, whether it keeps older ones or not.
                let numbered = put.as_ref().is_ok_and(|p| p.version.as_ref().is_some_and(|v| v != "null"));
                if numbered && self.bucket().is_some_and(|b| b.provider != Provider::Gcs) {
                    done = Outcome::Versioned;
                }
                ("overwrite", put.map(|_| ()))
            }
            Attempt::Read => ("read", self.run(|| inner.get_range(&location, 0..1), || ()).map(|_| ())),
            Attempt::List => ("list", self.run(|| inner.list_with_delimiter(None), || ()).map(|_| ())),
            Attempt::Delete => ("delete", self.run(|| inner.delete(&location), || ()).map(|_| ())),
            Attempt::Lifecycle => {
                if matches!(self.door, Door::Azure { .. } | Door::None) {
                    return Ok(Outcome::Impossible);
                }
                ("change the lifecycle of", self.run(|| self.door.put_no_rules(), || ()))
            }
        };
        match tried {
            Ok(()) => Ok(done),
            // An object that may not be put because it is there was not overwritten.
            Err(e) if matches!(e.class(), Class::Refused | Class::Exists) => Ok(Outcome::Refused),
            // The store has looked at what it was sent, and not minded who sent it.
            Err(Failed::Far(fault)) if attempt == Attempt::Lifecycle && fault.class == Class::Other => {
                Ok(Outcome::Allowed)
            }
            Err(e) => Err(self.failure(verb, key, e)),
        }
    }
}

impl Door {
    async fn put_no_rules(&self) -> object_store::Result<()> {
        let wrong = |text: &'static str| object_store::Error::Generic { store: "lifecycle", source: text.into() };
        let (address, transport) = match self {
            Door::S3 { address, transport, .. } | Door::Gcs { address, transport, .. } => (address, transport),
            Door::Azure { .. } | Door::None => return Ok(()),
        };
        let body = HttpRequestBody::from(Bytes::from_static(NO_RULES.as_bytes()));
        let request = hyper::Request::builder().method("PUT").uri(format!("{address}?lifecycle"));
        let mut request = request.body(body).map_err(|_| wrong("the bucket's address is none"))?;
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(NO_RULES.len()));
        match self {
            Door::S3 { credentials, region, .. } => {
                let credential = credentials.get_credential().await?;
                let digest = super::digest(&[Bytes::from_static(NO_RULES.as_bytes())]);
                // Servers want one of the two sums for rules, and Amazon's newer one is understood by most.
                let sum = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest);
                let sum = HeaderValue::from_str(&sum).map_err(|_| wrong("the checksum is none"))?;
                request.headers_mut().insert(HeaderName::from_static("x-amz-checksum-sha256"), sum);
                AwsAuthorizer::new(&credential, "s3", region).try_authorize(&mut request, Some(&digest))?;
            }
            Door::Gcs { credentials, .. } => {
                let credential = credentials.get_credential().await?;
                let mut value = HeaderValue::from_str(&format!("Bearer {}", credential.bearer))
                    .map_err(|_| wrong("the token is none"))?;
                value.set_sensitive(true);
                request.headers_mut().insert(AUTHORIZATION, value);
            }
            Door::Azure { .. } | Door::None => return Ok(()),
        }
        let answer = transport.call(request).await.map_err(|_| wrong("no answer"))?;
        if answer.status().is_success() { Ok(()) } else { Err(wrong("it is no success")) }
    }
}
