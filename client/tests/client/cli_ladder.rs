//! The command line where a plan asks for more than a yes: phrase, approval, limits; and the record of decisions.

use dbkeep_client::proto::{self, RunState};
use tonic::Code;

use crate::{
    cli::{dbkeep, json_lines, one_run, serve, text},
    fake::{
        Answer::{Refuse, Stream},
        Call, Fake, RUN, refusal, state,
    },
};

const PHRASE: &str = "delete 5 rows from logs on main";

/// A server whose plan has this phrase, or a finding that blocks it.
fn plan(phrase: &str, finding: Option<&str>) -> proto::Plan {
    let findings = finding.map(|code| proto::Finding {
        code: code.into(),
        level: proto::FindingLevel::Block.into(),
        ..Default::default()
    });
    proto::Plan {
        token: "tok".into(),
        target: "main".into(),
        operations: vec!["a".into()],
        row_count: 5,
        blocked: findings.is_some(),
        confirmation_phrase: phrase.into(),
        approvals_required: u32::from(!phrase.is_empty()),
        steps: vec![proto::PlanStep {
            table: "logs".into(),
            row_count: 5,
            findings: findings.into_iter().collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn yes_is_no_phrase() {
    let fake = one_run(RunState::Succeeded);
    fake.set_plan(plan(PHRASE, None));
    let address = serve(&fake).await;
    for extra in [["--yes"], ["--force"]] {
        let arguments = [&["run", "a", "--execute"], extra.as_slice()].concat();
        let output = dbkeep(address, &arguments).await;
        assert_eq!(output.status.code(), Some(2), "{extra:?}");
        assert!(text(&output.stderr).contains("--phrase"), "{}", text(&output.stderr));
    }
    assert_eq!(fake.calls(), [Call::Plan, Call::Plan], "nothing was run");
    let output = dbkeep(address, &["run", "a", "--execute", "--phrase", PHRASE]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let calls = fake.calls();
    assert!(matches!(&calls[3], Call::Run { phrase, .. } if phrase == PHRASE), "{calls:?}");
}

#[tokio::test]
async fn a_plan_tells_its_phrase_and_the_commands_that_come_next() {
    let fake = Fake::new([]);
    fake.set_plan(plan(PHRASE, None));
    let address = serve(&fake).await;
    let output = dbkeep(address, &["plan", "a"]).await;
    let said = text(&output.stdout);
    assert!(
        said.contains(&format!("run --execute --target main --plan tok --phrase '{PHRASE}'")),
        "{said}"
    );
    assert!(said.contains("--principal NAME runs approve RUN"), "{said}");
    let output = dbkeep(address, &["plan", "a", "-o", "json"]).await;
    let plan = &json_lines(&output)[0]["plan"];
    assert_eq!(
        (plan["confirmation_phrase"].as_str(), plan["approvals_required"].as_u64()),
        (Some(PHRASE), Some(1))
    );
}

#[tokio::test]
async fn a_run_that_waits_tells_how_it_is_approved() {
    let fake = Fake::new([Stream(vec![state(1, RunState::Queued), state(2, RunState::Cancelled)])]);
    fake.set_plan(plan(PHRASE, None));
    fake.set_run(|run| {
        run.set_state(RunState::Queued);
        run.approvals_required = 1;
    });
    let arguments = ["run", "a", "--execute", "--phrase", PHRASE, "--detach"];
    let output = dbkeep(serve(&fake).await, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(
        said.contains(&format!(
            "somebody else has to approve it: dbkeep --principal NAME runs approve {RUN}"
        )),
        "{said}"
    );
}

#[tokio::test]
async fn refusals_of_the_ladder_exit_with_4_and_say_what_to_do() {
    for (reason, code, metadata, hint) in [
        (
            "CONFIRMATION_PHRASE",
            Code::FailedPrecondition,
            vec![("problem", "missing")],
            "--phrase",
        ),
        ("PLAN_USED", Code::FailedPrecondition, vec![("run", "r9")], "runs show r9"),
        ("FINDINGS_UNCONFIRMED", Code::FailedPrecondition, vec![], "--force"),
        (
            "APPROVAL_REFUSED",
            Code::PermissionDenied,
            vec![("problem", "anonymous")],
            "say who you are",
        ),
        (
            "APPROVAL_REFUSED",
            Code::PermissionDenied,
            vec![("problem", "same_principal")],
            "somebody else",
        ),
    ] {
        let fake = Fake::new([Refuse(refusal(code, reason, &metadata))]);
        let output = dbkeep(serve(&fake).await, &["run", "--plan", "tok", "--execute", "--yes"]).await;
        assert_eq!(output.status.code(), Some(4), "{reason}");
        let said = text(&output.stderr);
        assert!(said.contains(reason) && said.contains(hint), "{said}");
    }
    let fake = Fake::new([]);
    fake.fail_unary([refusal(Code::Unauthenticated, "PRINCIPAL_REFUSED", &[])]);
    let output = dbkeep(serve(&fake).await, &["runs", "approve", RUN, "--principal", "a b"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[tokio::test]
async fn an_approval_carries_its_name() {
    let fake = Fake::new([]);
    fake.set_run(|run| {
        run.approvals_required = 1;
        run.approvals = vec![proto::Approval {
            principal: "bob".into(),
            time: None,
        }];
    });
    let address = serve(&fake).await;
    let output = dbkeep(address, &["--principal", "bob", "runs", "approve", RUN]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("1 of 1; bob"), "{}", text(&output.stdout));
    let output = dbkeep(
        address,
        &["runs", "approve", RUN, "--deny", "--principal", "carl", "-o", "json"],
    )
    .await;
    assert_eq!(json_lines(&output)[0]["run"]["approvals"][0]["principal"], "bob");
    let call = |name: &str, deny| Call::Approve {
        principal: Some(name.into()),
        deny,
    };
    assert_eq!(fake.calls(), [call("bob", false), call("carl", true)]);
}

#[tokio::test]
async fn a_count_far_above_history_is_accepted_by_stating_it_and_nothing_else_is() {
    for (finding, most, code) in [
        ("FAR_ABOVE_HISTORY", Some("5"), 0),
        ("FAR_ABOVE_HISTORY", Some("4"), 4),
        ("FAR_ABOVE_HISTORY", None, 4),
        ("EMPTY_PARENT", Some("5"), 4),
    ] {
        let fake = one_run(RunState::Succeeded);
        fake.set_plan(plan("", Some(finding)));
        let mut arguments = vec!["run", "a", "--execute", "--yes", "--force"];
        arguments.extend(most.iter().flat_map(|most| ["--max-rows", most]));
        let output = dbkeep(serve(&fake).await, &arguments).await;
        assert_eq!(output.status.code(), Some(code), "{finding} {most:?}");
        assert_eq!(fake.calls().len() > 1, code == 0, "{finding} {most:?}");
    }
}

#[tokio::test]
async fn decisions_are_listed_over_all_pages() {
    let fake = Fake::new([]);
    let address = serve(&fake).await;
    let output = dbkeep(address, &["decisions", "list", "--outcome", "refused", "-o", "json"]).await;
    let answer = &json_lines(&output)[0];
    let ids: Vec<_> = answer["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|decision| decision["id"].clone())
        .collect();
    assert_eq!((ids.len(), answer["more"].as_bool()), (3, Some(false)));
    let output = dbkeep(address, &["decisions", "list", "--limit", "2"]).await;
    assert!(text(&output.stdout).contains("PLAN_USED"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("more than 2"), "{}", text(&output.stderr));
}
