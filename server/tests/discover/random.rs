//! Random schemas with planted keys and columns that only look like keys: whatever is told with 0.9 or more was planted.

use super::{
    lab::{Database, Lab, line},
    schemas::{insert, mixed, uuid},
};

const NOUNS: [&str; 18] = [
    "user", "course", "lesson", "invoice", "ticket", "vehicle", "city", "address", "box", "branch", "device", "sensor", "policy",
    "claim", "agent", "library", "story", "team",
];
/// Things that are no tables here.
const OTHERS: [&str; 6] = ["status", "carrier", "external", "legacy", "tax_class", "correlation"];

struct Draw {
    seed: u64,
    step: u64,
}

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.step += 1;
        mixed(self.seed, self.step) % limit
    }
}

fn plural(noun: &str) -> String {
    match noun {
        "city" | "policy" | "library" | "story" => format!("{}ies", &noun[..noun.len() - 1]),
        "address" | "box" | "branch" => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

/// A random schema with its rows, and the relations that were planted.
fn schema(seed: u64) -> (String, Vec<String>) {
    let mut draw = Draw { seed, step: 0 };
    let count = 5 + draw.below(9);
    let start = draw.below(18);
    let uuids = draw.below(2) == 0;
    let nouns: Vec<&str> = (0..count)
        .map(|place| NOUNS[usize::try_from((start + place) % 18).expect("small")])
        .collect();
    let plurals = draw.below(2) == 0;
    let name = |noun: &str| if plurals { plural(noun) } else { noun.to_owned() };
    let sizes: Vec<u64> = nouns.iter().map(|_| 15 + draw.below(150)).collect();
    let key_type = if uuids { "{uuid}" } else { "integer" };
    let key = |table: usize, number: u64| {
        if uuids {
            uuid(u64::try_from(table).expect("small"), number)
        } else {
            number.to_string()
        }
    };
    let (mut sql, mut planted) = (String::new(), Vec::new());
    for (table, noun) in nouns.iter().enumerate() {
        let mut columns = vec![format!("id {key_type} PRIMARY KEY")];
        let mut values: Vec<Box<dyn Fn(u64) -> String>> = vec![Box::new(move |n| key(table, n))];
        let mut taken = Vec::new();
        for _ in 0..draw.below(4) {
            let parent = usize::try_from(draw.below(count)).expect("small");
            if parent == table || taken.contains(&parent) {
                continue;
            }
            taken.push(parent);
            let (size, salt, stray) = (sizes[parent], draw.below(1 << 40), 5 + draw.below(20));
            let style = draw.below(4);
            let column = match style {
                0 => format!("fk_{}", nouns[parent]),
                1 => format!("{}_uuid", nouns[parent]).replace("_uuid", if uuids { "_uuid" } else { "_id" }),
                _ => format!("{}_id", nouns[parent]),
            };
            columns.push(format!("{column} {key_type}"));
            if draw.below(4) == 0 {
                // A liar: it is called like a key, and its values come from elsewhere.
                values.push(Box::new(move |n| {
                    if uuids {
                        uuid(900_000 + salt % 1_000, n)
                    } else {
                        (5_000_000 + mixed(salt, n) % 900_000).to_string()
                    }
                }));
            } else {
                values.push(Box::new(move |n| match n {
                    _ if n % 17 == 0 => "NULL".to_owned(),
                    _ if n % stray == 0 => key(parent, size + 1 + mixed(salt, n) % 50),
                    _ => key(parent, 1 + mixed(salt, n) % size),
                }));
                planted.push(format!("orphan {}.{column} -> {}.id", name(noun), name(nouns[parent])));
            }
        }
        for place in 0..draw.below(4) {
            // Numbers that every table has, under names that speak of no table or do not speak of keys.
            let salt = draw.below(1 << 40);
            let other = OTHERS[usize::try_from(draw.below(6)).expect("small")];
            let noun = nouns[usize::try_from(draw.below(count)).expect("small")];
            let most = 3 + draw.below(60);
            columns.push(match draw.below(4) {
                0 => format!("{other}_id{place} integer").replace(&format!("id{place}"), if place == 0 { "id" } else { "ref" }),
                1 => format!("{noun}_count{place} integer"),
                2 => format!("{noun}_number{place} integer"),
                _ => format!("position{place} integer"),
            });
            values.push(Box::new(move |n| (1 + mixed(salt, n) % most).to_string()));
        }
        let mut seen: Vec<&str> = Vec::new();
        let keep: Vec<bool> = columns
            .iter()
            .map(|column| {
                let name = column.split(' ').next().unwrap_or_default();
                let new = !seen.contains(&name);
                seen.push(name);
                new
            })
            .collect();
        let kept = |place: &usize| keep[*place];
        let declared: Vec<&str> = (0..columns.len()).filter(kept).map(|place| columns[place].as_str()).collect();
        sql += &format!("CREATE TABLE \"{}\" ({});\n", name(noun), declared.join(", "));
        sql += &insert(&format!("\"{}\"", name(noun)), sizes[table], |n| {
            (0..values.len())
                .filter(kept)
                .map(|place| values[place](n))
                .collect::<Vec<_>>()
                .join(", ")
        });
    }
    (sql, planted)
}

async fn check(database: Database, seed: u64) {
    let (sql, planted) = schema(seed);
    let found = Lab::with(database, &sql).await.discover().await;
    let context = format!("{database:?}, seed {seed}; DBKEEP_TEST_SEED={seed} repeats it");
    for proposal in &found.proposals {
        let what = line(proposal);
        assert!(
            proposal.confidence < 0.9 || planted.contains(&what),
            "{context}: {what} with {} was not planted; planted: {planted:#?}\n{:#?}",
            proposal.confidence,
            proposal.evidence
        );
    }
    for relation in &planted {
        let told = found.proposals.iter().find(|proposal| line(proposal) == *relation);
        assert!(
            told.is_some_and(|proposal| proposal.confidence >= 0.7),
            "{context}: {relation} was planted; found {told:#?}\n{:#?}",
            found.hints
        );
    }
}

#[tokio::test]
async fn whatever_is_told_for_sure_was_planted() {
    let seeds: Vec<u64> = match std::env::var("DBKEEP_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("DBKEEP_TEST_SEED is a number")],
        Err(_) => (0..40).collect(),
    };
    println!("seeds {seeds:?}");
    for seed in seeds {
        check(Database::Sqlite, seed).await;
        // Databases of PostgreSQL take longer to make.
        if seed % 5 == 0 {
            check(Database::Postgres, seed).await;
        }
    }
}
