//! Requests byte by byte: what curl would not send.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// LIMIT: how long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the daemon.
pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes until the daemon closes the connection; `None` when it does not close it in time.
pub(crate) fn rest(mut stream: TcpStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => Some(all),
        // It was closed with bytes of ours unread.
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Some(all),
        Err(_) => None,
    }
}

/// Sends bytes and returns what comes until the connection is closed. The bytes ask for the end of the connection.
pub(crate) fn exchange(port: u16, bytes: &[u8]) -> String {
    let mut stream = connect(port);
    // A daemon may close before it has read everything.
    let _ = stream.write_all(bytes);
    let answer = rest(stream).expect("the daemon keeps the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer; 0 for none.
pub(crate) fn status(answer: &str) -> u16 {
    let mut words = answer.split(' ');
    match words.next() {
        Some(version) if version.starts_with("HTTP/") => {
            words.next().and_then(|code| code.parse().ok()).unwrap_or(0)
        }
        _ => 0,
    }
}
