//! The Supervisor's part: it stops and starts the service.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{BalenaOptions, Push, Shared, SupervisorEvent, complete};
use crate::process::Environment;
use crate::relay::RelayProcess;

/// How long a service that ended by itself stays down, as Docker's first delay.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// How long an ended process is waited for: for ever, in effect.
const UNTIL_IT_ENDS: Duration = Duration::from_hours(24 * 365);

/// What re-creates the service.
pub(super) struct Supervisor {
    pub(super) shared: Weak<Shared>,
    pub(super) options: BalenaOptions,
    pub(super) address: String,
    pub(super) service: Arc<RelayProcess>,
    pub(super) applied: Environment,
}

impl Supervisor {
    /// Applies one target after the other, and starts a service that ended again.
    pub(super) async fn run(mut self, mut targets: mpsc::UnboundedReceiver<Environment>) {
        loop {
            tokio::select! {
                target = targets.recv() => {
                    let Some(mut target) = target else { return };
                    while self.options.push != Push::EachWrite && let Ok(newer) = targets.try_recv() {
                        target = newer;
                    }
                    if target != self.applied {
                        self.recreate(target).await;
                    }
                }
                () = self.ended(), if self.options.restart_ended => {
                    self.tell(SupervisorEvent::Ended);
                    tokio::time::sleep(RESTART_DELAY).await;
                    self.start().await;
                }
            }
        }
    }

    /// Resolves when the service has ended by itself.
    async fn ended(&self) {
        if self
            .service
            .process()
            .wait_for_exit(UNTIL_IT_ENDS)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    async fn recreate(&mut self, target: Environment) {
        match self
            .service
            .process()
            .terminate(self.options.stop_grace)
            .await
        {
            Ok(stopped) => self.tell(SupervisorEvent::Stopped(stopped)),
            // it had ended already
            Err(_) => self.tell(SupervisorEvent::Ended),
        }
        self.applied = target;
        self.start().await;
        if let Some(shared) = self.shared.upgrade() {
            shared.recreated.send_modify(|recreated| *recreated += 1);
        }
    }

    async fn start(&self) {
        let environment = complete(&self.options, &self.address, self.applied.clone());
        match self.service.start(&environment).await {
            Ok(()) => self.tell(SupervisorEvent::Started(
                self.applied.keys().cloned().collect(),
            )),
            Err(error) => self.tell(SupervisorEvent::Failed(error.to_string())),
        }
    }

    fn tell(&self, event: SupervisorEvent) {
        if let Some(shared) = self.shared.upgrade() {
            shared.tell(event);
        }
    }
}
