//! `dbkeep tokens` and `dbkeep whoami`: bearer tokens, and who the server takes the caller for.
//!
//! Owns their list and what is shown of a new one. Called by `main.rs`.

use clap::{Args, Subcommand, ValueEnum};
use dbkeep_client::{TokenDraft, proto};
use serde_json::json;

use crate::{
    duration::Span,
    exit::Exit,
    json::access,
    output::{Output, Tone},
    session::Session,
    table,
};

/// Commands of `tokens`.
#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Make a token. Its secret is printed once, alone on stdout; the server does not know it any more.
    Create(Create),
    /// List every token that there ever was, the newest first.
    List,
    /// Take a token back; streams that are open by it end.
    Revoke {
        /// Id of the token, or the name of one that is not revoked.
        token: String,
    },
}

/// `dbkeep tokens create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Who its owner is: 1 to 64 of A-Z a-z 0-9 . _ @ -.
    name: String,
    /// What its owner may do.
    #[arg(long, value_enum)]
    role: Role,
    /// Only for this target; without any, for all. Can be repeated.
    #[arg(long = "target", value_name = "NAME")]
    targets: Vec<String>,
    /// How long it is good, as in 90d; without it, until it is revoked.
    #[arg(long, value_name = "DURATION")]
    lifetime: Option<Span>,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Looks.
    Viewer,
    /// Looks; plans, starts, stops and takes back.
    Operator,
    /// Looks; consents to what others started.
    Approver,
    /// Everything, and tokens and the audit log.
    Admin,
}

impl From<Role> for proto::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Approver => Self::Approver,
            Role::Admin => Self::Admin,
        }
    }
}

impl Tokens {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::Create(create) => create.run(session).await,
            Self::List => list(session).await,
            Self::Revoke { token } => revoke(session, token).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let draft = TokenDraft::new(self.name, self.role.into());
        let draft = self.targets.into_iter().fold(draft, TokenDraft::target);
        let draft = match self.lifetime {
            Some(lifetime) => draft.lifetime(lifetime.into()),
            None => draft,
        };
        let made = session.client.access().create_token(draft).await?;
        if output.is_json() {
            output.json(&json!({ "secret": made.secret, "token": access::Token::from(&made.token) }))?;
            return Ok(Exit::Success);
        }
        output.line(&made.secret)?;
        output.note(format!(
            "The secret of {} ({}), shown this once. Its owner sets DBKEEP_TOKEN, or DBKEEP_TOKEN_FILE to a file with it.",
            made.token.name,
            access::role(made.token.role())
        ));
        Ok(Exit::Success)
    }
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let output = &session.output;
    let tokens = session.client.access().tokens().await?;
    if output.is_json() {
        let tokens: Vec<_> = tokens.iter().map(access::Token::from).collect();
        output.json(&json!({ "tokens": tokens }))?;
        return Ok(Exit::Success);
    }
    show_tokens(&tokens, output)
}

async fn revoke(session: &Session, token: String) -> anyhow::Result<Exit> {
    let output = &session.output;
    let revoked = session.client.access().revoke_token(token).await?;
    if output.is_json() {
        output.json(&json!({ "token": access::Token::from(&revoked) }))?;
        return Ok(Exit::Success);
    }
    output.line(format!("{} ({}) opens nothing any more", revoked.name, revoked.id))?;
    Ok(Exit::Success)
}

fn show_tokens(tokens: &[proto::Token], output: &Output) -> anyhow::Result<Exit> {
    let mut table = output.table(["NAME", "ROLE", "TARGETS", "CREATED", "BY", "EXPIRES", "REVOKED", "ID"]);
    for token in tokens {
        let tone = if token.revoke_time.is_some() {
            Tone::Dim
        } else {
            Tone::Strong
        };
        let targets = if token.targets.is_empty() {
            "all".to_owned()
        } else {
            token.targets.join(", ")
        };
        table.add_row([
            output.cell(tone, &token.name),
            output.cell(Tone::Dim, access::role(token.role())),
            output.cell(Tone::Dim, targets),
            output.cell(Tone::Dim, table::instant(token.create_time.as_ref())),
            output.cell(Tone::Dim, &token.created_by),
            output.cell(Tone::Dim, table::instant(token.expire_time.as_ref())),
            output.cell(Tone::Dim, table::instant(token.revoke_time.as_ref())),
            output.cell(Tone::Dim, &token.id),
        ]);
    }
    output.line(table)?;
    Ok(Exit::Success)
}

/// `dbkeep whoami`.
#[derive(Debug, Args)]
pub(crate) struct Whoami {}

impl Whoami {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let caller = session.client.access().caller().await?;
        if output.is_json() {
            output.json(&json!({ "caller": access::Caller::from(&caller) }))?;
            return Ok(Exit::Success);
        }
        let targets = if caller.targets.is_empty() {
            "all".to_owned()
        } else {
            caller.targets.join(", ")
        };
        let mut table = output.table(["CALLER", &caller.principal]);
        table
            .add_row(["role", access::role(caller.role())])
            .add_row(["targets", &targets])
            .add_row(["known by", &caller.known_by])
            .add_row(["until", &table::instant(caller.expire_time.as_ref())]);
        output.line(table)?;
        Ok(Exit::Success)
    }
}
