//! The text as Prometheus reads it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use restorefs::metrics::CONTENT_TYPE;

use crate::kit::need::{has, has_all};
use crate::kit::prometheus::{Samples, complaints, scrape_with_prometheus};
use crate::world::{EAGER, World, furnished};

#[test]
fn promtool_has_nothing_against_the_text() {
    if !has("promtool") {
        return;
    }
    let place = furnished();
    let world = World::of(&place, 0);
    assert_eq!(complaints(&world.text(None, &EAGER)), "");
    // It would say so.
    let bad = "# HELP restorefs_x A gauge.\n# TYPE restorefs_x gauge\nrestorefs_x_total 1\n";
    assert_ne!(complaints(bad), "");
    assert_ne!(complaints("restorefs_x{ 1\n"), "");
}

/// Answers each request with the text, if it has the token.
fn answer(stream: TcpStream, token: &str, text: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut is_allowed = false;
    for line in lines.by_ref() {
        let line = line?;
        is_allowed |= line.eq_ignore_ascii_case(&format!("authorization: bearer {token}"));
        if line.is_empty() {
            break;
        }
    }
    let (status, body) = match is_allowed {
        true => ("200 OK", text),
        false => ("401 Unauthorized", ""),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Serves the text until the test program ends; returns the URL.
fn serve(token: &'static str, text: Arc<str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that leaves is its own affair.
            let _ = answer(stream, token, &text);
        }
    });
    url
}

#[test]
fn a_real_prometheus_scrapes_what_was_written() {
    if !has_all(&["prometheus", "promtool"]) {
        return;
    }
    let place = furnished();
    let world = World::of(&place, 0);
    let text: Arc<str> = world.text(None, &EAGER).into();
    let url = serve("of-a-test", Arc::clone(&text));
    let scraped = scrape_with_prometheus(&url, Some("of-a-test"));
    let written = Samples::parse(&text);
    assert!(written.0.len() > 300, "{}", written.0.len());
    assert_eq!(scraped, written);
}
