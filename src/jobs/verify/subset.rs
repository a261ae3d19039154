//! Which parts of the layers one run verifies.
//!
//! A *part* is a region of a layer, or everything in the layer but its data. Parts are numbered by a hash of VM, slot and region, which
//! a merge does not change: `1/7` to `7/7` cover everything.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::repo::Slot;
use crate::repo::content::Region;
use crate::types::{Digest, VmId, size};

/// LIMIT: parts into which a repository is divided.
const PARTS_MAX: u64 = 1_000_000;

/// A share of a repository's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subset {
    /// All of them.
    #[default]
    All,
    /// The `number`th of `of` shares, from 1 on, and parts that were never verified.
    Share {
        /// The number of the share.
        number: u64,
        /// The number of shares.
        of: u64,
    },
    /// This many percent of the bytes: those parts first that wait for longest.
    Percent(u64),
    /// This many bytes: those parts first that wait for longest.
    Bytes(u64),
}

impl FromStr for Subset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!("\"{}\" is not a subset", text.escape_debug()))
                .advise("write 1/7 for a share, 10% for a part of the bytes, or 10G for that many")
        };
        if let Some((number, of)) = text.split_once('/') {
            let number = number.parse().map_err(|_| wrong())?;
            let of = of.parse().map_err(|_| wrong())?;
            if number == 0 || number > of || of > PARTS_MAX {
                return Err(wrong());
            }
            return Ok(Self::Share { number, of });
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().map_err(|_| wrong())?;
            if percent == 0 || percent > 100 {
                return Err(wrong());
            }
            return Ok(Self::Percent(percent));
        }
        match size::parse(text).map_err(|_| wrong())? {
            0 => Err(wrong()),
            bytes => Ok(Self::Bytes(bytes)),
        }
    }
}

/// The number of a part, the same in each run; `None` stands for everything in the layer but its data.
pub(super) fn number(vm: VmId, slot: &Slot, region: Option<Region>) -> u64 {
    let mut bytes = vm.to_bytes().to_vec();
    bytes.extend_from_slice(&region.map_or(u64::MAX, |region| region.0).to_le_bytes());
    bytes.extend_from_slice(slot.as_str().as_bytes());
    let Digest(hash) = Digest::of(&bytes);
    hash.first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::{Region, Slot, Subset, VmId, number};

    #[test]
    fn subsets_are_shares_percents_or_bytes() {
        let parse = |text: &str| text.parse::<Subset>();
        let share = Subset::Share { number: 2, of: 7 };
        assert_eq!(parse("2/7").unwrap(), share);
        assert_eq!(parse("10%").unwrap(), Subset::Percent(10));
        assert_eq!(parse("100%").unwrap(), Subset::Percent(100));
        assert_eq!(parse("10G").unwrap(), Subset::Bytes(10 << 30));
        for bad in [
            "",
            "0/7",
            "8/7",
            "1/0",
            "-1/7",
            "1/",
            "/7",
            "1/7/2",
            "0%",
            "101%",
            "-5%",
            "x%",
            "0",
            "-1G",
            "x",
            "1/9999999999",
            "1.5/7",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn shares_are_about_equal_and_each_part_is_in_one() {
        let vm = VmId::random();
        let slot = Slot::parse("vda-20261120T020000Z-7f3a9c").unwrap();
        let mut shares = [0; 7];
        for region in 0..7_000 {
            let of = number(vm, &slot, Some(Region(region))) % 7;
            assert_eq!(of, number(vm, &slot, Some(Region(region))) % 7);
            shares[usize::try_from(of).unwrap()] += 1;
        }
        assert!(
            shares.iter().all(|n| (800..1_200).contains(n)),
            "{shares:?}"
        );
        assert_ne!(number(vm, &slot, None), number(vm, &slot, Some(Region(0))));
    }
}
