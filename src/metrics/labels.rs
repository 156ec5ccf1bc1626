//! The closed sets of words that metrics are counted by, and that the audit log uses as well.
//!
//! Labels are enums, never text from a client: the number of time series is fixed at compile
//! time, and every series exists, at zero, from the start.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

macro_rules! labels {
    ($(
        $(#[$doc:meta])*
        $name:ident as $key:literal, counted by $counters:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:ident,)*
        }
    )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in metrics and in the audit log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($word),)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        #[doc = concat!("One counter for each [`", stringify!($name), "`].")]
        #[derive(Debug)]
        pub struct $counters {
            $($word: Counter,)*
        }

        impl $counters {
            pub(super) fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
                let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
                let counters = Self {
                    $($word: family.get_or_create_owned(&[($key, stringify!($word))]),)*
                };
                registry.register(name, help, family);
                counters
            }

            /// The counter of one label.
            #[must_use]
            pub const fn of(&self, label: $name) -> &Counter {
                match label {
                    $($name::$variant => &self.$word,)*
                }
            }
        }
    )* };
}

labels! {
    /// A gate, or another step before a session, that refused a connection.
    Gate as "gate", counted by ByGate {
        /// Address, count or connection rate.
        Admission = admission,
        /// The PROXY protocol header.
        Proxy = proxy,
        /// The TLS handshake, the client's certificate included.
        Tls = tls,
        /// The WebSocket upgrade.
        WebSocket = websocket,
        /// Identity and binding of the client identifier.
        Identity = identity,
        /// Passwords, tokens and the other methods of a listener.
        Authenticate = authenticate,
        /// The CONNECT packet: absent, late or malformed.
        Connect = connect,
        /// Packets and bytes per principal.
        Rate = rate,
        /// Sizes.
        Size = size,
        /// What the profile offers.
        Features = features,
        /// The session: another principal owns it, or there are too many.
        Session = session,
        /// The policies.
        Authorize = authorize,
    }

    /// What a policy was asked about.
    Verb as "verb", counted by ByVerb {
        /// To connect.
        Connect = connect,
        /// To publish a message.
        Publish = publish,
        /// To subscribe to a filter.
        Subscribe = subscribe,
        /// To receive a message.
        Receive = receive,
        /// To leave a will, or to have it published.
        Will = will,
    }

    /// Why a message did not reach a client that it was meant for.
    DropReason as "reason", counted by ByDropReason {
        /// What waits for the client is at its bound.
        QueueFull = queue_full,
        /// Larger than the client's Maximum Packet Size.
        TooLarge = too_large,
        /// Its expiry interval is over.
        Expired = expired,
        /// The client may not receive it.
        Denied = denied,
        /// The session has no connection, and the message is not worth waiting (at most once).
        Offline = offline,
        /// A quota of the broker is used up.
        Quota = quota,
    }

    /// How something ended.
    Outcome as "outcome", counted by ByOutcome {
        /// It was done.
        Done = done,
        /// It failed, and everything is as it was.
        Failed = failed,
    }
}
