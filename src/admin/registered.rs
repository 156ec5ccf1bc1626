//! What the control socket is asked and told of bans and devices.

use serde::{Deserialize, Serialize};

use crate::registry::{Ban, BanId, By, Device, State, TargetText, time_text};

/// Bans or devices that are looked at for one answer; what comes behind them is asked for by another
/// call.
pub const PAGE_MAX: usize = 1000;
/// Bytes of an answer after which no more is put in: a name may be long.
const PAGE_BYTES: usize = 256 * 1024;

/// The front of a list, as much as goes into one answer; `true`: there is more of the list.
#[must_use]
pub fn front<T: Serialize>(list: Vec<T>) -> (Vec<serde_json::Value>, bool) {
    let mut bytes = 0;
    let (mut front, length) = (Vec::new(), list.len());
    for one in list {
        let Ok(value) = serde_json::to_value(one) else { continue };
        bytes += value.to_string().len();
        front.push(value);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    let is_cut = front.len() < length;
    (front, is_cut)
}

/// Something about bans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BanRequest {
    /// Keep somebody out.
    Add {
        /// Whom.
        target: TargetText,
        /// For how many seconds; without it, until it is removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
        /// Why.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
    },
    /// Take a ban back, by its name or by whom it keeps out.
    Remove {
        /// Its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ban: Option<BanId>,
        /// Whom it keeps out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<TargetText>,
    },
    /// Say which there are.
    List {
        /// Those that come behind this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<BanId>,
    },
}

/// A ban, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanAnswer {
    /// Its name.
    pub ban: BanId,
    /// Whom it keeps out.
    pub target: TargetText,
    /// Since when, RFC 3339.
    pub since: String,
    /// When it ends; none: when it is removed.
    pub until: Option<String>,
    /// Why.
    pub why: String,
    /// Who has said so.
    pub by: By,
}

impl BanAnswer {
    /// What is told of a ban.
    #[must_use]
    pub fn of(ban: &Ban) -> Self {
        Self {
            ban: ban.id,
            target: (&ban.target).into(),
            since: time_text(ban.since),
            until: ban.until.map(time_text),
            why: ban.why.to_string(),
            by: ban.by,
        }
    }
}

/// Something about devices. Each is named `pump-7`, or `Device::pump-7`; other principals by their
/// type and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceRequest {
    /// Say which there are.
    List {
        /// Those in this state; without it, all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<State>,
        /// Those that come behind this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Let in one that waits, or take the certificates of another authority as its own.
    Approve {
        /// Which.
        device: String,
        /// The authority; without it, that of the certificate it came with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issuer: Option<String>,
    },
    /// Let in one that is suspended.
    Activate {
        /// Which.
        device: String,
    },
    /// Keep one out until it is activated.
    Suspend {
        /// Which.
        device: String,
    },
    /// Keep one out for good.
    Revoke {
        /// Which.
        device: String,
    },
    /// Know nothing of one any more.
    Forget {
        /// Which.
        device: String,
    },
}

/// A device, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAnswer {
    /// Who it is: type and name.
    pub device: String,
    /// Its state.
    pub state: State,
    /// The authorities whose certificates are its own; none: all of its listener.
    pub issuers: Vec<String>,
    /// The certificate it came with first.
    pub certificate: Option<String>,
    /// When it was taken down, RFC 3339.
    pub registered_at: String,
    /// When its state changed, RFC 3339.
    pub changed_at: String,
}

impl DeviceAnswer {
    /// What is told of a device.
    #[must_use]
    pub fn of(device: &Device) -> Self {
        Self {
            device: device.principal.to_string(),
            state: device.state,
            issuers: device.issuers.iter().map(ToString::to_string).collect(),
            certificate: device.certificate.as_ref().map(ToString::to_string),
            registered_at: time_text(device.registered_at),
            changed_at: time_text(device.changed_at),
        }
    }
}

impl BanRequest {
    /// What it is about, for the audit log.
    pub(super) fn about(&self) -> String {
        let text = |target: &TargetText| match target.parse() {
            Ok(target) => target.to_string(),
            Err(_) => "nobody".to_owned(),
        };
        match self {
            Self::Add { target, .. } => format!("add {}", text(target)),
            Self::Remove { ban: Some(id), .. } => format!("remove {}", id.0),
            Self::Remove { target: Some(target), .. } => format!("remove {}", text(target)),
            Self::Remove { .. } => "remove nobody".to_owned(),
            Self::List { .. } => "list".to_owned(),
        }
    }
}

impl DeviceRequest {
    /// What it is about, for the audit log.
    pub(super) fn about(&self) -> String {
        match self {
            Self::List { .. } => "list".to_owned(),
            Self::Approve { device, .. } => format!("approve {device}"),
            Self::Activate { device } => format!("activate {device}"),
            Self::Suspend { device } => format!("suspend {device}"),
            Self::Revoke { device } => format!("revoke {device}"),
            Self::Forget { device } => format!("forget {device}"),
        }
    }
}
