//! `status` and `nbd-targets` of a session.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::ingest::{DiskStats, DiskWriter, Door, Session, SessionState};
use crate::tree::Tree;
use crate::tree::document;
use crate::tree::inode::{self, Ino, low};
use crate::tree::session_node::{Part, SessionNode};

fn disk(disk: &DiskWriter, temporary: Option<&String>) -> Value {
    let (meta, stats) = (disk.meta(), disk.stats());
    json!({
        "name": meta.name,
        "file": temporary.cloned().unwrap_or_else(|| format!("{}.raw", meta.name)),
        "replaces": temporary.map(|_| format!("{}.raw", meta.name)),
        "key": meta.key,
        "kind": meta.kind,
        "full_reason": meta.full_reason,
        "size_bytes": disk.source_bytes(),
        "received_bytes": stats.received_bytes,
        "equal_bytes": stats.equal_bytes,
        "zero_bytes": stats.zero_bytes,
        "stored_bytes": stats.stored_bytes,
        "written_share": disk.written_share(),
        "written_at": (stats != DiskStats::default()).then(|| disk.written_at()),
        "door": disk.door().map(Door::name),
        "finished": disk.is_finished(),
    })
}

fn status(session: &Session) -> Value {
    let sidecar = session.sidecar();
    let disks: Vec<Value> = session
        .files()
        .iter()
        .map(|(temporary, one)| disk(one, temporary.as_ref()))
        .collect();
    let removed = sidecar.disks.iter().filter(|disk| disk.unlinked);
    let removed: Vec<_> = removed.map(|disk| &disk.name).collect();
    json!({
        "schema": 1,
        "vm": sidecar.vm,
        "session": sidecar.name,
        "state": match session.state() {
            SessionState::Open if sidecar.dismantled => "dismantled",
            SessionState::Open => "open",
            SessionState::Committing => "committing",
            SessionState::Committed(_) => "committed",
            SessionState::Aborted => "aborted",
        },
        "parent": sidecar.parent,
        "captured_at": sidecar.captured_at,
        "ttl_seconds": sidecar.ttl_seconds,
        "disks": disks,
        "removed": removed,
        "declared": sidecar.declared,
        "last_error": session.last_error(),
    })
}

impl Tree {
    /// The number and the bytes of a document: of the version `ino` if it is still known, else of the present
    /// one.
    pub(in crate::tree) fn session_document(
        &self,
        node: &SessionNode,
        ino: Option<Ino>,
    ) -> (Ino, Arc<[u8]>) {
        if let Some(ino) = ino
            && let Some(bytes) = self.shared.documents.get(&ino)
        {
            return (ino, bytes);
        }
        let (bytes, kind) = match &node.part {
            Part::Targets => {
                let text = self.open_sessions.as_ref().map(|open_sessions| {
                    let mut text = open_sessions.sessions().nbd_targets(&node.session);
                    text.push('\n');
                    text.into_bytes()
                });
                (text.unwrap_or_default(), low::VOLUMES_JSON)
            }
            _ => (document::bytes(&status(&node.session)), low::INFO),
        };
        let bytes: Arc<[u8]> = bytes.into();
        let low = kind | (inode::hash(&bytes) & low::DOCUMENT_MASK);
        let ino = ino.unwrap_or_else(|| node.ino(low));
        self.shared
            .documents
            .put(ino, Arc::clone(&bytes), bytes.len());
        (ino, bytes)
    }
}
