//! Files of a restore point as one archive.

use axum::http::{HeaderValue, Version, header};
use axum::response::Response;

use crate::error::{Error, ErrorKind, Result};
use crate::export::archive::Format;
use crate::export::files::Loss;
use crate::http::call::Call;
use crate::http::content::SANDBOX;
use crate::http::download::{self, ArchiveSink};
use crate::http::name;
use crate::http::reply::Answer;
use crate::service::view::{ArchiveChoice, Packed};
use crate::task::Monitor;

/// A format with its extension and media type.
fn format(text: Option<&str>) -> Result<(Format, &'static str, &'static str)> {
    match text {
        Some("tar") => Ok((Format::Tar, "tar", "application/x-tar")),
        Some("tar.zst") => Ok((Format::TarZstd, "tar.zst", "application/zstd")),
        None | Some("zip") => Ok((Format::Zip, "zip", "application/zip")),
        Some(_) => Err(Error::invalid("the format is tar, tar.zst or zip")),
    }
}

/// Refuses an archive that lacks what could not be read: the client must not take it for whole.
fn whole(packed: &Packed) -> Result<()> {
    if packed.failed_count == 0 {
        return Ok(());
    }
    let mut lost = packed.skipped.iter();
    let first = lost.find(|one| one.loss == Loss::Unreadable);
    let what = format!("{} entries could not be read", packed.failed_count);
    Err(match first {
        Some(first) => Error::new(
            ErrorKind::Io,
            format!("{what}; one of them: {}", first.reason),
        )
        .at_path(&first.path),
        None => Error::new(ErrorKind::Io, what),
    })
}

/// Files and directories of a restore point as one archive. An error in the middle breaks the connection: the archive never ends as if it
/// were whole.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/archive", tag = "files", operation_id = "readArchive",
    params(("path" = Vec<String>, Query), ("format" = Option<String>, Query)),
    responses((status = 200, description = "The archive", content_type = "application/zip")))]
pub(in crate::http) async fn read(call: Call) -> Answer {
    let query = call.query(&["path", "format"])?;
    let (format, paths) = (query.text("format")?, query.all("path"));
    answer(call, format.as_deref(), paths).await
}

/// Answers with these paths as an archive.
pub(in crate::http) async fn answer(
    call: Call,
    named: Option<&str>,
    paths: Vec<Vec<u8>>,
) -> Answer {
    let (format, extension, media) = format(named)?;
    let choice = ArchiveChoice { format, paths };
    if call.version < Version::HTTP_11 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "HTTP/1.0 cannot tell a broken archive from a whole one",
        )
        .advise("use HTTP/1.1")
        .into());
    }
    let archive = call
        .work(move |call| call.view()?.archive(&call.vm()?, &call.which()?, &choice))
        .await?;
    let file = format!("{}-{}.{extension}", call.param("vm"), archive.point);
    let body = download::body(&call, file.clone(), None, move |sink| {
        let monitor = Monitor::default();
        let packed = archive.write(Box::new(ArchiveSink::new(sink)), &monitor)?;
        if packed.skipped_count > 0 {
            tracing::info!(
                left_out = packed.skipped_count,
                "an archive leaves something out"
            );
        }
        whole(&packed)
    })?;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(
        header::CONTENT_DISPOSITION,
        name::attachment(file.as_bytes()),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(SANDBOX),
    );
    Ok(response)
}
