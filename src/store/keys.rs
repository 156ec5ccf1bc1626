//! Where each thing lies.
//!
//! | keyspace | key | record |
//! |---|---|---|
//! | `state` | `m` name | facts of the store |
//! | `state` | `s` session | the session |
//! | `state` | `s` session `f` SHA-256 of the filter | a subscription |
//! | `state` | `s` session `h` packet identifier | a QoS 2 publication that waits for PUBREL |
//! | `state` | `s` session `p` | how far the queue is finished |
//! | `state` | `s` session `r` sequence number | a delivery that waits for PUBCOMP |
//! | `state` | `b` number | a ban |
//! | `state` | `d` type, SHA-256 of the name | a device and its state |
//! | `queue` | session, first sequence number | a page |
//! | `bodies` | number | a message that several pages refer to |
//! | `retained` | topic | a retained message |
//!
//! All that a session has in `state` lies together: it is read and removed in one go.

use fjall::UserKey;

use super::SessionNo;
use super::codec::Damage;
use crate::identity::PrincipalKind;
use crate::mqtt::SubscriptionFilter;
use crate::mqtt::packet::PacketId;
use crate::registry::{BanId, Principal};

/// The format of the whole store.
pub(super) const FORMAT: &[u8] = b"mformat";
/// Session numbers below this one may have been given.
pub(super) const SESSIONS: &[u8] = b"msessions";
/// The mark of the last batch.
pub(super) const MARK: &[u8] = b"mbatch";
/// What the keys of all sessions begin with.
pub(super) const SESSION_PREFIX: &[u8] = b"s";
/// What the keys of all bans begin with.
pub(super) const BAN_PREFIX: &[u8] = b"b";
/// What the keys of all devices begin with.
pub(super) const DEVICE_PREFIX: &[u8] = b"d";

const NUMBER_BYTES: usize = 8;

/// What a key of a session in `state` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Record,
    Subscription,
    Held(PacketId),
    Progress,
    Released(u64),
}

pub(super) fn session(number: SessionNo) -> UserKey {
    under(number, &[])
}

pub(super) fn subscription(number: SessionNo, filter: &SubscriptionFilter) -> UserKey {
    let text = filter.to_string();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut rest = vec![b'f'];
    rest.extend_from_slice(digest.as_ref());
    under(number, &rest)
}

pub(super) fn held(number: SessionNo, id: PacketId) -> UserKey {
    let [high, low] = id.as_u16().to_be_bytes();
    under(number, &[b'h', high, low])
}

pub(super) fn progress(number: SessionNo) -> UserKey {
    under(number, b"p")
}

pub(super) fn released(number: SessionNo, seq: u64) -> UserKey {
    let mut rest = [b'r'; 1 + NUMBER_BYTES];
    if let Some(place) = rest.last_chunk_mut() {
        *place = seq.to_be_bytes();
    }
    under(number, &rest)
}

fn under(number: SessionNo, rest: &[u8]) -> UserKey {
    let mut key = smallvec::SmallVec::<[u8; 48]>::from_slice(SESSION_PREFIX);
    key.extend_from_slice(&number.0.to_be_bytes());
    key.extend_from_slice(rest);
    UserKey::from(key.as_slice())
}

/// The session that a key in `state` belongs to, and what it is about.
pub(super) fn parse_state(key: &[u8]) -> Result<(SessionNo, Part), Damage> {
    const UNKNOWN: Damage = Damage("the key of the record is unknown");
    let rest = key.strip_prefix(SESSION_PREFIX).ok_or(UNKNOWN)?;
    let (number, rest) = rest.split_first_chunk::<NUMBER_BYTES>().ok_or(UNKNOWN)?;
    let part = match *rest {
        [] => Part::Record,
        [b'f', ..] => Part::Subscription,
        [b'h', high, low] => {
            Part::Held(PacketId::new(u16::from_be_bytes([high, low])).ok_or(UNKNOWN)?)
        }
        [b'p'] => Part::Progress,
        [b'r', ref seq @ ..] => {
            Part::Released(u64::from_be_bytes(seq.try_into().map_err(|_| UNKNOWN)?))
        }
        _ => return Err(UNKNOWN),
    };
    Ok((SessionNo(u64::from_be_bytes(*number)), part))
}

pub(super) fn ban(id: BanId) -> UserKey {
    let mut key = [b'b'; 1 + NUMBER_BYTES];
    if let Some(place) = key.last_chunk_mut() {
        *place = id.0.to_be_bytes();
    }
    UserKey::from(key.as_slice())
}

/// The number of a ban.
pub(super) fn parse_ban(key: &[u8]) -> Result<BanId, Damage> {
    let number = key.strip_prefix(BAN_PREFIX).and_then(|rest| rest.try_into().ok());
    let number = number.map(u64::from_be_bytes).ok_or(Damage("the key of the ban is none"))?;
    Ok(BanId(number))
}

pub(super) fn device(principal: &Principal) -> UserKey {
    let name = principal.name.as_bytes();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name);
    let mut key = smallvec::SmallVec::<[u8; 48]>::from_slice(DEVICE_PREFIX);
    key.push(match principal.kind {
        PrincipalKind::Device => b'd',
        PrincipalKind::User => b'u',
        PrincipalKind::Service => b's',
        PrincipalKind::Anonymous => b'a',
    });
    key.extend_from_slice(digest.as_ref());
    UserKey::from(key.as_slice())
}

pub(super) fn page(number: SessionNo, first: u64) -> [u8; 16] {
    let both = u128::from(number.0) << 64 | u128::from(first);
    both.to_be_bytes()
}

/// The session of a page, and the first sequence number in it.
pub(super) fn parse_page(key: &[u8]) -> Result<(SessionNo, u64), Damage> {
    let wrong = |_| Damage("the key of the page is none");
    let both = u128::from_be_bytes(key.try_into().map_err(wrong)?);
    let part = |half: u128| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    Ok((SessionNo(part(both >> 64)), part(both)))
}

pub(super) fn body(id: u64) -> [u8; 8] {
    id.to_be_bytes()
}

/// What a key is about, in words. `whose` knows the client identifiers of sessions.
pub(super) fn describe(
    keyspace: &str,
    key: &[u8],
    whose: impl Fn(SessionNo) -> Option<String>,
) -> String {
    let session = |number: SessionNo| match whose(number) {
        Some(client_id) => format!("session {} ({client_id:?})", number.0),
        None => format!("session {}", number.0),
    };
    match (keyspace, parse_state(key), parse_page(key)) {
        ("state", Ok((number, _)), _) => session(number),
        ("state", ..) if key.starts_with(DEVICE_PREFIX) => "a device".to_owned(),
        ("state", ..) if let Ok(id) = parse_ban(key) => format!("ban {}", id.0),
        ("queue", _, Ok((number, first))) => format!("{}, message {first}", session(number)),
        ("retained", ..) => format!("{:?}", String::from_utf8_lossy(key)),
        _ => format!("key {}", hex::encode(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_was_made_of() {
        let (number, id) = (SessionNo(u64::MAX - 1), PacketId::new(0x1234).unwrap());
        let filter = SubscriptionFilter::parse("$share/g/a/+").unwrap();
        for (key, part) in [
            (session(number), Part::Record),
            (subscription(number, &filter), Part::Subscription),
            (held(number, id), Part::Held(id)),
            (progress(number), Part::Progress),
            (released(number, u64::MAX), Part::Released(u64::MAX)),
        ] {
            assert_eq!(parse_state(&key), Ok((number, part)));
            assert!(key.starts_with(&session(number)));
        }
        assert_eq!(parse_page(&page(number, 7)), Ok((number, 7)));
        assert!(parse_page(&[0; 15]).is_err());
        assert!(parse_state(b"s1").is_err());
        assert!(parse_state(b"s12345678x").is_err());
    }

    #[test]
    fn pages_sort_by_session_and_then_by_number() {
        let keys = [page(SessionNo(1), 2), page(SessionNo(1), 256), page(SessionNo(256), 1)];
        assert!(keys.is_sorted());
    }
}
