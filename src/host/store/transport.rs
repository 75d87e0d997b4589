//! HTTP for the store's crate: connections that are kept, deadlines that follow progress, and notes of what was answered.
//!
//! A deadline for a whole request would either cut a slow uplink or let a dead one hang. Here a request may take as long
//! as it likes while bytes move, and fails soon once they do not.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use futures_util::future::{Either, select};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{DATE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Uri};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::time::{Sleep, sleep};

use super::connect::{Connector, Target};
use super::limit::Limit;
use super::trace::{Failure, Trace};

/// How much of a body is handed over at once: progress is seen, and a limit kept, in steps of this.
const STEP_BYTES: usize = 64 << 10;
/// The most of an answer that is no success that is read.
const COMPLAINT_BYTES_MAX: usize = 64 << 10;
/// A connection that rested for longer is not used again: servers close theirs without a word.
const REST: Duration = Duration::from_secs(15);
/// Once a body was handed over, its end may still wait in buffers: the answer may take so many times a silence.
const ANSWER: u32 = 4;
/// How long a machine's own metadata service may take.
const METADATA_SILENCE: Duration = Duration::from_secs(1);

/// What all requests of a store share.
#[derive(Clone)]
pub(super) struct Transport(Arc<Shared>);

struct Shared {
    connector: Connector,
    silence: Duration,
    limit: Option<Limit>,
    resting: Mutex<HashMap<Target, Vec<Line>>>,
}

/// A connection.
struct Line {
    sender: SendRequest<Outgoing>,
    /// Whether its far end is a proxy that wants to be told the whole URL.
    absolute: bool,
    since: Instant,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Proxies may have passwords.
        f.write_str("Transport")
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl Transport {
    /// A transport that gives a connection up once nothing moved for `silence`.
    pub(super) fn new(connector: Connector, silence: Duration, limit: Option<Limit>) -> Transport {
        Transport(Arc::new(Shared { connector, silence, limit, resting: Mutex::default() }))
    }

    async fn line(&self, target: &Target, silence: Duration) -> Result<(Line, bool), HttpError> {
        loop {
            let rested =
                self.0.resting.lock().unwrap_or_else(PoisonError::into_inner).get_mut(target).and_then(Vec::pop);
            let Some(mut line) = rested else { break };
            // A connection that was closed meanwhile says so here.
            if line.since.elapsed() < REST && line.sender.ready().await.is_ok() {
                return Ok((line, true));
            }
        }
        let connected = match select(Box::pin(self.0.connector.connect(target)), Box::pin(sleep(silence))).await {
            Either::Left((connected, _)) => connected,
            Either::Right(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection")),
        };
        let unreachable = |e: &dyn std::error::Error| {
            let text = format!("cannot reach {target}: {}", words(e));
            failed(HttpErrorKind::Connect, false, text)
        };
        let (stream, absolute) = connected.map_err(|e| unreachable(&e))?;
        let shaken = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|e| unreachable(&e))?;
        tokio::spawn(async move {
            // How a connection ends is told by the request on it.
            connection.await.unwrap_or(());
        });
        Ok((Line { sender, absolute, since: Instant::now() }, false))
    }
}

#[async_trait::async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let target = Target::of(request.uri()).map_err(|text| failed(HttpErrorKind::Unknown, false, text))?;
        let silence = if target.is_metadata() { METADATA_SILENCE } else { self.0.silence };
        Trace::note(|seen| {
            *seen = super::trace::Seen { metadata: target.is_metadata(), ..super::trace::Seen::default() };
        });
        let progress = Progress::default();
        let (parts, body) = request.into_parts();
        let mut request = hyper::Request::from_parts(parts, Outgoing::new(body, &progress, self.0.limit.clone()));
        if !request.headers().contains_key(HOST) {
            let authority = request.uri().authority().map_or("", |a| a.as_str());
            let host = HeaderValue::from_str(authority)
                .map_err(|_| failed(HttpErrorKind::Unknown, false, "the host's name is none".to_owned()))?;
            request.headers_mut().insert(HOST, host);
        }
        let whole = request.uri().clone();
        let (response, line) = loop {
            let (mut line, rested) = self.line(&target, silence).await?;
            *request.uri_mut() = if line.absolute { whole.clone() } else { origin(&whole) };
            let sending = line.sender.try_send_request(request);
            match select(Box::pin(sending), Box::pin(progress.stalls(silence))).await {
                Either::Left((Ok(response), _)) => break (response, line),
                Either::Left((Err(mut e), _)) => match e.take_message() {
                    // Nothing of it has left: the connection had been closed at the other end.
                    Some(unsent) if rested => request = unsent,
                    _ => {
                        let e = e.into_error();
                        return Err(failed(HttpErrorKind::Interrupted, true, words(&e)));
                    }
                },
                Either::Right((text, _)) => return Err(failed(HttpErrorKind::Timeout, true, text)),
            }
        };
        let (parts, body) = response.into_parts();
        take_down(parts.status, &parts.headers);
        let home = (Arc::clone(&self.0), target, line);
        let mut arriving = Arriving { body, silence, quiet: Box::pin(sleep(silence)), home: Some(home) };
        if parts.status.is_client_error() || parts.status.is_server_error() || parts.status.is_redirection() {
            let mut complaint = Vec::new();
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut arriving).poll_frame(cx)).await {
                // Half a complaint still has its code in it.
                let Ok(Ok(data)) = frame.map(Frame::into_data) else { break };
                complaint.extend_from_slice(&data[..data.len().min(COMPLAINT_BYTES_MAX - complaint.len())]);
                if complaint.len() == COMPLAINT_BYTES_MAX {
                    break;
                }
            }
            Trace::note(|seen| seen.read(&complaint));
            return Ok(HttpResponse::from_parts(parts, Bytes::from(complaint).into()));
        }
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(arriving)))
    }
}

/// Takes down what the head of an answer says.
fn take_down(status: StatusCode, headers: &HeaderMap) {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let region = text(HeaderName::from_static("x-amz-bucket-region")).map(str::to_owned);
    let code = text(HeaderName::from_static("x-ms-error-code")).unwrap_or_default().to_owned();
    let clock = text(DATE).and_then(|t| jiff::fmt::rfc2822::parse(t).ok()).map(|z| z.timestamp().as_second());
    Trace::note(|seen| {
        seen.status = Some(status.as_u16());
        seen.code = crate::model::path::printable(code.as_bytes()).chars().take(64).collect();
        (seen.region, seen.clock) = (region, clock);
    });
}

/// What a server is asked for: the path and the query alone.
fn origin(uri: &Uri) -> Uri {
    uri.path_and_query().map_or_else(Uri::default, |path| Uri::from(path.clone()))
}

fn failed(kind: HttpErrorKind, sent: bool, text: String) -> HttpError {
    Trace::note(|seen| seen.failure = Some(Failure { sent, text: text.clone() }));
    HttpError::new(kind, std::io::Error::other(text))
}

/// What went wrong, from the outside in, each thing once.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let (mut out, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = cause.source();
    }
    out
}

/// When bytes last moved.
#[derive(Clone)]
struct Progress(Arc<Mutex<(Instant, bool)>>);

impl Default for Progress {
    fn default() -> Self {
        Progress(Arc::new(Mutex::new((Instant::now(), false))))
    }
}

impl Progress {
    fn moved(&self, done: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), done);
    }

    /// Comes back once nothing moves any more.
    async fn stalls(&self, silence: Duration) -> String {
        loop {
            let (at, done) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let patience = if done { silence * ANSWER } else { silence };
            let left = patience.saturating_sub(at.elapsed());
            if left.is_zero() {
                let what = if done { "no answer came" } else { "nothing could be sent" };
                return format!("{what} for {} s", patience.as_secs_f32());
            }
            sleep(left).await;
        }
    }
}

/// A body on its way out, in steps.
struct Outgoing {
    body: HttpRequestBody,
    rest: Bytes,
    left: u64,
    progress: Progress,
    limit: Option<Limit>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Outgoing {
    fn new(body: HttpRequestBody, progress: &Progress, limit: Option<Limit>) -> Outgoing {
        let left = body.content_length() as u64;
        Outgoing { body, rest: Bytes::new(), left, progress: progress.clone(), limit, pause: None }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        // What waits for the limit to let it go moves as it should.
        self.progress.moved(self.left == 0);
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        while !self.rest.has_remaining() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                other => return Poll::Ready(other),
            }
        }
        let most = self.limit.as_ref().map_or(STEP_BYTES, |limit| limit.step(STEP_BYTES));
        let step = self.rest.len().min(most);
        let chunk = self.rest.split_to(step);
        self.left -= step as u64;
        self.progress.moved(self.left == 0);
        if let Some(limit) = &self.limit {
            self.pause = limit.take(step as u64).map(|wait| Box::pin(sleep(wait)));
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body on its way in.
struct Arriving {
    body: Incoming,
    silence: Duration,
    quiet: Pin<Box<Sleep>>,
    /// Where the connection rests once the body is at its end.
    home: Option<(Arc<Shared>, Target, Line)>,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.quiet.as_mut().poll(cx));
            let text = format!("nothing came for {} s", self.silence.as_secs_f32());
            return Poll::Ready(Some(Err(failed(HttpErrorKind::Timeout, true, text))));
        };
        let next = tokio::time::Instant::now() + self.silence;
        self.quiet.as_mut().reset(next);
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(e)) => Some(Err(failed(HttpErrorKind::Interrupted, true, words(&e)))),
            None => {
                if let Some((shared, target, mut line)) = self.home.take() {
                    line.since = Instant::now();
                    shared.resting.lock().unwrap_or_else(PoisonError::into_inner).entry(target).or_default().push(line);
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // Whoever reads asks for the end itself, and so the connection comes back.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
