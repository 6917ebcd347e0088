//! Roles and tokens.

use dbkeep_engine::access::{Role, Scope, TokenRecord};
use dbkeep_proto::v1;

use super::time;
use crate::grpc::validate::Check;

/// A role as the wire carries it.
pub(in crate::grpc) fn role(role: Role) -> v1::Role {
    match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Approver => v1::Role::Approver,
        Role::Admin => v1::Role::Admin,
    }
}

/// A role from the wire. What is none is noted, and stands for the least.
pub(in crate::grpc) fn named(wire: i32, check: &mut Check) -> Role {
    match v1::Role::try_from(wire) {
        Ok(v1::Role::Viewer) => Role::Viewer,
        Ok(v1::Role::Operator) => Role::Operator,
        Ok(v1::Role::Approver) => Role::Approver,
        Ok(v1::Role::Admin) => Role::Admin,
        Ok(v1::Role::Unspecified) | Err(_) => {
            check.refuse(
                "role",
                format!("is {wire}; expected 1 (VIEWER), 2 (OPERATOR), 3 (APPROVER) or 4 (ADMIN)"),
            );
            Role::Viewer
        }
    }
}

/// Targets as the wire carries them: none for all.
pub(in crate::grpc) fn targets(scope: &Scope) -> Vec<String> {
    scope.targets().into_iter().flatten().cloned().collect()
}

/// A token, without its secret.
pub(in crate::grpc) fn token(token: TokenRecord) -> v1::Token {
    v1::Token {
        id: token.id.to_string(),
        role: role(token.role).into(),
        targets: targets(&token.scope),
        name: token.name,
        created_by: token.created_by,
        create_time: Some(time::timestamp(token.created_at)),
        expire_time: token.expires_at.map(time::timestamp),
        revoke_time: token.revoked_at.map(time::timestamp),
    }
}
