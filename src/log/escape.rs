//! Escaping of foreign text in the log.

use std::fmt::Debug;
use std::io::Write;

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

use crate::types::printable::{printable, printable_json};

/// Writes a field of an event for people.
pub(super) fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", printable(&value)),
        name => write!(writer, "{name}={}", printable(&value)),
    }
}

/// A writer of JSON, which gets a whole event with each write.
pub(super) struct Json<W>(pub(super) W);

impl<W: Write> Write for Json<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all(printable_json(&text).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use crate::types::sync::Mutex;
    use std::io::Write;
    use std::sync::Arc;

    use tracing_subscriber::field::MakeExt;
    use tracing_subscriber::fmt;
    use tracing_subscriber::fmt::format::debug_fn;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, Registry};

    use super::{Json, field};
    use crate::types::printable::is_unprintable;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const PEER: &str = "\u{1b}]0;owned\u{7}\u{9b}2J\n1970 ERROR all is lost\u{202e}";

    /// The output of an event and a span that hold a peer's text.
    fn logged(layer: impl Layer<Registry> + Send + Sync + 'static, kept: &Kept) -> String {
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            let _in = tracing::warn_span!("connection", peer = PEER, shown = %PEER).entered();
            tracing::warn!(name = PEER, error = %PEER, "it asks for {PEER}");
        });
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.trim_end().contains(is_unprintable), "{text:?}");
        assert!(text.matches("all is lost").count() >= 5, "{text}");
        text
    }

    #[test]
    fn a_peer_has_no_power_over_who_reads_the_log() {
        let kept = Kept::default();
        let writer = kept.clone();
        let plain = fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(debug_fn(field).delimited(" "));
        logged(plain, &kept);

        let kept = Kept::default();
        let writer = kept.clone();
        let json = fmt::layer()
            .with_writer(move || Json(writer.clone()))
            .json()
            .flatten_event(true);
        let text = logged(json, &kept);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["error"], PEER);
    }
}
