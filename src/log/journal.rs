//! The journal's native protocol (systemd, "Native Journal Protocol"): a datagram for each event,
//! with its fields.
//!
//! # Why
//! `journalctl` shows only messages. So the fields are part of the message, as in the other forms,
//! and are also sent separately for queries: `journalctl RESTOREFS_VM=web01`.

use std::fmt::{Debug, Write as _};
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Result, ResultExt};
use crate::types::printable::printable;

/// The journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The prefix of our fields' names.
const PREFIX: &str = "RESTOREFS_";
/// LIMIT: bytes of a value.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// LIMIT: bytes of all values of an event. Each value is sent twice, and a datagram must fit into
/// the socket's buffer (208 KiB by default).
const VALUES_BYTES_MAX: usize = 64 << 10;
/// LIMIT: bytes of a message with its fields; escaping can make it several times as long.
const MESSAGE_BYTES_MAX: usize = VALUE_BYTES_MAX + VALUES_BYTES_MAX;
/// LIMIT: fields of an event, including those of the spans around it.
const FIELDS_MAX: usize = 64;

/// A connection to the journal, over which events are sent as datagrams.
pub(super) struct Journal {
    socket: UnixDatagram,
}

/// Fields as text, in the order in which they were recorded.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field, format!("{value:?}"));
    }
}

impl Fields {
    fn take(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = cut(value, VALUE_BYTES_MAX);
        } else {
            self.add(field.name(), value);
        }
    }

    fn add(&mut self, name: &'static str, value: String) {
        let taken: usize = self.others.iter().map(|(_, value)| value.len()).sum();
        let room = VALUES_BYTES_MAX.saturating_sub(taken).min(VALUE_BYTES_MAX);
        if self.others.len() < FIELDS_MAX {
            self.others.push((name, cut(value, room)));
        }
    }
}

/// Cuts a text to at most `bytes_max`, at the end of a character.
fn cut(mut text: String, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

impl Journal {
    /// Opens the socket to the journal.
    ///
    /// # Errors
    /// `NotFound` where there is no journal; `PermissionDenied`, `Io`.
    pub(super) fn open() -> Result<Self> {
        let failed = "cannot reach the journal";
        let socket = UnixDatagram::unbound().or_io(failed)?;
        // Only a test: each event looks the socket up again, because the journal may be restarted.
        socket.connect(SOCKET).or_io(failed).at_path(SOCKET)?;
        let socket = UnixDatagram::unbound().or_io(failed)?;
        // A caller that logs does not wait for a slow journal.
        socket.set_nonblocking(true).or_io(failed)?;
        Ok(Self { socket })
    }
}

/// The priority by syslog(3)'s numbers.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Appends one field: the name, the length as 64 bits little-endian, the value.
fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let Ok(length) = u64::try_from(value.len()) else {
        return;
    };
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A field's name in the form that the journal accepts: capitals, digits and underscores.
fn name_of(field: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    PREFIX
        .chars()
        .chain(field.chars().map(plain))
        .take(64)
        .collect()
}

fn encode(level: Level, target: &str, fields: &Fields) -> Vec<u8> {
    let mut message = fields.message.clone();
    for (name, value) in &fields.others {
        // Writing to a string cannot fail.
        let _ = write!(message, " {name}={value}");
    }
    // The journal escapes fields itself; the message is what journalctl shows.
    let message = cut(printable(&message).into_owned(), MESSAGE_BYTES_MAX);
    let mut out = Vec::with_capacity(256);
    put(&mut out, "MESSAGE", message.as_bytes());
    put(&mut out, "PRIORITY", priority(level).to_string().as_bytes());
    put(&mut out, "SYSLOG_IDENTIFIER", b"restorefs");
    put(&mut out, "TARGET", target.as_bytes());
    for (name, value) in &fields.others {
        put(&mut out, &name_of(name), value.as_bytes());
    }
    out
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                for (name, value) in &of_span.others {
                    fields.add(name, value.clone());
                }
            }
        }
        let meta = event.metadata();
        let datagram = encode(*meta.level(), meta.target(), &fields);
        // A journal that does not accept the event stops nothing.
        let _ = self.socket.send_to(&datagram, SOCKET);
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, encode, name_of};
    use tracing::Level;

    #[test]
    fn an_event_has_its_fields_in_the_message_and_by_themselves() {
        let fields = Fields {
            message: "a point".to_owned(),
            others: vec![("vm", "web01".to_owned()), ("why", "two\nlines".to_owned())],
        };
        let bytes = encode(Level::WARN, "restorefs::nbd", &fields);
        let mut expected = b"MESSAGE\n\x22\0\0\0\0\0\0\0a point vm=web01 why=two\\nlines".to_vec();
        expected[8] = u8::try_from("a point vm=web01 why=two\\nlines".len()).unwrap();
        assert!(bytes.starts_with(&expected));
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.contains("PRIORITY\n\u{1}\0\0\0\0\0\0\u{0}4\n"),
            "{text:?}"
        );
        assert!(text.contains("RESTOREFS_VM\n\u{5}\0\0\0\0\0\0\0web01\n"));
        assert_eq!(name_of("otel.kind-x"), "RESTOREFS_OTEL_KIND_X");
    }

    #[test]
    fn an_event_that_says_too_much_arrives_cut() {
        let mut fields = Fields {
            message: "so much".to_owned(),
            ..Fields::default()
        };
        for _ in 0..100 {
            fields.add("value", "\u{fc}".repeat(10_001));
        }
        let bytes = encode(Level::WARN, "restorefs", &fields);
        assert!(bytes.len() > 100_000 && bytes.len() < 200_000);
        let (here, there) = std::os::unix::net::UnixDatagram::pair().unwrap();
        here.send(&bytes).unwrap();
        assert_eq!(there.recv(&mut vec![0; 1 << 20]).unwrap(), bytes.len());
    }
}
