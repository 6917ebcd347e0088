//! golang-migrate: `V_name.up.sql` and `V_name.down.sql`. A script is one implicit transaction unless it begins one itself.

use super::{
    SourceError,
    folder::{Folder, Found, Transaction},
    sqlx,
};

pub(super) fn find<'a>(folder: &mut Folder<'a>) -> Result<Vec<Found<'a>>, SourceError> {
    sqlx::pairs(folder, false, |_| Transaction::Implicit)
}
