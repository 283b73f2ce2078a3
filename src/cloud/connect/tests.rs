//! Why there is no connection: is it told in words that the owner can act on?

use std::net::Ipv4Addr;

use rustls::Error as TlsError;
use tokio::net::{TcpListener, TcpSocket};

use super::*;

/// Whose fault it is, and the words that the owner can act on.
fn says(class: &str, error: &ConnectError, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{class}: {word:?} is not in {text:?}");
    }
}

#[test]
fn what_the_tls_handshake_fails_of_is_told_apart() {
    let invalid = TlsError::InvalidCertificate;
    let not_active = ["device's certificate", "active in this account and region"];
    let endpoint = ["AWS_DATA_ENDPOINT"];
    for (class, error, words) in [
        (
            "wrong endpoint",
            invalid(CertificateError::UnknownIssuer),
            &endpoint[..],
        ),
        (
            "wrong endpoint",
            invalid(CertificateError::NotValidForName),
            &endpoint,
        ),
        (
            "wrong endpoint",
            TlsError::AlertReceived(AlertDescription::UnrecognisedName),
            &["AWS_DATA_ENDPOINT", "region"],
        ),
        (
            "wrong port",
            TlsError::AlertReceived(AlertDescription::NoApplicationProtocol),
            &["AWS_PORT"],
        ),
        (
            "clock wrong",
            invalid(CertificateError::NotValidYet),
            &["not valid yet at this device's time"],
        ),
        (
            "clock wrong",
            invalid(CertificateError::Expired),
            &["is the clock right?"],
        ),
        (
            "certificate not active",
            TlsError::AlertReceived(AlertDescription::CertificateUnknown),
            &not_active,
        ),
        (
            "certificate not active",
            TlsError::AlertReceived(AlertDescription::CertificateRevoked),
            &not_active,
        ),
    ] {
        let error = tls_error("data".to_owned(), &io::Error::other(error));
        says(class, &error, words);
    }
    // AWS IoT Core's answer to a certificate that it does not know, and to a name of another account.
    let closed = tls_error("data".to_owned(), &io::ErrorKind::ConnectionReset.into());
    let expected = [
        "certificate active",
        "iot:Connect",
        "AWS_DATA_ENDPOINT",
        "region",
    ];
    says("closed", &closed, &expected);
}

#[test]
fn what_connack_refuses_is_told_apart() {
    let policy = ["certificate active", "iot:Connect"];
    let quota = ["quota", "tried again"];
    for (version, class, code, words) in [
        (MqttVersion::V311, "policy missing", 5, &policy[..]),
        (MqttVersion::V5, "policy missing", 0x87, &policy),
        (MqttVersion::V311, "quota", 3, &quota),
        (MqttVersion::V5, "quota", 0x97, &quota),
        (MqttVersion::V5, "quota", 0x9F, &quota),
        (MqttVersion::V5, "quota", 0x89, &quota),
        (
            MqttVersion::V311,
            "version",
            1,
            &["does not speak MQTT 3.1.1"],
        ),
        (MqttVersion::V5, "version", 0x84, &["does not speak MQTT 5"]),
        (
            MqttVersion::V311,
            "other",
            2,
            &["client identifier rejected"],
        ),
    ] {
        let bytes = match version {
            MqttVersion::V311 => vec![0x20, 2, 0, code],
            MqttVersion::V5 => vec![0x20, 3, 0, code, 0],
        };
        let mut bytes = BytesMut::from(bytes.as_slice());
        let answer = packet::read(version, &mut bytes).unwrap();
        let Some(Answer::Connected(Err(refusal))) = answer else {
            panic!("{class}: {answer:?}");
        };
        let error = refused("data".to_owned(), version, refusal);
        says(class, &error, words);
        let may_be_the_will = ["policy missing", "other"].contains(&class);
        assert_eq!(error.accuses_will(), may_be_the_will, "{class}");
    }
}

/// Long enough for the loopback interface, short enough for a test.
const PATIENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_address_that_swallows_packets_does_not_keep_the_next_from_being_tried() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any).unwrap();
    let swallowing = socket.listen(1).unwrap();
    let silent = swallowing.local_addr().unwrap();
    // Nobody accepts: once its queue is full, the system drops whoever knocks.
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(PATIENCE, TcpStream::connect(silent)).await {
        queued.push(stream.unwrap());
    }
    let answering = TcpListener::bind(any).await.unwrap();
    let good = answering.local_addr().unwrap();

    let stream = first_to_answer([silent, good].into_iter(), PATIENCE).await;
    assert_eq!(stream.unwrap().peer_addr().unwrap(), good);
    let failure = first_to_answer([silent].into_iter(), PATIENCE).await;
    assert!(failure.unwrap_err().starts_with("no answer"));
}
