use std::net::SocketAddr;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

const PATIENT: Duration = Duration::from_secs(30);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads one request with a body of `Content-Length` bytes.
pub(in crate::provisioning) async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await.unwrap();
        assert_ne!(
            count, 0,
            "the client hung up in the middle of a request: {text:?}"
        );
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            if body.len() >= length.parse().unwrap() {
                return text;
            }
        }
    }
}

/// Answers one request with `answer` and returns the request.
async fn answer_once(answer: Vec<u8>) -> (SocketAddr, JoinHandle<String>) {
    let (listener, address) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        // The client may hang up once it has read enough.
        drop(stream.write_all(&answer).await);
        request
    });
    (address, server)
}

fn url(text: &str) -> HttpUrl {
    HttpUrl::parse(text).unwrap()
}

async fn post(url: &HttpUrl, timeout: Duration) -> Result<Answer, HttpError> {
    let request = Request {
        url,
        bearer: None,
        body: "{}",
        timeout,
    };
    Http::new().unwrap().post(&request).await
}

#[tokio::test]
async fn the_request_goes_out_byte_for_byte_as_the_contract_says() {
    let (address, server) =
        answer_once(b"HTTP/1.1 201 Created\r\ncontent-length: 14\r\n\r\ndevice created".to_vec())
            .await;
    let body = crate::provisioning::request::body("c0ffee", Some("relay"), None);
    let url = url(&format!("http://{address}/provision?token=t"));
    let request = Request {
        url: &url,
        bearer: None,
        body: &body,
        timeout: PATIENT,
    };
    let answer = Http::new().unwrap().post(&request).await.unwrap();
    assert_eq!(
        answer,
        Answer {
            status: 201,
            retry_after: None,
            body: "device created".to_owned()
        }
    );
    assert_eq!(
        server.await.unwrap(),
        format!(
            "POST /provision?token=t HTTP/1.1\r\n\
             content-type: application/json\r\n\
             cache-control: no-cache\r\n\
             accept: */*\r\n\
             host: {address}\r\n\
             content-length: 42\r\n\
             \r\n\
             {{\"uuid\":\"c0ffee\",\"balena_service\":\"relay\"}}"
        )
    );
}

#[tokio::test]
async fn a_bearer_key_goes_into_its_header() {
    let (address, server) = answer_once(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    let key = Secret::new("k3y");
    let url = url(&format!("http://{address}/v1/update"));
    let request = Request {
        url: &url,
        bearer: Some(&key),
        body: r#"{"force":false}"#,
        timeout: PATIENT,
    };
    assert_eq!(
        Http::new().unwrap().post(&request).await.unwrap().status,
        204
    );
    assert!(
        server
            .await
            .unwrap()
            .contains("\r\nauthorization: Bearer k3y\r\n")
    );
}

#[tokio::test]
async fn retry_after_is_read_in_seconds_and_a_date_is_passed_over() {
    for (value, expected) in [
        ("7", Some(Duration::from_secs(7))),
        (" 0 ", Some(Duration::ZERO)),
        ("Fri, 31 Dec 2027 23:59:59 GMT", None),
        ("-1", None),
    ] {
        let head = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n"
        );
        let (address, _server) = answer_once(head.into_bytes()).await;
        let answer = post(&url(&format!("http://{address}/")), PATIENT)
            .await
            .unwrap();
        assert_eq!(
            (answer.status, answer.retry_after),
            (429, expected),
            "{value}"
        );
    }
}

#[tokio::test]
async fn an_endless_body_is_read_up_to_the_limit_only() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n".to_vec();
    answer.resize(ANSWER_BYTES_MAX * 4, b'x');
    let (address, _server) = answer_once(answer).await;
    let answer = post(&url(&format!("http://{address}/")), PATIENT)
        .await
        .unwrap();
    assert_eq!(answer.body.len(), ANSWER_BYTES_MAX);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (address, _server) = answer_once(
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
            .to_vec(),
    )
    .await;
    assert_eq!(
        post(&url(&format!("http://{address}/")), PATIENT)
            .await
            .unwrap()
            .status,
        302
    );
}

#[tokio::test]
async fn failures_are_told_in_words_with_the_server_and_without_the_query() {
    let (closed, address) = listener().await;
    drop(closed);
    let error = post(&url(&format!("http://{address}/?token=t0k3n")), PATIENT)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("no connection to {address}: Connection refused")),
        "{text}"
    );

    // No label of a name may be longer than 63 bytes, so the resolver refuses without asking anyone.
    let name = "x".repeat(64);
    let error = post(&url(&format!("http://{name}/?token=t0k3n")), PATIENT)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        HttpError::Unresolved {
            authority: format!("{name}:80")
        }
    );

    let (address, _server) = answer_once(b"".to_vec()).await;
    let error = post(&url(&format!("http://{address}/?token=t0k3n")), PATIENT)
        .await
        .unwrap_err();
    assert!(matches!(error, HttpError::Broken { .. }), "{error:?}");
    assert!(!error.to_string().contains("t0k3n"), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_on() {
    let (listener, address) = listener().await;
    let error = post(
        &url(&format!("http://{address}/")),
        Duration::from_millis(50),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, HttpError::Timeout { .. }), "{error:?}");
    drop(listener);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_said_so() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (listener, address) = listener().await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config))
            .accept(stream)
            .await
            .map(drop)
    });
    let error = post(&url(&format!("https://{address}/")), PATIENT)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{address} cannot be trusted: its certificate comes from no authority that is publicly trusted"
        )
    );
    assert!(server.await.unwrap().is_err());
}
