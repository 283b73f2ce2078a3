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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

use crate::balena::Balena;
use crate::handler::{self, Function};
use crate::iot::Iot;
use crate::request::BODY_BYTES_MAX;

/// How many connections are served at once, together with requests whose client has hung up; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after a connection that could not be accepted: out of file handles, it will fail at once again.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves until the future is dropped.
pub async fn serve<I, B>(listener: TcpListener, function: Arc<Function<I, B>>) -> Infallible
where
    I: Iot + 'static,
    B: Balena + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = free(&places).await;
        let (tcp, _) = accepted(|| listener.accept()).await;
        tokio::spawn(converse(tcp, Arc::clone(&function), place));
    }
}

/// A place, once one is free.
async fn free(places: &Arc<Semaphore>) -> Arc<OwnedSemaphorePermit> {
    let place = Arc::clone(places).acquire_owned().await;
    Arc::new(place.expect("invariant: nobody closes the semaphore"))
}

/// One request, one answer. The place is free when both are done with: the connection and the work.
async fn converse<I, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    function: Arc<Function<I, B>>,
    place: Arc<OwnedSemaphorePermit>,
) where
    I: Iot + 'static,
    B: Balena + 'static,
{
    let service = service_fn(|request| answer(request, Arc::clone(&function), Arc::clone(&place)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // an answer fits into the system's buffer: who does not read it keeps no place either
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("a connection ended early: {error}");
    }
}

/// The next connection. One that broke off before it was accepted, or for which there is no file handle,
/// is no reason to end.
async fn accepted<T, F>(mut accept: impl FnMut() -> F) -> T
where
    F: Future<Output = std::io::Result<T>>,
{
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!("a connection is not accepted: {error}");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Answers in a task of its own: a device that is restarted by the first of its two variables hangs up,
/// and must get the second all the same, as from a Lambda function.
async fn answer<I, B>(
    request: Request<Incoming>,
    function: Arc<Function<I, B>>,
    place: Arc<OwnedSemaphorePermit>,
) -> Result<Response<Full<Bytes>>, JoinError>
where
    I: Iot + 'static,
    B: Balena + 'static,
{
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes().to_vec(),
        // too long, or cut off: then nobody reads the answer
        Ok(Err(_)) => return Ok(whole(handler::too_long())),
        // what came in time is not JSON
        Err(_elapsed) => Vec::new(),
    };
    let request = Request::from_parts(head, body);
    let work = tokio::spawn(async move {
        let _place = place;
        function.answer(request).await
    });
    Ok(whole(work.await?))
}

fn whole(answer: Response<String>) -> Response<Full<Bytes>> {
    answer.map(|text| Full::new(Bytes::from(text)))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::access::Access;
    use crate::balena::Owner;
    use crate::provisioning::tests::world::{UUID, World, parties};

    /// A connection to the function over `world`, and the places there are for connections: one, which is its.
    async fn connect(world: &World) -> (DuplexStream, Arc<Semaphore>) {
        let function = Function {
            parties: parties(world),
            access: Access::default(),
        };
        let places = Arc::new(Semaphore::new(1));
        let place = free(&places).await;
        let (client, server) = duplex(16 * 1024);
        tokio::spawn(converse(server, Arc::new(function), place));
        (client, places)
    }

    fn post() -> String {
        let body = format!(r#"{{"uuid":"{UUID}"}}"#);
        let length = body.len();
        format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_hangs_up_leaves_no_room_for_others_until_its_request_is_done() {
        let world = World::default();
        world.state().slow_ms = [("GET device", 1_000)].into();
        let (mut client, places) = connect(&world).await;
        client.write_all(post().as_bytes()).await.unwrap();
        while world.state().calls.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(client);
        places.acquire().await.unwrap().forget();
        let works = world.state().works(Owner::Device(1001));
        assert!(works, "{:?}", world.state().calls);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_for_one_request_so_that_nobody_keeps_it_by_not_reading_answers() {
        let world = World::default();
        let (mut client, _places) = connect(&world).await;
        client.write_all(post().repeat(9).as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
        assert!(answers.contains("device created"), "{answers}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_error_of_a_connection_ends_the_server() {
        const OUT_OF_FILES: i32 = 24; // EMFILE
        let outcomes = [
            Err(Error::from_raw_os_error(OUT_OF_FILES)),
            Err(Error::from(ErrorKind::ConnectionAborted)),
            Ok("a connection"),
        ];
        let mut outcomes = outcomes.into_iter();
        let accept = || std::future::ready(outcomes.next().unwrap());
        assert_eq!(accepted(accept).await, "a connection");
        assert!(outcomes.next().is_none());
    }
}
