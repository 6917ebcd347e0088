//! The audit log's settings against the others: a channel that gets anchors is one that programs read.

use dbkeep_engine::model::notice::ChannelKind;

use super::{Config, ConfigError, refuse};

/// What is wrong with the channel that gets anchors.
pub(super) fn check_channel(config: &Config, name: &str) -> Result<(), String> {
    let kind = config
        .channels
        .iter()
        .map(super::channels::ChannelConfig::facts)
        .find(|channel| channel.name == name)
        .map(|channel| channel.kind);
    match kind {
        Some(ChannelKind::Webhook) => Ok(()),
        Some(other) => Err(format!(
            "anchor_channel {name:?} is of kind {}; expected a channel of kind webhook, which programs read",
            other.name()
        )),
        None => Err(format!(
            "there is no channel {name:?}; expected anchor_channel to name a [[channel]] of kind webhook"
        )),
    }
}

/// Checks the channel that gets anchors.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    match &config.engine.audit.anchor_channel {
        Some(name) => check_channel(config, name).map_err(|problem| refuse("audit", problem)),
        None => Ok(()),
    }
}
