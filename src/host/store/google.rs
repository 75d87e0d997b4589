//! Google Cloud Storage: credentials as Google's own tools find them.

use std::sync::Arc;

use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use zeroize::Zeroizing;

use super::attack::Door;
use super::command::Tool;
use super::location::Bucket;
use super::tokens::{FromTool, TOKEN_LIFE, token};
use super::transport::Transport;
use crate::error::{At as _, Error, Result};
use crate::host::world::World;
use crate::model::path::printable_path;

/// The largest file of credentials that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Opens a bucket.
///
/// # Errors
/// When what is configured makes no sense.
pub(super) fn open(
    world: &World,
    bucket: &Bucket,
    transport: Transport,
    retry: RetryConfig,
) -> Result<(Box<dyn ObjectStore>, Door)> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&bucket.name)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(transport.clone())
        .with_retry(retry);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    builder = credentials(world, builder)?;
    let built = builder.build().map_err(|_| Error::failed("Google's credentials are there and cannot be used"))?;
    let base = bucket.endpoint.as_deref().unwrap_or("https://storage.googleapis.com");
    let address = format!("{base}/{}", bucket.name);
    let door = Door::Gcs { credentials: Arc::clone(built.credentials()), address, transport };
    Ok((Box::new(built), door))
}

/// Where [`credentials`] will find them; nothing where only the machine itself may have an account.
pub(super) fn source(world: &World) -> Option<&'static str> {
    let any = |names: &[&str]| names.iter().any(|name| world.var(name).is_some());
    if any(&["GOOGLE_OAUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN"]) {
        return Some("an access token in the environment");
    }
    if any(&["GOOGLE_SERVICE_ACCOUNT_KEY"]) {
        return Some("GOOGLE_SERVICE_ACCOUNT_KEY in the environment");
    }
    if any(&["GOOGLE_APPLICATION_CREDENTIALS"]) {
        return Some("the file GOOGLE_APPLICATION_CREDENTIALS");
    }
    own_file(world).exists().then_some("the login of the gcloud program")
}

/// What Google's tool leaves when a user logs in.
fn own_file(world: &World) -> std::path::PathBuf {
    let dir = match world.var("CLOUDSDK_CONFIG") {
        Some(dir) => std::path::PathBuf::from(dir),
        None => world.home.join(".config/gcloud"),
    };
    dir.join("application_default_credentials.json")
}

/// In the order of Google's tools: environment, the user's own login, the machine's service account.
fn credentials(world: &World, builder: GoogleCloudStorageBuilder) -> Result<GoogleCloudStorageBuilder> {
    let text = |name: &str| world.var(name).and_then(|v| v.to_str()).map(str::to_owned);
    if let Some(token) = text("GOOGLE_OAUTH_ACCESS_TOKEN").or_else(|| text("CLOUDSDK_AUTH_ACCESS_TOKEN")) {
        return Ok(builder.with_bearer_token(token));
    }
    if let Some(key) = text("GOOGLE_SERVICE_ACCOUNT_KEY") {
        return Ok(builder.with_service_account_key(key));
    }
    let named = world.var("GOOGLE_APPLICATION_CREDENTIALS").map(std::path::PathBuf::from);
    let own = own_file(world);
    let Some(file) = named.or_else(|| own.exists().then_some(own)) else { return Ok(builder) };
    let length = std::fs::metadata(&file).at("read the credentials", &file)?.len();
    if length > FILE_BYTES_MAX {
        return Err(Error::failed(format!("{} is too large to hold credentials", printable_path(&file))));
    }
    let content = Zeroizing::new(std::fs::read_to_string(&file).at("read the credentials", &file)?);
    let wrong = || {
        Error::failed(format!("{} holds no credentials of Google's kinds", printable_path(&file)))
            .hint("use a service account's key, or `gcloud auth application-default login`")
    };
    let parsed: serde_json::Value = serde_json::from_str(&content).map_err(|_| wrong())?;
    let path = file.to_str().ok_or_else(wrong)?;
    match parsed.get("type").and_then(|t| t.as_str()) {
        Some("authorized_user") => Ok(builder.with_application_credentials(path)),
        Some("external_account" | "impersonated_service_account" | "external_account_authorized_user") => {
            let tool = Tool::new(world, "gcloud", &["auth", "application-default", "print-access-token"]);
            let from_tool = FromTool::new(tool, "`gcloud auth application-default`", |printed| {
                Ok((GcpCredential { bearer: token(printed)? }, TOKEN_LIFE))
            });
            Ok(builder.with_credentials(Arc::new(from_tool)))
        }
        _ if parsed.get("private_key").is_some() => Ok(builder.with_service_account_key(content.as_str())),
        _ => Err(wrong()),
    }
}
