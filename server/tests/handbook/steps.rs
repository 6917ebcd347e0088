//! What `docs/OPERATIONS.md` says to do, as steps: text, and commands for a shell.

use std::{collections::VecDeque, fs, path::Path};

/// Begins a step that is no command.
const BY_HAND: &str = "By hand:";

/// One step of a section.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) text: String,
    /// Commands as they stand there; empty for what is done by hand.
    pub(crate) commands: String,
}

/// The steps of one section.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) steps: VecDeque<Step>,
}

/// What stands under a heading of the second level, up to the next.
fn chapter(page: &str, heading: &str) -> String {
    let (_, rest) = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no chapter {heading:?}"));
    rest.split_once("\n## ").map_or(rest, |(chapter, _)| chapter).to_owned()
}

/// Number and text of a line that begins a step.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, text) = line.split_once(". ")?;
    Some((number.parse().ok()?, text))
}

fn section(heading: &str, body: &str) -> Section {
    let mut steps: VecDeque<Step> = VecDeque::new();
    let mut in_block = false;
    for line in body.lines() {
        let begins = if in_block { None } else { numbered(line) };
        if let Some((number, text)) = begins {
            assert_eq!(number, steps.len() + 1, "{heading}: {line}");
            steps.push_back(Step {
                text: text.to_owned(),
                commands: String::new(),
            });
            continue;
        }
        let Some(step) = steps.back_mut() else {
            continue;
        };
        let text = line.trim();
        match (in_block, text) {
            (false, "```sh") => in_block = true,
            (true, "```") => in_block = false,
            (true, command) => {
                step.commands.push_str(command);
                step.commands.push('\n');
            }
            (false, text) => {
                step.text.push(' ');
                step.text.push_str(text);
            }
        }
    }
    assert!(!in_block && !steps.is_empty(), "{heading}");
    for step in &steps {
        assert_eq!(
            step.text.starts_with(BY_HAND),
            step.commands.is_empty(),
            "{heading}: a step has commands, or is done by hand: {}",
            step.text
        );
        // `dbkeepd` in words is how a server is started, which the test does in its own way.
        assert!(
            !step.text.contains("`dbkeep "),
            "{heading}: a command outside of a block is one that nobody has tried: {}",
            step.text
        );
    }
    Section {
        heading: heading.to_owned(),
        steps,
    }
}

/// The sections of `Recovery`, in their order, and the drill.
pub(crate) fn handbook() -> (Vec<Section>, Section) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let page = fs::read_to_string(&path).unwrap();
    let recovery = chapter(&page, "Recovery");
    let sections = recovery
        .split("\n### ")
        .skip(1)
        .map(|text| {
            let (heading, body) = text.split_once('\n').unwrap();
            section(heading, body)
        })
        .collect();
    let drill = "Monthly drill";
    (sections, section(drill, &chapter(&page, drill)))
}
