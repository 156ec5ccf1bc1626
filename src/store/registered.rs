//! What a ban and a device are on disk.

use std::sync::Arc;

use ipnet::IpNet;

use super::codec::{
    Damage, Fields, Record, put_list, put_option, put_text, put_time, put_u64, unseal,
};
use super::record::{put_kind, put_shared_text, take_kind, take_shared_text};
use crate::mqtt::ClientId;
use crate::registry::{Ban, BanId, By, Device, Principal, State, Target};

fn put_principal(out: &mut Vec<u8>, principal: &Principal) {
    put_kind(out, principal.kind);
    put_text(out, &principal.name);
}

fn take_principal(fields: &mut Fields<'_>) -> Result<Principal, Damage> {
    Ok(Principal { kind: take_kind(fields)?, name: take_shared_text(fields)? })
}

fn put_target(out: &mut Vec<u8>, target: &Target) {
    match target {
        Target::Principal(principal) => {
            out.push(0);
            put_principal(out, principal);
        }
        Target::ClientId(client_id) => {
            out.push(1);
            put_text(out, client_id);
        }
        Target::Client(principal, client_id) => {
            out.push(2);
            put_principal(out, principal);
            put_text(out, client_id);
        }
        Target::Network(network) => {
            out.push(3);
            put_text(out, &network.to_string());
        }
        Target::Certificate(sha256) => {
            out.push(4);
            put_text(out, sha256);
        }
    }
}

fn take_client_id(fields: &mut Fields<'_>) -> Result<Arc<str>, Damage> {
    let client_id = ClientId::parse(fields.text()?).map(|client_id| client_id.shared());
    client_id.ok_or(Damage("the record holds no client identifier"))
}

fn take_target(fields: &mut Fields<'_>) -> Result<Target, Damage> {
    Ok(match fields.u8()? {
        0 => Target::Principal(take_principal(fields)?),
        1 => Target::ClientId(take_client_id(fields)?),
        2 => Target::Client(take_principal(fields)?, take_client_id(fields)?),
        3 => {
            let network: Result<IpNet, _> = fields.text()?.parse();
            Target::Network(network.map_err(|_| Damage("the record holds no network"))?)
        }
        4 => Target::Certificate(take_shared_text(fields)?),
        _ => return Err(Damage("whom a ban is about is unknown")),
    })
}

/// A ban as it is stored under `key`.
pub(super) fn seal_ban(key: &[u8], ban: &Ban) -> Vec<u8> {
    let mut record = Record::new();
    let out = record.fields();
    put_target(out, &ban.target);
    put_time(out, ban.since);
    put_option(out, ban.until, put_time);
    put_text(out, &ban.why);
    match ban.by {
        By::Flapping => out.push(0),
        By::Operator(uid) => {
            out.push(1);
            put_option(out, uid, |out, uid| put_u64(out, uid.into()));
        }
    }
    record.seal(key)
}

/// Reads what [`seal_ban`] wrote.
pub(super) fn unseal_ban(id: BanId, key: &[u8], stored: &[u8]) -> Result<Ban, Damage> {
    let mut fields = unseal(key, stored)?;
    let target = take_target(&mut fields)?;
    let since = fields.time()?;
    let until = fields.option(Fields::time)?;
    let why = take_shared_text(&mut fields)?;
    let by = match fields.u8()? {
        0 => By::Flapping,
        1 => {
            let uid = fields.option(Fields::u64)?.map(u32::try_from).transpose();
            By::Operator(uid.map_err(|_| Damage("a user id is too large"))?)
        }
        _ => return Err(Damage("who has banned somebody is unknown")),
    };
    fields.finish()?;
    Ok(Ban { id, target, since, until, why, by })
}

/// A device as it is stored under `key`.
pub(super) fn seal_device(key: &[u8], device: &Device) -> Vec<u8> {
    let mut record = Record::new();
    let out = record.fields();
    put_principal(out, &device.principal);
    out.push(match device.state {
        State::Active => 0,
        State::Pending => 1,
        State::Suspended => 2,
        State::Revoked => 3,
    });
    put_list(out, device.issuers.iter(), put_shared_text);
    put_option(out, device.certificate.as_ref(), put_shared_text);
    put_time(out, device.registered_at);
    put_time(out, device.changed_at);
    record.seal(key)
}

/// Reads what [`seal_device`] wrote.
pub(super) fn unseal_device(key: &[u8], stored: &[u8]) -> Result<Device, Damage> {
    let mut fields = unseal(key, stored)?;
    let device = Device {
        principal: take_principal(&mut fields)?,
        state: match fields.u8()? {
            0 => State::Active,
            1 => State::Pending,
            2 => State::Suspended,
            3 => State::Revoked,
            _ => return Err(Damage("the state of a device is unknown")),
        },
        issuers: fields.list(take_shared_text)?,
        certificate: fields.option(take_shared_text)?,
        registered_at: fields.time()?,
        changed_at: fields.time()?,
    };
    fields.finish()?;
    if *super::keys::device(&device.principal) != *key {
        return Err(Damage("a device lies under another name"));
    }
    Ok(device)
}
