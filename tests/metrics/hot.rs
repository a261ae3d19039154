//! What a count costs where bytes flow.

use std::time::{Duration, Instant};

use restorefs::metrics::fuse::{self, Request};
use restorefs::metrics::nbd::{self, Command};

/// LIMIT: what the counts of one request may take (ours; a read of 4 KiB through FUSE or NBD takes 10,000 ns and more). This is a
/// debug build on a machine that may be busy, so the best of several rounds counts.
const MOST: Duration = Duration::from_nanos(3_000);

#[test]
fn counting_a_read_takes_no_time_that_a_reader_notices() {
    const COUNT: u32 = 20_000;
    let best = |what: fn()| {
        let round = |_| {
            let begun = Instant::now();
            (0..COUNT).for_each(|_| what());
            begun.elapsed() / COUNT
        };
        (0..10).map(round).min().unwrap()
    };
    let fuse = best(|| {
        let begun = Instant::now();
        fuse::note_request(Request::Read);
        fuse::note_read(begun);
    });
    let nbd = best(|| nbd::note_answer(Command::Read, Instant::now(), false));
    println!("FUSE {fuse:?}, NBD {nbd:?}");
    assert!(fuse < MOST && nbd < MOST, "FUSE {fuse:?}, NBD {nbd:?}");
}
