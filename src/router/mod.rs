//! Where messages go: the subscription tree, retained messages, share groups, mailboxes.

pub mod mailbox;
