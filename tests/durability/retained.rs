//! Retained messages.

use crate::harness::wire::{Publish, Version, property};
use crate::{ENDS, start};

#[test]
fn the_last_retained_message_of_a_topic_is_there_again() {
    for end in ENDS {
        let mut broker = start();
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        for number in 0..3 {
            writer.publish_surely(&Publish::new("state", &number.to_string()).retain());
        }
        writer.publish_surely(&Publish::new("cleared", "x").retain());
        writer.publish_surely(&Publish::new("cleared", "").retain());
        let typed = Publish::new("typed", "{}").properties(&property::content_type("json"));
        writer.publish_surely(&typed.retain());
        broker.restart(end);
        let mut reader = broker.simple(Version::Mqtt5, "reader");
        reader.subscribe("#", 1);
        let (state, typed) = (reader.receive(), reader.receive());
        assert_eq!((state.topic.as_str(), state.text(), state.retain), ("state", "2", true));
        assert_eq!(typed.properties, property::content_type("json"));
        reader.acknowledge(&state);
        reader.acknowledge(&typed);
        reader.ping();
    }
}
