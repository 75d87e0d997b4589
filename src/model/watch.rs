//! What a configuration says about watching: when something is too old, and whom to tell what became of a run.

use std::fmt;

use super::config::DAY;

/// How old the newest may be before `status` fails; `None` never fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The newest snapshot, in hours.
    pub snapshot_hours: Option<u32>,
    /// The newest drill that succeeded, in hours.
    pub drill_hours: Option<u32>,
}

impl Default for Status {
    fn default() -> Self {
        // A live host writes one snapshot a day at least; two hours are for a run that takes long.
        Status { snapshot_hours: Some(DAY + 2), drill_hours: Some(35 * DAY) }
    }
}

/// What happened to a run, as hooks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It begins.
    Start,
    /// It did all that it should.
    Success,
    /// It wrote, but something could not be read.
    Incomplete,
    /// It wrote, and what it saw looks as if something went wrong on this machine.
    Suspicious,
    /// It failed.
    Failure,
}

impl Moment {
    /// All of them.
    pub const ALL: [Moment; 5] =
        [Moment::Start, Moment::Success, Moment::Incomplete, Moment::Suspicious, Moment::Failure];

    /// The moment that an exit code stands for.
    pub fn of_exit_code(code: u8) -> Moment {
        match code {
            0 => Moment::Success,
            3 => Moment::Incomplete,
            6 => Moment::Suspicious,
            _ => Moment::Failure,
        }
    }

    /// Its name in the configuration and in the environment of a hook.
    pub fn word(self) -> &'static str {
        match self {
            Moment::Start => "start",
            Moment::Success => "success",
            Moment::Incomplete => "incomplete",
            Moment::Suspicious => "suspicious",
            Moment::Failure => "failure",
        }
    }

    /// What healthchecks.io and its like want at the end of a check's URL.
    fn ping_suffix(self) -> &'static str {
        match self {
            Moment::Start => "/start",
            Moment::Success => "",
            Moment::Incomplete | Moment::Suspicious | Moment::Failure => "/fail",
        }
    }
}

/// What is called when a backup starts and ends.
#[derive(Clone, PartialEq, Eq)]
pub struct Hooks {
    /// The URL of a check; `/start` and `/fail` are added to it.
    pub ping: Option<String>,
    /// Commands for a shell and URLs, each with its moment, in the order of [`Moment::ALL`].
    pub calls: Vec<(Moment, String)>,
    /// How long each of them may take, in seconds.
    pub deadline_seconds: u32,
}

/// The deadline of a configuration that says nothing, in seconds.
pub(super) const DEADLINE_SECONDS: u32 = 10;
/// The longest deadline, in seconds: a backup waits for its hooks.
pub(super) const DEADLINE_SECONDS_MAX: u32 = 600;

impl Default for Hooks {
    fn default() -> Self {
        Hooks { ping: None, calls: Vec::new(), deadline_seconds: DEADLINE_SECONDS }
    }
}

/// Commands and URLs hold tokens as often as not: only how many there are is shown.
impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hooks({} calls, ping: {}, {} s)", self.calls.len(), self.ping.is_some(), self.deadline_seconds)
    }
}

/// One thing to call.
#[derive(Clone, PartialEq, Eq)]
pub enum Call {
    /// `sh -c`.
    Command(String),
    /// A GET request.
    Ping(String),
}

impl Hooks {
    /// What is to be called at a moment.
    pub fn at(&self, moment: Moment) -> Vec<Call> {
        let check = self.ping.iter().map(|url| Call::Ping(with_suffix(url, moment.ping_suffix())));
        let named = self.calls.iter().filter(|(when, _)| *when == moment).map(|(_, text)| match is_url(text) {
            true => Call::Ping(text.clone()),
            false => Call::Command(text.clone()),
        });
        check.chain(named).collect()
    }
}

/// The suffix goes before a query, if there is one.
fn with_suffix(url: &str, suffix: &str) -> String {
    let (path, query) = url.find('?').map_or((url, ""), |at| url.split_at(at));
    format!("{}{suffix}{query}", path.trim_end_matches('/'))
}

/// Whether a hook is a URL to be pinged rather than a command.
pub fn is_url(text: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme))
}

/// Whether a URL can be given to a client as one line: no space, quote, backslash or control character in it.
pub fn is_plain_url(text: &str) -> bool {
    is_url(text) && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'\''))
}

/// Seconds of `10s` or `2m`; `None` for anything else.
pub(super) fn parse_seconds(text: &str) -> Option<u32> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u32 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn texts(hooks: &Hooks, moment: Moment) -> Vec<String> {
        let text = |call| match call {
            Call::Command(text) => format!("sh {text}"),
            Call::Ping(url) => format!("get {url}"),
        };
        hooks.at(moment).into_iter().map(text).collect()
    }

    #[test]
    fn a_check_is_told_of_start_and_end() {
        let hooks = Hooks { ping: Some("https://hc.example/abc/".into()), ..Hooks::default() };
        assert_eq!(texts(&hooks, Moment::Start), ["get https://hc.example/abc/start"]);
        assert_eq!(texts(&hooks, Moment::Success), ["get https://hc.example/abc"]);
        for moment in [Moment::Incomplete, Moment::Suspicious, Moment::Failure] {
            assert_eq!(texts(&hooks, moment), ["get https://hc.example/abc/fail"]);
        }
        let hooks = Hooks { ping: Some("https://hc.example/abc?x=1".into()), ..Hooks::default() };
        assert_eq!(texts(&hooks, Moment::Start), ["get https://hc.example/abc/start?x=1"]);
    }

    #[test]
    fn calls_keep_their_moment_and_show_nothing() {
        let calls = vec![(Moment::Failure, "mail token".into()), (Moment::Start, "http://x.example".into())];
        let hooks = Hooks { calls, ..Hooks::default() };
        assert_eq!(texts(&hooks, Moment::Failure), ["sh mail token"]);
        assert_eq!(texts(&hooks, Moment::Start), ["get http://x.example"]);
        assert!(texts(&hooks, Moment::Success).is_empty());
        assert!(!format!("{hooks:?}").contains("token"));
    }

    #[test]
    fn exit_codes_have_moments() {
        for (code, moment) in
            [(0, Moment::Success), (3, Moment::Incomplete), (6, Moment::Suspicious), (11, Moment::Failure)]
        {
            assert_eq!(Moment::of_exit_code(code), moment);
        }
        assert_eq!((parse_seconds("10s"), parse_seconds("2m"), parse_seconds("10")), (Some(10), Some(120), None));
        assert!(is_plain_url("https://a.example/x?y=z") && !is_plain_url("https://a.example/\nnext"));
    }
}
