//! Places for downloads: a bounded number at a time.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

/// LIMIT: downloads at a time (DESIGN).
const ALL_MAX: usize = 8;
/// LIMIT: downloads of one caller at a time (DESIGN).
const CALLER_MAX: usize = 2;

/// The running downloads.
#[derive(Default)]
pub(super) struct Downloads(Arc<Mutex<HashMap<String, usize>>>);

/// A place among the running downloads.
pub(super) struct Place {
    all: Arc<Mutex<HashMap<String, usize>>>,
    caller: String,
}

impl Downloads {
    /// Takes a place.
    ///
    /// # Errors
    /// `LimitExceeded`.
    pub(super) fn enter(&self, caller: &str) -> Result<Place> {
        let mut all = self.0.lock();
        let own = all.get(caller).copied().unwrap_or(0);
        let running: usize = all.values().sum();
        if own >= CALLER_MAX || running >= ALL_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                match own >= CALLER_MAX {
                    true => format!("{caller} has {own} downloads already"),
                    false => format!("there are {running} downloads already"),
                },
            )
            .advise("try again when one of them has ended"));
        }
        *all.entry(caller.to_owned()).or_default() += 1;
        Ok(Place {
            all: Arc::clone(&self.0),
            caller: caller.to_owned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(own) = all.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL_MAX, CALLER_MAX, Downloads};
    use crate::error::ErrorKind;

    #[test]
    fn eight_downloads_are_served_and_two_of_one_caller() {
        let downloads = Downloads::default();
        let mut places = Vec::new();
        for _ in 0..CALLER_MAX {
            places.push(downloads.enter("a").unwrap());
        }
        let error = downloads.enter("a").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        for n in places.len()..ALL_MAX {
            places.push(downloads.enter(&format!("b{n}")).unwrap());
        }
        assert!(downloads.enter("c").is_err());
        places.clear();
        downloads.enter("c").unwrap();
    }
}
