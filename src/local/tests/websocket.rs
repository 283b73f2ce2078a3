//! MQTT over WebSocket, over real sockets: frames, and who may open one. The client is the library's own; `tests/` has
//! a foreign one.

use std::time::Duration;

use futures_core::Stream;
use futures_sink::Sink;
use std::future::poll_fn;
use std::pin::Pin;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::listening::{SOON, Served, served_at};
use super::wire::{Connect, PINGREQ, PINGRESP};
use super::*;
use crate::local::{Door, Origins};

async fn served() -> Served {
    let door = |listener| Door::websocket(listener, Origins::Own);
    served_at(door, Limits::default()).await
}

pub(super) type Client = WebSocketStream<TcpStream>;

/// Asks with these headers.
async fn ask(served: &Served, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
    let stream = TcpStream::connect(served.address).await.unwrap();
    let url = format!("ws://{}/any/path", served.address);
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let asked = tokio_tungstenite::client_async(request, stream);
    let (client, response) = timeout(SOON, asked).await.unwrap()?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    Ok(client)
}

pub(super) async fn client(served: &Served) -> Client {
    let offer = ("sec-websocket-protocol", "other, mqtt");
    ask(served, &[offer]).await.unwrap()
}

pub(super) async fn send(client: &mut Client, message: Message) {
    let mut client = Pin::new(client);
    client.as_mut().start_send(message).unwrap();
    poll_fn(|context| client.as_mut().poll_flush(context))
        .await
        .unwrap();
}

async fn next(client: &mut Client) -> Option<Result<Message, Error>> {
    let next = poll_fn(|context| Pin::new(&mut *client).poll_next(context));
    timeout(SOON, next).await.unwrap()
}

pub(super) async fn expect(client: &mut Client, packet: &[u8]) {
    let message = next(client).await.unwrap().unwrap();
    assert_eq!(message, Message::binary(packet.to_vec()));
}

/// The connection ends, whether politely or not.
async fn expect_end(client: &mut Client) {
    let end = next(client).await;
    assert!(
        matches!(end, None | Some(Err(_) | Ok(Message::Close(_)))),
        "{end:?}"
    );
}

#[tokio::test]
async fn packets_span_frames_and_share_them() {
    let served = served().await;
    let mut client = client(&served).await;
    for byte in Connect::clean("c").bytes() {
        send(&mut client, Message::binary(vec![byte])).await;
    }
    expect(&mut client, &[0x20, 2, 0, 0]).await;
    send(&mut client, Message::binary([PINGREQ, PINGREQ].concat())).await;
    expect(&mut client, &[PINGRESP, PINGRESP].concat()).await;
    send(&mut client, Message::Ping("p".into())).await;
    assert_eq!(
        next(&mut client).await.unwrap().unwrap(),
        Message::Pong("p".into())
    );
    assert_eq!(served.counters.clients.count(), 1);
}

#[tokio::test]
async fn text_and_frames_that_are_too_large_end_the_connection_and_no_other() {
    let served = served().await;
    let mut other = client(&served).await;
    send(&mut other, Message::binary(Connect::clean("other").bytes())).await;
    expect(&mut other, &[0x20, 2, 0, 0]).await;
    let too_large = vec![0; 2 * Limits::default().packet_bytes_max + 1];
    for bad in [Message::text("hello"), Message::binary(too_large)] {
        let mut client = client(&served).await;
        send(&mut client, Message::binary(Connect::clean("c").bytes())).await;
        expect(&mut client, &[0x20, 2, 0, 0]).await;
        // The broker may close before all of it is sent.
        let sending = timeout(Duration::from_secs(20), async {
            let mut client = Pin::new(&mut client);
            client.as_mut().start_send(bad).ok();
            poll_fn(|context| client.as_mut().poll_flush(context))
                .await
                .ok();
        });
        sending.await.unwrap();
        expect_end(&mut client).await;
    }
    send(&mut other, Message::binary(PINGREQ.to_vec())).await;
    expect(&mut other, &PINGRESP).await;
    assert_eq!(served.counters.packets_too_large.get(), 1);
}

#[tokio::test]
async fn pages_of_strangers_and_other_protocols_are_refused_and_counted() {
    let served = served().await;
    let mqtt = ("sec-websocket-protocol", "mqtt");
    for (headers, status) in [
        (&[mqtt, ("origin", "https://evil.example")][..], 403),
        (&[mqtt, ("origin", "null")], 403),
        (&[("sec-websocket-protocol", "chat")], 400),
        (&[], 400),
    ] {
        match ask(&served, headers).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status, "{headers:?}"),
            other => panic!("{headers:?}: {other:?}"),
        }
    }
    assert_eq!(served.counters.handshakes_failed.get(), 4);
    // A page that this device serves on another port.
    ask(&served, &[mqtt, ("origin", "http://127.0.0.1:8080")])
        .await
        .unwrap();
}

#[tokio::test]
async fn one_websocket_too_many_is_closed_and_a_free_place_is_given_again() {
    let limits = Limits {
        websockets_max: 1,
        ..Limits::default()
    };
    let served = served_at(|listener| Door::websocket(listener, Origins::Own), limits).await;
    let mqtt = [("sec-websocket-protocol", "mqtt")];
    let first = client(&served).await;
    assert!(ask(&served, &mqtt).await.is_err());
    assert_eq!(served.counters.connections_refused.get(), 1);
    drop(first);
    // The place is free when the task has ended, which is not seen from here: ask until it is.
    let admitted = async { while ask(&served, &mqtt).await.is_err() {} };
    timeout(SOON, admitted).await.unwrap();
}
