//! Asking the balena Supervisor for an update, so that pushed credentials arrive sooner.
//!
//! The Supervisor looks for changes every 15 minutes by itself; this only shortens the wait, so no
//! failure here is more than a line in the log.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::http::{Answer, HttpError, Request, Transport};
use super::request::excerpt;
use crate::backoff::Backoff;
use crate::config::Supervisor;

/// How long the Supervisor may take to answer; it is on this device.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait between the first and the second time of asking.
const ASK_AGAIN_BASE: Duration = Duration::from_mins(1);
/// The longest wait between two times: the Supervisor's own rhythm.
const ASK_AGAIN_CEILING: Duration = Duration::from_mins(15);

/// What became of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// The Supervisor is looking for an update.
    Accepted,
    /// A service holds an update lock.
    Locked,
    /// Anything else, in words.
    Failed(String),
}

/// Asks for updates, ever more seldom. When it is next due outlives a cancelled wait.
pub(super) struct Updates<'a, T> {
    transport: &'a T,
    supervisor: Option<&'a Supervisor>,
    backoff: Backoff,
    due: Option<Instant>,
    told_about_label: bool,
}

impl<'a, T: Transport> Updates<'a, T> {
    pub(super) fn new(transport: &'a T, supervisor: Option<&'a Supervisor>) -> Self {
        Updates {
            transport,
            supervisor,
            backoff: Backoff::new(ASK_AGAIN_BASE, ASK_AGAIN_CEILING),
            due: None,
            told_about_label: false,
        }
    }

    /// Asks, `first` from now unless it is due already, and again and again. May be cancelled.
    pub(super) async fn keep_asking(&mut self, first: Duration) -> Infallible {
        loop {
            let due = *self.due.get_or_insert_with(|| Instant::now() + first);
            sleep_until(due).await;
            let Some(supervisor) = self.supervisor else {
                self.tell_about_label();
                std::future::pending().await
            };
            self.due = Some(Instant::now() + self.backoff.next_delay(fastrand::f64()));
            report(&self.ask(supervisor).await, supervisor.force_update);
        }
    }

    async fn ask(&self, supervisor: &Supervisor) -> Asked {
        let body = if supervisor.force_update {
            r#"{"force":true}"#
        } else {
            r#"{"force":false}"#
        };
        let answer = self
            .transport
            .post(&Request {
                url: &supervisor.address.with_path("/v1/update"),
                bearer: Some(&supervisor.key),
                body,
                timeout: ASK_TIMEOUT,
            })
            .await;
        classify(answer, supervisor)
    }

    fn tell_about_label(&mut self) {
        if !std::mem::replace(&mut self.told_about_label, true) {
            tracing::info!(
                "with the label io.balena.features.supervisor-api: '1' on this service the relay \
                 could ask the Supervisor for an update; without it the Supervisor looks for one \
                 every 15 minutes"
            );
        }
    }
}

fn classify(answer: Result<Answer, HttpError>, supervisor: &Supervisor) -> Asked {
    match answer {
        Ok(answer) => match answer.status {
            200..=299 => Asked::Accepted,
            423 => Asked::Locked,
            401 | 403 => Asked::Failed(format!(
                "it does not take BALENA_SUPERVISOR_API_KEY ({})",
                answer.status
            )),
            status => {
                let mask = |text: &str| text.replace(supervisor.key.expose(), "***");
                let text = excerpt(&answer.body, mask);
                Asked::Failed(format!("it answers {status}: {text}"))
            }
        },
        Err(error) => Asked::Failed(error.to_string()),
    }
}

fn report(asked: &Asked, force: bool) {
    match asked {
        Asked::Accepted => tracing::info!(force, "asked the Supervisor to look for an update"),
        Asked::Locked => tracing::warn!(
            "the Supervisor cannot update because a service holds an update lock; asking again \
             later (SUPERVISOR_FORCE_UPDATE=1 would override the lock)"
        ),
        Asked::Failed(why) => {
            tracing::warn!(
                "the Supervisor did not take the request for an update: {why}; it is asked again, and looks for one \
                 every 15 minutes by itself"
            );
        }
    }
}
