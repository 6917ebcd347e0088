//! History over days, by rows that the test makes older than they are: the clock of a store cannot be moved.

use std::collections::BTreeMap;

use dbkeep_engine::{
    engine::monitoring::Look,
    model::monitor::{Metric, Sample},
    port::{Collected, HistoryQuery, Metrics as _, Point, Step},
};
use dbkeep_server::store::{ControlStore, KEPT_SERIES};
use dbkeep_testkit::Db;
use jiff::{SignedDuration, Timestamp};

use crate::world::{DATABASES, Host, World};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

struct Kept {
    store: ControlStore,
    db: Db,
    world: World,
    series: i64,
    /// Begin of an hour that is over for long.
    hour: i64,
}

impl Kept {
    /// A store with one series, and nothing in it.
    async fn new(database: &str, points: u64, series: u64) -> Self {
        let world = World::new(database).await;
        let store = ControlStore::open(&world.store)
            .await
            .unwrap()
            .keeping_history(points, series);
        let claim = store
            .claim_collection("app", "one", std::time::Duration::from_secs(60), std::time::Duration::ZERO)
            .await
            .unwrap()
            .unwrap();
        let collected = Collected {
            snapshot: None,
            samples: vec![Sample {
                metric: Metric::DATABASE_SIZE,
                object: String::new(),
                value: 1.0,
            }],
        };
        assert!(store.put_collected(&claim, &collected).await.unwrap());
        let db = Db::open(&world.store).await.unwrap();
        let sql = format!("SELECT id FROM {}", world.table("metric_series"));
        let series = db.fetch_text(&sql).await.unwrap()[0][0].clone().unwrap().parse().unwrap();
        db.execute(&format!("DELETE FROM {}", world.table("samples_raw")))
            .await
            .unwrap();
        let now = Timestamp::now().as_millisecond();
        let kept = Self {
            store,
            db,
            world,
            series,
            hour: now - now.rem_euclid(HOUR) - 3 * HOUR,
        };
        kept.count().await;
        kept
    }

    /// Puts a raw point there.
    async fn put(&self, at_ms: i64, value: f64) {
        let sql = format!(
            "INSERT INTO {} (series, at_ms, value) VALUES ({}, {at_ms}, {value:?})",
            self.world.table("samples_raw"),
            self.series
        );
        self.db.execute(&sql).await.unwrap();
    }

    /// Sets the number of points to what it is, after rows were put there behind the store's back.
    async fn count(&self) {
        let sql = format!(
            "UPDATE {} SET points = (SELECT count(*) FROM {}) WHERE step = 'raw'",
            self.world.table("metric_steps"),
            self.world.table("samples_raw")
        );
        self.db.execute(&sql).await.unwrap();
    }

    async fn rolled(&self) {
        let mut turns = 0;
        while self.store.roll_up(1_000).await.unwrap() {
            turns += 1;
            assert!(turns < 1_000, "it comes to an end");
        }
    }

    async fn points(&self, step: Step) -> Vec<Point> {
        let query = HistoryQuery {
            target: "app".to_owned(),
            metric: Metric::DATABASE_SIZE,
            object: None,
            from: Timestamp::UNIX_EPOCH,
            to: Timestamp::now() + SignedDuration::from_hours(1),
            step,
            limit: 10_000,
        };
        self.store.history(&query).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coarser_points_are_made_of_finer_ones_once() {
    for database in DATABASES {
        let kept = Kept::new(database, 1_000_000, KEPT_SERIES).await;
        for minute in 0..60 {
            kept.put(kept.hour + i64::from(minute) * MINUTE, f64::from(minute)).await;
        }
        kept.count().await;
        // Several servers do it at the same time, and again.
        let turns = (0..4).map(|_| {
            let store = kept.store.clone();
            tokio::spawn(async move { while store.roll_up(100).await.unwrap() {} })
        });
        for turn in futures::future::join_all(turns).await {
            turn.unwrap();
        }
        kept.rolled().await;
        let fine = kept.points(Step::FiveMinutes).await;
        assert_eq!(fine.len(), 12, "{database}");
        let Point {
            samples,
            min,
            max,
            mean,
            last,
            ..
        } = fine[1].clone();
        assert_eq!((samples, min, max, mean, last), (5, 5.0, 9.0, 7.0, 9.0));
        assert_eq!(fine[1].at.as_millisecond(), kept.hour + 5 * MINUTE);
        let coarse = kept.points(Step::Hour).await;
        assert_eq!(coarse.len(), 1);
        let Point {
            samples,
            min,
            max,
            mean,
            last,
            ..
        } = coarse[0].clone();
        assert_eq!((samples, min, max, mean, last), (60, 0.0, 59.0, 29.5, 59.0));
        assert_eq!(kept.points(Step::Raw).await.len(), 60, "raw points stay for a day");
        let usage = kept.store.history_usage().await.unwrap();
        assert_eq!((usage.points, usage.trimmed_at), (73, None), "{database}");
        // A death between an interval and its mark makes the interval again, to the same end.
        let sql = format!("UPDATE {} SET until_ms = 0", kept.world.table("metric_steps"));
        kept.db.execute(&sql).await.unwrap();
        kept.rolled().await;
        assert_eq!(kept.points(Step::FiveMinutes).await, fine);
        assert_eq!(kept.points(Step::Hour).await, coarse);
        assert_eq!(kept.store.history_usage().await.unwrap().points, 73);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_once_it_is_made_coarser() {
    for database in DATABASES {
        let kept = Kept::new(database, 1_000_000, KEPT_SERIES).await;
        let days = |days: i64| kept.hour - days * 24 * HOUR;
        for begin in [days(800), days(40), days(2)] {
            for minute in 0..10 {
                kept.put(begin + minute * MINUTE, 1.0).await;
            }
        }
        kept.count().await;
        kept.rolled().await;
        assert_eq!(kept.points(Step::Raw).await, [], "{database}: older than a day");
        assert_eq!(kept.points(Step::FiveMinutes).await.len(), 2, "of two days ago");
        assert_eq!(kept.points(Step::Hour).await.len(), 2, "of two and of forty days ago");
        assert_eq!(kept.store.history_usage().await.unwrap().points, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_lets_the_oldest_go_and_goes_on() {
    for database in DATABASES {
        let kept = Kept::new(database, 20, 1).await;
        for minute in 0..60 {
            kept.put(kept.hour + i64::from(minute) * MINUTE, f64::from(minute)).await;
        }
        kept.count().await;
        kept.rolled().await;
        let usage = kept.store.history_usage().await.unwrap();
        assert!(usage.points <= 20, "{database}: {usage:?}");
        assert!(usage.trimmed_at.is_some(), "it is said");
        let raw = kept.points(Step::Raw).await;
        // Their part of the points is three eighths.
        assert!((7..60).contains(&raw.len()), "{raw:?}");
        let newest: Vec<f64> = raw.iter().rev().take(7).map(|point| point.last).collect();
        assert_eq!(
            newest,
            [59.0, 58.0, 57.0, 56.0, 55.0, 54.0, 53.0],
            "{database}: the newest stay"
        );
        // There is no room for another series; the one that is there goes on.
        let claim = kept
            .store
            .claim_collection("app", "one", std::time::Duration::from_secs(60), std::time::Duration::ZERO)
            .await
            .unwrap()
            .unwrap();
        let sample = |metric| Sample {
            metric,
            object: String::new(),
            value: 7.0,
        };
        let collected = Collected {
            snapshot: None,
            samples: vec![sample(Metric::DATABASE_SIZE), sample(Metric::CACHE_HIT)],
        };
        assert!(kept.store.put_collected(&claim, &collected).await.unwrap());
        let newest = kept
            .store
            .newest_samples("app", std::time::Duration::from_secs(60))
            .await
            .unwrap();
        assert_eq!((newest.len(), newest[0].1.value), (1, 7.0), "{database}");
        assert_eq!(kept.store.history_usage().await.unwrap().series, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_full_of_coarse_points_still_gets_new_ones() {
    for database in DATABASES {
        let kept = Kept::new(database, 60, KEPT_SERIES).await;
        for number in 1..=100 {
            let sql = format!(
                "INSERT INTO {} (series, at_ms, samples, min, max, sum, last) VALUES ({}, {}, 5, 1.0, 1.0, 5.0, 1.0)",
                kept.world.table("samples_5m"),
                kept.series,
                kept.hour - number * 5 * MINUTE
            );
            kept.db.execute(&sql).await.unwrap();
        }
        let sql = format!(
            "UPDATE {} SET points = 100 WHERE step = '5m'",
            kept.world.table("metric_steps")
        );
        kept.db.execute(&sql).await.unwrap();
        for minute in 0..10 {
            kept.put(kept.hour + minute * MINUTE, 2.0).await;
        }
        kept.count().await;
        kept.rolled().await;
        let usage = kept.store.history_usage().await.unwrap();
        assert!(usage.points <= 60 && usage.trimmed_at.is_some(), "{database}: {usage:?}");
        let fine = kept.points(Step::FiveMinutes).await;
        let newest: Vec<i64> = fine.iter().rev().take(2).map(|point| point.at.as_millisecond()).collect();
        assert_eq!(newest, [kept.hour + 5 * MINUTE, kept.hour], "{database}");
        assert_eq!(
            kept.points(Step::Raw).await.len(),
            10,
            "{database}: they are fewer than their part"
        );
        assert!(!kept.points(Step::Hour).await.is_empty(), "{database}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_loses_nothing() {
    for database in DATABASES {
        let kept = Kept::new(database, 1_000_000, KEPT_SERIES).await;
        // Everything up to next year was made, by a clock that was wrong.
        let ahead = kept.hour + 366 * 24 * HOUR;
        let sql = format!("UPDATE {} SET until_ms = {ahead}", kept.world.table("metric_steps"));
        kept.db.execute(&sql).await.unwrap();
        let sql = format!(
            "UPDATE {} SET collected_ms = {ahead}, lease_until_ms = {ahead}, holder = 'another'",
            kept.world.table("collections")
        );
        kept.db.execute(&sql).await.unwrap();
        let minute = std::time::Duration::from_secs(60);
        let claim = kept.store.claim_collection("app", "one", minute, minute).await.unwrap();
        let claim = claim.expect("what is still to come holds up nobody");
        let collected = Collected {
            snapshot: None,
            samples: vec![Sample {
                metric: Metric::DATABASE_SIZE,
                object: String::new(),
                value: 3.0,
            }],
        };
        assert!(kept.store.put_collected(&claim, &collected).await.unwrap());
        // Time goes by.
        let sql = format!("UPDATE {} SET at_ms = at_ms - {HOUR}", kept.world.table("samples_raw"));
        kept.db.execute(&sql).await.unwrap();
        let sql = format!(
            "UPDATE {} SET until_ms = until_ms - {}",
            kept.world.table("metric_steps"),
            2 * HOUR
        );
        kept.db.execute(&sql).await.unwrap();
        kept.rolled().await;
        assert_eq!(kept.points(Step::FiveMinutes).await.len(), 1, "{database}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_leaps_ahead_takes_nothing_away_at_once() {
    for database in DATABASES {
        let kept = Kept::new(database, 1_000_000, KEPT_SERIES).await;
        for minute in 0..60 {
            kept.put(kept.hour + minute * MINUTE, 1.0).await;
        }
        kept.count().await;
        kept.rolled().await;
        // The clock leaps ahead by three days: everything is older by as much.
        let leap = 3 * 24 * HOUR;
        for (table, column) in [
            ("samples_raw", "at_ms"),
            ("samples_5m", "at_ms"),
            ("samples_1h", "at_ms"),
            ("metric_steps", "until_ms"),
            ("metric_series", "newest_ms"),
        ] {
            let sql = format!("UPDATE {} SET {column} = {column} - {leap}", kept.world.table(table));
            kept.db.execute(&sql).await.unwrap();
        }
        let marks = |hours: i64, names: &str| {
            let counters = kept.world.table("monitor_counters");
            format!(
                "UPDATE {counters} SET value = value - {} WHERE name IN ({names})",
                hours * HOUR
            )
        };
        kept.db.execute(&marks(3 * 24, "'aged_ms', 'rolled_ms'")).await.unwrap();
        for hour in 0..3 {
            kept.rolled().await;
            assert_eq!(
                kept.points(Step::Raw).await.len(),
                60,
                "{database}: {hour} hours by the clock that is ahead"
            );
            kept.db.execute(&marks(1, "'rolled_ms'")).await.unwrap();
        }
        // A clock that stays there is right: within a day what is older than a day is gone.
        for _ in 0..24 {
            kept.rolled().await;
            kept.db.execute(&marks(1, "'rolled_ms'")).await.unwrap();
        }
        assert_eq!(kept.points(Step::Raw).await, [], "{database}");
        assert_eq!(kept.points(Step::FiveMinutes).await.len(), 12, "{database}: kept for a month");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_grows_by_the_line_through_its_sizes_until_its_disk_is_full() {
    for database in DATABASES {
        let kept = Kept::new(database, 1_000_000, KEPT_SERIES).await;
        let folders = BTreeMap::from([("app".to_owned(), "/srv".to_owned())]);
        // Of 100,000 bytes 40 % are in use.
        let disk = Host::new("box", 40);
        let (engine, _) = kept.world.engine(disk, |settings| settings.monitor.folders = folders).await;
        let grown = async || engine.target_metrics("app", Look::Fresh).await.unwrap().growth;
        assert_eq!(grown().await, None, "{database}: nobody knows");
        // On days 0, 1, 2 and 3. By hand: the means are day 1.5 and 300 bytes, the products of the distances to them add up to
        // 300 + 0 + 0 + 300, the squares of the days' to 2.25 + 0.25 + 0.25 + 2.25: 600 / 5 bytes a day.
        for (day, bytes) in [(0, 100), (1, 300), (2, 300), (3, 500)] {
            let sql = format!(
                "INSERT INTO {} (series, at_ms, samples, min, max, sum, last) VALUES ({}, {}, 1, {bytes}.0, {bytes}.0, {bytes}.0, {bytes}.0)",
                kept.world.table("samples_5m"),
                kept.series,
                kept.hour - (4 - day) * 24 * HOUR
            );
            kept.db.execute(&sql).await.unwrap();
        }
        let growth = grown().await.unwrap();
        assert!((growth.bytes_per_day - 120.0).abs() < 1e-6, "{database}: {growth:?}");
        // 60,000 bytes are free.
        let days = growth.days_until_full.unwrap();
        assert!((days - 500.0).abs() < 1e-6, "{database}: {growth:?}");
        // Turned round, it shrinks, and its disk is never full.
        let turned = format!("UPDATE {} SET last = 600.0 - last", kept.world.table("samples_5m"));
        kept.db.execute(&turned).await.unwrap();
        let growth = grown().await.unwrap();
        assert!((growth.bytes_per_day + 120.0).abs() < 1e-6, "{database}: {growth:?}");
        assert_eq!(growth.days_until_full, None, "{database}");
    }
}
