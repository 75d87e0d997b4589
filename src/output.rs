//! The only file that prints. Reports go to stdout, everything else to stderr: warnings and errors always, notes unless
//! `-q`, details with `-v`, a progress bar only on a terminal. With `--json` stdout carries one object per command.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::{Event, Report};
use crate::error::{Error, Kind};

/// How much is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Voice {
    /// One JSON object on stdout.
    pub json: bool,
    /// Warnings and errors only.
    pub quiet: bool,
    /// Details, too.
    pub verbose: bool,
    /// Whether a person is watching stderr.
    pub terminal: bool,
}

/// Prints what happens while a command runs.
pub struct Printer {
    voice: Voice,
    bar: Option<ProgressBar>,
    phase: &'static str,
}

/// A progress bar appears only for what takes longer than this.
const BAR_DELAY: Duration = Duration::from_secs(1);

impl Printer {
    /// A printer that speaks as `voice` says.
    pub fn new(voice: Voice) -> Self {
        Printer { voice, bar: None, phase: "" }
    }

    /// Takes one event.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Warning(text) => self.line(&format!("warning: {text}")),
            Event::Note(text) if !self.voice.quiet => self.line(&text),
            Event::Detail(text) if self.voice.verbose => self.line(&text),
            Event::Phase(phase) => {
                self.finish();
                self.phase = phase;
            }
            Event::Progress { files, files_total, bytes, bytes_total } => {
                self.progress(files, files_total, bytes, bytes_total);
            }
            Event::Note(_) | Event::Detail(_) => {}
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| stderr_line(text)),
            None => stderr_line(text),
        }
    }

    fn progress(&mut self, files: u64, files_total: u64, bytes: u64, bytes_total: u64) {
        if !self.voice.terminal || self.voice.quiet || self.voice.json {
            return;
        }
        let phase = self.phase;
        let bar = self.bar.get_or_insert_with(|| bar(phase, bytes_total));
        if bar.elapsed() < BAR_DELAY {
            return;
        }
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_position(bytes);
        bar.set_message(if files_total > 0 {
            format!("{files}/{files_total} files")
        } else {
            format!("{files} entries")
        });
    }

    /// Takes the progress bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(phase: &'static str, bytes_total: u64) -> ProgressBar {
    let template = if bytes_total > 0 {
        "{prefix}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}"
    } else {
        "{prefix}  {msg}"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target((bytes_total > 0).then_some(bytes_total), ProgressDrawTarget::hidden());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(phase);
    bar
}

/// Ends a command: prints its report or its error, and gives the exit code.
pub fn finish<R: Report>(voice: Voice, printer: &mut Printer, result: Result<R, Error>) -> ExitCode {
    printer.finish();
    match result {
        Ok(report) => {
            if voice.json {
                stdout(&(serde_json::to_string(&report).unwrap_or_default() + "\n"));
            } else if !voice.quiet {
                stdout(&report.text());
            }
            // Whoever asked for warnings only is to know what the exit code is about.
            if !voice.json {
                report.problems().iter().for_each(|line| stderr_line(line));
            }
            ExitCode::from(report.verdict().map_or(0, Kind::exit_code))
        }
        Err(error) => {
            print_error(voice, &error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Whether what a command prints goes to a terminal, where somebody would see it.
pub fn to_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}

/// Prints an error as a person or a script reads it.
pub fn print_error(voice: Voice, error: &Error) {
    if voice.json {
        let object = serde_json::json!({ "error": {
            "kind": error.kind().name(),
            "exit_code": error.kind().exit_code(),
            "message": error.to_string(),
            "causes": error.causes(),
            "hint": error.advice(),
        }});
        stdout(&format!("{object}\n"));
        return;
    }
    stderr_line(&format!("error: {error}"));
    for cause in error.causes() {
        stderr_line(&format!("  cause: {}", crate::model::path::printable(cause.as_bytes())));
    }
    if let Some(hint) = error.advice() {
        stderr_line(&format!("hint: {hint}"));
    }
}

/// Where commands write whose result is bytes and no report.
///
/// # Errors
/// [`Kind::Usage`] where stdout was promised to carry an object, or a person would see bytes that are no text.
pub fn content(voice: Voice, is_text: bool) -> Result<impl std::io::Write, Error> {
    if voice.json {
        return Err(Error::usage("this command writes bytes, which cannot be told as JSON").hint("leave out --json"));
    }
    let stdout = std::io::stdout();
    if !is_text && std::io::IsTerminal::is_terminal(&stdout) {
        return Err(Error::usage("a tar is not for a terminal").hint("write it to a file or a pipe, as in `| tar -t`"));
    }
    Ok(std::io::BufWriter::with_capacity(1 << 16, stdout))
}

fn stdout(text: &str) {
    // Whoever closed the pipe has read enough.
    std::io::stdout().write_all(text.as_bytes()).unwrap_or(());
}

fn stderr_line(text: &str) {
    // There is nobody left to tell that stderr is gone.
    writeln!(std::io::stderr(), "{text}").unwrap_or(());
}
