//! The document around the content of every page.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::asset::{ICON, SCRIPT, STYLE};
use crate::http::call::Call;

/// The places of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Jobs,
    Elsewhere,
}

/// A page.
pub(super) struct Frame {
    /// Its title, without markup.
    pub(super) title: String,
    /// Where it stands in the navigation.
    pub(super) place: Place,
    /// Who is logged in; without anybody there is no navigation.
    pub(super) who: Option<String>,
}

impl Frame {
    /// A page for the caller of a request.
    pub(super) fn of(call: &Call, title: String, place: Place) -> Self {
        Self {
            title,
            place,
            who: Some(call.caller.to_string()),
        }
    }

    /// The whole document.
    fn document(&self, content: &Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " - restorefs" }
                    link rel="icon" type="image/svg+xml" href=(ICON.address());
                    link rel="stylesheet" href=(STYLE.address());
                    script src=(SCRIPT.address()) defer {}
                }
                body {
                    a.skip href="#content" { "Skip to the content" }
                    header.top {
                        p.brand { a href="/" { "restorefs" } }
                        @if let Some(who) = &self.who {
                            nav aria-label="Main" {
                                ul {
                                    li { (self.link("/", "Overview", Place::Overview)) }
                                    li { (self.link("/jobs", "Jobs", Place::Jobs)) }
                                }
                            }
                            form.logout method="post" action="/logout" {
                                span.who { (who) }
                                button type="submit" { "Log out" }
                            }
                        }
                    }
                    main #content tabindex="-1" { (content) }
                }
            }
        }
    }

    fn link(&self, address: &str, text: &str, place: Place) -> Markup {
        html! {
            @if self.place == place {
                a href=(address) aria-current="page" { (text) }
            } @else {
                a href=(address) { (text) }
            }
        }
    }

    /// The page as an answer.
    pub(super) fn answer(&self, status: StatusCode, content: &Markup) -> Response {
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            ),
            // Without it a browser states no origin with the forms of a page, and a form without one is refused.
            (
                header::REFERRER_POLICY,
                HeaderValue::from_static("same-origin"),
            ),
        ];
        (status, headers, self.document(content).into_string()).into_response()
    }
}

/// Where a page lies: links to what is above it, and its own name.
pub(super) fn crumbs(above: &[(String, Markup)], here: &Markup) -> Markup {
    html! {
        nav.crumbs aria-label="Path" {
            ol {
                @for (address, name) in above {
                    li { a href=(address) { (name) } }
                }
                li aria-current="page" { (here) }
            }
        }
    }
}

/// A remark that somebody should read.
pub(super) fn notice(class: &str, content: &Markup) -> Markup {
    html! { div class={ "notice " (class) } { (content) } }
}
