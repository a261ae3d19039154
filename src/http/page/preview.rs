//! What is shown of a file beside its name: the begin of a text, or a picture.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use maud::{Markup, html};

use super::{address, spelling};
use crate::error::Error;
use crate::http::call::Call;
use crate::http::content::SANDBOX;
use crate::http::fault::Fault;
use crate::http::reply::Answer;
use crate::service::view::Preview;

/// The preview in the page of a file. `address` is that of the file's point.
pub(super) fn show(preview: &Preview, point: &str, path: &[u8]) -> Markup {
    html! {
        @match preview {
            Preview::Text { text, .. } if text.is_empty() => p.quiet { "The file is empty." },
            Preview::Text { text, is_cut } => {
                @if *is_cut { p.quiet { "The first 64 KiB:" } }
                pre.preview tabindex="0" { (spelling::text(text)) }
            }
            Preview::Picture { .. } => {
                @let name = address::names(path).last().copied().unwrap_or_default();
                img.preview src=(address::below(point, "preview", path)) alt={ "Picture: " (spelling::plain(name)) };
            }
            Preview::Binary => p.quiet { "This is no text and no picture that is shown here. Download it." },
        }
    }
}

/// The bytes of a picture, or the begin of a text, with the media type that was found and no other.
pub(super) async fn serve(call: Call) -> Answer {
    let path = call.query(&["path"])?.bytes("path")?;
    let path = path.ok_or_else(|| Error::invalid("the path is missing"))?;
    let preview = call
        .work(move |call| call.view()?.preview(&call.vm()?, &call.which()?, &path))
        .await?;
    let (media, bytes) = match preview {
        Preview::Picture { media, bytes } => (media, bytes),
        Preview::Text { text, .. } => ("text/plain; charset=utf-8", text.into_bytes()),
        Preview::Binary => {
            return Err(Fault::of_status(
                StatusCode::NOT_FOUND,
                "there is no preview of this file",
            ));
        }
    };
    let headers = [
        (header::CONTENT_TYPE, media),
        (header::CONTENT_SECURITY_POLICY, SANDBOX),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "private, no-store"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok((headers, bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::show;
    use crate::service::view::Preview;

    #[test]
    fn a_text_is_escaped() {
        let text = Preview::Text {
            text: "<script>alert(1)</script>\u{202e}".to_owned(),
            is_cut: true,
        };
        let shown = show(&text, "/p", b"/files/x").into_string();
        assert!(
            shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
            "{shown}"
        );
        assert!(shown.contains("U+202E") && !shown.contains('\u{202e}'));
    }

    #[test]
    fn a_picture_comes_from_an_address_of_ours() {
        let picture = Preview::Picture {
            media: "image/png",
            bytes: Vec::new(),
        };
        let shown = show(&picture, "/p", b"/files/a\"b").into_string();
        assert!(
            shown.contains("src=\"/p/preview?path=%2Ffiles%2Fa%22b\""),
            "{shown}"
        );
        assert!(shown.contains("alt=\"Picture: a&quot;b\""), "{shown}");
    }
}
