//! The real server killed while it decides, fires and settles slots, and several servers on one store that are killed and stopped at
//! random: every slot has one row and one run.

use dbkeep_proto::v1::{self, schedule_service_client::ScheduleServiceClient};
use dbkeep_testkit::Db;
use jiff::SignedDuration;

use crate::{
    support::Daemon,
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
async fn killed_at(point: &str) {
    let world = World::new("sqlite").await;
    let data = world.folder.path().join("data");
    let catalog = world.catalog_file();
    let mut daemon = Daemon::start(&data, &world.target, &catalog, "");
    let schedule = create(&daemon, "tokens").await;
    daemon.kill();
    let control = world.control().await;
    world.make_due(&control, &schedule, SignedDuration::from_mins(30)).await;
    let mut daemon = Daemon::start(&data, &world.target, &catalog, &format!("{point}=panic"));
    assert!(!daemon.wait().success(), "{point}: killed");
    let daemon = Daemon::start(&data, &world.target, &catalog, "");
    let outcome = eventually(|| async {
        let slots = world.slots(&control, &schedule).await;
        let newest = slots.first()?.0.clone();
        (!["pending", "waiting", "fired"].contains(&newest.as_str())).then_some(newest)
    })
    .await;
    assert_eq!(outcome, "succeeded", "{point}");
    assert_eq!(world.runs(&control, &schedule).await, 1, "{point}");
    assert_eq!(world.expired().await, 0, "{point}");
    drop(daemon);
}

macro_rules! killed {
    ($($name:ident: $point:literal),+ $(,)?) => {
        $( #[tokio::test(flavor = "multi_thread")] async fn $name() { killed_at($point).await; } )+
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
             [engine]\nlease_term = \"2s\"\ndrift_fraction = 0.0\ndrift_rows = 0\n[scheduler]\ndefault_schedules = false\n\
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
        // One of the first three dies, and another sleeps past its lease and wakes up again.
        let victim = usize::try_from(random.below(3)).expect("small");
        let sleeper = (victim + 1) % 3;
        // When it strikes is a number of slots, and not a time: so many decided, and so many fired.
        let size = u64::try_from(wave.len()).expect("small");
        let (decided, fired) = (random.below(size + 1), random.below(size + 1));
        world.reached(&control, wave, decided, |_| true).await;
        daemons[sleeper].signal(rustix::process::Signal::STOP);
        world.reached(&control, wave, fired, |(_, run)| run.is_some()).await;
        daemons[victim].kill();
        // All slots of the wave end without the two; the sleeper's leases lapse meanwhile.
        eventually(|| async {
            for schedule in wave {
                let slots = world.slots(&control, schedule).await;
                let open = slots
                    .iter()
                    .any(|slot| ["pending", "waiting", "fired"].contains(&slot.0.as_str()));
                if slots.is_empty() || open {
                    return None;
                }
            }
            Some(())
        })
        .await;
        daemons[sleeper].signal(rustix::process::Signal::CONT);
        daemons[victim] = start(victim);
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
