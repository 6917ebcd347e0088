//! The section `[audit]`: how long records are kept, and where the head is anchored.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use toml::Spanned;

use super::{super::audit::check_channel, Config, ConfigError, Source};

const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Section {
    anchor_file: Option<Spanned<PathBuf>>,
    anchor_channel: Option<Spanned<String>>,
    anchor_every: Option<Spanned<String>>,
    retention: Option<Spanned<String>>,
}

impl Source<'_> {
    /// Reads the section, after the channels that it may name.
    pub(super) fn audit(&self, section: Section, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(file) = section.anchor_file {
            if file.get_ref().as_os_str().is_empty() {
                return Err(self.refuse(file.span().start, "anchor_file is empty; expected the path of a file"));
            }
            config.anchor_file = Some(self.base.join(file.into_inner()));
        }
        if let Some(channel) = section.anchor_channel {
            check_channel(config, channel.get_ref()).map_err(|problem| self.refuse(channel.span().start, problem))?;
            config.engine.audit.anchor_channel = Some(channel.into_inner());
        }
        let audit = &mut config.engine.audit;
        if let Some(every) = &section.anchor_every
            && config.anchor_file.is_none()
            && audit.anchor_channel.is_none()
        {
            let problem = "anchor_every is set, and neither anchor_file nor anchor_channel is; expected one of them";
            return Err(self.refuse(every.span().start, problem));
        }
        self.duration(section.anchor_every, &mut audit.anchor_every, HOUR, 720 * HOUR)?;
        self.duration(section.retention, &mut audit.retention, 720 * HOUR, 876_000 * HOUR)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let text = format!("{text}\n[data]\nfolder = \"d\"\n");
        Config::from_text("c.toml", &text, Path::new("/etc/dbkeep"), &|_| None)
    }

    const HOOK: &str = "[[channel]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"https://example.com/x\"\n\
        secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

    #[test]
    fn anchors_are_declared() {
        let text = format!(
            "{HOOK}[audit]\nanchor_file = \"anchors\"\nanchor_channel = \"hook\"\nanchor_every = \"6h\"\nretention = \"8760h\""
        );
        let config = read(&text).expect("a configuration");
        assert_eq!(config.anchor_file.as_deref(), Some(Path::new("/etc/dbkeep/anchors")));
        let audit = &config.engine.audit;
        assert_eq!(audit.anchor_channel.as_deref(), Some("hook"));
        assert_eq!((audit.anchor_every, audit.retention), (6 * HOUR, 8_760 * HOUR));
        assert_eq!(config.check(), Ok(()));
        let mut stray = config;
        stray.channels.clear();
        assert!(stray.check().is_err());
    }

    #[test]
    fn mistakes_are_told_with_line_and_expectation() {
        let chat = "[[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl = \"https://hooks.slack.com/x\"\n";
        for (text, place, problem) in [
            (
                "[audit]\nanchor_every = \"6h\"".to_owned(),
                "c.toml:2",
                "neither anchor_file nor anchor_channel",
            ),
            (
                "[audit]\nanchor_channel = \"hook\"".to_owned(),
                "c.toml:2",
                "there is no channel",
            ),
            (
                format!("{chat}[audit]\nanchor_channel = \"chat\""),
                "c.toml:6",
                "is of kind slack",
            ),
            ("[audit]\nanchor_file = \"\"".to_owned(), "c.toml:2", "is empty"),
            ("[audit]\nretention = \"24h\"".to_owned(), "c.toml:2", "expected a duration"),
            (
                "[audit]\nanchor_file = \"a\"\nanchor_every = \"1m\"".to_owned(),
                "c.toml:3",
                "expected a duration",
            ),
            ("[audit]\nkeep = 1".to_owned(), "c.toml:2", "unknown field `keep`"),
        ] {
            let error = read(&text).expect_err(&text);
            assert_eq!(error.place, place, "{error}");
            assert!(error.problem.contains(problem), "{error}");
        }
    }
}
