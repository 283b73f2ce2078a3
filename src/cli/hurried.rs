//! A connection to the relay beside this process, on which everything together has an end in sight: the system's own
//! time-outs are for each read, and one that trickles could take for ever.

use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// See the module. A plain blocking socket: what asks one question needs no runtime.
#[derive(Debug)]
pub(super) struct Hurried {
    stream: TcpStream,
    began: Instant,
    timeout: Duration,
}

impl Hurried {
    /// Connects; this and all that is read and written later has `timeout` together.
    pub(super) fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let began = Instant::now();
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        Ok(Hurried {
            stream,
            began,
            timeout,
        })
    }

    /// Writes all of `bytes`. They are few: they fit into the system's buffer, so that it is one write.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write_all(bytes).map_err(named)
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.timeout.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

impl Read for Hurried {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(named)
    }
}

/// The system calls the end of a time-out "resource temporarily unavailable".
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}
