//! A line on the control socket, behind one byte that says whose: a command's request, or the daemon's answer to one.

use restorefs::control::{Welcome, parse_answer, parse_request};
use restorefs::service::{
    BeginAnswer, CommitAnswer, ForgetAnswer, MountAnswer, SessionAnswer, Status,
};
use restorefs::task::TaskReport;

/// What is said again is the same.
fn request(line: &[u8]) {
    let Ok(request) = parse_request(line) else {
        return;
    };
    let Ok(once) = serde_json::to_vec(&request) else {
        return;
    };
    let again = parse_request(&once).map(|request| serde_json::to_vec(&request));
    assert!(
        again.is_ok_and(|twice| twice.is_ok_and(|twice| twice == once)),
        "it does not read back"
    );
}

/// Parses the bytes behind the first.
pub(crate) fn run(data: &[u8]) {
    let Some((which, line)) = data.split_first() else {
        return;
    };
    match which {
        b'b' => drop(parse_answer::<BeginAnswer>(line)),
        b'c' => drop(parse_answer::<CommitAnswer>(line)),
        b'f' => drop(parse_answer::<ForgetAnswer>(line)),
        b'k' => drop(parse_answer::<Vec<TaskReport>>(line)),
        b'm' => drop(parse_answer::<MountAnswer>(line)),
        b's' => drop(parse_answer::<Vec<SessionAnswer>>(line)),
        b't' => drop(parse_answer::<Status>(line)),
        b'w' => drop(parse_answer::<Welcome>(line)),
        _ => request(line),
    }
}
