//! The function as an HTTP server of its own: for tests, for the sandbox, and for those who host it
//! themselves. It speaks plain HTTP; TLS is a reverse proxy's part.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::balena::Balena;
use crate::handler::{self, Function};
use crate::iot::Iot;
use crate::request::BODY_BYTES_MAX;

/// How many connections are served at once; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until the future is dropped. Ends only if the listener fails.
pub async fn serve<I, B>(listener: TcpListener, function: Arc<Function<I, B>>) -> std::io::Error
where
    I: Iot + 'static,
    B: Balena + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => return error,
        };
        let function = Arc::clone(&function);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &function));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(tcp), service);
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended early: {error}");
            }
            drop(place);
        });
    }
}

async fn answer<I: Iot, B: Balena>(
    request: Request<Incoming>,
    function: &Function<I, B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    let answer = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => {
            let request = Request::from_parts(head, body.to_bytes().to_vec());
            function.answer(request).await
        }
        // too long, or cut off: then nobody reads the answer
        Ok(Err(_)) => handler::too_long(),
        // what came in time is not JSON
        Err(_elapsed) => function.answer(Request::from_parts(head, Vec::new())).await,
    };
    Ok(answer.map(|text| Full::new(Bytes::from(text))))
}
