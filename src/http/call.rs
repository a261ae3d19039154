//! A request that was let in: who, what, and where from.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Version};

use super::credential::Identity;
use super::fault::Fault;
use super::peer::Peer;
use super::query::Query;
use super::site::Site;
use crate::access::Caller;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::selector::Which;
use crate::service::view::View;
use crate::types::{DiskName, PointName, SessionRef, VmName};

/// A request without its body.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) site: Arc<Site>,
    pub(super) caller: Caller,
    pub(super) peer: Peer,
    pub(super) headers: HeaderMap,
    pub(super) version: Version,
    raw_query: Option<String>,
    params: Vec<(String, String)>,
    query: Query,
}

impl FromRequestParts<Arc<Site>> for Call {
    type Rejection = Fault;

    async fn from_request_parts(
        parts: &mut Parts,
        site: &Arc<Site>,
    ) -> std::result::Result<Self, Fault> {
        let params = RawPathParams::from_request_parts(parts, site)
            .await
            .map_err(|_| Fault::of_status(StatusCode::BAD_REQUEST, "the path is not UTF-8"))?;
        let params = params
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let nobody = || Fault::unauthenticated("nobody is logged in");
        let identity = parts.extensions.get::<Identity>().ok_or_else(nobody)?;
        let peer = parts.extensions.get::<Peer>().ok_or_else(nobody)?;
        Ok(Self {
            site: Arc::clone(site),
            caller: identity.caller.clone(),
            peer: peer.clone(),
            headers: parts.headers.clone(),
            version: parts.version,
            raw_query: parts.uri.query().map(str::to_owned),
            params,
            query: Query::parse(parts.uri.query())?,
        })
    }
}

impl Call {
    /// A part of the path.
    pub(super) fn param(&self, name: &str) -> &str {
        let mut all = self.params.iter();
        all.find(|(known, _)| known == name)
            .map_or("", |(_, value)| value.as_str())
    }

    /// The query, with these parameters and no others.
    ///
    /// # Errors
    /// `InvalidInput` for another one.
    pub(super) fn query(&self, known: &[&str]) -> Result<&Query> {
        self.query.only(known)?;
        Ok(&self.query)
    }

    /// The query of a page, in which a browser's form may have written a space as `+`. Pages ignore parameters that they do not know.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(super) fn form(&self) -> Result<Query> {
        Query::parse_form(self.raw_query.as_deref())
    }

    /// The repository.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn view(&self) -> Result<View> {
        self.view_of(self.param("repository"))
    }

    /// All repositories that exist for the caller.
    pub(super) fn views(&self) -> Vec<View> {
        self.site.views(&self.caller, &self.peer)
    }

    /// The repository of that name.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn view_of(&self, name: &str) -> Result<View> {
        self.site.view(name, &self.caller, &self.peer)
    }

    /// The VM.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong` for what is no name.
    pub(super) fn vm(&self) -> Result<VmName> {
        VmName::new(self.param("vm"))
    }

    /// The restore point: a name, `latest`, `latest~2`.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong`.
    pub(super) fn which(&self) -> Result<Which> {
        self.param("point").parse()
    }

    /// The disk.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong`.
    pub(super) fn disk(&self) -> Result<DiskName> {
        DiskName::new(self.param("disk"))
    }

    /// The session.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong`.
    pub(super) fn session(&self) -> Result<SessionRef> {
        Ok(SessionRef {
            vm: self.vm()?,
            session: PointName::new(self.param("session"))?,
        })
    }

    /// Does work that reads or writes on a thread for it.
    ///
    /// # Errors
    /// Those of the work.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, Fault> {
        let stopping = |_| {
            Fault::from(Error::new(
                ErrorKind::Disconnected,
                "the daemon is about to stop",
            ))
        };
        let place = Arc::clone(&self.site.working)
            .acquire_owned()
            .await
            .map_err(stopping)?;
        let call = self.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&call)
        });
        match worked.await {
            Ok(result) => result.map_err(Fault::from),
            Err(e) => Err(Fault::from(
                Error::new(ErrorKind::Io, "the request failed inside the daemon").caused_by(e),
            )),
        }
    }
}
