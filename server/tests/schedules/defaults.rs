//! The three schedules of the learning platform, which a server creates when it first meets the catalog that comes with it.

use dbkeep_demo::{CATALOG, GenerateOptions, generate, generate_files};
use dbkeep_proto::v1;
use dbkeep_server::config::channels::{ChannelConfig, ChannelSetting, HookConfig};
use jiff::{Timestamp, civil::Weekday, tz::TimeZone};

use crate::{serving::catalog, told::mail, world::World};

/// Name, operations, rows of a batch, seconds, what is told, over what, and the hour.
type Declared = (
    &'static str,
    &'static [&'static str],
    u32,
    i64,
    (bool, bool, bool),
    &'static [&'static str],
    i8,
);

const DEFAULTS: [Declared; 3] = [
    (
        "daily_cleanup",
        &["expired_tokens", "cached_data"],
        1_000,
        1_800,
        (false, true, true),
        &["email"],
        2,
    ),
    (
        "weekly_deep_clean",
        &[
            "orphaned_achievements",
            "orphaned_progress",
            "orphaned_leaderboard",
            "orphaned_prerequisites",
            "old_logs",
        ],
        500,
        3_600,
        (true, true, true),
        &["email", "slack"],
        1,
    ),
    (
        "monthly_archive",
        &["inactive_accounts", "temporary_files"],
        100,
        7_200,
        (true, true, true),
        &["email"],
        3,
    ),
];

pub(crate) async fn the_three_schedules_of_the_platform_are_created(database: &str) {
    let world = World::new(database).await;
    let url = format!("sqlite://{}", world.folder.path().join("platform.db").display());
    let options = GenerateOptions {
        url: url.clone(),
        rows: 2_000,
        seed: 42,
        now: Timestamp::now(),
        declared_keys: false,
        drop_existing: false,
    };
    generate(&options).await.expect("a platform");
    generate_files(&options, world.folder.path()).expect("its files");
    let server = world
        .serve(|mut config| {
            config.targets.clear();
            let slack = ChannelSetting::Slack(HookConfig {
                url: "https://hooks.slack.com/services/nobody".into(),
                allow_private: false,
            });
            config
                .with_target("platform", url.as_str(), catalog(CATALOG))
                .with_root("platform", "temp", world.folder.path().join("temp"))
                .with_root("platform", "uploads", world.folder.path().join("uploads"))
                .with_channel(mail(&["ops@example.com"]))
                .with_channel(ChannelConfig::new("chat", slack))
        })
        .await;
    for (name, operations, batch, seconds, told, channels, hour) in DEFAULTS {
        let schedule = server.get(name).await;
        let spec = schedule.spec.as_ref().expect("a spec");
        assert_eq!(spec.operations, operations, "{name}");
        let options = spec.options.as_ref().expect("options");
        let longest = options.max_execution_time.as_ref().map(|time| time.seconds);
        assert_eq!((options.batch_size, longest), (Some(batch), Some(seconds)), "{name}");
        let rules = spec.notify.as_ref().expect("rules");
        assert_eq!((rules.on_success, rules.on_failure, rules.on_warnings), told, "{name}");
        assert_eq!(rules.channels, channels, "{name}");
        let next = schedule.next_slot_time.expect("a next slot").seconds;
        let next = Timestamp::from_second(next).expect("an instant").to_zoned(TimeZone::UTC);
        assert_eq!((next.hour(), next.minute()), (hour, 0), "{name}");
        match name {
            "weekly_deep_clean" => assert_eq!(next.weekday(), Weekday::Sunday),
            "monthly_archive" => {
                assert_eq!(next.day(), 1);
                assert!(schedule.needs_approval, "accounts go with consent alone");
            }
            _ => {}
        }
    }
    let listed = server.schedules().list_schedules(v1::ListSchedulesRequest::default()).await;
    assert_eq!(listed.expect("a list").into_inner().schedules.len(), DEFAULTS.len());
    server.stop().await;
}
