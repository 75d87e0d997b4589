//! What the requests of one operation met: the store's crate tells it in prose that may repeat signed requests, so the
//! transport takes it down as it happens, and only what is known to be harmless.

use std::sync::{Arc, Mutex, PoisonError};

use crate::model::path::printable;

tokio::task_local! {
    /// The notes of the operation that runs in this task.
    static NOTES: Trace;
}

/// The notes of one operation.
#[derive(Clone, Default)]
pub(super) struct Trace(Arc<Mutex<Seen>>);

/// What the last request met.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The status of the answer.
    pub status: Option<u16>,
    /// The store's own word for it, as `AccessDenied`.
    pub code: String,
    /// The store's sentence for people.
    pub message: String,
    /// The bucket's region, where the answer names it.
    pub region: Option<String>,
    /// The store's clock, in Unix seconds.
    pub clock: Option<i64>,
    /// Why there was no answer.
    pub failure: Option<Failure>,
    /// Whether it asked a machine's own metadata service.
    pub metadata: bool,
    /// Whether it was a program that should have given a credential.
    pub program: bool,
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Whether anything of the request may have arrived.
    pub sent: bool,
    /// In words.
    pub text: String,
}

/// The longest of a store's words that is repeated, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

impl Trace {
    /// Runs an operation whose requests are taken down here.
    pub(super) async fn follow<T>(&self, operation: impl Future<Output = T>) -> T {
        NOTES.scope(self.clone(), operation).await
    }

    /// What the last request met.
    pub(super) fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes down something of the operation that runs in this task.
    pub(super) fn note(change: impl FnOnce(&mut Seen)) {
        // Requests outside of any operation have nobody who asks.
        NOTES.try_with(|trace| change(&mut trace.0.lock().unwrap_or_else(PoisonError::into_inner))).unwrap_or(());
    }
}

impl Seen {
    /// Takes the code and the sentence out of the body of an answer that is no success: XML of all three clouds, or the
    /// JSON of their token services. Everything else in it, as the request that was signed, is left where it is.
    pub(super) fn read(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let cut = |text: &str| printable(text.trim().as_bytes()).chars().take(MESSAGE_CHARS_MAX).collect::<String>();
        let xml = |tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            rest.split_once(&format!("</{tag}>")).map(|(inner, _)| inner.to_owned())
        };
        let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let member = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
        // The code of a store is one word; anything else would be prose.
        let word =
            |w: &String| !w.is_empty() && w.len() < 64 && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        self.code =
            xml("Code").or_else(|| member("error")).filter(word).unwrap_or_else(|| std::mem::take(&mut self.code));
        // Azure puts the number of the request and the time on lines of their own.
        let message = xml("Message").or_else(|| member("error_description")).unwrap_or_default();
        self.message = cut(message.lines().next().unwrap_or_default());
        if let Some(details) = xml("Details").filter(|_| self.message.len() < MESSAGE_CHARS_MAX) {
            self.message = cut(&format!("{} {}", self.message, details));
        }
        if self.region.is_none() {
            self.region = xml("Region").filter(|r| r.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_and_sentence_are_taken() {
        let mut seen = Seen::default();
        seen.read(
            b"<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>The request signature\x1b[2J we \
            calculated</Message><CanonicalRequest>x-amz-security-token:HUSH</CanonicalRequest></Error>",
        );
        assert_eq!(seen.code, "SignatureDoesNotMatch");
        assert_eq!(seen.message, "The request signature\\u{1b}[2J we calculated");
        assert!(!format!("{seen:?}").contains("HUSH"));
    }

    #[test]
    fn other_shapes() {
        let mut seen = Seen::default();
        seen.read(br#"{"error":"invalid_grant","error_description":"Token expired"}"#);
        assert_eq!((seen.code.as_str(), seen.message.as_str()), ("invalid_grant", "Token expired"));
        let mut seen = Seen::default();
        seen.read(b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>eu-west-1</Region>");
        assert_eq!(seen.region.as_deref(), Some("eu-west-1"));
        let mut seen = Seen::default();
        seen.read(b"<html>\xff no store at all");
        assert_eq!((seen.code.as_str(), seen.message.as_str()), ("", ""));
        let mut seen = Seen::default();
        seen.read(b"<Error><Code>AuthenticationFailed</Code><Message>No.\nRequestId:1\nTime:2</Message></Error>");
        assert_eq!(seen.message, "No.");
    }
}
