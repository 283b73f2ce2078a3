//! What is around a system while it is measured: a cloud, an identity for it, a port and a directory
//! on a real disk. Each run has its own, so no run begins with what another left.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloud_relay_sandbox::ca::{CertificateAuthority, DeviceIdentity, KeyFormat};
use cloud_relay_sandbox::cloud::{Bookkeeping, Cloud, CloudOptions};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::Outcome;
use crate::system::CLIENT_ID;

/// Where the data directories are: cargo's own place for such files, under `target/`.
pub(crate) const PARENT: &str = env!("CARGO_TARGET_TMPDIR");

/// See the module.
pub(crate) struct Setting {
    cloud: Cloud,
    identity: DeviceIdentity,
    dir: TempDir,
    listen: Held,
    status: Held,
}

/// A port that is kept from others while the system is down; nobody listens on it here.
struct Held {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Held {
    fn new() -> Outcome<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Held {
            address: socket.local_addr()?,
            _socket: socket,
        })
    }
}

impl Setting {
    pub(crate) async fn new() -> Outcome<Self> {
        let authority = Arc::new(CertificateAuthority::new("bench root")?);
        let identity = authority.issue_device(CLIENT_ID, KeyFormat::Pkcs8)?;
        let dir = tempfile::Builder::new()
            .prefix("figures-")
            .tempdir_in(PARENT)?;
        std::fs::create_dir(dir.path().join("data"))?;
        authority.write_root(&dir.path().join("root.pem"))?;
        let mut options = CloudOptions::new(authority);
        // mosquitto 2.0.11 has more than 100 publishes in flight under load, whatever max_inflight_messages
        // says; a cloud that closes the connection for that would measure nothing else
        options.rules.in_flight_max = None;
        options.bookkeeping = Bookkeeping::Ids;
        Ok(Setting {
            cloud: Cloud::start(options).await?,
            identity,
            dir,
            listen: Held::new()?,
            status: Held::new()?,
        })
    }

    /// The cloud: AWS's rules, but for the limit of publishes in flight.
    pub(crate) fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// The system's certificate and key.
    pub(crate) fn identity(&self) -> &DeviceIdentity {
        &self.identity
    }

    /// The root certificate that the cloud's certificate is to be verified against.
    pub(crate) fn root_file(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    /// Where the system keeps its messages.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where the system is to listen.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen.address
    }

    /// Where the system's status page is to be, if it has one.
    pub(crate) fn status(&self) -> SocketAddr {
        self.status.address
    }

    /// Writes a file for the system and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// The type of the file system that `path` is on, from `/proc/self/mounts`.
pub(crate) fn file_system_of(path: &Path) -> Outcome<String> {
    let path = path.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mounted_at = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        path.starts_with(place)
            .then(|| (place.len(), kind.to_owned()))
    };
    // of two at one place the later one is on top
    let innermost = mounts
        .lines()
        .filter_map(mounted_at)
        .max_by_key(|(length, _)| *length);
    let (_, kind) = innermost.ok_or("no mount for the data directory in /proc/self/mounts")?;
    Ok(kind)
}
