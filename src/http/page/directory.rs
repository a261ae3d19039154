//! The files of a restore point: a directory, or one file with its preview.

use axum::http::StatusCode;
use maud::{Markup, html};

use super::frame::{Frame, Place, crumbs, notice};
use super::listing::{self, Key, PAGE_ENTRIES};
use super::quantity::{at, bytes};
use super::{address, preview, selection, spelling, switcher};
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::http::call::Call;
use crate::http::query::Query;
use crate::http::reply::Answer;
use crate::service::view::{
    EntryAnswer, EntryKind, Listing, PointAnswer, PointMark, Preview, Slice, View,
};
use crate::types::size::Count;
use crate::types::{RepositoryName, VmName};

/// LIMIT: entries of a directory that are sorted; larger ones are shown in their own order.
const SORTED_MAX: usize = 200_000;

/// What a page was asked for.
struct Asked {
    path: Vec<u8>,
    key: Key,
    is_descending: bool,
    page: usize,
    after: Option<String>,
    filter: String,
    is_switched: bool,
}

impl Asked {
    fn of(form: &Query) -> Result<Self> {
        let path = match (form.bytes("path")?, form.bytes("at")?) {
            (Some(path), _) => path,
            (None, Some(at)) => selection::field(&at)?,
            (None, None) => b"/files".to_vec(),
        };
        let key = form.text("sort")?.and_then(|text| Key::parse(&text));
        let page = form.text("page")?.and_then(|text| text.parse().ok());
        Ok(Self {
            path: address::rooted(&address::names(&path)),
            key: key.unwrap_or_default(),
            is_descending: form.text("order")?.as_deref() == Some("desc"),
            page: page.unwrap_or(1),
            after: form.text("after")?.filter(|after| !after.is_empty()),
            filter: form.text("filter")?.unwrap_or_default(),
            is_switched: form.text("switched")?.is_some(),
        })
    }
}

/// A directory or file that was found.
struct Shown {
    asked: Asked,
    repository: RepositoryName,
    vm: VmName,
    point: PointAnswer,
    marks: Vec<PointMark>,
    listing: Listing,
    /// Entries that fit the filter, on all pages; `None` where they are not counted.
    total: Option<usize>,
    preview: Option<Result<Preview>>,
    /// The path that was asked for and does not exist here.
    missing: Option<Vec<u8>>,
    may_restore: bool,
}

impl Shown {
    fn look(call: &Call, mut asked: Asked) -> Result<Self> {
        let (view, vm) = (call.view()?, call.vm()?);
        let point = view.point(&vm, &call.which()?)?;
        let (listing, missing) = Self::find(call, &view, &mut asked)?;
        let is_file = listing.node.kind == EntryKind::File;
        let may_restore = view.may(Right::Restore, &vm);
        let preview = (is_file && may_restore).then(|| {
            call.which()
                .and_then(|which| view.preview(&vm, &which, &asked.path))
        });
        let mut shown = Self {
            repository: view.name().clone(),
            marks: view.marks(&vm)?,
            vm,
            point,
            listing,
            total: None,
            preview,
            missing,
            may_restore,
            asked,
        };
        shown.arrange();
        Ok(shown)
    }

    /// What the path leads to; after a switch from another point the nearest directory above it that exists here.
    fn find(call: &Call, view: &View, asked: &mut Asked) -> Result<(Listing, Option<Vec<u8>>)> {
        let (vm, which) = (call.vm()?, call.which()?);
        let list = |path: &[u8], after: Option<String>, limit| {
            view.list(&vm, &which, path, &Slice { after, limit })
        };
        if asked.after.is_some() {
            let listing = list(&asked.path, asked.after.clone(), PAGE_ENTRIES)?;
            return Ok((listing, None));
        }
        let mut missing = None;
        let listing = loop {
            match list(&asked.path, None, SORTED_MAX) {
                Ok(listing) => break listing,
                Err(e) if asked.is_switched && is_absent(&e) => {
                    let above = address::above(&asked.path).ok_or(e)?;
                    let gone = std::mem::replace(&mut asked.path, above);
                    missing.get_or_insert(gone);
                }
                Err(e) => return Err(e),
            }
        };
        match listing.next.is_some() {
            false => Ok((listing, missing)),
            true => Ok((list(&asked.path, None, PAGE_ENTRIES)?, missing)),
        }
    }

    /// Filters, sorts and cuts the entries, where all of them are here.
    fn arrange(&mut self) {
        let entries = &mut self.listing.items;
        listing::filter(entries, &self.asked.filter);
        if self.listing.next.is_some() || self.asked.after.is_some() {
            return;
        }
        listing::sort(entries, self.asked.key, self.asked.is_descending);
        self.total = Some(entries.len());
        self.asked.page = self.asked.page.clamp(1, listing::pages(entries.len()));
        let before = (self.asked.page - 1) * PAGE_ENTRIES;
        entries.drain(..before.min(entries.len()));
        entries.truncate(PAGE_ENTRIES);
    }

    fn point_address(&self) -> String {
        address::point(&self.repository, &self.vm, &self.point.name)
    }

    /// The address of a path of this point, in the same order.
    fn files(&self, path: &[u8]) -> String {
        let mut address = address::below(&self.point_address(), "files", path);
        if self.asked.key != Key::Name || self.asked.is_descending {
            address = address::with(&address, "sort", &self.asked.key.as_str());
            address = address::with(
                &address,
                "order",
                &if self.asked.is_descending {
                    "desc"
                } else {
                    "asc"
                },
            );
        }
        address
    }

    /// The address of another part of this directory.
    fn part(&self, name: &str, value: &str) -> String {
        let mut address = self.files(&self.asked.path);
        if !self.asked.filter.is_empty() {
            address = address::with(&address, "filter", &self.asked.filter);
        }
        address::with(&address, name, &value)
    }

    fn crumbs(&self) -> Markup {
        let mut above = vec![
            (address::vm(&self.repository, &self.vm), html! { (self.vm) }),
            (self.point_address(), html! { (self.point.name) }),
        ];
        let names = address::names(&self.asked.path);
        let Some((last, parents)) = names.split_last() else {
            return crumbs(&above, &html! { "/" });
        };
        above.push((self.files(b"/"), html! { "/" }));
        for (n, name) in parents.iter().enumerate() {
            let path = address::rooted(names.get(..=n).unwrap_or_default());
            above.push((self.files(&path), spelling::name(name)));
        }
        crumbs(&above, &spelling::name(last))
    }

    fn title(&self) -> (Markup, String) {
        match address::names(&self.asked.path).last() {
            Some(name) => (spelling::name(name), spelling::plain(name)),
            None => (html! { "Files" }, "Files".to_owned()),
        }
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The page.
pub(super) async fn show(call: Call) -> Answer {
    let asked = Asked::of(&call.form()?)?;
    let shown = call.work(move |call| Shown::look(call, asked)).await?;
    let (heading, title) = shown.title();
    let frame = Frame::of(
        &call,
        format!("{title} - {}@{}", shown.vm, shown.point.name),
        Place::Elsewhere,
    );
    let content = html! {
        (shown.crumbs())
        h1.path { (heading) }
        @if let Some(missing) = &shown.missing {
            (notice("warn", &html! {
                p { (spelling::name(missing)) " does not exist in this restore point. This is the nearest directory above it that does." }
            }))
        }
        @for unread in &shown.listing.unread {
            (notice("warn", &html! { p { "Not shown: " (spelling::name(unread.path.as_bytes())) ": " (spelling::text(&unread.reason)) } }))
        }
        (switcher::form(&shown.repository, &shown.vm, &shown.point.name, &shown.marks, &shown.asked.path))
        @if shown.listing.node.kind == EntryKind::Directory { (directory(&shown)) } @else { (file(&shown)) }
    };
    Ok(frame.answer(StatusCode::OK, &content))
}

fn directory(shown: &Shown) -> Markup {
    let asked = &shown.asked;
    html! {
        form.filter method="get" action={ (shown.point_address()) "/files" } {
            input type="hidden" name="at" value=(address::encode(&asked.path));
            input type="hidden" name="sort" value=(asked.key.as_str());
            input type="hidden" name="order" value=(if asked.is_descending { "desc" } else { "asc" });
            div {
                label for="filter" { "Name has" }
                input #filter type="search" name="filter" value=(asked.filter) autocomplete="off" spellcheck="false" data-filter="";
            }
            button type="submit" { "Filter" }
            @if !asked.filter.is_empty() { a href=(shown.files(&asked.path)) { "Show all" } }
        }
        p.quiet { (count(shown)) }
        @if shown.listing.items.is_empty() {
            p { @if asked.filter.is_empty() { "The directory is empty." } @else { "No name in it has these letters." } }
        } @else {
            (table(shown))
        }
        (pages(shown))
        @if let Some(above) = address::above(&asked.path) {
            p { a #above href=(shown.files(&above)) data-above="" { "Up to the directory above" } }
        }
        details.keys {
            summary { "Keys" }
            p {
                kbd { "Up" } " and " kbd { "Down" } " move, " kbd { "Enter" } " opens, " kbd { "Backspace" } " goes up, "
                kbd { "/" } " filters this page, " kbd { "Space" } " selects."
            }
        }
    }
}

fn count(shown: &Shown) -> Markup {
    html! {
        @match shown.total {
            Some(total) => {
                (Count::of(total, "entry"))
                @if listing::pages(total) > 1 { ", page " (shown.asked.page) " of " (listing::pages(total)) }
            }
            None => {
                "More than " (SORTED_MAX) " entries: they are shown in the order of the directory, and a filter looks at one page."
            }
        }
    }
}

fn pages(shown: &Shown) -> Markup {
    let page = shown.asked.page;
    let links = match (shown.total, &shown.listing.next) {
        (Some(total), _) => {
            let before = (page > 1).then(|| shown.part("page", &(page - 1).to_string()));
            let after =
                (page < listing::pages(total)).then(|| shown.part("page", &(page + 1).to_string()));
            (before, after)
        }
        (None, next) => (None, next.as_ref().map(|next| shown.part("after", next))),
    };
    html! {
        @if links.0.is_some() || links.1.is_some() {
            nav.pages aria-label="Pages" {
                @if let Some(before) = &links.0 { a href=(before) rel="prev" { "Previous page" } }
                @if let Some(after) = &links.1 { a href=(after) rel="next" { "Next page" } }
            }
        }
    }
}

/// The heading of a column, which sorts by it.
fn heading(shown: &Shown, key: Key, text: &str, class: &str) -> Markup {
    let asked = &shown.asked;
    let is_this = asked.key == key;
    let turned = if is_this && !asked.is_descending {
        "desc"
    } else {
        "asc"
    };
    let sort = is_this.then_some(if asked.is_descending {
        "descending"
    } else {
        "ascending"
    });
    let mut address = address::below(&shown.point_address(), "files", &asked.path);
    for (name, value) in [("sort", key.as_str()), ("order", turned)] {
        address = address::with(&address, name, &value);
    }
    if !asked.filter.is_empty() {
        address = address::with(&address, "filter", &asked.filter);
    }
    html! {
        th scope="col" class=(class) aria-sort=[sort] {
            @if shown.total.is_some() {
                a href=(address) { (text) }
                @if is_this {
                    span aria-hidden="true" { (if asked.is_descending { " \u{2193}" } else { " \u{2191}" }) }
                }
            } @else { (text) }
        }
    }
}

fn table(shown: &Shown) -> Markup {
    let point = shown.point_address();
    html! {
        form #selection method="get" action={ (point) "/archive" } data-archive="" {
            input type="hidden" name="in" value=(address::encode(&shown.asked.path));
            @if shown.may_restore {
                div.actions role="group" aria-label="Download" {
                    span { "Download what is selected, or all of this directory:" }
                    button type="submit" name="format" value="zip" { "zip" }
                    button type="submit" name="format" value="tar.zst" { "tar.zst" }
                    span.told role="status" data-told="" {}
                }
            }
            div.scroll tabindex="0" role="region" aria-label="Table of entries" {
                table.files data-files="" {
                    thead {
                        tr {
                            @if shown.may_restore { th scope="col" { span.visually-hidden { "Select" } } }
                            (heading(shown, Key::Name, "Name", ""))
                            (heading(shown, Key::Size, "Size", "number"))
                            (heading(shown, Key::Time, "Modified", ""))
                            th scope="col" { "Mode" } th scope="col" { "Owner" } th scope="col" { "Type" }
                            @if shown.may_restore { th scope="col" { span.visually-hidden { "Download" } } }
                        }
                    }
                    tbody {
                        @for entry in &shown.listing.items { (row(shown, &point, entry)) }
                    }
                }
            }
        }
    }
}

fn row(shown: &Shown, point: &str, entry: &EntryAnswer) -> Markup {
    let path = address::join(&shown.asked.path, &entry.bytes);
    let plain = spelling::plain(&entry.bytes);
    html! {
        tr {
            @if shown.may_restore {
                td { input type="checkbox" name="name" value=(address::encode(&entry.bytes)) aria-label={ "Select " (plain) }; }
            }
            th.name scope="row" {
                @if entry.kind == EntryKind::Unreadable {
                    (spelling::name(&entry.bytes))
                } @else {
                    a href=(shown.files(&path)) data-name="" {
                        (spelling::name(&entry.bytes))
                        @if entry.kind == EntryKind::Directory { "/" }
                    }
                }
                @if let Some(target) = &entry.target { span.quiet { " \u{2192} " (spelling::name(target.as_bytes())) } }
            }
            td.number { @if let Some(size) = entry.size_bytes { (bytes(size)) } }
            td { @if let Some(mtime) = entry.mtime { (at(mtime)) } }
            td { @if let Some(mode) = &entry.mode { code { (mode) } } }
            td.owner { (owner(entry)) }
            td { (word(entry.kind)) }
            @if shown.may_restore {
                td {
                    @if entry.kind == EntryKind::File {
                        a href=(address::below(point, "download", &path)) aria-label={ "Download " (plain) } { "Download" }
                    }
                }
            }
        }
    }
}

fn owner(entry: &EntryAnswer) -> Markup {
    html! { @if let (Some(uid), Some(gid)) = (entry.uid, entry.gid) { (uid) ":" (gid) } }
}

const fn word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "link",
        EntryKind::CharDevice => "character device",
        EntryKind::BlockDevice => "block device",
        EntryKind::Fifo => "pipe",
        EntryKind::Socket => "socket",
        EntryKind::Unreadable => "cannot be read",
    }
}

fn file(shown: &Shown) -> Markup {
    let (node, path) = (&shown.listing.node, &shown.asked.path);
    let point = shown.point_address();
    html! {
        dl.facts {
            div { dt { "Type" } dd { (word(node.kind)) } }
            @if let Some(size) = node.size_bytes { div { dt { "Size" } dd { (bytes(size)) } } }
            @if let Some(mtime) = node.mtime { div { dt { "Modified" } dd { (at(mtime)) } } }
            @if let Some(mode) = &node.mode { div { dt { "Mode" } dd { code { (mode) } } } }
            div { dt { "Owner" } dd { (owner(node)) } }
        }
        @if node.kind == EntryKind::File && shown.may_restore {
            p { a.button href=(address::below(&point, "download", path)) { "Download" } }
        }
        @if !shown.may_restore { p.quiet { "You may see names here, and no content: the right \"restore\" is missing." } }
        @if let Some(above) = address::above(path) {
            p { a href=(shown.files(&above)) data-above="" { "Up to the directory" } }
        }
        @if let Some(preview) = &shown.preview {
            section aria-labelledby="preview" {
                h2 #preview { "Preview" }
                @match preview {
                    Ok(preview) => (preview::show(preview, &point, path)),
                    Err(error) => (notice("bad", &html! { p { (spelling::text(&error.report())) } })),
                }
            }
        }
    }
}
