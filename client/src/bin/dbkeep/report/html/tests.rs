//! The page, parsed as a browser does it.

use dbkeep_client::proto::{RunEvent, RunOptions, RunState, RunWarning, Severity, StepState, run_event::Event};
use html5ever::{parse_document, tendril::TendrilSink as _};
use markup5ever_rcdom::{Handle, NodeData, RcDom};

use super::*;

pub(in crate::report) const HOSTILE: &str = "\"><script>alert('x')</script><!--</title></style></svg>&lt;\u{1b}[31m";

/// The elements of a page with their attributes, and all its text. Panics where a browser would have to mend something.
pub(in crate::report) struct Parsed {
    pub(in crate::report) elements: Vec<(String, Vec<(String, String)>)>,
    pub(in crate::report) text: String,
}

pub(in crate::report) fn parsed(page: &str) -> Parsed {
    let dom = parse_document(RcDom::default(), Default::default()).one(page);
    assert!(dom.errors.borrow().is_empty(), "{:?}\n{page}", dom.errors.borrow());
    let mut parsed = Parsed {
        elements: Vec::new(),
        text: String::new(),
    };
    walk(&dom.document, &mut parsed);
    parsed
}

fn walk(node: &Handle, parsed: &mut Parsed) {
    match &node.data {
        NodeData::Element { name, attrs, .. } => {
            let attributes = attrs.borrow();
            let attributes = attributes
                .iter()
                .map(|attribute| (attribute.name.local.to_string(), attribute.value.to_string()));
            parsed.elements.push((name.local.to_string(), attributes.collect()));
        }
        NodeData::Text { contents } => parsed.text.push_str(&contents.borrow()),
        NodeData::Comment { contents } => panic!("a comment: {contents}"),
        _ => {}
    }
    for child in node.children.borrow().iter() {
        walk(child, parsed);
    }
}

fn run(name: &str) -> proto::Run {
    let step = |index, state: StepState| proto::StepReport {
        index,
        operation: name.into(),
        rule: name.into(),
        table: name.into(),
        action: "update".into(),
        state: state.into(),
        rows_planned: 1_000,
        rows_affected: 900,
        rows_remaining: 100,
        message: name.into(),
        ..Default::default()
    };
    proto::Run {
        id: "0198c5a0-0000-7000-8000-000000000001".into(),
        kind: RunKind::Cleanup.into(),
        target: name.into(),
        state: RunState::PartiallySucceeded.into(),
        state_reason: name.into(),
        operations: vec![name.into()],
        plan_id: "p1".into(),
        options: Some(RunOptions {
            dry_run: Some(false),
            batch_size: Some(100),
            ..Default::default()
        }),
        report: Some(proto::RunReport {
            status: ReportStatus::PartialSuccess.into(),
            rows_planned: 2_000,
            rows_affected: 1_800,
            sizes: Some(proto::RunSizes {
                before: Some(proto::SizeSnapshot {
                    database_bytes: Some(4_096),
                    tables: vec![proto::TableSize {
                        table: name.into(),
                        row_count: Some(7),
                        dead_rows: Some(4_321),
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
                after: None,
            }),
            recommendations: vec![proto::Recommendation {
                key: name.into(),
                detail: name.into(),
                remediation: name.into(),
                ..Default::default()
            }],
            operations: vec![proto::OperationReport {
                operation: name.into(),
                category: name.into(),
                severity: Severity::High.into(),
                state: StepState::Partial.into(),
                status: ReportStatus::PartialSuccess.into(),
                error_count: 1,
                warning_count: 130,
                ..Default::default()
            }],
            steps: vec![step(0, StepState::Partial), step(1, StepState::Failed)],
            warnings: vec![RunWarning {
                code: name.into(),
                message: name.into(),
                step_index: Some(0),
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn event(millisecond: u32, body: Event) -> RunEvent {
    RunEvent {
        run_id: "r".into(),
        sequence: u64::from(millisecond) + 1,
        time: Some(prost_types::Timestamp {
            seconds: 1_700_000_000 + i64::from(millisecond / 1_000),
            nanos: i32::try_from(millisecond % 1_000).expect("below a thousand") * 1_000_000,
        }),
        event: Some(body),
        ..Default::default()
    }
}

/// A course with so many progress events, a tenth of a second apart.
fn course(count: u32, reason: &str) -> Course {
    let mut course = Course::default();
    for index in 0..count {
        let body = Event::Progress(proto::Progress {
            rows_affected: u64::from(index) * 7,
            batches: u64::from(index) + 1,
            batch_duration: Some(prost_types::Duration {
                seconds: 0,
                nanos: 1_000_000 * i32::try_from(index % 90 + 1).expect("small"),
            }),
            scan_fraction: f64::from(index % 1_000) / 1_000.0,
            throttle: (index % 3 > 0).then(|| proto::Throttle {
                reason: reason.into(),
                value: reason.into(),
            }),
            ..Default::default()
        });
        course.take(&event(index * 100, body));
    }
    course
}

fn page(run: &proto::Run, course: &Course) -> String {
    render(&Content {
        run,
        course,
        next: &[("To take it back", format!("dbkeep runs undo {}", run.target))],
        at: Timestamp::UNIX_EPOCH,
    })
}

#[test]
fn nothing_that_a_database_holds_becomes_markup() {
    let page = page(&run(HOSTILE), &course(5, HOSTILE));
    let Parsed { elements, text } = parsed(&page);
    for (element, attributes) in &elements {
        assert!(
            !["script", "img", "link", "iframe", "object", "a", "form", "base"].contains(&element.as_str()),
            "{element}"
        );
        for (name, value) in attributes {
            assert!(!name.starts_with("on"), "{element} {name}");
            assert!(
                !["src", "href", "style", "srcset"].contains(&name.as_str()),
                "{element} {name}"
            );
            assert!(!value.contains("<script"), "{element} {name}={value}");
        }
    }
    // Every place that shows it shows it whole, with the escape sequence made harmless.
    let shown = HOSTILE.replace('\u{1b}', "\\u{1b}");
    assert!(text.matches(&shown).count() >= 12, "{}", text.matches(&shown).count());
    assert!(!page.contains('\u{1b}'));
    assert_eq!(elements.iter().filter(|(name, _)| name == "style").count(), 1);
    assert!(
        !STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'),
        "nothing is loaded"
    );
}

#[test]
fn what_is_to_be_pasted_keeps_its_lines() {
    let advice = proto::Recommendation {
        key: "add_cleanup_rule:logs".into(),
        name: "Add a rule".into(),
        remediation: "[[operation]]\nname = 1".into(),
        evidence: vec![proto::Evidence {
            name: "rows".into(),
            value: "7".into(),
        }],
        ..Default::default()
    };
    let item = recommendation(&advice).into_string();
    for part in [">Add a rule<", "(<bdi>rows 7</bdi>)", "<pre>[[operation]]\nname = 1</pre>"] {
        assert!(item.contains(part), "{part}: {item}");
    }
}

#[test]
fn the_policy_stands_before_anything_that_it_rules() {
    let Parsed { elements, .. } = parsed(&page(&run("app"), &course(3, "DUTY_CYCLE")));
    let position = |wanted: &str| elements.iter().position(|(name, _)| name == wanted).expect("an element");
    let policy = elements
        .iter()
        .position(|(_, attributes)| attributes.iter().any(|(_, value)| value == "Content-Security-Policy"))
        .expect("a policy");
    assert!(policy < position("style") && policy < position("title"));
    let content = &elements[policy].1[1].1;
    assert!(content.starts_with("default-src 'none';"), "{content}");
}

#[test]
fn every_chart_has_its_words() {
    for count in [0, 1, 2, 500] {
        let page = page(&run("app"), &course(count, "DUTY_CYCLE"));
        let Parsed { elements, text } = parsed(&page);
        let of = |wanted: &str| elements.iter().filter(|(name, _)| name == wanted).collect::<Vec<_>>();
        assert_eq!((of("figure").len(), of("figcaption").len()), (4, 4));
        for (_, attributes) in of("svg") {
            assert!(attributes.contains(&("role".to_owned(), "img".to_owned())));
            let labels = attributes
                .iter()
                .find(|(name, _)| name == "aria-labelledby")
                .expect("a label");
            for id in labels.1.split(' ') {
                let named = elements
                    .iter()
                    .filter(|(_, attributes)| attributes.iter().any(|(name, value)| name == "id" && value == id));
                assert_eq!(named.count(), 1, "{id}");
            }
        }
        assert!(!page.contains("NaN") && !page.contains("inf "), "{count}");
        assert_eq!(text.contains("half took"), count > 0, "{count}: {text}");
        assert!(text.contains("of 2,000 rows planned."), "{text}");
    }
}

#[test]
fn a_log_of_hours_stays_a_small_page() {
    let page = page(&run("app"), &course(100_000, "DUTY_CYCLE"));
    parsed(&page);
    assert!(page.len() < 200_000, "{} bytes", page.len());
}

#[test]
fn totals_warnings_and_commands_are_there() {
    let Parsed { text, .. } = parsed(&page(&run("app"), &course(2, "DUTY_CYCLE")));
    for words in [
        "Cleanup of app: PARTIAL SUCCESS",
        "1,800 rows updated",
        "Rows updated",
        "dbkeep runs undo app",
        "130",
        "100 rows",
        "Dead before",
        "~4,321",
        "Free after",
        "Sampled: 2 progress events",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn trimmed_history_and_a_token_are_treated_as_they_should() {
    let mut course = course(2, "DUTY_CYCLE");
    course.take(&event(
        500,
        Event::PlanReady(proto::PlanReady {
            plan_id: "p1".into(),
            plan_token: "plan_secret_token".into(),
            ..Default::default()
        }),
    ));
    course.take(&event(
        600,
        Event::HistoryLost(proto::HistoryLost {
            first_available_sequence: 41,
        }),
    ));
    let Parsed { text, .. } = parsed(&page(&run("app"), &course));
    assert!(
        text.contains("The events before number 41 are no longer kept. The charts start at 2023-11-14"),
        "{text}"
    );
    assert!(!text.contains("secret"), "a token lets its holder delete");
}

#[test]
fn a_dry_run_has_no_course() {
    let mut dry = run("app");
    dry.options = Some(RunOptions::default());
    let Parsed { elements, text } = parsed(&page(&dry, &Course::default()));
    assert!(text.contains("Dry run of app") && text.contains("Would go"), "{text}");
    assert!(!elements.iter().any(|(name, _)| name == "svg"));
}

#[test]
fn a_run_of_migrations_has_a_table_of_them_and_no_charts() {
    let mut run = run(HOSTILE);
    run.kind = RunKind::Rehearse.into();
    let report = run.report.get_or_insert_default();
    report.migrations = vec![proto::MigrationReport {
        id: "3".into(),
        name: HOSTILE.into(),
        statements_done: 1,
        statement_count: 2,
        problem: HOSTILE.into(),
        rehearsal: Some(proto::RehearsalReport {
            has_down: true,
            differences: vec![HOSTILE.into()],
            ..Default::default()
        }),
        ..Default::default()
    }];
    let page = render(&Content {
        run: &run,
        course: &Course::default(),
        next: &[],
        at: Timestamp::UNIX_EPOCH,
    });
    let parsed = parsed(&page);
    assert!(
        parsed.text.contains("Rehearsal of") && parsed.text.contains("1 of 2"),
        "{}",
        parsed.text
    );
    assert!(parsed.elements.iter().all(|(name, _)| name != "script" && name != "figure"));
}
