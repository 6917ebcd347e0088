//! What the server says of how far a statement of another session is.

use dbkeep_engine::{
    model::TableName,
    port::{MaintenanceError, Watch},
};
use sqlx::Row as _;

use super::error::statement;
use super::line::Line;

/// Tells of the statement of a process what a query for its phase, blocks done, and blocks in all answers; nothing where it has ended.
pub(super) async fn tell(
    eyes: &mut Line,
    sql: &'static str,
    process: i32,
    of: &TableName,
    watch: &Watch,
) -> Result<(), MaintenanceError> {
    let row = sqlx::query(sql).bind(process).fetch_optional(eyes).await.map_err(statement)?;
    if let Some(row) = row {
        let number = |column: usize| {
            row.try_get::<i64, _>(column)
                .map(|number| u64::try_from(number).unwrap_or(0))
                .map_err(statement)
        };
        let phase: String = row.try_get(0).map_err(statement)?;
        watch.say(&phase, &of.to_string(), number(1)?, number(2)?, "blocks");
    }
    Ok(())
}
