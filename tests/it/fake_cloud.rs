//! A bucket in this process, on loopback: what S3 and the XML interface of Google Cloud Storage answer to the calls that
//! lifeboat makes, with rights per credential, and answers that go wrong on demand.
//!
//! What it says of Google's store is a reading of its documentation, and no evidence about the real one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use sha2::Digest as _;

/// Keys per page of a listing: fewer than any test puts.
const PAGE: usize = 5;

/// Whose interface it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    S3,
    Gcs,
}

/// What becomes of one request.
#[derive(Clone, Debug)]
pub enum Fate {
    /// This answer instead.
    Answer(u16, &'static str),
    /// It has its effect, and then the line is cut.
    Lost,
    /// The line is cut before anything happens.
    Cut,
}

#[derive(Default)]
pub struct State {
    pub objects: BTreeMap<String, Bytes>,
    /// What becomes of the next requests with a method, in order.
    pub fates: VecDeque<(&'static str, Fate)>,
    /// Every request: method, key or query, status.
    pub log: Vec<(String, String, u16)>,
    /// Keys in an archive, and those of them that were asked for.
    pub archived: Vec<String>,
    pub asked: Vec<String>,
    /// The storage classes that were named, by key.
    pub classes: BTreeMap<String, String>,
    /// How far its clock is off, in seconds.
    pub clock_off: i64,
}

/// A server. It ends with the process.
#[derive(Clone)]
pub struct Cloud {
    pub kind: Kind,
    pub port: u16,
    pub state: Arc<Mutex<State>>,
}

type Body = http_body_of::Full;

/// A body of one piece.
mod http_body_of {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use hyper::body::{Body, Frame, SizeHint};

    pub struct Full(pub Option<Bytes>);

    impl Body for Full {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.as_ref().map_or(0, |b| b.len() as u64))
        }
    }
}

impl Cloud {
    /// Starts one with a bucket called `bucket`.
    pub fn start(kind: Kind) -> Cloud {
        Cloud::start_behind(kind, None)
    }

    /// The same, over TLS if there is one to do it.
    pub fn start_behind(kind: Kind, tls: Option<tokio_rustls::TlsAcceptor>) -> Cloud {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cloud = Cloud { kind, port, state: Arc::default() };
        let server = cloud.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let (server, tls) = (server.clone(), tls.clone());
                    tokio::spawn(async move {
                        let service = hyper::service::service_fn(move |request| {
                            let server = server.clone();
                            async move { server.serve(request).await }
                        });
                        let server = hyper::server::conn::http1::Builder::new();
                        // A line that is cut on demand ends in an error, as it should.
                        let Some(tls) = tls else {
                            let io = hyper_util::rt::TokioIo::new(stream);
                            return server.serve_connection(io, service).await.unwrap_or(());
                        };
                        let Ok(stream) = tls.accept(stream).await else { return };
                        let io = hyper_util::rt::TokioIo::new(stream);
                        server.serve_connection(io, service).await.unwrap_or(());
                    });
                }
            });
        });
        cloud
    }

    /// The URL of a prefix in its bucket, perhaps by way of a proxy.
    pub fn url(&self, prefix: &str, port: Option<u16>) -> String {
        let port = port.unwrap_or(self.port);
        match self.kind {
            Kind::S3 => format!("s3://bucket/{prefix}?endpoint=http://127.0.0.1:{port}"),
            Kind::Gcs => format!("gs://bucket/{prefix}?endpoint=http://127.0.0.1:{port}"),
        }
    }

    /// The environment of a user: `ADMIN`, `WRITER` who may only put, `LISTER` who may put and list, or another whom it
    /// does not know.
    pub fn credentials(&self, user: &str) -> Vec<(String, String)> {
        let pairs: &[(&str, &str)] = match self.kind {
            Kind::S3 => &[("AWS_ACCESS_KEY_ID", user), ("AWS_SECRET_ACCESS_KEY", "hush-hush-hush")],
            Kind::Gcs => &[("GOOGLE_OAUTH_ACCESS_TOKEN", user)],
        };
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    pub fn fate(&self, method: &'static str, fate: Fate) {
        self.state.lock().unwrap().fates.push_back((method, fate));
    }

    pub fn log(&self) -> Vec<(String, String, u16)> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let (parts, mut body) = request.into_parts();
        let mut content = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(frame) = frame else { return Err(std::io::ErrorKind::ConnectionReset.into()) };
            content.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        let mut state = self.state.lock().unwrap();
        let method = parts.method.as_str().to_owned();
        let at = state.fates.iter().position(|(m, _)| *m == method);
        let fate = at.and_then(|at| state.fates.remove(at)).map(|(_, fate)| fate);
        let answer = match &fate {
            Some(Fate::Answer(status, code)) => failure(*status, code),
            Some(Fate::Cut) => return Err(std::io::ErrorKind::ConnectionReset.into()),
            _ => answer(self.kind, &mut state, &parts, content.into()),
        };
        let what = parts.uri.path_and_query().unwrap().to_string();
        state.log.push((method, what, answer.status().as_u16()));
        if matches!(fate, Some(Fate::Lost)) {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(state.clock_off);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap();
        let mut answer = answer;
        answer.headers_mut().insert("date", date.parse().unwrap());
        Ok(answer)
    }
}

fn response(status: u16, headers: &[(&str, String)], body: impl Into<Bytes>) -> Response<Body> {
    let mut builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder.body(http_body_of::Full(Some(body.into()))).unwrap()
}

fn failure(status: u16, code: &str) -> Response<Body> {
    // As S3 does it, with the signed request in it; a client must not repeat that.
    let text = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>This is {code}.</Message>\
        <CanonicalRequest>x-amz-security-token:hush-hush-hush</CanonicalRequest></Error>"
    );
    response(status, &[], text)
}

fn unescape(text: &str) -> String {
    let parsed = url::form_urlencoded::parse(text.as_bytes()).next();
    parsed.map(|(name, _)| name.into_owned()).unwrap_or_default()
}

fn answer(kind: Kind, state: &mut State, parts: &hyper::http::request::Parts, content: Bytes) -> Response<Body> {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let path = parts.uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let key = unescape(&key.replace('+', "%2B"));
    let user = match kind {
        Kind::S3 => {
            let text = header("authorization");
            let user = text.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
            if header("x-amz-content-sha256") != hex(&sha2::Sha256::digest(&content)) {
                return failure(400, "XAmzContentSHA256Mismatch");
            }
            user.to_owned()
        }
        Kind::Gcs => header("authorization").trim_start_matches("Bearer ").to_owned(),
    };
    match user.as_str() {
        "EXPIRED" => return failure(400, "ExpiredToken"),
        "SKEWED" => return failure(403, "RequestTimeTooSkewed"),
        "ADMIN" | "WRITER" | "LISTER" => {}
        _ if kind == Kind::Gcs => return failure(401, "AuthenticationRequired"),
        _ => return failure(403, "InvalidAccessKeyId"),
    }
    if bucket != "bucket" {
        return failure(404, "NoSuchBucket");
    }
    let (admin, there) = (user == "ADMIN", state.objects.get(&key).cloned());
    let etag = |content: &Bytes| format!("\"{}\"", &hex(&sha2::Sha256::digest(content))[..32]);
    let modified = || "Sun, 06 Nov 1994 08:49:37 GMT".to_owned();
    match parts.method {
        // Rules that it cannot parse, or a user who may not change any.
        Method::PUT if key.is_empty() => match user.as_str() {
            "ADMIN" => failure(400, "MalformedXML"),
            _ => failure(403, "AccessDenied"),
        },
        Method::PUT => {
            let sum = header("x-amz-checksum-sha256");
            let ours = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(&content));
            if kind == Kind::S3 && sum != ours {
                return failure(400, "BadDigest");
            }
            let create = match kind {
                Kind::S3 => header("if-none-match") == "*",
                Kind::Gcs => header("x-goog-if-generation-match") == "0",
            };
            if there.is_some() && create {
                return failure(412, "PreconditionFailed");
            }
            if there.is_some() && !admin {
                return failure(403, "AccessDenied");
            }
            let headers = [("etag", etag(&content)), ("x-goog-generation", "1".to_owned())];
            let class = [header("x-amz-storage-class"), header("x-goog-storage-class")].concat();
            if !class.is_empty() {
                state.classes.insert(key.clone(), class);
            }
            state.objects.insert(key, content);
            response(200, &headers, "")
        }
        Method::GET if key.is_empty() => {
            if user == "WRITER" {
                return failure(403, "AccessDenied");
            }
            let query: BTreeMap<String, String> =
                url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
            response(200, &[], listing(state, &query))
        }
        _ if !admin => failure(403, "AccessDenied"),
        Method::POST if parts.uri.query() == Some("restore") => ask_for(state, key, &content),
        Method::GET | Method::HEAD => {
            let Some(content) = there else { return failure(404, "NoSuchKey") };
            if state.archived.contains(&key) {
                return failure(403, "InvalidObjectState");
            }
            let mut headers = vec![("etag", etag(&content)), ("last-modified", modified())];
            headers.push(("x-goog-generation", "1".to_owned()));
            let range = header("range");
            let Some((start, end)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
                if parts.method == Method::HEAD {
                    headers.push(("content-length", content.len().to_string()));
                }
                return response(200, &headers, if parts.method == Method::HEAD { Bytes::new() } else { content });
            };
            let start: usize = start.parse().unwrap();
            if start >= content.len() {
                return failure(416, "InvalidRange");
            }
            let end = end.parse::<usize>().map_or(content.len(), |e| content.len().min(e + 1));
            headers.push(("content-range", format!("bytes {start}-{}/{}", end - 1, content.len())));
            response(206, &headers, content.slice(start..end))
        }
        Method::DELETE => match (state.objects.remove(&key), kind) {
            (None, Kind::Gcs) => failure(404, "NoSuchKey"),
            _ => response(204, &[], ""),
        },
        _ => failure(405, "MethodNotAllowed"),
    }
}

/// RestoreObject of S3.
fn ask_for(state: &mut State, key: String, content: &[u8]) -> Response<Body> {
    if !String::from_utf8_lossy(content).contains("<Days>7</Days>") {
        return failure(400, "MalformedXML");
    }
    match (state.archived.contains(&key), state.asked.contains(&key)) {
        (false, _) => failure(403, "InvalidObjectState"),
        (true, true) => failure(409, "RestoreAlreadyInProgress"),
        (true, false) => {
            state.asked.push(key);
            response(202, &[], "")
        }
    }
}

fn listing(state: &State, query: &BTreeMap<String, String>) -> String {
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter, after) = (get("prefix"), get("delimiter"), get("continuation-token"));
    let (mut rows, mut last, mut more, mut seen) = (String::new(), String::new(), false, 0);
    let mut groups: Vec<String> = Vec::new();
    for (key, content) in state.objects.iter().filter(|(k, _)| k.starts_with(&prefix) && **k > after) {
        let group = (!delimiter.is_empty())
            .then(|| key[prefix.len()..].split_once(&delimiter))
            .flatten()
            .map(|(first, _)| format!("{prefix}{first}{delimiter}"));
        if group.as_ref().is_some_and(|g| groups.contains(g) || after.starts_with(g.as_str())) {
            last.clone_from(key);
            continue;
        }
        if seen == PAGE {
            more = true;
            break;
        }
        seen += 1;
        last.clone_from(key);
        match group {
            Some(group) => {
                rows.push_str(&format!("<CommonPrefixes><Prefix>{group}</Prefix></CommonPrefixes>"));
                groups.push(group);
            }
            None => rows.push_str(&format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-11-21T20:15:00.000Z</LastModified>\
                <ETag>\"x\"</ETag></Contents>",
                content.len()
            )),
        }
    }
    let next = if more { format!("<NextContinuationToken>{last}</NextContinuationToken>") } else { String::new() };
    format!("<?xml version=\"1.0\"?><ListBucketResult>{rows}{next}<IsTruncated>{more}</IsTruncated></ListBucketResult>")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
