//! `CLOUD_SUBSCRIBE` and `CLOUD_STATUS_TOPIC`: what a connection to the cloud is for besides relaying. Pure.

use super::fault::{Reading, excerpt};
use super::raw::Raw;
use super::{Device, Provider};
use crate::cloud::errands::FILTERS_MAX;
use crate::local::STATE_TOPIC;
use crate::routes::{Place, RouteError, Routes, Rulebook, Template};
use crate::topic;

/// From the cloud's topics to local ones.
const SUBSCRIBE: &str = "CLOUD_SUBSCRIBE";
/// Where the cloud keeps whether the device is connected.
const STATUS: &str = "CLOUD_STATUS_TOPIC";

/// `CLOUD_SUBSCRIBE`: rules as in `PRODUCER_TOPIC`, the other way round. In their filters too `{uuid}`, `{service}` and
/// `{app}` stand for the device, so that a fleet needs one variable only.
pub(super) fn subscriptions(
    raw: &Raw,
    provider: Provider,
    device: &Device,
    reading: &mut Reading,
) -> Option<Routes> {
    let value = raw.cloud_subscribe.as_deref()?;
    let text = reading.parse(SUBSCRIBE, Some(value), |text| Ok(named(text, device)))?;
    let routes = match Routes::parse(&text, None, device.names(), Rulebook::Mqtt) {
        Ok(routes) => routes,
        Err(errors) => {
            for error in &errors {
                reading.fault(SUBSCRIBE, value, words(error));
            }
            return None;
        }
    };
    let rules = routes.as_slice();
    if rules.len() > FILTERS_MAX {
        let expected = format!("at most {FILTERS_MAX} rules, which is the limit of AWS IoT Core");
        reading.fault(SUBSCRIBE, value, expected);
    }
    for (n, rule) in (1..).zip(rules) {
        if rule.filter().contains(['{', '}']) {
            let known = "{uuid}, {service} and {app}, each of them set";
            reading.fault(
                SUBSCRIBE,
                value,
                format!("in the filter of rule {n} only {known}"),
            );
        }
        if let (Rulebook::Aws, Err(fault)) =
            (provider.rulebook(), topic::check_aws_limits(rule.filter()))
        {
            let expected = format!("in the filter of rule {n} {fault}");
            reading.fault(SUBSCRIBE, value, expected);
        }
        if rule.form().is_some() {
            let expected = format!("of rule {n} no {{pack:…}}, which is for PRODUCER_TOPIC");
            reading.fault(SUBSCRIBE, value, expected);
        }
        let fixed = rule.fixed_target();
        if fixed.is_some_and(|topic| topic::is_reserved(topic) || topic == STATE_TOPIC) {
            let expected = format!(
                "of rule {n} a local topic that is not the relay's own ($… and {STATE_TOPIC} are)"
            );
            reading.fault(SUBSCRIBE, value, expected);
        }
    }
    Some(routes)
}

/// `CLOUD_STATUS_TOPIC`: a topic, in which `{uuid}`, `{service}` and `{app}` stand for the device.
pub(super) fn status_topic(
    raw: &Raw,
    provider: Provider,
    device: &Device,
    reading: &mut Reading,
) -> Option<String> {
    reading.parse(STATUS, raw.cloud_status_topic.as_deref(), |text| {
        let template = Template::parse(text, device.names()).map_err(|fault| fault.to_string())?;
        if template.form().is_some() {
            return Err("a topic without {pack:…}, which is for PRODUCER_TOPIC".to_owned());
        }
        let topic = template.as_fixed().ok_or_else(|| {
            "a topic with {uuid}, {service} or {app} at most, for there is no message whose {topic} it could be"
                .to_owned()
        })?;
        let checked = provider.rulebook().check(topic);
        checked.map_err(|fault| format!("a topic with {fault}"))?;
        Ok(topic.to_owned())
    })
}

/// `text` with the device's names filled in, as far as they are known.
fn named(text: &str, device: &Device) -> String {
    let mut named = text.to_owned();
    for (placeholder, name) in [
        ("{uuid}", &device.uuid),
        ("{service}", &device.service),
        ("{app}", &device.app),
    ] {
        if let Some(name) = name {
            named = named.replace(placeholder, name);
        }
    }
    named
}

fn words(error: &RouteError) -> String {
    let fault = &error.fault;
    match &error.place {
        Place::Rule(rule) | Place::DefaultFor(rule) => {
            format!("of rule {} ({:?}) {fault}", rule.0, excerpt(&rule.1))
        }
        Place::Default => fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn read(name: &str, value: &str) -> Result<Config, String> {
        let vars = [(name, value), ("BALENA_DEVICE_UUID", "abc")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::from_vars(vars).map_err(|faults| faults.to_string())
    }

    fn subscriptions(value: &str) -> Result<String, String> {
        let config = read("CLOUD_SUBSCRIBE", value)?;
        Ok(config
            .subscriptions
            .map(|routes| routes.to_string())
            .unwrap_or_default())
    }

    #[test]
    fn the_device_is_filled_into_filters_and_templates() {
        let rules = subscriptions("cmd/{uuid}/#=>commands/{topic:3..}, all=>{uuid}/all").unwrap();
        assert_eq!(rules, "cmd/abc/# => commands/{topic:3..}, all => abc/all");
        assert_eq!(subscriptions("").unwrap(), "");
        let config = read("CLOUD_STATUS_TOPIC", "devices/{uuid}/status").unwrap();
        assert_eq!(config.status_topic.as_deref(), Some("devices/abc/status"));
    }

    #[test]
    fn what_cannot_work_is_a_fault_that_names_the_rule() {
        for (value, expected) in [
            ("cmd", "a => and a topic behind the filter"),
            ("a=>b, c#=>d", "rule 2"),
            ("{topic}=>a", "in the filter of rule 1 only {uuid}"),
            ("cmd/{service}=>a", "in the filter of rule 1 only {uuid}"),
            (
                "a=>b, c=>$SYS/x",
                "of rule 2 a local topic that is not the relay's own",
            ),
            ("a=>cloud-relay/state", "of rule 1 a local topic"),
            ("a=>b/#", "wildcards"),
            ("a=>b{pack:json}", "of rule 1 no {pack:…}"),
            ("a=>b, 1/2/3/4/5/6/7/8/9=>c", "of rule 2 at most 7 slashes"),
            (
                &format!("{}/#=>b", "a".repeat(255)),
                "of rule 1 at most 256 bytes",
            ),
        ] {
            let said = subscriptions(value).unwrap_err();
            assert!(
                said.contains("CLOUD_SUBSCRIBE") && said.contains(expected),
                "{value}: {said}"
            );
        }
        let filters = |count: usize| vec!["a=>b"; count].join(",");
        assert!(subscriptions(&filters(50)).is_ok());
        assert!(
            subscriptions(&filters(51))
                .unwrap_err()
                .contains("at most 50 rules")
        );
    }

    #[test]
    fn the_status_topic_is_one_topic_that_the_cloud_takes() {
        for (value, expected) in [
            ("status/{topic}", "for there is no message"),
            ("status/#", "wildcards"),
            ("status {pack:json}", "without {pack:…}"),
            ("$aws/things/x/shadow", "AWS reserves"),
            ("{service}/status", "BALENA_SERVICE_NAME"),
        ] {
            let said = read("CLOUD_STATUS_TOPIC", value).unwrap_err();
            assert!(
                said.contains("CLOUD_STATUS_TOPIC") && said.contains(expected),
                "{value}: {said}"
            );
        }
    }
}
