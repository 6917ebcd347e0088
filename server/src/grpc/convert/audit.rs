//! Records of the audit log, seals, anchors and verdicts, and the filter over records.

use dbkeep_engine::{
    access::Scope,
    audit::{Anchor, Digest, Phase, Problem, ProblemKind, Record, Seal},
    engine::audit::{Checked, Exported},
    port::AuditFilter,
};
use dbkeep_proto::v1;
use jiff::Timestamp;

use super::time;
use crate::grpc::validate::Check;

/// A record.
pub(in crate::grpc) fn event(record: Record) -> v1::AuditEvent {
    let subject = record.subject;
    v1::AuditEvent {
        number: record.number,
        call_id: subject.call.to_string(),
        time: Some(time::timestamp(subject.at)),
        phase: phase(subject.phase).into(),
        principal: subject.principal,
        peer: subject.peer,
        method: subject.method,
        target: subject.target,
        request_digest: subject.request.to_string(),
        code: subject.code,
        detail: subject.detail,
        counts: subject
            .counts
            .into_iter()
            .map(|(name, value)| v1::AuditCount { name, value })
            .collect(),
        previous_hash: record.previous.to_string(),
        hash: record.hash.to_string(),
    }
}

fn phase(phase: Phase) -> v1::AuditPhase {
    match phase {
        Phase::Begun => v1::AuditPhase::Begun,
        Phase::Ended => v1::AuditPhase::Ended,
        Phase::Denied => v1::AuditPhase::Denied,
    }
}

fn seal(seal: Seal) -> v1::AuditSeal {
    v1::AuditSeal {
        first_number: seal.first,
        last_number: seal.last,
        previous_hash: seal.previous.to_string(),
        hash: seal.head.to_string(),
        time: Some(time::timestamp(seal.at)),
        pruned: seal.pruned,
    }
}

fn anchor(anchor: Anchor) -> v1::AuditAnchor {
    v1::AuditAnchor {
        number: anchor.number,
        hash: anchor.hash.to_string(),
        time: Some(time::timestamp(anchor.at)),
    }
}

fn problem(problem: Problem) -> v1::AuditProblem {
    let kind = match problem.kind {
        ProblemKind::Changed => v1::AuditProblemKind::Changed,
        ProblemKind::Broken => v1::AuditProblemKind::Broken,
        ProblemKind::Missing => v1::AuditProblemKind::Missing,
        ProblemKind::Reordered => v1::AuditProblemKind::Reordered,
        ProblemKind::Truncated => v1::AuditProblemKind::Truncated,
        ProblemKind::Replaced => v1::AuditProblemKind::Replaced,
        ProblemKind::Seal => v1::AuditProblemKind::Seal,
        ProblemKind::Unreadable => v1::AuditProblemKind::Unreadable,
    };
    v1::AuditProblem {
        number: problem.number,
        kind: kind.into(),
        detail: problem.detail,
    }
}

/// How far a verification is, or what came of it.
pub(in crate::grpc) fn checked(checked: Checked) -> v1::VerifyAuditLogResponse {
    match checked {
        Checked::Progress { records, total } => v1::VerifyAuditLogResponse {
            record_count: records,
            total_count: total,
            verdict: None,
        },
        Checked::Done(Ok(verified)) => v1::VerifyAuditLogResponse {
            record_count: verified.records,
            total_count: verified.records,
            verdict: Some(v1::AuditVerdict {
                problem: None,
                record_count: verified.records,
                sealed_count: verified.sealed,
                anchor_count: verified.anchors,
                head: Some(v1::AuditAnchor {
                    number: verified.head.0,
                    hash: verified.head.1.to_string(),
                    time: Some(time::timestamp(Timestamp::now())),
                }),
            }),
        },
        Checked::Done(Err(found)) => v1::VerifyAuditLogResponse {
            record_count: 0,
            total_count: 0,
            verdict: Some(v1::AuditVerdict {
                problem: Some(problem(found)),
                ..v1::AuditVerdict::default()
            }),
        },
    }
}

/// A piece of an export.
pub(in crate::grpc) fn exported(piece: Exported) -> v1::ExportAuditLogResponse {
    let nothing = v1::ExportAuditLogResponse::default();
    match piece {
        Exported::Seals(seals) => v1::ExportAuditLogResponse {
            seals: seals.into_iter().map(seal).collect(),
            ..nothing
        },
        Exported::Records(records) => v1::ExportAuditLogResponse {
            events: records.into_iter().map(event).collect(),
            ..nothing
        },
        Exported::Trailer(trailer) => v1::ExportAuditLogResponse {
            trailer: Some(v1::AuditTrailer {
                seal_count: trailer.seals,
                record_count: trailer.records,
                head: Some(anchor(trailer.head)),
            }),
            ..nothing
        },
    }
}

/// Anchors of a request; what is none is noted in `check`.
pub(in crate::grpc) fn anchors(wire: &[v1::AuditAnchor], check: &mut Check) -> Vec<Anchor> {
    let mut anchors = Vec::with_capacity(wire.len());
    for (position, anchor) in wire.iter().enumerate() {
        let at = match &anchor.time {
            Some(stamp) => time::instant(stamp),
            None => Some(Timestamp::UNIX_EPOCH),
        };
        match (Digest::parse(&anchor.hash), at) {
            (Some(hash), Some(at)) => anchors.push(Anchor {
                number: anchor.number,
                hash,
                at,
            }),
            (None, _) => check.refuse(
                format!("anchors[{position}].hash"),
                format!("is {:?}; expected 64 hexadecimal digits", anchor.hash),
            ),
            (_, None) => check.refuse(format!("anchors[{position}].time"), "is no instant"),
        }
    }
    anchors
}

/// The filter of a list, for a caller who sees these targets; what means nothing is noted in `check`.
pub(in crate::grpc) fn filter(filter: v1::AuditFilter, scope: Scope, check: &mut Check) -> AuditFilter {
    let phase = match v1::AuditPhase::try_from(filter.phase) {
        Ok(v1::AuditPhase::Unspecified) => None,
        Ok(v1::AuditPhase::Begun) => Some(Phase::Begun),
        Ok(v1::AuditPhase::Ended) => Some(Phase::Ended),
        Ok(v1::AuditPhase::Denied) => Some(Phase::Denied),
        Err(_) => {
            check.refuse(
                "filter.phase",
                format!("is {}; expected a phase, or AUDIT_PHASE_UNSPECIFIED for all", filter.phase),
            );
            None
        }
    };
    let mut instant = |field: &str, stamp: Option<&prost_types::Timestamp>| {
        let read = stamp.map(time::instant);
        if read == Some(None) {
            check.refuse(field, "is no instant");
        }
        read.flatten()
    };
    let since = instant("filter.since_time", filter.since_time.as_ref());
    let until = instant("filter.until_time", filter.until_time.as_ref());
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    AuditFilter {
        scope,
        principal: some(filter.principal),
        method: some(filter.method),
        target: some(filter.target),
        phase,
        since,
        until,
    }
}
