//! How soon the work of a server that died is taken over, with the lease as it is where nobody sets another: nobody begins before the dead
//! server's lease is over, and the next one does not wait for longer than for its next look. The store writes down when each lease was given and each
//! claim was made, by its own clock, so that a slow machine changes nothing about it.

use dbkeep_testkit::Db;
use jiff::SignedDuration;

use crate::{
    kill::create,
    support::Daemon,
    world::{World, eventually},
};

/// `[engine] lease_term` where nothing else is said.
const TERM_MS: i64 = 15_000;
/// How soon a server that lives looks once more, and has what it found: it looks at runs when a lease lapses, at slots once a second; the rest is
/// room for a slow machine.
const LOOK_MS: i64 = 3_000;

/// Has the store write down every lease of this table with the number of its claim, when it was given, and what was there before.
async fn log_leases(control: &Db, table: &str, number: &str) {
    for statement in [
        "CREATE TABLE public.leases (at_ms bigint, number bigint, until_ms bigint, before_number bigint, before_until_ms bigint)"
            .to_owned(),
        format!(
            "CREATE FUNCTION public.log_lease() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.leases VALUES \
             ((extract(epoch FROM clock_timestamp()) * 1000)::bigint, NEW.{number}, NEW.lease_until_ms, OLD.{number}, OLD.lease_until_ms); \
             RETURN NULL; END $$"
        ),
        format!(
            "CREATE TRIGGER log_lease AFTER UPDATE ON dbkeep_control.{table} FOR EACH ROW \
             WHEN (NEW.lease_until_ms IS NOT NULL AND NEW.lease_until_ms IS DISTINCT FROM OLD.lease_until_ms) EXECUTE FUNCTION public.log_lease()"
        ),
    ] {
        control.execute(&statement).await.expect(&statement);
    }
}

/// The first server dies at this point while it holds a lease on a row of the table; the second goes on.
async fn taken_over(point: &str, armed: &str, table: &str, number: &str) {
    let world = World::new("postgres").await;
    let catalog = world.catalog_file();
    let start = |number: usize, failpoints: &str| {
        let config = world.folder.path().join(format!("server{number}.toml"));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data{number}\"\n[store]\nurl = \"{}\"\n[backup]\nfolder = \"backups\"\n\
             [scheduler]\ndefault_schedules = false\n[[target]]\nname = \"app\"\nurl = \"{}\"\ncatalog = [\"{}\"]\n",
            world.store,
            world.target,
            catalog.display()
        );
        std::fs::write(&config, text).expect("a configuration");
        Daemon::start_configured_with(&config, failpoints)
    };
    let mut mortal = start(1, armed);
    let control = world.control().await;
    log_leases(&control, table, number).await;
    let schedule = create(&mortal, "tokens").await;
    world.make_due(&control, &schedule, SignedDuration::from_mins(30)).await;
    mortal.died(point);
    let survivor = start(2, "");
    let numbers = async |sql: &str| -> Vec<i64> {
        let rows = control.fetch_text(sql).await.expect("numbers");
        rows.into_iter()
            .flatten()
            .map(|number| number.expect("a number").parse().expect("a number"))
            .collect()
    };
    let up = numbers("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").await[0];
    let outcome = eventually(|| async {
        let slots = world.slots(&control, &schedule).await;
        let newest = slots.first()?.0.clone();
        (!["pending", "waiting", "fired"].contains(&newest.as_str())).then_some(newest)
    })
    .await;
    assert_eq!(
        outcome,
        "succeeded",
        "{point}: {:?}",
        world.reasons(&control, &schedule).await
    );
    assert_eq!(world.runs(&control, &schedule).await, 1, "{point}: one slot, one run");
    assert_eq!(world.expired().await, 0, "{point}");

    let longest = numbers("SELECT max(until_ms - at_ms) FROM public.leases").await[0];
    assert!(
        (1..=TERM_MS).contains(&longest),
        "no lease is longer than a term: {longest} ms"
    );
    let claims =
        numbers("SELECT at_ms, before_until_ms FROM public.leases WHERE number > before_number AND before_number > 0").await;
    let [claimed, lapsed] = claims[..] else {
        panic!("{point}: taken over once: {claims:?}");
    };
    println!("{point}: taken over {} ms after the lease was over", claimed - lapsed);
    assert!(claimed >= lapsed, "{point}: nobody is shut out while his lease holds");
    let latest = lapsed.max(up) + LOOK_MS;
    assert!(claimed <= latest, "{point}: {} ms later than that", claimed - latest);
    drop(survivor);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_server_that_died_is_taken_over_when_its_lease_is_over() {
    taken_over("batch-committed", "batch-committed=panic", "runs", "attempts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_a_server_that_died_is_taken_over_when_its_claim_is_over() {
    taken_over("slot-planned", "slot-planned=panic", "schedule_slots", "claims").await;
}
