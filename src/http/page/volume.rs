//! What was found on the disks of a restore point: volumes, and the guest's joined trees.

use maud::{Markup, html};
use serde_json::Value;

use super::quantity::bytes;
use super::{address, spelling};

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A text of the document; such texts may be of the guest.
fn said(value: &Value, name: &str) -> Markup {
    html! { @if let Some(text) = text(value, name) { (spelling::name(text.as_bytes())) } }
}

fn state(volume: &Value) -> Markup {
    let (class, word) = match text(volume, "state").unwrap_or_default() {
        "readable" => ("state-good", "readable"),
        "no_filesystem" => ("state-none", "no filesystem"),
        "unsupported" => ("state-warn", "not supported"),
        "damaged" => ("state-bad", "damaged"),
        other => ("state-warn", other),
    };
    html! { span class={ "state " (class) } { (word) } }
}

/// Links to the guest's trees (`files`), with the system of each.
pub(super) fn trees(document: &Value, point: &str) -> Markup {
    let trees = list(document, "files");
    html! {
        @if trees.is_empty() {
            p.quiet { "No system was found whose files can be joined; its volumes are below." }
        } @else {
            ul {
                @for tree in trees {
                    @if let Some(name) = text(tree, "name") {
                        li {
                            a.strong href=(address::below(point, "files", &address::join(b"/", name.as_bytes()))) {
                                "Browse " (spelling::name(name.as_bytes()))
                            }
                            @if let Some(system) = text(tree, "system") { " " span.quiet { (spelling::name(system.as_bytes())) } }
                            @for unjoined in list(tree, "unjoined") {
                                br; span.quiet { "Without " (said(unjoined, "target")) ": " (said(unjoined, "reason")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The volumes as a table.
pub(super) fn table(document: &Value, point: &str) -> Markup {
    let volumes = list(document, "volumes");
    html! {
        @if document.get("complete").and_then(Value::as_bool) == Some(false) {
            p.notice.warn { "Not everything could be looked at; this list may lack something." }
        }
        @if volumes.is_empty() {
            p.quiet { "Nothing was found on the disks." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Table of volumes" {
                table {
                    thead {
                        tr {
                            th scope="col" { "Volume" } th scope="col" { "Content" } th scope="col" { "Label" }
                            th.number scope="col" { "Size" } th.number scope="col" { "Used" } th scope="col" { "State" } th scope="col" { "Reason" }
                        }
                    }
                    tbody { @for volume in volumes { (row(volume, point)) } }
                }
            }
        }
        @for note in list(document, "notes").iter().filter_map(Value::as_str) { p.quiet { (spelling::text(note)) } }
    }
}

fn row(volume: &Value, point: &str) -> Markup {
    let path = text(volume, "path").unwrap_or_default();
    let count = |name: &str| volume.get(name).and_then(Value::as_u64);
    html! {
        tr {
            th scope="row" {
                @if text(volume, "state") == Some("readable") {
                    a href=(address::below(point, "files", &address::join(b"/volumes", path.as_bytes()))) { (spelling::name(path.as_bytes())) }
                } @else { (spelling::name(path.as_bytes())) }
            }
            td { (said(volume, "content")) }
            td.wrap { (said(volume, "label")) }
            td.number { @if let Some(size) = count("size_bytes") { (bytes(size)) } }
            td.number { @if let Some(used) = count("used_bytes") { (bytes(used)) } }
            td { (state(volume)) }
            td.wrap {
                (said(volume, "reason"))
                @if let Some(of) = member_of(volume) { "part of " (spelling::name(of.as_bytes())) }
                @for note in list(volume, "notes").iter().filter_map(Value::as_str) { " " (spelling::text(note)) }
            }
        }
    }
}

/// What a volume is a part of.
fn member_of(volume: &Value) -> Option<String> {
    let of = volume.get("member_of").filter(|of| !of.is_null())?;
    Some(of.as_str().map_or_else(|| of.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::{table, trees};
    use serde_json::json;

    #[test]
    fn labels_of_guests_are_text() {
        let document = json!({
            "complete": false,
            "volumes": [{"path": "vda/part/1", "state": "readable", "label": "<b>\u{202e}", "size_bytes": 1024, "reason": null, "notes": []}],
            "files": [{"name": "files", "system": "<i>", "unjoined": [{"target": "/data", "reason": "missing"}]}],
        });
        let shown = table(&document, "/p").into_string();
        assert!(
            shown.contains("&lt;b&gt;") && shown.contains("U+202E"),
            "{shown}"
        );
        assert!(
            shown.contains("/p/files?path=%2Fvolumes%2Fvda%2Fpart%2F1"),
            "{shown}"
        );
        assert!(shown.contains("may lack something"));
        let shown = trees(&document, "/p").into_string();
        assert!(
            shown.contains("&lt;i&gt;") && shown.contains("/data"),
            "{shown}"
        );
    }
}
