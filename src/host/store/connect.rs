//! Connections: straight or through a proxy, plain or TLS, with the machine's certificates and the user's.

use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use hyper::Uri;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use url::Url;

use crate::host::world::World;

/// The longest answer of a proxy that is read.
const PROXY_ANSWER_BYTES_MAX: usize = 16 << 10;

/// Where cloud machines ask who they are. Nothing of that goes through a proxy.
const METADATA_HOSTS: &[&str] = &[
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "metadata.google.internal",
];

/// A stream of bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The far end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    tls: bool,
    /// An address of IPv6 in brackets.
    host: String,
    port: u16,
}

impl Target {
    /// Where a request goes; an error in words.
    pub(super) fn of(uri: &Uri) -> std::result::Result<Target, String> {
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("the address is neither https nor http".to_owned()),
        };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        Ok(Target { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
    }

    /// Whether it is a machine's own metadata service.
    pub(super) fn is_metadata(&self) -> bool {
        METADATA_HOSTS.contains(&self.host.as_str())
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host == "[::1]" || self.host.starts_with("127.")
    }

    fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Makes connections as the environment says.
pub(super) struct Connector {
    /// For https and for http; with a password perhaps.
    proxies: [Option<String>; 2],
    direct: Vec<String>,
    roots_instead: Option<PathBuf>,
    roots_also: Vec<PathBuf>,
    silence: Duration,
    tls: Mutex<Option<TlsConnector>>,
}

impl Connector {
    /// What the environment says of proxies and certificates.
    pub(super) fn new(world: &World, silence: Duration) -> Connector {
        let text = |names: &[&str]| names.iter().find_map(|n| Some(world.var(n)?.to_str()?.to_owned()));
        let file = |name: &str| world.var(name).map(PathBuf::from);
        let direct = text(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        Connector {
            proxies: [
                text(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
                text(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            ],
            direct: direct.split(',').map(|d| d.trim().to_ascii_lowercase()).filter(|d| !d.is_empty()).collect(),
            roots_instead: file("SSL_CERT_FILE"),
            roots_also: ["LIFEBOAT_CA_FILE", "AWS_CA_BUNDLE"].into_iter().filter_map(file).collect(),
            silence,
            tls: Mutex::new(None),
        }
    }

    /// Connects; also whether the far end is a proxy that wants to be told whole URLs.
    ///
    /// # Errors
    /// When that fails, without the password of a proxy.
    pub(super) async fn connect(&self, target: &Target) -> Result<(Box<dyn Stream>, bool)> {
        let Some(proxy) = self.proxy(target) else {
            let stream = self.tcp(target.bare_host(), target.port).await?;
            let stream: Box<dyn Stream> = Box::new(stream);
            return Ok((if target.tls { self.tls(target.bare_host(), stream).await? } else { stream }, false));
        };
        let proxy = Url::parse(proxy).or_else(|_| Url::parse(&format!("http://{proxy}")));
        let proxy = proxy.map_err(|_| Error::new(ErrorKind::InvalidInput, "the proxy's address is no URL"))?;
        let (secure, port) = match proxy.scheme() {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return Err(Error::new(ErrorKind::InvalidInput, "only http and https proxies can be used")),
        };
        let host = proxy.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let named = |e: Error| Error::new(e.kind(), format!("the proxy {host}: {e}"));
        let stream = self.tcp(&host, proxy.port().unwrap_or(port)).await.map_err(named)?;
        let mut stream: Box<dyn Stream> = Box::new(stream);
        if secure {
            stream = self.tls(&host, stream).await.map_err(named)?;
        }
        if !target.tls && proxy.username().is_empty() {
            return Ok((stream, true));
        }
        tunnel(&mut *stream, target, &proxy).await.map_err(named)?;
        Ok((if target.tls { self.tls(target.bare_host(), stream).await? } else { stream }, false))
    }

    fn proxy(&self, target: &Target) -> Option<&str> {
        let exempt = |rule: &String| {
            let rule = rule.split(':').next().unwrap_or_default().trim_start_matches("*.").trim_start_matches('.');
            rule == "*" || target.host == rule || target.host.strip_suffix(rule).is_some_and(|h| h.ends_with('.'))
        };
        if target.is_metadata() || target.is_loopback() || self.direct.iter().any(exempt) {
            return None;
        }
        self.proxies[usize::from(!target.tls)].as_deref()
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        // What was sent and is never acknowledged is given up by the kernel, too: it alone sees that.
        #[cfg(target_os = "linux")]
        {
            let millis = u32::try_from(self.silence.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(&stream, millis)?;
        }
        Ok(stream)
    }

    async fn tls(&self, host: &str, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::new(ErrorKind::InvalidInput, "the host's name is none"))?;
        let connector = self.tls_connector()?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    fn tls_connector(&self) -> Result<TlsConnector> {
        let mut made = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = &*made {
            return Ok(connector.clone());
        }
        let mut roots = RootCertStore::empty();
        let mut add = |file: &PathBuf| -> Result<()> {
            let named = |e: String| Error::other(format!("the certificates in {}: {e}", file.display()));
            let found = CertificateDer::pem_file_iter(file).map_err(|e| named(e.to_string()))?;
            for certificate in found {
                let certificate = certificate.map_err(|e| named(e.to_string()))?;
                roots.add(certificate).map_err(|e| named(e.to_string()))?;
            }
            Ok(())
        };
        self.roots_also.iter().try_for_each(&mut add)?;
        match &self.roots_instead {
            Some(file) => add(file)?,
            None => {
                // One that cannot be read is one that is not trusted; without any, the handshake says so.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(Error::other("this machine has no certificates to trust: install ca-certificates"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        *made = Some(connector.clone());
        Ok(connector)
    }
}

/// Asks a proxy to pass bytes on, RFC 9110 section 9.3.6.
async fn tunnel(stream: &mut dyn Stream, target: &Target, proxy: &Url) -> Result<()> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if !proxy.username().is_empty() {
        let plain = |text: &str| {
            percent_decode(text).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "its user or password is no text"))
        };
        let login = format!("{}:{}", plain(proxy.username())?, plain(proxy.password().unwrap_or_default())?);
        let login = base64::engine::general_purpose::STANDARD.encode(login);
        request.push_str(&format!("Proxy-Authorization: Basic {login}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the answer belongs to somebody else.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= PROXY_ANSWER_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidData, "its answer has no end"));
        }
        answer.push(stream.read_u8().await?);
    }
    let status = answer.split(|b| *b == b' ').nth(1).unwrap_or_default();
    match status {
        b"200" => Ok(()),
        b"407" => Err(Error::new(ErrorKind::PermissionDenied, "it asks for another login")),
        other => Err(Error::other(format!("it answered {}", crate::model::path::printable(other)))),
    }
}

/// `%41` becomes `A`, as in the user part of a URL.
fn percent_decode(text: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            out.push(*first);
        }
    }
    String::from_utf8(out).ok()
}
