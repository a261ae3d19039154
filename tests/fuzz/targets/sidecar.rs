//! A JSON sidecar of any bytes, behind one byte that says which.

use restorefs::clock::{Clock, ManualClock};
use restorefs::jobs::policy::{Scene, Terms, VmFacts};
use restorefs::repo::format::Format;
use restorefs::repo::sidecar::index::Index;
use restorefs::repo::sidecar::point::Point;
use restorefs::repo::sidecar::policy::Policy;
use restorefs::repo::sidecar::policy_run::{PolicyRuns, Runner};
use restorefs::repo::sidecar::retained::Retained;
use restorefs::repo::sidecar::session::Session;
use restorefs::repo::sidecar::state::State;
use restorefs::repo::sidecar::vm::Vm;
use restorefs::repo::sidecar::{Sidecar, encode, parse};
use serde_json::Value;

/// A member that no release knows.
const UNKNOWN: &str = "later";

/// What can be read can be written, and reads the same again, with what is not known in it.
fn both_ways<T: Sidecar>(data: &[u8]) {
    let Ok(sidecar) = parse::<T>(data) else {
        return;
    };
    let unknown = |data: &[u8]| {
        let value: Option<Value> = serde_json::from_slice(data).ok();
        value.and_then(|value| value.get(UNKNOWN).cloned())
    };
    let Ok(once) = encode(&sidecar) else { return };
    assert!(
        unknown(data) == unknown(&once),
        "what is not known was changed"
    );
    let again = parse::<T>(&once).and_then(|sidecar| encode(&sidecar));
    assert!(
        again.is_ok_and(|twice| twice == once),
        "it does not read back"
    );
}

/// A policy that can be read is refused or planned, whatever the time is.
fn planned(data: &[u8]) {
    let terms = parse::<Policy>(data).and_then(|policy| Terms::of(&policy));
    let (Ok(terms), Ok(vm)) = (terms, "web01".parse()) else {
        return;
    };
    let scene = Scene {
        terms: vec![terms],
        vms: vec![VmFacts::absent(vm)],
        ..Scene::default()
    };
    // The ends of the calendar, and 1970.
    for seconds in [-377_705_023_201, 0, 253_402_207_200] {
        let standings = scene.standings(ManualClock::at(seconds).now());
        assert!(standings.len() <= 1, "there is one VM");
    }
}

/// Parses the bytes behind the first.
pub(crate) fn run(data: &[u8]) {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which {
        b'f' => both_ways::<Format>(data),
        b'i' => both_ways::<Index>(data),
        b'p' => both_ways::<Point>(data),
        b's' => both_ways::<Session>(data),
        b'r' => both_ways::<Retained>(data),
        b't' => both_ways::<State>(data),
        b'o' => {
            both_ways::<Policy>(data);
            planned(data);
        }
        b'u' => both_ways::<PolicyRuns>(data),
        b'm' => both_ways::<Runner>(data),
        _ => both_ways::<Vm>(data),
    }
}
