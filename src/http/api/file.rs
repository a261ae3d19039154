//! The tree below a restore point: directories and files.

use crate::error::Error;
use crate::http::call::Call;
use crate::http::content;
use crate::http::download;
use crate::http::reply::{self, Answer};
use crate::service::view::Listing;

fn path(call: &Call) -> crate::error::Result<Vec<u8>> {
    call.query(&["path", "after", "limit"])?
        .bytes("path")?
        .ok_or_else(|| Error::invalid("the path is missing").advise("add ?path=/files"))
}

/// What a path of a restore point leads to: of a directory a page of its entries. The path is bytes, percent-encoded.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/files", tag = "files", operation_id = "listFiles",
    params(("path" = String, Query), ("after" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "The node, and entries of a directory", body = Listing)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    let path = path(&call)?;
    let slice = call.query(&["path", "after", "limit"])?.slice()?;
    let listing = call
        .work(move |call| {
            call.view()?
                .list(&call.vm()?, &call.which()?, &path, &slice)
        })
        .await?;
    reply::fresh(&call.headers, &listing)
}

/// The content of a file, or a range of it. It is always an attachment: a browser saves it.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/content", tag = "files", operation_id = "readFile",
    params(("path" = String, Query), ("Range" = Option<String>, Header)),
    responses(
        (status = 200, description = "The whole file", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
        (status = 304, description = "The client has it already")))]
pub(in crate::http) async fn read(call: Call) -> Answer {
    call.query(&["path"])?;
    let path = path(&call)?;
    let shown = String::from_utf8_lossy(&path).escape_debug().to_string();
    let file = call
        .work(move |call| call.view()?.file(&call.vm()?, &call.which()?, &path))
        .await?;
    let tag = format!("\"{}\"", file.tag);
    let (size, name) = (file.size_bytes(), file.name.clone());
    content::ranged(&call, size, &tag, &name, |begin, end| {
        download::body(&call, shown, Some(end - begin), move |sink| {
            let mut failed = Ok(());
            file.read(begin, end, |bytes| {
                failed = sink.put(bytes);
                failed.is_ok()
            })?;
            failed
        })
    })
}
