//! What every channel says of a notice, in the same order: what happened, where, the result, rows, bytes, duration, what to do next, and the
//! command that looks closer. As text, as HTML that a phone shows well, and as lines for whoever dresses them otherwise. Pure.
//! Nothing that comes from a database or a name is taken for markup.

use dbkeep_engine::model::notice::{Notice, NoticeSeverity, one_line};
use maud::{DOCTYPE, Markup, html};

/// Longest subject of a mail, characters.
const MAX_SUBJECT: usize = 150;

/// The word before everything else.
pub(super) fn mark(notice: &Notice) -> &'static str {
    match notice.severity {
        NoticeSeverity::Info => "OK",
        NoticeSeverity::Warning => "WARNING",
        NoticeSeverity::Error => "ERROR",
    }
}

/// One line that is understood without the rest.
pub(super) fn subject(notice: &Notice) -> String {
    one_line(&format!("[dbkeep] {}: {}", mark(notice), notice.title), MAX_SUBJECT)
}

/// The particulars: those of the notice, and when it happened.
pub(super) fn lines(notice: &Notice) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = notice
        .lines
        .iter()
        .map(|line| (line.label.clone(), line.value.clone()))
        .collect();
    lines.push(("Time".to_owned(), notice.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()));
    lines
}

/// Plain text.
pub(super) fn text(notice: &Notice) -> String {
    let lines = lines(notice);
    let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or_default() + 1;
    let mut text = format!("{}: {}\n\n", mark(notice), notice.title);
    for (label, value) in lines {
        text.push_str(&format!("{:<width$} {value}\n", format!("{label}:")));
    }
    if !notice.next_step.is_empty() {
        text.push_str(&format!("\n{}\n", notice.next_step));
    }
    if !notice.command.is_empty() {
        text.push_str(&format!("\nTo look closer:\n  {}\n", notice.command));
    }
    text
}

/// A page of its own: no image, no script, nothing that is fetched.
pub(super) fn page(notice: &Notice) -> String {
    let colour = match notice.severity {
        NoticeSeverity::Info => "#1a7f37",
        NoticeSeverity::Warning => "#9a6700",
        NoticeSeverity::Error => "#cf222e",
    };
    let row = |label: &str, value: &str| -> Markup {
        html! {
            tr {
                td style="padding:4px 12px 4px 0;color:#57606a;vertical-align:top;white-space:nowrap" { (label) }
                td style="padding:4px 0;vertical-align:top;overflow-wrap:anywhere" { (value) }
            }
        }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (subject(notice)) }
            }
            body style="margin:0;padding:16px;background:#f6f8fa;color:#1f2328;font:16px/1.4 -apple-system,Segoe UI,Roboto,sans-serif" {
                div style={ "max-width:600px;margin:0 auto;padding:16px;background:#ffffff;border-radius:6px;border-top:4px solid " (colour) } {
                    p style={ "margin:0;font-size:13px;font-weight:bold;color:" (colour) } { (mark(notice)) }
                    h1 style="margin:4px 0 12px;font-size:20px;line-height:1.3;overflow-wrap:anywhere" { (notice.title) }
                    table role="presentation" style="border-collapse:collapse;width:100%;font-size:15px" {
                        @for (label, value) in lines(notice) { (row(&label, &value)) }
                    }
                    @if !notice.next_step.is_empty() {
                        p style="margin:16px 0 0;overflow-wrap:anywhere" { (notice.next_step) }
                    }
                    @if !notice.command.is_empty() {
                        p style="margin:16px 0 4px;font-size:13px;color:#57606a" { "To look closer:" }
                        pre style="margin:0;padding:8px;background:#f6f8fa;border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere" { (notice.command) }
                    }
                }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::notice::NoticeKind;

    use super::*;

    fn notice() -> Notice {
        let mut notice = Notice::new(NoticeKind::RunFailed, "k", "shop", "cleanup on <b>shop</b> failed & \"how\"");
        notice.at = jiff::Timestamp::UNIX_EPOCH;
        notice.line("Result", "<script>alert(1)</script>");
        notice.line("<img src=x>", "a\r\nb");
        notice.next_step = "Look at <it>.".to_owned();
        notice.command = "dbkeep runs show 1 && rm -rf '<x>'".to_owned();
        notice
    }

    #[test]
    fn the_text_is_complete_and_aligned() {
        let mut notice = notice();
        notice.lines.truncate(1);
        assert_eq!(
            text(&notice),
            "ERROR: cleanup on <b>shop</b> failed & \"how\"\n\nResult: <script>alert(1)</script>\nTime:   1970-01-01 00:00:00 UTC\n\n\
             Look at <it>.\n\nTo look closer:\n  dbkeep runs show 1 && rm -rf '<x>'\n"
        );
    }

    #[test]
    fn what_looks_like_markup_is_text() {
        let page = page(&notice());
        for hostile in ["<script", "<img", "<b>", "<it>", "<x>", "failed & "] {
            assert!(!page.contains(hostile), "{hostile} in {page}");
        }
        for shown in [
            "cleanup on &lt;b&gt;shop&lt;/b&gt; failed &amp; &quot;how&quot;",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "&lt;img src=x&gt;",
            "width=device-width",
        ] {
            assert!(page.contains(shown), "{shown} in {page}");
        }
    }

    #[test]
    fn a_subject_is_one_short_line() {
        let mut notice = notice();
        notice.title = format!("x\r\nBcc: a@example.com {}", "y".repeat(1_000));
        let subject = subject(&notice);
        assert!(!subject.contains(['\r', '\n']) && subject.chars().count() <= MAX_SUBJECT);
        assert!(subject.starts_with("[dbkeep] ERROR: x Bcc: a@example.com"), "{subject}");
    }
}
