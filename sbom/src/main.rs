//! `cargo sbom`: writes the bill of materials of this checkout.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Parser;

/// Writes what dbkeepd and dbkeep consist of, as CycloneDX JSON.
#[derive(Debug, Parser)]
#[command(name = "dbkeep-sbom", version)]
struct Options {
    /// File to write; without it the standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The system that the programs are built for.
    #[arg(long, value_name = "TRIPLE", default_value = "x86_64-unknown-linux-gnu")]
    system: String,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let metadata = dbkeep_sbom::metadata(&workspace, &options.system)?;
    let lock = fs::read_to_string(workspace.join("Cargo.lock")).context("Cargo.lock")?;
    let bill = dbkeep_sbom::bill(&metadata, &lock, &jiff::Timestamp::now().to_string())?;
    let text = serde_json::to_string_pretty(&bill)?;
    match options.output {
        Some(file) => fs::write(&file, text).with_context(|| file.display().to_string())?,
        None => writeln!(std::io::stdout().lock(), "{text}")?,
    }
    Ok(())
}
