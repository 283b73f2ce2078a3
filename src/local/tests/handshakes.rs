//! Does a handshake that hangs end in time, and hold up nobody? TLS and WebSocket, over real sockets, in real time.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use super::listening::{SOON, Served, served_at};
use super::websocket;
use super::wire::{Connect, PINGREQ, PINGRESP};
use super::*;
use crate::local::tls::Tls;
use crate::local::tls::tests::files;
use crate::local::{Door, Origins};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

fn limits() -> Limits {
    Limits {
        connect_timeout: CONNECT_TIMEOUT,
        ..Limits::default()
    }
}

async fn send_and_expect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    packet: &[u8],
    answer: &[u8],
) {
    stream.write_all(packet).await.unwrap();
    let mut read = vec![0; answer.len()];
    let reading = timeout(SOON, stream.read_exact(&mut read)).await;
    reading.unwrap().unwrap();
    assert_eq!(read, answer);
}

/// Connections that begin in each of these ways and go no further.
async fn hang(served: &Served, beginnings: &[&[u8]]) -> Vec<TcpStream> {
    let mut hanging = Vec::new();
    for beginning in beginnings {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        hanging.push(stream);
    }
    hanging
}

/// All of them are closed when their time is over, and counted.
async fn end_in_time(served: &Served, hanging: Vec<TcpStream>, since: std::time::Instant) {
    let count = hanging.len() as u64;
    for mut stream in hanging {
        let mut rest = Vec::new();
        let end = timeout(SOON, stream.read_to_end(&mut rest)).await;
        drop(end.expect("it is closed")); // politely or not
        assert!(since.elapsed() >= CONNECT_TIMEOUT, "it had its time");
    }
    let counters = &served.counters;
    assert_eq!(counters.handshakes_failed.get(), count);
    assert_eq!(counters.clients.count(), 1);
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_is_closed_in_time_and_others_are_served_meanwhile() {
    let (_directory, files) = files();
    let certificate = CertificateDer::from_pem_file(&files.cert_path).unwrap();
    let tls = Arc::new(Tls::new(files).unwrap());
    let served = served_at(|listener| Door::tls(listener, tls), limits()).await;

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));

    let since = std::time::Instant::now();
    // Nothing; the beginning of a record that announces a ClientHello of 512 bytes.
    let hanging = hang(&served, &[b"", b"\x16\x03\x01\x02\x00\x01\x00"]).await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = connector.connect(name, stream).await.unwrap();
    send_and_expect(&mut client, &Connect::clean("c").bytes(), &[0x20, 2, 0, 0]).await;
    end_in_time(&served, hanging, since).await;
    send_and_expect(&mut client, &PINGREQ, &PINGRESP).await;
}

#[tokio::test]
async fn a_websocket_request_that_hangs_is_closed_in_time_and_others_are_served_meanwhile() {
    let door = |listener| Door::websocket(listener, Origins::Own);
    let served = served_at(door, limits()).await;
    let since = std::time::Instant::now();
    let half: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\n";
    let hanging = hang(&served, &[b"", half]).await;
    let mut client = websocket::client(&served).await;
    let connect = Message::binary(Connect::clean("c").bytes());
    websocket::send(&mut client, connect).await;
    websocket::expect(&mut client, &[0x20, 2, 0, 0]).await;
    end_in_time(&served, hanging, since).await;
    websocket::send(&mut client, Message::binary(PINGREQ.to_vec())).await;
    websocket::expect(&mut client, &PINGRESP).await;
}
