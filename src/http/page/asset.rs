//! The script, the stylesheet and the icon of all pages. Each has the hash of its content in its address, so that a browser keeps it.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::http::fault::Fault;

/// Digits of the hash in an address.
const HASH_DIGITS: usize = 16;

/// A file that pages use.
pub(super) struct Asset {
    stem: &'static str,
    extension: &'static str,
    media: &'static str,
    content: &'static str,
    name: LazyLock<String>,
}

/// The script.
pub(super) static SCRIPT: Asset = Asset {
    stem: "script",
    extension: "js",
    media: "text/javascript; charset=utf-8",
    content: include_str!("script.js"),
    name: LazyLock::new(|| SCRIPT.hashed()),
};

/// The stylesheet.
pub(super) static STYLE: Asset = Asset {
    stem: "style",
    extension: "css",
    media: "text/css; charset=utf-8",
    content: include_str!("style.css"),
    name: LazyLock::new(|| STYLE.hashed()),
};

/// The icon.
pub(super) static ICON: Asset = Asset {
    stem: "icon",
    extension: "svg",
    media: "image/svg+xml",
    content: include_str!("icon.svg"),
    name: LazyLock::new(|| ICON.hashed()),
};

impl Asset {
    fn hashed(&self) -> String {
        let hash = blake3::hash(self.content.as_bytes()).to_hex();
        let digits = hash.get(..HASH_DIGITS).unwrap_or_default();
        format!("{}.{digits}.{}", self.stem, self.extension)
    }

    /// Its address.
    pub(super) fn address(&self) -> String {
        format!("/static/{}", *self.name)
    }
}

/// Answers with a file that pages use.
pub(super) async fn serve(Path(name): Path<String>) -> Result<Response, Fault> {
    let mut all = [&SCRIPT, &STYLE, &ICON].into_iter();
    let asset = all.find(|asset| *asset.name == name).ok_or_else(|| {
        Fault::of_status(
            StatusCode::NOT_FOUND,
            "this release has no such file; load the page again",
        )
    })?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media)),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        ),
    ];
    Ok((headers, asset.content).into_response())
}
