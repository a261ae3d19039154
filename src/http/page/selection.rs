//! The archive of what is selected on the page of a directory.

use super::address;
use crate::error::{Error, Result};
use crate::http::api;
use crate::http::call::Call;
use crate::http::query::decode;
use crate::http::reply::Answer;

/// Bytes in a field of a form: a form is text, so they are percent-encoded in it.
pub(super) fn field(bytes: &[u8]) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::invalid("a field of the form is not percent-encoded"))?;
    decode(text)
}

/// The selected names of a directory, or the whole directory when none is selected, as one archive.
pub(super) async fn archive(call: Call) -> Answer {
    let form = call.form()?;
    let inside = form.bytes("in")?;
    let inside = inside.ok_or_else(|| Error::invalid("the directory is missing"))?;
    let directory = field(&inside)?;
    let names = form.all("name");
    let joined = |name: &Vec<u8>| Ok(address::join(&directory, &field(name)?));
    let paths = match names.is_empty() {
        true => vec![directory.clone()],
        false => names.iter().map(joined).collect::<Result<Vec<_>>>()?,
    };
    let format = form.text("format")?;
    api::archive::answer(call, format.as_deref(), paths).await
}

#[cfg(test)]
mod tests {
    use super::field;
    use crate::http::page::address::encode;
    use crate::http::query::Query;

    #[test]
    fn names_come_through_a_form_as_they_are() {
        for name in [
            &b"a b+c&d=e%20"[..],
            b"\xff\r\n\"",
            "\u{202e}gpj".as_bytes(),
        ] {
            // A browser encodes the value of the field once more.
            let sent = format!("name={}", encode(encode(name).as_bytes()));
            let form = Query::parse_form(Some(&sent)).unwrap();
            assert_eq!(field(&form.all("name")[0]).unwrap(), name);
        }
        assert!(field(b"\xff").is_err());
        assert!(field(b"%zz").is_err());
    }
}
