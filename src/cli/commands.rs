//! What a running broker does when it is told to by the control socket.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::Failure;
use super::reloader::Reloader;
use super::store::Backups;
use crate::admin::control::{
    Command, ControlHandle, Reply, Response, SessionAnswer, SessionQuestion,
};
use crate::admin::registered::{
    BanAnswer, BanRequest, DeviceAnswer, DeviceRequest, PAGE_MAX, front,
};
use crate::broker::{Broker, DeviceChange, Now};
use crate::mqtt::ClientId;
use crate::policy::{Question, Words};
use crate::registry::{BAN_S_MAX, Misnamed, Principal, WHY_BYTES_MAX};
use crate::router::Standing;
use crate::store::Commit;

/// What carries out the commands of the control socket.
pub(super) fn handle(reloader: &Arc<Reloader>) -> ControlHandle {
    let reloader = Arc::clone(reloader);
    let backups = Backups::new();
    ControlHandle::new(move |command| {
        let (reloader, backups) = (Arc::clone(&reloader), backups.clone());
        async move {
            Reply::Answer(match command {
                Command::Backup => return backups.begin(reloader.broker.store.clone()).await,
                Command::Status => Response::Done(reloader.status()),
                Command::Survey => Response::Done(json!(reloader.broker.survey(Now::read()))),
                Command::Revocations { .. } => match reloader.lists.look_everywhere().await {
                    Ok(certificates) => Response::Done(json!({ "certificates": certificates })),
                    Err(why) => Response::Failed(why),
                },
                Command::Reload => match reloader.reload_and_say().await {
                    Ok(told) => Response::Done(told),
                    Err(Failure(why)) => Response::Failed(why),
                },
                Command::Ban { request, uid } => bans(&reloader, request, uid).await.into(),
                Command::Device { request, uid } => devices(&reloader, request, uid).await.into(),
                Command::Explain(question) => match explain(&reloader.broker, question).await {
                    Ok(answer) => Response::Done(json!(answer)),
                    Err(Failure(why)) => Response::Failed(why),
                },
            })
        }
    })
}

impl From<Result<serde_json::Value, Failure>> for Response {
    fn from(told: Result<serde_json::Value, Failure>) -> Self {
        match told {
            Ok(told) => Self::Done(told),
            Err(Failure(why)) => Self::Failed(why),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err takes")]
fn failure<E: ToString>(error: E) -> Failure {
    Failure(error.to_string())
}

/// Waits until a change is on the disk.
async fn kept(broker: &Broker, commit: Option<Commit>) -> Result<(), Failure> {
    broker.committed(commit).await.map_err(|error| Failure(format!("it is not kept: {error}")))
}

async fn bans(
    reloader: &Reloader,
    request: BanRequest,
    uid: Option<u32>,
) -> Result<serde_json::Value, Failure> {
    let broker = &reloader.broker;
    match request {
        BanRequest::Add { target, for_s, why } => {
            if why.len() > WHY_BYTES_MAX {
                return Err(failure(Misnamed::Why));
            }
            let target = target.parse().map_err(failure)?;
            if for_s.is_some_and(|for_s| !(1..=BAN_S_MAX).contains(&for_s)) {
                let why =
                    "for_s is a second to 100 years; without it the ban is until it is removed";
                return Err(Failure(why.to_owned()));
            }
            let length = for_s.map(Duration::from_secs);
            let banned = broker.ban(target, length, why.into(), uid, Now::read());
            // Before the answer: who asks a method again finds the ban there.
            reloader.tls.forget_logins();
            let (ban, commit) = banned.map_err(failure)?;
            kept(broker, commit).await?;
            Ok(json!(BanAnswer::of(&ban)))
        }
        BanRequest::Remove { ban, target } => {
            let id = match (ban, target) {
                (Some(id), None) => id,
                (None, Some(target)) => {
                    let target = target.parse().map_err(failure)?;
                    let none = || Failure(format!("{target} is not banned"));
                    broker.registry.bans.of(&target).ok_or_else(none)?
                }
                _ => return Err(failure(Misnamed::Shape)),
            };
            let none = || Failure(format!("there is no ban {}; `ctl ban list` shows them", id.0));
            let (ban, commit) = broker.unban(id, uid).ok_or_else(none)?;
            kept(broker, commit).await?;
            Ok(json!(BanAnswer::of(&ban)))
        }
        BanRequest::List { after } => {
            let page = broker.registry.bans.page(after, PAGE_MAX);
            // One that has ended is gone within a second.
            let is_full = page.len() == PAGE_MAX;
            let (bans, is_cut) = front(page.iter().map(BanAnswer::of).collect());
            let last = bans.len().checked_sub(1).and_then(|last| page.get(last));
            let next = last.filter(|_| is_cut || is_full).map(|last| last.id);
            Ok(json!({ "bans": bans, "next": next }))
        }
    }
}

async fn devices(
    reloader: &Reloader,
    request: DeviceRequest,
    uid: Option<u32>,
) -> Result<serde_json::Value, Failure> {
    let broker = &reloader.broker;
    let (device, change) = match request {
        DeviceRequest::List { state, after } => {
            let after = after.as_deref().map(Principal::parse).transpose().map_err(failure)?;
            let page = broker.registry.devices.page(after.as_ref(), state, PAGE_MAX);
            let is_full = page.len() == PAGE_MAX;
            let (devices, is_cut) = front(page.iter().map(DeviceAnswer::of).collect());
            let last = devices.len().checked_sub(1).and_then(|last| page.get(last));
            let next = last.filter(|_| is_cut || is_full).map(|last| last.principal.to_string());
            return Ok(json!({ "devices": devices, "next": next }));
        }
        DeviceRequest::Approve { device, issuer } => (device, DeviceChange::Approve { issuer }),
        DeviceRequest::Activate { device } => (device, DeviceChange::Activate),
        DeviceRequest::Suspend { device } => (device, DeviceChange::Suspend),
        DeviceRequest::Revoke { device } => (device, DeviceChange::Revoke),
        DeviceRequest::Forget { device } => (device, DeviceChange::Forget),
    };
    let principal = Principal::parse_device(&device).map_err(failure)?;
    let changed = broker.change_device(&principal, &change, uid, Now::read());
    reloader.tls.forget_logins();
    let (device, commit) = changed.map_err(failure)?;
    kept(broker, commit).await?;
    Ok(json!(DeviceAnswer::of(&device)))
}

/// What the policies in force say to a question of a session: with the facts of its connection,
/// or of its last one.
async fn explain(broker: &Broker, asked: SessionQuestion) -> Result<SessionAnswer, Failure> {
    let SessionQuestion { client_id, action, resource, facts } = asked;
    let standing = ClientId::parse(&client_id).and_then(|client_id| broker.standing(&client_id));
    let Some((Standing { identity, facts: session, .. }, connected)) = standing else {
        return Err(Failure(format!(
            "there is no session of client {client_id:?}; `portcullis policy explain` answers for \
             a client that is not there"
        )));
    };
    let words = Words {
        action: &action,
        resource: &resource,
        facts: facts.iter().map(|(name, value)| (&**name, &**value)).collect(),
        ..Words::default()
    };
    let question = Question::of_session(identity, Arc::clone(&session), &words, SystemTime::now())
        .map_err(|error| Failure(format!("{error}; {}", error.remedy)))?;
    let policies = broker.policies();
    let explained = tokio::task::spawn_blocking(move || question.explain(&policies)).await?;
    Ok(SessionAnswer {
        client_id,
        connected,
        listener: session.listener.to_string(),
        source_ip: session.source_ip.to_canonical(),
        protocol_version: session.protocol.level(),
        tls_version: session.tls_version,
        explanation: explained?,
    })
}
