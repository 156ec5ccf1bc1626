//! Bans and devices as JSON has them.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::value::{Time, Wrong, wrong};
use crate::registry::{Ban, BanId, By, Device, Misnamed, Principal, State, TargetText};

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BanText {
    pub(super) id: u64,
    target: TargetText,
    since: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Time>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    why: Arc<str>,
    by: By,
}

impl BanText {
    pub(super) fn of(ban: &Ban) -> Self {
        Self {
            id: ban.id.0,
            target: (&ban.target).into(),
            since: of(ban.since),
            until: ban.until.map(of),
            why: Arc::clone(&ban.why),
            by: ban.by,
        }
    }

    pub(super) fn ban(&self) -> Result<Ban, Wrong> {
        let target = self.target.parse();
        Ok(Ban {
            id: BanId(self.id),
            target: target.map_err(|error| wrong("target", &error.to_string()))?,
            since: self.since.system(),
            until: self.until.map(Time::system),
            why: Arc::clone(&self.why),
            by: self.by,
        })
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceText {
    principal: String,
    state: State,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    issuers: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<Arc<str>>,
    registered_at: Time,
    changed_at: Time,
}

impl DeviceText {
    pub(super) fn of(device: &Device) -> Self {
        Self {
            principal: device.principal.to_string(),
            state: device.state,
            issuers: device.issuers.clone(),
            certificate: device.certificate.clone(),
            registered_at: of(device.registered_at),
            changed_at: of(device.changed_at),
        }
    }

    pub(super) fn device(&self) -> Result<Device, Wrong> {
        let principal = Principal::parse(&self.principal);
        Ok(Device {
            principal: principal
                .map_err(|error: Misnamed| wrong("principal", &error.to_string()))?,
            state: self.state,
            issuers: self.issuers.clone(),
            certificate: self.certificate.clone(),
            registered_at: self.registered_at.system(),
            changed_at: self.changed_at.system(),
        })
    }
}

/// A moment as a line has it.
fn of(time: SystemTime) -> Time {
    Time::of(time)
}
