//! `AccessService`: who the caller is, and tokens. Called by tonic.

use std::collections::BTreeSet;

use dbkeep_engine::{Engine, access::Scope, engine::TokenRequest};
use dbkeep_proto::v1::{self, access_service_server::AccessService};
use tonic::{Request, Response, Status};

use super::{
    convert::{access as convert, time},
    detached,
    gate::{caller_of, identity_of},
    status::Fault,
    validate::Check,
};
use crate::access::random;

/// The service. Its name leaves room for what decides who calls, [`crate::access::Access`].
#[derive(Clone)]
pub(super) struct Tokens {
    pub(super) engine: Engine,
}

#[tonic::async_trait]
impl AccessService for Tokens {
    async fn get_caller(&self, request: Request<v1::GetCallerRequest>) -> Result<Response<v1::GetCallerResponse>, Status> {
        let identity = identity_of(&request).ok_or(Fault::Unauthenticated {
            problem: "the call has passed no gate",
        })?;
        Ok(Response::new(v1::GetCallerResponse {
            principal: identity.caller.principal.clone(),
            role: convert::role(identity.grant.role).into(),
            targets: convert::targets(&identity.grant.scope),
            known_by: identity.known_by.name().to_owned(),
            expire_time: identity.grant.until.map(time::timestamp),
        }))
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = caller_of(&request);
        let v1::CreateTokenRequest {
            name,
            role,
            targets,
            lifetime,
        } = request.into_inner();
        let mut check = Check::default();
        check.present("name", &name, "the name of a principal");
        let role = convert::named(role, &mut check);
        let life = lifetime.and_then(|life| check.age("lifetime", &life));
        check.finish()?;
        let scope = if targets.is_empty() {
            Scope::All
        } else {
            Scope::Targets(targets.into_iter().collect::<BTreeSet<_>>())
        };
        let asked = TokenRequest {
            name,
            role,
            scope,
            life,
            random: random().map_err(|()| Fault::NoRandom)?,
        };
        let engine = self.engine.clone();
        let (secret, token) = detached(async move { engine.create_token(asked, &caller).await }).await?;
        Ok(Response::new(v1::CreateTokenResponse {
            secret: secret.reveal(),
            token: Some(convert::token(token)),
        }))
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        let engine = self.engine.clone();
        let tokens = detached(async move { engine.tokens().await }).await?;
        Ok(Response::new(v1::ListTokensResponse {
            tokens: tokens.into_iter().map(convert::token).collect(),
        }))
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let id = request.into_inner().id;
        let mut check = Check::default();
        check.present("id", &id, "the id or name of a token");
        check.finish()?;
        let engine = self.engine.clone();
        let token = detached(async move { engine.revoke_token(&id).await }).await?;
        Ok(Response::new(v1::RevokeTokenResponse {
            token: Some(convert::token(token)),
        }))
    }
}
