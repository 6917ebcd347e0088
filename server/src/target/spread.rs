//! Which places of a table make a sample of it: evenly spread, exactly as many as asked for, the last among them. Called by the adapters,
//! whose databases count in 64 bits.

/// The condition that the place `place`, from 1 to `of`, is one of `rows` that are taken: the place at which another of them is reached,
/// `⌊place · rows / of⌋ > ⌊(place − 1) · rows / of⌋`.
///
/// A product of two numbers of rows does not fit into 64 bits from some four billion on. Places are counted in blocks of about the root of
/// `of`, for each of which quotient and remainder are known, so that nothing grows beyond the power of one and a half: it fits up to 2^41
/// rows, more than a table of PostgreSQL can have.
pub(super) fn taken(place: &str, rows: u64, of: u64) -> String {
    let block = of.isqrt().max(1);
    let (rows_wide, of_wide) = (u128::from(rows), u128::from(of.max(1)));
    let product = u128::from(block) * rows_wide;
    let (whole, rest) = (product / of_wide, product % of_wide);
    let reached = |place: &str| {
        format!("({place}) / {block} * {whole} + (({place}) / {block} * {rest} + ({place}) % {block} * {rows}) / {of}")
    };
    format!("{} > {}", reached(place), reached(&format!("{place} - 1")))
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

    use super::*;

    /// How many of a table's first places are taken, by the plain formula.
    fn plain(place: u64, rows: u64, of: u64) -> u128 {
        u128::from(place) * u128::from(rows) / u128::from(of)
    }

    #[tokio::test]
    async fn what_is_taken_is_even_however_many_rows_there_are() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.expect("a database");
        let most: u64 = 1 << 41;
        let mut cases: Vec<(u64, u64, u64)> = Vec::new();
        for of in [1_u64, 2, 3, 10, 97, 1_000] {
            for rows in [1, 2, 7, of / 2, of.saturating_sub(1)] {
                if (1..=of).contains(&rows) {
                    cases.extend((1..=of).map(|place| (place, rows, of)));
                }
            }
        }
        // Where the plain product has more than 63 bits.
        for of in [4_300_000_000, 8_000_000_000, 999_999_999_989, most] {
            for rows in [1, 10_000_000, of / 3, of / 2, of - 1] {
                let near = [1, 2, of / 7, of / 2, of / 2 + 1, of - 1, of];
                cases.extend(near.map(|place| (place, rows, of)));
            }
        }
        for (place, rows, of) in cases {
            let sql = format!("SELECT {} FROM (SELECT {place} AS place)", taken("place", rows, of));
            let found: bool = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut connection)
                .await
                .expect("a number");
            let wanted = plain(place, rows, of) > plain(place - 1, rows, of);
            assert_eq!(found, wanted, "place {place}: {rows} of {of}");
            assert!(
                fits(place, rows, of),
                "place {place}: {rows} of {of} would not fit into 64 bits"
            );
        }
    }

    /// Whether every step stays within 64 bits, which PostgreSQL insists on and SQLite leaves silently.
    fn fits(place: u64, rows: u64, of: u64) -> bool {
        let block = of.isqrt();
        let product = u128::from(block) * u128::from(rows);
        let rest = i64::try_from(product % u128::from(of)).expect("less than of");
        let number = |number: u64| i64::try_from(number).expect("63 bits");
        let (blocks, within) = (number(place / block), number(place % block));
        let sum = |left: i64, right: i64| left.checked_add(right);
        let terms = blocks.checked_mul(rest).zip(within.checked_mul(number(rows)));
        terms.and_then(|(left, right)| sum(left, right)).is_some()
    }
}
