//! JSON of the audit log.
//!
//! Owns the shapes `event` and `verdict`. Called by `cmd/audit.rs`. Exports have a form of their own, which is the engine's.

use std::collections::BTreeMap;

use dbkeep_client::proto;
use dbkeep_engine::audit::{Problem, Verified};
use serde::Serialize;

/// A record.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    number: u64,
    call_id: &'a str,
    time: Option<String>,
    /// "begun", "ended" or "denied".
    phase: String,
    principal: &'a str,
    peer: Option<&'a str>,
    method: &'a str,
    target: Option<&'a str>,
    request_digest: &'a str,
    code: Option<&'a str>,
    detail: Option<&'a str>,
    counts: BTreeMap<&'a str, u64>,
    previous_hash: &'a str,
    hash: &'a str,
}

impl<'a> From<&'a proto::AuditEvent> for Event<'a> {
    fn from(event: &'a proto::AuditEvent) -> Self {
        Self {
            number: event.number,
            call_id: &event.call_id,
            time: super::time(event.time.as_ref()),
            phase: super::audit_phase(event.phase()),
            principal: &event.principal,
            peer: super::text(&event.peer),
            method: &event.method,
            target: super::text(&event.target),
            request_digest: &event.request_digest,
            code: super::text(&event.code),
            detail: super::text(&event.detail),
            counts: event.counts.iter().map(|count| (count.name.as_str(), count.value)).collect(),
            previous_hash: &event.previous_hash,
            hash: &event.hash,
        }
    }
}

/// What came of a verification.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) whole: bool,
    pub(crate) problem: Option<Wrong>,
    pub(crate) records: u64,
    pub(crate) removed: u64,
    pub(crate) anchors: u64,
    pub(crate) head: Option<Head>,
}

/// The first thing that does not fit.
#[derive(Debug, Serialize)]
pub(crate) struct Wrong {
    pub(crate) number: u64,
    /// "changed", "broken", "missing", "reordered", "truncated", "replaced", "seal" or "unreadable".
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// The newest record; number 0 for an empty log.
#[derive(Debug, Serialize)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) hash: String,
}

impl Verdict {
    /// As a server gave it.
    pub(crate) fn of_wire(verdict: &proto::AuditVerdict) -> anyhow::Result<Self> {
        let problem = verdict.problem.as_ref().map(|problem| Wrong {
            number: problem.number,
            kind: super::audit_problem_kind(problem.kind()),
            detail: problem.detail.clone(),
        });
        let head = verdict.head.as_ref().map(|head| Head {
            number: head.number,
            hash: head.hash.clone(),
        });
        // A verdict that says neither is none.
        anyhow::ensure!(problem.is_some() != head.is_some(), "the server's verdict says nothing");
        Ok(Self {
            whole: problem.is_none(),
            problem,
            records: verdict.record_count,
            removed: verdict.sealed_count,
            anchors: verdict.anchor_count,
            head,
        })
    }
}

impl From<Result<Verified, Problem>> for Verdict {
    fn from(verified: Result<Verified, Problem>) -> Self {
        match verified {
            Ok(verified) => Self {
                whole: true,
                problem: None,
                records: verified.records,
                removed: verified.sealed,
                anchors: verified.anchors,
                head: Some(Head {
                    number: verified.head.0,
                    hash: verified.head.1.to_string(),
                }),
            },
            Err(problem) => Self {
                whole: false,
                problem: Some(Wrong {
                    number: problem.number,
                    kind: problem.kind.name().to_owned(),
                    detail: problem.detail,
                }),
                records: 0,
                removed: 0,
                anchors: 0,
                head: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::audit::ProblemKind;

    use super::*;

    #[test]
    fn an_event_and_what_it_leaves_out() {
        let event = proto::AuditEvent {
            number: 7,
            call_id: "c1".into(),
            time: Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 1_000,
            }),
            phase: proto::AuditPhase::Denied.into(),
            principal: "ann".into(),
            method: "RunService/CancelRun".into(),
            request_digest: "aa".into(),
            counts: vec![proto::AuditCount {
                name: "rows".into(),
                value: 3,
            }],
            previous_hash: "bb".into(),
            hash: "cc".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Event::from(&event)).unwrap(),
            concat!(
                r#"{"number":7,"call_id":"c1","time":"1970-01-01T00:00:00.000001Z","phase":"denied","principal":"ann","peer":null,"#,
                r#""method":"RunService/CancelRun","target":null,"request_digest":"aa","code":null,"detail":null,"counts":{"rows":3},"#,
                r#""previous_hash":"bb","hash":"cc"}"#,
            )
        );
    }

    #[test]
    fn the_words_of_problems_are_those_of_the_engine() {
        for kind in ProblemKind::ALL {
            let name = format!("AUDIT_PROBLEM_KIND_{}", kind.name().to_ascii_uppercase());
            let wire = proto::AuditProblemKind::from_str_name(&name).expect("it is on the wire");
            assert_eq!(super::super::audit_problem_kind(wire), kind.name());
        }
    }

    #[test]
    fn a_verdict_says_one_thing() {
        let problem = proto::AuditVerdict {
            problem: Some(proto::AuditProblem {
                number: 4,
                kind: proto::AuditProblemKind::Truncated.into(),
                detail: "d".into(),
            }),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Verdict::of_wire(&problem).unwrap()).unwrap(),
            r#"{"whole":false,"problem":{"number":4,"kind":"truncated","detail":"d"},"records":0,"removed":0,"anchors":0,"head":null}"#
        );
        assert!(Verdict::of_wire(&proto::AuditVerdict::default()).is_err());
    }
}
