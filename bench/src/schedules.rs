//! Many schedules on one server with its own SQLite control store: creating and listing them, what the scheduler costs while nothing is
//! due, and how late slots of a whole minute are decided.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dbkeep_proto::v1::{self, schedule_service_client::ScheduleServiceClient};

use crate::{
    report::{Series, line, ratio},
    server::Server,
};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Schedules.
    #[arg(long, default_value_t = 10_000)]
    schedules: u32,
    /// For how long the idle server is watched, seconds.
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Schedules of every minute, whose next slot is waited for.
    #[arg(long, default_value_t = 20)]
    minutely: u32,
}

fn spec(name: String, expression: &str) -> v1::ScheduleSpec {
    v1::ScheduleSpec {
        name,
        operations: vec!["delete_only".to_owned()],
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Expression(expression.to_owned())),
            ..v1::Timing::default()
        }),
        options: Some(v1::ScheduleOptions {
            dry_run: true,
            ..v1::ScheduleOptions::default()
        }),
        ..v1::ScheduleSpec::default()
    }
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    println!(
        "bench-db schedules --schedules {} --idle {} --minutely {}",
        arguments.schedules, arguments.idle, arguments.minutely
    );
    let folder = tempfile::tempdir()?;
    let target = format!("sqlite://{}", folder.path().join("app.db").display());
    dbkeep_demo::single_table(&target, 1_000, 0.2, 7).await?;
    let server = Server::start(&folder.path().join("data"), &target).await?;
    let mut client = ScheduleServiceClient::connect(format!("http://{}", server.address.trim_start_matches("http://"))).await?;

    // Far away: nothing of these is due while the benchmark runs.
    let began = Instant::now();
    let mut create = Series::default();
    for number in 0..arguments.schedules {
        let one = Instant::now();
        let request = v1::CreateScheduleRequest {
            spec: Some(spec(format!("yearly {number:05}"), "0 0 29 2 *")),
            request_id: String::new(),
        };
        client.create_schedule(request).await?;
        create.push(one.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "{} schedules created in {:.1} s",
        arguments.schedules,
        began.elapsed().as_secs_f64()
    );
    line("create a schedule", &create, "ms");

    let mut list = Series::default();
    for _ in 0..5 {
        let began = Instant::now();
        let mut page_token = String::new();
        let mut found = 0;
        loop {
            let request = v1::ListSchedulesRequest {
                page_size: 500,
                page_token,
                ..v1::ListSchedulesRequest::default()
            };
            let page = client.list_schedules(request).await?.into_inner();
            found += page.schedules.len();
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        anyhow::ensure!(found >= arguments.schedules as usize, "every schedule is listed");
        list.push(began.elapsed().as_secs_f64() * 1e3);
    }
    line("list all of them, pages of 500", &list, "ms");

    let before = server.cpu_seconds()?;
    tokio::time::sleep(Duration::from_secs(arguments.idle)).await;
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let idle = (server.cpu_seconds()? - before) / arguments.idle as f64 * 100.0;
    let mut cpu = Series::default();
    cpu.push(idle);
    ratio("processor time of the idle server, percent of one", &cpu, 0.5);

    for number in 0..arguments.minutely {
        let request = v1::CreateScheduleRequest {
            spec: Some(spec(format!("minutely {number}"), "* * * * *")),
            request_id: String::new(),
        };
        client.create_schedule(request).await?;
    }
    let mut late = Series::default();
    let deadline = Instant::now() + Duration::from_secs(90);
    let slots = loop {
        anyhow::ensure!(Instant::now() < deadline, "no slot within 90 s");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let request = v1::ListScheduleRunsRequest {
            page_size: 500,
            ..v1::ListScheduleRunsRequest::default()
        };
        let slots = client.list_schedule_runs(request).await?.into_inner().runs;
        if slots.len() >= arguments.minutely as usize && slots.iter().all(|slot| !slot.run_id.is_empty()) {
            break slots;
        }
    };
    for slot in slots {
        let run = v1::GetRunRequest { id: slot.run_id };
        let mut runs =
            v1::run_service_client::RunServiceClient::connect(format!("http://{}", server.address.trim_start_matches("http://")))
                .await?;
        let run = runs.get_run(run).await?.into_inner().run.context("a run")?;
        let (created, slot) = (run.create_time.context("a time")?, slot.slot_time.context("a slot")?);
        #[expect(clippy::cast_precision_loss, reason = "seconds since a slot")]
        late.push((created.seconds - slot.seconds) as f64 + f64::from(created.nanos) / 1e9);
    }
    line("from a slot to its run, planned and accepted", &late, "s");
    ratio("the same, target", &late, 1.0);
    Ok(())
}
