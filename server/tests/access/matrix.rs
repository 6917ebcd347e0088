//! The authorization matrix, made from the descriptors: every method by every kind of caller. Requests are such that they would take effect
//! if they were let through, and nothing may have changed after all those that were not.
//!
//! Which role a method asks for is written down here once more, apart from the server's policy: a method that is missing here fails the test.

use std::collections::BTreeMap;

use bytes::Bytes;
use dbkeep_client::proto::{self as v1, Role};
use dbkeep_server::config::access::{AccessConfig, CallLimits};
use futures::StreamExt as _;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::world::{Authority, HIDDEN, SEEN, Way, World, call, state};

/// What a method asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Nothing,
    Look,
    Act,
    Consent,
    Govern,
}

/// The roles as the API documents them.
fn asks(method: &str) -> Asks {
    let name = method.rsplit('/').next().expect("a name");
    match name {
        "Check" | "Watch" => Asks::Nothing,
        "ServerReflectionInfo" => Asks::Look,
        "CreateToken" | "ListTokens" | "RevokeToken" | "ExportAuditLog" => Asks::Govern,
        "ApproveRun" | "ApproveSchedule" => Asks::Consent,
        "GetCaller" | "ListTargets" | "GetTarget" | "GetGrants" | "ListOperations" | "GetOperation" | "GetRun" | "ListRuns"
        | "WatchRun" | "ListDecisions" | "ListBackups" | "GetBackup" | "GetSchedule" | "ListSchedules" | "PreviewSchedule"
        | "ListScheduleRuns" | "GetSchedulerStatus" | "GetMigrationStatus" | "ListMigrations" | "GetMigration"
        | "PlanMigrations" | "DraftMigration" | "ListChannels" | "ListDeliveries" | "GetDelivery" | "GetStatus"
        | "GetMetrics" | "ListMetricHistory" | "WatchMetrics" | "ListFindings" | "GetRecommendations" | "ListAlerts"
        | "WatchAlerts" | "ListAuditEvents" | "GetAuditEvent" | "VerifyAuditLog" => Asks::Look,
        "PlanCleanup" | "RunCleanup" | "DiscoverOperations" | "CancelRun" | "PauseRun" | "ResumeRun" | "UpdateRunLimits"
        | "UndoRun" | "VerifyBackup" | "CreateBackup" | "RestoreBackup" | "PruneBackups" | "CreateSchedule"
        | "UpdateSchedule" | "DeleteSchedule" | "RunSchedule" | "PauseSchedule" | "ResumeSchedule" | "StartScheduler"
        | "StopScheduler" | "TestMigration" | "ApplyMigrations" | "RollbackMigrations" | "RepairLedger"
        | "BaselineMigrations" | "TestChannel" | "RetryDelivery" | "AcknowledgeAlert" => Asks::Act,
        other => panic!("{other} is new: say here who may call it"),
    }
}

fn may(role: Role, asks: Asks) -> bool {
    match asks {
        Asks::Nothing | Asks::Look => true,
        Asks::Act => matches!(role, Role::Operator | Role::Admin),
        Asks::Consent => matches!(role, Role::Approver | Role::Admin),
        Asks::Govern => role == Role::Admin,
    }
}

/// A method of the server.
#[derive(Debug, Clone)]
struct Method {
    path: String,
    /// Whether its answer is a stream.
    streams: bool,
}

fn methods() -> Vec<Method> {
    let sets = [
        (dbkeep_proto::FILE_DESCRIPTOR_SET, "dbkeep.v1"),
        (tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, "grpc.reflection"),
        (tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET, "grpc.reflection"),
        (tonic_health::pb::FILE_DESCRIPTOR_SET, "grpc.health"),
    ];
    let mut methods = BTreeMap::new();
    for (set, package) in sets {
        let set = FileDescriptorSet::decode(set).expect("a descriptor set");
        for file in set.file.iter().filter(|file| file.package().starts_with(package)) {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let streams = method.server_streaming();
                    methods.insert(path.clone(), Method { path, streams });
                }
            }
        }
    }
    let methods: Vec<Method> = methods.into_values().collect();
    assert!(methods.len() > 60, "{}", methods.len());
    methods
}

/// What there is to act on.
struct Things {
    run: String,
    schedule: String,
    token: String,
}

impl Things {
    async fn make(world: &World) -> Self {
        let admin = world.client(&world.admin()).await;
        let request = dbkeep_client::RunRequest::new([format!("expired_{HIDDEN}")])
            .target(HIDDEN)
            .execute();
        let mut events = admin.cleanup().run(request).await.expect("accepted");
        let first = events.next().await.expect("an event").expect("no error");
        let schedule = admin
            .schedules()
            .create(
                dbkeep_client::ScheduleDraft::new("nightly")
                    .target(HIDDEN)
                    .operation(format!("expired_{HIDDEN}"))
                    .timing(dbkeep_client::ScheduleTiming::cron("0 3 1 1 *")),
            )
            .await
            .expect("a schedule");
        world.token("victim", Role::Viewer, None).await;
        Self {
            run: first.run_id,
            schedule: schedule.id,
            token: "victim".to_owned(),
        }
    }

    /// A request that takes effect where there is one, and that names the hidden target in any case.
    fn request(&self, method: &str) -> Bytes {
        let target = HIDDEN.to_owned();
        let operations = vec![format!("expired_{HIDDEN}")];
        let run = self.run.clone();
        let schedule = self.schedule.clone();
        let bytes = match method.rsplit('/').next().expect("a name") {
            "RunCleanup" => v1::RunCleanupRequest {
                target,
                operations,
                options: Some(v1::RunOptions {
                    dry_run: Some(false),
                    ..v1::RunOptions::default()
                }),
                ..v1::RunCleanupRequest::default()
            }
            .encode_to_vec(),
            "PlanCleanup" => v1::PlanCleanupRequest { target, operations }.encode_to_vec(),
            "CancelRun" => v1::CancelRunRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "PauseRun" => v1::PauseRunRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "ResumeRun" => v1::ResumeRunRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "UpdateRunLimits" => v1::UpdateRunLimitsRequest {
                id: run,
                batch_size: Some(7),
                ..Default::default()
            }
            .encode_to_vec(),
            "UndoRun" => v1::UndoRunRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "ApproveRun" => v1::ApproveRunRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "GetRun" => v1::GetRunRequest { id: run }.encode_to_vec(),
            "WatchRun" => v1::WatchRunRequest {
                id: run,
                after_sequence: 0,
            }
            .encode_to_vec(),
            "GetBackup" => v1::GetBackupRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "VerifyBackup" => v1::VerifyBackupRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "RestoreBackup" => v1::RestoreBackupRequest {
                id: run,
                ..Default::default()
            }
            .encode_to_vec(),
            "CreateBackup" => v1::CreateBackupRequest {
                target,
                tables: vec!["tokens".to_owned()],
                ..Default::default()
            }
            .encode_to_vec(),
            "PruneBackups" => v1::PruneBackupsRequest {
                target,
                keep_last: Some(0),
                dry_run: Some(false),
                ..Default::default()
            }
            .encode_to_vec(),
            "CreateSchedule" => v1::CreateScheduleRequest {
                spec: Some(v1::ScheduleSpec {
                    name: "another".to_owned(),
                    target,
                    ..Default::default()
                }),
                ..Default::default()
            }
            .encode_to_vec(),
            "UpdateSchedule" => v1::UpdateScheduleRequest {
                id: schedule,
                spec: Some(v1::ScheduleSpec {
                    name: "renamed".to_owned(),
                    ..Default::default()
                }),
                update_mask: Some(prost_types::FieldMask {
                    paths: vec!["name".to_owned()],
                }),
                ..Default::default()
            }
            .encode_to_vec(),
            "DeleteSchedule" => v1::DeleteScheduleRequest {
                id: schedule,
                ..Default::default()
            }
            .encode_to_vec(),
            "RunSchedule" => v1::RunScheduleRequest {
                id: schedule,
                ..Default::default()
            }
            .encode_to_vec(),
            "PauseSchedule" => v1::PauseScheduleRequest {
                id: schedule,
                ..Default::default()
            }
            .encode_to_vec(),
            "ResumeSchedule" => v1::ResumeScheduleRequest {
                id: schedule,
                note: String::new(),
            }
            .encode_to_vec(),
            "ApproveSchedule" => v1::ApproveScheduleRequest {
                id: schedule,
                ..Default::default()
            }
            .encode_to_vec(),
            "GetSchedule" => v1::GetScheduleRequest { id: schedule }.encode_to_vec(),
            "ListScheduleRuns" => v1::ListScheduleRunsRequest {
                id: schedule,
                ..Default::default()
            }
            .encode_to_vec(),
            "PreviewSchedule" => v1::PreviewScheduleRequest {
                of: Some(v1::preview_schedule_request::Of::Id(schedule)),
                ..Default::default()
            }
            .encode_to_vec(),
            "CreateToken" => v1::CreateTokenRequest {
                name: "mine".to_owned(),
                role: v1::Role::Admin.into(),
                ..Default::default()
            }
            .encode_to_vec(),
            "RevokeToken" => v1::RevokeTokenRequest { id: self.token.clone() }.encode_to_vec(),
            "ListRuns" => v1::ListRunsRequest {
                filter: Some(v1::RunFilter {
                    target,
                    ..Default::default()
                }),
                ..Default::default()
            }
            .encode_to_vec(),
            "GetTarget" => v1::GetTargetRequest { name: target }.encode_to_vec(),
            "ApplyMigrations" | "RollbackMigrations" | "TestMigration" => v1::ApplyMigrationsRequest {
                target,
                dry_run: Some(false),
                ..Default::default()
            }
            .encode_to_vec(),
            // About nothing in particular, or of things that are not there: what is listed is cut, what is not there is unknown.
            "ListTargets"
            | "ListDecisions"
            | "ListDeliveries"
            | "ListChannels"
            | "GetStatus"
            | "GetCaller"
            | "ListTokens"
            | "StartScheduler"
            | "StopScheduler"
            | "GetSchedulerStatus"
            | "TestChannel"
            | "GetDelivery"
            | "RetryDelivery"
            | "AcknowledgeAlert"
            | "Check"
            | "Watch"
            | "ServerReflectionInfo"
            | "ListAuditEvents"
            | "GetAuditEvent"
            | "VerifyAuditLog"
            | "ExportAuditLog" => Vec::new(),
            // The target is the first field of all others.
            _ => v1::GetMigrationStatusRequest { target }.encode_to_vec(),
        };
        bytes.into()
    }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Whether the policy has refused, and not the service.
fn is_denied(answer: &Result<Option<Bytes>, Status>) -> bool {
    answer.as_ref().is_err_and(|status| {
        ["UNAUTHENTICATED", "ROLE_REFUSED", "OUT_OF_SCOPE", "METHOD_NOT_ALLOWED"].contains(&reason(status).as_str())
    })
}

async fn ask(channel: &Channel, method: &Method, message: Bytes, way: &Way) -> Result<Option<Bytes>, Status> {
    call(channel, &method.path, method.streams, message, way).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_who_does_not_belong() {
    // So that every call is looked at: how often strangers may call is tested by itself.
    let world = World::with(Authority::new(), |config| AccessConfig {
        calls: CallLimits {
            strangers: 0,
            ..CallLimits::default()
        },
        ..config
    })
    .await;
    let things = Things::make(&world).await;
    let channel = world.channel().await;
    let good = world.token("revoked", Role::Admin, None).await;
    world
        .client(&world.admin())
        .await
        .access()
        .revoke_token("revoked")
        .await
        .expect("revoked");
    let admin = world.admin();
    let last = if admin.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", &admin[..admin.len() - 1]);
    let ways = [
        ("none", Way::None),
        ("empty", Way::Header(String::new())),
        ("malformed", Way::Token("dbk_nonsense".to_owned())),
        ("other scheme", Way::Header(format!("Basic {admin}"))),
        ("no scheme", Way::Header(admin.clone())),
        ("wrong", Way::Token(wrong)),
        ("unknown", Way::Token(admin.replace("dbk_0", "dbk_f"))),
        ("expired", Way::Token(world.expired().await)),
        ("revoked", Way::Token(good)),
    ];
    let before = state(&world).await;
    for method in methods() {
        if asks(&method.path) == Asks::Nothing {
            continue;
        }
        for (name, way) in &ways {
            let status = ask(&channel, &method, things.request(&method.path), way)
                .await
                .expect_err(&format!("{} let {name} in", method.path));
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::Unauthenticated, "UNAUTHENTICATED"),
                "{} by {name}: {status:?}",
                method.path
            );
        }
    }
    assert_eq!(state(&world).await, before, "something took effect");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_does_what_it_is_for_and_nothing_else() {
    let world = World::start().await;
    let things = Things::make(&world).await;
    let channel = world.channel().await;
    let roles = [
        (Role::Viewer, world.token("viewer", Role::Viewer, None).await),
        (Role::Operator, world.token("operator", Role::Operator, None).await),
        (Role::Approver, world.token("approver", Role::Approver, None).await),
        (Role::Admin, world.token("boss", Role::Admin, None).await),
    ];
    let before = state(&world).await;
    for method in methods() {
        for (role, token) in &roles {
            if may(*role, asks(&method.path)) {
                continue;
            }
            let answer = ask(&channel, &method, things.request(&method.path), &Way::Token(token.clone())).await;
            let status = answer.expect_err(&format!("{} let {role:?} in", method.path));
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::PermissionDenied, "ROLE_REFUSED"),
                "{} by {role:?}: {status:?}",
                method.path
            );
        }
    }
    assert_eq!(state(&world).await, before, "something took effect");
    // What is allowed comes to the service; an empty request is enough to see that, and changes little.
    for method in methods() {
        for (role, token) in &roles {
            if may(*role, asks(&method.path)) {
                let answer = ask(&channel, &method, Bytes::new(), &Way::Token(token.clone())).await;
                assert!(!is_denied(&answer), "{} by {role:?}: {answer:?}", method.path);
            }
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_for_one_target_sees_and_touches_nothing_of_another() {
    let world = World::start().await;
    let things = Things::make(&world).await;
    let channel = world.channel().await;
    let way = Way::Token(world.token("scoped", Role::Admin, Some(SEEN)).await);
    let before = state(&world).await;
    for method in methods() {
        let answer = ask(&channel, &method, things.request(&method.path), &way).await;
        match answer {
            // A list that is cut, a stream of what is seen, or what is about nothing.
            Ok(message) => {
                let message = message.unwrap_or_default();
                let found = message.windows(HIDDEN.len()).any(|bytes| bytes == HIDDEN.as_bytes());
                assert!(!found, "{} tells of {HIDDEN}", method.path);
                let asks = asks(&method.path);
                assert!(matches!(asks, Asks::Nothing | Asks::Look), "{} has worked", method.path);
            }
            Err(status) => {
                let details = status.get_error_details();
                let known = details
                    .error_info()
                    .and_then(|info| info.metadata.get("known").cloned())
                    .unwrap_or_default();
                assert!(!known.contains(HIDDEN), "{} tells of {HIDDEN}: {known}", method.path);
                assert!(
                    matches!(status.code(), Code::NotFound | Code::PermissionDenied | Code::InvalidArgument),
                    "{}: {status:?}",
                    method.path
                );
            }
        }
    }
    assert_eq!(state(&world).await, before, "something took effect");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_or_with_another_authority_there_is_no_connection() {
    let world = World::start().await;
    let plain = Channel::from_shared(format!("http://{}", world.address))
        .expect("a URI")
        .connect()
        .await;
    // What is no TLS gets no answer: the connection ends with the first call, if it ever stood.
    if let Ok(channel) = plain {
        for method in methods() {
            let status = ask(&channel, &method, Bytes::new(), &Way::Token(world.admin())).await;
            let status = status.expect_err(&method.path);
            assert!(
                matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
                ),
                "{status:?}"
            );
        }
    }
    assert!(
        world.connect(&Authority::new().pem(), None).await.is_err(),
        "the client must not trust the server"
    );
    world.stop().await;
}
