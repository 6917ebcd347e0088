//! Mail: text and HTML in one message, over SMTP with STARTTLS or TLS. Nothing leaves this machine in the clear unless the settings say so by
//! name. The Message-ID is that of the delivery, so that a repetition is one message to whoever looks.

use async_trait::async_trait;
use dbkeep_engine::{
    model::notice::{Channel, DeliveryId, Envelope, Notice},
    port::{DeliveryError, DeliveryErrorClass, Notifier},
};
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};
use tokio::time::timeout;

use super::{chain, render};
use crate::config::channels::{ChannelConfig, EmailConfig, MailSecurity};

/// Codes by which a server refuses whoever logs in. Its operator or ours will correct that; the mail is not at fault.
const LOGIN_REFUSED: [u16; 4] = [530, 534, 535, 538];

pub(super) struct Smtp {
    channel: Channel,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    timeout: std::time::Duration,
}

impl Smtp {
    pub(super) fn new(channel: &ChannelConfig, email: &EmailConfig) -> Result<Self, String> {
        let tls = match email.security {
            MailSecurity::Plain => Tls::None,
            MailSecurity::Tls => Tls::Wrapper(parameters(channel, email)?),
            MailSecurity::StartTls => Tls::Required(parameters(channel, email)?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&email.host)
            .port(email.port)
            .tls(tls)
            .hello_name(ClientId::Domain("dbkeep.localdomain".to_owned()))
            .timeout(Some(channel.timeout));
        if let Some((user, password)) = &email.login {
            builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        let from = email
            .from
            .parse()
            .map_err(|_| format!("from is {:?}; expected an address", email.from))?;
        Ok(Self {
            channel: channel.facts(),
            transport: builder.build(),
            from: Mailbox::new(Some("dbkeep".to_owned()), from),
            timeout: channel.timeout,
        })
    }

    fn message(&self, envelope: &Envelope, delivery: DeliveryId) -> Result<Message, String> {
        let subject = render::subject(&envelope.notice);
        message(&self.from, &envelope.recipients, subject, &envelope.notice, delivery)
    }
}

fn parameters(channel: &ChannelConfig, email: &EmailConfig) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(email.host.clone()).certificate_store(CertificateStore::WebpkiRoots);
    if let Some(pem) = &channel.authorities {
        builder = builder.certificate_store(CertificateStore::None);
        for authority in super::authorities(pem)? {
            let authority = Certificate::from_der(authority.to_vec()).map_err(|error| format!("ca_file: {}", chain(&error)))?;
            builder = builder.add_root_certificate(authority);
        }
    }
    builder.build().map_err(|error| format!("TLS: {}", chain(&error)))
}

/// A message. Everything that goes into a header is looked at first: a line break there would begin another header.
fn message(
    from: &Mailbox,
    recipients: &[String],
    subject: String,
    notice: &Notice,
    delivery: DeliveryId,
) -> Result<Message, String> {
    if subject
        .chars()
        .chain(recipients.iter().flat_map(|recipient| recipient.chars()))
        .any(char::is_control)
    {
        return Err("a control character would go into a header of the mail".to_owned());
    }
    if recipients.is_empty() {
        return Err("the mail has no recipient".to_owned());
    }
    let mut builder = Message::builder()
        .from(from.clone())
        .subject(subject)
        .message_id(Some(format!("<{delivery}@{}>", from.email.domain())))
        // Who answers mail by itself leaves this one alone (RFC 3834).
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ));
    for recipient in recipients {
        let address = recipient.parse().map_err(|_| format!("{recipient:?} is no mail address"))?;
        builder = builder.to(Mailbox::new(None, address));
    }
    let parts = MultiPart::alternative_plain_html(render::text(notice), render::page(notice));
    builder.multipart(parts).map_err(|error| chain(&error))
}

#[async_trait]
impl Notifier for Smtp {
    fn channel(&self) -> &Channel {
        &self.channel
    }

    async fn deliver(&self, envelope: &Envelope, delivery: DeliveryId) -> Result<(), DeliveryError> {
        let message = self.message(envelope, delivery).map_err(DeliveryError::permanent)?;
        match timeout(self.timeout, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let code = error.status().map(u16::from);
                let refused = error.is_permanent() && !code.is_some_and(|code| LOGIN_REFUSED.contains(&code));
                Err(DeliveryError {
                    class: if refused {
                        DeliveryErrorClass::Permanent
                    } else {
                        DeliveryErrorClass::Transient
                    },
                    retry_after: None,
                    message: chain(&error),
                })
            }
            Err(_) => Err(DeliveryError::transient(format!(
                "the mail server did not take it within {} s",
                self.timeout.as_secs_f64()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::notice::NoticeKind;

    use super::*;

    fn formatted(recipients: &[&str], subject: &str) -> Result<String, String> {
        let from = Mailbox::new(None, "dbkeep@example.com".parse().expect("an address"));
        let recipients: Vec<String> = recipients.iter().map(|recipient| (*recipient).to_owned()).collect();
        let notice = Notice::new(NoticeKind::RunFailed, "k", "shop", "t");
        let delivery = DeliveryId(uuid::Uuid::from_u128(7));
        let message = message(&from, &recipients, subject.to_owned(), &notice, delivery)?;
        Ok(String::from_utf8(message.formatted()).expect("mail is ASCII"))
    }

    #[test]
    fn a_line_break_makes_no_header() {
        let mail = formatted(&["ops@example.com"], "fine").expect("a mail");
        assert!(
            mail.contains("Message-ID: <00000000-0000-0000-0000-000000000007@example.com>\r\n"),
            "{mail}"
        );
        for (recipients, subject) in [
            (vec!["ops@example.com"], "x\r\nBcc: evil@example.com"),
            (vec!["ops@example.com"], "x\nBcc: evil@example.com"),
            (vec!["ops@example.com"], "x\rBcc: evil@example.com"),
            (vec!["ops@example.com\r\nBcc: evil@example.com"], "x"),
            (vec!["ops@example.com", "evil@example.com>\n"], "x"),
            (vec!["ops@example.com, evil@example.com"], "x"),
            (vec![], "x"),
        ] {
            assert!(formatted(&recipients, subject).is_err(), "{recipients:?} {subject:?}");
        }
    }
}
