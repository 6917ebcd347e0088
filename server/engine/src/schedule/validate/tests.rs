use super::*;
use crate::model::schedule::{CronFields, Misfire, Overlap};

fn known() -> Known {
    let operations = [
        ("old_logs", Severity::Medium),
        ("orphaned_progress", Severity::High),
        ("inactive_accounts", Severity::Critical),
    ];
    Known {
        targets: [(
            "main".to_owned(),
            operations.map(|(name, severity)| (name.to_owned(), severity)).into(),
        )]
        .into(),
        unsupported: [("main".to_owned(), [("reindex_bloated", "indexes have no air")].into())].into(),
        channels: [
            ("ops-mail", ChannelKind::Email, false),
            ("team-mail", ChannelKind::Email, true),
            ("ops-slack", ChannelKind::Slack, false),
            ("hook", ChannelKind::Webhook, false),
        ]
        .map(|(name, kind, has_recipients)| (name.to_owned(), KnownChannel { kind, has_recipients }))
        .into(),
    }
}

fn good() -> ScheduleSpec {
    ScheduleSpec {
        name: "daily_cleanup".to_owned(),
        description: "Every night.".to_owned(),
        target: "main".to_owned(),
        work: Work::Operations(vec!["old_logs".to_owned(), "orphaned_progress".to_owned()]),
        timing: Timing {
            cron: CronFields::from_expression("0 2 * * *").expect("fields"),
            timezone: "Europe/Berlin".to_owned(),
            exclusions: vec!["12-24..12-26".to_owned()],
            ..Timing::default()
        },
        enabled: true,
        options: ScheduleOptions::default(),
        overlap: Overlap::default(),
        misfire: Misfire::default(),
        pause_after_failures: 3,
        deadline_seconds: 0,
        notify: NotifyRules {
            on_success: false,
            on_failure: true,
            on_warnings: true,
            recipients: vec!["ops@example.org".to_owned()],
            channels: vec!["ops-mail".to_owned(), "ops-slack".to_owned()],
        },
    }
}

fn now() -> Timestamp {
    "2026-11-27T12:00:00Z".parse().expect("an instant")
}

fn found(change: impl FnOnce(&mut ScheduleSpec)) -> Vec<String> {
    let mut spec = good();
    change(&mut spec);
    validate(&spec, &known(), now()).iter().map(ToString::to_string).collect()
}

/// A channel that has recipients of its own is told of others all the same: what a schedule names is in their place.
#[test]
fn mail_channels_with_recipients_take_others_and_need_none() {
    for recipients in [vec![], vec!["ops@example.org".to_owned()]] {
        let problems = found(|spec| {
            spec.notify.channels = vec!["team-mail".to_owned()];
            spec.notify.recipients = recipients.clone();
        });
        assert_eq!(problems, Vec::<String>::new(), "{recipients:?}");
    }
    let both = found(|spec| {
        spec.notify.channels = vec!["team-mail".to_owned(), "ops-mail".to_owned()];
        spec.notify.recipients.clear();
    });
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(
        both[0].contains("channel \"ops-mail\" sends e-mail and needs an address"),
        "{both:?}"
    );
}

#[test]
fn a_good_schedule_has_no_problem() {
    assert_eq!(found(|_| {}), Vec::<String>::new());
    assert_eq!(found(|spec| spec.notify = NotifyRules::default()), Vec::<String>::new());
    assert_eq!(
        found(|spec| {
            spec.work = Work::Maintenance(vec![
                MaintenanceTask::VacuumAnalyze,
                MaintenanceTask::PruneBackups {
                    keep_days: None,
                    keep_count: Some(1),
                },
            ]);
        }),
        Vec::<String>::new()
    );
    assert_eq!(
        found(|spec| {
            spec.name = "ä".repeat(100);
            spec.description = "ä".repeat(500);
            spec.options.batch_rows = 10_000;
            spec.options.max_execution_seconds = 7_200;
            spec.options.max_fraction = Some(1.0);
        }),
        Vec::<String>::new(),
        "the bounds themselves"
    );
    assert_eq!(
        found(|spec| spec.timing.cron = CronFields::from_expression("0 0 29 2 */7").expect("fields")),
        Vec::<String>::new(),
        "rare is not never"
    );
}

#[test]
fn every_field_is_looked_at_and_named_by_its_path() {
    type Change = fn(&mut ScheduleSpec);
    let cases: Vec<(Change, &str)> = vec![
        (
            |spec| spec.name = String::new(),
            "name: is empty; expected 1 to 100 characters",
        ),
        (|spec| spec.name = "  ".to_owned(), "name: is empty"),
        (
            |spec| spec.name = "n".repeat(101),
            "name: has 101 characters; expected 1 to 100",
        ),
        (
            |spec| spec.name = "a\u{7}b".to_owned(),
            "name: \"a\\u{7}b\" holds control characters",
        ),
        (
            |spec| spec.description = "d".repeat(501),
            "description: has 501 characters; expected at most 500",
        ),
        (
            |spec| spec.description = "a\u{0}".to_owned(),
            "description: holds control characters",
        ),
        (
            |spec| spec.target = "mian".to_owned(),
            "target: there is no target \"mian\"; expected one of main",
        ),
        (|spec| spec.work = Work::Operations(vec![]), "work.operations: is empty"),
        (|spec| spec.work = Work::Maintenance(vec![]), "work.maintenance: is empty"),
        (
            |spec| spec.work = Work::Operations(vec!["old_logs".to_owned(), "old_log".to_owned()]),
            "work.operations[1]: there is no operation \"old_log\"; expected one of inactive_accounts, old_logs, orphaned_progress; did you mean old_logs?",
        ),
        (
            |spec| spec.work = Work::Operations(vec!["old_logs".to_owned(); 2]),
            "work.operations[1]: \"old_logs\" is there already",
        ),
        (
            |spec| spec.work = Work::Maintenance(vec![MaintenanceTask::RestoreDrill; 2]),
            "work.maintenance[1]: \"restore_drill\" is there already",
        ),
        (
            |spec| {
                spec.work = Work::Maintenance(vec![MaintenanceTask::PruneBackups {
                    keep_days: None,
                    keep_count: None,
                }]);
            },
            "work.maintenance[0]: prunes by nothing",
        ),
        (
            |spec| {
                spec.work = Work::Maintenance(vec![MaintenanceTask::PruneBackups {
                    keep_days: Some(1),
                    keep_count: Some(0),
                }]);
            },
            "work.maintenance[0].keep_count: is 0",
        ),
        (
            |spec| spec.work = Work::Maintenance(vec![MaintenanceTask::ReindexBloated]),
            "work.maintenance[0]: reindex_bloated has no use on target \"main\": indexes have no air",
        ),
        (
            |spec| {
                spec.work = Work::Maintenance(vec![MaintenanceTask::VacuumAnalyze]);
                spec.options.dry_run = true;
            },
            "options.dry_run: has no effect on maintenance",
        ),
        (
            |spec| {
                spec.work = Work::Maintenance(vec![MaintenanceTask::VacuumAnalyze]);
                spec.options.batch_rows = 10;
            },
            "options.batch_rows: has no effect on maintenance",
        ),
        (
            |spec| spec.timing.cron.minute = "60".to_owned(),
            "timing.cron.minute: \"60\" is out of range; expected 0 to 59",
        ),
        (
            |spec| spec.timing.cron = CronFields::from_expression("0 0 30 2 *").expect("fields"),
            "timing.cron.day_of_month: never fires",
        ),
        (
            |spec| spec.timing.timezone = "Europe/Berln".to_owned(),
            "timing.timezone: there is no time zone \"Europe/Berln\"",
        ),
        (
            |spec| spec.timing.jitter_seconds = 86_401,
            "timing.jitter_seconds: 86401 is out of range",
        ),
        (
            |spec| spec.timing.exclusions = vec!["12-24".to_owned(), "MOON".to_owned()],
            "timing.exclusions[1]: \"MOON\" is no weekday; expected MON to SUN; did you mean MON?",
        ),
        (
            |spec| spec.timing.exclusions = vec!["SAT".to_owned(); 51],
            "timing.exclusions: has 51 windows; expected at most 50",
        ),
        (
            |spec| spec.timing.exclusions = vec!["MON-SUN 01:00-04:00".to_owned()],
            "timing.exclusions: never fires: these windows exclude every occurrence in the next 5 years",
        ),
        (
            |spec| spec.timing.exclusions = vec!["01-01..06-30".to_owned(), "07-01..12-31".to_owned()],
            "timing.exclusions: never fires",
        ),
        (
            |spec| spec.options.batch_rows = 0,
            "options.batch_rows: 0 is out of range; expected 1 to 10000",
        ),
        (
            |spec| spec.options.batch_rows = 10_001,
            "options.batch_rows: 10001 is out of range",
        ),
        (
            |spec| spec.options.max_execution_seconds = 59,
            "options.max_execution_seconds: 59 is out of range; expected 60 to 7200",
        ),
        (
            |spec| spec.options.max_execution_seconds = 7_201,
            "options.max_execution_seconds: 7201 is out of range",
        ),
        (|spec| spec.options.max_rows = Some(0), "options.max_rows: is 0"),
        (
            |spec| spec.options.max_fraction = Some(0.0),
            "options.max_fraction: 0 is out of range; expected over 0 up to 1",
        ),
        (
            |spec| spec.options.max_fraction = Some(1.000_001),
            "options.max_fraction: 1.000001 is out of range",
        ),
        (
            |spec| spec.options.max_fraction = Some(f64::NAN),
            "options.max_fraction: NaN is out of range",
        ),
        (
            |spec| spec.misfire.catch_up_seconds = 604_801,
            "misfire.catch_up_seconds: 604801 is out of range",
        ),
        (
            |spec| {
                spec.timing.jitter_seconds = 30;
                spec.deadline_seconds = 89;
            },
            "deadline_seconds: 89 leaves no time for a run; expected 0 for none, or at least 90",
        ),
        (
            |spec| spec.notify.channels = vec![],
            "notify.channels: is empty, and on_failure, on_warnings is set",
        ),
        (
            |spec| spec.notify.channels = vec!["ops-mail".to_owned(), "ops-slak".to_owned()],
            "notify.channels[1]: there is no channel \"ops-slak\"; expected one of hook, ops-mail, ops-slack, team-mail; did you mean ops-slack?",
        ),
        (
            |spec| spec.notify.channels = vec!["ops-mail".to_owned(), "http://10.0.0.1/s3cret".to_owned()],
            "notify.channels[1]: is a URL; expected the name of a channel (hook, ops-mail, ops-slack, team-mail): where it leads, by https",
        ),
        (
            |spec| spec.notify.channels = vec!["ops-mail".to_owned(); 2],
            "notify.channels[1]: \"ops-mail\" is there already",
        ),
        (
            |spec| spec.notify.recipients = vec![],
            "notify.recipients: is empty; channel \"ops-mail\" sends e-mail",
        ),
        (
            |spec| spec.notify.channels = vec!["ops-slack".to_owned()],
            "notify.recipients: has addresses, and no channel",
        ),
        (
            |spec| {
                spec.notify
                    .recipients
                    .push("ops@example.org\r\nBcc: all@example.org".to_owned())
            },
            "notify.recipients[1]: \"ops@example.org\\r\\nBcc: all@example.org\" holds a line end",
        ),
        (
            |spec| spec.notify.recipients.push("OPS@example.org".to_owned()),
            "notify.recipients[1]: \"OPS@example.org\" is there already",
        ),
        (
            |spec| spec.notify.recipients = vec!["a@example.org".to_owned(); 101],
            "notify.recipients: has 101 addresses; expected at most 100",
        ),
    ];
    for (change, expected) in cases {
        let found = found(change);
        assert_eq!(found.len(), 1, "{expected}: {found:?}");
        assert!(found[0].starts_with(expected), "expected {expected}, got {}", found[0]);
    }
}

#[test]
fn all_of_it_is_said_in_one_answer() {
    let fields: Vec<String> = {
        let mut spec = good();
        spec.name = String::new();
        spec.target = "nowhere".to_owned();
        spec.timing.cron.minute = "60".to_owned();
        spec.timing.cron.day_of_week = "MOON".to_owned();
        spec.timing.timezone = String::new();
        spec.timing.exclusions = vec!["nonsense".to_owned()];
        spec.options.batch_rows = 0;
        spec.options.max_fraction = Some(2.0);
        spec.notify.recipients = vec!["ops".to_owned(), "also bad@x".to_owned()];
        spec.notify.channels = vec!["nobody".to_owned()];
        validate(&spec, &known(), now())
            .into_iter()
            .map(|problem| problem.field)
            .collect()
    };
    assert_eq!(
        fields,
        [
            "name",
            "target",
            "timing.cron.minute",
            "timing.cron.day_of_week",
            "timing.timezone",
            "timing.exclusions[0]",
            "options.batch_rows",
            "options.max_fraction",
            "notify.channels[0]",
            "notify.recipients[0]",
            "notify.recipients[1]",
        ]
    );
}

#[test]
fn five_years_of_excluded_minutes_are_looked_at_window_by_window() {
    use crate::schedule::cron::ASKED;
    let before = ASKED.get();
    let problems = found(|spec| {
        spec.timing.cron = CronFields::from_expression("* * * * *").expect("fields");
        spec.timing.exclusions = vec![
            "MON-FRI".to_owned(),
            "SAT-SUN 00:00-12:00".to_owned(),
            "SAT-SUN 12:00-24:00".to_owned(),
        ];
    });
    assert_eq!(problems.len(), 1);
    let asked = ASKED.get() - before;
    assert!(asked < 10_000, "the calendar was asked {asked} times for 2.6 million minutes");
}

#[test]
fn critical_operations_need_consent_unless_nothing_is_deleted() {
    let mut spec = good();
    assert_eq!(known().needing_approval(&spec), Vec::<&str>::new());
    spec.work = Work::Operations(vec!["old_logs".to_owned(), "inactive_accounts".to_owned()]);
    assert_eq!(known().needing_approval(&spec), ["inactive_accounts"]);
    spec.options.dry_run = true;
    assert_eq!(known().needing_approval(&spec), Vec::<&str>::new());
}
