//! An `http://` or `https://` address whose query, password and user name stay out of logs.

use std::cmp::Reverse;
use std::fmt;

use url::{Host, Url};

use crate::own_name::is_own_name;

/// Query values shorter than this are not worth masking in other text; masking `1` would garble it.
const MASKED_CHARS_MIN: usize = 4;

/// An address to send HTTP requests to. `Display` and `Debug` mask what may be a secret: the query
/// (a token is often put there) and any user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// Takes an absolute `http` or `https` URL. The error says what is expected, without the value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            "a URL that starts with https:// or http://, such as https://example.com/provision"
                .to_owned()
        };
        let url = Url::parse(text).map_err(|_| expected())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(expected());
        }
        Ok(HttpUrl(url))
    }

    /// The whole address, secrets included. Never log it.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The same server with another path and no query.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        url.set_path(path);
        url.set_query(None);
        url.set_fragment(None);
        HttpUrl(url)
    }

    /// Host name and port, for messages about reaching it.
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Whether requests to it can be read, and answered, on networks of others: without TLS, and to a host that is not
    /// near.
    pub fn is_exposed(&self) -> bool {
        let is_near = self.0.host().is_some_and(|host| match host {
            Host::Domain(name) => is_own_name(name),
            Host::Ipv4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            Host::Ipv6(ip) => {
                ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
            }
        });
        self.0.scheme() == "http" && !is_near
    }

    /// `text` with this address's secrets masked, for text that came from the other side and may
    /// echo the request.
    pub fn mask_in(&self, text: &str) -> String {
        let query = self.0.query().unwrap_or_default();
        let raw_values = query
            .split('&')
            .filter_map(|pair| Some(pair.split_once('=')?.1.to_owned()));
        let values = self.0.query_pairs().map(|(_, value)| value.into_owned());
        let password = self.0.password().unwrap_or_default();
        let whole = [query, password, self.0.username()].map(str::to_owned);
        let mut secrets: Vec<_> = (whole.into_iter().chain(raw_values))
            .chain(values)
            .filter(|secret| secret.chars().count() >= MASKED_CHARS_MIN)
            .collect();
        // The longest first: of one that contains another, the rest would stay.
        secrets.sort_unstable_by_key(|secret| Reverse(secret.len()));
        (secrets.iter()).fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://", self.0.scheme())?;
        if !self.0.username().is_empty() || self.0.password().is_some() {
            f.write_str("***@")?;
        }
        f.write_str(host)?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())?;
        if self.0.query().is_some() {
            f.write_str("?***")?;
        }
        Ok(())
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_http_and_https_addresses_are_taken() {
        for good in [
            "http://127.0.0.1:8080/x",
            "https://example.com",
            "HTTPS://Example.com/a?b=c",
        ] {
            assert!(HttpUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "example.com/x",
            "/x",
            "ftp://example.com",
            "https://",
            "mqtts://example.com",
            "http://a b/",
        ] {
            assert!(HttpUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn query_and_login_are_masked_wherever_it_is_shown() {
        let url =
            HttpUrl::parse("https://someone:s3cr3t@example.com:444/p?token=t0k%21en&x=1").unwrap();
        assert_eq!(url.to_string(), "https://***@example.com:444/p?***");
        assert_eq!(
            format!("{url:?}"),
            "HttpUrl(https://***@example.com:444/p?***)"
        );
        assert_eq!(url.authority(), "example.com:444");
        assert_eq!(
            url.mask_in("no route /p?token=t0k%21en&x=1, t0k!en, t0k%21en or s3cr3t"),
            "no route /p?***, ***, *** or ***"
        );
    }

    #[test]
    fn a_value_that_is_part_of_a_longer_one_does_not_keep_it_from_being_masked() {
        let url = HttpUrl::parse("http://admin@a.b/p?fleet=prod&token=prod-s3cr3t").unwrap();
        assert_eq!(url.mask_in("prod-s3cr3t, prod, admin"), "***, ***, ***");
    }

    #[test]
    fn only_plain_http_to_hosts_that_are_not_near_is_exposed() {
        let is_exposed = |url: &str| HttpUrl::parse(url).unwrap().is_exposed();
        for exposed in [
            "http://example.com/provision",
            "http://example.com.:8080",
            "http://8.8.8.8",
            "http://[2001:db8::1]/",
        ] {
            assert!(is_exposed(exposed), "{exposed}");
        }
        for safe in [
            "https://example.com/provision",
            "http://localhost:8080",
            "http://provision",
            "http://box.local",
            "http://127.0.0.1",
            "http://192.168.1.7",
            "http://169.254.1.1",
            "http://[::1]:80",
            "http://[fd00::1]",
            "http://[fe80::1]",
        ] {
            assert!(!is_exposed(safe), "{safe}");
        }
    }

    #[test]
    fn another_path_drops_the_query() {
        let url = HttpUrl::parse("http://127.0.0.1:48484/?apikey=abc").unwrap();
        assert_eq!(
            url.with_path("/v1/update").expose(),
            "http://127.0.0.1:48484/v1/update"
        );
    }
}
