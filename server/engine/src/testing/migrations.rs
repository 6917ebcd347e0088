//! Folders of migrations that can be applied in order and taken back exactly, schema with the order of columns and rows, on
//! PostgreSQL 13 and SQLite 3.35 or later. The same arguments give the same folder. Some down scripts can be spoiled on purpose.

mod layout;
mod step;

use crate::{
    model::{EngineKind, Layout},
    port::SourceFile,
};

/// How a down script is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// It holds no statement.
    Empty,
    /// It drops a column with values in it and adds it again: the schema is as before, the values are gone.
    Lossy,
    /// It drops an index that was there before, and leaves what the up script made.
    Wrong,
}

impl Spoil {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Empty, Self::Lossy, Self::Wrong];
}

/// First position at which a migration can be spoiled: the ones before it make what the spoiled ones destroy.
pub const FIRST_SPOILED: usize = 2;

/// A folder of `count` good migrations.
#[must_use]
pub fn generate(layout: Layout, engine: EngineKind, count: usize, seed: u64) -> Vec<SourceFile> {
    spoil(layout, engine, count, seed, &[])
}

/// The folder of [`generate`], but with the migrations at these positions (from 0; at least [`FIRST_SPOILED`], smaller ones stay good)
/// replaced by ones whose up script is good and whose down script is not. The positions are those in the order of the folder.
#[must_use]
pub fn spoil(layout: Layout, engine: EngineKind, count: usize, seed: u64, planted: &[(usize, Spoil)]) -> Vec<SourceFile> {
    let mut maker = step::Maker::new(engine, seed);
    let steps: Vec<step::Step> = (0..count)
        .map(|position| {
            let kind = planted.iter().find(|(at, _)| *at == position && position >= FIRST_SPOILED);
            maker.step(position, kind.map(|(_, kind)| *kind))
        })
        .collect();
    layout::files(layout, &steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::{graph, source};

    #[test]
    fn every_layout_reads_what_is_generated_for_it() {
        for layout in Layout::ALL {
            for engine in [EngineKind::Postgres, EngineKind::Sqlite] {
                let files = generate(layout, engine, 1_000, 7);
                assert_eq!(files, generate(layout, engine, 1_000, 7));
                let collection = source::read(&files, engine, Some(layout)).unwrap();
                assert_eq!(collection.migrations.len(), 1_000, "{layout:?}");
                assert_eq!(collection.warnings, Vec::<String>::new(), "{layout:?}");
                assert_eq!(graph::order(&collection.migrations), Ok((0..1_000).collect()), "{layout:?}");
                for migration in &collection.migrations {
                    assert!(migration.up.statement_count() > 0);
                    assert!(
                        migration.down.as_ref().is_some_and(|down| down.statement_count() > 0),
                        "{}",
                        migration.id
                    );
                }
                let detected = source::read(&files, engine, None).unwrap();
                assert_eq!(detected.layout, layout, "{:?}", detected.evidence);
            }
        }
    }

    #[test]
    fn only_the_planted_ones_are_spoiled() {
        let good = generate(Layout::Sqlx, EngineKind::Sqlite, 30, 1);
        let planted: Vec<(usize, Spoil)> = (10..13).zip(Spoil::ALL).collect();
        let files = spoil(Layout::Sqlx, EngineKind::Sqlite, 30, 1, &planted);
        let collection = source::read(&files, EngineKind::Sqlite, None).unwrap();
        assert_eq!(collection.migrations.len(), 30);
        let down = |position: usize| {
            collection.migrations[position]
                .down
                .as_ref()
                .map(|down| down.statement_count())
        };
        assert_eq!([down(10), down(11), down(12)], [Some(0), Some(3), Some(1)]);
        assert_eq!(
            files.iter().take(20).collect::<Vec<_>>(),
            good.iter().take(20).collect::<Vec<_>>()
        );
    }
}
