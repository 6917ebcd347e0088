//! `TargetService`: which databases there are. Called by tonic.

use dbkeep_engine::Engine;
use dbkeep_proto::v1::{self, target_service_server::TargetService};
use tonic::{Request, Response, Status};

use super::{convert, detached, gate::scope_of, status::Fault, validate::Check};

/// The service.
#[derive(Clone)]
pub(super) struct Targets {
    pub(super) engine: Engine,
}

#[tonic::async_trait]
impl TargetService for Targets {
    async fn list_targets(&self, request: Request<v1::ListTargetsRequest>) -> Result<Response<v1::ListTargetsResponse>, Status> {
        let scope = scope_of(&request);
        let targets = self
            .engine
            .targets()
            .iter()
            .filter(|(name, _)| scope.covers(name))
            .map(|(name, entry)| convert::target::target(name, entry))
            .collect();
        Ok(Response::new(v1::ListTargetsResponse { targets }))
    }

    async fn get_target(&self, request: Request<v1::GetTargetRequest>) -> Result<Response<v1::GetTargetResponse>, Status> {
        let asked = request.into_inner().name;
        let (name, entry) = self.engine.target(&asked).map_err(Fault::from)?;
        let engine = self.engine.clone();
        let (status, active, rights) = detached(async move {
            let (status, active) = engine.target_status(&asked).await?;
            let rights = engine.rights(&asked, "", &[]).await;
            Ok((status, active, rights))
        })
        .await?;
        Ok(Response::new(v1::GetTargetResponse {
            target: Some(convert::target::target(name, entry)),
            status: Some(convert::target::status(status, entry.target.capabilities(), &active, rights)),
        }))
    }

    async fn get_grants(&self, request: Request<v1::GetGrantsRequest>) -> Result<Response<v1::GetGrantsResponse>, Status> {
        let request = request.into_inner();
        let mut check = Check::default();
        let mut features = Vec::new();
        for (position, number) in request.features.iter().enumerate() {
            match convert::target::asked_feature(*number) {
                Some(feature) => features.push(feature),
                None => check.refuse(
                    format!("features[{position}]"),
                    format!("is {number}; expected a value of GrantFeature"),
                ),
            }
        }
        check.finish()?;
        let engine = self.engine.clone();
        let rights = detached(async move { engine.rights(&request.target, &request.role, &features).await }).await?;
        Ok(Response::new(convert::target::grants(rights)))
    }
}
