//! Disks of restore points.

use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::http::{content, download};
use crate::service::view::{Page, PointDiskAnswer};

/// The disks of a restore point.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/disks", tag = "disks", operation_id = "listDisks",
    responses((status = 200, description = "The disks", body = Page<PointDiskAnswer>)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    call.query(&[])?;
    let items = call
        .work(|call| Ok(call.view()?.point(&call.vm()?, &call.which()?)?.disks))
        .await?;
    reply::fresh(&call.headers, &Page { items, next: None })
}

/// The content of a disk, or a range of it. Each cluster is verified before it is sent; the entity tag is the content root.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/disks/{disk}", tag = "disks", operation_id = "readDisk",
    params(("Range" = Option<String>, Header)),
    responses(
        (status = 200, description = "The whole disk", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
        (status = 304, description = "The client has it already")))]
pub(in crate::http) async fn read(call: Call) -> Answer {
    call.query(&[])?;
    let disk = call
        .work(|call| {
            call.view()?
                .disk(&call.vm()?, &call.which()?, &call.disk()?)
        })
        .await?;
    let tag = format!("\"{}\"", disk.content_root);
    let file = format!("{}-{}-{}.raw", call.param("vm"), disk.point, disk.name);
    let size = disk.size_bytes();
    let what = format!("{} of {}@{}", disk.name, call.param("vm"), disk.point);
    content::ranged(&call, size, &tag, file.as_bytes(), |begin, end| {
        download::body(&call, what, Some(end - begin), move |sink| {
            let mut failed = Ok(());
            disk.reader(begin, end).read(|bytes| {
                failed = sink.put(bytes);
                failed.is_ok()
            })?;
            failed
        })
    })
}
