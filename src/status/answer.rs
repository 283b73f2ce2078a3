//! Which request gets which answer. Pure but for the look at the relay; nothing can be changed through it.

use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap,
    HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{MissedTickBehavior, interval};

use super::content::{Content, Live};
use super::door::Refusal;
use super::metrics;
use super::page::Page;
use super::server::Site;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const EVENTS: &str = "text/event-stream";

/// The answer to `request`, whatever it is.
pub(super) fn answer<B>(request: &Request<B>, site: &Site) -> Response<Content> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let mut response = match site.door().admit(header(HOST), header(AUTHORIZATION)) {
        Err(refusal) => refuse(refusal),
        Ok(()) if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "Only GET and HEAD: the relay shows itself, no more.\n",
            );
            set(response.headers_mut(), ALLOW, "GET, HEAD");
            response
        }
        Ok(()) => page_of(request, site),
    };
    let headers = response.headers_mut();
    set(headers, CACHE_CONTROL, "no-store");
    set(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, REFERRER_POLICY, "no-referrer");
    if !headers.contains_key(CONTENT_SECURITY_POLICY) {
        set(
            headers,
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        );
    }
    response
}

/// Whether a password was tried, and not merely none given, as a browser does at first.
pub(super) fn has_login<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(AUTHORIZATION)
}

fn page_of<B>(request: &Request<B>, site: &Site) -> Response<Content> {
    match request.uri().path() {
        "/" => {
            let mut response = whole(StatusCode::OK, HTML, Page::html());
            response
                .headers_mut()
                .insert(CONTENT_SECURITY_POLICY, site.page().policy());
            response
        }
        "/healthz" => health(site),
        "/metrics" => {
            let snapshot = site.observer().snapshot();
            whole(
                StatusCode::OK,
                metrics::CONTENT_TYPE,
                metrics::render(&snapshot),
            )
        }
        "/api/status" => whole(StatusCode::OK, JSON, site.json(true)),
        "/api/events" => events(request.method(), site),
        _ => text(
            StatusCode::NOT_FOUND,
            "There is /, /healthz, /metrics and /api/status.\n",
        ),
    }
}

fn health(site: &Site) -> Response<Content> {
    let health = site.observer().snapshot().health;
    let status = if health.ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    match serde_json::to_string(&health) {
        Ok(json) => whole(status, JSON, json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn events(method: &Method, site: &Site) -> Response<Content> {
    let Ok(place) = site.live_places().try_acquire_owned() else {
        let mut response = text(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are open.\n",
        );
        set(response.headers_mut(), RETRY_AFTER, "10");
        return response;
    };
    if *method == Method::HEAD {
        return whole(StatusCode::OK, EVENTS, "");
    }
    let mut interval = interval(site.live_interval());
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let live = Live {
        site: site.clone(),
        interval,
        looks: 0,
        _place: place,
    };
    with_type(StatusCode::OK, EVENTS, Content::Live(live))
}

fn refuse(refusal: Refusal) -> Response<Content> {
    match refusal {
        Refusal::Name => text(
            StatusCode::MISDIRECTED_REQUEST,
            "The relay does not answer to this name: use the device's address, or set STATUS_PASSWORD.\n",
        ),
        Refusal::Password => {
            let mut response = text(
                StatusCode::UNAUTHORIZED,
                "STATUS_PASSWORD is asked for; any user name will do.\n",
            );
            set(
                response.headers_mut(),
                WWW_AUTHENTICATE,
                "Basic realm=\"Cloud Relay\", charset=\"UTF-8\"",
            );
            response
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Content> {
    whole(status, TEXT, text.to_owned())
}

fn whole(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<Content> {
    with_type(status, content_type, Content::Whole(body.into()))
}

fn with_type(
    status: StatusCode,
    content_type: &'static str,
    content: Content,
) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    set(response.headers_mut(), CONTENT_TYPE, content_type);
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
