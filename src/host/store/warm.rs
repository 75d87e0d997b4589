//! Objects that a cloud has put into its archive: asking for them back.

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use object_store::aws::AwsAuthorizer;
use object_store::azure::AzureAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody, HttpService as _};
use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStoreExt as _};

use super::attack::Door;
use super::fault::Class;
use super::{Store, digest};
use crate::error::{Error, Result};

/// What Amazon is asked for: a copy that can be read for a week, within hours (RestoreObject in its API reference).
const REQUEST: &str = "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>7</Days>\
    <GlacierJobParameters><Tier>Standard</Tier></GlacierJobParameters></RestoreRequest>";

/// What came of asking for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmth {
    /// It can be read.
    Ready,
    /// It was asked for, and takes hours.
    Asked,
    /// Somebody has asked before.
    UnderWay,
}

impl Store {
    /// Asks the cloud for an object that may lie in its archive. One that can be read is left as it is.
    ///
    /// # Errors
    /// When it is not there, cannot be asked for, or the credential may not.
    pub fn warm_up(&self, key: &str) -> Result<Warmth> {
        let location = Key::from(key);
        match self.run(|| self.shared.inner.get_range(&location, 0..1), || ()) {
            Ok(_) => return Ok(Warmth::Ready),
            Err(e) if e.class() == Class::Archived => {}
            Err(e) if e.class() == Class::Missing => {
                return Err(Error::damaged(format!("{key} is missing on {}", self.name())));
            }
            Err(e) => return Err(self.failure("read", key, e)),
        }
        let prefix = self.bucket().map_or("", |bucket| bucket.prefix.as_str());
        let whole = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        match self.run(|| self.door.warm_up(&whole), || ()) {
            Ok(()) => Ok(Warmth::Asked),
            Err(e) if matches!(e.class(), Class::Archived | Class::Exists) => Ok(Warmth::UnderWay),
            Err(e) => Err(self.failure("warm up", key, e)),
        }
    }
}

impl Door {
    /// Asks for `key`, which has no characters that a URL would not take as they are.
    async fn warm_up(&self, key: &str) -> object_store::Result<()> {
        let answer = match self {
            Door::S3 { credentials, region, address, transport } => {
                let mut request = request("POST", format!("{address}/{key}?restore"), REQUEST)?;
                let credential = credentials.get_credential().await?;
                let sum = digest(&[Bytes::from_static(REQUEST.as_bytes())]);
                AwsAuthorizer::new(&credential, "s3", region).try_authorize(&mut request, Some(&sum))?;
                transport.call(request).await
            }
            Door::Azure { credentials, account, address, transport } => {
                let mut request = request("PUT", format!("{address}/{key}?comp=tier"), "")?;
                for (name, value) in [("x-ms-access-tier", "Hot"), ("x-ms-rehydrate-priority", "Standard")] {
                    request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                let credential = credentials.get_credential().await?;
                AzureAuthorizer::new(&credential, account).try_authorize(&mut request)?;
                transport.call(request).await
            }
            // Google's archive is read like anything else.
            Door::Gcs { .. } | Door::None => return Err(wrong("this store has no archive")),
        };
        let answer = answer.map_err(|_| wrong("no answer"))?;
        if answer.status().is_success() { Ok(()) } else { Err(wrong("it is no success")) }
    }
}

fn wrong(text: &'static str) -> StoreError {
    StoreError::Generic { store: "archive", source: text.into() }
}

fn request(method: &str, uri: String, body: &'static str) -> object_store::Result<HttpRequest> {
    let content = HttpRequestBody::from(Bytes::from_static(body.as_bytes()));
    let request = hyper::Request::builder().method(method).uri(uri).body(content);
    let mut request = request.map_err(|_| wrong("the object's address is none"))?;
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(request)
}
