//! The paths of the API's description.

use utoipa::OpenApi;

/// The API. What is the same everywhere (parameters of paths, failures, security) is added by `openapi`.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "restorefs",
        description = "Backups of virtual machines: restore points, their disks and files, sessions, jobs, policies and copies.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        super::repository::list,
        super::repository::show,
        super::repository::status,
        super::repository::status_of,
        super::repository::capacity,
        super::repository::trash,
        super::repository::empty_trash,
        super::repository::rebuild_catalog,
        super::vm::list,
        super::vm::show,
        super::vm::remove,
        super::vm::rename,
        super::point::list,
        super::point::show,
        super::point::info,
        super::point::volumes,
        super::point::chain,
        super::point::damage,
        super::point::attached,
        super::point::label,
        super::disk::list,
        super::disk::read,
        super::file::list,
        super::file::read,
        super::archive::read,
        super::session::list,
        super::session::show,
        super::session::begin,
        super::session::commit,
        super::session::renew,
        super::session::abort,
        super::session::attach,
        super::forget::one,
        super::forget::forget,
        super::forget::undelete,
        super::verify::verify,
        super::copy::list,
        super::copy::all,
        super::copy::copy,
        super::copy::adopt,
        super::policy::list,
        super::policy::show,
        super::policy::put,
        super::policy::remove,
        super::policy::assign,
        super::job::list,
        super::job::show,
        super::job::cancel,
        super::event::follow,
    ),
    tags(
        (name = "repositories", description = "Served repositories"),
        (name = "status", description = "How they stand, and their room"),
        (name = "vms", description = "Virtual machines"),
        (name = "points", description = "Restore points"),
        (name = "disks", description = "Whole disks"),
        (name = "files", description = "Files in disks"),
        (name = "sessions", description = "Restore points that are being written"),
        (name = "copies", description = "Copies at other repositories"),
        (name = "policies", description = "What happens by itself"),
        (name = "jobs", description = "Work: what runs, and what has ended")
    )
)]
pub(in crate::http) struct Document;
