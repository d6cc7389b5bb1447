//! A call through the routers: attempts one after the other, and what is known when they have failed.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use shoal_model::ErrorKind;
use shoal_proto::status::from_status;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// Time that a client gives an operation, all attempts together.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);
/// Time for one of them: a router that stands still must not take all of it.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(40);

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// Whether no attempt can have had an effect.
    pub(crate) is_certain: bool,
    /// Of the last attempt.
    pub(crate) text: String,
}

/// Sends `message` through one router after the other, beginning with the one at `first`, until one answers or time is out.
/// What writes carries the name of its operation, so that all attempts are one.
///
/// Errors: no answer, or one that no repetition changes.
pub(crate) async fn call<Q: Clone, A, F>(
    routers: &[Channel],
    first: usize,
    message: Q,
    send: impl Fn(Channel, Request<Q>) -> F,
) -> Result<A, Trouble>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let ends_at = Instant::now() + TIMEOUT;
    let mut is_certain = true;
    for attempt in first.. {
        let within = ATTEMPT.min(ends_at.saturating_duration_since(Instant::now()));
        let mut request = Request::new(message.clone());
        request.set_timeout(within);
        let channel = routers[attempt % routers.len()].clone();
        let text = match timeout(within, send(channel, request)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => {
                is_certain &= has_no_effect(&status);
                if is_final(&status) {
                    return Err(Trouble { is_certain, text: words(&status) });
                }
                words(&status)
            }
            Err(_) => {
                is_certain = false;
                "no answer in time".to_owned()
            }
        };
        if Instant::now() + PAUSE >= ends_at {
            return Err(Trouble { is_certain, text });
        }
        sleep(PAUSE).await;
    }
    unreachable!("attempts are bounded by the time")
}

/// Whether the attempt that ended so certainly changed nothing: nobody listened, or the router refused the request
/// before it sent anything on. A refusal by a shard could be told after another shard had written; none is told as
/// one of these, as what we send is well-formed.
fn has_no_effect(status: &Status) -> bool {
    refused(status) || (status.source().is_none() && is_final(status))
}

/// Whether nobody listened: then nothing was sent.
fn refused(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether no repetition would fare better.
fn is_final(status: &Status) -> bool {
    use ErrorKind::{AlreadyExists, Invalid, NotFound, Precondition, Unimplemented};
    status.code() != Code::Unknown
        && matches!(from_status(status).kind, Invalid | NotFound | AlreadyExists | Precondition | Unimplemented)
}

fn words(status: &Status) -> String {
    let text: String = status.message().chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(160).collect();
    format!("{:?}: {text}", status.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::InputError;
    use shoal_proto::status::to_status;

    #[test]
    fn only_what_cannot_have_happened_is_certain() {
        let io = |kind| {
            let mut status = Status::unavailable("transport error");
            status.set_source(std::sync::Arc::new(io::Error::from(kind)));
            status
        };
        for (name, status, want) in [
            ("nobody listened", io(io::ErrorKind::ConnectionRefused), true),
            ("the connection broke", io(io::ErrorKind::ConnectionReset), false),
            ("the field is wrong", to_status(&InputError::new("points", "is wrong")), true),
            ("too much work, perhaps of one shard of several", Status::resource_exhausted("back off"), false),
            ("out of time", Status::deadline_exceeded("late"), false),
            ("a shard has no leader", Status::unavailable("1 of 2 shards answered"), false),
            ("who knows", Status::unknown("?"), false),
        ] {
            assert_eq!(has_no_effect(&status), want, "{name}");
        }
    }
}
