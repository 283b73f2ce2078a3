//! A fault at every call of every request, then the request again.

use super::super::{Registered, Registration, StepError, register, undo};
use super::world::{DEVICE, DEVICE_KEY, Entry, Fault, POLICY, State, UUID, World, parties};
use crate::balena::Variable;
use crate::iot::Status;

/// More calls than any request here makes.
const CALLS_MAX: usize = 60;

/// A name, and what there is before the request.
type Beginning = (&'static str, fn(&mut State));

const BEGINNINGS: [Beginning; 7] = [
    ("nothing", |_| {}),
    ("a Thing without certificate", |state| {
        state.things.insert(UUID.to_owned());
    }),
    ("a certificate without policy", |state| {
        state.things.insert(UUID.to_owned());
        let (made, _) = state.make_with_key(Status::Active);
        state.entry(&made.id).things.insert(UUID.to_owned());
    }),
    ("AWS_CERT without AWS_PRIVATE_KEY", |state| {
        let certificate = complete(state).0;
        state.variables.clear();
        state.store(Variable::Certificate, &certificate);
    }),
    ("no variables: the old function's stuck state", |state| {
        complete(state);
        state.variables.clear();
    }),
    ("the key of another certificate", |state| {
        complete(state);
        let (_, key) = state.make_with_key(Status::Inactive);
        state.store(Variable::PrivateKey, key.expose());
        // the other certificate itself is long gone
        let inactive = |status| status == Status::Inactive;
        let entries = &mut state.certificates;
        entries.retain(|_, entry| !inactive(entry.certificate.status));
    }),
    ("a complete device and a second certificate", |state| {
        complete(state);
        let (made, _) = state.make_with_key(Status::Active);
        let entry = state.entry(&made.id);
        entry.things.insert(UUID.to_owned());
        entry.policies.insert(POLICY.to_owned());
    }),
];

/// A device that has everything; returns the PEM of certificate and key.
pub(super) fn complete(state: &mut State) -> (String, String) {
    state.things.insert(UUID.to_owned());
    let (made, key) = state.make_with_key(Status::Active);
    let entry = state.entry(&made.id);
    entry.things.insert(UUID.to_owned());
    entry.policies.insert(POLICY.to_owned());
    state.store(Variable::Certificate, &made.pem);
    state.store(Variable::PrivateKey, key.expose());
    (made.pem, key.expose().to_owned())
}

/// The line of the fault table for one run, and whether the fault was reached.
struct Row {
    call: &'static str,
    first: String,
    again: String,
    inactive_left: usize,
}

fn print(title: &str, rows: &[(Fault, Row)]) {
    println!("\n{title}");
    for (fault, row) in rows {
        let Row {
            call,
            first,
            again,
            inactive_left,
        } = row;
        println!(
            "  {call:<26} fails {fault:<8} {first:<10} then {again:<10} inactive left over: {inactive_left}",
            fault = format!("{fault:?}").to_lowercase(),
        );
    }
}

fn outcome(result: &Result<Registered, StepError>) -> String {
    match result {
        Ok(Registered::Now) => "created",
        Ok(Registered::Before) => "exists",
        Err(_) => "error",
    }
    .to_owned()
}

/// Registers with the fault, registers again, and checks what there is; `None` if the fault was
/// never reached.
async fn post_with_fault(
    beginning: fn(&mut State),
    registration: &Registration<'_>,
    at: usize,
    fault: Fault,
) -> Option<Row> {
    let world = World::default();
    beginning(&mut world.state());
    world.state().fault = Some((at, fault));
    let parties = parties(&world);
    let first = register(&parties, registration).await;
    let call = *world.state().calls.get(at)?;
    world.state().fault = None;
    let again = register(&parties, registration).await;
    let state = world.state();
    let wrongs = state.wrongs(registration.csr);
    let active = |entry: &&Entry| entry.certificate.status == Status::Active;
    let left: Vec<&Entry> = state
        .certificates
        .values()
        .filter(|entry| !active(entry))
        .collect();
    assert!(left.iter().all(|entry| is_harmless(entry)), "{left:?}");
    assert_eq!(wrongs, [""; 0], "{call} fails {fault:?}");
    assert!(again.is_ok(), "{call} fails {fault:?}: {again:?}");
    Some(Row {
        call,
        first: outcome(&first),
        again: outcome(&again),
        inactive_left: left.len(),
    })
}

async fn post_table(beginning: &Beginning, registration: &Registration<'_>) {
    let (name, prepare) = *beginning;
    let mut rows = Vec::new();
    for at in 0..CALLS_MAX {
        for fault in [Fault::Before, Fault::After] {
            let row = post_with_fault(prepare, registration, at, fault).await;
            rows.extend(row.map(|row| (fault, row)));
        }
    }
    print(&format!("POST, beginning with {name}:"), &rows);
    assert!(rows.len() >= 10, "{name}: only {} faults", rows.len());
    assert!(rows.len() < 2 * CALLS_MAX, "{name}: CALLS_MAX is too small");
    for (fault, row) in &rows {
        assert_eq!(row.first, "error", "{} fails {fault:?}", row.call);
        let left = usize::from(can_strand(row.call, *fault));
        assert!(row.inactive_left <= left, "{} fails {fault:?}", row.call);
    }
}

/// Where a certificate can be lost sight of: it belongs to no Thing yet or no more, and no variable
/// names it. It is inactive and has no policy, so it opens nothing.
fn can_strand(call: &str, fault: Fault) -> bool {
    matches!(
        (call, fault),
        (
            "CreateKeysAndCertificate" | "CreateCertificateFromCsr" | "DetachThingPrincipal",
            Fault::After
        ) | ("DeleteCertificate", Fault::Before)
    )
}

fn is_harmless(entry: &Entry) -> bool {
    entry.certificate.status == Status::Inactive
        && entry.policies.is_empty()
        && entry.things.is_empty()
}

#[tokio::test(start_paused = true)]
async fn whatever_call_of_a_post_fails_the_next_post_completes_the_device() {
    for beginning in &BEGINNINGS {
        post_table(beginning, &DEVICE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_holds_for_a_device_that_keeps_its_key() {
    let csr = Registration {
        csr: Some(&DEVICE_KEY.1),
        ..DEVICE
    };
    for beginning in &BEGINNINGS {
        post_table(beginning, &csr).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_call_of_a_delete_fails_the_next_delete_leaves_nothing() {
    let mut rows = Vec::new();
    for at in 0..CALLS_MAX {
        for fault in [Fault::Before, Fault::After] {
            let world = World::default();
            complete(&mut world.state());
            let (second, _) = world.state().make_with_key(Status::Active);
            let thing = UUID.to_owned();
            world.state().entry(&second.id).things.insert(thing);
            world.state().fault = Some((at, fault));
            let parties = parties(&world);
            let first = undo(&parties, &DEVICE).await;
            let Some(call) = world.state().calls.get(at).copied() else {
                continue;
            };
            world.state().fault = None;
            let again = undo(&parties, &DEVICE).await;
            assert_eq!(again, Ok(()), "{call} fails {fault:?}");
            let state = world.state();
            let nothing = state.things.is_empty() && state.variables.is_empty();
            assert!(nothing, "{call} fails {fault:?}: {state:?}");
            assert!(state.certificates.values().all(is_harmless));
            let left = state.certificates.len();
            assert!(left <= usize::from(can_strand(call, fault)), "{state:?}");
            let row = Row {
                call,
                first: first.map_or("error", |()| "deleted").to_owned(),
                again: "deleted".to_owned(),
                inactive_left: left,
            };
            rows.push((fault, row));
        }
    }
    print(
        "DELETE of a complete device with a second certificate:",
        &rows,
    );
    assert!(rows.len() >= 20 && rows.len() < 2 * CALLS_MAX);
    assert!(rows.iter().all(|(_, row)| row.first == "error"));
}
