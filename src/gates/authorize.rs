//! The authorize gate: Cedar decides every connect, publish, subscribe and delivery.

/// How refusals are told where the protocol leaves a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A refused PUBLISH of MQTT 3, which has no reason code.
    pub denied_publish_v3: DeniedPublish,
    /// A refused SUBSCRIBE of MQTT 3.1, which has no failure code.
    pub denied_subscribe_v31: DeniedSubscribe,
    /// A subscription that a new policy no longer allows.
    pub withdrawn_subscription: WithdrawnSubscription,
}

/// The answer to a refused PUBLISH of MQTT 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// Close the connection.
    Disconnect,
    /// Drop the message and acknowledge it as if it had been taken.
    DropAndAcknowledge,
}

/// The answer to a refused SUBSCRIBE of MQTT 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedSubscribe {
    /// SUBACK with 0x80, as MQTT 3.1.1 has it.
    Failure,
    /// Close the connection.
    Disconnect,
}

/// What happens when a policy reload takes away the right to a live subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithdrawnSubscription {
    /// Close the connection, with 0x87 in MQTT 5.
    Disconnect,
    /// Remove the subscription and say nothing.
    RemoveSilently,
}
