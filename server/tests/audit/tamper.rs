//! Somebody who owns the tables of the control store: what the triggers refuse, and what is found once they are gone.

use std::collections::BTreeMap;

use dbkeep_engine::{
    audit::{Anchor, Digest, Phase, Record, Seal, chain, retention},
    port::AuditLog as _,
};
use uuid::Uuid;

use crate::world::{DATABASES, Random, World, subjects, verify};

const ROUNDS: u64 = 1_000;
const SEED: u64 = 20_261_127;

/// A log with a range that was removed, two that are sealed, and records after them.
async fn grown(database: &str) -> World {
    let world = World::new(database).await;
    let store = &world.store;
    for _ in 0..3 {
        store.append(&subjects(30)).await.unwrap();
        let (last, _) = store.audit_outline().await.unwrap().head.unwrap();
        store.close_segment(last).await.unwrap().expect("it is sealed");
    }
    let oldest = store.audit_outline().await.unwrap().seals.remove(0);
    store.prune_segment(&oldest).await.unwrap().expect("it is removed");
    store.append(&subjects(20)).await.unwrap();
    store.put_anchor(&world.anchor().await, &[]).await.unwrap();
    store.append(&subjects(20)).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_only_added_to() {
    for database in DATABASES {
        let world = grown(database).await;
        for sql in [
            "UPDATE {records} SET detail = '' WHERE number = 50",
            "UPDATE {records} SET number = 1 WHERE number = 50",
            "DELETE FROM {records} WHERE number = 50",
            "DELETE FROM {records}",
            "UPDATE {seals} SET head = previous WHERE first_number = 31",
            "UPDATE {seals} SET pruned = 1, at_us = 0 WHERE first_number = 31",
            "UPDATE {seals} SET pruned = 0 WHERE pruned = 1",
            "DELETE FROM {seals} WHERE pruned = 0",
            "UPDATE {head} SET number = number - 1",
            "UPDATE {head} SET hash = ''",
            "DELETE FROM {head}",
            "UPDATE {anchors} SET hash = ''",
            "DELETE FROM {anchors}",
        ] {
            let error = world.refused(sql).await;
            assert!(error.contains("the audit log is only added to"), "{database}: {sql}: {error}");
        }
        if database == "postgres" {
            for table in ["{records}", "{seals}", "{head}", "{anchors}"] {
                let error = world.refused(&format!("TRUNCATE {table}")).await;
                assert!(error.contains("the audit log is only added to"), "{error}");
            }
        }
        // What replaces a row where there is one already.
        let all = "{records}, {seals}, {head}, {anchors}".split(", ");
        let keys = ["number", "first_number", "one", "number"];
        let changes = ["detail = 'another'", "head = previous", "hash = ''", "hash = ''"];
        for ((table, key), change) in all.zip(keys).zip(changes) {
            let column = change.split_once(' ').expect("a column").0;
            let name = table.trim_matches(['{', '}']);
            let columns = world.columns(&format!("audit_{name}")).await;
            let before = world.rows(table).await;
            let values = columns.iter().map(|known| {
                if known == column {
                    change.split_once("= ").expect("a value").1
                } else {
                    known.as_str()
                }
            });
            let (into, values) = (columns.join(", "), values.collect::<Vec<_>>().join(", "));
            let put = format!("{table} ({into}) SELECT {values} FROM {table} WHERE {key} >= 1 ORDER BY {key} DESC LIMIT 1");
            let sql = if database == "postgres" {
                format!("INSERT INTO {put} ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}")
            } else {
                format!("INSERT OR REPLACE INTO {put}")
            };
            if (database, table) == ("sqlite", "{anchors}") {
                // Nothing happens, since the same head may be anchored twice.
                world.execute(&sql).await;
            } else {
                let error = world.refused(&sql).await;
                assert!(error.contains("the audit log is only added to"), "{database}: {sql}: {error}");
            }
            assert_eq!(world.rows(table).await, before, "{database}: {sql}");
        }
        let engine = world.engine(|_| {});
        let verified = verify(&engine, vec![world.anchor().await]).await.expect("it is whole");
        assert_eq!((verified.sealed, verified.anchors), (30, 2), "{database}");
    }
}

/// What an attacker knows and has: the rows as they were, to put them back after each try.
struct Attacker {
    world: World,
    records: Vec<Record>,
    seals: Vec<Seal>,
    /// Kept where the attacker cannot write.
    anchor: Anchor,
}

impl Attacker {
    async fn new(database: &str) -> Self {
        let world = grown(database).await;
        world.drop_triggers().await;
        for table in ["records", "seals", "head", "anchors"] {
            let copy = world.table(&format!("copy_{table}"));
            world
                .execute(&format!("CREATE TABLE {copy} AS SELECT * FROM {{{table}}}"))
                .await;
        }
        Self {
            records: world.records().await,
            seals: world.store.audit_outline().await.unwrap().seals,
            anchor: world.anchor().await,
            world,
        }
    }

    async fn restore(&self) {
        for table in ["records", "seals", "head", "anchors"] {
            let copy = self.world.table(&format!("copy_{table}"));
            self.world.execute(&format!("DELETE FROM {{{table}}}")).await;
            self.world
                .execute(&format!("INSERT INTO {{{table}}} SELECT * FROM {copy}"))
                .await;
        }
    }

    fn first(&self) -> u64 {
        self.records[0].number
    }

    fn last(&self) -> u64 {
        self.anchor.number
    }

    /// The number of some record.
    fn some(&self, random: &mut Random) -> u64 {
        random.one_of(&self.records).number
    }

    /// Writes the log from a record on as it would be with these records, with a head and seals that fit, and without what was anchored in the store.
    async fn remake(&self, from: u64, changed: impl Fn(u64, &mut Record) -> bool) {
        let before = self.records.iter().rfind(|record| record.number < from);
        let (mut number, mut hash) = before.map_or((from - 1, self.records[0].previous), |last| (last.number, last.hash));
        self.world
            .execute(&format!("DELETE FROM {{records}} WHERE number >= {from}"))
            .await;
        for record in self.records.iter().filter(|record| record.number >= from) {
            let mut record = record.clone();
            if !changed(record.number, &mut record) {
                continue;
            }
            let made = chain::follow(number + 1, hash, record.subject);
            (number, hash) = (made.number, made.hash);
            self.insert(&made).await;
        }
        self.world
            .execute(&format!("UPDATE {{head}} SET number = {number}, hash = '{hash}'"))
            .await;
        self.world.execute("DELETE FROM {anchors}").await;
        // Seals whose ranges were touched are made to fit as well.
        for seal in self.seals.iter().filter(|seal| !seal.pruned && seal.last >= from) {
            let (first, last) = (seal.first, seal.last);
            let hash_of = |number: u64| format!("(SELECT hash FROM {{records}} WHERE number = {number})");
            self.world
                .execute(&format!(
                    "UPDATE {{seals}} SET head = {}, at_us = (SELECT at_us FROM {{records}} WHERE number = {last}), \
                     previous = COALESCE({}, previous) WHERE first_number = {first}",
                    hash_of(last),
                    hash_of(first - 1)
                ))
                .await;
        }
    }

    async fn insert(&self, record: &Record) {
        let subject = &record.subject;
        let counts = serde_json::to_string(&subject.counts).unwrap();
        self.world
            .execute(&format!(
                "INSERT INTO {{records}} VALUES ({}, '{}', {}, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
                record.number,
                subject.call,
                subject.at.as_microsecond(),
                subject.phase.name(),
                subject.principal,
                subject.peer,
                subject.method,
                subject.target,
                subject.request,
                subject.code,
                subject.detail,
                counts,
                record.previous,
                record.hash
            ))
            .await;
    }

    /// Changes one field of one record; says which.
    async fn change_a_field(&self, random: &mut Random) -> String {
        let record = random.one_of(&self.records).clone();
        let subject = &record.subject;
        let flipped = |digest: Digest, random: &mut Random| {
            let mut bytes = digest.0;
            let place = usize::try_from(random.below(32)).unwrap();
            bytes[place] ^= 1 << random.below(8);
            format!("'{}'", Digest(bytes))
        };
        let (column, value) = match random.below(16) {
            0 => ("call_id", format!("'{}'", Uuid::now_v7())),
            1 => ("at_us", format!("at_us + {}", 1 + random.below(1_000_000_000))),
            2 => {
                let others: Vec<Phase> = Phase::ALL.into_iter().filter(|phase| *phase != subject.phase).collect();
                ("phase", format!("'{}'", random.one_of(&others).name()))
            }
            3 => ("phase", "'forgotten'".to_owned()),
            4 => ("principal", "principal || 'x'".to_owned()),
            5 => ("principal", "'ops-9'".to_owned()),
            6 => ("peer", "peer || 'x'".to_owned()),
            7 => ("method", "method || 'x'".to_owned()),
            8 => ("target", "target || 'x'".to_owned()),
            9 => ("request", flipped(subject.request, random)),
            10 => ("code", "'PERMISSION_DENIED'".to_owned()),
            11 => ("detail", "detail || '.'".to_owned()),
            12 => ("counts", "'[[\"rows\",999999999]]'".to_owned()),
            13 => ("previous", flipped(record.previous, random)),
            14 => ("hash", flipped(record.hash, random)),
            _ => ("hash", "'no hash at all'".to_owned()),
        };
        let number = record.number;
        self.world
            .execute(&format!("UPDATE {{records}} SET {column} = {value} WHERE number = {number}"))
            .await;
        format!("{column} of record {number}")
    }

    /// Changes one field of a seal, of an anchor in the store, or of the head; says which.
    async fn change_what_stands_beside(&self, random: &mut Random) -> String {
        let seal = random.one_of(&self.seals).clone();
        let other = format!("'{}'", Digest([u8::try_from(random.below(255)).unwrap(); 32]));
        let of_seal = |change: String| (change, format!("WHERE first_number = {}", seal.first));
        let (table, (change, place)) = match random.below(11) {
            0 => (
                "seals",
                of_seal(format!("first_number = first_number + {}", 100 + random.below(9))),
            ),
            1 => (
                "seals",
                of_seal(format!("last_number = last_number + {}", 1 + random.below(9))),
            ),
            2 => (
                "seals",
                of_seal(format!("last_number = last_number - {}", 1 + random.below(9))),
            ),
            3 => ("seals", of_seal(format!("previous = {other}"))),
            4 => ("seals", of_seal(format!("head = {other}"))),
            5 => ("seals", of_seal(format!("at_us = at_us + {}", 1 + random.below(1_000_000)))),
            6 => ("seals", of_seal("pruned = 1 - pruned".to_owned())),
            7 => ("head", ("number = number + 1".to_owned(), String::new())),
            8 => ("head", (format!("number = number - {}", 1 + random.below(9)), String::new())),
            9 => ("head", (format!("hash = {other}"), String::new())),
            _ => ("anchors", (format!("hash = {other}"), String::new())),
        };
        let sql = format!("UPDATE {{{table}}} SET {change} {place}");
        self.world.execute(&sql).await;
        sql
    }

    /// One tampering; says what it was.
    async fn tamper(&self, random: &mut Random) -> String {
        let (world, some) = (&self.world, self.some(random));
        match random.below(20) {
            0..=4 => self.change_a_field(random).await,
            5..=7 => self.change_what_stands_beside(random).await,
            8 => {
                world.execute(&format!("DELETE FROM {{records}} WHERE number = {some}")).await;
                format!("record {some} is deleted")
            }
            9 => {
                let length = 1 + random.below(40);
                let sql = format!("DELETE FROM {{records}} WHERE number BETWEEN {some} AND {}", some + length);
                world.execute(&sql).await;
                sql
            }
            10 => {
                let other = loop {
                    let other = self.some(random);
                    if other != some {
                        break other;
                    }
                };
                for (from, to) in [(some, 0), (other, some), (0, other)] {
                    world
                        .execute(&format!("UPDATE {{records}} SET number = {to} WHERE number = {from}"))
                        .await;
                }
                format!("records {some} and {other} change places")
            }
            11 => {
                let to = [0, self.last() + 1, self.first() - 1][usize::try_from(random.below(3)).unwrap()];
                world
                    .execute(&format!("UPDATE {{records}} SET number = {to} WHERE number = {some}"))
                    .await;
                format!("record {some} becomes {to}")
            }
            12 => {
                world
                    .execute(&format!("DELETE FROM {{records}} WHERE number >= {some}"))
                    .await;
                format!("the log is cut off before {some}")
            }
            13 => {
                // With the head, the seals and the anchors that the attacker can reach.
                let cut = some.max(self.seals[0].last + 2);
                world.execute(&format!("DELETE FROM {{records}} WHERE number >= {cut}")).await;
                world
                    .execute(&format!(
                        "UPDATE {{head}} SET number = {0}, hash = (SELECT hash FROM {{records}} WHERE number = {0})",
                        cut - 1
                    ))
                    .await;
                world
                    .execute(&format!("DELETE FROM {{seals}} WHERE last_number >= {cut}"))
                    .await;
                world.execute("DELETE FROM {anchors}").await;
                format!("the log is cut off before {cut}, and its head with it")
            }
            14 => {
                self.remake(some, |number, record| {
                    if number == some {
                        record.subject.detail = "nothing happened".to_owned();
                    }
                    true
                })
                .await;
                format!("from {some} on the log is made anew with another detail")
            }
            15 => {
                // A record is cut out, and those after it are numbered and made anew.
                self.remake(some, |number, _| number != some).await;
                format!("record {some} is cut out, and the log made anew")
            }
            16 => {
                self.remake(self.first(), |_, record| {
                    record.subject.principal = "ops-0".to_owned();
                    true
                })
                .await;
                "the whole log is made anew".to_owned()
            }
            17 => {
                // The next range vanishes as if the keeper had removed it.
                let seal = self.seals.iter().find(|seal| !seal.pruned).unwrap();
                let (first, last) = (seal.first, seal.last);
                world
                    .execute(&format!("UPDATE {{seals}} SET pruned = 1 WHERE first_number = {first}"))
                    .await;
                world
                    .execute(&format!("DELETE FROM {{records}} WHERE number BETWEEN {first} AND {last}"))
                    .await;
                format!("{first} to {last} are stolen")
            }
            18 => {
                let seal = random.one_of(&self.seals).first;
                world
                    .execute(&format!("DELETE FROM {{seals}} WHERE first_number = {seal}"))
                    .await;
                format!("the seal of {seal} is deleted")
            }
            _ => {
                let last = self.records.last().unwrap();
                let forged = chain::append(Some(last), last.subject.clone());
                self.insert(&forged).await;
                let with_head = random.below(2) == 0;
                if with_head {
                    // The head stays behind the forged record in one half, and goes nowhere in the other.
                    world.execute("DELETE FROM {head}").await;
                }
                format!("a record is forged at the end, head deleted: {with_head}")
            }
        }
    }
}

async fn a_thousand_tamperings(database: &str) {
    println!("{database}: seed {SEED}");
    let attacker = Attacker::new(database).await;
    let engine = attacker.world.engine(|_| {});
    let kept = vec![attacker.anchor];
    let whole = verify(&engine, kept.clone()).await.expect("it is whole before");
    assert_eq!((whole.sealed, whole.anchors), (30, 2));
    let mut random = Random(SEED);
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..ROUNDS {
        let what = attacker.tamper(&mut random).await;
        match verify(&engine, kept.clone()).await {
            Ok(verified) => panic!("{database}: seed {SEED}, round {round}: {what} was not found: {verified:?}"),
            Err(problem) => *found.entry(problem.kind.name()).or_default() += 1,
        }
        attacker.restore().await;
    }
    assert_eq!(verify(&engine, kept).await, Ok(whole), "put back, it is whole again");
    println!("{database}: {found:?}");
    assert!(found.len() >= 7, "every kind of problem is met: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tamperings_with_sqlite_are_found() {
    a_thousand_tamperings("sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tamperings_with_postgres_are_found() {
    a_thousand_tamperings("postgres").await;
}

/// What no chain can show, so that nobody believes it does: without an anchor that was kept elsewhere a log that ends sooner, with its head, is a log.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_anchor_a_cut_off_tail_is_not_seen() {
    let attacker = Attacker::new("sqlite").await;
    let (world, cut) = (&attacker.world, attacker.last() - 5);
    world.execute(&format!("DELETE FROM {{records}} WHERE number > {cut}")).await;
    world
        .execute(&format!(
            "UPDATE {{head}} SET number = {cut}, hash = (SELECT hash FROM {{records}} WHERE number = {cut})"
        ))
        .await;
    world.execute("DELETE FROM {anchors}").await;
    let engine = world.engine(|_| {});
    assert!(verify(&engine, Vec::new()).await.is_ok());
    let problem = verify(&engine, vec![attacker.anchor]).await.expect_err("the anchor knows");
    assert_eq!((problem.kind.name(), problem.number), ("truncated", cut + 1));
    assert!(retention::bound(&[]).is_none());
}
