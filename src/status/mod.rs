//! What the relay shows of itself: a page, `/healthz`, `/metrics` and `/api/status`, all made from one [`Snapshot`].
//!
//! It runs on a thread of its own, with its own small runtime: whoever looks at the relay takes no time from
//! the task that relays, and a relay that is stuck can still say so. The thread reads handles that others
//! write; it changes nothing, and there is no request that does.
//!
//! Every limit is named: connections, live pages, the size and the time of a request. A port that is taken
//! costs the page, never the relay.

mod answer;
mod content;
mod door;
mod flow;
mod health;
mod heartbeat;
mod metrics;
mod observer;
mod page;
mod process;
mod server;
mod snapshot;

#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::thread;

use tokio_util::sync::CancellationToken;

pub(crate) use self::heartbeat::Heartbeat;
pub(crate) use self::observer::Sources;
#[cfg(test)]
pub(crate) use self::snapshot::Client;
pub(crate) use self::snapshot::{Health, Setup, Snapshot};

use self::door::Door;
use self::observer::Observer;
use self::server::Limits;
use crate::config::StatusConfig;

/// Where the thread and its listener come from.
#[derive(Debug)]
pub(crate) struct Status {
    listener: Option<TcpListener>,
    door: Door,
}

impl Status {
    /// Takes the port, if there is to be one. That it cannot be had is told and is no failure.
    pub(crate) fn bind(config: &StatusConfig) -> Self {
        Status {
            listener: config.listen.and_then(|address| bind(address, config)),
            door: Door::new(config.password.clone()),
        }
    }

    /// Watches and serves on a new thread until `stop`.
    pub(crate) fn start(self, sources: Sources, stop: CancellationToken) {
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    let observer = Observer::new(sources);
                    runtime.block_on(server::run(
                        self.listener,
                        self.door,
                        observer,
                        Limits::default(),
                        stop,
                    ));
                }
                Err(error) => tracing::warn!("no status page: {error}"),
            }
        };
        if let Err(error) = thread::Builder::new().name("status".to_owned()).spawn(work) {
            tracing::warn!("no status page: cannot start its thread: {error}");
        }
    }
}

fn bind(address: SocketAddr, config: &StatusConfig) -> Option<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()?, listener))
    });
    match bound {
        Ok((bound, listener)) => {
            tracing::info!("status page on http://{bound}/");
            if !bound.ip().is_loopback() && config.password.is_none() {
                tracing::warn!(
                    "STATUS_LISTEN={address} shows the status page to every network it is on; set STATUS_PASSWORD"
                );
            }
            Some(listener)
        }
        Err(error) => {
            tracing::warn!(
                "no status page: STATUS_LISTEN={address} cannot be listened on: {error}; \
                 choose another port, or off"
            );
            None
        }
    }
}
