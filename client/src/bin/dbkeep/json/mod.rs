//! The JSON of `--output json`: a contract with scripts, apart from the wire types so that it changes only on purpose.
//!
//! Owns names, units and shapes. Every answer is one line on stdout, one object per line:
//!
//! | command | lines |
//! |---|---|
//! | `targets list` | `{"targets": [target..]}` |
//! | `targets show` | `{"target": target, "status": status}` |
//! | `grants` | `{"target", "role", "exists", "used": [feature..], "grants": [grant..], "missing": [grant..], "excess": [right..], "notes": [..], "script"}` |
//! | `operations list` | `{"operations": [operation..]}` |
//! | `operations show` | `{"operation": operation}` |
//! | `plan` | `{"plan": plan}` |
//! | `discover` | `{"discovery": discovery}`; with `--toml` `{"catalog": text}` |
//! | `run`, `runs watch`, `runs undo`, `backups verify`, `backups create`, `backups restore` | a stream, see below |
//! | `runs list` | `{"runs": [run..], "more": bool}`; `more` is true where `--limit` cut the list |
//! | `runs report` | `{"report": {"run": run, "course": course}}` |
//! | `runs show`, `runs cancel`, `runs approve` | `{"run": run}` |
//! | `decisions list` | `{"decisions": [decision..], "more": bool}` |
//! | `audit list` | `{"events": [event..], "more": bool}` |
//! | `audit show` | `{"event": event}` |
//! | `audit verify` | `{"verdict": verdict}` |
//! | `audit export` | the lines of the export; with `--out` `{"export": {"file", "seals", "records", "head"}}` |
//! | `audit anchor` | `{"anchor": {"number", "hash", "at"}, "verdict": verdict}`; only the verdict where the log is not whole |
//! | `runs show`, `runs cancel`, `runs pause`, `runs resume`, `runs limits` | `{"run": run}` |
//! | `backups list` | `{"backups": [backup..], "more": bool}` |
//! | `backups prune` | `{"backups": [pruned..], "freed_bytes": bytes, "dry_run": bool}` |
//! | `backups extract` | `{"extracted": {"chunks", "rows", "damaged": [{"file", "problem"}]}}` on stderr; rows on stdout, or in `--out` |
//! | `backups show` | `{"backup": backup, "chunks": [chunk..], "truncated": bool}` |
//! | `migrations status` | `{"status": migration_status}` |
//! | `migrations list` | `{"migrations": [migration..], "more": bool}` |
//! | `migrations show` | `{"migration": migration, "up": [statement..], "down": [statement..], "problems": [problem..]}` |
//! | `migrations plan`, `migrations apply` and `migrations rollback` without `--execute` | `{"plan": migration_plan}` |
//! | `migrations test`, `migrations apply` and `migrations rollback` with `--execute` | a stream, see below |
//! | `migrations repair` | `{"repair": repair}` |
//! | `migrations baseline` | `{"baselined": [id..]}`; empty where nothing was pending |
//! | `migrations new` | `{"draft": {"layout", "folder", "files": [path..]}}` |
//! | `notify channels` | `{"channels": [channel..]}` |
//! | `notify test` | `{"test": test}` |
//! | `notify deliveries` | `{"deliveries": [delivery..], "more": bool}` |
//! | `notify show`, `notify retry` | `{"delivery": delivery}` |
//! | `schedules list` | `{"schedules": [schedule..], "more": bool}` |
//! | `schedules show`, `schedules create`, `schedules update`, `schedules pause`, `schedules resume`, `schedules approve` | `{"schedule": schedule}` |
//! | `schedules delete` | `{"deleted": {"id", "name"}}` |
//! | `schedules run` | a stream, see below |
//! | `schedules runs` | `{"schedule_runs": [schedule_run..], "more": bool}`; one for each slot, or for many that nobody decided |
//! | `schedules preview` | `{"times": [previewed..]}` |
//! | `schedules scheduler` | `{"scheduler": scheduler}` |
//! | `status` | `{"scheduler": scheduler, "targets": [health..], "runs": [run..], "alerts": [alert..], "history": usage, "collecting": bool}` |
//! | `top` | for each look `{"time", "problem", "runs": [run..], "targets": [health..], "alerts": [alert..], "metrics": [metrics..]}` |
//! | `metrics` | `{"metrics": metrics}`; with `--history` `{"step", "points": [point..], "truncated": bool}` |
//! | `findings` | `{"time", "findings": [finding..]}` |
//! | `recommendations` | `{"recommendations": [recommendation..]}` |
//! | `alerts` | `{"alerts": [alert..], "more": bool}` |
//! | `alerts ack` | `{"alert": alert}` |
//! | `report weekly` | `{"weekly": {"from", "until", "targets": [week..]}}` |
//! | `tokens create` | `{"secret", "token": token}` |
//! | `tokens list` | `{"tokens": [token..]}` |
//! | `tokens revoke` | `{"token": token}` |
//! | `whoami` | `{"caller": caller}` |
//! | `watch` | for each change `{"revision", "alert": alert}` |
//!
//! A stream has one object per line, each with a `type`:
//! - `plan` (`run --execute` without `--plan`): `{"type": "plan", "plan": plan}`, before the question is asked;
//! - `migration_plan` (`migrations apply` and `rollback` with `--execute` and without `--plan`): the same of a migration_plan; nothing follows
//!   it where nothing is to be done;
//! - `migration`: an event, as below: how far a migration is, with `finished` where a statement ended;
//! - `state_changed`, `plan_ready`, `approved`, `step_started`, `progress`, `step_finished`, `warning`, `maintenance`, `history_lost`: an event, with
//!   `run_id`, `sequence`, `time` and `coalesced` beside its own fields ([`event`]);
//! - `state_changed`, `plan_ready`, `step_started`, `progress`, `step_finished`, `warning`, `limits_changed`, `throttled`, `history_lost`:
//!   an event, with `run_id`, `sequence`, `time` and `coalesced` beside its own fields ([`event`]);
//! - last, `run`: `{"type": "run", "run": run}` with the report; or `detached`: `{"type": "detached", "run_id": id}`, by
//!   `--detach` or Ctrl-C (`run_id` is null where no event had told it yet).
//!
//! Everywhere: names are snake_case. Times are RFC 3339 in UTC. Durations are numbers of seconds, and sizes numbers of
//! bytes, with the unit in the name. Enums are lowercase words without prefix (`partially_succeeded`). What is absent is
//! null. Fields may be added; none changes its meaning. A command that fails prints
//! `{"error": {"message", "reason", "violations": [{"field", "expected"}], "retry_after_seconds", "hint", "exit_code"}}`
//! as one line on stderr. Violations of `MIGRATIONS_BLOCKED` have "CODE migration" for a field, and what is wrong with the next step for
//! what was expected.

pub(crate) mod access;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod catalog;
pub(crate) mod decision;
pub(crate) mod discovery;
pub(crate) mod event;
pub(crate) mod migrated;
pub(crate) mod migration;
pub(crate) mod monitoring;
pub(crate) mod notification;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod sizes;

/// The word for an enum value: its name without prefix, lowercase.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// A word per enum of the protocol, for JSON and for tables.
macro_rules! words {
    ($($function:ident: $enum:ident, $prefix:literal;)*) => {
        $(
            /// The word for a value of this enum.
            pub(crate) fn $function(value: dbkeep_client::proto::$enum) -> String {
                word(value.as_str_name(), $prefix)
            }
        )*
    };
}

words! {
    engine: Engine, "ENGINE_";
    capability: Capability, "CAPABILITY_";
    grant_feature: GrantFeature, "GRANT_FEATURE_";
    severity: Severity, "SEVERITY_";
    finding_level: FindingLevel, "FINDING_LEVEL_";
    hint_kind: DiscoveryHintKind, "DISCOVERY_HINT_KIND_";
    run_kind: RunKind, "RUN_KIND_";
    run_state: RunState, "RUN_STATE_";
    report_status: ReportStatus, "REPORT_STATUS_";
    step_state: StepState, "STEP_STATE_";
    child_action: ChildAction, "CHILD_ACTION_";
    decision_act: DecisionAct, "DECISION_ACT_";
    decision_outcome: DecisionOutcome, "DECISION_OUTCOME_";
    verification: VerificationState, "VERIFICATION_STATE_";
    audit_phase: AuditPhase, "AUDIT_PHASE_";
    audit_problem_kind: AuditProblemKind, "AUDIT_PROBLEM_KIND_";
    backup_kind: BackupKind, "BACKUP_KIND_";
    migration_state: MigrationState, "MIGRATION_STATE_";
    migration_direction: MigrationDirection, "MIGRATION_DIRECTION_";
    way_back: WayBack, "WAY_BACK_";
    estimate_source: EstimateSource, "ESTIMATE_SOURCE_";
    risk: Risk, "RISK_";
    statement_work: StatementWork, "STATEMENT_WORK_";
    repair_action: RepairAction, "REPAIR_ACTION_";
    channel_kind: ChannelKind, "CHANNEL_KIND_";
    notification_kind: NotificationKind, "NOTIFICATION_KIND_";
    notification_severity: NotificationSeverity, "NOTIFICATION_SEVERITY_";
    delivery_state: DeliveryState, "DELIVERY_STATE_";
    alert_level: AlertLevel, "ALERT_LEVEL_";
    alert_state: AlertState, "ALERT_STATE_";
    metric_step: MetricStep, "METRIC_STEP_";
    slot_outcome: SlotOutcome, "SLOT_OUTCOME_";
    gap_policy: GapPolicy, "GAP_POLICY_";
    fold_policy: FoldPolicy, "FOLD_POLICY_";
    overlap_policy: OverlapPolicy, "OVERLAP_POLICY_";
    misfire_policy: MisfirePolicy, "MISFIRE_POLICY_";
}

/// Seconds; null for a duration that is absent or negative.
pub(crate) fn seconds(duration: Option<&prost_types::Duration>) -> Option<f64> {
    span(duration).map(|duration| duration.as_secs_f64())
}

/// Of a duration that may be negative.
#[allow(clippy::cast_precision_loss, reason = "nobody reads more than a few digits of it")]
pub(crate) fn signed_seconds(duration: &prost_types::Duration) -> f64 {
    duration.seconds as f64 + f64::from(duration.nanos) / 1e9
}

/// The same as the standard library has it.
pub(crate) fn span(duration: Option<&prost_types::Duration>) -> Option<std::time::Duration> {
    duration.and_then(|duration| std::time::Duration::try_from(*duration).ok())
}

/// RFC 3339 in UTC; null for an instant that is absent or beyond what RFC 3339 can say.
pub(crate) fn time(timestamp: Option<&prost_types::Timestamp>) -> Option<String> {
    instant(timestamp).map(|instant| instant.to_string())
}

/// The same as jiff has it.
pub(crate) fn instant(timestamp: Option<&prost_types::Timestamp>) -> Option<jiff::Timestamp> {
    timestamp.and_then(|timestamp| jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok())
}

/// Null for a text that is empty because there is nothing to say.
fn text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use dbkeep_client::proto::{RunState, Severity};

    use super::*;

    #[test]
    fn enums_are_lowercase_words_without_prefix() {
        assert_eq!(run_state(RunState::PartiallySucceeded), "partially_succeeded");
        assert_eq!(severity(Severity::High), "high");
    }

    #[test]
    fn times_are_rfc_3339_and_durations_seconds() {
        let stamp = prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 250_000_000,
        };
        assert_eq!(time(Some(&stamp)).as_deref(), Some("2023-11-14T22:13:20.25Z"));
        assert_eq!(
            time(Some(&prost_types::Timestamp {
                seconds: i64::MAX,
                nanos: 0
            })),
            None
        );
        assert_eq!(
            seconds(Some(&prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000
            })),
            Some(1.5)
        );
        assert_eq!(seconds(Some(&prost_types::Duration { seconds: -1, nanos: 0 })), None);
    }
}
