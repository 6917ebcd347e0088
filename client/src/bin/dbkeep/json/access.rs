//! JSON of tokens and callers.
//!
//! Owns the shapes `token` and `caller`. Called by `cmd/tokens.rs`.

use dbkeep_client::proto;
use serde::Serialize;

/// A token, without its secret.
#[derive(Debug, Serialize)]
pub(crate) struct Token<'a> {
    id: &'a str,
    name: &'a str,
    /// "viewer", "operator", "approver" or "admin".
    role: &'static str,
    /// Empty for all.
    targets: &'a [String],
    created_by: &'a str,
    create_time: Option<String>,
    expire_time: Option<String>,
    revoke_time: Option<String>,
}

impl<'a> From<&'a proto::Token> for Token<'a> {
    fn from(token: &'a proto::Token) -> Self {
        Self {
            id: &token.id,
            name: &token.name,
            role: role(token.role()),
            targets: &token.targets,
            created_by: &token.created_by,
            create_time: super::time(token.create_time.as_ref()),
            expire_time: super::time(token.expire_time.as_ref()),
            revoke_time: super::time(token.revoke_time.as_ref()),
        }
    }
}

/// Who the server takes the caller for.
#[derive(Debug, Serialize)]
pub(crate) struct Caller<'a> {
    principal: &'a str,
    role: &'static str,
    targets: &'a [String],
    known_by: &'a str,
    expire_time: Option<String>,
}

impl<'a> From<&'a proto::GetCallerResponse> for Caller<'a> {
    fn from(caller: &'a proto::GetCallerResponse) -> Self {
        Self {
            principal: &caller.principal,
            role: role(caller.role()),
            targets: &caller.targets,
            known_by: &caller.known_by,
            expire_time: super::time(caller.expire_time.as_ref()),
        }
    }
}

/// A role as people and scripts know it.
pub(crate) fn role(role: proto::Role) -> &'static str {
    match role {
        proto::Role::Unspecified => "unknown",
        proto::Role::Viewer => "viewer",
        proto::Role::Operator => "operator",
        proto::Role::Approver => "approver",
        proto::Role::Admin => "admin",
    }
}
