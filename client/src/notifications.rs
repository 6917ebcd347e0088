//! `NotificationService`: the channels that carry notifications, a try of one, and what is on its way.
//!
//! Owns the typed methods over its RPCs and the builder of the list's request. Made by [`Client::notifications`].

use dbkeep_proto::v1::{
    Channel as NotificationChannel, Delivery, DeliveryFilter, DeliveryState, GetDeliveryRequest, ListChannelsRequest,
    ListDeliveriesRequest, ListDeliveriesResponse, RetryDeliveryRequest, TestChannelRequest, TestChannelResponse,
    notification_service_client::NotificationServiceClient,
};
use futures::{Stream, TryStreamExt as _};
use tonic::transport::Channel;

use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
};

/// Looks at notifications, and tries them.
///
/// ```no_run
/// # async fn example(client: dbkeep_client::Client) -> Result<(), dbkeep_client::Error> {
/// use dbkeep_client::{DeliveryQuery, proto::DeliveryState};
///
/// let notifications = client.notifications();
/// for dead in notifications.list_all(DeliveryQuery::default().state(DeliveryState::Dead)).await? {
///     println!("{}: {}", dead.channel, dead.last_error);
///     notifications.retry(dead.id).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Notifications {
    client: Client,
}

impl Notifications {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> NotificationServiceClient<Channel> {
        NotificationServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// The channels of the server, by name.
    ///
    /// # Errors
    /// None of its own.
    pub async fn channels(&self) -> Result<Vec<NotificationChannel>, Error> {
        let answer = retry::unary(&self.client, self.client.call_timeout(), ListChannelsRequest {}, |request| {
            let mut service = self.service();
            async move { service.list_channels(request).await }
        });
        Ok(answer.await?.channels)
    }

    /// Sends a notification over a channel now: to these recipients, or to the channel's own where there are none. The answer says whether
    /// the other side took it.
    ///
    /// # Errors
    /// [`Error::UnknownChannel`], [`Error::InvalidField`].
    pub async fn test(
        &self,
        channel: impl Into<String>,
        recipients: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<TestChannelResponse, Error> {
        let message = TestChannelRequest {
            channel: channel.into(),
            recipients: recipients.into_iter().map(Into::into).collect(),
        };
        // The server waits for the other side, as long as it does for a plan at most.
        retry::unary(&self.client, self.client.plan_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.test_channel(request).await }
        })
        .await
    }

    /// Deliveries, newest first; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub fn list(&self, query: DeliveryQuery) -> impl Stream<Item = Result<Delivery, Error>> + Send + use<> {
        let notifications = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = notifications.list_page(message.clone()).await?;
                for delivery in page.deliveries {
                    yield delivery;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All deliveries of a query, newest first. Mind their number; [`list`](Self::list) holds one page at a time.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_all(&self, query: DeliveryQuery) -> Result<Vec<Delivery>, Error> {
        self.list(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_page(&self, message: ListDeliveriesRequest) -> Result<ListDeliveriesResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.list_deliveries(request).await }
        })
        .await
    }

    /// One delivery.
    ///
    /// # Errors
    /// [`Error::UnknownDelivery`].
    pub async fn get(&self, id: impl Into<String>) -> Result<Delivery, Error> {
        let message = GetDeliveryRequest { id: id.into() };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_delivery(request).await }
        });
        answer.await?.delivery.ok_or(Error::Incomplete {
            missing: "GetDeliveryResponse.delivery",
        })
    }

    /// Makes a delivery that was given up due again, under the same id.
    ///
    /// # Errors
    /// [`Error::UnknownDelivery`], [`Error::DeliveryState`] where it was not given up.
    pub async fn retry(&self, id: impl Into<String>) -> Result<Delivery, Error> {
        let message = RetryDeliveryRequest { id: id.into() };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.retry_delivery(request).await }
        });
        answer.await?.delivery.ok_or(Error::Incomplete {
            missing: "RetryDeliveryResponse.delivery",
        })
    }
}

/// Which deliveries to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct DeliveryQuery {
    message: ListDeliveriesRequest,
}

impl DeliveryQuery {
    /// Only deliveries in this state.
    pub fn state(mut self, state: DeliveryState) -> Self {
        self.filter().set_state(state);
        self
    }

    /// Only deliveries over this channel.
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.filter().channel = name.into();
        self
    }

    /// Only deliveries about this run.
    pub fn run(mut self, id: impl Into<String>) -> Self {
        self.filter().run_id = id.into();
        self
    }

    /// Deliveries fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, deliveries: u32) -> Self {
        self.message.page_size = deliveries;
        self
    }

    fn filter(&mut self) -> &mut DeliveryFilter {
        self.message.filter.get_or_insert_default()
    }
}
