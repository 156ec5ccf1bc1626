//! Bans and devices come back, from the store and from whatever is made of it.

use std::time::UNIX_EPOCH;

use super::lines::{exported, import_text};
use super::*;
use crate::registry::{Ban, BanId, By, Device, Principal, State, Target};

fn bans() -> Vec<Ban> {
    let principal = || Principal { kind: PrincipalKind::User, name: "an\"n\u{9b}".into() };
    let targets = [
        Target::Principal(principal()),
        Target::ClientId("c1".into()),
        Target::Client(principal(), "c1".into()),
        Target::Network("192.0.2.0/24".parse().unwrap()),
        Target::Network("2001:db8::/32".parse().unwrap()),
        Target::Certificate("ab".repeat(32).into()),
    ];
    let bys = [By::Flapping, By::Operator(None), By::Operator(Some(u32::MAX))];
    targets
        .into_iter()
        .zip(1..)
        .map(|(target, id)| Ban {
            id: BanId(id),
            target,
            since: UNIX_EPOCH + Duration::from_millis(id),
            until: id.is_multiple_of(2).then(|| UNIX_EPOCH + Duration::from_secs(id)),
            why: "because".into(),
            by: bys[usize::try_from(id).unwrap() % 3],
        })
        .collect()
}

fn devices() -> Vec<Device> {
    let states = [State::Active, State::Pending, State::Suspended, State::Revoked];
    let device = |(state, number): (State, u64)| Device {
        principal: Principal { kind: PrincipalKind::Device, name: format!("d{number}").into() },
        state,
        issuers: (0..number).map(|issuer| issuer.to_string().into()).collect(),
        certificate: (number > 1).then(|| "9c0e".into()),
        registered_at: UNIX_EPOCH + Duration::from_secs(number),
        changed_at: UNIX_EPOCH + Duration::from_secs(number + 1),
    };
    states.into_iter().zip(0..).map(device).collect()
}

fn found(folder: &Path) -> (Vec<Ban>, Vec<Device>) {
    let (_, mut recovered) = open(folder);
    recovered.devices.sort_by(|one, other| one.principal.cmp(&other.principal));
    (recovered.bans, recovered.devices)
}

fn fill(folder: &Path) {
    let (store, _) = open(folder);
    let changes = bans().into_iter().map(|ban| Change::Ban(Box::new(ban)));
    let known = devices().into_iter().map(|device| Change::Device(Box::new(device)));
    commit(&store, changes.chain(known));
}

#[test]
fn bans_and_devices_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    assert_eq!(found(folder.path()), (bans(), devices()));
    let (store, _) = open(folder.path());
    let gone = devices()[0].principal.clone();
    let suspended = Device { state: State::Suspended, ..devices()[1].clone() };
    commit(
        &store,
        [
            Change::Unban(BanId(1)),
            Change::Forget(gone),
            Change::Device(Box::new(suspended.clone())),
        ],
    );
    drop(store);
    let (left, known) = found(folder.path());
    assert_eq!(left, bans()[1..]);
    assert_eq!(known, [&[suspended], &devices()[2..]].concat());
}

#[test]
fn backups_and_lines_hold_bans_and_devices() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    fill(&first);
    assert_eq!(verify(&first).unwrap().findings, []);
    let now = UNIX_EPOCH + Duration::from_secs(4);
    let told = inspect(Reading::at(&first).unwrap(), now).unwrap();
    assert_eq!((told.bans, told.devices.values().sum::<u64>()), (4, 4));
    let lines = exported(Reading::at(&first).unwrap());
    import_text(&lines, &second).unwrap();
    assert_eq!(exported(Reading::at(&second).unwrap()), lines);
    assert_eq!(found(&second), (bans(), devices()));
    for (good, bad, why) in [
        ("192.0.2.0/24", "192.0.2.1/24", "bits behind its prefix"),
        ("\"User::", "\"Robot::", "names no principal"),
        ("\"state\":\"pending\"", "\"state\":\"asleep\"", "unknown variant `asleep`"),
    ] {
        let place = folder.path().join("refused");
        let error = import_text(&lines.replace(good, bad), &place).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_ban_that_cannot_be_read_keeps_the_store_from_being_served_without_it() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let engine = engine(folder.path());
    let key = keys::ban(BanId(3));
    let mut record = engine.state.get(&*key).unwrap().unwrap().to_vec();
    record[3] ^= 1;
    engine.state.insert(&*key, record).unwrap();
    drop(engine);
    let error = try_open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("ban 3 cannot be read"), "{error}");
    assert!(verify(folder.path()).unwrap().is_loss);
    let (_, recovered) = open_lossy(folder.path());
    assert_eq!((recovered.bans.len(), recovered.losses.len()), (5, 1));
}
