//! Schemas (OpenAPI 3.1) of types that are text.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};

/// The form of a name, as far as a pattern can state it.
const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_-]*([.][A-Za-z0-9_-]+)*$";

/// A name of a VM, a point, a session, a disk, a repository or a policy.
pub(super) fn name(bytes_max: usize) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .min_length(Some(1))
        .max_length(Some(bytes_max))
        .pattern(Some(NAME_PATTERN))
        .into()
}

/// An identity.
pub(super) fn uuid() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .format(Some(SchemaFormat::Custom("uuid".to_owned())))
        .into()
}
