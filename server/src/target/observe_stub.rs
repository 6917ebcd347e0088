//! What both databases tell of themselves without a look inside: size and version. Everything else is a gap.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use dbkeep_engine::{
    model::monitor::{Depth, Gap, Snapshot, Vitals},
    port::{Observer, Target, TargetError, TargetErrorClass},
};

use super::{postgres::PostgresTarget, sqlite::SqliteTarget};

async fn observe(target: &impl Target, depth: Depth, limit: Duration) -> Result<Snapshot, TargetError> {
    let begun = Instant::now();
    let Ok(status) = tokio::time::timeout(limit, target.status()).await else {
        return Err(TargetError {
            class: TargetErrorClass::Timeout,
            message: format!("no answer within {} s", limit.as_secs_f64()),
            code: None,
            constraint: None,
            sink: None,
        });
    };
    let status = status?;
    let gap = |what: &str| Gap {
        what: what.to_owned(),
        why: "this version does not read it".to_owned(),
        allow: String::new(),
    };
    Ok(Snapshot {
        at: status.clock,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        depth,
        database: Vitals {
            version: status.version,
            size_bytes: Some(status.size_bytes),
            ..Vitals::default()
        },
        tables: Vec::new(),
        indexes: Vec::new(),
        unindexed_keys: Vec::new(),
        queries: Vec::new(),
        sessions: None,
        replicas: Vec::new(),
        slots: Vec::new(),
        gaps: ["tables", "indexes", "sessions", "slow_queries", "replication"]
            .map(gap)
            .to_vec(),
    })
}

#[async_trait]
impl Observer for PostgresTarget {
    async fn observe(&self, depth: Depth, limit: Duration) -> Result<Snapshot, TargetError> {
        observe(self, depth, limit).await
    }
}

#[async_trait]
impl Observer for SqliteTarget {
    async fn observe(&self, depth: Depth, limit: Duration) -> Result<Snapshot, TargetError> {
        observe(self, depth, limit).await
    }
}
