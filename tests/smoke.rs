//! The shortest path through the whole broker.

#[path = "harness/mod.rs"]
mod harness;

use harness::Setup;
use harness::wire::Version;

#[test]
fn a_message_goes_from_one_client_to_another() {
    let broker = Setup::new().plaintext().start();
    for version in [Version::Mqtt31, Version::Mqtt311, Version::Mqtt5] {
        let mut reader = broker.simple(version, "reader");
        assert_eq!(reader.subscribe("greetings", 0), 0);
        broker.simple(version, "writer").publish("greetings", "hello");
        reader.receive_text("hello");
    }
}
