//! The one error type: a kind that decides the exit code, a sentence, a cause and a hint.

use std::fmt;
use std::path::Path;

/// What went wrong, as far as a caller or a script may branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything without an exit code of its own: 1.
    Failed,
    /// The command line asks for something that makes no sense: 2.
    Usage,
    /// Written, but something that should be in it could not be read: 3.
    Incomplete,
    /// Something on the store is missing, altered, or not what it claims to be: 4.
    Damaged,
    /// The store, the configuration or a source is not there: 10.
    NotThere,
    /// Another run holds the lock: 11.
    Locked,
    /// No identity at hand opens the archive: 12.
    NoIdentity,
    /// An object lies in a cloud's archive and must be warmed up before it can be read: 13.
    Archived,
    /// Stopped by a signal: 130.
    Interrupted,
}

impl Kind {
    /// The exit code of the process, part of the contract with scripts.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Incomplete => 3,
            Kind::Damaged => 4,
            Kind::NotThere => 10,
            Kind::Locked => 11,
            Kind::NoIdentity => 12,
            Kind::Archived => 13,
            Kind::Interrupted => 130,
        }
    }

    /// The name of the kind in `--json` output.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Usage => "usage",
            Kind::Incomplete => "incomplete",
            Kind::Damaged => "damaged",
            Kind::NotThere => "not_there",
            Kind::Locked => "locked",
            Kind::NoIdentity => "no_identity",
            Kind::Archived => "archived",
            Kind::Interrupted => "interrupted",
        }
    }
}

/// An error as a person sees it: what could not be done, why, and what to do about it.
///
/// Messages start in lower case, end without a full stop, and never hold a secret.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// `Result` with lifeboat's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    /// [`Kind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// [`Kind::Damaged`].
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(Kind::Damaged, message)
    }

    /// [`Kind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// [`Kind::NotThere`].
    pub fn not_there(message: impl Into<String>) -> Self {
        Self::new(Kind::NotThere, message)
    }

    /// [`Kind::Interrupted`].
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause, printed below the message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The advice, if there is one.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The chain of causes, outermost first, without the message itself.
    pub fn causes(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut next: Option<&dyn std::error::Error> = self.source.as_ref().map(|s| s.as_ref() as _);
        while let Some(error) = next {
            let text = error.to_string();
            // Wrappers that repeat their source word for word add nothing.
            if out.last() != Some(&text) {
                out.push(text);
            }
            next = error.source();
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}

/// Gives an I/O error the name of the file it is about.
pub trait At<T> {
    /// `cannot <verb> <path>`, with the I/O error as its cause.
    fn at(self, verb: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, verb: &str, path: &Path) -> Result<T> {
        self.map_err(|e| io_error(verb, path, e.into()))
    }
}

fn io_error(verb: &str, path: &Path, e: std::io::Error) -> Error {
    use std::io::ErrorKind;
    let name = crate::model::path::printable_path(path);
    let error = Error::failed(format!("cannot {verb} {name}"));
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            error.hint("the disk is full: free some space and run the same command again").because(e)
        }
        _ => error.because(e),
    }
}
