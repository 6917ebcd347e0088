//! Files that rows name: which row names which.

use super::Platform;
use crate::generate::random::hashed_below;

/// A kind of upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::generate) enum Upload {
    /// Of a user.
    Avatar,
    /// Of a course.
    Thumbnail,
    /// Of a lesson.
    Attachment,
}

impl Upload {
    /// How many rows of a thousand name one.
    fn per_mille(self) -> u64 {
        match self {
            Self::Avatar => 300,
            Self::Thumbnail => 800,
            Self::Attachment => 200,
        }
    }
}

impl Platform {
    /// What row `index` names. A function and not a draw, since the files are made apart from the rows.
    pub(in crate::generate) fn upload(&self, kind: Upload, index: u64) -> Option<String> {
        // The first of each kind always, so that the smallest platform has one.
        let named = index == 0 || hashed_below(self.seed ^ kind.per_mille(), index, 1_000) < kind.per_mille();
        named.then(|| match kind {
            Upload::Avatar => format!("uploads/avatars/{index:06}.png"),
            Upload::Thumbnail => format!("uploads/thumbnails/course-{index}.jpg"),
            Upload::Attachment => format!("uploads/lessons/{index}/notes v2.pdf"),
        })
    }
}
