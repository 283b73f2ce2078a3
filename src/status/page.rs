//! The page: one file with its style and its script in it, and the policy that lets nothing else run.

use bytes::Bytes;
use hyper::header::HeaderValue;
use ring::digest::{SHA256, digest};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const HTML: &str = include_str!("page.html");

/// The page as it is sent.
#[derive(Debug)]
pub(super) struct Page {
    policy: HeaderValue,
}

impl Page {
    pub(super) fn new() -> Self {
        Page {
            policy: policy(HTML),
        }
    }

    pub(super) fn html() -> Bytes {
        Bytes::from_static(HTML.as_bytes())
    }

    pub(super) fn policy(&self) -> HeaderValue {
        self.policy.clone()
    }
}

/// Nothing from elsewhere, no forms, no frames; one style and one script, known by their hashes.
fn policy(html: &str) -> HeaderValue {
    let hash = |tag: &str| {
        let inside = between(html, &format!("<{tag}>"), &format!("</{tag}>"));
        format!(
            "'sha256-{}'",
            STANDARD.encode(digest(&SHA256, inside.unwrap_or_default().as_bytes()))
        )
    };
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("style"),
        hash("script"),
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

fn between<'t>(text: &'t str, begin: &str, end: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_has_one_style_and_one_script_and_nothing_from_elsewhere() {
        assert!(HTML.len() < 30_000, "{} bytes", HTML.len());
        for once in ["<style>", "</style>", "<script>", "</script>"] {
            assert_eq!(HTML.matches(once).count(), 1, "{once}");
        }
        for never in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            " src=\"http",
            "style=\"",
        ] {
            assert!(!HTML.contains(never), "{never}");
        }
    }

    #[test]
    fn the_policy_knows_style_and_script_by_their_hashes() {
        // printf 'a' | openssl dgst -sha256 -binary | base64, and the same of b
        let policy = policy("<style>a</style><script>b</script>");
        let policy = policy.to_str().unwrap();
        assert!(
            policy.contains("style-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='"),
            "{policy}"
        );
        assert!(
            policy.contains("script-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"));
    }
}
