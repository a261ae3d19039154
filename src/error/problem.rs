//! An error in transit to another process: on the control socket, or from a helper process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Context, Error, ErrorKind};

/// The parts of an [`Error`], as data. An error that is rebuilt from them reports the same text as
/// the original.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Reason)]
pub struct Problem {
    /// [`ErrorKind::name`].
    pub kind: String,
    /// What failed, in one clause.
    pub what: String,
    /// File, export or object; bytes that are not UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Byte offset within `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What the bytes should have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What the bytes were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What the user can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The chain of causes, joined by `: `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let Context {
            path,
            offset,
            expected,
            found,
            advice,
        } = error.context();
        Self {
            kind: error.kind().name().to_owned(),
            what: error.what().to_owned(),
            path: path.as_ref().map(|path| path.display().to_string()),
            offset: *offset,
            expected: expected.clone(),
            found: found.clone(),
            advice: advice.as_ref().map(ToString::to_string),
            cause: error.causes(),
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let kind = ErrorKind::of_name(&problem.kind).unwrap_or(ErrorKind::Io);
        let error = Self::new(kind, problem.what).with_context(Context {
            path: problem.path.map(PathBuf::from),
            offset: problem.offset,
            expected: problem.expected,
            found: problem.found,
            advice: problem.advice.map(Into::into),
        });
        match problem.cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Problem;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn an_error_comes_back_with_all_its_parts() {
        let whole = Error::corrupt("bad magic", "QFI", "RIFF")
            .at_path("/x")
            .at_offset(512)
            .advise("wait")
            .caused_by(Error::io("cannot read", std::io::Error::other("fire")));
        for error in [whole, Error::new(ErrorKind::Busy, "it is busy")] {
            let problem = Problem::from(&error);
            let text = serde_json::to_string(&problem).unwrap();
            let back = Error::from(serde_json::from_str::<Problem>(&text).unwrap());
            assert_eq!(back.kind(), error.kind());
            assert_eq!(back.report(), error.report());
            assert_eq!(Problem::from(&back), problem);
        }
    }

    #[test]
    fn a_kind_of_another_release_is_taken_for_io() {
        let problem = serde_json::from_str::<Problem>(r#"{"kind":"new","what":"x"}"#).unwrap();
        assert_eq!(Error::from(problem).kind(), ErrorKind::Io);
    }
}
