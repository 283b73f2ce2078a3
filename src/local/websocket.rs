//! MQTT over WebSocket (MQTT 5, 6; RFC 6455), as a stream of bytes.
//!
//! Packets may span frames and share them, as the standard has it. Any path will do. A text frame ends the connection.
//! Whatever a frame announces, no more is allocated than the limits of packets allow.

#![expect(clippy::result_large_err, reason = "the library's own error type")]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_core::Stream as _;
use futures_sink::Sink as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::counters::Counters;
use super::limits::Limits;
use super::origins::Origins;

/// The subprotocols of MQTT since 3.1.1, and of 3.1.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// The largest frame that is sent, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// What is read at once. It is allocated for each connection.
const READ_BYTES: usize = 4 * 1024;

/// Answers the request of a client. One that is refused is told why.
pub(super) async fn accept(
    stream: TcpStream,
    origins: &Origins,
    limits: &Limits,
    counters: &Arc<Counters>,
) -> io::Result<ByteStream> {
    // A client may put a few packets into one message, but no more than one large one.
    let message_bytes_max = limits.packet_bytes_max + limits.buffer_bytes_max;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * FRAME_BYTES_MAX)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let judge = |request: &Request, response: Response| judge(origins, request, response);
    let accepted = tokio_tungstenite::accept_hdr_async_with_config(stream, judge, Some(config));
    let stream = accepted.await.map_err(io_error)?;
    Ok(ByteStream {
        stream,
        unread: Bytes::new(),
        counters: Arc::clone(counters),
    })
}

fn judge(
    origins: &Origins,
    request: &Request,
    mut response: Response,
) -> Result<Response, ErrorResponse> {
    let header = |name: &HeaderName| {
        let value = request.headers().get(name)?;
        // What is no text is no origin either.
        Some(value.to_str().unwrap_or_default())
    };
    let refuse = |status, why: &str| {
        let mut refusal = ErrorResponse::new(Some(why.to_owned()));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    if !origins.admit(header(&ORIGIN), header(&HOST)) {
        tracing::debug!(origin = ?header(&ORIGIN), "a page of a strange origin is refused");
        return refuse(
            StatusCode::FORBIDDEN,
            "pages of this origin may not connect; LOCAL_MQTT_WS_ORIGINS lists those that may\n",
        );
    }
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut offers = offers.iter().filter_map(|value| value.to_str().ok());
    let chosen = offers.find_map(|offer| {
        let mut offered = offer.split(',').map(str::trim);
        offered.find_map(|name| PROTOCOLS.into_iter().find(|own| *own == name))
    });
    let Some(protocol) = chosen else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "this is an MQTT broker: offer the subprotocol mqtt\n",
        );
    };
    let protocol = HeaderValue::from_static(protocol);
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(response)
}

/// The bytes in the binary frames of both directions.
#[derive(Debug)]
pub(super) struct ByteStream {
    stream: WebSocketStream<TcpStream>,
    /// Of the last message that came.
    unread: Bytes,
    counters: Arc<Counters>,
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            let message = ready!(Pin::new(&mut self.stream).poll_next(context));
            match message {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, "it sent a text frame");
                    return Poll::Ready(Err(error)); // MQTT5-6.0.0-1
                }
                // The library answers pings and the closing itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                None
                | Some(
                    Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed),
                ) => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    if matches!(error, Error::Capacity(_)) {
                        self.counters.packets_too_large.add(1);
                    }
                    return Poll::Ready(Err(io_error(error)));
                }
            }
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut stream = Pin::new(&mut self.stream);
        ready!(stream.as_mut().poll_ready(context)).map_err(io_error)?;
        let count = bytes.len().min(FRAME_BYTES_MAX);
        let frame = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        stream
            .start_send(Message::Binary(frame))
            .map_err(io_error)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        stream.poll_flush(context).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_close(context);
        ready!(closed).map_err(io_error)?;
        Pin::new(self.stream.get_mut()).poll_shutdown(context)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::Http(response) => {
            let why = format!("it was refused with status {}", response.status());
            io::Error::new(io::ErrorKind::PermissionDenied, why)
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}
