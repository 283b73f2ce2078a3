//! Whose web pages may speak to the broker. Pure.
//!
//! A browser lets a page from anywhere open a WebSocket to this device, and says where the page comes from. Programs
//! that are no browsers say nothing, and could say anything: for them there is the login.

use std::fmt;

use url::Url;

use crate::own_name::is_own_name;

/// Most origins of a list.
const ORIGINS_MAX: usize = 50;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Pages that this device serves itself, on any port, under a name that is no stranger's.
    #[default]
    Own,
    /// Those of these origins, such as `https://panel.example`.
    Listed(Vec<String>),
    /// All.
    Any,
}

impl Origins {
    /// The value of `LOCAL_MQTT_WS_ORIGINS`; an error says what is expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Origins::Any);
        }
        let listed: Option<Vec<_>> = text.split(',').map(|origin| parse(origin.trim())).collect();
        let few = listed.filter(|listed| listed.len() <= ORIGINS_MAX);
        few.map(Origins::Listed).ok_or_else(|| {
            format!("* or up to {ORIGINS_MAX} origins, comma-separated: https://panel.example, http://10.0.0.7:8080")
        })
    }

    /// Judges the headers `Origin` and `Host`.
    pub(super) fn admit(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else {
            return true;
        };
        match self {
            Origins::Any => true,
            Origins::Listed(listed) => parse(origin).is_some_and(|origin| listed.contains(&origin)),
            Origins::Own => {
                let page = Url::parse(origin).ok();
                let asked = host.and_then(|host| Url::parse(&format!("http://{host}")).ok());
                match (page.as_ref().and_then(Url::host_str), &asked) {
                    (Some(page), Some(asked)) => {
                        asked.host_str() == Some(page) && is_own_name(page)
                    }
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origins::Own => f.write_str("own"),
            Origins::Listed(listed) => f.write_str(&listed.join(",")),
            Origins::Any => f.write_str("*"),
        }
    }
}

/// An origin as browsers write it; `None` if it is none, or has a path.
fn parse(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let origin = url.origin().ascii_serialization();
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && is_bare).then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_only_pages_of_this_device_may_speak() {
        let admits = |origin, host| Origins::Own.admit(Some(origin), Some(host));
        for (origin, host) in [
            ("http://192.168.1.7", "192.168.1.7:9001"),
            ("http://localhost:3000", "localhost:9001"),
            ("https://Device.local", "device.local:9001"),
            ("http://[::1]:80", "[::1]:9001"),
            ("http://panel", "panel:9001"),
        ] {
            assert!(admits(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://evil.example", "192.168.1.7:9001"),
            ("http://192.168.1.8", "192.168.1.7:9001"),
            // its name was made to point here
            ("http://evil.example", "evil.example:9001"),
            ("http://localhost", "127.0.0.1:9001"),
            ("null", "localhost:9001"),
            ("", ""),
        ] {
            assert!(!admits(origin, host), "{origin} {host}");
        }
        assert!(!Origins::Own.admit(Some("http://localhost"), None));
        assert!(Origins::Own.admit(None, None), "no browser");
    }

    #[test]
    fn a_list_is_kept_to() {
        let origins = Origins::parse("https://Panel.example:443, http://10.0.0.7:8080/").unwrap();
        assert_eq!(
            origins.to_string(),
            "https://panel.example,http://10.0.0.7:8080"
        );
        let admits = |origin| origins.admit(Some(origin), Some("10.0.0.7:9001"));
        assert!(admits("https://panel.example") && admits("http://10.0.0.7:8080"));
        for strange in [
            "http://panel.example",
            "https://panel.example.evil",
            "http://10.0.0.7",
            "null",
        ] {
            assert!(!admits(strange), "{strange}");
        }
        assert!(Origins::Any.admit(Some("null"), None));
        for faulty in ["panel.example", "https://a/b", "ws://a", "https://a,,", ","] {
            let error = Origins::parse(faulty).unwrap_err();
            assert!(error.contains("origins, comma-separated"), "{faulty}");
        }
    }
}
