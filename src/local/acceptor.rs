//! Where clients come in: at which doors, how many, and how often from one address. What comes then is not its business.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::callers::{Callers, Refused};
use super::counters::Counters;
use super::limits::Limits;
use super::origins::Origins;
use super::tls::Tls;
use super::transport::Transport;

/// Where clients come in.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    transport: Transport,
}

impl Door {
    /// For MQTT over TCP.
    pub fn plain(listener: TcpListener) -> Self {
        Door {
            listener,
            transport: Transport::Tcp,
        }
    }

    /// For MQTT over TLS.
    pub fn tls(listener: TcpListener, tls: Arc<Tls>) -> Self {
        Door {
            listener,
            transport: Transport::Tls(tls),
        }
    }

    /// For MQTT over WebSocket, from pages of these origins.
    pub fn websocket(listener: TcpListener, origins: Origins) -> Self {
        Door {
            listener,
            transport: Transport::WebSocket(Arc::new(origins)),
        }
    }
}

/// A connection that may be served.
pub(super) struct Arrival {
    pub(super) transport: Transport,
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// Its place, given back when it is dropped.
    pub(super) place: Place,
}

/// Accepts connections at every door, and tells of a burst of refusals once.
pub(super) struct Acceptor {
    doors: Vec<Door>,
    /// The door that is looked at first, so that none can starve the others.
    first: usize,
    callers: Arc<Mutex<Callers>>,
    failing: bool,
}

impl Acceptor {
    pub(super) fn new(doors: Vec<Door>) -> Self {
        Acceptor {
            doors,
            first: 0,
            callers: Arc::default(),
            failing: false,
        }
    }

    /// The next connection that is let in, while `connections` are served.
    pub(super) async fn arrival(
        &mut self,
        connections: usize,
        limits: &Limits,
        counters: &Counters,
    ) -> Arrival {
        loop {
            let (transport, stream, peer) = self.accept(limits).await;
            match self.admit(&transport, peer.ip(), connections, limits) {
                Ok(place) => {
                    return Arrival {
                        transport,
                        stream,
                        peer,
                        place,
                    };
                }
                Err(Refused::TooOften) => {
                    counters.connects_too_often.add(1);
                    let limit = limits.connects_per_s_max;
                    tracing::warn!(%peer, limit, "an address connects too often, and some of its connections are closed: does a client there connect again and again?");
                }
                Err(Refused::AddressHasMany) => {
                    counters.connections_refused.add(1);
                    let limit = limits.address_connections_max;
                    tracing::warn!(%peer, limit, "too many connections from one address; refusing more from it until some end");
                }
                Err(Refused::TooMany) => {
                    counters.connections_refused.add(1);
                    let limit = limits.connections_max;
                    tracing::warn!(%peer, limit, "too many connections; refusing until some end");
                }
            }
        }
    }

    fn admit(
        &self,
        transport: &Transport,
        address: IpAddr,
        connections: usize,
        limits: &Limits,
    ) -> Result<Place, Refused> {
        /// What a TLS handshake costs, in connections without.
        const TLS_COST: u32 = 5;
        if connections >= limits.connections_max {
            return Err(Refused::TooMany);
        }
        let cost = match transport {
            Transport::Tls(_) => TLS_COST,
            Transport::Tcp | Transport::WebSocket(_) => 1,
        };
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.admit(address, cost, limits, Instant::now())?;
        let callers = Arc::clone(&self.callers);
        Ok(Place { callers, address })
    }

    /// The next connection. Errors (usually too few file descriptors) pass: they are waited out.
    async fn accept(&mut self, limits: &Limits) -> (Transport, TcpStream, SocketAddr) {
        loop {
            let accepted = poll_fn(|context| {
                let (before, after) = self.doors.split_at(self.first.min(self.doors.len()));
                for door in after.iter().chain(before) {
                    if let Poll::Ready(accepted) = door.listener.poll_accept(context) {
                        return Poll::Ready((door.transport.clone(), accepted));
                    }
                }
                Poll::Pending
            });
            let (transport, accepted) = accepted.await;
            self.first = (self.first + 1) % self.doors.len().max(1);
            match accepted {
                Ok((stream, peer)) => {
                    self.failing = false;
                    return (transport, stream, peer);
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "cannot accept connections; local clients wait, and it is tried again by itself");
                    }
                    sleep(limits.accept_pause).await;
                }
            }
        }
    }
}

/// The place of a connection among those of its address.
pub(super) struct Place {
    callers: Arc<Mutex<Callers>>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.left(self.address);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_of_the_network_has_so_many_places_and_the_device_all_that_are_left() {
        let limits = Limits {
            connections_max: 4,
            address_connections_max: 2,
            ..Limits::default()
        };
        let acceptor = Acceptor::new(Vec::new());
        let admit = |address: Ipv4Addr, served| {
            acceptor.admit(&Transport::Tcp, address.into(), served, &limits)
        };
        let stranger = Ipv4Addr::new(10, 0, 0, 1);
        let first = admit(stranger, 0).expect("it may have two");
        let _second = admit(stranger, 1).expect("it may have two");
        assert_eq!(admit(stranger, 2).err(), Some(Refused::AddressHasMany));
        let _own = [2, 3].map(|served| admit(Ipv4Addr::LOCALHOST, served).expect("a place"));
        let full = admit(Ipv4Addr::LOCALHOST, 4);
        assert_eq!(full.err(), Some(Refused::TooMany));
        drop(first);
        assert!(admit(stranger, 3).is_ok());
    }
}
