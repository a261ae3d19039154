//! Prometheus as another program's opinion of metrics: `promtool` about their text, and a real server that scrapes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::need::free_port;
use super::wait::eventually;

/// The labels of a sample, by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// The samples of one scrape.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Samples(pub(crate) BTreeMap<(String, Labels), f64>);

impl Samples {
    /// Parses the classic text format; panics at a line that is not in it, and at a series that is there twice.
    pub(crate) fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').unwrap())),
                None => (series, Labels::new()),
            };
            let value = value.parse().unwrap();
            let before = all.0.insert((name.to_owned(), labels), value);
            assert_eq!(before, None, "{line}");
        }
        all
    }

    /// The value of the series with exactly these labels.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter();
        let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.0.get(&(name.to_owned(), labels.collect())).copied()
    }

    /// The same; the series must be there.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.find(name, labels);
        found.unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    /// The names, as the families have them.
    pub(crate) fn names(&self) -> std::collections::BTreeSet<&str> {
        let names = self.0.keys().map(|(name, _)| name.as_str());
        let family = |name: &'_ str| {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix));
            // A histogram has buckets; the name of another family may end so, too.
            let base = base.filter(|base| {
                let bucket = format!("{base}_bucket");
                self.0.keys().any(|(name, _)| *name == bucket)
            });
            base.map_or(name.len(), str::len)
        };
        names.map(|name| &name[..family(name)]).collect()
    }
}

fn parse_labels(mut text: &str) -> Labels {
    let mut labels = Labels::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    labels
}

/// What `promtool check metrics` has against a text; empty when it is content.
pub(crate) fn complaints(text: &str) -> String {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        write!(said, "promtool ended with {}", output.status).unwrap();
    }
    said
}

/// A Prometheus server; ended when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The `data` of an answer of its API; `None` where it does not answer yet.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let mut body: Value = serde_json::from_str(body).ok()?;
        Some(body["data"].take())
    }

    /// Why the scrape does not succeed, in the server's words.
    fn last_error(&self) -> String {
        let targets = self.ask("/api/v1/targets");
        targets.map_or_else(String::new, |targets| {
            targets["activeTargets"][0]["lastError"].to_string()
        })
    }
}

/// Has a real Prometheus scrape `url` (`http://HOST:PORT/PATH`; with `https` it believes any certificate), with a bearer token
/// where there is one, until a scrape has succeeded; returns the samples of it. Needs the program `prometheus`. Panics, with the
/// server's reason, when no scrape succeeds in time.
pub(crate) fn scrape_with_prometheus(url: &str, token: Option<&str>) -> Samples {
    let dir = tempfile::tempdir().unwrap();
    let (scheme, rest) = url.split_once("://").unwrap();
    let (address, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
    let mut config = format!(
        "scrape_configs:\n  - job_name: restorefs\n    scrape_interval: 1s\n    scrape_timeout: 1s\n    scheme: {scheme}\n    \
         metrics_path: /{path}\n    static_configs:\n      - targets: ['{address}']\n"
    );
    if scheme == "https" {
        config.push_str("    tls_config:\n      insecure_skip_verify: true\n");
    }
    if let Some(token) = token {
        let file = dir.path().join("token");
        std::fs::write(&file, token).unwrap();
        let file = file.display();
        writeln!(config, "    authorization:\n      credentials_file: {file}").unwrap();
    }
    let config_file = dir.path().join("prometheus.yml");
    std::fs::write(&config_file, config).unwrap();
    let port = free_port();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config_file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.path().join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--log.level=error")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, port };
    let mut why = String::new();
    let up = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("a scrape by Prometheus", || {
            why = server.last_error();
            let up = server.ask("/api/v1/query?query=up");
            up.is_some_and(|up| up["result"][0]["value"][1] == "1")
        });
    }));
    assert!(up.is_ok(), "Prometheus could not scrape {url}: {why}");
    // `{job="restorefs"}`
    let found = server.ask("/api/v1/query?query=%7Bjob%3D%22restorefs%22%7D");
    let mut samples = Samples::default();
    for one in found.unwrap()["result"].as_array().unwrap() {
        let labels = one["metric"].as_object().unwrap().iter();
        let mut labels: Labels = labels
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        let name = labels.remove("__name__").unwrap();
        // Those that the server adds, and what it says of the scrape itself.
        labels.remove("job");
        labels.remove("instance");
        if name.starts_with("restorefs_") {
            let value = one["value"][1].as_str().unwrap().parse().unwrap();
            samples.0.insert((name, labels), value);
        }
    }
    samples
}
