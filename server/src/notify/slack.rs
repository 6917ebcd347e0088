//! Slack: an incoming webhook gets blocks. `&`, `<` and `>` are the only characters with a meaning of their own there (mentions, links), and are
//! escaped everywhere; the URL is the secret.

use async_trait::async_trait;
use dbkeep_engine::{
    model::notice::{Channel, DeliveryId, Envelope, Notice, one_line},
    port::{DeliveryError, Notifier},
};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{http::Poster, render};

/// Longest header, characters after escaping (Slack's limit is 150).
const MAX_HEADER: usize = 140;
/// Longest value of a line, characters.
const MAX_VALUE: usize = 300;
/// Longest section, characters after escaping (Slack's limit is 3,000).
const MAX_SECTION: usize = 2_800;

pub(super) struct Slack {
    channel: Channel,
    poster: Poster,
}

impl Slack {
    pub(super) fn new(channel: Channel, poster: Poster) -> Self {
        Self { channel, poster }
    }
}

#[async_trait]
impl Notifier for Slack {
    fn channel(&self) -> &Channel {
        &self.channel
    }

    async fn deliver(&self, envelope: &Envelope, _delivery: DeliveryId) -> Result<(), DeliveryError> {
        // Slack has no place for the id: a repetition shows twice.
        let answer = self
            .poster
            .post(HeaderMap::new(), message(&envelope.notice).to_string())
            .await?;
        // Slack says what is wrong in one word, such as invalid_blocks. Anything else is somebody else's and may hold anything.
        let word = answer.body.trim();
        let is_word = word.len() <= 60 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        answer.judge(if is_word { word } else { "" })
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The same, cut so that it has at most so many characters after escaping: that is what Slack counts.
fn escaped_within(text: &str, most: usize) -> String {
    let mut whole = escaped(text);
    if whole.chars().count() <= most {
        return whole;
    }
    whole.clear();
    let mut length = 0;
    for character in text.chars() {
        let piece = escaped(character.encode_utf8(&mut [0; 4]));
        length += piece.chars().count();
        if length >= most {
            break;
        }
        whole.push_str(&piece);
    }
    whole.push('…');
    whole
}

fn section(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true } })
}

fn message(notice: &Notice) -> Value {
    let header = format!("{}: {}", render::mark(notice), notice.title);
    let header = escaped_within(&one_line(&header, MAX_HEADER), MAX_HEADER);
    let mut blocks = vec![json!({
        "type": "header",
        "text": { "type": "plain_text", "text": header, "emoji": false },
    })];
    let mut text = String::new();
    for (label, value) in render::lines(notice) {
        let line = format!("*{}:* {}\n", escaped(&label), escaped(&one_line(&value, MAX_VALUE)));
        if text.len() + line.len() > MAX_SECTION {
            blocks.push(section(text.trim_end()));
            text.clear();
        }
        text.push_str(&line);
    }
    blocks.push(section(text.trim_end()));
    if !notice.next_step.is_empty() {
        blocks.push(section(&escaped(&one_line(&notice.next_step, MAX_VALUE * 2))));
    }
    if !notice.command.is_empty() {
        blocks.push(section(&format!("```{}```", escaped(&one_line(&notice.command, MAX_VALUE)))));
    }
    json!({ "text": escaped(&render::subject(notice)), "blocks": blocks })
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::notice::NoticeKind;

    use super::*;

    #[test]
    fn nobody_is_mentioned_and_nothing_is_linked_by_a_hostile_name() {
        let mut notice = Notice::new(NoticeKind::RunFailed, "k", "shop", "<!channel> & <https://evil|click>");
        notice.line("<!here>", "<@U123> </x>");
        notice.next_step = "<!everyone>".to_owned();
        notice.command = "echo <x>".to_owned();
        let message = message(&notice).to_string();
        assert!(!message.contains(['<', '>']), "{message}");
        assert!(
            message.contains("&lt;!channel&gt; &amp; &lt;https://evil|click&gt;"),
            "{message}"
        );
    }

    #[test]
    fn long_notices_stay_within_the_limits() {
        let mut notice = Notice::new(NoticeKind::RunWarned, "k", "shop", "<".repeat(500));
        for number in 0..40 {
            notice.line(&format!("Line {number}"), "&".repeat(1_000));
        }
        notice.next_step = ">".repeat(5_000);
        let message = message(&notice);
        let blocks = message["blocks"].as_array().expect("blocks");
        assert!(blocks.len() <= 50, "{}", blocks.len());
        for block in blocks {
            let text = block["text"]["text"].as_str().expect("a text");
            let most = if block["type"] == "header" { 150 } else { 3_000 };
            assert!(text.chars().count() <= most, "{}: {text}", text.chars().count());
        }
        // Cut between characters, and never within what stands for one.
        let header = blocks[0]["text"]["text"].as_str().expect("a text");
        assert!(header.ends_with("&lt;…"), "{header}");
    }
}
