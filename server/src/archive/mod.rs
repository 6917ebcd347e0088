//! Where captured rows are kept: adapters of the engine's archive port. Object storage will stand beside the folder.

mod folder;

pub use folder::FolderArchive;
pub(crate) use folder::make_folder;
