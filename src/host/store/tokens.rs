//! Credentials that another program prints, kept until they have to be asked for again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::CredentialProvider;

use super::command::Tool;

/// How long a token that does not say when it ends is kept: those of the clouds' tools live for an hour, and may be a while
/// old already.
pub(super) const TOKEN_LIFE: Duration = Duration::from_secs(10 * 60);

/// What a program's output means: a credential, and for how long it may be kept; else why it is none, without repeating it.
pub(super) type Meaning<C> = fn(&[u8]) -> Result<(C, Duration), String>;

/// A credential of another program.
pub(super) struct FromTool<C> {
    tool: Tool,
    /// What it is called where it fails.
    name: &'static str,
    meaning: Meaning<C>,
    kept: Mutex<Option<(Arc<C>, Instant)>>,
}

impl<C> FromTool<C> {
    /// Asks `tool` when a credential is first wanted, and again once its time is over.
    pub(super) fn new(tool: Tool, name: &'static str, meaning: Meaning<C>) -> FromTool<C> {
        FromTool { tool, name, meaning, kept: Mutex::new(None) }
    }
}

impl<C> std::fmt::Debug for FromTool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FromTool")
    }
}

#[async_trait::async_trait]
impl<C: std::fmt::Debug + Send + Sync + 'static> CredentialProvider for FromTool<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        if let Some((credential, until)) = &*self.kept.lock().unwrap_or_else(PoisonError::into_inner)
            && Instant::now() < *until
        {
            return Ok(Arc::clone(credential));
        }
        let tool = self.tool.clone();
        let printed = tokio::task::spawn_blocking(move || tool.run()).await?;
        let wrong = |text: String| super::no_credential(format!("{}: {text}", self.name));
        let (credential, life) = (self.meaning)(&printed.map_err(wrong)?).map_err(wrong)?;
        let credential = Arc::new(credential);
        let until = Instant::now() + life;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::clone(&credential), until));
        Ok(credential)
    }
}

/// The bare token that a program prints.
///
/// # Errors
/// When it prints none.
pub(super) fn token(printed: &[u8]) -> Result<String, String> {
    let token = std::str::from_utf8(printed).unwrap_or_default().trim().to_owned();
    if token.is_empty() { Err("it prints no token".to_owned()) } else { Ok(token) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::host::world::World;

    /// What a program that counts its runs gives when it is asked three times.
    fn asked(line: &str, meaning: Meaning<String>) -> Vec<Result<String, String>> {
        let dir = tempfile::tempdir().unwrap();
        let world = World {
            env: [("PATH", "/usr/bin:/bin"), ("COUNT", dir.path().join("count").to_str().unwrap())]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            home: "/".into(),
            host_name: String::new(),
            fixed_now: None,
            stop: Arc::default(),
            terminal: false,
            wrap_store: None,
        };
        let line = format!("echo x >> \"$COUNT\"; {line}");
        let provider = FromTool::new(Tool::shell(&world, &line), "the program", meaning);
        assert_eq!(format!("{provider:?}"), "FromTool");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask = || runtime.block_on(provider.get_credential());
        (0..3).map(|_| ask().map(|c| c.to_string()).map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn a_token_is_kept_for_its_time_and_then_asked_for_again() {
        let number = "wc -l < \"$COUNT\"";
        let kept = asked(number, |printed| Ok((token(printed)?, TOKEN_LIFE)));
        assert_eq!(kept, ["1", "1", "1"].map(|n| Ok(n.to_owned())));
        let over = asked(number, |printed| Ok((token(printed)?, Duration::ZERO)));
        assert_eq!(over, ["1", "2", "3"].map(|n| Ok(n.to_owned())));
    }

    #[test]
    fn what_is_no_token_is_told_without_repeating_it_and_is_not_kept() {
        let none = asked("[ $(wc -l < \"$COUNT\") -gt 1 ] && echo HUSH", |printed| Ok((token(printed)?, TOKEN_LIFE)));
        assert!(none[0].as_ref().is_err_and(|e| e.contains("the program: it failed")), "{none:?}");
        assert_eq!(none[1..], [Ok("HUSH".to_owned()), Ok("HUSH".to_owned())]);
        let empty = asked("echo", |printed| Ok((token(printed)?, TOKEN_LIFE)));
        assert!(empty.iter().all(|e| e.as_ref().is_err_and(|e| e.contains("it prints no token"))), "{empty:?}");
        let strange = asked("echo HUSH", |_| Err("it is none".to_owned()));
        assert!(strange.iter().all(|e| e.as_ref().is_err_and(|e| !e.contains("HUSH"))), "{strange:?}");
    }
}
