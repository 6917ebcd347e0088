//! What one look knows by the look before.

use dbkeep_engine::{engine::monitoring::Look, model::monitor::Snapshot};
use dbkeep_testkit::Db;
use jiff::Timestamp;

use crate::world::{DATABASES, Host, World};

fn first_seen(snapshot: &Snapshot, name: &str) -> Option<Timestamp> {
    let index = snapshot.indexes.iter().find(|index| index.name == name);
    index.unwrap_or_else(|| panic!("{name} is not in {snapshot:?}")).first_seen
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_known_since_the_look_that_saw_it_first() {
    for database in DATABASES {
        let world = World::new(database).await;
        let db = Db::open(&world.target).await.unwrap();
        db.execute("CREATE INDEX old ON tokens (expires_at)").await.unwrap();
        // One server: the claim of each look is its own.
        let (engine, _) = world.engine(Host::new("box", 1), |_| {}).await;
        let fresh = engine.target_metrics("app", Look::Fresh).await.unwrap().snapshot;
        assert_eq!(first_seen(&fresh, "old"), Some(fresh.at), "nothing is kept");
        assert!(engine.collect_at("app", Timestamp::now()).await.unwrap());
        let (_, first) = engine.kept_snapshot("app").await.unwrap().unwrap();
        assert_eq!(first_seen(&first, "old"), Some(first.at));
        db.execute("CREATE INDEX young ON tokens (id, expires_at)").await.unwrap();
        let fresh = engine.target_metrics("app", Look::Fresh).await.unwrap().snapshot;
        assert_eq!(first_seen(&fresh, "old"), Some(first.at));
        assert_eq!(first_seen(&fresh, "young"), Some(fresh.at));
        for _ in 0..2 {
            assert!(engine.collect_at("app", Timestamp::now()).await.unwrap());
        }
        let (_, last) = engine.kept_snapshot("app").await.unwrap().unwrap();
        assert!(last.at > first.at);
        assert_eq!(first_seen(&last, "old"), Some(first.at), "{database}");
        let young = first_seen(&last, "young").unwrap();
        assert!(young > first.at && young < last.at, "{database}");
        db.close().await;
    }
}
