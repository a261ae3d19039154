//! Meta contexts of a connection (proto.md, "Metadata querying").

use std::sync::Arc;

use super::export::Export;
use super::meta_context::{ContextExtent, ContextSource};
use crate::block::{ExtentKind, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::proto::BASE_ALLOCATION;
use crate::nbd::proto::flag::StatusFlags;

/// LIMIT: meta contexts of one connection, which limits the work for one request.
const CHOSEN_MAX: usize = 16;

/// LIMIT: meta contexts of one list.
const LIST_MAX: usize = 4096;

/// A meta context that a client has chosen.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) id: u32,
    /// `None` stands for `base:allocation`.
    source: Option<Arc<dyn ContextSource>>,
}

impl Context {
    /// The status of the bytes at `offset`, for at most `length_max` of them.
    pub(super) fn extent_at(
        &self,
        disk: &dyn ReadAt,
        offset: u64,
        length_max: u64,
    ) -> Result<ContextExtent> {
        let extent = match &self.source {
            Some(source) => source.extent_at(offset, length_max)?,
            None => {
                let extent = disk.extent_at(offset, length_max)?;
                let flags = match extent.kind {
                    ExtentKind::Data => StatusFlags::empty(),
                    ExtentKind::Zero => StatusFlags::ZERO,
                    ExtentKind::Hole => StatusFlags::HOLE | StatusFlags::ZERO,
                };
                ContextExtent {
                    length_bytes: extent.length_bytes,
                    flags: flags.bits(),
                }
            }
        };
        // A wrong length must not cause an endless loop.
        let length_bytes = extent.length_bytes.clamp(1, length_max.max(1));
        Ok(ContextExtent {
            length_bytes,
            ..extent
        })
    }
}

/// The chosen contexts, with the export that was opened for them: `latest` may be another point by the time
/// of the transmission.
pub(super) struct Chosen {
    pub(super) name: String,
    pub(super) opened: Export,
    pub(super) contexts: Vec<Context>,
}

/// Whether a query of a list matches a context: by its name, or by a prefix that ends with a colon.
fn asks_for(query: &str, name: &str) -> bool {
    query == name || (query.ends_with(':') && name.starts_with(query))
}

/// The context names for a list reply. Blocks.
pub(super) fn listed(opened: &Export, queries: &[String]) -> Result<Vec<String>> {
    let mut all = vec![BASE_ALLOCATION.to_owned()];
    // Listing all names may require reading many points.
    let wants_more =
        |query: &String| query.ends_with(':') && !BASE_ALLOCATION.starts_with(query.as_str());
    if let Some(contexts) = &opened.contexts
        && (queries.is_empty() || queries.iter().any(wants_more))
    {
        all.extend(contexts.names());
    }
    all.retain(|name| queries.is_empty() || queries.iter().any(|query| asks_for(query, name)));
    // A context that the full list omits because of its limit is still listed when a query names it.
    for query in queries.iter().take(CHOSEN_MAX) {
        if !all.contains(query) && !query.ends_with(':') && source_of(opened, query)?.is_some() {
            all.push(query.clone());
        }
    }
    all.truncate(LIST_MAX);
    Ok(all)
}

fn source_of(opened: &Export, name: &str) -> Result<Option<Arc<dyn ContextSource>>> {
    match &opened.contexts {
        Some(contexts) => contexts.open(name),
        None => Ok(None),
    }
}

/// The contexts for the queries of a choice, numbered from 1. Blocks.
pub(super) fn chosen(opened: &Export, queries: &[String]) -> Result<Vec<(String, Context)>> {
    let mut found: Vec<(String, Context)> = Vec::new();
    for query in queries {
        if found.iter().any(|(name, _)| name == query) {
            continue;
        }
        let source = if query == BASE_ALLOCATION {
            None
        } else {
            match source_of(opened, query)? {
                Some(source) => Some(source),
                None => continue,
            }
        };
        if found.len() >= CHOSEN_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("more than {CHOSEN_MAX} meta contexts"),
            ));
        }
        let id = u32::try_from(found.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        found.push((query.clone(), Context { id, source }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::asks_for;

    #[test]
    fn a_list_takes_names_and_prefixes_that_end_with_a_colon() {
        for (query, name, is_asked) in [
            ("base:", "base:allocation", true),
            ("base:allocation", "base:allocation", true),
            ("base:alloc", "base:allocation", false),
            ("", "base:allocation", false),
            ("x:since:", "x:since:p", true),
            ("x", "x:since:p", false),
        ] {
            assert_eq!(asks_for(query, name), is_asked, "{query} {name}");
        }
    }
}
