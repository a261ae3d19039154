//! `quickstart`, as the README's first command.

use std::process::Command;

use crate::kit::need::{can_mount, has, has_all};
use crate::kit::place::Place;
use crate::kit::wait::eventually;

#[test]
fn from_nothing_to_a_mounted_repository() {
    if !has("mke2fs") || !has("debugfs") || !can_mount() {
        return;
    }
    let place = Place::new();
    let said = place.ok(&["quickstart", "qs"]);
    for words in [
        "first backup",
        "second backup",
        "tuesday",
        "mounted on",
        "Try next",
        "Unmount:",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // Its own lines are lines.
    assert!(!said.contains('\\'), "{said}");
    let etc = place.path("qs/mnt/sample/latest/volumes/vda/part/1/etc");
    assert!(etc.join("added-on-tuesday").exists());
    assert!(
        !place
            .path("qs/mnt/sample/monday/volumes/vda/part/1/etc/added-on-tuesday")
            .exists()
    );
    assert_eq!(
        std::fs::read(etc.join("passwd")).unwrap(),
        std::fs::read("/etc/passwd").unwrap()
    );
    place.ok(&["umount", "qs/mnt"]);
    place.fails(1, &["quickstart", "qs"]);
}

/// Ends a daemon that runs in the background, also when the test fails.
struct Background(rustix::process::Pid);

impl Background {
    fn stop(&self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::TERM);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a request; returns its status with the head and body of the answer. The status of a server that is not there is `000`.
fn curl(args: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "20", "-w", "\n%{http_code}"])
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (answer, status) = said.rsplit_once('\n').unwrap();
    (status.to_owned(), answer.to_owned())
}

#[test]
fn with_http_it_serves_what_it_makes_and_prints_a_login_that_works_once() {
    if !has_all(&["mke2fs", "debugfs", "curl"]) || !can_mount() {
        return;
    }
    let place = Place::new();
    let said = place.ok(&["quickstart", "qs", "--http", "127.0.0.1:0"]);
    let pid = said
        .lines()
        .find_map(|line| line.strip_prefix("Stop the daemon: kill "));
    let pid = pid.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    let daemon = Background(rustix::process::Pid::from_raw(pid).unwrap());
    let url = said.split_whitespace().find(|word| word.contains("login#"));
    let (site, code) = url.unwrap().split_once("login#").unwrap();
    assert!(site.starts_with("http://127.0.0.1:"), "{site}");
    assert_eq!(code.len(), 32, "128 bits: {code}");
    assert!(place.path("qs/mnt/sample/latest/files/etc/passwd").exists());

    let (api, login) = (format!("{site}api/v1"), format!("{site}login"));
    let (open, status) = (format!("{api}/openapi.json"), format!("{api}/status"));
    assert_eq!(curl(&[&open]).0, "200");
    assert_eq!(curl(&[&status]).0, "401");
    let form = format!("secret={code}");
    let post = |origin: &str| {
        let origin = format!("Origin: {origin}");
        curl(&["-H", &origin, "-d", &form, &login])
    };
    // A page elsewhere sends the code in vain, and does not use it up.
    assert_eq!(post("http://evil.example").0, "403");
    let own = site.trim_end_matches('/');
    let (entered, head) = post(own);
    assert_eq!(entered, "303", "{head}");
    let cookie = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let value = value.split(';').next()?;
        name.eq_ignore_ascii_case("set-cookie")
            .then(|| format!("Cookie: {value}"))
    });
    let (seen, body) = curl(&["-H", &cookie.unwrap(), &status]);
    assert_eq!(seen, "200");
    assert!(body.contains("sample"), "{body}");
    assert_eq!(post(own).0, "401", "a code works once");

    daemon.stop();
    eventually("the daemon ends", || curl(&[&open]).0 == "000");
}
