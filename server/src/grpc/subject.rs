//! What a request is about: the target that it names, or that what it names belongs to. The row of the method says in which field that
//! stands; here it is read from the bytes of the message by the descriptors, the same for every method, and looked up. Called by the gate,
//! ahead of the service: for callers who are for some targets, and for calls that are recorded.

use std::collections::HashMap;

use dbkeep_engine::{Engine, EngineError, access::Scope};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};

use super::{
    policy::{Row, Subject},
    status::Fault,
};

/// Bytes before the message in the body of a call: a flag, and its length.
pub(super) const FRAME: usize = 5;

/// The messages of requests, by the path of their method.
pub(super) struct Requests {
    messages: HashMap<String, MessageDescriptor>,
}

/// The descriptors of the wire types cannot be read; a fault of the build.
#[derive(Debug, thiserror::Error)]
#[error("the descriptor set is damaged: {0}")]
pub struct DescriptorError(#[from] prost_reflect::DescriptorError);

impl Requests {
    /// # Errors
    /// Where the descriptor set is damaged.
    pub(super) fn new() -> Result<Self, DescriptorError> {
        let pool = DescriptorPool::decode(dbkeep_proto::FILE_DESCRIPTOR_SET)?;
        let mut messages = HashMap::new();
        for service in pool.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                messages.insert(path, method.input());
            }
        }
        Ok(Self { messages })
    }

    /// The target that a call is about; empty where it is about none, or about all that the caller sees.
    ///
    /// # Errors
    /// Where the caller is not for it: [`Fault::OutOfScope`] for what is about the whole installation, otherwise what would be answered if
    /// there were no such thing. [`Fault::RequestBroken`] where the request is no message of the method.
    pub(super) async fn target(&self, row: &Row, body: &[u8], scope: &Scope, engine: &Engine) -> Result<String, Fault> {
        match row.subject {
            Subject::Nothing => return Ok(String::new()),
            Subject::House if scope.is_all() => return Ok(String::new()),
            Subject::House => return Err(Fault::OutOfScope { method: row.method }),
            Subject::Listed(None) => return Ok(String::new()),
            _ => {}
        }
        let message = self.message(row, body)?;
        let named = |field: &str| text(&message, field);
        match row.subject {
            Subject::Nothing | Subject::House | Subject::Listed(None) => Ok(String::new()),
            Subject::Target(field) => of_target(&named(field), scope, engine),
            Subject::Planned { target, token } => {
                let (name, token) = (named(target), named(token));
                let planned = match name.is_empty() && !token.is_empty() {
                    true => found(engine.plan_target(&token).await, scope)?.unwrap_or_default(),
                    false => name,
                };
                of_target(&planned, scope, engine)
            }
            Subject::Listed(Some(field)) => {
                let name = named(field);
                if name.is_empty() {
                    return Ok(name);
                }
                of_target(&name, scope, engine)
            }
            Subject::Run(field) => of_run(&named(field), scope, engine, |id| EngineError::UnknownRun { id }).await,
            Subject::Backup(field) => of_run(&named(field), scope, engine, |id| EngineError::UnknownBackup { id }).await,
            Subject::Schedule(field) => of_schedule(&named(field), scope, engine).await,
            Subject::Rescheduled { id, target } => {
                let now = of_schedule(&named(id), scope, engine).await?;
                let then = named(target);
                if !then.is_empty() {
                    of_target(&then, scope, engine)?;
                }
                Ok(now)
            }
            Subject::Alert(field) => {
                let id = named(field);
                let alert = found(engine.alert(&id).await, scope)?;
                of(alert.map(|alert| alert.target), scope, || EngineError::UnknownAlert {
                    id: id.clone(),
                })
            }
            Subject::Delivery(field) => {
                let id = named(field);
                let delivery = found(engine.delivery(&id).await, scope)?;
                of(delivery.map(|delivery| delivery.envelope.notice.target), scope, || {
                    EngineError::UnknownDelivery { id: id.clone() }
                })
            }
        }
    }

    fn message(&self, row: &Row, body: &[u8]) -> Result<DynamicMessage, Fault> {
        let broken = |problem| Fault::RequestBroken { problem };
        let Some(descriptor) = self.messages.get(row.method) else {
            return Err(Fault::MethodNotAllowed {
                method: row.method.to_owned(),
            });
        };
        let (frame, message) = body.split_at_checked(FRAME).ok_or(broken("did not arrive as a whole"))?;
        let [compressed, length @ ..] = frame else {
            return Err(broken("did not arrive as a whole"));
        };
        if *compressed != 0 {
            return Err(broken("is compressed; expected it as it is"));
        }
        let length = <[u8; 4]>::try_from(length).map(u32::from_be_bytes).ok();
        if length.and_then(|length| usize::try_from(length).ok()) != Some(message.len()) {
            return Err(broken("did not arrive as a whole"));
        }
        DynamicMessage::decode(descriptor.clone(), message).map_err(|_| broken("is no message of the method"))
    }
}

/// The text at a path of fields; empty where one of them is absent.
fn text(message: &DynamicMessage, path: &str) -> String {
    let (field, rest) = path.split_once('.').map_or((path, None), |(field, rest)| (field, Some(rest)));
    match (message.get_field_by_name(field).as_deref(), rest) {
        (Some(Value::String(text)), None) => text.clone(),
        (Some(Value::Message(inner)), Some(rest)) => text(inner, rest),
        _ => String::new(),
    }
}

/// A target by the name that the request has; what the caller is not for is not there, and not among those that are known.
fn of_target(name: &str, scope: &Scope, engine: &Engine) -> Result<String, Fault> {
    let found = engine.target(name).map(|(name, _)| name.to_owned());
    let Some(seen) = scope.targets() else {
        // The service refuses what is not there, by its own words.
        return Ok(found.unwrap_or_else(|_| name.to_owned()));
    };
    match found {
        Ok(found) if scope.covers(&found) => Ok(found),
        _ if name.is_empty() => {
            let known = seen.iter().cloned().collect::<Vec<_>>().join(", ");
            Err(Fault::Engine(EngineError::InvalidField {
                field: "target",
                problem: format!("is empty; expected one of {known}"),
            }))
        }
        _ => Err(Fault::Engine(EngineError::UnknownTarget {
            name: name.to_owned(),
            known: seen.iter().cloned().collect(),
        })),
    }
}

/// What was found; `None` where it is not there, of which the service, or [`of`], tells by its own words. That the store does not answer
/// matters to those only who may not see everything.
fn found<T>(answer: Result<T, EngineError>, scope: &Scope) -> Result<Option<T>, Fault> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(EngineError::Store(error)) if !scope.is_all() => Err(Fault::Engine(EngineError::Store(error))),
        Err(_) => Ok(None),
    }
}

fn of(target: Option<String>, scope: &Scope, unknown: impl FnOnce() -> EngineError) -> Result<String, Fault> {
    match target {
        Some(target) if scope.covers(&target) => Ok(target),
        None if scope.is_all() => Ok(String::new()),
        _ => Err(Fault::Engine(unknown())),
    }
}

async fn of_run(id: &str, scope: &Scope, engine: &Engine, unknown: fn(String) -> EngineError) -> Result<String, Fault> {
    let run = found(engine.run(id).await, scope)?;
    of(run.map(|run| run.target), scope, || unknown(id.to_owned()))
}

async fn of_schedule(key: &str, scope: &Scope, engine: &Engine) -> Result<String, Fault> {
    if key.is_empty() {
        // Of no schedule in particular; the service refuses it, or shows what the caller sees.
        return Ok(String::new());
    }
    let schedule = found(engine.schedule(key).await, scope)?;
    of(schedule.map(|found| found.schedule.spec.target), scope, || {
        EngineError::UnknownSchedule { key: key.to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use prost_reflect::Kind;

    use super::*;
    use crate::grpc::policy::ROWS;

    /// Fields that rows speak of, and of what kind they are.
    fn fields(subject: Subject) -> Vec<&'static str> {
        match subject {
            Subject::Nothing | Subject::House | Subject::Listed(None) => Vec::new(),
            Subject::Target(field)
            | Subject::Listed(Some(field))
            | Subject::Run(field)
            | Subject::Backup(field)
            | Subject::Schedule(field)
            | Subject::Alert(field)
            | Subject::Delivery(field) => vec![field],
            Subject::Rescheduled { id, target } => vec![id, target],
            Subject::Planned { target, token } => vec![target, token],
        }
    }

    fn kind(message: &MessageDescriptor, path: &str) -> Option<Kind> {
        let (field, rest) = path.split_once('.').map_or((path, None), |(field, rest)| (field, Some(rest)));
        let kind = message.get_field_by_name(field)?.kind();
        match rest {
            None => Some(kind),
            Some(rest) => kind.as_message().and_then(|inner| super::tests::kind(inner, rest)),
        }
    }

    /// A row that names a field which is not there would let everybody through.
    #[test]
    fn every_field_that_a_row_names_is_a_text_of_its_request() {
        let requests = Requests::new().expect("descriptors");
        for row in ROWS.iter().filter(|row| row.rpc.is_some()) {
            let message = requests.messages.get(row.method).expect(row.method);
            for field in fields(row.subject) {
                assert!(matches!(kind(message, field), Some(Kind::String)), "{}: {field}", row.method);
            }
        }
    }

    /// A request that names a target, a run and so on must not pass as one that is about nothing.
    #[test]
    fn no_row_leaves_a_target_out() {
        let requests = Requests::new().expect("descriptors");
        for row in ROWS.iter().filter(|row| row.rpc.is_some()) {
            let message = requests.messages.get(row.method).expect(row.method);
            let names = ["target", "filter.target", "spec.target"]
                .into_iter()
                .filter(|path| kind(message, path).is_some());
            for path in names {
                assert!(
                    fields(row.subject).contains(&path) || row.subject == Subject::House,
                    "{} has {path}",
                    row.method
                );
            }
            // Whatever names one thing by its id looks up whose it is.
            if kind(message, "id").is_some() {
                assert!(
                    fields(row.subject).iter().any(|field| ["id", "target"].contains(field)) || row.subject == Subject::House,
                    "{} has id",
                    row.method
                );
            }
        }
    }
}
