//! Tables as a whole: examples, and what holds for any.

use proptest::prelude::*;

use super::*;
use crate::topic::tests::CASES;

const NAMES: Names<'_> = Names {
    uuid: Some("c0ffee"),
    service: Some("relay"),
    app: Some("greenhouse"),
};

fn table(rules: &str, default: &str) -> Routes {
    Routes::parse(rules, Some(default), NAMES, Rulebook::Aws).unwrap()
}

fn errors(rules: &str, default: &str) -> Vec<String> {
    let errors = Routes::parse(rules, Some(default), NAMES, Rulebook::Aws).unwrap_err();
    let texts = errors
        .iter()
        .map(|error| format!("{:?} {}", error.place, error.fault));
    texts.collect()
}

#[test]
fn a_plain_rule_is_a_plain_route() {
    let plain = Routes::new("sensors", "site/data");
    assert_eq!(table("sensors", "site/data"), plain);
    assert_eq!(plain.target("sensors").as_deref(), Some("site/data"));
    assert!(matches!(plain.target("sensors"), Some(Cow::Borrowed(_))));
    assert_eq!(plain.target("sensors/1"), None);
    assert!(plain.has_route("sensors") && !plain.has_route("sensor"));
    assert_eq!(plain.to_string(), "sensors => site/data");
}

#[test]
fn the_first_rule_that_matches_decides() {
    let routes = table(
        "alarms/# => $aws/rules/alarms/{topic:2..}, +/fire => fire, alarms => never, #",
        "site/{uuid}/{topic}",
    );
    for (topic, target) in [
        ("alarms/hall/fire", "$aws/rules/alarms/hall/fire"),
        ("alarms/fire", "$aws/rules/alarms/fire"),
        ("hall/fire", "fire"),
        ("alarms", "$aws/rules/alarms/"),
        ("a/b", "site/c0ffee/a/b"),
    ] {
        assert_eq!(routes.target(topic).as_deref(), Some(target), "{topic}");
    }
    assert_eq!(routes.target("$SYS/x"), None);
    assert_eq!(routes.find("hall/fire").map(|(number, _)| number), Some(2));
}

#[test]
fn a_rule_matches_what_its_filter_matches() {
    for &(filter, name, expected) in CASES {
        let routes = table(filter, "t");
        assert_eq!(routes.has_route(name), expected, "{filter} {name}");
    }
}

#[test]
fn every_fault_is_told_and_where_it_is() {
    let found = errors("a+=>b, c => {nope}, d, e", "1/2/3/4/5/6/7/8/9");
    assert_eq!(found.len(), 4, "{found:?}");
    for (fault, parts) in found.iter().zip([
        ["Rule(Numbered(1, \"a+=>b\"))", "whole levels"],
        ["Rule(Numbered(2, \"c => {nope}\"))", "{nope}"],
        ["DefaultFor(Numbered(3, \"d\"))", "7 slashes"],
        ["DefaultFor(Numbered(4, \"e\"))", "7 slashes"],
    ]) {
        assert!(parts.iter().all(|part| fault.contains(part)), "{fault}");
    }
    let found = errors("a, b, c", "{topic");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("Default "), "{found:?}");
}

#[test]
fn without_a_template_for_all_each_rule_needs_its_own() {
    let parse = |rules| Routes::parse(rules, None, NAMES, Rulebook::Mqtt);
    assert!(parse("$aws/things/+ => things/{topic:3}").is_ok());
    assert_eq!(
        parse("a => b, c").unwrap_err()[0].fault,
        RuleFault::NoTemplate
    );
}

#[test]
fn more_rules_than_the_limit_are_one_fault() {
    let many = vec!["a"; 10 * RULES_MAX].join(",");
    assert_eq!(errors(&many, "t").len(), 1);
}

/// Topic names of few different levels, so that filters match often.
fn name() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "", "é", "$aws", "long-level"]);
    prop::collection::vec(level, 1..10).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "+", "", "é", "+", "$aws"]);
    let levels = prop::collection::vec(level, 1..6);
    (levels, any::<bool>()).prop_map(|(mut levels, all)| {
        levels.extend(all.then_some("#"));
        levels.join("/")
    })
}

fn template() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "x",
        "/",
        "é",
        "{topic}",
        "{topic:1}",
        "{topic:2}",
        "{topic:3..}",
        "{uuid}",
        "{app}",
        "$aws/rules/",
        "$",
        "+",
        "#",
        "{",
        "}",
        "{topic:0}",
        "{pack:json}",
        " ",
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn matching_agrees_with_the_rules_of_topics(filter in filter(), name in name()) {
        prop_assume!(topic::check_filter(&filter).is_ok() && topic::check_name(&name).is_ok());
        let routes = table(&filter, "t");
        prop_assert_eq!(routes.has_route(&name), topic::matches(&filter, &name));
    }

    #[test]
    fn any_text_is_taken_or_refused_and_what_is_taken_yields_no_wildcards(
        rules in "(#,|\\+/)?[ -~]{0,20}[é\n]?[ -~]{0,20}", default in "[ -~]{0,9}(\\{topic\\})?[ -~]{0,9}é?",
    ) {
        let routes = Routes::parse(&rules, Some(&default), NAMES, Rulebook::Aws);
        for route in routes.iter().flat_map(Routes::as_slice) {
            let name = route.filter().replace(['+', '#'], "level");
            let found = routes.as_ref().ok().and_then(|routes| routes.target(&name));
            prop_assert!(found.is_some_and(|target| !topic::has_wildcards(&target)), "{name}");
        }
    }

    #[test]
    fn what_is_taken_yields_no_wildcards_and_shows_what_it_is(
        filter in filter(), template in template(), name in name(),
    ) {
        prop_assume!(topic::check_filter(&filter).is_ok());
        let rule = format!("{filter} => {template}");
        if let Ok(routes) = Routes::parse(&rule, None, NAMES, Rulebook::Aws) {
            for route in routes.as_slice() {
                let target = route.target(&name);
                prop_assert!(!topic::has_wildcards(&target), "{target}");
            }
            // A topic that an empty placeholder leaves with white space at an end cannot be written down.
            let mut targets = routes.as_slice().iter().filter_map(Route::fixed_target);
            prop_assume!(targets.all(|target| target.trim() == target));
            let shown = routes.to_string();
            let again = Routes::parse(&shown, None, NAMES, Rulebook::Aws);
            prop_assert_eq!(again, Ok(routes));
        }
    }

    #[test]
    fn a_template_is_refused_only_if_no_topic_of_its_filter_could_be_legal(
        filter in filter(), template in template(), names in prop::collection::vec(name(), 20),
    ) {
        prop_assume!(topic::check_filter(&filter).is_ok());
        let Ok(parsed) = Template::parse(&template, NAMES) else { return Ok(()); };
        // A rule's prefix that only a topic would complete is refused, too: nobody means it.
        prop_assume!(!template.starts_with('$') || template.starts_with(topic::BASIC_INGEST));
        if let Err(TemplateFault::Topic(_)) = parsed.clone().checked(&filter, Rulebook::Aws) {
            for name in names.iter().filter(|name| topic::matches(&filter, name)) {
                let target = parsed.expand(name);
                prop_assert!(topic::check_aws(&target).is_err(), "{name} -> {target}");
            }
        }
    }
}
