//! A small HTTP/1.1 server on loopback, for stand-ins that must also misbehave.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A request with its body.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Call {
    /// The value of a header; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What a handler wants done.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// An answer.
    Answer {
        status: u16,
        body: String,
        retry_after: Option<String>,
    },
    /// The connection is closed without one.
    Close,
}

impl Reply {
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Reply::Answer {
            status,
            body: body.into(),
            retry_after: None,
        }
    }
}

/// A running server; dropping it closes the port and every connection.
pub(crate) struct HttpServer {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("told to close")]
struct ToldToClose;

impl HttpServer {
    /// Serves `handler` on a free port of 127.0.0.1.
    pub(crate) async fn start<H, F>(handler: H) -> std::io::Result<Self>
    where
        H: Fn(Call) -> F + Clone + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            // a failed accept ends the server: its clients see the port closed
            while let Ok((tcp, _)) = listener.accept().await {
                let handler = handler.clone();
                let service = service_fn(move |request| answer(request, handler.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service);
                connections.spawn(connection);
                // finished connections are only cleared away
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(HttpServer { addr, task })
    }
}

async fn answer<H, F>(
    request: Request<Incoming>,
    handler: H,
) -> Result<Response<Full<Bytes>>, ToldToClose>
where
    H: Fn(Call) -> F,
    F: Future<Output = Reply>,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| ToldToClose)?.to_bytes();
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter();
    let call = Call {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body,
    };
    let Reply::Answer {
        status,
        body,
        retry_after,
    } = handler(call).await
    else {
        return Err(ToldToClose);
    };
    let mut response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(CONTENT_TYPE, content_type(&body));
    if let Some(retry_after) = retry_after {
        response = response.header(RETRY_AFTER, retry_after);
    }
    response
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| ToldToClose)
}

/// Clients of JSON APIs look at it; the contract's answers are texts.
fn content_type(body: &str) -> &'static str {
    if body.starts_with('{') {
        "application/json"
    } else {
        "text/plain"
    }
}

/// Sends a request and returns status and body; for tests of the stand-ins.
#[cfg(test)]
pub(crate) async fn send(addr: SocketAddr, head: &str, body: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "{head}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let retry_after = head
        .lines()
        .find(|line| line.to_lowercase().starts_with("retry-after"));
    Some((
        status,
        retry_after.map_or(body.to_owned(), |header| format!("{header}\n{body}")),
    ))
}
