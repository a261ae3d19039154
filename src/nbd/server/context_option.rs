//! The options that list and choose meta contexts (proto.md, "Metadata querying").

use super::context::{Chosen, Context, chosen, listed};
use super::handshake::{Handshake, Next, blocking, refusal};
use crate::error::{ErrorKind, Result};
use crate::nbd::proto::STRING_BYTES_MAX;
use crate::nbd::proto::option::{ContextRequest, MetaContext, OptionKind, ReplyKind};

/// LIMIT: queries of one option, each of which may read an index.
const QUERIES_MAX: usize = 256;

impl Handshake<'_> {
    /// Answers a list or a choice of meta contexts.
    pub(super) async fn contexts(&mut self, option: OptionKind, data: &[u8]) -> Result<Next> {
        let is_set = option == OptionKind::SetMetaContext;
        if is_set {
            self.chosen = None;
        }
        if !self.mode.has_chunks() {
            let why = "structured replies come first";
            return self.refuse(option, ReplyKind::ErrInvalid, why).await;
        }
        let request = match ContextRequest::parse(data) {
            Ok(request) => request,
            Err(e) => return self.refuse(option, ReplyKind::ErrInvalid, e.what()).await,
        };
        if request.queries.len() > QUERIES_MAX {
            let why = "more than 256 queries";
            return self.refuse(option, ReplyKind::ErrTooBig, why).await;
        }
        let opened = match self.open(&request.name).await {
            Ok(opened) => opened,
            Err(e) => return self.refuse(option, refusal(e.kind()), &e.report()).await,
        };
        let (name, queries) = (request.name, request.queries);
        let (asked, of) = (queries.clone(), opened.clone());
        let found: Result<Vec<(String, Option<Context>)>> = blocking(move || {
            if is_set {
                let all = chosen(&of, &asked)?;
                Ok(all.into_iter().map(|(name, c)| (name, Some(c))).collect())
            } else {
                let all = listed(&of, &asked)?;
                Ok(all.into_iter().map(|name| (name, None)).collect())
            }
        })
        .await?;
        let found = match found {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::LimitExceeded => {
                return self.refuse(option, ReplyKind::ErrTooBig, &e.report()).await;
            }
            Err(e) => return self.refuse(option, refusal(e.kind()), &e.report()).await,
        };
        let mut contexts = Vec::new();
        for (name, context) in found {
            if name.len() > STRING_BYTES_MAX {
                continue;
            }
            let id = context.as_ref().map_or(0, |context| context.id);
            let reply = MetaContext { id, name };
            self.reply(option, ReplyKind::MetaContext, &reply.encode())
                .await?;
            contexts.extend(context);
        }
        if is_set && !contexts.is_empty() {
            self.chosen = Some(Chosen {
                name,
                opened,
                contexts,
            });
        }
        self.reply(option, ReplyKind::Ack, &[]).await?;
        Ok(Next::Option)
    }
}
