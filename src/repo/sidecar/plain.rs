//! Decodes sidecars without unknown members, as nearly all are, in one pass.
//!
//! # Why
//! A repository of 1,000 VMs has 60 MB of indexes, and every listing command reads all of them. To keep
//! unknown members, the general parser decodes each object into a tree and compares its names beforehand.
//! Here neither is needed: an unknown or repeated member ends the attempt.

use std::fmt;
use std::marker::PhantomData;

use std::collections::BTreeMap;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A twin of a sidecar's struct, with the same members and no others.
macro_rules! plain {
    ($plain:ident of $full:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty,)* }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $plain {
            $($(#[$attribute])* $field: $kind,)*
        }

        impl From<$plain> for $full {
            fn from(plain: $plain) -> Self {
                Self {
                    $($field: plain.$field,)*
                    unknown: $crate::repo::sidecar::Unknown::new(),
                }
            }
        }
    };
}

pub(super) use plain;

/// Decodes an array of twins into the structs that they stand for.
pub(super) fn each<'de, P, F, D>(deserializer: D) -> Result<Vec<F>, D::Error>
where
    P: Deserialize<'de> + Into<F>,
    D: Deserializer<'de>,
{
    struct Each<P, F>(PhantomData<(P, F)>);
    impl<'de, P: Deserialize<'de> + Into<F>, F> Visitor<'de> for Each<P, F> {
        type Value = Vec<F>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<F>, A::Error> {
            let mut all = Vec::new();
            while let Some(plain) = seq.next_element::<P>()? {
                all.push(plain.into());
            }
            all.shrink_to_fit();
            Ok(all)
        }
    }
    deserializer.deserialize_seq(Each::<P, F>(PhantomData))
}

/// Decodes a map of names that users choose; a repeated one ends the attempt.
pub(super) fn names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names and values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = BTreeMap::new();
            while let Some((name, value)) = map.next_entry()? {
                if names.insert(name, value).is_some() {
                    return Err(A::Error::custom("a name is repeated"));
                }
            }
            Ok(names)
        }
    }
    deserializer.deserialize_map(Names)
}
