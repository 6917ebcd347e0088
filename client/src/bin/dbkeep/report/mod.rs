//! `dbkeep runs report`: what a run did, with its course: for people, as JSON, or as a page; `weekly` does the same for a week.
//!
//! Owns the arguments, the reading of the run and of its log, and the choice of form. The page is `html.rs`, its charts are
//! `figures.rs`, drawn by `chart.rs`, and what they show is gathered in `series.rs`; those four are pure. Called by `cmd/runs.rs`.

mod chart;
mod figures;
mod html;
pub(crate) mod series;
pub(crate) mod weekly;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use dbkeep_client::{is_final, proto};
use futures::StreamExt as _;

use self::series::Course;
use crate::{exit::Exit, json, next, output::Tone, session::Session, table};

/// Arguments of `runs report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Id of the run.
    id: String,
    /// Write a page that needs nothing else, with charts; without a file, or with -, to stdout.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-", conflicts_with = "json")]
    html: Option<PathBuf>,
    /// The same as --output json.
    #[arg(long)]
    json: bool,
}

impl Report {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let (run, course) = read(session, &self.id).await?;
        if let Some(file) = self.html {
            let next: Vec<_> = next::steps(&run)
                .into_iter()
                .map(|next| (next.purpose, session.command(&next.arguments)))
                .collect();
            let page = html::render(&html::Content {
                run: &run,
                course: &course,
                next: &next,
                at: jiff::Timestamp::now(),
            });
            write_page(session, &page, &file)?;
        } else if self.json || session.output.is_json() {
            let report = json::report::Report::new(&run, &course);
            session.output.json(&serde_json::json!({ "report": report }))?;
        } else {
            print(session, &run, &course)?;
        }
        Ok(Exit::Success)
    }
}

/// Writes a page to a file, or to stdout where it is called `-`.
fn write_page(session: &Session, page: &str, file: &Path) -> anyhow::Result<()> {
    if file.as_os_str() == "-" {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(page.as_bytes())?;
        stdout.flush()?;
    } else {
        std::fs::write(file, page).with_context(|| format!("writing {}", file.display()))?;
        session.output.note(format_args!("Written to {}.", file.display()));
    }
    Ok(())
}

/// The run, and its log up to where it stood when it was asked for.
async fn read(session: &Session, id: &str) -> anyhow::Result<(proto::Run, Course)> {
    let runs = session.client.runs();
    let run = runs.get(id).await?;
    let mut course = Course::default();
    if run.last_sequence == 0 {
        return Ok((run, course));
    }
    let mut events = runs.watch(run.id.as_str()).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        // Of a run at work, nothing is shown that is newer than the numbers beside it.
        if event.sequence > run.last_sequence {
            break;
        }
        let is_newest = event.sequence == run.last_sequence;
        course.take(&event);
        if is_newest && !is_final(run.state()) {
            break;
        }
    }
    Ok((run, course))
}

fn print(session: &Session, run: &proto::Run, course: &Course) -> anyhow::Result<()> {
    let output = &session.output;
    table::report(run, output)?;
    for line in course.words() {
        output.line(output.paint(Tone::Dim, &line))?;
    }
    table::next_steps(run, session)?;
    Ok(())
}
