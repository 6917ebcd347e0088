//! The section `[limits]`, and how many have to approve a run: what keeps a run from beginning.

use serde::Deserialize;
use toml::Spanned;

use super::{Config, ConfigError, Source};

/// Most runs whose counts are compared.
const MOST_RUNS: u64 = 100;
/// Most approvals that can be asked for.
const MOST_APPROVALS: u64 = 10;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Section {
    history_runs: Option<Spanned<u64>>,
    history_least_runs: Option<Spanned<u64>>,
    history_least_rows: Option<u64>,
    history_warn_factor: Option<Spanned<f64>>,
    history_block_factor: Option<Spanned<f64>>,
}

impl Source<'_> {
    pub(super) fn limits(&self, section: Section, config: &mut Config) -> Result<(), ConfigError> {
        let history = &mut config.engine.history;
        let block = section.history_block_factor.as_ref().map(|factor| factor.span().start);
        self.runs(section.history_runs, &mut history.runs)?;
        self.runs(section.history_least_runs, &mut history.least_runs)?;
        history.least_rows = section.history_least_rows.unwrap_or(history.least_rows);
        self.factor(section.history_warn_factor, &mut history.warn_factor)?;
        self.factor(section.history_block_factor, &mut history.block_factor)?;
        if history.warn_factor > history.block_factor {
            return Err(self.refuse(
                block.unwrap_or_default(),
                format!(
                    "history_block_factor is {}; expected at least history_warn_factor, {}",
                    history.block_factor, history.warn_factor
                ),
            ));
        }
        if history.least_runs > history.runs {
            return Err(self.refuse(
                0,
                format!(
                    "history_least_runs is {}; expected at most history_runs, {}: the history would never say anything",
                    history.least_runs, history.runs
                ),
            ));
        }
        Ok(())
    }

    /// The number of approvals. That none is needed is said by a key of its own, so that no slip of the keyboard says it.
    pub(super) fn approvals(
        &self,
        approvals: Option<Spanned<u64>>,
        none: Option<Spanned<bool>>,
        default: u32,
    ) -> Result<u32, ConfigError> {
        if let Some(none) = none.filter(|none| *none.get_ref()) {
            if approvals.is_some() {
                return Err(self.refuse(
                    none.span().start,
                    "dangerously_run_critical_without_approval stands beside approvals; expected one of them",
                ));
            }
            return Ok(0);
        }
        let Some(approvals) = approvals else { return Ok(default) };
        match u32::try_from(*approvals.get_ref()) {
            Ok(number) if (1..=MOST_APPROVALS).contains(&u64::from(number)) => Ok(number),
            _ => Err(self.refuse(
                approvals.span().start,
                format!(
                    "approvals is {}; expected 1 to {MOST_APPROVALS}, or dangerously_run_critical_without_approval = true for none",
                    approvals.get_ref()
                ),
            )),
        }
    }

    fn runs(&self, number: Option<Spanned<u64>>, value: &mut u32) -> Result<(), ConfigError> {
        let Some(number) = number else { return Ok(()) };
        match u32::try_from(*number.get_ref()) {
            Ok(runs) if (1..=MOST_RUNS).contains(&u64::from(runs)) => *value = runs,
            _ => {
                return Err(self.refuse(
                    number.span().start,
                    format!("is {}; expected 1 to {MOST_RUNS}", number.get_ref()),
                ));
            }
        }
        Ok(())
    }

    fn factor(&self, factor: Option<Spanned<f64>>, value: &mut f64) -> Result<(), ConfigError> {
        let Some(factor) = factor else { return Ok(()) };
        // Not a number and infinity fail the comparison or the bound.
        if !(*factor.get_ref() > 1.0 && factor.get_ref().is_finite()) {
            return Err(self.refuse(
                factor.span().start,
                format!("is {}; expected a number above 1.0", factor.get_ref()),
            ));
        }
        *value = factor.into_inner();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::from_text(
            "c.toml",
            &format!("{text}\n[data]\nfolder = \"d\"\n"),
            Path::new("/"),
            &|_| None,
        )
    }

    #[test]
    fn one_approval_is_the_default_and_none_has_a_loud_name() {
        assert_eq!(read("").expect("a configuration").engine.approvals, 1);
        assert_eq!(read("[engine]\napprovals = 2").expect("a configuration").engine.approvals, 2);
        let loud = "[engine]\ndangerously_run_critical_without_approval";
        assert_eq!(read(&format!("{loud} = true")).expect("a configuration").engine.approvals, 0);
        assert_eq!(read(&format!("{loud} = false")).expect("a configuration").engine.approvals, 1);
        for (text, problem) in [
            (
                "[engine]\napprovals = 0".to_owned(),
                "dangerously_run_critical_without_approval = true",
            ),
            ("[engine]\napprovals = 11".to_owned(), "expected 1 to 10"),
            (format!("{loud} = true\napprovals = 1"), "expected one of them"),
        ] {
            let error = read(&text).expect_err("refused");
            assert_eq!(error.place, "c.toml:2");
            assert!(error.problem.contains(problem), "{error}");
        }
    }

    #[test]
    fn limits_are_read_and_checked() {
        let history = read(
            "[limits]\nhistory_runs = 5\nhistory_least_runs = 1\nhistory_least_rows = 0\nhistory_warn_factor = 1.5\nhistory_block_factor = 2.0",
        )
        .expect("a configuration")
        .engine
        .history;
        assert_eq!((history.runs, history.least_runs, history.least_rows), (5, 1, 0));
        assert_eq!((history.warn_factor, history.block_factor), (1.5, 2.0));
        for (text, problem) in [
            ("history_runs = 0", "expected 1 to 100"),
            ("history_runs = 2", "history_least_runs is 3"),
            ("history_warn_factor = 1.0", "above 1.0"),
            ("history_warn_factor = nan", "above 1.0"),
            ("history_block_factor = inf", "above 1.0"),
            ("history_block_factor = 2.0", "expected at least history_warn_factor"),
            ("history_factor = 2.0", "unknown field"),
        ] {
            let error = read(&format!("[limits]\n{text}")).expect_err(text);
            assert!(error.problem.contains(problem), "{error}");
        }
    }
}
