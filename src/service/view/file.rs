//! The bytes of a file of a point, and short previews.

use std::sync::Arc;

use super::View;
use super::entry::{last_name, node};
use crate::access::Right;
use crate::block::ReadAt;
use crate::error::{Error, Result};
use crate::guest::fs::FileType;
use crate::repo::selector::Which;
use crate::types::VmName;
use crate::types::width::usize_from_u64;

/// LIMIT: bytes of a text preview (DESIGN: at most 64 KiB).
const TEXT_BYTES_MAX: u64 = 64 << 10;
/// LIMIT: bytes of a picture in a preview.
const PICTURE_BYTES_MAX: u64 = 8 << 20;
/// Bytes that are read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// A file of a point.
pub struct FileContent {
    content: Arc<dyn ReadAt>,
    /// Its name: bytes, as in the guest.
    pub name: Vec<u8>,
    /// Names this content: equal only for the same file of the same point.
    pub tag: String,
}

impl FileContent {
    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.content.size_bytes()
    }

    /// Passes the bytes from `begin` to before `end` to `put`, in order, until it returns `false`.
    ///
    /// # Errors
    /// What reading the content returns.
    pub fn read(&self, begin: u64, end: u64, mut put: impl FnMut(Vec<u8>) -> bool) -> Result<()> {
        let end = end.min(self.size_bytes());
        let mut at = begin;
        while at < end {
            let length = CHUNK_BYTES.min(end - at);
            let mut bytes = vec![0; usize_from_u64(length)];
            self.content.read_at(at, &mut bytes)?;
            if !put(bytes) {
                return Ok(());
            }
            at += length;
        }
        Ok(())
    }
}

/// What can be shown of a file beside its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preview {
    /// The begin of a text; control characters other than line ends and tabs are shown as pictures of themselves.
    Text {
        /// The text.
        text: String,
        /// Whether the file goes on.
        is_cut: bool,
    },
    /// A picture that a browser shows: its media type and its bytes.
    Picture {
        /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`.
        media: &'static str,
        /// The whole file.
        bytes: Vec<u8>,
    },
    /// Neither.
    Binary,
}

impl View {
    /// A file of a point.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied`; `InvalidInput` for what has no bytes; what the guest's reader returns.
    pub fn file(&self, vm: &VmName, which: &Which, path: &[u8]) -> Result<FileContent> {
        let opened = self.open_file(vm, which, path);
        let subject = format!("{which}:{}", String::from_utf8_lossy(path));
        self.local().note_result("read-file", vm, &subject, &opened);
        opened
    }

    fn open_file(&self, vm: &VmName, which: &Which, path: &[u8]) -> Result<FileContent> {
        let point = self.point_for(vm, which, Right::Restore)?;
        let tree = self.tree();
        let found = node(tree, self.start(&point)?, path)?;
        match found.file_type {
            FileType::Regular => {}
            FileType::Directory => {
                return Err(Error::invalid("this is a directory, not a file")
                    .advise("list it, or take it as an archive"));
            }
            _ => return Err(Error::invalid("only regular files have bytes to take")),
        }
        Ok(FileContent {
            content: tree.content(found.ino)?,
            name: last_name(path).unwrap_or_default().to_vec(),
            tag: format!("{}-{:x}", point.entry.point_id, found.ino.0),
        })
    }

    /// What can be shown of a file.
    ///
    /// # Errors
    /// As [`View::file`].
    pub fn preview(&self, vm: &VmName, which: &Which, path: &[u8]) -> Result<Preview> {
        let file = self.file(vm, which, path)?;
        let mut begin = Vec::new();
        file.read(0, TEXT_BYTES_MAX, |bytes| {
            begin.extend(bytes);
            true
        })?;
        if let Some(media) = picture(&begin) {
            if file.size_bytes() > PICTURE_BYTES_MAX {
                return Ok(Preview::Binary);
            }
            let mut bytes = Vec::new();
            file.read(0, PICTURE_BYTES_MAX, |part| {
                bytes.extend(part);
                true
            })?;
            return Ok(Preview::Picture { media, bytes });
        }
        let is_cut = file.size_bytes() > TEXT_BYTES_MAX;
        Ok(match text(&begin, is_cut) {
            Some(text) => Preview::Text { text, is_cut },
            None => Preview::Binary,
        })
    }
}

/// The media type of a picture, by its first bytes.
fn picture(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        Some("image/gif")
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else {
        None
    }
}

/// The text in bytes that are mostly one; `None` for others.
fn text(bytes: &[u8], is_cut: bool) -> Option<String> {
    if bytes.contains(&0) {
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        // A cut may have gone through a character.
        Err(e) if is_cut && e.valid_up_to() + 4 > bytes.len() => {
            let whole = bytes.get(..e.valid_up_to()).unwrap_or_default();
            String::from_utf8_lossy(whole).into_owned()
        }
        // Latin-1 and its like: what is no UTF-8 is shown as a replacement character, when it is little.
        Err(_) => {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let strange = text
                .chars()
                .filter(|c| *c == char::REPLACEMENT_CHARACTER)
                .count();
            if strange > text.len() / 10 {
                return None;
            }
            text
        }
    };
    Some(text.chars().map(visible).collect())
}

/// A control character as its picture (Unicode block "Control Pictures").
fn visible(c: char) -> char {
    match c {
        '\n' | '\r' | '\t' => c,
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::{picture, text};

    #[test]
    fn only_text_is_shown_as_text() {
        assert_eq!(text(b"a\tb\r\n", false).unwrap(), "a\tb\r\n");
        assert_eq!(text(b"\x1b[31m", false).unwrap(), "\u{241b}[31m");
        assert_eq!(text(b"a\0b", false), None);
        assert_eq!(text(&[0xff; 100], false), None);
        assert_eq!(
            text("\u{e4}".as_bytes().get(..1).unwrap(), true).unwrap(),
            ""
        );
        assert!(text("Gr\u{fc}\u{df}e aus dem Norden".as_bytes(), false).is_some());
    }

    #[test]
    fn a_picture_is_known_by_its_bytes_not_its_name() {
        assert_eq!(picture(b"\x89PNG\r\n\x1a\n..."), Some("image/png"));
        assert_eq!(picture(b"RIFF\0\0\0\0WEBPVP8 "), Some("image/webp"));
        for other in [&b"<svg onload=alert(1)>"[..], b"<html>", b"", b"RIFF"] {
            assert_eq!(picture(other), None);
        }
    }
}
