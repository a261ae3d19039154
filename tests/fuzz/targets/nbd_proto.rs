//! Everything that an NBD peer sends, as any bytes: options and requests of clients, replies of servers, names in certificates, and URIs.

use restorefs::nbd::proto::Mode;
use restorefs::nbd::proto::command::Request;
use restorefs::nbd::proto::option::{
    ContextRequest, ExportInfo, Info, InfoRequest, MetaContext, OptionHeader, ReplyHeader,
};
use restorefs::nbd::proto::reply::{ChunkType, Header, parse_error, parse_status};
use restorefs::nbd::proto::uri::Uri;
use restorefs::tls::common_names;

/// Parses the bytes as each message in turn, at each of the first places.
pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = text.parse::<Uri>();
    }
    for at in 0..data.len().min(32) {
        let rest = data.get(at..).unwrap_or_default();
        if let Some(bytes) = rest.first_chunk() {
            let _ = OptionHeader::parse(bytes);
        }
        if let Some(bytes) = rest.first_chunk() {
            let _ = ReplyHeader::parse(bytes);
        }
        if let Some(bytes) = rest.first_chunk() {
            let _ = Header::is_chunk(bytes);
        }
        if let Some(bytes) = rest.first_chunk::<{ Request::BYTES }>()
            && let Ok(request) = Request::parse(bytes)
        {
            assert_eq!(request.encode(Mode::Simple), bytes);
        }
        if let Some(bytes) = rest.first_chunk::<{ Request::EXTENDED_BYTES }>()
            && let Ok(request) = Request::parse_extended(bytes)
        {
            assert_eq!(request.encode(Mode::Extended), bytes);
        }
        for length in [
            Header::SIMPLE_BYTES,
            Header::SIMPLE_BYTES + Header::CHUNK_MORE_BYTES,
            Header::EXTENDED_BYTES,
        ] {
            if let Some(bytes) = rest.get(..length)
                && let Ok(header) = Header::parse(bytes)
            {
                assert_eq!(header.encode(), bytes);
            }
        }
        let _ = Header::parse(rest);
        if let Ok(info) = InfoRequest::parse(rest) {
            assert_eq!(info.encode(), rest);
        }
        if let Ok(contexts) = ContextRequest::parse(rest) {
            assert_eq!(contexts.encode(), rest);
        }
        let _ = common_names(rest);
        let _ = ExportInfo::parse(rest);
        let _ = Info::parse(rest);
        let _ = MetaContext::parse(rest);
        let _ = parse_status(ChunkType::BlockStatus, rest);
        let _ = parse_status(ChunkType::BlockStatusExtended, rest);
        for code in [1, 5, 0x8001, 0x8002, 0x9000] {
            let _ = parse_error(ChunkType::of_code(code), rest);
        }
    }
}
