//! S3 and what imitates it: addresses and credentials as Amazon's own tools find them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential, Checksum};
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::attack::Door;
use super::command::Tool;
use super::location::Bucket;
use super::tokens::FromTool;
use super::transport::Transport;
use crate::error::{Error, Result};
use crate::host::world::World;

/// A credential that ends sooner than this is fetched anew.
const LIFE_LEFT: Duration = Duration::from_secs(300);
/// How long a credential without an end is kept.
const LIFE_UNKNOWN: Duration = Duration::from_secs(3600);

/// What the environment adds to a bucket's URL: where it is and which region it is in.
pub(super) fn complete(world: &World, bucket: &mut Bucket) -> Result<()> {
    let profile = profile(world, bucket);
    let named = |names: &[&str]| names.iter().find_map(|n| Some(world.var(n)?.to_str()?.to_owned()));
    if bucket.endpoint.is_none() {
        let endpoint = named(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let endpoint = endpoint.or_else(|| profile.get("endpoint_url").cloned());
        bucket.endpoint = endpoint.map(|e| super::location::endpoint(&e)).transpose()?;
    }
    if bucket.region.is_none() {
        let region = named(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
        bucket.region = region.or_else(|| profile.get("region").cloned());
    }
    Ok(())
}

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
    let amazon = bucket.endpoint.is_none();
    // Amazon wants the bucket in the host's name, where its certificate allows that; the others understand the path.
    let virtual_hosted = bucket.virtual_hosted.unwrap_or(amazon && !bucket.name.contains('.'));
    let region = bucket.region.clone().unwrap_or_else(|| "us-east-1".to_owned());
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_region(&region)
        .with_virtual_hosted_style_request(virtual_hosted)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(transport.clone())
        .with_retry(retry)
        // One by one a refusal says so; in bulk it is one line of an answer that is a success.
        .with_disable_bulk_delete(true);
    let server = bucket.endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let (endpoint, address) = if virtual_hosted {
        let hosted = server.replacen("://", &format!("://{}.", bucket.name), 1);
        (hosted.clone(), hosted)
    } else {
        let address = format!("{server}/{}", bucket.name);
        (server, address)
    };
    builder = builder.with_endpoint(endpoint);
    // As Amazon's tools spell it: for servers that do not know the header.
    let wanted = world.var("AWS_REQUEST_CHECKSUM_CALCULATION").and_then(|v| v.to_str());
    if !wanted.is_some_and(|w| w.eq_ignore_ascii_case("when_required")) {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    builder = credentials(world, bucket, builder)?;
    let built = builder.build().map_err(|_| Error::usage("this S3 store cannot be opened: its settings do not fit"))?;
    let door = Door::S3 { credentials: Arc::clone(built.credentials()), region, address, transport };
    Ok((Box::new(built), door))
}

/// Where [`credentials`] will find them; nothing where only the machine itself may have a role.
pub(super) fn source(world: &World, bucket: &Bucket) -> Option<&'static str> {
    let set = |names: &[&str]| names.iter().all(|name| world.var(name).is_some());
    let profile = profile(world, bucket);
    let any = |test: &dyn Fn(&str) -> bool| profile.keys().any(|key| test(key));
    match bucket.profile.is_some() {
        false if set(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]) => Some("AWS_ACCESS_KEY_ID in the environment"),
        false if set(&["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"]) => Some("a web identity"),
        _ if any(&|key| key == "credential_process") => Some("the credential_process of a profile in ~/.aws"),
        _ if any(&|key| key.starts_with("sso_") || key.ends_with("role_arn") || key == "login_session") => {
            Some("a login or role of a profile in ~/.aws, by the aws program")
        }
        _ if any(&|key| key == "aws_access_key_id") => Some("the keys of a profile in ~/.aws"),
        true => Some("a profile in ~/.aws"),
        false if world.var("AWS_PROFILE").is_some() => Some("a profile in ~/.aws"),
        false if set(&["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]) => Some("a container's role"),
        false if set(&["AWS_CONTAINER_CREDENTIALS_FULL_URI"]) => Some("a container's role"),
        false => None,
    }
}

/// In the order of Amazon's tools: environment, web identity, profile, container, machine.
fn credentials(world: &World, bucket: &Bucket, mut builder: AmazonS3Builder) -> Result<AmazonS3Builder> {
    let text = |name: &str| world.var(name).and_then(|v| v.to_str()).map(str::to_owned);
    let named = bucket.profile.is_some();
    if let (false, Some(id), Some(secret)) = (named, text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY")) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return Ok(match text("AWS_SESSION_TOKEN") {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    let profile = profile(world, bucket);
    let set = |mut builder: AmazonS3Builder, pairs: &[(&str, Option<String>)]| {
        for (key, value) in pairs {
            if let (Ok(key), Some(value)) = (key.parse(), value) {
                builder = builder.with_config(key, value.clone());
            }
        }
        builder
    };
    if let (false, Some(file), Some(role)) = (named, text("AWS_WEB_IDENTITY_TOKEN_FILE"), text("AWS_ROLE_ARN")) {
        let pairs = [
            ("aws_web_identity_token_file", Some(file)),
            ("aws_role_arn", Some(role)),
            ("aws_role_session_name", text("AWS_ROLE_SESSION_NAME")),
            ("aws_endpoint_url_sts", text("AWS_ENDPOINT_URL_STS")),
        ];
        return Ok(set(builder, &pairs));
    }
    let name = profile_name(world, bucket);
    // With a role they are those of whoever takes it.
    let own = (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key"), profile.get("role_arn"));
    if let (Some(id), Some(secret), None) = own {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return Ok(match profile.get("aws_session_token") {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    let tool = match profile.get("credential_process") {
        Some(line) => Some(Tool::shell(world, line)),
        // Logins, roles and what else there is are Amazon's own tool's to know.
        None if profile.keys().any(|k| k.starts_with("sso_") || k.ends_with("role_arn") || k == "login_session") => {
            let arguments = ["configure", "export-credentials", "--format", "process", "--profile", &name];
            Some(Tool::new(world, "aws", &arguments))
        }
        None => None,
    };
    if let Some(tool) = tool {
        let from_tool = FromTool::new(tool, "the program that gives credentials", meaning);
        return Ok(builder.with_credentials(Arc::new(from_tool)));
    }
    if profile.is_empty() && (named || world.var("AWS_PROFILE").is_some()) {
        return Err(Error::failed(format!("there is no profile `{}` in ~/.aws", name.escape_debug()))
            .hint("correct AWS_PROFILE or the store's URL, or run `aws configure --profile NAME`"));
    }
    let disabled = text("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let container = ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    if disabled && container.iter().all(|name| world.var(name).is_none()) {
        return Err(Error::failed("no credential for S3 was found")
            .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws and AWS_PROFILE"));
    }
    let pairs = [
        ("aws_container_credentials_relative_uri", text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")),
        ("aws_container_credentials_full_uri", text("AWS_CONTAINER_CREDENTIALS_FULL_URI")),
        ("aws_container_authorization_token_file", text("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")),
        ("aws_metadata_endpoint", text("AWS_EC2_METADATA_SERVICE_ENDPOINT")),
    ];
    Ok(set(builder, &pairs))
}

fn profile_name(world: &World, bucket: &Bucket) -> String {
    let variable = world.var("AWS_PROFILE").and_then(|v| v.to_str()).map(str::to_owned);
    bucket.profile.clone().or(variable).unwrap_or_else(|| "default".to_owned())
}

/// What the two files in `~/.aws` say of the profile in force; credentials win over configuration.
fn profile(world: &World, bucket: &Bucket) -> HashMap<String, String> {
    let name = profile_name(world, bucket);
    let file = |variable: &str, name: &str| match world.var(variable) {
        Some(file) => PathBuf::from(file),
        None => world.home.join(".aws").join(name),
    };
    let read = |file: PathBuf| std::fs::read_to_string(file).unwrap_or_default();
    let heading = if name == "default" { name.clone() } else { format!("profile {name}") };
    let mut out = section(&read(file("AWS_CONFIG_FILE", "config")), &heading);
    out.extend(section(&read(file("AWS_SHARED_CREDENTIALS_FILE", "credentials")), &name));
    out
}

/// The settings of one section of a file as Amazon's tools write it. What is indented belongs to the setting before it.
fn section(text: &str, name: &str) -> HashMap<String, String> {
    let (mut out, mut here) = (HashMap::new(), false);
    for line in text.lines() {
        if let Some(heading) = line.trim_end().strip_prefix('[').and_then(|l| l.split(']').next()) {
            here = heading.split_whitespace().eq(name.split_whitespace());
        } else if here
            && !line.starts_with(|c: char| c.is_whitespace() || "#;".contains(c))
            && let Some((key, value)) = line.split_once('=')
        {
            out.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    out
}

/// What a program that gives credentials prints.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<jiff_text::Moment>,
}

/// A moment in RFC 3339.
mod jiff_text {
    /// Unix seconds.
    pub(super) struct Moment(pub(super) i64);

    impl<'de> serde::Deserialize<'de> for Moment {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = <String as serde::Deserialize>::deserialize(from)?;
            let moment: jiff::Timestamp = text.parse().map_err(|_| serde::de::Error::custom("no moment"))?;
            Ok(Moment(moment.as_second()))
        }
    }
}

/// What it means; it is kept until shortly before it ends.
fn meaning(printed: &[u8]) -> Result<(AwsCredential, Duration), String> {
    let printed: Printed = serde_json::from_slice(printed)
        .map_err(|_| "what it prints is not what `credential_process` should".to_owned())?;
    let now = jiff::Timestamp::now().as_second();
    let life = printed.expiration.map_or(LIFE_UNKNOWN, |end| {
        Duration::from_secs(u64::try_from(end.0 - now).unwrap_or(0)).saturating_sub(LIFE_LEFT)
    });
    let Printed { access_key_id: key_id, secret_access_key: secret_key, session_token: token, .. } = printed;
    Ok((AwsCredential { key_id, secret_key, token }, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_both_files() {
        let text = "# a comment\n[default]\nregion = eu-west-1\ns3 =\n  endpoint_url = nested\n[profile two words]\nregion=x\n\
            [ profile  b ]\nrole_arn = arn:aws:iam::1:role/r\n; no\n";
        assert_eq!(section(text, "default").get("region").map(String::as_str), Some("eu-west-1"));
        assert!(!section(text, "default").contains_key("endpoint_url"));
        assert_eq!(section(text, "profile two words").len(), 1);
        assert!(section(text, "profile b").contains_key("role_arn"));
        assert!(section(text, "profile c").is_empty());
    }
}
