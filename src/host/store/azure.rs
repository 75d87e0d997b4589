//! Azure Blob Storage: account and credentials as Azure's own tools find them.

use std::sync::Arc;

use object_store::azure::{AzureConfigKey, AzureCredential, MicrosoftAzureBuilder, split_sas};
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::attack::Door;
use super::command::Tool;
use super::location::Bucket;
use super::tokens::{FromTool, TOKEN_LIFE, token};
use super::transport::Transport;
use crate::error::{Error, Result};
use crate::host::world::World;

/// What the environment adds to a container's URL: the account, and where it is.
pub(super) fn complete(world: &World, bucket: &mut Bucket) -> Result<()> {
    let text = |name: &str| world.var(name).and_then(|v| v.to_str()).map(str::to_owned);
    let connection = connection(world);
    if bucket.account.is_none() {
        let account = text("AZURE_STORAGE_ACCOUNT").or_else(|| text("AZURE_STORAGE_ACCOUNT_NAME"));
        bucket.account = account.or_else(|| connection("AccountName"));
    }
    if bucket.endpoint.is_none() {
        let endpoint = connection("BlobEndpoint").or_else(|| text("AZURE_STORAGE_ENDPOINT"));
        bucket.endpoint = endpoint.map(|e| super::location::endpoint(&e)).transpose()?;
    }
    if bucket.account.is_none() {
        return Err(Error::usage(format!("the storage account of the container {} is not known", bucket.name))
            .hint("write az://CONTAINER/PREFIX?account=ACCOUNT, or set AZURE_STORAGE_ACCOUNT"));
    }
    Ok(())
}

/// The fields of a connection string.
fn connection(world: &World) -> impl Fn(&str) -> Option<String> {
    let text = world.var("AZURE_STORAGE_CONNECTION_STRING").and_then(|v| v.to_str()).unwrap_or_default().to_owned();
    move |name| {
        let fields = text.split(';').filter_map(|field| field.split_once('='));
        fields.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    }
}

/// Opens a container.
///
/// # Errors
/// When what is configured makes no sense.
pub(super) fn open(
    world: &World,
    bucket: &Bucket,
    transport: Transport,
    retry: RetryConfig,
) -> Result<(Box<dyn ObjectStore>, Door)> {
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(&bucket.name)
        .with_account(bucket.account.clone().unwrap_or_default())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(transport.clone())
        .with_retry(retry);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    builder = credentials(world, builder)?;
    // What it would say may repeat a key.
    let built = builder.build().map_err(|_| Error::failed("Azure's credentials are there and cannot be used"))?;
    let account = bucket.account.clone().unwrap_or_default();
    let server = bucket.endpoint.clone().unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
    let address = format!("{server}/{}", bucket.name);
    let door = Door::Azure { credentials: Arc::clone(built.credentials()), account, address, transport };
    Ok((Box::new(built), door))
}

/// Where [`credentials`] will find them; nothing where only the machine itself may have an identity.
pub(super) fn source(world: &World) -> Option<&'static str> {
    let any = |names: &[&str]| names.iter().any(|name| world.var(name).is_some());
    let connection = connection(world);
    if any(&["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"]) {
        return Some("an account key in the environment");
    }
    if any(&["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"]) {
        return Some("a shared access signature in the environment");
    }
    if connection("AccountKey").or_else(|| connection("SharedAccessSignature")).is_some() {
        return Some("AZURE_STORAGE_CONNECTION_STRING in the environment");
    }
    if any(&[
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "IDENTITY_ENDPOINT",
        "MSI_ENDPOINT",
    ]) {
        return Some("an identity in the environment");
    }
    login(world).then_some("the login of the az program")
}

/// Whether the user has logged in with Azure's tool.
fn login(world: &World) -> bool {
    let dir = match world.var("AZURE_CONFIG_DIR") {
        Some(dir) => std::path::PathBuf::from(dir),
        None => world.home.join(".azure"),
    };
    dir.join("azureProfile.json").exists()
}

/// Keys and signatures, then identities of the environment, the user's own login, the machine's identity.
fn credentials(world: &World, mut builder: MicrosoftAzureBuilder) -> Result<MicrosoftAzureBuilder> {
    let text = |names: &[&str]| names.iter().find_map(|n| Some(world.var(n)?.to_str()?.to_owned()));
    let connection = connection(world);
    let key = text(&["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"]);
    if let Some(key) = key.or_else(|| connection("AccountKey")) {
        return Ok(builder.with_access_key(key));
    }
    if let Some(sas) =
        text(&["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"]).or_else(|| connection("SharedAccessSignature"))
    {
        let pairs = split_sas(&sas).map_err(|_| {
            Error::failed("AZURE_STORAGE_SAS_TOKEN is no shared access signature").hint("it reads sv=…&…&sig=…")
        })?;
        return Ok(builder.with_sas_authorization(pairs));
    }
    let pairs = [
        (AzureConfigKey::ClientId, text(&["AZURE_CLIENT_ID"])),
        (AzureConfigKey::ClientSecret, text(&["AZURE_CLIENT_SECRET"])),
        (AzureConfigKey::AuthorityId, text(&["AZURE_TENANT_ID"])),
        (AzureConfigKey::AuthorityHost, text(&["AZURE_AUTHORITY_HOST"])),
        (AzureConfigKey::FederatedTokenFile, text(&["AZURE_FEDERATED_TOKEN_FILE"])),
        (AzureConfigKey::MsiEndpoint, text(&["IDENTITY_ENDPOINT", "MSI_ENDPOINT"])),
    ];
    let whole = pairs[1].1.is_some() || pairs[4].1.is_some() || pairs[5].1.is_some();
    for (key, value) in pairs {
        if let Some(value) = value {
            builder = builder.with_config(key, value);
        }
    }
    if !whole && login(world) {
        let scope = ["--scope", "https://storage.azure.com/.default"];
        let arguments = ["account", "get-access-token", "--output", "tsv", "--query", "accessToken"];
        let tool = Tool::new(world, "az", &[&arguments[..], &scope[..]].concat());
        let from_tool = FromTool::new(tool, "`az account get-access-token`", |printed| {
            Ok((AzureCredential::BearerToken(token(printed)?), TOKEN_LIFE))
        });
        return Ok(builder.with_credentials(Arc::new(from_tool)));
    }
    Ok(builder)
}
