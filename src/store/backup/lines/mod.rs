//! A store as lines of JSON: one object for each thing that it holds, payloads in base64.
//!
//! | `kind` | what |
//! |---|---|
//! | `store` | the first line: the format |
//! | `message` | a message that several sessions wait for; deliveries name its `id` |
//! | `next_session` | numbers below this one may have been given to sessions |
//! | `session` | a session, its principal and the facts of its last connection, with its will |
//! | `subscription` | a subscription of a session |
//! | `received` | a QoS 2 publication of the client that waits for PUBREL |
//! | `progress` | up to which `seq` the queue is `finished`, and the `highest` there was |
//! | `released` | a QoS 2 delivery that waits for PUBCOMP: its message is never sent again |
//! | `delivery` | a delivery in a session's queue, with its message or the `message_id` of one |
//! | `retained` | a retained message, and for which account it counts |
//! | `ban` | a ban: whom, since and until when, why, and who has said so |
//! | `device` | a device that is known, and its state |
//! | `end` | the last line: without it, not all has come |
//!
//! A message comes before the deliveries that name it, a session before all that is its own, and
//! its deliveries in the order of `seq`. Of `progress`, and of what a page holds, more may be there
//! than is sent again: what is not above `finished`, and what is `released`, is done with.

mod export;
mod import;
mod message;
mod registered;
mod session;
mod value;

pub use export::export;
pub use import::import;

use serde::{Deserialize, Serialize};

use message::{FilterText, MessageText};
use registered::{BanText, DeviceText};
use session::{AccountText, SessionText};
use value::Time;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Store {
        format: u64,
    },
    NextSession {
        session: u64,
    },
    Message {
        id: u64,
        message: MessageText,
    },
    Session(Box<SessionText>),
    Subscription {
        session: u64,
        subscription: FilterText,
    },
    Received {
        session: u64,
        packet_id: u16,
    },
    Progress {
        session: u64,
        finished: u64,
        highest: u64,
    },
    Released {
        session: u64,
        seq: u64,
    },
    Delivery(Box<DeliveryText>),
    Retained {
        account: AccountText,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Time>,
        message: MessageText,
    },
    Ban(Box<BanText>),
    Device(Box<DeviceText>),
    End,
}

/// A delivery in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveryText {
    session: u64,
    seq: u64,
    qos: u8,
    retain: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscription_ids: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<FilterText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<MessageText>,
}
