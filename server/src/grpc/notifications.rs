//! `NotificationService`: channels, a try of one, and what is on its way. Called by tonic.

use dbkeep_engine::{
    Engine,
    model::{
        RunId,
        notice::{Delivery, DeliveryId},
    },
};
use dbkeep_proto::v1::{self, notification_service_server::NotificationService};
use tonic::{Request, Response, Status};

use super::{
    convert::notification as convert,
    detached,
    gate::{caller_of, scope_of},
    page::{Pages, seen},
    validate::Check,
};

/// The service.
#[derive(Clone)]
pub(super) struct Notifications {
    pub(super) engine: Engine,
}

#[tonic::async_trait]
impl NotificationService for Notifications {
    async fn list_channels(
        &self,
        _request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        Ok(Response::new(v1::ListChannelsResponse {
            channels: self.engine.channels().into_iter().map(convert::channel).collect(),
        }))
    }

    async fn test_channel(&self, request: Request<v1::TestChannelRequest>) -> Result<Response<v1::TestChannelResponse>, Status> {
        let caller = caller_of(&request);
        let v1::TestChannelRequest { channel, recipients } = request.into_inner();
        let mut check = Check::default();
        check.present("channel", &channel, "the name of a channel");
        check.finish()?;
        let engine = self.engine.clone();
        let outcome = detached(async move { engine.test_channel(&channel, &recipients, &caller).await }).await?;
        Ok(Response::new(convert::tested(outcome)))
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let scope = scope_of(&request);
        let request = request.into_inner();
        let wire = request.filter.unwrap_or_default();
        let pages = Pages::of("deliveries", &wire);
        let mut check = Check::default();
        let size = check.page_size(request.page_size);
        // Page tokens hold the id of the last entry, whatever kind of entry it is.
        let before = pages.after(&request.page_token, &mut check).map(|id| DeliveryId(id.0));
        let filter = convert::filter(wire, &mut check);
        check.finish()?;
        let fetch = |before, limit| {
            let (engine, filter) = (self.engine.clone(), filter.clone());
            detached(async move { engine.deliveries(&filter, before, limit).await })
        };
        let id = |delivery: &Delivery| delivery.id;
        let mut deliveries = seen(size, before, fetch, id, |delivery| {
            scope.covers(&delivery.envelope.notice.target)
        })
        .await?;
        let next_page_token = pages.cut(&mut deliveries, size, |delivery| RunId(delivery.id.0));
        Ok(Response::new(v1::ListDeliveriesResponse {
            deliveries: deliveries.into_iter().map(convert::delivery).collect(),
            next_page_token,
        }))
    }

    async fn get_delivery(&self, request: Request<v1::GetDeliveryRequest>) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        let id = request.into_inner().id;
        let mut check = Check::default();
        check.present("id", &id, "the id of a delivery");
        check.finish()?;
        let engine = self.engine.clone();
        let delivery = detached(async move { engine.delivery(&id).await }).await?;
        Ok(Response::new(v1::GetDeliveryResponse {
            delivery: Some(convert::delivery(delivery)),
        }))
    }

    async fn retry_delivery(
        &self,
        request: Request<v1::RetryDeliveryRequest>,
    ) -> Result<Response<v1::RetryDeliveryResponse>, Status> {
        let caller = caller_of(&request);
        let id = request.into_inner().id;
        let mut check = Check::default();
        check.present("id", &id, "the id of a delivery");
        check.finish()?;
        let engine = self.engine.clone();
        let delivery = detached(async move { engine.retry_delivery(&id, &caller).await }).await?;
        Ok(Response::new(v1::RetryDeliveryResponse {
            delivery: Some(convert::delivery(delivery)),
        }))
    }
}
