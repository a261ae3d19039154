//! The log: its content, its level, and its form.
//!
//! # Invariants
//! - A log that cannot be written (a full disk, a closed pipe) stops nothing.
//! - Text of guests, peers and files is escaped in every form: it cannot affect a terminal, and
//!   adds no line of its own.

mod escape;
mod journal;

use std::io::IsTerminal;
use std::os::linux::fs::MetadataExt;
use std::sync::OnceLock;

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::journal::Journal;
use crate::error::{Error, Result, ResultExt};

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal if standard error is connected to it, otherwise text.
    #[default]
    Auto,
    /// The journal, with fields.
    Journald,
    /// Lines for people, on standard error.
    Text,
    /// One JSON object a line, on standard error.
    Json,
}

impl LogFormat {
    /// The form of that name.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "journald" => Ok(Self::Journald),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(Error::invalid(format!(
                "\"{}\" is none of auto, journald, text, json",
                other.escape_debug()
            ))),
        }
    }
}

/// The options of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `restorefs::nbd=debug`.
    pub level: String,
    /// The form.
    pub format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;
type Form = Box<dyn Layer<Filtered> + Send + Sync>;

/// Handles to change the running log.
struct Handles {
    filter: reload::Handle<Targets, Registry>,
    form: reload::Handle<Form, Filtered>,
}

static HANDLES: OnceLock<Handles> = OnceLock::new();

/// Checks the text of a level.
///
/// # Errors
/// `InvalidInput`.
pub fn check_level(text: &str) -> Result<()> {
    filter(text).map(drop)
}

/// A plain level applies to this program; a filter that names a library selects the library's
/// events.
fn filter(text: &str) -> Result<Targets> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives = if LEVELS.contains(&text) {
        format!("restorefs={text}")
    } else {
        text.to_owned()
    };
    let unknown = || {
        Error::invalid(format!("\"{}\" is no level", text.escape_debug())).advise(
            "write error, warn, info, debug or trace, or a filter such as restorefs::nbd=debug",
        )
    };
    // A single word would be taken for the name of a module, so a mistyped level would silence the
    // log.
    if !directives.contains('=') {
        return Err(unknown());
    }
    directives
        .parse()
        .map_err(|e: ParseError| unknown().caused_by(e))
}

/// The filter that `RUST_LOG` sets, if it sets one that can be read.
fn environment() -> Option<Targets> {
    let text = std::env::var("RUST_LOG").ok()?;
    text.parse().ok().filter(|_| !text.is_empty())
}

/// Starts the log of this process. `RUST_LOG` overrides the level.
///
/// # Errors
/// `InvalidInput` (the level); `Io` when the journal is not available.
pub fn start(options: &LogOptions) -> Result<()> {
    let filter = match environment() {
        Some(filter) => filter,
        None => filter(&options.level)?,
    };
    let (filter, filter_handle) = reload::Layer::new(filter);
    let (form, form_handle) = reload::Layer::new(form(options.format)?);
    let handles = Handles {
        filter: filter_handle,
        form: form_handle,
    };
    // A process has one log; a second start is a programming error, and changes nothing.
    if HANDLES.set(handles).is_ok() {
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(form)
            .try_init();
    }
    Ok(())
}

/// Changes the running log.
///
/// # Errors
/// As [`start`]; the log stays as it was.
pub fn change(options: &LogOptions) -> Result<()> {
    let Some(handles) = HANDLES.get() else {
        return start(options);
    };
    let form = form(options.format)?;
    set_level(&options.level)?;
    let failed = "the log's form cannot be changed";
    handles
        .form
        .reload(form)
        .map_err(|e| Error::invalid(failed).caused_by(e))
}

/// Changes the level of the log; has no effect when `RUST_LOG` sets it.
///
/// # Errors
/// `InvalidInput`.
pub fn set_level(level: &str) -> Result<()> {
    let filter = filter(level)?;
    match HANDLES.get() {
        Some(handles) if environment().is_none() => handles
            .filter
            .reload(filter)
            .map_err(|e| Error::invalid("the log's level cannot be changed").caused_by(e)),
        _ => Ok(()),
    }
}

fn form(format: LogFormat) -> Result<Form> {
    // A failure to write the log cannot be logged either.
    let plain = || fmt::layer().with_target(false).log_internal_errors(false);
    Ok(match format {
        LogFormat::Auto if is_journal() => Box::new(Journal::open()?),
        LogFormat::Journald => Box::new(Journal::open()?),
        LogFormat::Auto | LogFormat::Text => Box::new(
            plain()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .fmt_fields(debug_fn(escape::field).delimited(" ")),
        ),
        LogFormat::Json => Box::new(
            plain()
                .with_writer(|| escape::Json(std::io::stderr()))
                .with_ansi(false)
                .json()
                .flatten_event(true),
        ),
    })
}

/// Whether standard error is connected to the journal (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let own = std::fs::metadata("/proc/self/fd/2").or_io("no standard error");
    own.is_ok_and(|meta| format!("{}:{}", meta.st_dev(), meta.st_ino()) == stream)
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, check_level};

    #[test]
    fn levels_and_filters_are_told_from_mistakes() {
        for good in [
            "info",
            "trace",
            "restorefs::nbd=debug",
            "warn,restorefs=debug",
        ] {
            check_level(good).unwrap();
        }
        for bad in ["loud", "", "restorefs=loud", "inof"] {
            let error = check_level(bad).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert_eq!(LogFormat::parse("json").unwrap(), LogFormat::Json);
        assert!(LogFormat::parse("xml").is_err());
    }
}
