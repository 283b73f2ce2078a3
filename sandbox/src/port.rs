//! A port on 127.0.0.1 that stays one's own while nobody listens on it.
//!
//! A program that is killed and started again must find its port free: the system would otherwise
//! hand it to any connection that another test makes meanwhile. A socket that is bound but does not
//! listen keeps it; Linux lets a second socket with `SO_REUSEADDR` listen beside it, and Rust's and
//! mosquitto's listeners set that. Connecting to a port that is only reserved is refused.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A reserved port; dropping it gives the port up.
#[derive(Debug)]
pub struct ReservedPort {
    addr: SocketAddr,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// Reserves a free port.
    pub fn new() -> io::Result<Self> {
        Self::at(0)
    }

    /// Reserves `port`; 0 takes a free one.
    pub fn at(port: u16) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Ok(ReservedPort {
            addr: socket.local_addr()?,
            _socket: socket,
        })
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_refuses_connections_until_somebody_listens() {
        let port = ReservedPort::new().unwrap();
        assert!(TcpStream::connect(port.addr()).await.is_err());
        for _ in 0..2 {
            let _listener = TcpListener::bind(port.addr()).await.unwrap();
            TcpStream::connect(port.addr()).await.unwrap();
        }
    }
}
