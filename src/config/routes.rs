//! `PRODUCER_TOPIC` and `CLOUD_CONSUMER_TOPIC`: the table from local topics to the cloud's. Pure.

use super::fault::{Reading, excerpt};
use super::raw::Raw;
use super::{DEFAULT_TOPIC, DEFAULT_TOPIC_GCP, Device, Provider};
use crate::routes::{Numbered, Place, RouteError, Routes};
use crate::topic;

/// Which local topics go to the cloud.
const RULES: &str = "PRODUCER_TOPIC";
/// Where those go whose rule has no template of its own.
const DEFAULT: &str = "CLOUD_CONSUMER_TOPIC";

/// Reads both. AWS's rules apply where AWS is the cloud, MQTT's everywhere.
pub(super) fn read(
    raw: &Raw,
    provider: Provider,
    device: &Device,
    reading: &mut Reading,
) -> Routes {
    let text = |text: &str| Ok(text.to_owned());
    let rules = reading
        .parse(RULES, raw.producer_topic.as_deref(), text)
        .unwrap_or_else(|| DEFAULT_TOPIC.to_owned());
    let template = reading
        .parse(DEFAULT, raw.cloud_consumer_topic.as_deref(), text)
        .unwrap_or_else(|| default_template(provider).to_owned());
    let names = device.names();
    let routes = Routes::parse(&rules, Some(&template), names, provider.rulebook()).unwrap_or_else(
        |errors| {
            for error in errors {
                note(&error, &rules, &template, reading);
            }
            Routes::new(DEFAULT_TOPIC, default_template(provider))
        },
    );
    for route in routes.as_slice() {
        if topic::is_reserved(route.filter()) {
            let expected = format!(
                "topic filters that do not start with $, which is reserved for the broker; {:?} does",
                excerpt(route.filter())
            );
            reading.fault(RULES, &rules, expected);
        }
        if route.filter().contains(['{', '}']) {
            let expected = format!(
                "placeholders only in the topic behind =>; the filter {:?} has a brace",
                excerpt(route.filter())
            );
            reading.fault(RULES, &rules, expected);
        }
    }
    routes
}

fn default_template(provider: Provider) -> &'static str {
    match provider {
        Provider::Gcp => DEFAULT_TOPIC_GCP,
        Provider::Aws | Provider::Azure => DEFAULT_TOPIC,
    }
}

fn note(error: &RouteError, rules: &str, template: &str, reading: &mut Reading) {
    let fault = &error.fault;
    match &error.place {
        // The whole value is one rule, and shown as such.
        Place::Rule(Numbered(_, text)) if text == rules => {
            reading.fault(RULES, rules, fault.to_string());
        }
        Place::Rule(Numbered(number, text)) => {
            let rule = excerpt(text);
            reading.fault(RULES, rules, format!("of rule {number} ({rule:?}) {fault}"));
        }
        Place::Default => reading.fault(DEFAULT, template, fault.to_string()),
        Place::DefaultFor(Numbered(number, text)) => {
            let rule = excerpt(text);
            let expected = format!("{fault} (for rule {number} of {RULES}: {rule:?})");
            reading.fault(DEFAULT, template, expected);
        }
    }
}
