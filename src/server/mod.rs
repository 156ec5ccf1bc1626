//! The asynchronous shell: sockets, TLS, WebSocket, and one task per connection.

pub mod listener;
