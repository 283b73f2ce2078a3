//! Packs: examples, and what holds whatever comes and whenever.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PACKING: Packing = Packing {
    bytes_max: 40,
    wait_max: Duration::from_millis(100),
};

fn json(topic: &'static str, payload: &'static str) -> Offered<'static> {
    Offered {
        form: Some(Form::Json),
        topic,
        payload: payload.as_bytes(),
        kept_bytes: payload.len(),
    }
}

/// What is ready after `offered` has come, all at once.
fn offer_all(offered: &[Offered<'_>]) -> (Packer<usize>, Vec<Parcel<usize>>) {
    let mut packer = Packer::new(PACKING);
    let mut ready = Vec::new();
    for (member, offered) in offered.iter().enumerate() {
        packer.offer(*offered, member, Instant::now(), &mut ready);
    }
    (packer, ready)
}

fn texts(ready: &[Parcel<usize>]) -> Vec<String> {
    let text = |parcel: &Parcel<usize>| match parcel {
        Parcel::Single(member) => format!("single {member}"),
        Parcel::Pack(pack) => {
            let payload = String::from_utf8_lossy(&pack.payload);
            format!("{} {payload} {:?}", pack.topic, pack.members)
        }
    };
    ready.iter().map(text).collect()
}

#[test]
fn json_payloads_become_an_array_when_their_time_has_come() {
    let (mut packer, ready) = offer_all(&[
        json("a", "21.5"),
        json("a", " {\"b\":\n1}"),
        json("a", "\"é\""),
    ]);
    assert_eq!(ready, []);
    let due = packer.next_due().unwrap();
    assert_eq!(packer.take_due(due - Duration::from_millis(1)), None);
    let pack = packer.take_due(due).unwrap();
    assert_eq!(texts(&[pack]), ["a [21.5, {\"b\":\n1},\"é\"] [0, 1, 2]"]);
    assert_eq!((packer.take_due(due), packer.next_due()), (None, None));
}

#[test]
fn lines_are_joined_by_line_breaks_whatever_their_bytes() {
    let line = |payload| Offered {
        form: Some(Form::Lines),
        topic: "a",
        payload,
        kept_bytes: 0,
    };
    let (mut packer, ready) = offer_all(&[line(b"x"), line(b""), line(b"\xFF")]);
    assert_eq!(ready, []);
    let Some(Parcel::Pack(pack)) = packer.take_due(packer.next_due().unwrap()) else {
        panic!("no pack");
    };
    assert_eq!(pack.payload, b"x\n\n\xFF");
}

#[test]
fn what_does_not_fit_the_form_goes_alone_and_in_its_order() {
    let long: &'static str = "\"12345678901234567890123456789012345678\"";
    let (_, ready) = offer_all(&[
        json("a", "1"),
        json("b", "2"),
        json("a", "no json"),
        json("a", "3"),
        json("a", long),
        json("a", ""),
        json("b", "4"),
    ]);
    let expected = ["a [1] [0]", "single 2", "a [3] [3]", "single 4", "single 5"];
    assert_eq!(texts(&ready), expected);
    let lines = |payload| Offered {
        form: Some(Form::Lines),
        topic: "a",
        payload,
        kept_bytes: 0,
    };
    let (_, ready) = offer_all(&[lines(b"a\nb"), lines(b"a\rb")]);
    assert_eq!(texts(&ready), ["single 0", "single 1"]);
}

#[test]
fn a_message_of_another_form_or_none_closes_the_pack_of_its_topic() {
    let plain = Offered {
        form: None,
        ..json("a", "2")
    };
    let lines = Offered {
        form: Some(Form::Lines),
        ..json("a", "4")
    };
    let (_, ready) = offer_all(&[json("a", "1"), plain, json("a", "3"), lines]);
    assert_eq!(texts(&ready), ["a [1] [0]", "single 1", "a [3] [2]"]);
}

#[test]
fn the_size_is_met_exactly_and_counts_the_topic() {
    // 4 + 36: "[", 17, ",", 16, "]"
    let (first, second) = ("\"123456789012345\"", "\"12345678901234\"");
    let (mut packer, ready) = offer_all(&[json("1234", first), json("1234", second)]);
    assert_eq!(ready, []);
    let Some(Parcel::Pack(pack)) = packer.take_due(packer.next_due().unwrap()) else {
        panic!("no pack");
    };
    assert_eq!(pack.topic.len() + pack.payload.len(), PACKING.bytes_max);
    let (_, ready) = offer_all(&[json("1234", first), json("1234", first)]);
    assert_eq!(ready.len(), 1);
}

#[test]
fn the_saving_is_counted_in_started_units() {
    assert_eq!((billed(0), billed(5_120), billed(5_121)), (1, 1, 2));
    let packing = Packing::default();
    let mut packer = Packer::new(packing);
    let mut ready = Vec::new();
    for member in 0..100 {
        packer.offer(
            json("sensors", "123456789"),
            member,
            Instant::now(),
            &mut ready,
        );
    }
    ready.extend(packer.take_due(packer.next_due().unwrap()));
    let [Parcel::Pack(pack)] = ready.as_slice() else {
        panic!("{} parcels", ready.len());
    };
    assert_eq!((pack.billed_alone, pack.saved()), (100, 99));
}

#[test]
fn savings_add_up_and_are_told_once_an_hour() {
    let pack = Pack {
        topic: "a".to_owned(),
        payload: vec![b'x'; 5_000],
        members: vec![(); 50],
        billed_alone: 50,
    };
    let start = Instant::now();
    let mut savings = Savings::default();
    let told = [0, 3_599, 3_600, 3_601, 7_200].map(|seconds| {
        let now = start + Duration::from_secs(seconds);
        savings.note(&pack, now)
    });
    assert_eq!(told, [false, false, true, false, true]);
    assert_eq!(
        (savings.packs, savings.messages, savings.saved),
        (5, 250, 245)
    );
}

#[test]
fn no_more_packs_are_open_than_the_limits_say() {
    let packing = Packing {
        bytes_max: 128 * 1024,
        ..PACKING
    };
    let mut packer = Packer::new(packing);
    let mut ready = Vec::new();
    for member in 0..1_000 {
        let topic = format!("t{member}");
        let offered = Offered {
            topic: &topic,
            ..json("", "1")
        };
        packer.offer(offered, member, Instant::now(), &mut ready);
        assert!(packer.open.len() <= OPEN_MAX);
    }
    assert_eq!(ready.len(), 1_000 - OPEN_MAX);
    let large = format!("\"{}\"", "x".repeat(100_000));
    for member in 0..30 {
        let topic = format!("t{member}");
        let offered = Offered {
            topic: &topic,
            payload: large.as_bytes(),
            ..json("", "")
        };
        packer.offer(offered, member, Instant::now(), &mut ready);
        assert!(packer.open_bytes() <= OPEN_BYTES_MAX);
    }
    for member in 0..10_000 {
        let topic = format!("t{}", member % 10);
        let offered = Offered {
            topic: &topic,
            kept_bytes: 1_100,
            ..json("", "1")
        };
        packer.offer(offered, member, Instant::now(), &mut ready);
        let besides = packer.open.iter().map(|open| open.besides_bytes).max();
        assert!(besides <= Some(BESIDES_BYTES_MAX));
        assert!(packer.open_bytes() <= OPEN_BYTES_MAX);
    }
    for member in 0..10 * MEMBERS_MAX {
        packer.offer(json("t", "1"), member, Instant::now(), &mut ready);
    }
    let most = ready.iter().map(|parcel| match parcel {
        Parcel::Single(_) => 1,
        Parcel::Pack(pack) => pack.members.len(),
    });
    assert_eq!(most.max(), Some(MEMBERS_MAX));
}

/// The messages in a parcel, each of which is in it as it came.
fn opened(parcel: &Parcel<usize>, input: &[Message]) -> Vec<usize> {
    let pack = match parcel {
        Parcel::Single(member) => return vec![*member],
        Parcel::Pack(pack) => pack,
    };
    let payloads: Vec<&[u8]> = (pack.members.iter())
        .map(|member| &*input[*member].payload)
        .collect();
    match input[pack.members[0]].form.unwrap() {
        Form::Lines => {
            let lines: Vec<&[u8]> = pack.payload.split(|byte| *byte == b'\n').collect();
            assert_eq!(lines, payloads);
        }
        Form::Json => {
            let joined = [b"[", &*payloads.join(&b','), b"]"].concat();
            assert_eq!(pack.payload, joined);
            let values: Vec<serde_json::Value> = serde_json::from_slice(&pack.payload).unwrap();
            assert_eq!(values.len(), payloads.len());
        }
    }
    pack.members.clone()
}

#[derive(Clone, Debug)]
struct Message {
    form: Option<Form>,
    topic: &'static str,
    payload: Vec<u8>,
}

fn message() -> impl Strategy<Value = Message> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..8),
        (0_u32..100_000).prop_map(|number| number.to_string().into_bytes()),
        "\"[a-z]{0,40}\"".prop_map(String::into_bytes),
        "\\{\"a\": \\[[0-9]\\]\\}".prop_map(String::into_bytes),
    ];
    let form = prop::sample::select(vec![None, Some(Form::Json), Some(Form::Lines)]);
    let topic = prop::sample::select(vec!["a", "b/c"]);
    (form, topic, payload).prop_map(|(form, topic, payload)| Message {
        form,
        topic,
        payload,
    })
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_reordered_too_large_or_kept_too_long(
        messages in prop::collection::vec((message(), 0_u64..60), 1..100),
    ) {
        let mut packer = Packer::new(PACKING);
        let mut now = Instant::now();
        let mut came = Vec::new();
        let mut sent = Vec::new();
        let mut ready: Vec<Parcel<usize>> = Vec::new();
        let note = |parcels: &mut Vec<Parcel<usize>>, at: Instant, sent: &mut Vec<_>| {
            sent.extend(parcels.drain(..).map(|parcel| (at, parcel)));
        };
        let input: Vec<Message> = messages.iter().map(|(message, _)| message.clone()).collect();
        for (member, (message, pause_ms)) in messages.iter().enumerate() {
            let until = now + Duration::from_millis(*pause_ms);
            while let Some(due) = packer.next_due().filter(|due| *due <= until) {
                ready.extend(packer.take_due(due));
                note(&mut ready, due, &mut sent);
            }
            now = until;
            came.push(now);
            let offered = Offered { form: message.form, topic: message.topic, payload: &message.payload, kept_bytes: 0 };
            packer.offer(offered, member, now, &mut ready);
            note(&mut ready, now, &mut sent);
            let open: usize = packer.open.iter().map(|open| open.pack.members.len()).sum();
            prop_assert_eq!(packer.firsts().count(), packer.open.len());
            let gone: usize = sent.iter().map(|(_, parcel)| opened(parcel, &input).len()).sum();
            prop_assert_eq!(open + gone, member + 1);
        }
        while let Some(due) = packer.next_due() {
            ready.extend(packer.take_due(due));
            note(&mut ready, due, &mut sent);
        }
        let mut by_topic: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, parcel) in &sent {
            if let Parcel::Pack(pack) = parcel {
                prop_assert!(pack.topic.len() + pack.payload.len() <= PACKING.bytes_max);
            }
            for member in opened(parcel, &input) {
                prop_assert!(*at - came[member] <= PACKING.wait_max);
                by_topic.entry(input[member].topic).or_default().push(member);
            }
        }
        for (topic, members) in by_topic {
            let expected: Vec<usize> = (0..input.len()).filter(|n| input[*n].topic == topic).collect();
            prop_assert_eq!(members, expected);
        }
    }
}
