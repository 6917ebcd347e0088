//! `cargo fuzz-db`: hunts over one target or all of them, each in a process of its own, so that an input that ends the process ends
//! nothing else and is named.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use dbkeep_fuzz::{
    hunt::{Length, Progress, hunt},
    target::{TARGETS, Target},
};

/// Mutated input for everything that reads what others wrote.
#[derive(Debug, Parser)]
#[command(name = "cargo fuzz-db", version)]
struct Options {
    /// Targets; all of them without one.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target is hunted over.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
    /// So many inputs instead; with the seed of a finding that brings it back.
    #[arg(long, value_name = "NUMBER")]
    cases: Option<u64>,
    /// What all inputs follow from [default: the time].
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Only one input, from a file.
    #[arg(long, value_name = "FILE", requires = "targets")]
    input: Option<PathBuf>,
    /// Names the targets.
    #[arg(long)]
    list: bool,
    /// Where the process of a target notes the case that it is at.
    #[arg(long, hide = true, value_name = "FILE")]
    inside: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        for target in &TARGETS {
            println!("{:<12} {}", target.name, target.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!("there is no target {unknown}; expected some of {}", known.join(", "));
    }
    let chosen = |target: &&Target| options.targets.is_empty() || options.targets.iter().any(|name| name == target.name);
    let chosen: Vec<&Target> = TARGETS.iter().filter(chosen).collect();
    if let Some(file) = &options.input {
        return one(&chosen, file);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or(now.as_secs());
    if let (Some(note), [target]) = (&options.inside, &chosen[..]) {
        let length = options
            .cases
            .map_or(Length::Time(Duration::from_secs(options.seconds)), Length::Cases);
        return inside(target, seed, length, note);
    }
    let mut failed = Vec::new();
    for target in chosen {
        if !outside(target, seed, &options)? {
            failed.push(target.name);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("found something: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// One input, as it stands in a file.
fn one(chosen: &[&Target], file: &Path) -> anyhow::Result<ExitCode> {
    let [target] = chosen else {
        anyhow::bail!("--input is for one target")
    };
    let input = fs::read(file).with_context(|| file.display().to_string())?;
    match (target.open)()?(&input) {
        Ok(answer) => {
            println!("{}: {answer}", target.name);
            Ok(ExitCode::SUCCESS)
        }
        Err(problem) => {
            println!("{}: {problem}", target.name);
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Starts the process of a target and says what came of it; whether nothing was found.
fn outside(target: &Target, seed: u64, options: &Options) -> anyhow::Result<bool> {
    let note = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(target.name)
        .args(["--seed", &seed.to_string(), "--seconds", &options.seconds.to_string()])
        .arg("--inside")
        .arg(note.path());
    if let Some(cases) = options.cases {
        command.args(["--cases", &cases.to_string()]);
    }
    let status = command.status()?;
    if status.code().is_none() {
        let mut number = [0; 8];
        note.as_file().read_exact_at(&mut number, 0)?;
        let case = u64::from_le_bytes(number);
        println!(
            "{}: the process ended ({status}) in case {case}; again: cargo fuzz-db -- --seed {seed} --cases {} {}",
            target.name,
            case + 1,
            target.name
        );
    }
    Ok(status.success())
}

/// Hunts in this process.
fn inside(target: &Target, seed: u64, length: Length, note: &Path) -> anyhow::Result<ExitCode> {
    let file = fs::OpenOptions::new().write(true).open(note)?;
    let progress = Progress::default();
    let watched = progress.clone();
    // Written by another thread now and then: the case at which the process ends is this one or shortly after it.
    std::thread::spawn(move || {
        loop {
            if file.write_all_at(&watched.case().to_le_bytes(), 0).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    // A panic is a finding, told once and with its input.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = hunt(target, seed, length, &progress)?;
    let Some(finding) = outcome.finding else {
        println!(
            "{}: nothing in {} inputs, {} kinds of answers, seed {seed}",
            target.name, outcome.cases, outcome.kinds
        );
        return Ok(ExitCode::SUCCESS);
    };
    let folder = std::env::temp_dir().join("dbkeep-fuzz");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{seed}-{}", target.name, finding.case));
    fs::write(&path, &finding.input)?;
    ensure!(!finding.problem.is_empty(), "a finding without a word");
    println!(
        "{}: {}\n  input in {}: {:?}\n  again: cargo fuzz-db -- --seed {seed} --cases {} {}",
        target.name,
        finding.problem,
        path.display(),
        String::from_utf8_lossy(&finding.input),
        finding.case + 1,
        target.name
    );
    Ok(ExitCode::FAILURE)
}
