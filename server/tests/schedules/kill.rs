//! The real server killed while it decides, fires and settles slots, and several servers on one store that are killed and stopped at
//! random, at work: what they held is taken over, and every slot has one row and one run.

use dbkeep_proto::v1::{self, schedule_service_client::ScheduleServiceClient};
use dbkeep_testkit::Db;
use jiff::SignedDuration;
use rustix::process::Signal;

use crate::{
    support::Daemon,
    upkeep,
    world::{EXPIRED, Random, World, as_principal, eventually, once_an_hour},
};

async fn client(daemon: &Daemon) -> ScheduleServiceClient<tonic::transport::Channel> {
    ScheduleServiceClient::connect(format!("http://{}", daemon.address))
        .await
        .expect("a connection")
}

pub(crate) async fn create(daemon: &Daemon, name: &str) -> String {
    let request = v1::CreateScheduleRequest {
        spec: Some(once_an_hour(name)),
        request_id: String::new(),
    };
    let made = client(daemon).await.create_schedule(as_principal("ann", request)).await;
    made.expect("a schedule").into_inner().schedule.expect("a schedule").id
}

/// Killed at this point, a restarted server brings the slot to its end, with one run.
async fn killed_at(database: &str, point: &str) {
    let world = World::new(database).await;
    let mut daemon = upkeep::start(&world, "", "");
    let schedule = create(&daemon, "tokens").await;
    daemon.kill();
    let control = world.control().await;
    world.make_due(&control, &schedule, SignedDuration::from_mins(30)).await;
    let mut daemon = upkeep::start(&world, "", &format!("{point}=panic"));
    assert!(!daemon.wait().success(), "{point}: killed");
    let daemon = upkeep::start(&world, "", "");
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
    assert_eq!(world.slots(&control, &schedule).await.len(), 1, "{point}");
    assert_eq!(world.runs(&control, &schedule).await, 1, "{point}");
    assert_eq!(world.expired().await, 0, "{point}");
    drop(daemon);
}

macro_rules! killed {
    ($($name:ident: $point:literal),+ $(,)?) => {
        mod killed_sqlite { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("sqlite", $point).await; } )+ }
        mod killed_postgres { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("postgres", $point).await; } )+ }
    };
}

killed!(
    when_slots_are_decided: "slots-decided",
    when_a_slot_is_claimed: "slot-claimed",
    when_its_run_is_planned: "slot-planned",
    when_its_run_is_accepted: "slot-fired",
    when_it_is_settled: "slot-settled",
);

/// Number of slots: 200, or what `DBKEEP_SLOTS` says.
fn slots() -> u64 {
    std::env::var("DBKEEP_SLOTS").map_or(200, |slots| slots.parse().expect("DBKEEP_SLOTS is a number"))
}

/// Writes down each deletion, and has another row expire for each that went: whatever fires once more deletes once more, and is seen.
async fn log_deletions(db: &Db) {
    for statement in [
        "CREATE TABLE deleted (id bigint NOT NULL)",
        "CREATE SEQUENCE expiring START 1000000",
        "CREATE FUNCTION log_deletion() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO deleted VALUES (OLD.id); INSERT INTO tokens VALUES (nextval('expiring'), 1000); RETURN NULL; END $$",
        "CREATE TRIGGER log_deletion AFTER DELETE ON tokens FOR EACH ROW EXECUTE FUNCTION log_deletion()",
    ] {
        db.execute(statement).await.expect(statement);
    }
}

/// Lease term of the four servers, as their configuration has it.
const TERM_MS: i64 = 2_000;
/// The clock that leases go by, milliseconds since 1970.
const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
/// What servers have for a while: runs by leases and slots by claims, with the number of the newest, whose it is, and until when.
const CLAIMS: &str = "(SELECT 'run ' || id AS what, attempts AS number, holder, lease_until_ms FROM dbkeep_control.runs UNION ALL \
     SELECT 'slot ' || slot_ms || ' of ' || schedule_id, claims, holder, lease_until_ms FROM dbkeep_control.schedule_slots) AS claimed";

async fn number(control: &Db, sql: &str) -> i64 {
    let rows = control.fetch_text(sql).await.expect(sql);
    rows[0][0].as_ref().expect(sql).parse().expect("a number")
}

async fn clock(control: &Db) -> i64 {
    number(control, &format!("SELECT {CLOCK}")).await
}

/// The name by which a server claims.
async fn name_of(control: &Db, daemon: &Daemon) -> String {
    let sql = format!(
        "SELECT id FROM dbkeep_control.servers WHERE address = '{}' ORDER BY started_ms DESC LIMIT 1",
        daemon.address
    );
    eventually(|| async {
        let servers = control.fetch_text(&sql).await.expect("servers");
        servers.first()?[0].clone()
    })
    .await
}

/// What a server holds now: each run and slot, with the number of its claim.
async fn held_by(control: &Db, server: &str) -> Vec<(String, i64)> {
    let sql = format!("SELECT what, number FROM {CLAIMS} WHERE holder = '{server}' AND lease_until_ms > {CLOCK}");
    let rows = control.fetch_text(&sql).await.expect("claims");
    rows.into_iter()
        .map(|row| {
            let [what, number] = <[_; 2]>::try_from(row)
                .expect("two columns")
                .map(|column| column.expect("a value"));
            (what, number.parse().expect("a number"))
        })
        .collect()
}

/// How many of these were claimed once more since.
async fn claimed_again(control: &Db, held: &[(String, i64)]) -> usize {
    let mut again = 0;
    for (what, before) in held {
        let now = number(control, &format!("SELECT number FROM {CLAIMS} WHERE what = '{what}'")).await;
        again += usize::from(now > *before);
    }
    again
}

/// Whether every slot of these schedules has ended.
async fn over(world: &World, control: &Db, schedules: &[String]) -> bool {
    for schedule in schedules {
        let slots = world.slots(control, schedule).await;
        let open = slots
            .iter()
            .any(|slot| ["pending", "waiting", "fired"].contains(&slot.0.as_str()));
        if slots.is_empty() || open {
            return false;
        }
    }
    true
}

/// The first of these servers, by their numbers, that holds something; the first of all where the wave is over before one does.
async fn at_work(world: &World, control: &Db, daemons: &[Daemon], order: &[usize], wave: &[String]) -> usize {
    eventually(|| async {
        for &server in order {
            let name = name_of(control, &daemons[server]).await;
            if !held_by(control, &name).await.is_empty() {
                return Some(server);
            }
        }
        over(world, control, wave).await.then_some(order[0])
    })
    .await
}

/// A server that is stopped: its number, its name, and what it held then.
struct Asleep {
    server: usize,
    name: String,
    held: Vec<(String, i64)>,
}

/// Stops one of these servers at work.
async fn stop_at_work(world: &World, control: &Db, daemons: &[Daemon], order: &[usize], wave: &[String]) -> Asleep {
    loop {
        let server = at_work(world, control, daemons, order, wave).await;
        let name = name_of(control, &daemons[server]).await;
        daemons[server].signal(Signal::STOP);
        let held = held_by(control, &name).await;
        if !held.is_empty() || over(world, control, wave).await {
            return Asleep { server, name, held };
        }
        // It was through with it before it stopped.
        daemons[server].signal(Signal::CONT);
    }
}

/// Lets a server sleep on until its leases are over, by the clock that decides about them, and wakes it up; waits until it is at work again.
async fn wake(control: &Db, daemons: &[Daemon], asleep: &Asleep, since: i64) {
    eventually(|| async {
        let past = clock(control).await >= since + TERM_MS;
        (past && held_by(control, &asleep.name).await.is_empty()).then_some(())
    })
    .await;
    let woken = clock(control).await;
    daemons[asleep.server].signal(Signal::CONT);
    let seen = format!("SELECT seen_ms FROM dbkeep_control.servers WHERE id = '{}'", asleep.name);
    eventually(|| async { (number(control, &seen).await > woken).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_servers_fire_each_slot_once() {
    let seed = 0x5eed_2026_1127_u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    let world = World::new("postgres").await;
    log_deletions(&world.db).await;
    let catalog = world.catalog_file();
    let start = |number: usize| {
        let config = world.folder.path().join(format!("server{number}.toml"));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data{number}\"\n[store]\nurl = \"{}\"\n[backup]\nfolder = \"backups\"\n\
             [engine]\nlease_term = \"{TERM_MS}ms\"\ndrift_fraction = 0.0\ndrift_rows = 0\n[scheduler]\ndefault_schedules = false\n\
             [[target]]\nname = \"app\"\nurl = \"{}\"\ncatalog = [\"{}\"]\n",
            world.store,
            world.target,
            catalog.display()
        );
        std::fs::write(&config, text).expect("a configuration");
        Daemon::start_configured(&config)
    };
    let mut daemons: Vec<Daemon> = (0..4).map(start).collect();
    let control = world.control().await;
    let waves = 10;
    let (mut from_stopped, mut from_killed) = (0, 0);
    let mut schedules = Vec::new();
    for number in 0..slots() {
        let alive = daemons.last().expect("four servers");
        schedules.push(create(alive, &format!("tokens {number}")).await);
    }
    let per_wave = schedules.len().div_ceil(waves);
    for wave in schedules.chunks(per_wave) {
        let mut due = Vec::new();
        for schedule in wave {
            due.push(world.make_due(&control, schedule, SignedDuration::from_mins(30)).await);
        }
        // Of the first three one sleeps past its lease and wakes up again, and another dies.
        let first = usize::try_from(random.below(3)).expect("small");
        let order = [first, (first + 1) % 3, (first + 2) % 3];
        // When it strikes is a number of slots, and not a time: so many decided, and so many fired.
        let size = u64::try_from(wave.len()).expect("small");
        let (decided, fired) = (random.below(size + 1), random.below(size + 1));
        world.reached(&control, wave, decided, |_| true).await;
        let asleep = stop_at_work(&world, &control, &daemons, &order, wave).await;
        let since = clock(&control).await;
        world.reached(&control, wave, fired, |(_, run)| run.is_some()).await;
        let others: Vec<usize> = order.into_iter().filter(|server| *server != asleep.server).collect();
        let victim = at_work(&world, &control, &daemons, &others, wave).await;
        let name = name_of(&control, &daemons[victim]).await;
        daemons[victim].kill();
        let left = held_by(&control, &name).await;
        // All slots of the wave end without the two.
        eventually(|| async { over(&world, &control, wave).await.then_some(()) }).await;
        from_stopped += claimed_again(&control, &asleep.held).await;
        from_killed += claimed_again(&control, &left).await;
        wake(&control, &daemons, &asleep, since).await;
        daemons[victim] = start(victim);
    }
    println!("taken over: {from_stopped} of servers that slept, {from_killed} of servers that died");
    assert!(
        from_stopped > 0 && from_killed > 0,
        "both were struck at work: {from_stopped} runs and slots were taken over from those that slept, {from_killed} from those that died"
    );
    // Whoever woke up last and is late with something has written it, and ended, before anything is counted.
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
    }
    for daemon in &mut daemons {
        assert!(daemon.wait().success(), "it ends in order");
    }
    for schedule in &schedules {
        let slots = world.slots(&control, schedule).await;
        assert_eq!(slots.len(), 1, "{schedule}");
        for (outcome, run) in &slots {
            let good = run.is_some() && ["succeeded", "warned"].contains(&outcome.as_str());
            assert!(good, "{schedule}: {slots:?}: {:?}", world.reasons(&control, schedule).await);
        }
        assert_eq!(
            world.runs(&control, schedule).await,
            u64::try_from(slots.len()).expect("small"),
            "{schedule}"
        );
    }
    assert_eq!(
        world.db.count("deleted").await.expect("a count"),
        EXPIRED * slots(),
        "every slot deleted what expired, and none did it twice"
    );
    assert_eq!(
        world.db.count_where("tokens", "expires_at > 2000").await.expect("a count"),
        EXPIRED,
        "rows that live stay"
    );
    println!("{} slots, {waves} waves", schedules.len());
}
